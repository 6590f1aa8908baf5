//! Finds the pod and the container of a process by the names in its cgroup file.
//!
//! [`container`] parses the text and performs no I/O.

#[cfg(test)]
mod tests;

use crate::root::{PAGE, Root};
use crate::text::Text;
use rustix::io::read;

/// Size limit of a cgroup file in bytes. The kernel writes one line for each hierarchy, up to 13 with
/// version 1 controllers. Nested kubelets need about 330 bytes a line.
const MAX_TEXT: usize = 4 * PAGE;

/// The link of the initial cgroup namespace: `PROC_CGROUP_INIT_INO` in include/linux/proc_ns.h.
const HOST_NAMESPACE: &[u8] = b"cgroup:[4026531835]";

/// First names below the root of the host's hierarchy: systemd's (systemd.special(7)). The kubelet and
/// the runtimes create none of these.
const TOP: [&[u8]; 4] = [b"init.scope", b"system.slice", b"user.slice", b"machine.slice"];

/// The container that a cgroup path names, and its pod.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
#[non_exhaustive]
pub struct Container {
    /// The pod's uid as the Kubernetes API writes it (with hyphens), or the 32 hex digits of a
    /// static pod. None if the process is in no pod, or if its pod is unknown: see
    /// [`Container::in_pod`].
    pub pod_uid: Option<Text<36>>,
    /// The container's id as its runtime assigned it: 64 hex digits. None if the path names no
    /// container.
    pub container_id: Option<Text<64>>,
    /// Whether the process is in a pod.
    pub in_pod: InPod,
}

/// Whether a process is in a pod. Exhaustive: whatever shows neither is [`InPod::Unknown`].
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub enum InPod {
    /// The cgroup names the pod.
    Yes,
    /// The cgroup shows that the process is in no pod: it is a service, a VM of libvirt or a user's
    /// process.
    No,
    /// The process is in the sandbox of a container runtime, and the cgroup does not name the pod.
    /// Kata Containers move the VM of a pod to such a cgroup. Also for a cgroup file that cannot be
    /// read, and for a path that lacks its first names, because it was read in a cgroup namespace
    /// of a container. It never proves that a pod has ended.
    #[default]
    Unknown,
}

impl InPod {
    /// Returns `yes`, `no` or `unknown`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Yes => "yes",
            Self::No => "no",
            Self::Unknown => "unknown",
        }
    }
}

impl Container {
    const IN_NO_POD: Self = Self { pod_uid: None, container_id: None, in_pod: InPod::No };
    const UNKNOWN: Self = Self { pod_uid: None, container_id: None, in_pod: InPod::Unknown };

    /// Combines what two lines of a cgroup file show. With version 1 a process can be in a pod's
    /// cgroup for some controllers only. Lines that name different pods name none for certain.
    fn and(self, other: Self) -> Self {
        match (self.pod_uid, other.pod_uid) {
            (Some(pod), Some(another)) if pod != another => Self::UNKNOWN,
            (Some(_), None) => self,
            (None, Some(_)) => other,
            (Some(_), Some(_)) | (None, None) => Self {
                container_id: self.container_id.or(other.container_id),
                in_pod: if self.in_pod == InPod::No { other.in_pod } else { self.in_pod },
                ..self
            },
        }
    }
}

impl Root {
    /// Returns the container and the pod of a process. Unknown if its cgroup file cannot be read.
    pub(crate) fn container_of(&self, pid: u32) -> Container {
        let mut text = [0; MAX_TEXT];
        let mut length = 0;
        let Ok(file) = self.open_attribute(format_args!("proc/{pid}/cgroup")) else {
            return Container::UNKNOWN;
        };
        while let Some(room) = text.get_mut(length..).filter(|room| !room.is_empty()) {
            match read(&file, room) {
                Ok(0) => break,
                Ok(count) => length += count,
                Err(_) => return Container::UNKNOWN,
            }
        }
        parse(text.get(..length).unwrap_or_default(), self.has_private_cgroups())
    }

