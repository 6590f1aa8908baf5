//! `doctor` on simulated nodes: every fault is reported with what to do.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{H100, PATIENCE, Serve, expect, kubelet, offered, run, wait_for_pod};
use kubelet_api::v1beta1::registration_server::{Registration, RegistrationServer};
use kubelet_api::v1beta1::{Empty, RegisterRequest};
use serde_json::Value;
use std::os::unix::net::UnixListener;
use std::process::Command;
use std::time::Instant;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};
use vfio_sim_node::kubelet::PodResourcesMode;
use vfio_sim_node::{Function, Hold, Node, VmSpec, trees};

const GPU: &str = "0000:1b:00.0";
const OTHER: &str = "0000:3d:00.0";

/// Exit code and findings, each as `level about: what`, with its advice.
fn examine(node: &Node) -> (i32, Vec<(String, String)>) {
    examine_with(&mut common::program(node, &["doctor", "--json"]))
}

fn examine_with(doctor: &mut Command) -> (i32, Vec<(String, String)>) {
    let output = doctor.output().unwrap();
    let code = output.status.code().unwrap();
    let found: Value = serde_json::from_slice(&output.stdout)
        .unwrap_or_else(|_| panic!("{}", String::from_utf8_lossy(&output.stderr)));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let findings = found["findings"].as_array().unwrap().iter().map(|finding| {
        let [level, about, what] = ["level", "about", "what"].map(|key| text(&finding[key]));
        (format!("{level} {about}: {what}"), text(&finding["advice"]))
    });
    (code, findings.collect())
}

#[track_caller]
fn has(findings: &[(String, String)], what: &str, advice: &str) {
    let found = findings.iter().any(|(found, todo)| found.contains(what) && todo.contains(advice));
    assert!(found, "no finding has {what:?} with {advice:?}: {findings:#?}");
}

/// Runs `doctor` until it has a finding, which a running plugin needs a moment to see. Returns the exit code.
#[track_caller]
fn wait_for_finding(node: &Node, what: &str, advice: &str) -> i32 {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (code, findings) = examine(node);
        if findings.iter().any(|(found, _)| found.contains(what)) || Instant::now() > deadline {
            has(&findings, what, advice);
            return code;
        }
    }
}

#[tokio::test]
async fn unwritable_cdi_spec_is_reported_with_its_devices() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    std::fs::create_dir(node.root().join("var/run")).unwrap();
    node.write("var/run/cdi", "").unwrap();
    let text = format!("pools: [{{resource: a.b/c, cdi: devices, select: [{{address: \"{GPU}\"}}]}}]");
    let file = common::write_pools(&node, &text);
    let _serve = Serve::start(&node, &["--pools", &file]);
    expect(&kubelet, "one", |state| state.capacity("a.b/c").allocatable == 1).await;
    let doctor = || examine_with(&mut common::program(&node, &["doctor", "--json", "--pools", &file]));
    let what = format!("vfio-device-plugin_a.b_c.json: is not a readable CDI spec; it should name {GPU}");
    let (code, findings) = doctor();
    has(&findings, &what, "device nodes only");
    assert_eq!(code, 1);
    std::fs::remove_file(common::cdi_dir(&node)).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while doctor().1.iter().any(|(what, _)| what.contains("CDI spec")) {
        assert!(Instant::now() < deadline, "{:?}", doctor());
    }
    let spec = common::cdi_dir(&node).join("vfio-device-plugin_a.b_c.json");
    assert!(spec.exists());
}

#[tokio::test]
async fn node_with_a_running_vm_is_fine() {
    let (node, kubelet, _serve) = offered(&[]).await;
    let pod = kubelet.admit("vm-1", H100, 1).await.unwrap();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    wait_for_pod(&node, GPU, "default/vm-1").await;
    assert_eq!(examine(&node), (0, vec![]));
    let (code, out, _) = run(&node, &["doctor"]);
    assert_eq!((code, out.as_str()), (0, "Nothing is wrong.\n"));
}

