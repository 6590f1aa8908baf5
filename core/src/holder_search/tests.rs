//! Tests of the search in steps, with real processes and descriptors.

use super::*;
use crate::GroupId;
use std::fs::File;
use std::os::fd::AsFd;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use vfio_sim_node::mount_without_answers;

const GROUP: GroupId = GroupId(51);
/// One turn of one process, or one cgroup.
const ONE: Budget = Budget { processes: 1, descriptors: 1, time: Duration::from_secs(60) };
const ALL: Budget = Budget { processes: u32::MAX, descriptors: u32::MAX, time: Duration::from_secs(60) };

/// A root with a group whose node has the device number of /dev/full, and without processes.
struct Tree {
    directory: tempfile::TempDir,
    root: Root,
}

/// A process that has files open. It is killed when this is dropped.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Process {
    fn with(input: &str) -> Self {
        let input = File::open(input).unwrap();
        let sleep = Command::new("sleep").arg("1000").stdin(input).stdout(Stdio::null()).spawn();
        let process = Self(sleep.unwrap());
        // `spawn` returns before execve has closed the files of this process (`begin_new_exec`).
        let descriptors = format!("/proc/{}/fd", process.0.id());
        let deadline = Instant::now() + Duration::from_secs(20);
        while std::fs::read_dir(&descriptors).unwrap().count() > 64 {
            assert!(Instant::now() < deadline, "sleep keeps all files of this process");
        }
        process
    }

    fn holder() -> Self {
        Self::with("/dev/full")
    }

    fn other() -> Self {
        Self::with("/dev/zero")
    }
}

impl Tree {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(directory.path().join("dev/vfio")).unwrap();
        std::fs::create_dir(directory.path().join("proc")).unwrap();
        symlink("/dev/full", directory.path().join("dev/vfio/51")).unwrap();
        let root = Root::open(directory.path()).unwrap();
        Self { directory, root }
    }

    fn proc(&self, path: &str) -> std::path::PathBuf {
        self.directory.path().join("proc").join(path)
    }

    /// Shows a real process in the tree.
    fn show(&self, pid: u32) {
        symlink(format!("/proc/{pid}"), self.proc(&pid.to_string())).unwrap();
    }

    /// Shows a real process in the tree with another cgroup.
    fn show_in(&self, pid: u32, cgroup: &str) {
        std::fs::create_dir(self.proc(&pid.to_string())).unwrap();
        for name in ["fd", "fdinfo", "stat"] {
            symlink(format!("/proc/{pid}/{name}"), self.proc(&format!("{pid}/{name}"))).unwrap();
        }
        std::fs::write(self.proc(&format!("{pid}/cgroup")), cgroup).unwrap();
    }

    fn search(&self, likely: &[u32]) -> HolderSearch {
        let targets = Targets::of(&self.root, &[GROUP]).unwrap();
        HolderSearch::new(&self.root, Arc::new(targets), likely, &[]).unwrap()
    }
}

/// Returns the pids in the order in which they are inspected.
fn order(tree: &Tree, search: &mut HolderSearch, budget: &Budget) -> Vec<u32> {
    let mut order = Vec::new();
    while !search.advance(&tree.root, budget, &mut |pid| order.push(pid)) {}
    order.retain(|pid| *pid != 0);
    order.dedup();
    order
}

fn found(search: &HolderSearch) -> Vec<u32> {
    search.sightings().iter().map(|sighting| sighting.holder.pid).collect()
}

#[test]
fn search_continues_where_the_budget_ended() {
    let tree = Tree::new();
    let processes = [Process::other(), Process::holder(), Process::other()];
    processes.iter().for_each(|process| tree.show(process.0.id()));
    let mut search = tree.search(&[]);
    assert_eq!((search.coverage().processes, search.coverage().unsearched), (3, 3));
    let mut steps = 0;
    while !search.advance(&tree.root, &ONE, &mut |_| {}) {
        steps += 1;
        assert!(steps < 100, "{search:?}");
    }
    assert!(steps >= 3, "{steps} steps");
    assert_eq!(found(&search), [processes[1].0.id()]);
    assert_eq!((search.coverage().processes, search.coverage().unsearched), (3, 0));
}

#[test]
fn search_continues_inside_a_process_with_many_descriptors() {
    let tree = Tree::new();
    // This process itself: the group is behind thousands of other descriptors.
    let null = File::open("/dev/null").unwrap();
    let others: Vec<_> = (0..5000).map(|_| null.as_fd().try_clone_to_owned().unwrap()).collect();
    let _group = File::open("/dev/full").unwrap();
    let other = Process::holder();
    let own = std::process::id();
    tree.show(own);
    tree.show(other.0.id());
    let mut search = tree.search(&[own]);
    let mut steps = 0;
    while !found(&search).contains(&other.0.id()) {
        assert!(!search.advance(&tree.root, &ONE, &mut |_| {}), "the search is over: {search:?}");
        steps += 1;
    }
    assert!(steps < 6, "the other process waits for all descriptors of this one: {steps} steps");
    assert_eq!(search.coverage().unsearched, 1, "{search:?}");
    while !search.advance(&tree.root, &ONE, &mut |_| {}) {}
    assert!(found(&search).contains(&own), "{search:?}");
    assert_eq!(search.coverage().unsearched, 0);
    drop(others);
}

