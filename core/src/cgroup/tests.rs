//! Tests of the parser, with the layouts of kubelets, runtimes and other programs.

use super::*;
use proptest::prelude::*;

const UID: &str = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab";
const SLICE: &str = "4b5a1c7e_5b0a_4a57_9d3a_0123456789ab";
const OTHER_UID: &str = "99999999-5b0a-4a57-9d3a-0123456789ab";
const STATIC: &str = "0123456789abcdef0123456789abcdef";
const ID: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";
const OTHER_ID: &str = "ffeeddccbbaa99887766554433221100ffeeddccbbaa99887766554433221100";

/// Returns pod, container and whether the process is in a pod; `-` for none.
fn read(text: &str) -> (String, String, &'static str) {
    let found = container(text.as_bytes());
    let show = |text: Option<&str>| text.unwrap_or("-").to_owned();
    let (pod, container) = (found.pod_uid.as_ref(), found.container_id.as_ref());
    (show(pod.map(Text::as_str)), show(container.map(Text::as_str)), found.in_pod.as_str())
}

/// Expects a pod and a container from each text; each text is one line without its end.
fn expect(expected: (&str, &str, &str), lines: &[String]) {
    for line in lines {
        let found = read(&format!("{line}\n"));
        assert_eq!((&*found.0, &*found.1, found.2), expected, "{line}");
    }
}

#[test]
fn kubelet_paths_name_pod_and_container() {
    let burstable =
        format!("0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{SLICE}.slice");
    let nested = format!(
        "kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-burstable.slice/kubelet-kubepods-burstable-pod{SLICE}.slice"
    );
    expect(
        (UID, ID, "yes"),
        &[
            format!("{burstable}/cri-containerd-{ID}.scope"),
            format!("{burstable}/crio-{ID}.scope/container"),
            format!("{burstable}/crio-conmon-{ID}.scope"),
            format!("{burstable}/docker-{ID}.scope"),
            format!("{burstable}/libpod-{ID}.scope"),
            format!("{burstable}/kata_{ID}"),
            format!("{burstable}/{ID}.scope"),
            format!("{burstable}/{ID}"),
            format!("{burstable}:cri-containerd:{ID}"),
            format!("0::/kubepods-pod{SLICE}.slice:cri-containerd:{ID}"),
            format!("0::/system.slice/containerd.service/kubepods-pod{SLICE}.slice:cri-containerd:{ID}"),
            format!("0::/kubepods.slice/kubepods-pod{SLICE}.slice/cri-containerd-{ID}.scope (deleted)"),
            format!("0::/kubepods/besteffort/pod{UID}/{ID}"),
            format!("0::/kubepods/pod{SLICE}/crio-{ID}"),
            format!("12:memory:/kubepods/pod{UID}/kata_{ID}"),
            format!("3:cpu,cpuacct:/kubepods/burstable/pod{UID}/{ID}"),
            format!("1:name=systemd:/kubepods/pod{UID}/{ID}"),
            format!("0::/{nested}/cri-containerd-{ID}.scope"),
            format!("0::/docker/{OTHER_ID}/{nested}/cri-containerd-{ID}.scope"),
            format!("0::/system.slice/docker-{OTHER_ID}.scope/{nested}/cri-containerd-{ID}.scope"),
            format!("0::/docker/{OTHER_ID}/kubelet/kubepods/burstable/pod{UID}/{ID}"),
            format!(
                "0::/my.slice/my-root.slice/my-root-kubepods.slice/my-root-kubepods-pod{SLICE}.slice/crio-{ID}.scope"
            ),
            format!("0::/my/root/pod{UID}/{ID}"),
            format!(
                "0::/machine.slice/machine-node.scope/payload/kubepods.slice/kubepods-pod{SLICE}.slice/crio-{ID}.scope"
            ),
            format!("0::/../../kubepods-pod{SLICE}.slice/cri-containerd-{ID}.scope"),
            format!("0::/../pod{UID}/{ID}"),
        ],
    );
    expect(
        (STATIC, ID, "yes"),
        &[
            format!("0::/kubepods/burstable/pod{STATIC}/{ID}"),
            format!("0::/kubepods.slice/kubepods-pod{STATIC}.slice/crio-{ID}.scope"),
        ],
    );
}

