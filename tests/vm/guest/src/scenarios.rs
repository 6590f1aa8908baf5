//! The scenarios with the kubelet stand-in. Each starts from the state that `host::reset` creates.

use crate::dra;
use crate::host::{
    ALONE, BELOW_BRIDGE, BESIDE, EIGHT, FIRST, Holder, LATE, NEIGHBOUR, Opens, SECOND, bind, driver_of,
    enable, group, unbind, wait_until,
};
use crate::plugin::{RUN_DIR, Served, WatchProcess, has_words, holders, json, listed, run};
use crate::pod_scenarios;
use crate::programs;
use anyhow::{Context, Result, ensure};
use std::process::Command;
use std::time::Duration;
use vfio_probe::peek::Peek;
use vfio_probe::{Buffer, GroupId, Occupancy, Root};

/// A test. Its note is printed after its name.
pub(crate) type Test = fn() -> Result<String>;

/// The interval of `serve` in these tests.
pub(crate) const INTERVAL: Duration = Duration::from_secs(1);
/// What emulation may add to one interval: a pass, a scan of all processes, a start of `list`.
pub(crate) const EMULATION_DELAY: Duration = Duration::from_millis(1500);

pub(crate) const ALL: &[(&str, Test)] = &[
    ("probe_and_peek_detect_each_state", probe_and_peek),
    ("bridge_in_the_group_does_not_make_it_held", bridge),
    ("held_and_freed_are_reported_within_an_interval", held_and_freed),
    ("device_held_at_start_is_freed_and_held_again", held_at_start),
    ("group_open_without_a_device_is_held", group_only),
    ("device_open_without_its_group_is_held_and_counted", device_only),
    ("device_bound_late_is_listed_until_it_is_unbound", bound_late),
    ("unbind_of_a_held_device_waits_for_the_holder", unbinding),
    ("two_functions_of_one_group_are_held_together", two_functions),
    ("device_in_a_group_that_is_not_viable_is_unhealthy", not_viable),
    ("holder_with_a_device_node_of_its_own_is_found", own_node),
    ("held_device_is_refused_by_allocate", allocate),
    ("held_device_stays_healthy_with_busy_advertise", advertise),
    ("watch_prints_every_event", watching),
    ("plugin_killed_with_six_of_eight_held_loses_nothing", pod_scenarios::killed),
    ("plugin_killed_with_busy_unhealthy_shows_minus_four", pod_scenarios::killed_unhealthy),
    ("foreign_holder_takes_one_of_two_and_frees_it", pod_scenarios::foreign),
    ("claim_is_given_a_free_device_only", dra::claims),
    ("thousand_opens_by_a_vm_get_no_ebusy", undisturbed),
    ("device_nodes_of_every_backend_exist", backends),
    ("c_agent_prints_held_and_freed", programs::c_agent),
    ("go_agent_exports_states", programs::go_agent),
    ("c_and_go_return_the_same_as_the_core", programs::dumps),
];

fn root() -> Result<Root> {
    Ok(Root::host()?)
}

fn group_id(address: &str) -> Result<GroupId> {
    group(address)?.parse().context("group number")
}

fn millis(duration: Duration) -> String {
    format!("{} ms", duration.as_millis())
}

fn probe_and_peek() -> Result<String> {
    let (root, id) = (root()?, group_id(ALONE)?);
    let mut buffer = Buffer::new();
    let mut state = || Ok::<_, anyhow::Error>((root.probe(id), root.peek(id, &mut buffer)?, enable(ALONE)?));
    ensure!(state()? == (Occupancy::Free, Peek::LooksFree, "0".into()), "free: {:?}", state()?);
    let holder = Holder::full(ALONE)?;
    ensure!(state()? == (Occupancy::Held, Peek::LooksHeld, "1".into()), "held: {:?}", state()?);
    holder.kill();
    wait_until("the group can be opened", || Ok(root.probe(id) == Occupancy::Free))?;
    let holder = Holder::start(&["group", &group(ALONE)?])?;
    ensure!(state()? == (Occupancy::Held, Peek::LooksFree, "0".into()), "group only: {:?}", state()?);
    drop(holder);
    unbind(ALONE)?;
    ensure!(root.probe(id) == Occupancy::Absent, "unbound: {:?}", root.probe(id));
    Ok(String::new())
}

