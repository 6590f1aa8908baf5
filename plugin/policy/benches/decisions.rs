//! Times the decisions that run often, on nodes with 8, 256 and 1,024 devices: an Allocate of one device, a pass, and the lists.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a benchmark may fail loudly, and needs any moment"
)]
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use criterion::{Criterion, criterion_group, criterion_main};
use std::collections::BTreeSet;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_plugin_policy::allocation::plan;
use vfio_plugin_policy::allocation::preferred::choose;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::health::tracker::{Facts, HealthTracker, Policy};
use vfio_plugin_policy::kubelet_id::KubeletDeviceId;
use vfio_plugin_policy::pools::terms::Busy;
use vfio_plugin_policy::testing::{allocate, allocated, node_of, request};

const RESOURCE: &str = "nvidia.com/GPU";
const POLICY: Policy = Policy { busy: Busy::Attributed, settling: Duration::from_secs(3), check_node: true };

fn decisions(criterion: &mut Criterion) {
    for size in [8, 256, 1024] {
        let snapshot = node_of(size);
        let assignments = allocated(&snapshot);
        let gone = BTreeSet::new();
        let now = Instant::now();
        let facts = Facts { snapshot: &snapshot, assignments: &assignments, gone: &gone, now };
        let mut tracker = HealthTracker::default();
        tracker.decide(POLICY, &facts);
        let one = request(snapshot.devices.iter().skip(3).take(1));
        let ids: Vec<_> =
            snapshot.devices.iter().map(|device| KubeletDeviceId::Device(device.device.id)).collect();
        let mut bench = |name: &str, work: &mut dyn FnMut()| {
            criterion.bench_function(&format!("{name}, {size} devices"), |bencher| bencher.iter(&mut *work));
        };
        bench("plan of an Allocate", &mut || {
            black_box(plan(RESOURCE, &one, &snapshot, &assignments).unwrap());
        });
        bench("Allocate: plan, assignments, decisions", &mut || {
            let plan = plan(RESOURCE, &one, &snapshot, &assignments).unwrap();
            let allocates: Vec<_> = plan.devices().map(|device| Arc::new(allocate(device))).collect();
            let next = assignments.with_allocates(&allocates).unwrap();
            let ids: Vec<_> = plan.devices().map(|device| device.device.id).collect();
            let facts = Facts { assignments: &next, ..facts };
            black_box(tracker.decide_assigned(POLICY, &facts, &ids));
        });
        bench("pass without a change", &mut || {
            black_box(tracker.decide(POLICY, &facts));
        });
        bench("lists", &mut || {
            let listed = tracker.listed(&snapshot);
            let text = |device: &DeviceState| device.device.id.to_string();
            let list: Vec<_> = listed.map(|(device, after)| (text(device), after.health.as_str())).collect();
            black_box(list);
        });
        bench("preferred device of all", &mut || {
            black_box(choose(&snapshot, &assignments, &ids, &[], 1));
        });
    }
}

criterion_group!(benches, decisions);
criterion_main!(benches);