#[test]
fn unprepared_host_gets_advice_for_each_fault() {
    let node = Node::new().unwrap();
    let (code, findings) = examine(&node);
    assert_eq!(code, 2);
    has(&findings, "broken host: there are no IOMMU groups: the IOMMU is off", "intel_iommu=on");
    has(
        &findings,
        "warning selection: no selected device is bound",
        "driverctl set-override ADDRESS vfio-pci",
    );

    let node = Node::with_eight_gpus().unwrap();
    node.add(Function::gpu("0000:f1:00.0", 90, 0)).unwrap();
    node.add(Function { driver: Some("snd_hda_intel".into()), ..Function::new("0000:f1:00.1", 90) }).unwrap();
    node.add(Function::gpu("0000:f3:00.0", 92, 0).with_driver(Some("nouveau"))).unwrap();
    node.add(Function::gpu("0000:f4:00.0", 93, 0).with_driver(None)).unwrap();
    node.write("sys/devices/pci0000:00/0000:4e:00.0/uevent", "").unwrap();
    node.delete("dev/vfio/vfio").unwrap();
    node.delete("dev/vfio/52").unwrap();
    let (code, findings) = examine(&node);
    assert_eq!(code, 1, "{findings:#?}");
    has(
        &findings,
        "warning 0000:f1:00.0: group 90 is not viable: 0000:f1:00.1 is bound to snd_hda_intel",
        "driverctl set-override 0000:f1:00.1 vfio-pci",
    );
    has(&findings, "warning 0000:f3:00.0: is selected, but bound to nouveau", "0000:f3:00.0 vfio-pci");
    has(&findings, "warning 0000:f4:00.0: is selected, but bound to no driver", "0000:f4:00.0 vfio-pci");
    has(&findings, "warning sysfs: 0000:4e:00.0: uevent", "left out");
    has(&findings, "warning /dev/vfio/vfio: does not exist", "Load the module");
    has(&findings, "warning 0000:3d:00.0: /dev/vfio/52 does not exist", "Bind the device again");
    has(&findings, "there is no kubelet.sock", "--kubelet-dir");
    has(&findings, "warning serve: no serve answers", "Start serve");
    std::fs::rename(node.root().join("dev/vfio/53"), node.root().join("dev/vfio/noiommu-53")).unwrap();
    node.write(
        "sys/devices/pci0000:00/0000:4e:00.0/uevent",
        "DRIVER=vfio-pci\nPCI_CLASS=30200\nPCI_ID=10DE:2330\n",
    )
    .unwrap();
    has(&examine(&node).1, "0000:4e:00.0: is used without an IOMMU", "turn on the IOMMU");
    std::fs::rename(node.root().join("dev/vfio"), node.root().join("dev/elsewhere")).unwrap();
    has(&examine(&node).1, "warning /dev/vfio: does not exist here", "mount the host's /dev/vfio");
}

#[test]
fn denied_device_node_is_reported_without_opening_it() {
    let node = Node::with_eight_gpus().unwrap();
    let no_access = std::os::unix::fs::PermissionsExt::from_mode(0o000);
    std::fs::set_permissions(node.root().join("dev/vfio/51"), no_access).unwrap();
    let mut doctor = common::program(&node, &["doctor", "--json"]);
    if rustix::process::geteuid().is_root() {
        // Root opens it despite the mode while it has this capability.
        let mut without = Command::new("setpriv");
        without.args(["--bounding-set", "-dac_override,-dac_read_search", "--inh-caps", "-all", "--"]);
        without.arg(doctor.get_program()).args(doctor.get_args());
        doctor = without;
    }
    let (_, findings) = examine_with(&mut doctor);
    has(&findings, "warning 0000:1b:00.0: /dev/vfio/51 cannot be opened from here", "--no-probe");
    assert!(!findings.iter().any(|(what, _)| what.contains("/dev/vfio/52")), "{findings:#?}");
    assert_eq!((node.opens(51), node.opens(52)), (0, 0));
}

#[tokio::test]
async fn kubelet_without_answers_is_reported() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    // It has no pods and no checkpoint yet, which is no fault.
    let (code, findings) = examine(&node);
    assert_eq!((code, findings.len()), (1, 1), "serve alone is missing: {findings:#?}");
    kubelet.set_pod_resources_mode(PodResourcesMode::Hang);
    let began = Instant::now();
    let (code, findings) = examine(&node);
    assert_eq!(code, 2);
    has(&findings, "broken pod resources: assignments are unknown", "no held device becomes Unhealthy");
    assert!(began.elapsed() < PATIENCE);
    kubelet.set_pod_resources_mode(PodResourcesMode::RateLimited);
    let serve = Serve::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    kubelet.admit("vm-1", H100, 1).await.unwrap();
    let (code, findings) = examine(&node);
    assert_eq!(code, 1, "the checkpoint names them: {findings:#?}");
    has(&findings, "warning pod resources: cannot be listed", "checkpoint only");
    has(&findings, "rejected by rate limit", "");
    kubelet.set_pod_resources_mode(PodResourcesMode::Normal);
    let checkpoint = format!("var/lib/kubelet/device-plugins/{}", kubelet_api::CHECKPOINT);
    node.write(&checkpoint, "{\"Data\":{\"PodDeviceEntries\":[{").unwrap();
    let (code, findings) = examine(&node);
    assert_eq!(code, 1, "{findings:#?}");
    has(&findings, "is not a checkpoint", "init containers");
    drop(serve);
    kubelet.stop();
    let (_, findings) = examine(&node);
    has(&findings, "kubelet.sock: the kubelet does not answer", "start it");
}