fn bridge() -> Result<String> {
    bind(BELOW_BRIDGE)?;
    let (root, id) = (root()?, group_id(BELOW_BRIDGE)?);
    let mut members = Vec::new();
    root.members(id, &mut Buffer::new(), |member| members.extend(member.ok()))?;
    ensure!(members.len() > 1, "the root port is not in the group");
    ensure!(root.peek(id, &mut Buffer::new())? == Peek::LooksFree, "a bridge makes the group look held");
    let _holder = Holder::full(BELOW_BRIDGE)?;
    ensure!(root.peek(id, &mut Buffer::new())? == Peek::LooksHeld, "a holder is not seen");
    Ok(String::new())
}

fn held_and_freed() -> Result<String> {
    let served = Served::start("unhealthy")?;
    ensure!(served.health(ALONE).as_deref() == Some("Healthy"), "free at start: {:?}", served.health(ALONE));
    let holder = Holder::full(ALONE)?;
    let pid = u64::from(holder.pid());
    let listed_held = wait_until("list has the device as held, with the holder", || {
        let device = listed(ALONE)?;
        Ok(device["state"] == "held" && holders(&device) == [pid])
    })?;
    let reported_held = listed_held + served.wait_for(ALONE, Some("Unhealthy"))?;
    ensure!(listed_held <= INTERVAL, "list had held only after {listed_held:?}");
    ensure!(reported_held <= INTERVAL + EMULATION_DELAY, "Unhealthy only after {reported_held:?}");
    let killed = holder.kill();
    wait_until("list has the device as free", || Ok(listed(ALONE)?["state"] == "free"))?;
    let listed_free = killed.elapsed();
    served.wait_for(ALONE, Some("Healthy"))?;
    let reported_free = killed.elapsed();
    ensure!(listed_free <= INTERVAL, "list had free only after {listed_free:?}");
    ensure!(reported_free <= INTERVAL + EMULATION_DELAY, "Healthy again only after {reported_free:?}");
    Ok(format!(
        ": held in list after {}, Unhealthy after {}; free in list after {}, Healthy after {}",
        millis(listed_held),
        millis(reported_held),
        millis(listed_free),
        millis(reported_free)
    ))
}

fn held_at_start() -> Result<String> {
    let holder = Holder::full(ALONE)?;
    let served = Served::start("unhealthy")?;
    ensure!(
        served.health(ALONE).as_deref() == Some("Unhealthy"),
        "held at start: {:?}",
        served.health(ALONE)
    );
    let device = listed(ALONE)?;
    has_words(device["reason"].as_str().unwrap_or_default(), &[&format!("pid {}", holder.pid()), "holder"])?;
    holder.kill();
    served.wait_for(ALONE, Some("Healthy"))?;
    let _again = Holder::full(ALONE)?;
    served.wait_for(ALONE, Some("Unhealthy"))?;
    Ok(String::new())
}

fn group_only() -> Result<String> {
    let holder = Holder::start(&["group", &group(ALONE)?])?;
    let served = Served::start("unhealthy")?;
    ensure!(served.health(ALONE).as_deref() == Some("Unhealthy"), "its health is {:?}", served.health(ALONE));
    let device = listed(ALONE)?;
    ensure!(device["state"] == "held" && device["evidence"] == "open", "list has {device}");
    let killed = holder.kill();
    served.wait_for(ALONE, Some("Healthy"))?;
    Ok(format!(": Healthy again after {}", millis(killed.elapsed())))
}

fn device_only() -> Result<String> {
    let _holder = Holder::start(&["device", &group(ALONE)?, ALONE])?;
    let device = listed(ALONE)?;
    ensure!(device["state"] == "held", "list has {device}");
    let who = json(&["who", ALONE, "--json"])?;
    // From 6.18 on, the kernel shows the device of such a descriptor. Before, the descriptor is only counted.
    let reported = !holders(&who).is_empty() || who["unattributed"].as_u64() > Some(0);
    ensure!(reported, "who prints {who}");
    Ok(String::new())
}

fn bound_late() -> Result<String> {
    let served = Served::start("unhealthy")?;
    ensure!(served.health(LATE).is_none(), "listed before it was bound");
    bind(LATE)?;
    let came = served.wait_for(LATE, Some("Healthy"))?;
    unbind(LATE)?;
    let went = served.wait_for(LATE, None)?;
    ensure!(served.health(ALONE).as_deref() == Some("Healthy"), "another device has changed");
    Ok(format!(": listed after {}, dropped after {}", millis(came), millis(went)))
}

