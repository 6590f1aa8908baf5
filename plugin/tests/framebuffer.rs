//! The check `framebuffer`: a device whose memory the host itself uses.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{H100, PATIENCE, Serve, device, expect, health, kubelet, program, run, wait_for_pod};
use std::time::Instant;
use vfio_sim_node::Node;

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";
const CHECKS: [&str; 4] = ["--checks", "node,lost,framebuffer", "--checks-interval", "200ms"];

/// /proc/iomem in which the host uses the first GPU, and VFIO the second.
const IOMEM: &str = "\
00000000-00000fff : Reserved
c0000000-dfffffff : PCI Bus 0000:00
  c0000000-cfffffff : PCI Bus 0000:1b
    c0000000-c7ffffff : 0000:1b:00.0
      c0000000-c07e8fff : BOOTFB
        c0000000-c07e8fff : simpledrm
  d0000000-d7ffffff : 0000:3d:00.0
    d0000000-d7ffffff : vfio-pci
";

#[tokio::test]
async fn boot_framebuffer_is_unhealthy_from_the_first_list() {
    let node = Node::with_eight_gpus().unwrap();
    node.write("proc/iomem", IOMEM).unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &CHECKS);
    expect(&kubelet, "offered", |state| {
        assert_ne!(health(state, H100, GPU), Some(true), "it is never offered");
        health(state, H100, OTHER) == Some(true)
    })
    .await;
    let report = device(&node, GPU);
    assert_eq!(
        (&report["health"], &report["reason"]),
        (&"Unhealthy".into(), &"its memory is used by the host: BOOTFB".into())
    );
    // The framebuffer's driver lets go.
    node.write("proc/iomem", IOMEM.replace("BOOTFB", "vfio-pci").replace("simpledrm", "vfio-pci")).unwrap();
    expect(&kubelet, "healthy", |state| health(state, H100, GPU) == Some(true)).await;
    // A device of a pod stays Healthy, with a warning.
    kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    wait_for_pod(&node, GPU, "default/vm-1").await;
    node.write("proc/iomem", IOMEM).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while device(&node, GPU)["reason"].is_null() {
        assert!(Instant::now() < deadline, "{}", device(&node, GPU));
    }
    assert_eq!(device(&node, GPU)["health"], "Healthy");
}

#[tokio::test]
async fn check_that_is_off_changes_no_health_and_doctor_warns() {
    let node = Node::with_eight_gpus().unwrap();
    node.write("proc/iomem", IOMEM).unwrap();
    node.write(&format!("sys/bus/pci/devices/{GPU}/boot_vga"), "1\n").unwrap();
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let (code, text, _) = run(&node, &["doctor"]);
    let expected = format!(
        "warning  {GPU}: its memory is used by the host: BOOTFB, simpledrm (the firmware's boot display)\n         vfio-pci cannot claim"
    );
    assert!(code == 1 && text.contains(&expected) && !text.contains(OTHER), "{text}");
}

#[test]
fn zeroed_iomem_is_enough_and_unreadable_one_reported() {
    let node = Node::with_eight_gpus().unwrap();
    let zeros: String = IOMEM
        .lines()
        .map(|line| {
            let (range, name) = line.split_once(" : ").unwrap();
            format!("{}00000000-00000000 : {name}\n", " ".repeat(range.len() - range.trim_start().len()))
        })
        .collect();
    node.write("proc/iomem", zeros).unwrap();
    let doctor = || String::from_utf8(program(&node, &["doctor"]).output().unwrap().stdout).unwrap();
    assert!(doctor().contains(&format!("{GPU}: its memory is used by the host: BOOTFB, simpledrm\n")));
    node.make_unreadable("proc/iomem").unwrap();
    assert!(doctor().contains("/proc/iomem: cannot be read, so boot framebuffers could not be checked"));
}