    /// Returns whether this process is in a cgroup namespace of its own, as in a container that is
    /// not privileged. Without the link, /proc does not show this process: then paths are taken as
    /// those of the host.
    fn has_private_cgroups(&self) -> bool {
        let mut text = [0; 64];
        self.link(format_args!("proc/self/ns/cgroup"), &mut text).is_ok_and(|link| link != HOST_NAMESPACE)
    }
}

/// Parses the text of /proc/PID/cgroup. Version 2 has one line, version 1 has one line for each
/// controller. A line without its end was cut off and counts as unknown.
///
/// The names come from the kubelet (pkg/kubelet/cm: `GetPodContainerName`, `NewCgroupName`,
/// `ToSystemd`), from the runtime and from Kata (`resCtrlKataOverheadID`):
///
/// | who | path |
/// | --- | --- |
/// | systemd driver | `.../kubepods-burstable-pod<uid with _>.slice/cri-containerd-<id>.scope` |
/// | cgroupfs driver | `/kubepods/burstable/pod<uid>/<id>` |
/// | systemd path, cgroupfs runtime | `.../kubepods-pod<uid with _>.slice:cri-containerd:<id>` |
/// | nested kubelet | `/docker/<id>/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-pod<uid with _>.slice/...` |
/// | Kata, VM outside of the pod's cgroup | `/kata_overhead/<id>` |
///
/// In the cgroup namespace of a container a path can begin with `/..`, and the names above the common
/// ancestor are missing: they may be those of a pod. So a path counts as one outside of all pods only
/// if it goes on with a name that stands at the top of the host's hierarchy, such as `system.slice`.
/// The text must not come from a process that is itself in such a namespace: its own container is `/`
/// there, and the text does not show that.
#[must_use]
pub fn container(text: &[u8]) -> Container {
    parse(text, false)
}

/// As [`container`]. `is_private` means that the text was read in a cgroup namespace of a container:
/// then paths without `/..` are in this container.
fn parse(text: &[u8], is_private: bool) -> Container {
    let mut found: Option<Container> = None;
    let mut add = |line: Container| found = Some(found.map_or(line, |found| found.and(line)));
    for line in text.split_inclusive(|&byte| byte == b'\n') {
        let line = line.strip_suffix(b"\n");
        add(line.map_or(Container::UNKNOWN, |line| container_of_line(line, is_private)));
    }
    found.unwrap_or(Container::UNKNOWN)
}

/// Parses a line: `hierarchy:controllers:path`.
fn container_of_line(line: &[u8], is_private: bool) -> Container {
    let Some(path) = line.splitn(3, |&byte| byte == b':').nth(2) else { return Container::UNKNOWN };
    // The kernel marks a removed cgroup (`proc_cgroup_show`).
    let path = path.strip_suffix(b" (deleted)").unwrap_or(path);
    let lacks_names = is_private || path.starts_with(b"/..");
    let mut container =
        if lacks_names && !is_at_the_top(path) { Container::UNKNOWN } else { Container::IN_NO_POD };
    for name in path.split(|&byte| matches!(byte, b'/' | b':')).filter(|name| !name.is_empty()) {
        if belongs_to_a_user(name) {
            // The user creates the cgroups below and chooses their names.
            return container;
        }
        if let (None, Some(uid)) = (container.pod_uid, pod_uid(name)) {
            // The kubelet's own name is the first. A container can name the cgroups inside of it
            // like another pod. A container seen before belongs to an outer node (nested kubelets).
            container = Container { pod_uid: Some(uid), container_id: None, in_pod: InPod::Yes };
        } else if container.container_id.is_none() {
            container.container_id = container_id(name);
            let is_sandbox = container.container_id.is_some() || is_of_a_runtime(name);
            if is_sandbox && container.in_pod == InPod::No {
                container.in_pod = InPod::Unknown;
            }
        }
    }
    container
}