fn unbinding() -> Result<String> {
    let served = Served::start("unhealthy")?;
    let holder = Holder::full(ALONE)?;
    served.wait_for(ALONE, Some("Unhealthy"))?;
    let unbind = std::thread::spawn(|| unbind(ALONE));
    wait_until("the driver link is gone", || Ok(driver_of(ALONE).is_none()))?;
    wait_until("list has the device as unbinding", || {
        let reason = listed(ALONE)?["reason"].as_str().unwrap_or_default().to_owned();
        Ok(reason.contains("unbinding") && reason.contains(&holder.pid().to_string()))
    })?;
    ensure!(served.health(ALONE).as_deref() == Some("Unhealthy"), "its health is {:?}", served.health(ALONE));
    ensure!(!unbind.is_finished(), "the kernel did not wait for the holder");
    holder.kill();
    served.wait_for(ALONE, None)?;
    unbind.join().map_err(|_| anyhow::anyhow!("unbind panicked"))??;
    Ok(String::new())
}

fn two_functions() -> Result<String> {
    let served = Served::start("unhealthy")?;
    let holder = Holder::full(FIRST)?;
    for address in [FIRST, SECOND] {
        served.wait_for(address, Some("Unhealthy"))?;
        ensure!(listed(address)?["state"] == "held", "{address} is not held");
    }
    holder.kill();
    for address in [FIRST, SECOND] {
        served.wait_for(address, Some("Healthy"))?;
    }
    Ok(String::new())
}

fn not_viable() -> Result<String> {
    let served = Served::start("unhealthy")?;
    ensure!(
        served.health(BESIDE).as_deref() == Some("Unhealthy"),
        "its health is {:?}",
        served.health(BESIDE)
    );
    let device = listed(BESIDE)?;
    ensure!(device["viable"] == false && device["state"] == "free", "list has {device}");
    has_words(device["reason"].as_str().unwrap_or_default(), &[NEIGHBOUR, "e1000"])?;
    let refusal = served.allocate(BESIDE)?.err().context("it was allocated")?;
    has_words(&refusal, &["FailedPrecondition", BESIDE, NEIGHBOUR, "e1000"])?;
    unbind(NEIGHBOUR)?;
    let healthy = served.wait_for(BESIDE, Some("Healthy"))?;
    Ok(format!(": Healthy {} after the other function was unbound", millis(healthy)))
}

fn own_node() -> Result<String> {
    let group = group(ALONE)?;
    let number = std::fs::read_to_string(format!("/sys/class/vfio/{group}/dev"))?;
    let (major, minor) = number.trim().split_once(':').context("no device number")?;
    let script = format!(
        "mount -t tmpfs tmpfs /mnt && mknod /mnt/weird-name c {major} {minor} && \
         exec /bin/holder --node /mnt/weird-name full {group} {ALONE}"
    );
    std::fs::create_dir_all("/mnt")?;
    let holder = Holder::run(Command::new("unshare").args(["-m", "sh", "-c", &script]))?;
    let who = json(&["who", &group, "--json"])?;
    ensure!(holders(&who).contains(&u64::from(holder.pid())), "who prints {who}");
    let (code, text) = run(&["who", ALONE])?;
    ensure!(code == 0 && text.contains(&holder.pid().to_string()), "exit {code}: {text}");
    drop(holder);
    wait_until("who finds no holder", || Ok(run(&["who", ALONE])?.0 == 1))?;
    Ok(String::new())
}

fn allocate() -> Result<String> {
    let served = Served::start("unhealthy")?;
    let granted = served.allocate(ALONE)?.map_err(anyhow::Error::msg)?;
    has_words(&granted, &[ALONE, &format!("/dev/vfio/{}", group(ALONE)?), "/dev/vfio/vfio", "mrw"])?;
    let holder = Holder::full(ALONE)?;
    let refusal = served.allocate(ALONE)?.err().context("a held device was allocated")?;
    has_words(&refusal, &["FailedPrecondition", ALONE, &format!("pid {}", holder.pid())])?;
    ensure!(served.health(ALONE).as_deref() == Some("Unhealthy"), "the refusal came before the list");
    let unknown = served.allocate(FIRST)?;
    ensure!(unknown.is_ok(), "the other device was refused: {unknown:?}");
    Ok(String::new())
}