#[test]
fn case_of_hex_digits_is_kept() {
    let (uid, id) = (UID.to_uppercase(), ID.to_uppercase());
    expect(
        (&uid, &id, "yes"),
        &[
            format!("0::/kubepods/pod{uid}/{id}"),
            format!("0::/kubepods-pod{}.slice/crio-{id}.scope", uid.replace('-', "_")),
        ],
    );
}

#[test]
fn pod_without_a_known_container_is_still_the_pod() {
    expect(
        (UID, "-", "yes"),
        &[
            format!("0::/kubepods/pod{UID}"),
            format!("0::/kubepods/pod{UID}/vcpu0"),
            format!("0::/kubepods/pod{UID}/runtime{ID}"),
            format!("0::/kubepods/pod{UID}/{ID}0"),
            format!("0::/kubepods/pod{UID}/{}", &ID[1..]),
        ],
    );
    expect(
        (UID, ID, "yes"),
        &[
            format!("0::/kubepods/pod{UID}/runtime-of-tomorrow-{ID}.scope"),
            format!("0::/user-pods.slice/kubepods/pod{UID}/{ID}"),
            format!("0::/kubepods/pod{UID}/sandbox/{ID}"),
        ],
    );
}

#[test]
fn names_inside_a_container_do_not_change_its_pod() {
    expect(
        (UID, ID, "yes"),
        &[
            format!("0::/kubepods/pod{UID}/{ID}/kubepods/pod{OTHER_UID}/{OTHER_ID}"),
            format!("0::/kubepods/pod{UID}/{ID}/docker/{OTHER_ID}"),
            format!("0::/kubepods/pod{UID}/{ID}/user.slice/kubepods/pod{OTHER_UID}/{OTHER_ID}"),
        ],
    );
    expect((UID, "-", "yes"), &[format!("0::/kubepods/pod{UID}/pod{OTHER_UID}")]);
}

#[test]
fn sandbox_without_a_pod_is_unknown() {
    expect(
        ("-", ID, "unknown"),
        &[
            format!("0::/kata_overhead/{ID}"),
            format!("5:cpuset:/kata_overhead/{ID}"),
            format!("0::/kata_{ID}"),
            format!("0::/vc/kata_{ID}"),
            format!("0::/system.slice/kata-overhead-{ID}.scope"),
            format!("0::/system.slice:kata_overhead:{ID}"),
            format!("0::/system.slice:docker:{ID}"),
            format!("0::/system.slice/docker-{ID}.scope"),
            format!("0::/system.slice/cri-containerd-{ID}.scope"),
            format!("0::/docker/{ID}"),
            format!("0::/k8s.io/{ID}"),
            format!("0::/machine.slice/libpod-{ID}.scope/container"),
            format!("0::/machine.slice/machine-libpod_pod_{OTHER_ID}.slice/libpod-{ID}.scope"),
            // A container of the reader's own pod, in the reader's cgroup namespace.
            format!("0::/../cri-containerd-{ID}.scope"),
            format!("0::/../{ID}"),
        ],
    );
    expect(
        ("-", "-", "unknown"),
        &[
            "0::/kata_overhead/sandbox-1".into(),
            "0::/kubepods.slice/kubepods-burstable.slice".into(),
            "0::/kubepods/burstable".into(),
            "0::/kubepods.slice/kubepods-podmy_own_uid.slice/x".into(),
            format!("0::/kubepods/pod{}", &UID[1..]),
            format!("0::/kubepods/pod{}", UID.replace('-', "x")),
            "0::/system.slice/containerd.service".into(),
            "0::/system.slice/crio.service".into(),
            "0::/system.slice/cri-docker.service".into(),
            "0::/system.slice/docker.service".into(),
            "0::/system.slice/kubelet.service".into(),
            "0::/system.slice/rke2-agent.service".into(),
            "0::/system.slice/k0sworker.service".into(),
            "0::/system.slice/snap.microk8s.daemon-kubelite.service".into(),
            "0::/system.slice/snap.k8s.containerd.service".into(),
            "0::/runtime.slice/containerd.service".into(),
            "0::/podruntime.slice/runtime".into(),
            "0::/podruntime/runtime".into(),
            "1:name=systemd:/openrc.k3s".into(),
            "0::/..".into(),
            "0::/../..".into(),
            // The names that are missing may be those of a pod.
            "0::/../vcpu0".into(),
            "0::/../../qemu.scope/emulator".into(),
            "4:memory:/..".into(),
            "1:name=systemd:/../sandbox".into(),
        ],
    );
}

