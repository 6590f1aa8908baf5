//! Follows a monitor over time: what it finds, and which groups it probes for that.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

use std::sync::Arc;
use std::time::{Duration, Instant};
use vfio_probe::holders::Via;
use vfio_probe::monitor::{Options, Tracked};
use vfio_probe::peek::Peek;
use vfio_probe::{Buffer, Change, DeviceId, Evidence, GroupId, Monitor, Occupancy, Prober, Root};
use vfio_sim_node::{Function, Hold, Node, VmSpec, trees};

const GPU: &str = "0000:1b:00.0";
const GROUP: GroupId = GroupId(51);
const INTERVAL: Duration = Duration::from_millis(20);
const PATIENCE: Duration = Duration::from_secs(10);

fn id(address: &str) -> DeviceId {
    address.parse().unwrap()
}

fn enable(node: &Node, count: u32) {
    node.write(&format!("sys/bus/pci/devices/{GPU}/enable"), format!("{count}\n")).unwrap();
}

struct Story {
    node: Node,
    monitor: Monitor,
}

impl Story {
    /// Creates a monitor that has made no pass yet.
    fn new(node: Node) -> Self {
        let root = Root::open(node.root()).unwrap();
        let prober = Arc::new(Prober::new(root.clone()));
        let options = Options { interval: INTERVAL, probe: true, ..Options::default() };
        Self { node, monitor: Monitor::new(root, prober, options).unwrap() }
    }

    /// Creates a monitor that has the results of all probes at discovery.
    fn discovered(node: Node) -> Self {
        let mut story = Self::new(node);
        story.until("the results at discovery", |monitor, _| monitor.initial_probes_done());
        story
    }

    /// Makes passes until a condition holds. Returns the changes of these passes.
    fn until(&mut self, what: &str, mut holds: impl FnMut(&Monitor, &[Change]) -> bool) -> Vec<Change> {
        let (mut changes, deadline) = (Vec::new(), Instant::now() + PATIENCE);
        loop {
            self.monitor.pass(Instant::now(), &mut changes).unwrap();
            if holds(&self.monitor, &changes) {
                return changes;
            }
            assert!(Instant::now() < deadline, "never: {what}; {changes:?} {:#?}", self.monitor);
            std::thread::sleep(INTERVAL / 4);
        }
    }

    /// Makes one pass.
    fn pass(&mut self) -> Vec<Change> {
        let mut changes = Vec::new();
        self.monitor.pass(Instant::now(), &mut changes).unwrap();
        changes
    }

    fn state(&self) -> (Occupancy, Evidence) {
        let state = &self.monitor.group(GROUP).unwrap().state;
        (state.occupancy, state.evidence)
    }
}

#[test]
fn default_options_open_no_group() {
    let node = Node::with_eight_gpus().unwrap();
    let _vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    assert!(!Options::default().probe);
    let root = Root::open(node.root()).unwrap();
    let mut watch = vfio_probe::Watch::open(&root, Default::default()).unwrap();
    let deadline = Instant::now() + PATIENCE;
    while watch.next() != Some(Ok(vfio_probe::Event::Held(GROUP))) {
        assert!(Instant::now() < deadline, "{watch:?}");
        std::thread::sleep(INTERVAL / 4);
    }
    let opens: Vec<u64> = (51..59).map(|group| node.opens(group)).collect();
    assert_eq!(opens, [0; 8]);
}

fn is_viable(monitor: &Monitor, group: u32) -> bool {
    monitor.group(GroupId(group)).unwrap().viability.is_viable()
}

#[test]
fn peer_bound_to_a_host_driver_is_noticed_in_one_pass() {
    let node = Node::with_eight_gpus().unwrap();
    node.add(Function::new("0000:1b:00.1", 51)).unwrap();
    let mut story = Story::discovered(node);
    assert!(is_viable(&story.monitor, 51));
    story.node.bind("0000:1b:00.1", "snd_hda_intel").unwrap();
    assert_eq!(story.pass(), [Change::Changed(GROUP)]);
    assert!(!is_viable(&story.monitor, 51));
    story.node.unbind("0000:1b:00.1").unwrap();
    assert_eq!(story.pass(), [Change::Changed(GROUP)]);
    assert!(is_viable(&story.monitor, 51));
}