fn advertise() -> Result<String> {
    let holder = Holder::full(ALONE)?;
    let served = Served::start("advertise")?;
    ensure!(served.health(ALONE).as_deref() == Some("Healthy"), "its health is {:?}", served.health(ALONE));
    let refusal = served.allocate(ALONE)?.err().context("a held device was allocated")?;
    has_words(&refusal, &[&format!("pid {}", holder.pid())])?;
    Ok(String::new())
}

fn watching() -> Result<String> {
    let watch = WatchProcess::start()?;
    watch.expect("bound", ALONE)?;
    let holder = Holder::full(ALONE)?;
    let held = watch.expect("held", ALONE)?;
    ensure!(holders(&held) == [u64::from(holder.pid())], "watch prints {held}");
    holder.kill();
    watch.expect("freed", ALONE)?;
    bind(LATE)?;
    watch.expect("bound", LATE)?;
    unbind(LATE)?;
    watch.expect("unbound", LATE)?;
    Ok(String::new())
}

/// The device nodes of each backend's response exist, on kernels with and without cdevs. The functions of a group go
/// together.
fn backends() -> Result<String> {
    let [legacy, auto, ..] = EIGHT;
    // Removes the assignments of earlier pods, because this kubelet does not know that they have ended.
    let _ = std::fs::remove_dir_all(RUN_DIR);
    bind(legacy)?;
    bind(auto)?;
    let pools = [("iommufd", ALONE), ("both", FIRST), ("legacy", legacy), ("auto", auto)];
    let mut text = "pools:\n".to_owned();
    for (backend, address) in pools {
        text += &format!(
            "  - {{resource: a.b/{backend}, backend: {backend}, select: [{{address: \"{address}\"}}]}}\n"
        );
    }
    std::fs::write("/tmp/pools.yaml", text)?;
    let served = Served::start_with(&["--pools", "/tmp/pools.yaml", "--interval", "1s"])?;
    for (_, address) in pools {
        served.wait_for(address, Some("Healthy"))?;
    }
    let iommufd = std::path::Path::new("/dev/iommu").exists();
    let mut reported = Vec::new();
    for (backend, address) in pools {
        let nodes = served.nodes(&format!("a.b/{backend}"), address)?;
        for node in &nodes {
            ensure!(std::path::Path::new(node).exists(), "{backend}: {node} does not exist; all: {nodes:?}");
        }
        let group = format!("/dev/vfio/{}", group(address)?);
        let cdevs = nodes.iter().filter(|node| node.starts_with("/dev/vfio/devices/")).count();
        let is_legacy = nodes.contains(&"/dev/vfio/vfio".to_owned()) && nodes.contains(&group);
        let expected = match backend {
            "iommufd" if iommufd => (false, 1),
            // Two functions of one group.
            "both" if iommufd => (true, 2),
            _ => (true, 0),
        };
        ensure!((is_legacy, cdevs) == expected, "{backend}: {nodes:?}");
        ensure!(nodes.contains(&"/dev/iommu".to_owned()) == (cdevs > 0), "{backend}: {nodes:?}");
        reported.push(format!("{backend} {}", nodes.join(" ")));
    }
    Ok(format!(": {}", reported.join("; ")))
}

fn undisturbed() -> Result<String> {
    const OPENS: u64 = 1000;
    // The shortest interval that serve accepts. A probe in each pass would rarely meet an open of the holder, so that
    // opens are counted as well.
    let served = Served::start_every("50ms", "unhealthy")?;
    let mut opens = Opens::of(ALONE)?;
    let output =
        Command::new("/bin/holder").args(["loop", &OPENS.to_string(), &group(ALONE)?, ALONE]).output()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    ensure!(text == format!("opens {OPENS} busy 0"), "{text}");
    let others = opens.so_far()? - OPENS;
    ensure!(others == 0, "{text}, but serve opened the group {others} times meanwhile");
    // The counter sees an open by serve.
    let _granted = served.allocate(ALONE)?.map_err(anyhow::Error::msg)?;
    ensure!(opens.so_far()? > OPENS, "the opens of serve cannot be counted");
    Ok(format!(": {text}, none by serve"))
}