#[tokio::test]
async fn garbage_instead_of_pod_resources_is_reported() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    // A gRPC server without this service.
    let registration = node.kubelet_dir().join(kubelet_api::KUBELET_SOCKET);
    std::fs::remove_file(node.pod_resources_socket()).unwrap();
    std::os::unix::fs::symlink(registration, node.pod_resources_socket()).unwrap();
    let (code, findings) = examine(&node);
    assert_eq!(code, 2);
    has(&findings, "broken kubelet: is too old: ", "1.26");
    std::fs::remove_file(node.pod_resources_socket()).unwrap();
    let listener = UnixListener::bind(node.pod_resources_socket()).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let _ = std::io::Write::write_all(&mut stream.unwrap(), b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let (code, findings) = examine(&node);
    assert_eq!(code, 2);
    has(&findings, "broken pod resources: assignments are unknown", "--pod-resources");
    drop(kubelet);
}

#[tokio::test]
async fn foreign_holders_are_named_with_their_pod() {
    let (node, kubelet, _serve) = offered(&[]).await;
    let pod = kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    // Before serve knows the pods, a holder's cgroup would assign the device.
    wait_for_pod(&node, GPU, "default/vm-1").await;
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &[OTHER.to_owned()])).unwrap();
    let stranger = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab";
    let left = node.start_vm(&VmSpec::of_pod(stranger, &["0000:4e:00.0".to_owned()])).unwrap();
    let process = node.start_vm(&VmSpec::foreign(&["0000:5f:00.0"])).unwrap();
    let (code, findings) = examine(&node);
    assert_eq!(code, 1);
    has(&findings, &format!("{OTHER}: is held by pid"), "deleted by force");
    has(&findings, ", pod default/vm-1, and is assigned to no pod", "");
    has(
        &findings,
        &format!("0000:4e:00.0: is held by pid {} (qemu-system-x86), pod {stranger}", left.pid()),
        "by force",
    );
    has(&findings, &format!("0000:5f:00.0: is held by pid {}", process.pid()), "belongs to no pod");
    assert!(!findings.iter().any(|(what, _)| what.contains(GPU)), "{findings:#?}");
    // A device that is assigned to one pod and held by the VM of another.
    let second = kubelet.admit_with("vm-2", H100, vec!["0000:9b:00.0".to_owned()]).await.unwrap();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &second.devices)).unwrap();
    wait_for_pod(&node, "0000:9b:00.0", "default/vm-2").await;
    let (_, findings) = examine(&node);
    has(
        &findings,
        "0000:9b:00.0: is assigned to pod default/vm-2, but held by",
        "before the holder has ended",
    );
}

#[tokio::test]
async fn policy_that_makes_the_numbers_wrong_is_reported() {
    let (node, kubelet, _serve) = offered(&["--busy", "unhealthy"]).await;
    let pod = kubelet.admit("vm-1", H100, 2).await.unwrap();
    let _vm = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    expect(&kubelet, "two less", |state| state.capacity(H100).allocatable == 6).await;
    wait_for_pod(&node, GPU, "default/vm-1").await;
    let (code, findings) = examine(&node);
    assert_eq!((code, findings.len()), (1, 1), "{findings:#?}");
    has(
        &findings,
        "reports 2 devices of running pods as Unhealthy (0000:1b:00.0, 0000:3d:00.0): allocatable - requested is 2 too low",
        "--busy unhealthy",
    );
}

#[tokio::test]
async fn unbound_assigned_device_is_reported_with_its_pod() {
    let (node, kubelet, _serve) = offered(&[]).await;
    kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    wait_for_pod(&node, GPU, "default/vm-1").await;
    node.unbind(GPU).unwrap();
    wait_for_finding(
        &node,
        &format!("{GPU}: is assigned to pod default/vm-1 and is no longer bound"),
        "Bind it again",
    );
    let held = node.start_vm(&VmSpec::foreign(&[OTHER])).unwrap();
    expect(&kubelet, "held", |state| state.capacity(H100).allocatable == 7).await;
    node.unbind(OTHER).unwrap();
    wait_for_finding(&node, &format!("{OTHER}: unbinding, held by pid {}", held.pid()), "unbind waits");
}

/// A kubelet before 1.26 as a plugin sees it: it accepts registrations, and its first call to the plugin
/// fails because it sends a socket path as HTTP/2 authority.
struct OldKubelet;

#[tonic::async_trait]
impl Registration for OldKubelet {
    async fn register(&self, _: Request<RegisterRequest>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }
}