#[test]
fn peers_of_many_groups_are_checked_within_four_passes() {
    let node = Node::with_eight_gpus().unwrap();
    let (groups, peer) = (200..270, |group: u32| format!("0001:{:02x}:00.1", group - 200));
    for group in groups.clone() {
        node.add(Function::gpu(&format!("0001:{:02x}:00.0", group - 200), group, 0)).unwrap();
        node.add(Function::new(&peer(group), group)).unwrap();
    }
    let mut story = Story::discovered(node);
    for group in groups.clone() {
        story.node.bind(&peer(group), "snd_hda_intel").unwrap();
    }
    let mut noticed = Vec::new();
    for _ in 0..4 {
        noticed.push(story.pass().len());
    }
    assert!(groups.clone().all(|group| !is_viable(&story.monitor, group)), "{noticed:?}");
    assert!(noticed[0] < 70 / 2, "a pass checks a quarter: {noticed:?}");
}

#[test]
fn function_added_to_a_group_is_noticed_within_eight_passes() {
    let mut story = Story::discovered(Node::with_eight_gpus().unwrap());
    story.node.add(Function::new("0000:1b:00.1", 51).with_driver(Some("snd_hda_intel"))).unwrap();
    let changes: Vec<Change> = (0..8).flat_map(|_| story.pass()).collect();
    assert_eq!(changes, [Change::Changed(GROUP)]);
    assert!(!is_viable(&story.monitor, 51));
}

#[test]
fn free_group_is_probed_once_and_then_only_peeked_at() {
    let mut story = Story::discovered(Node::with_eight_gpus().unwrap());
    assert_eq!(story.state(), (Occupancy::Free, Evidence::Open));
    for _ in 0..3 {
        let vm = story.node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
        assert_eq!(story.pass(), [Change::Held(GROUP)]);
        assert_eq!(story.state(), (Occupancy::Held, Evidence::Enable));
        assert_eq!(story.pass(), [], "reported once");
        vm.kill();
        assert_eq!(story.pass(), [Change::Freed(GROUP)]);
        std::thread::sleep(INTERVAL);
        assert_eq!(story.pass(), []);
    }
    for group in 51..59 {
        assert_eq!(story.node.opens(group), 1, "group {group}");
    }
}

#[test]
fn earlier_holder_is_proven_by_ebusy_and_its_end_by_a_probe() {
    for hold in [Hold::Device, Hold::GroupOnly] {
        let node = Node::with_eight_gpus().unwrap();
        let vm = node.start_vm(&VmSpec { hold, ..VmSpec::foreign(&[GPU]) }).unwrap();
        let mut story = Story::discovered(node);
        assert_eq!(story.state(), (Occupancy::Held, Evidence::Open), "{hold:?}");
        std::thread::sleep(INTERVAL * 3);
        assert_eq!(story.pass(), [], "{hold:?}");
        vm.kill();
        let changes = story
            .until("freed", |monitor, _| monitor.group(GROUP).unwrap().state.occupancy == Occupancy::Free);
        assert_eq!(changes, [Change::Freed(GROUP)], "{hold:?}");
        assert_eq!((story.state().1, story.node.opens(51)), (Evidence::Open, 1), "{hold:?}");
    }
}

#[test]
fn assigned_group_is_never_probed() {
    let node = Node::with_eight_gpus().unwrap();
    let mut story = Story::new(node);
    story.monitor.set_assigned(vfio_probe::monitor::Assigned { groups: vec![GROUP], ..Default::default() });
    story.until("the results at discovery", |monitor, _| monitor.initial_probes_done());
    assert_eq!(story.state(), (Occupancy::Free, Evidence::Enable));
    let vm = story.node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    assert_eq!(story.pass(), [Change::Held(GROUP)]);
    vm.kill();
    assert_eq!(story.pass(), [Change::Freed(GROUP)]);
    assert_eq!((story.node.opens(51), story.node.opens(52)), (0, 1));
}

