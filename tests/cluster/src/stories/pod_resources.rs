//! F: pod resources of the kubelet, read by a client that is not the product's, for pods of several shapes.

use serde_json::Value;

use super::step::Step;
use super::{plugin, pods};
use crate::{Cluster, Result};

/// What each container opened by its variables is what the kubelet lists for its pod, and no other pod has it.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    plugin::deploy_probing(cluster, &[])?;
    let containers = |names: [&str; 2]| -> Vec<Value> {
        names.iter().map(|name| pods::container(name, 1, &["hold"])).collect()
    };
    let mut passes_on = pods::pod("passes-on", &[pods::container("vm", 1, &["hold"])]);
    passes_on["spec"]["initContainers"] = vec![pods::container("check", 1, &["once"])].into();
    pods::create(
        cluster,
        &[
            pods::pod("two-containers", &containers(["left", "right"])),
            pods::vm("two-devices", 2),
            passes_on,
            pods::pod("opens-nothing", &[pods::container("vm", 1, &["idle"])]),
            pods::pod("no-device", &[pods::container("other", 0, &["idle"])]),
        ],
    )?;
    let state = Step::new("pods of five shapes run", 6, 6, 5).idle(&["opens-nothing"]).settle(cluster)?;

    for (pod, all) in
        [("two-containers", ["left", "right"].as_slice()), ("two-devices", &["vm"]), ("passes-on", &["vm"])]
    {
        let mut opened = Vec::new();
        for container in all {
            let log = cluster.kubectl_text(&["logs", pod, "--container", container])?;
            opened.extend(
                log.lines()
                    .filter_map(|line| line.strip_prefix("held ")?.split(' ').next().map(String::from)),
            );
        }
        opened.sort();
        if opened != state.devices(pod) {
            return Err(
                format!("{pod} opened {opened:?}, and the kubelet lists {:?}", state.devices(pod)).into()
            );
        }
    }
    let first = cluster.kubectl_text(&["logs", "passes-on", "--container", "check"])?;
    cluster.step(&format!("an init container passed its device on: {}", first.trim()));
    plugin::check_list(cluster, &state, true)
}