#[test]
fn services_and_other_vms_are_in_no_pod() {
    expect(
        ("-", "-", "no"),
        &[
            "0::/".into(),
            "0::/init.scope".into(),
            "0::/system.slice/kubepods.service".into(),
            "0::/system.slice/libvirtd.service".into(),
            "0::/../../../system.slice/sshd.service".into(),
            "0::/../../../init.scope".into(),
            r"0::/../../machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator".into(),
            "4:memory:/".into(),
            "1:name=systemd:/init.scope".into(),
            r"0::/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator".into(),
            format!(r"0::/machine.slice/machine-qemu\x2d1\x2dpod{UID}.scope/libvirt/vcpu0"),
            format!(r"0::/machine.slice/machine-qemu\x2d1\x2d{ID}.scope/libvirt"),
            format!("0::/machine/qemu-1-{ID}.libvirt-qemu/emulator"),
            "0::/pods/podx".into(),
            format!("0::/tripod{UID}"),
            format!("0::/pod{UID}x"),
            format!("0::/{ID}{ID}"),
        ],
    );
}

#[test]
fn paths_below_a_users_slice_never_count() {
    expect(
        ("-", "-", "no"),
        &[
            "0::/user.slice/podman-1.scope".into(),
            format!("0::/user.slice/user-1000.slice/user@1000.service/kubepods/pod{UID}/{ID}"),
            format!("0::/user.slice/kubepods.slice/kubepods-pod{SLICE}.slice/cri-containerd-{ID}.scope"),
            format!("0::/user.slice/kata_overhead/{ID}"),
            format!(
                "0::/user.slice/user-1000.slice/user@1000.service/user.slice/libpod-{ID}.scope/container"
            ),
            format!("0::/user.slice:docker:{ID}"),
            format!("0::/../user.slice/pod{UID}/{ID}"),
            format!("0::/../../user-1000.slice/user@1000.service/pod{UID}/{ID}"),
            format!("0::/../user@1000.service/app.slice/pod{UID}/{ID}"),
        ],
    );
}

#[test]
fn lines_of_version_1_complete_each_other() {
    let mixed = |lines: &[&str]| read(&lines.iter().flat_map(|line| [line, "\n"]).collect::<String>());
    let in_pod = (UID.to_owned(), ID.to_owned(), "yes");
    let pod = &*format!("12:memory:/kubepods/pod{UID}/kata_{ID}");
    let (service, user) =
        ("1:name=systemd:/system.slice/containerd.service", "1:name=systemd:/user.slice/session-1.scope");
    let overhead = &*format!("4:cpuset:/kata_overhead/{OTHER_ID}");
    let delegated = &*format!("9:pids:/user.slice/kubepods/pod{OTHER_UID}/{OTHER_ID}");
    let bare = &*format!("4:cpuset:/kubepods/pod{UID}");
    for lines in [[pod, service], [pod, user], [pod, overhead], [pod, "0::/"], [pod, delegated], [pod, bare]]
    {
        assert_eq!(mixed(&lines), in_pod, "{lines:?}");
        assert_eq!(mixed(&[lines[1], lines[0]]), in_pod, "{lines:?}, the other way round");
    }
    assert_eq!(mixed(&["0::/", overhead]), ("-".into(), OTHER_ID.into(), "unknown"));
    assert_eq!(mixed(&[user, delegated, "0::/"]), ("-".into(), "-".into(), "no"));
    // Contradictory: no pod is certain.
    let other = &*format!("4:cpuset:/kubepods/pod{OTHER_UID}/{OTHER_ID}");
    assert_eq!(mixed(&[pod, other]), ("-".into(), "-".into(), "unknown"));
}

