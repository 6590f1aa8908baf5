//! Shares one root and one prober among many threads while VMs start and stop.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use vfio_probe::device::Detail;
use vfio_probe::peek::Peek;
use vfio_probe::{Buffer, GroupId, Occupancy, Prober, Root, UnknownReason};
use vfio_sim_node::{Node, VmSpec};

#[test]
fn eight_threads_get_the_same_results_as_one() {
    let node = Node::with_eight_gpus().unwrap();
    let _held = node.start_vm(&VmSpec::foreign(&["0000:1b:00.0"])).unwrap();
    let root = Root::open(node.root()).unwrap();
    let prober = Prober::new(root.clone());
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                scope.spawn(|| {
                    let mut buffer = Buffer::new();
                    let mut rounds = 0;
                    while !done.load(Ordering::Relaxed) || rounds < 20 {
                        let mut devices = 0;
                        root.scan(Detail::Full, &mut buffer, |device| devices += i32::from(device.is_ok()))
                            .unwrap();
                        assert_eq!(devices, 8);
                        assert_eq!(root.peek(GroupId(51), &mut buffer).unwrap(), Peek::LooksHeld);
                        assert_eq!(root.peek(GroupId(52), &mut buffer).unwrap(), Peek::LooksFree);
                        assert_eq!(root.probe(GroupId(51)), Occupancy::Held);
                        assert_eq!(root.probe(GroupId(52)), Occupancy::Free);
                        // The probe times out at once while another thread's probe of the group is
                        // outstanding.
                        let timed_out = Occupancy::Unknown(UnknownReason::TimedOut);
                        let result = prober.probe(GroupId(51), Duration::from_secs(60));
                        assert!(result == Occupancy::Held || result == timed_out, "{result:?}");
                        let result = prober.probe(GroupId(52), Duration::from_secs(60));
                        assert!(result == Occupancy::Free || result == timed_out, "{result:?}");
                        rounds += 1;
                    }
                    rounds
                })
            })
            .collect();
        for _ in 0..5 {
            // No thread probes this group, but the tree changes while they work.
            node.start_vm(&VmSpec::foreign(&["0000:df:00.0"])).unwrap().kill();
        }
        done.store(true, Ordering::Relaxed);
        assert!(threads.into_iter().all(|thread| thread.join().unwrap() >= 20));
    });
}
