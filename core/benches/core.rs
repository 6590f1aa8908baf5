//! Measures scan, peek, probe and a monitor's pass on a simulated node of 4096 functions, with 8,
//! 64 and 256 of them bound.

#![allow(clippy::unwrap_used, missing_docs, reason = "a benchmark may fail loudly")]

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use std::hint::black_box;
use std::io::Write;
use std::sync::Arc;
use std::time::Instant;
use vfio_probe::device::Detail;
use vfio_probe::monitor::Options;
use vfio_probe::peek::EnableCount;
use vfio_probe::{Buffer, DeviceId, GroupId, Monitor, Prober, Root};
use vfio_sim_node::{Function, Node};

const FUNCTIONS: u32 = 4096;

fn node(bound: u32) -> Node {
    let node = Node::new().unwrap();
    for index in 0..bound {
        node.add(Function::gpu(&format!("0000:{:02x}:{:02x}.0", index >> 5, index & 31), index, 0)).unwrap();
    }
    node.add_unbound_functions(FUNCTIONS - bound).unwrap();
    node
}

fn scan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("scan");
    for bound in [8, 64, 256] {
        let node = node(bound);
        let (root, mut buffer) = (Root::open(node.root()).unwrap(), Buffer::new());
        group.throughput(Throughput::Elements(bound.into()));
        for (name, detail) in [("identity", Detail::Identity), ("full", Detail::Full)] {
            group.bench_function(BenchmarkId::new(name, bound), |bencher| {
                bencher.iter(|| {
                    root.scan(detail, &mut buffer, |device| {
                        black_box(device.unwrap());
                    })
                });
            });
        }
    }
}

fn pass(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("pass");
    for bound in [8, 64, 256] {
        let node = node(bound);
        let root = Root::open(node.root()).unwrap();
        let prober = Arc::new(Prober::new(root.clone()));
        let mut monitor = Monitor::new(root, prober, Options::default()).unwrap();
        let mut changes = Vec::new();
        group.throughput(Throughput::Elements(bound.into()));
        group.bench_function(BenchmarkId::from_parameter(bound), |bencher| {
            bencher.iter(|| {
                changes.clear();
                monitor.pass(Instant::now(), &mut changes).unwrap();
            });
        });
    }
}

fn one(criterion: &mut Criterion) {
    let node = node(8);
    let (root, mut buffer) = (Root::open(node.root()).unwrap(), Buffer::new());
    let mut group = criterion.benchmark_group("one");
    group.bench_function("peek at a group", |bencher| {
        bencher.iter(|| root.peek(GroupId(3), &mut buffer).unwrap());
    });
    let (mut count, device) = (EnableCount::default(), DeviceId::parse(b"0000:00:03.0").unwrap());
    group.bench_function("peek by a kept descriptor", |bencher| {
        bencher.iter(|| count.read(&root, device).unwrap());
    });
    group.bench_function("probe a free group", |bencher| bencher.iter(|| root.probe(GroupId(3))));
    let _vm = node.start_vm(&vfio_sim_node::VmSpec::foreign(&["0000:00:04.0"])).unwrap();
    group.bench_function("probe a held group", |bencher| bencher.iter(|| root.probe(GroupId(4))));
}

/// Searches a file of the size and the shape of pci.ids. The wanted vendor is where NVIDIA is:
/// after 60 % of the file.
fn names(criterion: &mut Criterion) {
    let mut file = Vec::new();
    for vendor in 0..2400_u32 {
        writeln!(file, "{:04x}  Vendor {vendor}", 0x400 + vendor * 2).unwrap();
        for device in 0..16 {
            writeln!(
                file,
                "\t{device:04x}  Device {device} of some name\n\t\t1028 {device:04x}  A subsystem"
            )
            .unwrap();
        }
    }
    criterion.bench_function("names", |bencher| {
        let wanted = 0x400 + 1440 * 2;
        bencher.iter(|| {
            let mut found = 0;
            vfio_probe::names::find(&mut file.as_slice(), &[(wanted, 7)], &mut |_, _| found += 1).unwrap();
            assert_eq!(found, 1);
        });
    });
}

criterion_group!(benches, names, scan, pass, one);
criterion_main!(benches);