#[test]
fn text_that_is_cut_off_or_damaged_is_unknown() {
    let unknown = ("-".to_owned(), "-".to_owned(), "unknown");
    for text in ["", "0::/user.sl", "0::/", "garbage\n", "\n", "0:\n"] {
        assert_eq!(read(text), unknown, "{text:?}");
    }
    assert_eq!(read(&format!("0::/kubepods/pod{UID}/{ID}")), unknown, "without its end");
    let (pod, cut) =
        (format!("12:memory:/kubepods/pod{UID}/{ID}\n"), format!("11:cpu:/kubepods/pod{}", &UID[..9]));
    assert_eq!(read(&(pod + &cut)), (UID.into(), ID.into(), "yes"), "the whole line counts");
}

#[test]
fn private_namespace_hides_the_pod_of_its_own_container() {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(directory.path()).unwrap();
    let (process, own) = (directory.path().join("proc/7"), directory.path().join("proc/self/ns"));
    std::fs::create_dir_all(&process).unwrap();
    std::fs::create_dir_all(&own).unwrap();
    let pod = format!("0::/../../kubepods-pod{SLICE}.slice/cri-containerd-{ID}.scope\n");
    let lines = [
        ("0::/\n", InPod::Unknown, InPod::No),
        ("0::/init.scope\n", InPod::Unknown, InPod::No),
        ("0::/system.slice/nested.service\n", InPod::Unknown, InPod::No),
        ("12:memory:/\n1:name=systemd:/\n", InPod::Unknown, InPod::No),
        ("0::/../..\n", InPod::Unknown, InPod::Unknown),
        ("0::/../../../system.slice/sshd.service\n", InPod::No, InPod::No),
        ("0::/../../../user.slice/session-1.scope\n", InPod::No, InPod::No),
        (&*pod, InPod::Yes, InPod::Yes),
    ];
    for (link, is_private) in
        [(None, false), (Some("cgroup:[4026531835]"), false), (Some("cgroup:[4026532999]"), true)]
    {
        let _ = std::fs::remove_file(own.join("cgroup"));
        if let Some(link) = link {
            std::os::unix::fs::symlink(link, own.join("cgroup")).unwrap();
        }
        for (text, private, host) in lines {
            std::fs::write(process.join("cgroup"), text).unwrap();
            let expected = if is_private { private } else { host };
            assert_eq!(root.container_of(7).in_pod, expected, "{link:?}: {text}");
        }
    }
}

#[test]
fn file_longer_than_a_page_is_read() {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(directory.path()).unwrap();
    let process = directory.path().join("proc/7");
    std::fs::create_dir_all(&process).unwrap();
    assert_eq!(root.container_of(7).in_pod, InPod::Unknown, "no file");
    let long = |line: &str, size: usize| format!("{line}/{}\n", "x".repeat(size));
    let pod = format!("0::/kubepods/pod{UID}/{ID}\n");
    for (text, expected) in [
        (long("9:pids:/a", PAGE) + &pod, InPod::Yes),
        (pod.clone() + &long("9:pids:/a", MAX_TEXT), InPod::Yes),
        // The line of the pod is cut off.
        (long("9:pids:/a", MAX_TEXT) + &pod, InPod::Unknown),
        (long("9:pids:/a", PAGE), InPod::No),
    ] {
        std::fs::write(process.join("cgroup"), text).unwrap();
        assert_eq!(root.container_of(7).in_pod, expected);
    }
}

proptest! {
    #[test]
    fn arbitrary_text_never_panics(bytes: Vec<u8>) {
        let _ = container(&bytes);
    }

    #[test]
    fn arbitrary_names_in_users_slices_never_count(names in "[-_:./a-z0-9]{0,80}") {
        for path in [format!("0::/user.slice/{names}\n"), format!("0::/user.slice/{names}/pod{UID}/{ID}\n")] {
            prop_assert_eq!(container(path.as_bytes()), Container::IN_NO_POD);
        }
    }
}
