//! The chart, installed, upgraded and uninstalled with Helm while a VM runs.

use xtask::context::Context;
use xtask::suites::chart;

use super::replaced::expect_same_holders;
use super::step::Step;
use super::{plugin, pods};
use crate::sources::Disagreement;
use crate::{Cluster, Result};

/// Installing twice finds the VM's device assigned. In between the node has no plugin: its devices are not allocatable, and the
/// VM runs on.
pub(super) fn run(cluster: &mut Cluster) -> Result {
    let values = ["--set", "mode=probing", "--wait", "--timeout", "5m"];
    helm(cluster, &["install", "vfio-device-plugin", "deploy/chart"], &values)?;
    pods::create(cluster, &[pods::vm("vm", 1)])?;
    let before = Step::new("installed, and a VM runs", 6, 1, 1).settle(cluster)?;
    plugin::check_list(cluster, &before, true)?;

    helm(
        cluster,
        &["upgrade", "vfio-device-plugin", "deploy/chart"],
        &[&values[..], &["--set", "log.level=debug"]].concat(),
    )?;
    let after = Step::new("upgraded to other values", 6, 1, 1).settle(cluster)?;
    expect_same_holders(&before, &after)?;

    helm(cluster, &["uninstall", "vfio-device-plugin"], &["--wait"])?;
    let gone = Disagreement::Free { free: -1, openable: 5 };
    let after = Step::new("uninstalled", 0, 1, 1).disagrees(vec![gone]).settle(cluster)?;
    expect_same_holders(&before, &after)?;

    helm(cluster, &["install", "vfio-device-plugin", "deploy/chart"], &values)?;
    let after = Step::new("installed again", 6, 1, 1).settle(cluster)?;
    expect_same_holders(&before, &after)?;
    plugin::check_list(cluster, &after, true)?;
    helm(cluster, &["uninstall", "vfio-device-plugin"], &["--wait"])
}

fn helm(cluster: &Cluster, command: &[&str], options: &[&str]) -> Result {
    let mut context = Context::new()?;
    let program = chart::helm(&mut context)?;
    let mut helm = context.command(program);
    helm.current_dir(&context.top).env("KUBECONFIG", cluster.kubeconfig()).env("HELM_NO_PLUGINS", "1");
    xtask::process::run(helm.args(command).args(["--namespace", "kube-system"]).args(options))
}
