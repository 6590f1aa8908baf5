//! Tests of hardware checks, with reads that a test scripts.

use super::*;
use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, Sender, channel};
use vfio_plugin_policy::health::hardware::Reading;
use vfio_plugin_policy::testing::device_state;
use vfio_probe::bounded_pool::Limits;
use vfio_probe::{Occupancy, PciAddress, Viability};

const INTERVAL: Duration = Duration::from_secs(10);
const SETTLING: Duration = Duration::from_secs(3);
const TIMING: Timing = Timing { interval: INTERVAL, settling: SETTLING };

/// Returns a monitor whose reads are these.
fn monitor_with(
    read: impl Fn(PciAddress, bool) -> Reading + Send + Sync + 'static,
    now: Instant,
) -> HardwareMonitor {
    HardwareMonitor::with(Box::new(read), Arc::new(KeptReaders::new()), TIMING, now)
}

/// Devices on the buses 1 to 6. A read of one in reset hangs until the sender is dropped; the others are lost.
fn node(in_reset: &'static [u8]) -> (HardwareMonitor, NodeSnapshot, Instant, Sender<()>) {
    let begin = Instant::now();
    let (release, hang): (_, Receiver<()>) = channel();
    let hang = Mutex::new(hang);
    let read = move |address: PciAddress, _| {
        if in_reset.contains(&address.bus) {
            let _ = hang.lock().unwrap().recv();
        }
        Reading { presence: Some(Presence::Lost), fatal: None }
    };
    (monitor_with(read, begin), devices(1..=6, begin), begin, release)
}

fn devices(buses: std::ops::RangeInclusive<u8>, since: Instant) -> NodeSnapshot {
    let seen = |bus: u8| {
        let address = format!("0000:{bus:02x}:00.0");
        device_state(&address, u32::from(bus), Occupancy::Free, since, Viability::Viable, false)
    };
    NodeSnapshot { devices: buses.map(seen).collect(), ..NodeSnapshot::default() }
}

/// One device, with reads that return these in turn; and whether each read was allowed to wake it.
fn one(readings: &[Presence]) -> (HardwareMonitor, NodeSnapshot, Instant, Arc<Mutex<Vec<bool>>>) {
    let begin = Instant::now();
    let readings = Mutex::new(VecDeque::from(readings.to_vec()));
    let reads = Arc::new(Mutex::new(Vec::new()));
    let theirs = Arc::clone(&reads);
    let read = move |_, may_wake| {
        theirs.lock().unwrap().push(may_wake);
        Reading { presence: readings.lock().unwrap().pop_front(), fatal: None }
    };
    (monitor_with(read, begin), devices(1..=1, begin), begin, reads)
}

/// A pass: begins a round if it is time for one, waits for it, and takes in its readings.
fn pass(hardware: &mut HardwareMonitor, snapshot: &NodeSnapshot, now: Instant) {
    let before = hardware.due;
    hardware.read(snapshot, now);
    if hardware.due != before {
        wait_for(hardware, &[1]);
    }
    hardware.take_readings();
}

/// Waits until the devices on these buses were read, each as often as it is listed.
fn wait_for(hardware: &HardwareMonitor, buses: &[u8]) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let work = hardware.readers.work();
        let mut done: Vec<u8> = work.done.iter().map(|done| done.address.bus).collect();
        drop(work);
        done.sort_unstable();
        if done == buses {
            return;
        }
        assert!(Instant::now() < deadline && done.len() <= buses.len(), "{done:?}, not {buses:?}");
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn hanging_read_delays_the_others_by_one_round_at_most() {
    let (mut hardware, snapshot, begin, release) = node(&[2, 4]);
    hardware.read(&snapshot, begin);
    assert_eq!(hardware.readers.pool.threads(), 0, "not while devices settle");
    hardware.read(&snapshot, begin + SETTLING);
    wait_for(&hardware, &[1]);
    // A second thread goes on and hangs in its turn; a third one reads all the others.
    hardware.read(&snapshot, begin + SETTLING + INTERVAL);
    wait_for(&hardware, &[1, 3]);
    hardware.read(&snapshot, begin + SETTLING + INTERVAL * 2);
    wait_for(&hardware, &[1, 1, 3, 3, 5, 6]);
    hardware.read(&snapshot, begin + SETTLING + INTERVAL * 3);
    wait_for(&hardware, &[1, 1, 1, 3, 3, 3, 5, 5, 6, 6]);
    assert_eq!(hardware.readers.pool.threads(), 3);
    drop(release);
    wait_for(&hardware, &[1, 1, 1, 2, 3, 3, 3, 4, 5, 5, 6, 6]);
}

#[test]
fn suspected_device_is_read_sooner_and_a_rebind_starts_over() {
    let (mut hardware, snapshot, begin, _release) = node(&[]);
    let all = [1, 2, 3, 4, 5, 6];
    let id = snapshot.devices[0].device.id;
    let begin = begin + SETTLING;
    hardware.read(&snapshot, begin);
    wait_for(&hardware, &all);
    assert!(!hardware.take_readings(), "one reading changes nothing");
    assert!(!hardware.hardware(id).lost);
    assert!(hardware.due < begin + INTERVAL, "it is read again soon");
    // As if the first read had been long ago.
    for history in hardware.histories.values_mut() {
        *history = HardwareHistory::new(false, Duration::ZERO);
        history.record(Reading { presence: Some(Presence::Lost), fatal: None }, begin - SETTLING);
    }
    hardware.read(&snapshot, begin + INTERVAL);
    wait_for(&hardware, &all);
    assert!(hardware.take_readings());
    assert!(hardware.hardware(id).lost);
    hardware.unbound(id);
    assert!(!hardware.hardware(id).lost);
    hardware.bound(begin + INTERVAL);
    assert_eq!(hardware.due, begin + INTERVAL + SETTLING);
}

