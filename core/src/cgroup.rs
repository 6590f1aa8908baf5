//! Finds the pod and the container of a process in the text of its cgroup file. Performs no I/O.

use crate::text::Text;

/// The container that a cgroup path names, and its pod.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Container {
    /// The pod's uid as the Kubernetes API writes it (with hyphens), or the 32 hex digits of a
    /// static pod. None if the process is in no pod.
    pub pod_uid: Option<Text<36>>,
    /// The container's id as its runtime assigned it: 64 hex digits. None if the path names no
    /// container.
    pub container_id: Option<Text<64>>,
}

/// Parses the text of /proc/PID/cgroup. Version 2 has one line, version 1 has one line for each
/// controller.
///
/// The kubelet chooses the names (pkg/kubelet/cm, `GetPodContainerName`). With the systemd driver
/// they are `.../kubepods-burstable-pod<uid with _>.slice/cri-containerd-<id>.scope`, with cgroupfs
/// `/kubepods/burstable/pod<uid>/<id>`.
#[must_use]
pub fn container(text: &[u8]) -> Container {
    let mut container = Container::default();
    for component in text.split(|&byte| matches!(byte, b'\n' | b'/' | b':')) {
        if let Some(uid) = pod_uid(component) {
            // The container of this pod is the component that follows. A container seen before
            // belongs to an outer pod (nested kubelets).
            container = Container { pod_uid: Some(uid), container_id: None };
        } else if container.pod_uid.is_some() && container.container_id.is_none() {
            container.container_id = container_id(component);
        }
        if container.container_id.is_some() {
            break;
        }
    }
    container
}

fn pod_uid(component: &[u8]) -> Option<Text<36>> {
    let name = component.strip_suffix(b".slice").unwrap_or(component);
    let uid = match name.strip_prefix(b"pod") {
        Some(uid) => uid,
        None if name.starts_with(b"kubepods") => {
            let at = name.windows(4).rposition(|part| part == b"-pod")?;
            name.get(at + 4..)?
        }
        None => return None,
    };
    let mut text = [0; 36];
    let text = text.get_mut(..uid.len())?;
    for (slot, &byte) in text.iter_mut().zip(uid) {
        // In a slice's name systemd reads `-` as a level of the hierarchy, so the kubelet writes
        // `_`.
        *slot = if byte == b'_' { b'-' } else { byte };
    }
    let plausible =
        matches!(text.len(), 32 | 36) && text.iter().all(|byte| byte.is_ascii_hexdigit() || *byte == b'-');
    if plausible { Text::new(text) } else { None }
}

fn container_id(component: &[u8]) -> Option<Text<64>> {
    let name = component.strip_suffix(b".scope").unwrap_or(component);
    let id = name.rsplit(|&byte| byte == b'-').next()?;
    if id.len() == 64 && id.iter().all(u8::is_ascii_hexdigit) { Text::new(id) } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const UID: &str = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab";
    const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

    fn read(text: &str) -> (String, String) {
        let container = container(text.as_bytes());
        let show = |text: Option<&str>| text.unwrap_or("-").to_owned();
        (
            show(container.pod_uid.as_ref().map(Text::as_str)),
            show(container.container_id.as_ref().map(Text::as_str)),
        )
    }

    #[test]
    fn kubelet_paths_name_pod_and_container() {
        let slice = UID.replace('-', "_");
        for text in [
            format!(
                "0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{slice}.slice/cri-containerd-{ID}.scope\n"
            ),
            format!("0::/kubepods.slice/kubepods-pod{slice}.slice/crio-{ID}.scope/container\n"),
            format!("0::/kubepods/besteffort/pod{UID}/{ID}\n"),
            format!("12:devices:/kubepods/pod{UID}/{ID}\n11:cpu:/kubepods/pod{UID}/{ID}\n"),
            format!("0::/../../kubepods-pod{slice}.slice/cri-containerd-{ID}.scope\n"),
        ] {
            assert_eq!(read(&text), (UID.into(), ID.into()), "{text}");
        }
    }

    #[test]
    fn other_paths_name_no_pod() {
        for text in [
            "",
            "0::/\n",
            "0::/user.slice/podman-1.scope\n",
            "0::/system.slice/kubepods.service\n",
            "0::/pods/podx",
        ] {
            assert_eq!(read(text), ("-".into(), "-".into()), "{text}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_text_never_panics(bytes: Vec<u8>) {
            let _ = container(&bytes);
        }
    }
}
