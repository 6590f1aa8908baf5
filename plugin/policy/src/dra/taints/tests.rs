//! The table of taints, one test a row.

use super::*;
use crate::health::reason::Offender;
use vfio_probe::text::Text;
use vfio_probe::{GroupId, Kind};

/// The taint's name, value and effect.
fn made(reason: Reason) -> (String, Option<String>, String) {
    let taint = Withheld::from(reason).taint(&"vfio.example.com".parse().unwrap());
    let name = taint.key.strip_prefix("vfio.example.com/").unwrap().to_owned();
    assert_eq!(taint.time_added, None, "the API server sets it");
    (name, taint.value, taint.effect)
}

fn row(name: &str, value: Option<&str>) -> (String, Option<String>, String) {
    (name.to_owned(), value.map(str::to_owned), "NoSchedule".to_owned())
}

fn holder(pid: u32, command: &[u8]) -> HolderName {
    HolderName { pid, command: Text::lossy(command), pod_uid: None }
}

#[test]
fn lost_device() {
    assert_eq!(made(Reason::Lost), row("lost", None));
}

#[test]
fn device_without_a_group() {
    assert_eq!(made(Reason::NoGroup { kind: Kind::Pci }), row("no-group", None));
}

#[test]
fn unbinding_device_names_its_holder() {
    let holders = vec![holder(15935, b"qemu-system-x86")];
    assert_eq!(made(Reason::Unbinding { holders }), row("unbinding", Some("qemu-system-x86.15935")));
}

#[test]
fn device_of_a_prepared_group_names_its_peer() {
    let reason = Reason::GroupPeer {
        group: GroupId(51),
        peer: "0000:1b:00.1".parse().unwrap(),
        pod: "pod default/vm-1".to_owned(),
    };
    assert_eq!(made(reason), row("group", Some("pci-0000-1b-00-1")));
}

#[test]
fn device_of_a_pod_of_the_device_plugin() {
    let taint = Withheld::DevicePlugin.taint(&"a.io".parse().unwrap());
    assert_eq!((taint.key.as_str(), taint.value), ("a.io/device-plugin", None));
    assert_eq!(taint.effect, "NoSchedule");
}

#[test]
fn stored_answer_of_the_device_plugin() {
    let pod = || "pod default/vm-1".to_owned();
    let stored = || "/dev/vfio/51".to_owned();
    let own = Reason::StaleAnswer { pod: pod(), stored: stored(), now: None };
    let device = "0000:1b:00.1".parse().unwrap();
    let other = Reason::StaleAnswerOfAnotherPod { pod: pod(), device, stored: stored(), now: None };
    assert_eq!(made(own), row("device-plugin", None));
    assert_eq!(made(other), row("device-plugin", None));
}

#[test]
fn held_device_names_its_first_holder() {
    let holders = vec![holder(15935, b"qemu-system-x86"), holder(7, b"other")];
    assert_eq!(made(Reason::Held { holders }), row("held", Some("qemu-system-x86.15935")));
}

#[test]
fn held_device_with_an_unknown_holder() {
    assert_eq!(made(Reason::Held { holders: Vec::new() }), row("held", Some("unknown")));
}

#[test]
fn group_that_is_not_viable_names_the_driver() {
    let offender =
        |driver: &[u8]| Offender { device: Text::lossy(b"0000:05:00.1"), driver: Text::lossy(driver) };
    let reason =
        Reason::NotViable { group: GroupId(51), offenders: vec![offender(b"e1000"), offender(b"x")] };
    assert_eq!(made(reason), row("not-viable", Some("e1000")));
    let unknown = Reason::NotViable { group: GroupId(51), offenders: Vec::new() };
    assert_eq!(made(unknown), row("not-viable", None));
}

#[test]
fn fatal_errors_are_counted_in_powers_of_ten() {
    for (count, value) in
        [(1, "1"), (2, "2-9"), (9, "2-9"), (10, "10-99"), (99, "10-99"), (u64::MAX, "100-or-more")]
    {
        assert_eq!(made(Reason::FatalErrors { count }), row("fatal-errors", Some(value)));
    }
}

#[test]
fn missing_device_node() {
    assert_eq!(made(Reason::NoDeviceNode { path: "/dev/vfio/51".to_owned() }), row("no-node", None));
}

#[test]
fn memory_that_the_host_uses() {
    let reason = Reason::Framebuffer { user: Text::lossy(b"simple-framebuffer") };
    assert_eq!(made(reason), row("framebuffer", Some("simple-framebuffer")));
}

#[test]
fn listed_device_that_is_gone_or_not_bound() {
    assert_eq!(made(Reason::Gone), row("gone", None));
    assert_eq!(made(Reason::NoLongerBound), row("not-bound", None));
}

#[test]
fn value_is_what_the_api_server_accepts() {
    for (text, value) in [
        ("(sd-pam).1", "sd-pam_.1"),
        ("a b\u{e4}/c.7", "a_b__c.7"),
        (".....12", "12"),
        ("---", ""),
        (&"x".repeat(70), &"x".repeat(63)),
        (&format!("{}.15935", "y".repeat(60)), &format!("{}.15935", "y".repeat(57))),
    ] {
        assert_eq!(label_value(text), value, "{text}");
    }
}

#[test]
fn command_without_a_letter_leaves_the_pid() {
    let holders = vec![holder(12, b"\xff\xff")];
    assert_eq!(made(Reason::Held { holders }).1.as_deref(), Some("12"));
}
