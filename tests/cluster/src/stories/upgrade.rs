//! Rolling updates of the plugin while VMs run, with the hand-over between the two pods and without it, and processes that are
//! killed in the middle. Meanwhile allocatable is sampled.

use std::time::Duration;

use super::replaced::expect_same_holders;
use super::sampler::{Sampler, Samples};
use super::step::{State, Step};
use super::{plugin, pods};
use crate::{Cluster, Result};

const VMS: [&str; 2] = ["vm-1", "vm-2"];
/// The time for the new pod to replace the old one.
const ROLLOUT: Duration = Duration::from_secs(600);
/// How often the plugin is updated.
const ROUNDS: usize = 5;
/// At which step lines of a hand-over a process is killed: the side and the step that it has logged.
const CRASHES: [(&str, u32); ROUNDS] = [("old", 6), ("old", 3), ("new", 3), ("new", 5), ("new", 6)];
/// Where `strike` writes on the node.
const STRIKE: &str = "/run/strike";

/// With the hand-over, no sample of either source shows fewer devices. Without it, the samples show the gap.
pub(super) fn updates(cluster: &mut Cluster) -> Result {
    plugin::deploy_probing(cluster, &[])?;
    let before = prepare(cluster)?;
    for round in 1..=ROUNDS {
        let samples = roll(cluster, &before, &format!("update {round} with the hand-over"), round, None)?;
        if samples.has_gap() {
            return Err(format!("update {round} has a gap").into());
        }
    }
    without_surge(cluster)?;
    let mut gaps = 0;
    for round in ROUNDS + 1..=2 * ROUNDS {
        let text = format!("update {round} without the hand-over");
        gaps += usize::from(roll(cluster, &before, &text, round, None)?.has_gap());
    }
    if gaps == 0 {
        return Err("no sample shows the gap of an update without the hand-over".into());
    }
    third_vm(cluster)
}

/// Whichever process is killed at whichever step, the update ends, no VM loses a device, and the figures are right. A gap is
/// possible.
pub(super) fn crashes(cluster: &mut Cluster) -> Result {
    // The kubelet may start the container of a killed old process again before the new pod is ready. It must not take over again.
    plugin::deploy_slowly_ready(cluster)?;
    let before = prepare(cluster)?;
    for (round, (side, step)) in (1..).zip(CRASHES) {
        let words = [format!(r#""side":"{side}""#), format!(r#""step":{step}"#)];
        let text = format!("update {round}, the {side} process killed at step {step}");
        roll(cluster, &before, &text, round, Some(&words))?;
    }
    without_surge(cluster)?;
    for round in ROUNDS + 1..=2 * ROUNDS {
        let text = format!("update {round} without the hand-over, the new process killed");
        roll(cluster, &before, &text, round, Some(&[r#""message":"registered"#.into()]))?;
    }
    third_vm(cluster)
}

/// Starts two VMs, and gives the image a second name: a rolling update does not look into images.
fn prepare(cluster: &Cluster) -> Result<State> {
    pods::create(cluster, &VMS.map(|name| pods::vm(name, 2)))?;
    let shipped = &cluster.plugin().image;
    cluster.node().run(&format!("ctr -n k8s.io images tag --force {shipped} {}", plugin::NEW_IMAGE))?;
    Step::new("two VMs with two devices each run", 6, 4, 4).settle(cluster)
}

/// Changes the DaemonSet so that a rolling update ends the old pod before the new one starts.
fn without_surge(cluster: &Cluster) -> Result {
    let strategy = r#"{"spec":{"updateStrategy":{"rollingUpdate":{"maxSurge":0,"maxUnavailable":1}}}}"#;
    kubectl(cluster, &["patch", "daemonset", plugin::NAME, "--patch", strategy])?;
    cluster.step("maxSurge is 0 from now on");
    Ok(())
}

/// The next VM finds what is free.
fn third_vm(cluster: &Cluster) -> Result {
    pods::create(cluster, &[pods::vm("vm-3", 2)])?;
    Step::new("a third VM runs", 6, 6, 6).settle(cluster).map(drop)
}

/// Updates the DaemonSet to the image's other name, waits for the new pod, compares, and returns the samples meanwhile. With words,
/// the process that logs them is killed at once.
fn roll(
    cluster: &Cluster,
    before: &State,
    text: &str,
    round: usize,
    strike: Option<&[String]>,
) -> Result<Samples> {
    let old = cluster.plugin_pod()?;
    let sampler = Sampler::start(cluster)?;
    if let Some(words) = strike {
        arm(cluster, words)?;
    }
    let image = if round % 2 == 1 { plugin::NEW_IMAGE } else { &cluster.plugin().image };
    let target = format!("daemonset/{}", plugin::NAME);
    kubectl(cluster, &["set", "image", &target, &format!("{}={image}", plugin::NAME)])?;
    cluster.wait(&format!("{text} is complete"), ROLLOUT, |cluster| {
        kubectl(cluster, &["rollout", "status", &target, "--timeout=5s"])?;
        Ok((cluster.plugin_pod()? != old).then_some(()))
    })?;
    if strike.is_some() {
        let said = cluster.node().run(&format!("cat {STRIKE}"))?;
        let killed = said.lines().find(|line| line.starts_with("killed "));
        let killed = killed.ok_or_else(|| format!("no process was killed: {said}"))?;
        cluster.step(&killed.chars().take(200).collect::<String>());
    }
    let after = Step::new(&format!("after {text}"), 6, 4, 4).settle(cluster)?;
    expect_same_holders(before, &after)?;
    let samples = sampler.finish(cluster, 6)?;
    cluster.step(&format!("    allocatable in the API server: {}", samples.api));
    cluster.step(&format!("    allocatable in the kubelet: {}", samples.kubelet));
    Ok(samples)
}

/// Starts `strike` on the node and waits until it watches.
fn arm(cluster: &Cluster, words: &[String]) -> Result {
    let words: Vec<String> = words.iter().map(|word| format!("'{word}'")).collect();
    let script = format!(
        "rm -f {STRIKE}; setsid strike kube-system_{}- serve {} >{STRIKE} 2>&1 </dev/null &",
        plugin::NAME,
        words.join(" ")
    );
    cluster.node().run(&script)?;
    cluster.wait("strike watches the logs", Duration::from_secs(60), |cluster| {
        let said = cluster.node().run(&format!("cat {STRIKE}"))?;
        if said.contains("waiting") { Ok(Some(())) } else { Err(format!("it says {said:?}").into()) }
    })
}

fn kubectl(cluster: &Cluster, arguments: &[&str]) -> Result {
    cluster.kubectl_text(&[arguments, &["--namespace", "kube-system"]].concat()).map(drop)
}
