//! What operators see of the driver: `list`, `who`, `ready`, `doctor` and the metrics.

use super::common::{device, wait_for_problem};
use super::{GPU, GPU_NAME, World};
use serde_json::{Value, json};
use std::io::{Read, Write};
use vfio_sim_node::VmSpec;
use vfio_sim_node::dra::api_server::{Mode, uid};

/// Returns the codes of doctor's findings about something.
fn findings(world: &World, about: &str) -> Vec<String> {
    let (_, out, error) = world.run(&["doctor", "--json"]);
    let report: Value = serde_json::from_str(&out).unwrap_or_else(|_| panic!("{out}{error}"));
    let findings = report["findings"].as_array().unwrap();
    let of = findings.iter().filter(|finding| finding["about"] == about);
    of.map(|finding| finding["code"].as_str().unwrap().to_owned()).collect()
}

fn scrape(address: &str) -> String {
    let mut stream = std::net::TcpStream::connect(address).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text
}

fn free_address() -> String {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string()
}

#[tokio::test]
async fn claim_is_named_everywhere() {
    let world = World::new().await;
    let address = free_address();
    let _serve = world.serve(&["--offer", "dra", "--listen", &address]);
    let mut driver = world.register().await;
    world.api.expect("eight devices", |devices| devices.len() == 8).await;
    world.api.add_claim("gpu", GPU_NAME, ("vm-1", "p1"));
    driver.prepare("gpu").await.unwrap();
    let _vm = world.node.start_vm(&VmSpec::of_pod("p1", &[GPU.to_owned()])).unwrap();
    let known = device(&world.node, GPU);
    let claim = json!({
        "namespace": "default", "name": "gpu", "uid": uid("gpu"), "pods": [{"name": "vm-1", "uid": "p1"}],
        "for_any_pod": false, "state": "prepared",
    });
    assert_eq!((&known["claim"], &known["offer"], &known["taint"]), (&claim, &json!("dra"), &Value::Null));
    assert_eq!(known["assignment"]["pod"], "vm-1");
    let (_, table, _) = world.run(&["list", "--wide"]);
    assert!(table.contains("claim default/gpu"), "{table}");
    let (_, who, _) = world.run(&["who", GPU]);
    let line = format!("Prepared claim default/gpu ({}) has the group, for default/vm-1 (p1).", uid("gpu"));
    assert!(who.contains(&line), "{who}");
    let (_, who, _) = world.run(&["who", GPU, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&who).unwrap()["claims"], json!([claim]));
    let _foreign = world.node.start_vm(&VmSpec::foreign(&[super::SECOND])).unwrap();
    let mut text = scrape(&address);
    wait_until(|| scrape(&address).contains("vfio_device_taint{")).await;
    text += &scrape(&address);
    let page = include_str!("../../../docs/metrics.md");
    let documented = page.lines().filter_map(|line| line.strip_prefix("| `"));
    let documented: Vec<&str> = documented.filter_map(|line| line.split('`').next()).collect();
    let is_of_claims = |name: &str| {
        name.starts_with("vfio_dra_") || ["vfio_device_claim_info", "vfio_device_taint"].contains(&name)
    };
    let written = text.lines().filter_map(|line| line.split('{').next()).filter(|name| is_of_claims(name));
    let written: std::collections::BTreeSet<&str> = written.collect();
    let expected = documented.into_iter().filter(|name| is_of_claims(name)).collect();
    assert_eq!(written, expected, "docs/metrics.md");
    for line in [
        &*format!(
            "vfio_device_claim_info{{device=\"{GPU}\",resource=\"nvidia.com/2330\",namespace=\"default\",claim=\"gpu\",uid=\"{}\"}} 1",
            uid("gpu")
        ),
        "vfio_dra_registered{driver=\"vfio-probe.github.io\"} 1",
        "vfio_dra_api_server_reachable{driver=\"vfio-probe.github.io\"} 1",
        "vfio_dra_slice_devices{driver=\"vfio-probe.github.io\"} 8",
        "vfio_dra_claims_prepared_total{driver=\"vfio-probe.github.io\",result=\"prepared\"} 1",
    ] {
        assert!(text.contains(line), "{line}: {text}");
    }
}

#[tokio::test]
async fn driver_is_ready_with_registration_and_slices() {
    let world = World::new().await;
    let _serve = world.serve(&["--offer", "dra"]);
    let unready = || {
        let (code, _, error) = world.run(&["ready"]);
        (code != 0).then_some(error)
    };
    wait_until(|| unready().is_some_and(|error| error.contains("is not registered with the kubelet"))).await;
    assert_eq!(findings(&world, "DRA driver vfio-probe.github.io"), ["driver_not_registered"]);
    let _driver = world.register().await;
    wait_until(|| unready().is_none()).await;
    let (_, out, _) = world.run(&["list", "--json"]);
    let dra = &serde_json::from_str::<Value>(&out).unwrap()["dra"];
    assert_eq!((&dra["registered"], &dra["offers"]), (&json!(true), &json!(true)));
    let slices = &dra["slices"];
    assert_eq!(
        (&slices["stored"], &slices["devices"], &slices["count"]),
        (&json!(true), &json!(8), &json!(1))
    );
    assert!(slices["last_write"].as_u64().is_some_and(|at| at > 1_600_000_000), "{slices}");
    assert_eq!(dra["api_server"], json!({"reachable": true, "error": null, "minor": 37}));
}

#[tokio::test]
async fn api_server_that_refuses_or_is_away_is_a_problem() {
    let world = World::new().await;
    let (_serve, _driver) = world.offered().await;
    world.api.set_mode(Mode::Forbidden);
    let vm = world.node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let problem = wait_for_problem(&world.node, "api_server_forbidden", true).remove(0);
    assert!(problem.about.contains("resourceslices") && problem.text.contains("is forbidden"), "{problem:?}");
    assert_eq!(findings(&world, &problem.about), ["api_server_forbidden"]);
    world.api.set_mode(Mode::Away);
    wait_for_problem(&world.node, "api_server_unavailable", true);
    wait_for_problem(&world.node, "slices_not_written", true);
    assert_eq!(world.run(&["ready"]).0, 0, "an outage after the first slices");
    assert_eq!(findings(&world, "ResourceSlices"), ["slices_not_written", "other_drivers_unknown"]);
    world.api.set_mode(Mode::Normal);
    world.api.expect("the taint is stored", |devices| devices[GPU_NAME].as_deref() == Some("held")).await;
    for code in ["api_server_unavailable", "api_server_forbidden", "slices_not_written"] {
        wait_for_problem(&world.node, code, false);
    }
    let taint = device(&world.node, GPU)["taint"].clone();
    assert_eq!(taint, json!({"name": "held", "value": format!("qemu-system-x86.{}", vm.pid())}));
}

#[tokio::test]
async fn device_of_two_drivers_is_found() {
    let world = World::new().await;
    let (_serve, _driver) = world.offered().await;
    let is_found = || findings(&world, GPU).iter().any(|code| code == "published_twice");
    assert!(!is_found());
    let device = json!({"name": "gpu-0", "attributes": {"resource.kubernetes.io/pciBusID": {"string": GPU}}});
    world.api.add_slice("gpu.example.com", "node-1", &device);
    assert!(is_found());
}

async fn wait_until(condition: impl Fn() -> bool) {
    let deadline = std::time::Instant::now() + super::common::PATIENCE;
    while !condition() {
        assert!(std::time::Instant::now() < deadline, "not in time");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}