#[test]
fn time_ends_a_step_inside_a_process() {
    let tree = Tree::new();
    let null = File::open("/dev/null").unwrap();
    let others: Vec<_> = (0..1000).map(|_| null.as_fd().try_clone_to_owned().unwrap()).collect();
    tree.show(std::process::id());
    let mut search = tree.search(&[std::process::id()]);
    let budget = Budget { time: Duration::ZERO, ..ALL };
    assert!(!search.advance(&tree.root, &budget, &mut |_| {}));
    assert_eq!(search.coverage().unsearched, 1);
    let mut steps = 1;
    while !search.advance(&tree.root, &budget, &mut |_| {}) {
        steps += 1;
    }
    assert!(steps >= 1000 / 64, "{steps} steps");
    drop(others);
}

#[test]
fn interrupted_search_reads_all_descriptors() {
    let tree = Tree::new();
    // The parent of the child that searches: the group is behind other descriptors.
    let null = File::open("/dev/null").unwrap();
    let _others: Vec<_> = (0..200).map(|_| null.as_fd().try_clone_to_owned().unwrap()).collect();
    let _group = File::open("/dev/full").unwrap();
    tree.show(std::process::id());
    let test = "holder_search::tests::interrupted_search_reads_all_descriptors";
    crate::root::while_interrupted(test, tree.directory.path(), |directory| {
        let root = Root::open(directory).unwrap();
        let targets = Arc::new(Targets::of(&root, &[GROUP]).unwrap());
        let pid = rustix::process::getppid().unwrap().as_raw_nonzero().get().cast_unsigned();
        for _ in 0..1000 {
            let mut search = HolderSearch::of(Arc::clone(&targets), &[pid]);
            while !search.advance(&root, &ALL, &mut |_| {}) {}
            assert_eq!(found(&search), [pid]);
        }
    });
}

#[test]
fn likely_holders_come_first() {
    const POD: &str = "0::/kubepods.slice/kubepods-pod0a0b0c0d.slice/cri-containerd-1.scope\n";
    let tree = Tree::new();
    let processes: Vec<Process> = (0..6).map(|_| Process::other()).collect();
    let pids: Vec<u32> = processes.iter().map(|process| process.0.id()).collect();
    let cgroups = [
        POD,
        "0::/machine.slice/machine-qemu.scope\n",
        "0::/user.slice/user-1000.slice/kubepods.slice/kubepods-pod1.slice\n",
        "0::/system.slice/foreign.service\n",
        "0::/kata_overhead/0\n",
        "0::/\n",
    ];
    for (pid, cgroup) in pids.iter().zip(cgroups) {
        tree.show_in(*pid, cgroup);
    }
    let known = pids[3];
    let mut search = tree.search(&[known]);
    let mut searched = Vec::new();
    // A process was searched once the count of those that were not has fallen.
    let mut left = search.coverage().unsearched;
    let mut latest = 0;
    while !search.advance(&tree.root, &ONE, &mut |pid| latest = pid) {
        if search.coverage().unsearched < left {
            left = search.coverage().unsearched;
            searched.push(latest);
        }
    }
    assert_eq!(searched.first(), Some(&known));
    let mut likely = searched[1..4].to_vec();
    likely.sort_unstable();
    let mut expected = vec![pids[0], pids[1], pids[4]];
    expected.sort_unstable();
    assert_eq!(likely, expected, "{searched:?} of {pids:?}");
}

#[test]
fn user_of_the_container_node_is_known_for_the_next_search() {
    let tree = Tree::new();
    symlink("/dev/zero", tree.directory.path().join("dev/vfio/vfio")).unwrap();
    let (user, other) = (Process::other(), Process::with("/dev/random"));
    tree.show(user.0.id());
    tree.show(other.0.id());
    let mut search = tree.search(&[]);
    assert!(search.advance(&tree.root, &ALL, &mut |_| {}));
    assert_eq!(search.users(), [user.0.id()]);
}

#[test]
fn process_that_starts_during_the_search_is_searched() {
    let tree = Tree::new();
    let first = Process::other();
    tree.show(first.0.id());
    let mut search = tree.search(&[]);
    let holder = Process::holder();
    tree.show(holder.0.id());
    let order = order(&tree, &mut search, &ALL);
    assert!(order.contains(&holder.0.id()), "{order:?}");
    assert_eq!(found(&search), [holder.0.id()]);
    assert_eq!((search.coverage().processes, search.coverage().unsearched), (2, 0));
}

#[test]
fn processes_that_start_faster_than_the_search_are_counted() {
    let tree = Tree::new();
    let mut search = tree.search(&[]);
    let mut started = Vec::new();
    let mut start = || {
        let process = Process::other();
        tree.show(process.0.id());
        started.push(process);
    };
    while !search.advance(&tree.root, &ONE, &mut |_| start()) {
        assert!(search.coverage().processes < 100, "the search never ends");
    }
    assert!(search.coverage().unsearched > 0, "{:?}", search.coverage());
}