#[test]
fn without_permission_to_probe_no_group_is_opened() {
    let node = Node::with_eight_gpus().unwrap();
    let root = Root::open(node.root()).unwrap();
    let prober = Arc::new(Prober::new(root.clone()));
    let options = Options { interval: INTERVAL, ..Options::default() };
    let mut story = Story { node, monitor: Monitor::new(root, prober, options).unwrap() };
    for _ in 0..3 {
        story.pass();
        std::thread::sleep(INTERVAL);
    }
    assert_eq!(story.state(), (Occupancy::Free, Evidence::Enable));
    assert_eq!(story.node.opens(51), 0);
}

#[test]
fn stale_enable_count_is_no_holder() {
    let node = Node::with_eight_gpus().unwrap();
    enable(&node, 1);
    let mut story = Story::discovered(node);
    assert_eq!(story.state(), (Occupancy::Free, Evidence::Open));
    let changes = story
        .until("its baseline is known", |monitor, _| monitor.devices().iter().any(Tracked::enable_is_stale));
    assert_eq!(
        (changes, story.node.opens(51)),
        (vec![], 2),
        "never reported as held; the second probe is for the baseline"
    );
    assert_eq!(story.pass(), [], "at its baseline it looks free");
    enable(&story.node, 2);
    assert_eq!(story.pass(), [Change::Held(GROUP)]);
    enable(&story.node, 1);
    assert_eq!(story.pass(), [Change::Freed(GROUP)]);
    enable(&story.node, 0);
    assert_eq!(story.pass(), []);
    enable(&story.node, 1);
    assert_eq!(story.pass(), [Change::Held(GROUP)], "the baseline has fallen");
}

#[test]
fn rebind_forgets_a_stale_enable_count() {
    let node = Node::with_eight_gpus().unwrap();
    enable(&node, 1);
    let mut story = Story::discovered(node);
    story.node.unbind(GPU).unwrap();
    // The result of the first probe may arrive with it.
    assert!(story.pass().contains(&Change::Unbound(id(GPU))));
    story.node.bind(GPU, "vfio-pci").unwrap();
    enable(&story.node, 1);
    let changes = story.until("probed again", |monitor, _| {
        monitor.group(GROUP).is_some_and(|group| group.state.evidence == Evidence::Open)
    });
    assert_eq!(changes, [Change::Bound(id(GPU)), Change::Held(GROUP), Change::Freed(GROUP)]);
}

#[test]
fn device_bound_later_is_followed_until_its_unbind() {
    let mut story = Story::discovered(Node::with_eight_gpus().unwrap());
    let late = "0000:f1:00.0";
    story.node.add(Function::gpu(late, 90, 1)).unwrap();
    let changes = story.pass();
    assert!(changes.starts_with(&[Change::Bound(id(late))]), "{changes:?}");
    assert_eq!(story.monitor.group(GroupId(90)).unwrap().state.occupancy, Occupancy::Free);
    assert_eq!(story.node.opens(90), 0, "a count of 0 at discovery needs no probe");
    story.node.unbind(late).unwrap();
    assert_eq!(story.pass(), [Change::Unbound(id(late))]);
    assert!(story.monitor.group(GroupId(90)).is_none());
}

#[test]
fn unbind_that_waits_for_its_holder_is_reported() {
    let mut story = Story::discovered(Node::with_eight_gpus().unwrap());
    let vm = story.node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    assert_eq!(story.pass(), [Change::Held(GROUP)]);
    story.node.unbind(GPU).unwrap();
    assert_eq!(story.pass(), [Change::Changed(GROUP)]);
    let tracked = |monitor: &Monitor| {
        let tracked = monitor.devices().iter().find(|tracked| tracked.device.id == id(GPU));
        tracked.map(|tracked| (tracked.unbinding, tracked.device.driver.is_none()))
    };
    assert_eq!(tracked(&story.monitor), Some((true, true)));
    assert_eq!(story.state().0, Occupancy::Held);
    vm.kill();
    assert_eq!(story.pass(), [Change::Unbound(id(GPU))]);
    assert_eq!(tracked(&story.monitor), None);
}