/// Returns whether a path begins with `/..` and goes on with a name at the top of the host's
/// hierarchy.
fn is_at_the_top(path: &[u8]) -> bool {
    let mut names = path.split(|&byte| byte == b'/').skip(1);
    let is_relative = names.clone().next() == Some(b"..");
    is_relative
        && names
            .find(|name| *name != b"..")
            .is_some_and(|name| TOP.contains(&name) || belongs_to_a_user(name))
}

/// Returns whether a user can create the cgroups below: `user.slice`, or `user-1000.slice` and
/// `user@1000.service` in a path that begins below it.
fn belongs_to_a_user(name: &[u8]) -> bool {
    name == b"user.slice"
        || [(&b"user-"[..], &b".slice"[..]), (b"user@", b".service")].iter().any(|(prefix, suffix)| {
            let uid = name.strip_prefix(*prefix).and_then(|rest| rest.strip_suffix(*suffix));
            uid.is_some_and(|uid| uid.iter().all(u8::is_ascii_digit))
        })
}

/// Returns whether only pods and their helpers are in the cgroup: the kubelet's own (`kubepods`),
/// Kata's, and the service of a runtime, in which a VM stays that was not moved. Talos runs the
/// kubelet and containerd in `podruntime`, OpenRC a service `x` in `openrc.x`.
fn is_of_a_runtime(name: &[u8]) -> bool {
    const RUNTIMES: [&[u8]; 9] =
        [b"containerd", b"crio", b"cri-o", b"docker", b"k3s", b"rke2", b"k0s", b"kubelet", b"microk8s"];
    let service = name.strip_suffix(b".service").or_else(|| name.strip_prefix(b"openrc."));
    let names = |service: &[u8], runtime: &[u8]| service.windows(runtime.len()).any(|part| part == runtime);
    let slice = name.strip_suffix(b".slice");
    let is_kubepods = |level: &[u8]| level == b"kubepods";
    name == b"kubepods"
        || slice.is_some_and(|slice| slice.split(|&byte| byte == b'-').any(is_kubepods))
        || name.starts_with(b"kata_")
        || name.starts_with(b"kata-overhead")
        || name == b"podruntime"
        || slice == Some(b"podruntime")
        || service.is_some_and(|service| RUNTIMES.iter().any(|runtime| names(service, runtime)))
}

/// Returns the uid at the end of a pod's cgroup name: `pod<uid>`, `kubepods-burstable-pod<uid>.slice`.
fn pod_uid(name: &[u8]) -> Option<Text<36>> {
    let name = name.strip_suffix(b".slice").unwrap_or(name);
    let uid_of = |length: usize| {
        let (before, uid) = name.split_at_checked(name.len().checked_sub(length)?)?;
        let before = before.strip_suffix(b"pod")?;
        (before.is_empty() || before.ends_with(b"-")).then_some(uid)
    };
    if let Some(uid) = uid_of(32).filter(|uid| uid.iter().all(u8::is_ascii_hexdigit)) {
        return Text::new(uid);
    }
    let mut text = [0; 36];
    for (index, (slot, &byte)) in text.iter_mut().zip(uid_of(36)?).enumerate() {
        // In a slice's name systemd reads `-` as a level of the hierarchy, so the kubelet writes
        // `_`.
        *slot = match (index, byte) {
            (8 | 13 | 18 | 23, b'-' | b'_') => b'-',
            (8 | 13 | 18 | 23, _) => return None,
            _ if byte.is_ascii_hexdigit() => byte,
            _ => return None,
        };
    }
    Text::new(&text)
}

/// Returns the 64 hex digits of a container's cgroup name: `<id>`, `crio-conmon-<id>.scope`,
/// `kata_<id>`.
fn container_id(name: &[u8]) -> Option<Text<64>> {
    let name = name.strip_suffix(b".scope").unwrap_or(name);
    let (before, id) = name.split_at_checked(name.len().checked_sub(64)?)?;
    let stands_alone = before.last().is_none_or(|&byte| matches!(byte, b'-' | b'_'));
    if stands_alone && id.iter().all(u8::is_ascii_hexdigit) { Text::new(id) } else { None }
}