#[test]
fn kubelet_that_never_opens_a_stream_is_too_old() {
    let node = Node::with_eight_gpus().unwrap();
    let listener = UnixListener::bind(node.kubelet_dir().join(kubelet_api::KUBELET_SOCKET)).unwrap();
    listener.set_nonblocking(true).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = UnixListenerStream::new(tokio::net::UnixListener::from_std(listener).unwrap());
            let server = tonic::transport::Server::builder().add_service(RegistrationServer::new(OldKubelet));
            server.serve_with_incoming(listener).await
        })
    });
    let serve = Serve::start(&node, &[]);
    let finding = "broken kubelet: accepted the registration of nvidia.com/2330";
    assert_eq!(wait_for_finding(&node, finding, "1.26"), 2);
    wait_for_finding(&node, "in a row and never opened a stream", "1.26");
    let (_, _, log) = serve.terminate();
    assert!(log.contains("is it older than 1.26?"), "{log}");
}

#[tokio::test]
async fn facts_that_only_serve_knows_are_used() {
    let node = Node::with_eight_gpus().unwrap();
    // `enable` is left over from an earlier driver, and no process holds the device.
    node.write("sys/devices/pci0000:00/0000:1b:00.0/enable", "1\n").unwrap();
    let kubelet = kubelet(&node).await;
    let vm = node.start_vm(&VmSpec { hold: Hold::GroupOnly, ..VmSpec::foreign(&[OTHER]) }).unwrap();
    let _serve = Serve::start(&node, &[]);
    expect(&kubelet, "one is held", |state| state.capacity(H100).allocatable == 7).await;
    let (code, findings) = examine(&node);
    assert_eq!((code, findings.len()), (1, 1), "{findings:#?}");
    has(
        &findings,
        &format!("{OTHER}: is held by pid {} (qemu-system-x86), and is assigned to no pod", vm.pid()),
        "end it",
    );
}

#[tokio::test]
async fn assignment_known_from_the_checkpoint_only_is_named_so() {
    let (node, kubelet, serve) = offered(&[]).await;
    kubelet.admit_with("vm-1", H100, vec![GPU.to_owned()]).await.unwrap();
    let pod = kubelet.admit_with("vm-2", H100, vec![OTHER.to_owned()]).await.unwrap();
    drop(serve);
    let checkpoint = node.kubelet_dir().join(kubelet_api::CHECKPOINT);
    let before = std::fs::read(&checkpoint).unwrap();
    let _left = node.start_vm(&VmSpec::of_pod(&pod.pod_uid, &pod.devices)).unwrap();
    kubelet.remove(&pod.pod_uid);
    // Until the kubelet writes it again, the checkpoint names a pod that has ended.
    std::fs::write(&checkpoint, before).unwrap();
    let (_, findings) = examine(&node);
    let what = format!(
        "the kubelet's checkpoint assigns it to pod {}, but pod resources do not list it there",
        pod.pod_uid
    );
    has(&findings, &what, "a running serve finds out");
}

#[tokio::test]
async fn missing_probes_for_mediated_devices_are_reported() {
    let node = trees::by_name("mediated devices").unwrap().node;
    let what = "only a probe can detect its holders, and probes are off";
    let (_, findings) = examine_with(&mut common::program(&node, &["doctor", "--json", "--no-probe"]));
    has(&findings, what, "Run without --no-probe");
    let (_, findings) = examine(&node);
    assert!(!findings.iter().any(|(found, _)| found.contains(what)), "{findings:#?}");
}

#[test]
fn no_advice_to_rebind_functions_that_carry_vgpus() {
    let findings = |name: &str| examine(&trees::by_name(name).unwrap().node).1;
    let bound = |findings: &[(String, String)]| {
        findings
            .iter()
            .any(|(found, todo)| found.contains("bound to nvidia") || todo.contains("set-override"))
    };
    let of_mdevs = findings("mediated devices");
    assert!(!bound(&of_mdevs), "{of_mdevs:#?}");
    let tree = trees::by_name("virtual functions with a vGPU and without").unwrap();
    let (_, of_functions) = examine(&tree.node);
    assert!(!bound(&of_functions), "{of_functions:#?}");
    let without = "0000:1b:00.3: is selected, but has no vGPU";
    has(&of_functions, &format!("warning {without}"), "creatable_vgpu_types");
    assert_eq!(of_functions.iter().filter(|(what, _)| what.contains("has no vGPU")).count(), 1);
    // The other vGPUs leave no room for one more.
    let types = "sys/bus/pci/devices/0000:1b:00.3/nvidia/creatable_vgpu_types";
    tree.node.write(types, "ID    : vGPU Name\n").unwrap();
    let (_, findings) = examine(&tree.node);
    assert!(!findings.iter().any(|(what, _)| what.contains(without)), "{findings:#?}");
}