#[test]
fn removed_node_makes_its_group_absent_until_it_returns() {
    let mut story = Story::discovered(Node::with_eight_gpus().unwrap());
    let target = std::fs::read_link(story.node.root().join("dev/vfio/51")).unwrap();
    story.node.delete("dev/vfio/51").unwrap();
    assert_eq!(story.pass(), [Change::Changed(GROUP)]);
    assert_eq!(story.state(), (Occupancy::Absent, Evidence::Node));
    std::os::unix::fs::symlink(target, story.node.root().join("dev/vfio/51")).unwrap();
    assert_eq!(story.pass(), [Change::Freed(GROUP)]);
    assert_eq!(story.state().0, Occupancy::Free);
}

#[test]
fn failed_listing_changes_nothing() {
    let mut story = Story::discovered(Node::with_eight_gpus().unwrap());
    let _vm = story.node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    story.pass();
    let class = story.node.root().join("sys/class/vfio-dev");
    let aside = story.node.root().join("aside");
    std::fs::rename(&class, &aside).unwrap();
    std::fs::write(&class, "").unwrap();
    let mut changes = Vec::new();
    let error = story.monitor.pass(Instant::now(), &mut changes).unwrap_err();
    assert!(error.to_string().contains("sys/class/vfio-dev"), "{error}");
    assert_eq!((changes.len(), story.monitor.devices().len()), (0, 8));
    std::fs::remove_file(&class).unwrap();
    std::fs::rename(&aside, &class).unwrap();
    assert_eq!(story.pass(), []);
    assert_eq!(story.state().0, Occupancy::Held);
}

#[test]
fn unreadable_device_hides_no_other() {
    let node = Node::with_eight_gpus().unwrap();
    node.write("sys/bus/pci/devices/0000:3d:00.0/enable", "many\n").unwrap();
    node.delete("sys/kernel/iommu_groups/53").unwrap();
    node.delete("sys/bus/pci/devices/0000:5f:00.0/uevent").unwrap();
    node.replace_by_fifo("sys/bus/pci/devices/0000:9b:00.0/uevent").unwrap();
    let mut story = Story::discovered(node);
    let _vm = story.node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    assert_eq!(story.pass(), [Change::Held(GROUP)]);
    let errors: Vec<String> = story.monitor.errors().iter().map(ToString::to_string).collect();
    assert!(errors.iter().any(|error| error.contains("group 53")), "{errors:?}");
    for address in ["0000:ce:00.0", "0000:df:00.0"] {
        assert!(story.monitor.devices().iter().any(|tracked| tracked.device.id == id(address)));
    }
}

/// On a kernel without CONFIG_VFIO_GROUP only devices have device nodes, and the open of one is not
/// exclusive.
#[test]
fn without_group_nodes_the_peek_decides_and_nothing_is_probed() {
    let node = Node::new().unwrap().without_group_nodes().unwrap();
    node.add_eight_gpus().unwrap();
    let state = |monitor: &Monitor| {
        let state = monitor.group(GROUP).unwrap().state;
        (state.occupancy, state.evidence)
    };
    let mut story = Story::discovered(node);
    assert!(!story.monitor.has_group_nodes());
    assert_eq!(state(&story.monitor), (Occupancy::Free, Evidence::Enable));
    let unbound = VmSpec { hold: Hold::CdevUnbound, ..VmSpec::foreign(&[GPU]) };
    let unbound_holder = story.node.start_vm(&unbound).unwrap();
    story.pass();
    assert_eq!(
        state(&story.monitor),
        (Occupancy::Free, Evidence::Enable),
        "another process can still bind it"
    );
    let vm = story.node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    let second = story.node.start_vm(&VmSpec::foreign(&[GPU])).unwrap_err();
    assert_eq!(second.raw_os_error(), Some(22), "EINVAL of VFIO_DEVICE_BIND_IOMMUFD");
    story.until("held", |monitor, _| state(monitor) == (Occupancy::Held, Evidence::Enable));
    let mut holders = Vec::new();
    story.monitor.root().holders(&[GROUP], &mut |holder| holders.push(holder)).unwrap();
    holders.sort_by_key(|holder| holder.pid);
    let mut pids = [vm.pid(), unbound_holder.pid()];
    pids.sort_unstable();
    assert_eq!(holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(), pids);
    assert!(holders.iter().all(|holder| holder.via == Via::Cdev));

    story.node.unbind(GPU).unwrap();
    let changes = story.pass();
    assert!(changes.contains(&Change::Changed(GROUP)), "{changes:?}");
    assert!(story.monitor.devices()[0].unbinding);
    drop(vm);
    story.until("its unbind is over", |_, changes| changes.contains(&Change::Unbound(id(GPU))));

    let other = GroupId(52);
    let cdev = story.monitor.devices()[0].device.cdev.unwrap();
    story.node.delete(&format!("dev/vfio/devices/vfio{cdev}")).unwrap();
    story.pass();
    let known = story.monitor.group(other).unwrap().state;
    assert_eq!((known.occupancy, known.evidence), (Occupancy::Absent, Evidence::Node));
}

