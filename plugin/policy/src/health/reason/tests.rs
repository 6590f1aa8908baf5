//! Tests of the reasons' codes, texts and JSON.

use super::*;

/// Every kind of reason, with its code and its text.
pub(in crate::health) fn every_reason() -> Vec<(Reason, &'static str, &'static str)> {
    let qemu = HolderName { pid: 4711, command: Text::lossy(b"qemu-system-x86"), pod_uid: None };
    let uid = Text::lossy(b"7b1f2d7c-1111-2222-3333-444455556666");
    let in_pod = HolderName { pid: 4712, command: Text::lossy(b"AER"), pod_uid: Some(uid) };
    let offender =
        |device: &[u8], driver: &[u8]| Offender { device: Text::lossy(device), driver: Text::lossy(driver) };
    let peer = "0000:23:00.0".parse().unwrap();
    let vm = || "pod default/vm-1".to_owned();
    let node = |group: u32| format!("/dev/vfio/{group}");
    let pod = vm();
    let path = "/dev/vfio/51".to_owned();
    let group = GroupId(51);
    let offenders = vec![offender(b"0000:05:00.1", b"e1000"), offender(b"0000:05:00.2", b"xhci_hcd")];
    let mdev_text = "no IOMMU group: a kernel without CONFIG_VFIO_GROUP has none for mediated devices";
    vec![
        (Reason::Lost, "lost", "does not answer: its configuration space reads all ones"),
        (Reason::Gone, "gone", "the device is gone"),
        (Reason::NoLongerBound, "no_longer_bound", "no longer bound to a VFIO driver"),
        (Reason::NoGroup { kind: Kind::Pci }, "no_group", "no IOMMU group: is the IOMMU off?"),
        (Reason::NoGroup { kind: Kind::VendorVf }, "no_group", "no IOMMU group: is the IOMMU off?"),
        (Reason::NoGroup { kind: Kind::Mdev }, "no_group", mdev_text),
        (
            Reason::Unbinding { holders: Vec::new() },
            "unbinding",
            "unbinding, held by a process that could not be found",
        ),
        (
            Reason::Held { holders: vec![qemu, in_pod] },
            "held",
            "held by pid 4711 (qemu-system-x86); pid 4712 (AER), pod 7b1f2d7c-1111-2222-3333-444455556666",
        ),
        (
            Reason::GroupPeer { group, peer, pod },
            "group_peer",
            "group 51 belongs to 0000:23:00.0 (pod default/vm-1)",
        ),
        (
            Reason::NotViable { group, offenders },
            "not_viable",
            "group 51 is not viable: 0000:05:00.1 is bound to e1000, 0000:05:00.2 is bound to xhci_hcd",
        ),
        (Reason::NoDeviceNode { path }, "no_device_node", "no device node /dev/vfio/51"),
        (Reason::FatalErrors { count: 1 }, "fatal_errors", "1 new fatal PCIe error (AER)"),
        (Reason::FatalErrors { count: 2 }, "fatal_errors", "2 new fatal PCIe errors (AER)"),
        (
            Reason::StaleAnswer { pod: vm(), stored: node(52), now: Some(node(51)) },
            "stale_answer",
            "stale answer: the kubelet starts pod default/vm-1 with /dev/vfio/52, and this device is /dev/vfio/51 now; \
             delete that pod",
        ),
        (
            Reason::StaleAnswerOfAnotherPod {
                pod: vm(),
                device: peer,
                stored: node(52),
                now: Some(node(51)),
            },
            "stale_answer_of_another_pod",
            "stale answer of another pod: the kubelet starts pod default/vm-1 with /dev/vfio/52, and 0000:23:00.0 is \
             /dev/vfio/51 now; delete that pod",
        ),
        (
            Reason::StaleAnswerOfAnotherPod { pod: vm(), device: peer, stored: node(52), now: None },
            "stale_answer_of_another_pod",
            "stale answer of another pod: the kubelet starts pod default/vm-1 with /dev/vfio/52, and 0000:23:00.0 has no \
             such node now; delete that pod",
        ),
        (
            Reason::Framebuffer { user: Text::lossy(b"BOOTFB") },
            "framebuffer",
            "its memory is used by the host: BOOTFB",
        ),
    ]
}

#[test]
fn every_reason_has_its_code_and_text() {
    for (reason, code, text) in every_reason() {
        assert_eq!((reason.code(), reason.to_string().as_str()), (code, text));
    }
}

#[test]
fn every_reason_has_a_section_in_the_runbooks() {
    let page = include_str!("../../../../../docs/runbooks.md");
    for (_, code, _) in every_reason() {
        assert!(page.contains(&format!("\n### {code}\n")), "docs/runbooks.md has no section {code}");
    }
}

#[test]
fn every_reason_survives_json_under_its_code() {
    for (reason, code, _) in every_reason() {
        let json = serde_json::to_value(&reason).unwrap();
        assert_eq!(json["code"], code);
        assert_eq!(serde_json::from_value::<Reason>(json).unwrap(), reason);
    }
}

#[test]
fn name_of_the_pod_of_a_stale_answer_is_no_news() {
    let own = |pod: &str, stored: &str| Reason::StaleAnswer {
        pod: pod.to_owned(),
        stored: stored.to_owned(),
        now: None,
    };
    let other = |pod: &str, stored: &str| Reason::StaleAnswerOfAnotherPod {
        pod: pod.to_owned(),
        device: "0000:23:00.0".parse().unwrap(),
        stored: stored.to_owned(),
        now: None,
    };
    assert!(own("pod u1", "/dev/vfio/52").is_same_news(&own("pod a/vm", "/dev/vfio/52")));
    assert!(other("pod u1", "/dev/vfio/52").is_same_news(&other("pod a/vm", "/dev/vfio/52")));
    assert!(!own("pod a/vm", "/dev/vfio/52").is_same_news(&own("pod a/vm", "/dev/vfio/53")));
    assert!(!own("pod a/vm", "/dev/vfio/52").is_same_news(&other("pod a/vm", "/dev/vfio/52")));
    assert!(Reason::Lost.is_same_news(&Reason::Lost) && !Reason::Lost.is_same_news(&Reason::Gone));
}

#[test]
fn every_code_is_in_the_list_of_codes() {
    let codes: Vec<_> = every_reason().into_iter().map(|(_, code, _)| code).collect();
    assert!(Reason::CODES.iter().all(|code| codes.contains(code)), "{codes:?}");
    assert!(codes.iter().all(|code| Reason::CODES.contains(code)), "{codes:?}");
}

#[test]
fn only_hardware_that_no_vm_can_use_is_an_error() {
    for (reason, code, _) in every_reason() {
        assert_eq!(reason.severity() == Severity::Error, ["lost", "gone"].contains(&code), "{code}");
    }
}

#[test]
fn text_that_the_core_would_not_make_is_refused() {
    for json in [
        r#"{"code":"held","holders":[{"pid":1,"command":"a\nb","pod_uid":null}]}"#,
        r#"{"code":"held","holders":[{"pid":1,"command":"longer than 16 bytes","pod_uid":null}]}"#,
        r#"{"code":"group_peer","group":51,"peer":"51","pod":"pod a/vm"}"#,
        r#"{"code":"no_group","kind":"usb"}"#,
        r#"{"code":"haunted"}"#,
    ] {
        assert!(serde_json::from_str::<Reason>(json).is_err(), "{json}");
    }
}