#[test]
fn process_that_ends_during_the_search_is_no_error() {
    let tree = Tree::new();
    let process = Process::holder();
    tree.show(process.0.id());
    let mut search = tree.search(&[]);
    drop(process);
    assert!(search.advance(&tree.root, &ALL, &mut |_| {}));
    let ScanCoverage { unreadable, unsearched, .. } = search.coverage();
    assert_eq!((found(&search).len(), unreadable, unsearched), (0, 0, 0));
}

#[test]
fn skipped_process_counts_as_unsearched() {
    let tree = Tree::new();
    let (holder, other) = (Process::holder(), Process::other());
    tree.show(holder.0.id());
    tree.show(other.0.id());
    let targets = Arc::new(Targets::of(&tree.root, &[GROUP]).unwrap());
    let mut search = HolderSearch::new(&tree.root, targets, &[], &[holder.0.id()]).unwrap();
    assert!(search.advance(&tree.root, &ALL, &mut |_| {}));
    assert!(search.sightings().is_empty());
    assert_eq!((search.coverage().processes, search.coverage().unsearched), (2, 1));
}

fn unmount(at: &Path) {
    let _ = rustix::mount::unmount(at, rustix::mount::UnmountFlags::DETACH);
}

#[test]
fn file_on_a_server_that_does_not_answer_hangs_nothing() {
    let tree = Tree::new();
    let mount = tree.directory.path().join("mount");
    std::fs::create_dir(&mount).unwrap();
    let Some(server) = mount_without_answers(&mount).unwrap() else { return };
    let flags = rustix::fs::OFlags::PATH | rustix::fs::OFlags::CLOEXEC;
    let opened = rustix::fs::open(&mount, flags, rustix::fs::Mode::empty()).unwrap();
    let _group = File::open("/dev/full").unwrap();
    tree.show(std::process::id());
    let (holders, coverage) = search_whole(&tree.root, &[GROUP], Duration::from_secs(20)).unwrap();
    drop(opened);
    drop(server);
    unmount(&mount);
    assert_eq!(holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [std::process::id()]);
    assert_eq!((coverage.unsearched, coverage.unreadable), (0, 0), "{coverage:?}");
}

#[test]
fn proc_that_does_not_answer_ends_at_the_deadline() {
    let tree = Tree::new();
    let Some(server) = mount_without_answers(&tree.proc("")).unwrap() else { return };
    let began = Instant::now();
    let (holders, coverage) = search_whole(&tree.root, &[GROUP], Duration::from_millis(500)).unwrap();
    let took = began.elapsed();
    drop(server);
    unmount(&tree.proc(""));
    assert!(took < Duration::from_secs(10), "{took:?}");
    assert!(holders.is_empty() && !coverage.is_complete() && coverage.unsearched > 0, "{coverage:?}");
}

#[test]
fn process_that_hangs_is_skipped_and_the_others_are_searched() {
    let tree = Tree::new();
    let holder = Process::holder();
    tree.show(holder.0.id());
    // Its /proc/PID/cgroup is on the server that does not answer.
    let hanging = tree.proc("4000000");
    std::fs::create_dir_all(&hanging).unwrap();
    let Some(server) = mount_without_answers(&hanging).unwrap() else { return };
    let (holders, coverage) = search_whole(&tree.root, &[GROUP], Duration::from_secs(20)).unwrap();
    drop(server);
    unmount(&hanging);
    assert_eq!(holders.iter().map(|holder| holder.pid).collect::<Vec<_>>(), [holder.0.id()]);
    assert_eq!((coverage.processes, coverage.unsearched), (2, 1), "{coverage:?}");
}

#[test]
fn group_that_is_passed_often_is_searched_once() {
    let tree = Tree::new();
    let once = Targets::of(&tree.root, &[GROUP]).unwrap();
    assert_eq!(Targets::of(&tree.root, &[GROUP; 100_000]).unwrap(), once);
    let mut errors = Vec::new();
    let often = [[GroupId(52), GROUP]; 50_000].concat();
    let (groups, _) = tree.root.read_groups(&often, None, &mut errors);
    assert_eq!(groups.iter().map(|group| group.id).collect::<Vec<_>>(), [GROUP, GroupId(52)]);
}

#[test]
fn holder_has_the_user_of_its_process() {
    use std::os::unix::process::CommandExt;
    let tree = Tree::new();
    let own = rustix::process::geteuid();
    let uid = if own.is_root() { 65534 } else { own.as_raw() };
    let input = File::open("/dev/full").unwrap();
    let other = Process(Command::new("sleep").arg("1000").stdin(input).uid(uid).spawn().unwrap());
    tree.show(other.0.id());
    let without_status = Process::holder();
    tree.show_in(without_status.0.id(), "0::/\n");
    let mut users = Vec::new();
    tree.root.holders(&[GROUP], &mut |holder| users.push((holder.pid, holder.uid))).unwrap();
    users.sort_unstable_by_key(|&(pid, _)| pid != other.0.id());
    assert_eq!(users, [(other.0.id(), Some(uid)), (without_status.0.id(), None)]);
}
