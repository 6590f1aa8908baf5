//! docs/metrics.md and the series agree.

use crate::common::{H100, expect, kubelet};
use crate::scrape::Served;
use std::collections::{BTreeMap, BTreeSet};
use vfio_sim_node::kubelet::PodResourcesMode;
use vfio_sim_node::{Node, VmSpec};

/// The labels of each series by name.
type Catalogue = BTreeMap<String, BTreeSet<String>>;

/// Reads the tables: `name` in the first column, labels in the second. A histogram has one row.
fn documented() -> Catalogue {
    let page = include_str!("../../../docs/metrics.md");
    let rows = page.lines().filter(|line| line.starts_with("| `vfio_"));
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let words = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
        let name = words(cells[1]);
        assert_eq!(name.len(), 1, "{line}");
        (name[0].clone(), words(cells[2]).into_iter().collect())
    };
    let all: Vec<(String, BTreeSet<String>)> = rows.map(row).collect();
    let catalogue: Catalogue = all.iter().cloned().collect();
    assert_eq!(catalogue.len(), all.len(), "a series is documented twice");
    catalogue
}

#[tokio::test]
async fn every_series_is_documented_and_every_documented_one_exists() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let served = Served::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let _pod = kubelet.admit("vm-1", H100, 1).await.unwrap();
    let _vm = node.start_vm(&VmSpec::foreign(&["0000:df:00.0"])).unwrap();
    served.wait_for("Unhealthy", |series| !series.all("vfio_device_reason", &[]).is_empty());
    kubelet.set_pod_resources_mode(PodResourcesMode::RateLimited);
    // Each optional family has a series now.
    let series = served.wait_for("all", |series| {
        let optional = ["vfio_problem", "vfio_device_reason", "vfio_device_assignment_info"];
        optional.iter().all(|name| !series.all(name, &[]).is_empty())
    });
    let mut found = Catalogue::new();
    for (name, labels, _) in &series.values {
        let family = ["_bucket", "_sum", "_count"].iter().find_map(|end| name.strip_suffix(end));
        let family = family.filter(|family| series.families[*family].0 == "histogram").unwrap_or(name);
        let labels = labels.keys().filter(|label| *label != "le").cloned();
        found.entry(family.to_owned()).or_default().extend(labels);
    }
    let mut documented = documented();
    // These are of nodes with claims; tests/dra_driver compares them.
    documented.retain(|name, _| {
        !name.starts_with("vfio_dra_") && !["vfio_device_claim_info", "vfio_device_taint"].contains(&&**name)
    });
    assert_eq!(found, documented);
    for (name, (kind, help)) in &series.families {
        assert!(found.contains_key(name), "{name} has no series");
        assert!(
            !help.is_empty() && name.ends_with("_total") == (kind == "counter"),
            "{name}: {kind}: {help}"
        );
    }
}