#[test]
fn suspected_device_that_sleeps_is_read_once_a_round() {
    let mut readings = vec![Presence::NotChecked; 40];
    readings[0] = Presence::Lost;
    let (mut hardware, snapshot, begin, reads) = one(&readings);
    for second in 0..300 {
        pass(&mut hardware, &snapshot, begin + Duration::from_secs(second));
    }
    // The first read, the one that its result brings forward, and one each ten seconds.
    let count = reads.lock().unwrap().len();
    assert!((30..=32).contains(&count), "{count}");
    assert!(!reads.lock().unwrap().contains(&true), "a suspicion wakes no device");
}

#[test]
fn lost_device_is_woken_once_a_minute_unless_it_is_held() {
    let (mut hardware, mut snapshot, begin, reads) = one(&[Presence::NotChecked; 99]);
    let id = snapshot.devices[0].device.id;
    hardware.histories.insert(id, HardwareHistory::new(true, SETTLING));
    for second in 0..180 {
        pass(&mut hardware, &snapshot, begin + Duration::from_secs(second));
    }
    let woken = reads.lock().unwrap().iter().filter(|may_wake| **may_wake).count();
    assert_eq!((woken, hardware.hardware(id).lost), (3, true));
    reads.lock().unwrap().clear();
    snapshot.devices[0].group.as_mut().unwrap().occupancy = Occupancy::Held;
    for second in 180..400 {
        pass(&mut hardware, &snapshot, begin + Duration::from_secs(second));
    }
    assert!(!reads.lock().unwrap().contains(&true));
}

#[test]
fn unbound_device_is_not_read_and_its_hung_read_is_dropped() {
    let (mut hardware, mut snapshot, begin, release) = node(&[1]);
    let id = snapshot.devices[0].device.id;
    hardware.read(&snapshot, begin + SETTLING);
    while hardware.readers.pool.threads() == 0 || !hardware.readers.is_under_way(id) {
        std::thread::yield_now();
    }
    // The first hangs, the others wait. The first two are unbound, and the third is no longer offered.
    let second = snapshot.devices[1].device.id;
    hardware.unbound(id);
    hardware.unbound(second);
    snapshot.devices = snapshot.devices.iter().skip(3).cloned().collect();
    hardware.read(&snapshot, begin + SETTLING + INTERVAL);
    wait_for(&hardware, &[4, 5, 6]);
    drop(release);
    while hardware.readers.is_under_way(id) {
        std::thread::yield_now();
    }
    wait_for(&hardware, &[4, 5, 6]);
    hardware.take_readings();
    assert_eq!(hardware.histories.len(), 3);
}

#[tokio::test]
async fn urgent_read_wakes_a_sleeping_device_once() {
    let (mut hardware, snapshot, begin, reads) = one(&[Presence::NotChecked, Presence::Lost]);
    let id = snapshot.devices[0].device.id;
    let address = id.pci().unwrap();
    assert!(hardware.readers.wake(address).is_none(), "never read");
    pass(&mut hardware, &snapshot, begin + SETTLING);
    let found = hardware.readers.wake(address).unwrap().await.unwrap();
    assert_eq!(found.presence, Some(Presence::Lost));
    assert!(hardware.take_readings() && hardware.hardware(id).lost);
    assert_eq!(*reads.lock().unwrap(), [false, true]);
    assert!(hardware.readers.wake(address).is_none(), "it was read awake");
}

#[tokio::test]
async fn after_the_end_no_read_begins() {
    let (mut hardware, snapshot, begin, reads) = one(&[Presence::NotChecked, Presence::Lost]);
    let address = snapshot.devices[0].device.id.pci().unwrap();
    pass(&mut hardware, &snapshot, begin + SETTLING);
    hardware.readers.end();
    assert!(hardware.readers.wake(address).is_none());
    hardware.read(&snapshot, begin + SETTLING + INTERVAL);
    assert_eq!(reads.lock().unwrap().len(), 1);
}

#[test]
fn thread_that_cannot_start_is_logged_once() {
    // No address space has room for this stack.
    let limits = Limits { threads: 4, hang: Duration::ZERO, name: "hardware", stack_size: 1 << 60 };
    let readers = HardwareReaders::with(Box::new(|_, _| Reading::default()), limits);
    let id = devices(1..=1, Instant::now()).devices[0].device.id;
    let round = || readers.read_all(&[(id.pci().unwrap(), false)]);
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("log");
    let file = Arc::new(std::fs::File::create(&path).unwrap());
    let subscriber = tracing_subscriber::fmt().with_writer(file).finish();
    tracing::subscriber::with_default(subscriber, || (0..3).for_each(|_| round()));
    let log = std::fs::read_to_string(path).unwrap();
    assert_eq!(log.matches("could not be started").count(), 1, "{log}");
}
