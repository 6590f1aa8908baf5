//! A static pod: the kubelet runs it from a file, and no scheduler has placed it.

use super::step::Step;
use super::{plugin, pods};
use crate::{Cluster, Result};

/// The kubelet's directory of static pods.
const FILE: &str = "/etc/kubernetes/manifests/vm.yaml";

/// It gets its device through the plugin as any pod, its mirror counts as requested, and its end frees the device.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    plugin::deploy_probing(cluster, &[])?;
    Step::new("the plugin offers six devices", 6, 0, 0).settle(cluster)?;
    let outcome = story(cluster);
    cluster.node().run(&format!("rm -f {FILE}"))?;
    outcome?;
    Step::new("the file is removed", 6, 0, 0).settle(cluster)?;
    Ok(())
}

fn story(cluster: &Cluster) -> Result {
    let mut pod = pods::vm("static", 1);
    // A static pod starts again on its own; `Never` is for what the scheduler placed.
    pod["spec"]["restartPolicy"] = "Always".into();
    // JSON is YAML; no text in it has a quote.
    cluster.node().run(&format!("mkdir -p /etc/kubernetes/manifests; cat >{FILE} <<'END'\n{pod}\nEND"))?;
    let state = Step::new("the static pod runs", 6, 1, 1).settle(cluster)?;
    plugin::check_list(cluster, &state, true)
}