#[test]
fn rebind_between_two_passes_is_reported() {
    let mut story = Story::discovered(Node::with_eight_gpus().unwrap());
    story.node.unbind(GPU).unwrap();
    story.node.bind(GPU, "vfio-pci").unwrap();
    let changes = story.pass();
    assert_eq!(changes, [Change::Unbound(id(GPU)), Change::Bound(id(GPU))], "although vfioN is the same");
    assert_eq!(story.pass(), []);
}

#[test]
fn changed_record_is_reported_after_invalidation() {
    let mut story = Story::discovered(Node::with_eight_gpus().unwrap());
    story.node.write(&format!("sys/bus/pci/devices/{GPU}/numa_node"), "1\n").unwrap();
    assert_eq!(story.pass(), []);
    story.monitor.invalidate(None, Instant::now());
    assert_eq!(story.pass(), [Change::Changed(GROUP)]);
    assert_eq!(story.monitor.devices()[0].device.numa_node, Some(1));
}

/// The host driver enables a vendor's virtual function, whether a VM holds it or not.
#[test]
fn enable_count_of_a_vendor_function_is_ignored() {
    let node = trees::by_name("virtual functions with a vGPU and without").unwrap().node;
    let vf = "0000:1b:00.1";
    node.write(&format!("sys/bus/pci/devices/{vf}/enable"), "1\n").unwrap();
    let group = GroupId(91);
    let mut story = Story::discovered(node);
    let occupancy = |monitor: &Monitor| monitor.group(group).unwrap().state.occupancy;
    assert_eq!(occupancy(&story.monitor), Occupancy::Free);
    assert_eq!(story.monitor.root().peek(group, &mut Buffer::new()), Ok(Peek::Unavailable));
    let vm = story.node.start_vm(&VmSpec::foreign(&[vf])).unwrap();
    story.until("held, by a probe", |monitor, _| occupancy(monitor) == Occupancy::Held);
    vm.kill();
    story.until("free", |monitor, _| occupancy(monitor) == Occupancy::Free);
}

#[test]
fn holder_of_a_device_node_is_found_without_dev() {
    let node = Node::new().unwrap().without_group_nodes().unwrap();
    node.add_eight_gpus().unwrap();
    let vm = node.start_vm(&VmSpec::foreign(&[GPU])).unwrap();
    node.delete("dev").unwrap();
    let mut holders = Vec::new();
    Root::open(node.root()).unwrap().holders(&[GROUP], &mut |holder| holders.push(holder)).unwrap();
    assert_eq!(
        holders.iter().map(|holder| (holder.pid, holder.via)).collect::<Vec<_>>(),
        [(vm.pid(), Via::Cdev)]
    );
}

/// An entry that cannot be understood makes every pass list the devices, but not read their
/// records.
#[test]
fn odd_entry_in_the_listing_causes_no_record_reads() {
    let node = Node::with_eight_gpus().unwrap();
    let mut story = Story::discovered(node);
    std::os::unix::fs::symlink("loop", story.node.root().join("sys/class/vfio-dev/loop")).unwrap();
    assert_eq!(story.pass(), []);
    story.node.write(&format!("sys/bus/pci/devices/{GPU}/numa_node"), "1\n").unwrap();
    assert_eq!(story.pass(), []);
    assert_eq!(story.monitor.devices()[0].device.numa_node, Some(0));
}
