//! The counters and histograms, and the two formats.

use crate::common::{H100, expect, kubelet};
use crate::scrape::{Labels, Series, Served, get, request};
use std::collections::BTreeSet;
use vfio_sim_node::{Node, VmSpec};

const GPU: &str = "0000:1b:00.0";

/// Returns the number of durations of a histogram, and checks its buckets.
#[track_caller]
fn durations(series: &Series, name: &str) -> f64 {
    let buckets = series.all(&format!("{name}_bucket"), &[]);
    let counts: Vec<f64> = buckets.iter().map(|(_, count)| *count).collect();
    assert!(counts.len() > 10 && counts.is_sorted(), "{name}: {buckets:?}");
    let limits: Vec<f64> = buckets.iter().map(|(labels, _)| labels["le"].parse().unwrap()).collect();
    assert!(limits.is_sorted() && *limits.last().unwrap() == f64::INFINITY, "{name}: {limits:?}");
    let count = series.get(&format!("{name}_count"), &[]).unwrap();
    assert_eq!(counts.last(), Some(&count), "{name}");
    assert_eq!(series.get(&format!("{name}_sum"), &[]).unwrap() > 0.0, count > 0.0, "{name}");
    count
}

#[tokio::test]
async fn allocations_are_counted_by_result() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let served = Served::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let counts = || {
        let series = served.scrape();
        let count =
            |result| series.get("vfio_allocations_total", &[("resource", H100), ("result", result)]).unwrap();
        let durations = durations(&series, "vfio_allocate_duration_seconds");
        (["granted", "refused", "failed"].map(count), durations)
    };
    assert_eq!(counts(), ([0.0, 0.0, 0.0], 0.0));
    kubelet.admit("vm-1", H100, 2).await.unwrap();
    assert_eq!(counts(), ([1.0, 0.0, 0.0], 1.0));
    let _vm = node.start_vm(&VmSpec::foreign(&["0000:df:00.0"])).unwrap();
    kubelet.allocate(H100, &[&["0000:df:00.0".to_owned()]]).await.unwrap_err();
    assert_eq!(counts(), ([1.0, 1.0, 0.0], 2.0));
    kubelet.allocate(H100, &[&["0000:ff:1f.7".to_owned()]]).await.unwrap_err();
    assert_eq!(counts(), ([1.0, 1.0, 1.0], 3.0));
}

#[tokio::test]
async fn probes_passes_polls_and_registrations_are_counted() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let served = Served::start(&node, &[]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 7).await;
    let series = served
        .wait_for("probed", |series| series.get("vfio_probes_total", &[("result", "held")]) >= Some(1.0));
    assert!(series.get("vfio_probes_total", &[("result", "free")]) >= Some(7.0));
    let results: Vec<&str> =
        series.all("vfio_probes_total", &[]).iter().map(|(labels, _)| labels["result"].as_str()).collect();
    assert_eq!(results, ["free", "held", "absent", "denied", "timeout", "error"]);
    let probes: f64 = series.all("vfio_probes_total", &[]).iter().map(|(_, count)| count).sum();
    assert_eq!(durations(&series, "vfio_probe_duration_seconds"), probes);
    assert!(durations(&series, "vfio_monitor_pass_duration_seconds") >= 1.0);
    let ok =
        |name, labels: &[(&str, &str)]| series.get(name, &[labels, &[("result", "ok")]].concat()).unwrap();
    assert_eq!(ok("vfio_registrations_total", &[("resource", H100)]), 1.0);
    assert!(ok("vfio_kubelet_polls_total", &[("source", "pod_resources")]) >= 1.0);
    assert!(ok("vfio_kubelet_polls_total", &[("source", "checkpoint")]) >= 1.0);
    assert_eq!(series.get("vfio_log_lines_lost_total", &[]), Some(0.0));
    kubelet.restart(true).await.unwrap();
    served.wait_for("registered again", |series| {
        let labels = [("resource", H100), ("result", "ok")];
        series.get("vfio_registrations_total", &labels) >= Some(2.0)
    });
}

#[tokio::test]
async fn clients_get_openmetrics_if_they_accept_it() {
    let node = Node::with_eight_gpus().unwrap();
    let kubelet = kubelet(&node).await;
    let served = Served::start(&node, &["--interval", "10s"]);
    expect(&kubelet, "offered", |state| state.capacity(H100).allocatable == 8).await;
    let accept = |types: &str| {
        request(served.address, &format!("GET /metrics HTTP/1.1\r\nHost: test\r\nAccept: {types}\r\n\r\n"))
    };
    let open = accept("application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5");
    assert!(open.head.contains("content-type: application/openmetrics-text; version=1.0.0; charset=utf-8"));
    assert!(
        open.body.ends_with("# EOF\n") && open.body.contains("# UNIT vfio_probe_duration_seconds seconds\n")
    );
    for text in [accept("text/plain"), accept("*/*"), get(served.address, "/metrics")] {
        assert!(
            text.head.contains("content-type: text/plain; version=0.0.4; charset=utf-8"),
            "{}",
            text.head
        );
        assert!(!text.body.contains("EOF") && !text.body.contains("# UNIT"));
    }
    let text = Series::parse(&get(served.address, "/metrics").body);
    // They differ in the order of a histogram's series, and in how they write a limit.
    let names = |series: &Series| -> BTreeSet<String> {
        let name = |(name, labels, _): &(String, Labels, f64)| {
            let limit = labels.get("le").map(|limit| limit.parse::<f64>().unwrap());
            let others: Vec<_> = labels.iter().filter(|(label, _)| *label != "le").collect();
            format!("{name}{others:?}{limit:?}")
        };
        series.values.iter().map(name).collect()
    };
    assert_eq!(names(&Series::parse(&open.body)), names(&text), "both formats have the same series");
}
