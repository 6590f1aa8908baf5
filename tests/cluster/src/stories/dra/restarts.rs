//! The driver, the kubelet, the API server and the node restart while pods have claims and a process of the host holds a device.

use std::time::Instant;

use super::super::replaced::replace;
use super::foreign::{hold, release};
use super::install::{State, expect, install, uninstall, vm};
use super::timing::{Event, LIMIT, after, tainted};
use super::view::device_name;
use super::watch::Watch;
use super::{COMMAND, pods};
use crate::control_plane::Component;
use crate::{Cluster, Result};

/// No VM loses its device, the held device is never offered, and the free ones are offered again.
pub(in super::super) fn run(cluster: &mut Cluster) -> Result {
    install(cluster)?;
    let [template, mut lasting] = vm("lasting", 1);
    lasting["spec"]["restartPolicy"] = "Always".into();
    pods::create(cluster, &[&vm("vm", 2)[..], &[template, lasting]].concat())?;
    let state = expect(cluster, "two VMs have three devices", (6, 0, 3, 3))?;
    let (group, address) = state.free_group()?;
    let foreign = device_name(&address);
    let holder = hold(cluster, &group)?;
    let before = expect(cluster, "a process of the host holds another one", (6, 1, 3, 4))?;

    let slices = Watch::start(cluster, "resourceslices");
    let start = Instant::now();
    let story = Story { cluster, slices: &slices, before: &before };
    story.play("the driver's pod was replaced", replace)?;
    story.play("the driver was killed", kill_driver)?;
    story
        .play("the kubelet was killed", |cluster| kill_kubelet(cluster, &slices, "pkill -KILL -x kubelet"))?;
    let both = "pkill -KILL -x kubelet; pkill -KILL -x containerd";
    story.play("the kubelet and containerd were killed", |cluster| kill_kubelet(cluster, &slices, both))?;
    slices.expect_withheld(&foreign, start)?;
    cluster.step(&format!("{foreign}, which the process holds, was in no slice without its taint"));

    api_server(cluster, &slices, &before, (&holder, &foreign))?;
    reboot(cluster, &slices, &before)?;
    drop(slices);
    uninstall(cluster)
}

/// While the API server is away, the process ends, and one that holds another device starts.
fn api_server(
    cluster: &mut Cluster,
    slices: &Watch,
    before: &State,
    (holder, foreign): (&str, &str),
) -> Result {
    let start = Instant::now();
    cluster.stop_component(Component::ApiServer);
    release(cluster, holder)?;
    let (group, address) = before.free_group()?;
    let holder = hold(cluster, &group)?;
    let other = device_name(&address);
    cluster.step(&format!("while the API server is away, {foreign} is released, and {other} is held"));
    cluster.start_component(Component::ApiServer)?;
    let ready = Instant::now();
    let back = expect(cluster, "the API server is back", (6, 1, 3, 4))?;
    cluster.step(&format!(
        "    once it was ready, the taint of {other} was stored {}, and that of {foreign} removed {}",
        after(ready, tainted(slices, &other, start, true)),
        after(ready, tainted(slices, foreign, start, false)),
    ));
    expect_same(before, &back)?;
    release(cluster, &holder)?;
    expect(cluster, "the process ends", (6, 0, 3, 3))?;
    Ok(())
}

/// The VM that starts again has the same device. The other one has ended, so its devices are free.
fn reboot(cluster: &mut Cluster, slices: &Watch, before: &State) -> Result {
    let functions = cluster.node().functions().to_vec();
    let event = Event::now(cluster)?;
    cluster.reboot_node(functions)?;
    cluster.step("the node was rebooted");
    let state = expect(cluster, "the VM that starts again has its device", (6, 0, 1, 1))?;
    event.report(cluster, slices)?;
    let (had, has) = (before.devices("lasting"), state.devices("lasting"));
    if had == has { Ok(()) } else { Err(format!("it had {had:?} and has {has:?}").into()) }
}

/// What the restarts must not change.
#[derive(Clone, Copy)]
struct Story<'a> {
    cluster: &'a Cluster,
    slices: &'a Watch,
    before: &'a State,
}

impl Story<'_> {
    /// Restarts something, and waits until the kubelet has registered the driver again. Afterwards all is as before.
    fn play(&self, text: &str, restart: impl FnOnce(&Cluster) -> Result) -> Result {
        let event = Event::now(self.cluster)?;
        restart(self.cluster)?;
        self.cluster.wait("the kubelet registers the driver", LIMIT, |cluster| event.registered(cluster))?;
        let state = expect(self.cluster, text, (6, 1, 3, 4))?;
        event.report(self.cluster, self.slices)?;
        expect_same(self.before, &state)
    }
}

/// Kills the driver and waits until it runs again.
fn kill_driver(cluster: &Cluster) -> Result {
    let find = format!("pgrep -ox {COMMAND}");
    let old = cluster.node().run(&find)?;
    cluster.node().run(&format!("kill -KILL {old}"))?;
    cluster
        .wait("the driver runs again", LIMIT, |cluster| Ok((cluster.node().run(&find)? != old).then_some(())))
}

/// Kills the kubelet, and waits until the next one has deleted the slices of its node, as it does when it starts.
fn kill_kubelet(cluster: &Cluster, slices: &Watch, script: &str) -> Result {
    let start = Instant::now();
    cluster.node().run(script)?;
    cluster.wait("the kubelet has deleted the slices", LIMIT, |_| {
        let mut moments = slices.moments(start).into_iter();
        Ok(moments.any(|moment| moment.time >= start && moment.devices.is_empty()).then_some(()))
    })
}

/// Fails unless the same processes of pods hold the same groups, and the pods have the same devices.
fn expect_same(before: &State, after: &State) -> Result {
    if before.node.kubelet != after.node.kubelet {
        return Err(format!("{:?} became {:?}", before.node.kubelet, after.node.kubelet).into());
    }
    let (had, have) = (before.holders_of_pods(), after.holders_of_pods());
    if had == have {
        Ok(())
    } else {
        Err(format!("processes {had:?} held the pods' groups, and {have:?} do").into())
    }
}
