//! Probes groups with a deadline.
//!
//! The probe runs on a helper thread, because the kernel can hold the open for seconds: it takes
//! `group_lock` during a device reset.

use crate::bounded_pool::{BoundedPool, Call, Limits, Ticket};
use crate::id::{DeviceId, GroupId};
use crate::occupancy::{Occupancy, UnknownReason};
use crate::peek::EnableCount;
use crate::probe::occupancy_of;
use crate::root::Root;
use std::fmt;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

/// Largest number of probes that run at the same time, over all groups. While four hang in the
/// kernel, no further one starts.
pub const MAX_CONCURRENT: usize = 4;

/// Longest deadline and interval, 34 years. A longer one counts as this one, because it could overflow
/// when it is added to the clock.
pub(crate) const LONGEST: Duration = Duration::from_secs(1 << 30);

/// A probe neither recurses nor holds large buffers, so its thread has a small stack.
const LIMITS: Limits = Limits {
    threads: MAX_CONCURRENT,
    hang: Duration::from_millis(20),
    name: "vfio-probe",
    stack_size: 64 * 1024,
};

/// A request to probe one group.
#[derive(Clone, Debug)]
pub struct Request {
    /// The group to probe.
    pub group: GroupId,
    /// Functions whose `enable` is read while the probe has the group open. No other process can
    /// hold them then, so the counts are their baselines. May be empty.
    pub baseline_of: Vec<DeviceId>,
    /// A probe that has not started by then is not made. Its result is [`UnknownReason::TimedOut`].
    pub deadline: Instant,
}

/// The result of a probe.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeResult {
    /// The group of the request.
    pub group: GroupId,
    /// The occupancy that follows from the open.
    pub occupancy: Occupancy,
    /// `enable` counts without a holder, of the functions in the request. Empty unless the open
    /// succeeded.
    pub baselines: Vec<(DeviceId, u32)>,
}

/// Called once on a helper thread, with the result and whether further results follow at once. Must
/// not block.
pub type Done = Box<dyn FnOnce(ProbeResult, bool) + Send>;

/// Called after each probe, with its result and how long the open took. Without a duration the probe
/// was not made: it had not started by its deadline, or [`Prober::start_all`] refused it. Called on a
/// helper thread, and for a refused probe on the caller's. Must not block.
pub type Observer = Arc<dyn Fn(Occupancy, Option<Duration>) + Send + Sync>;

/// A probe of this group is still outstanding. A second one would only queue behind it in the
/// kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProbeOutstanding;

/// Probes groups off the caller's thread, with at most one probe for each group and
/// [`MAX_CONCURRENT`] in all.
///
/// A helper thread starts when it is first needed, and one stays. Any number of threads can share a
/// prober. Dropping it does not wait for running probes: an open that hangs in the kernel must not
/// hang an exit.
///
/// ```
/// use std::time::Duration;
/// use vfio_probe::{GroupId, Occupancy, Prober, Root};
///
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # let tree = tempfile::tempdir()?;
/// let prober = Prober::new(Root::open(&tree)?);
/// // This root has no /dev/vfio/51.
/// assert_eq!(prober.probe(GroupId(51), Duration::from_secs(1)), Occupancy::Absent);
/// # Ok(())
/// # }
/// ```
pub struct Prober {
    root: Root,
    observer: Option<Observer>,
    pool: BoundedPool<Probe>,
}

/// One probe on its way through the pool.
struct Probe {
    root: Root,
    observer: Option<Observer>,
    request: Request,
    done: Done,
}

impl Call for Probe {
    type Key = GroupId;
    type Output = ProbeResult;

    fn key(&self) -> GroupId {
        self.request.group
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.request.deadline)
    }

    fn run(&mut self) -> ProbeResult {
        let Request { group, baseline_of, .. } = &self.request;
        let began = self.observer.as_ref().map(|_| Instant::now());
        let opened = self.root.open_group(*group);
        if let (Some(observer), Some(began)) = (&self.observer, began) {
            let result = opened.as_ref().map_or_else(|errno| occupancy_of(*errno), |_| Occupancy::Free);
            observer(result, Some(began.elapsed()));
        }
        match opened {
            Ok(_open_until_counted) => {
                let count = |&device| Some((device, EnableCount::default().read(&self.root, device).ok()?));
                let baselines = baseline_of.iter().filter_map(count).collect();
                ProbeResult { group: *group, occupancy: Occupancy::Free, baselines }
            }
            Err(errno) => {
                ProbeResult { group: *group, occupancy: occupancy_of(errno), baselines: Vec::new() }
            }
        }
    }

    fn finish(self, result: Option<ProbeResult>, more: bool) {
        if result.is_none() {
            self.observe_not_made();
        }
        let timed_out = || ProbeResult {
            group: self.request.group,
            occupancy: Occupancy::Unknown(UnknownReason::TimedOut),
            baselines: Vec::new(),
        };
        (self.done)(result.unwrap_or_else(timed_out), more);
    }
}

impl Probe {
    fn observe_not_made(&self) {
        if let Some(observer) = &self.observer {
            observer(Occupancy::Unknown(UnknownReason::TimedOut), None);
        }
    }
}

impl Prober {
    /// Creates a prober of the groups below `root`. Starts no thread yet.
    #[must_use]
    pub fn new(root: Root) -> Self {
        Self { root, observer: None, pool: BoundedPool::new(LIMITS) }
    }

    /// Lets `observer` see every probe from now on.
    #[doc(hidden)]
    #[must_use]
    pub fn with_observer(self, observer: Observer) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// Queues a probe and returns at once. `done` gets the result.
    ///
    /// # Errors
    /// A probe of the group is still outstanding. Then `done` is never called.
    #[doc(hidden)]
    pub fn start(&self, request: Request, done: Done) -> Result<(), ProbeOutstanding> {
        self.submit(request, done).map(|_| ())
    }

    fn submit(&self, request: Request, done: Done) -> Result<Ticket, ProbeOutstanding> {
        // If no thread can start, the probe stays queued until the next attempt or its deadline. Its
        // result then reports the delay.
        let submitted = self.pool.submit(self.call(request, done));
        submitted.map(|submitted| submitted.ticket).map_err(|_| ProbeOutstanding)
    }

    fn call(&self, request: Request, done: Done) -> Probe {
        Probe { root: self.root.clone(), observer: self.observer.clone(), request, done }
    }

    /// Queues many probes at once. `refused` gets each group whose last probe is still outstanding.
    /// For the observer these have timed out: no other call reports an open that never returns.
    #[doc(hidden)]
    pub fn start_all(&self, requests: Vec<(Request, Done)>, mut refused: impl FnMut(GroupId)) {
        let calls = requests.into_iter().map(|(request, done)| self.call(request, done));
        // As for a single probe.
        let _ = self.pool.submit_all(calls, |call| {
            call.observe_not_made();
            refused(call.key());
        });
    }

    /// Starts another helper thread if probes are queued behind probes that hang. Use this when a
    /// result is overdue.
    #[doc(hidden)]
    pub fn ensure_progress(&self) {
        // As for a new probe: the result of one that cannot start is late, and says so.
        let _ = self.pool.ensure_progress();
    }

    /// Probes one group and blocks for the result, at most for `deadline`.
    ///
    /// Returns [`UnknownReason::TimedOut`] after the deadline, and at once if a probe of this group
    /// is outstanding. A probe that has started by the deadline goes on, and may have the group
    /// open for a moment later. A probe that has not started is not made.
    #[must_use]
    pub fn probe(&self, group: GroupId, deadline: Duration) -> Occupancy {
        let (send, receive) = mpsc::sync_channel(1);
        let deadline = deadline.min(LONGEST);
        let request = Request { group, baseline_of: Vec::new(), deadline: Instant::now() + deadline };
        // try_send never blocks the helper thread, even if the receiver has gone.
        let done = Box::new(move |result: ProbeResult, _| {
            let _ = send.try_send(result.occupancy);
        });
        self.submit(request, done)
            .ok()
            .and_then(|ticket| self.pool.wait(ticket, &receive, deadline))
            .unwrap_or(Occupancy::Unknown(UnknownReason::TimedOut))
    }
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober").field("root", &self.root).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(10);
    const TIMED_OUT: Occupancy = Occupancy::Unknown(UnknownReason::TimedOut);

    /// Creates a root directory with `nodes` group nodes, which are plain files.
    fn prober(nodes: u32) -> (tempfile::TempDir, Prober) {
        let directory = tempfile::tempdir().unwrap();
        let vfio = directory.path().join("dev/vfio");
        std::fs::create_dir_all(&vfio).unwrap();
        for group in 0..nodes {
            std::fs::write(vfio.join(group.to_string()), "").unwrap();
        }
        let prober = Prober::new(Root::open(directory.path()).unwrap());
        (directory, prober)
    }

    fn request(group: u32) -> Request {
        Request { group: GroupId(group), baseline_of: Vec::new(), deadline: Instant::now() + PATIENCE }
    }

    #[test]
    fn each_probe_of_a_batch_has_one_result() {
        let (_directory, prober) = prober(50);
        let (send, receive) = mpsc::channel();
        for group in 0..100 {
            let send = send.clone();
            prober.start(request(group), Box::new(move |result, _| send.send(result).unwrap())).unwrap();
        }
        let mut results: Vec<_> = (0..100).map(|_| receive.recv_timeout(PATIENCE).unwrap()).collect();
        results.sort_by_key(|result| result.group);
        for (number, result) in (0..100).zip(&results) {
            let expected = if number < 50 { Occupancy::Free } else { Occupancy::Absent };
            assert_eq!((result.group, result.occupancy), (GroupId(number), expected));
        }
    }

    /// Starts a probe whose callback blocks. It keeps its helper thread as long as an open that
    /// hangs in the kernel would: until the sender is dropped. The receiver reports that the
    /// callback has begun.
    fn hang(prober: &Prober, group: u32) -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
        let (release, hang) = mpsc::channel::<()>();
        let (began, begins) = mpsc::channel();
        let done = Box::new(move |_, _| {
            began.send(()).unwrap();
            let _ = hang.recv();
        });
        prober.start(request(group), done).unwrap();
        (release, begins)
    }

    /// Waits like the monitor, which makes sure that a helper thread is there.
    fn wait_for_start(prober: &Prober, begins: &mpsc::Receiver<()>) {
        while begins.recv_timeout(Duration::from_millis(1)).is_err() {
            prober.ensure_progress();
        }
    }

    #[test]
    fn fifth_probe_times_out_while_four_hang() {
        let (_directory, prober) = prober(0);
        let mut hangs = Vec::new();
        for group in 0..4 {
            let (release, begins) = hang(&prober, group);
            hangs.push(release);
            wait_for_start(&prober, &begins);
        }
        assert_eq!(prober.pool.threads(), MAX_CONCURRENT);
        assert_eq!(prober.probe(GroupId(4), Duration::from_millis(20)), TIMED_OUT);
        assert_eq!(prober.probe(GroupId(4), Duration::from_millis(20)), TIMED_OUT, "again");
        assert_eq!(prober.pool.threads(), MAX_CONCURRENT);
        hangs.pop();
        assert_eq!(prober.probe(GroupId(5), PATIENCE), Occupancy::Absent, "one thread has returned");
        // The end waits for none of the three that still hang.
        drop(prober);
        drop(hangs);
    }

    #[test]
    fn hanging_probe_delays_no_other_group() {
        let (_directory, prober) = prober(0);
        let (release, begins) = hang(&prober, 0);
        begins.recv_timeout(PATIENCE).unwrap();
        let mut hangs = vec![release];
        // Only the probe itself starts more helper threads here.
        for group in 10..13 {
            assert_eq!(prober.probe(GroupId(group), PATIENCE), Occupancy::Absent, "group {group}");
        }
        for group in 1..4 {
            let (release, begins) = hang(&prober, group);
            hangs.push(release);
            wait_for_start(&prober, &begins);
        }
        assert_eq!(prober.probe(GroupId(20), Duration::from_millis(30)), TIMED_OUT, "all four hang");
        assert!(!prober.pool.is_outstanding(&GroupId(20)), "a probe that timed out is withdrawn");
        drop(hangs);
        assert_eq!(prober.probe(GroupId(20), PATIENCE), Occupancy::Absent);
    }

    #[test]
    fn probe_of_a_group_whose_last_one_hangs_is_observed() {
        let (_directory, prober) = prober(0);
        let (send, observed) = mpsc::channel();
        let send = std::sync::Mutex::new(send);
        let prober = prober
            .with_observer(Arc::new(move |result, took| send.lock().unwrap().send((result, took)).unwrap()));
        let mut hangs = Vec::new();
        for group in 1..=4 {
            let (release, begins) = hang(&prober, group);
            hangs.push(release);
            wait_for_start(&prober, &begins);
            assert!(matches!(observed.recv_timeout(PATIENCE), Ok((Occupancy::Absent, Some(_)))));
        }
        // Outstanding, as an open that hangs is.
        prober.start(request(0), Box::new(|_, _| {})).unwrap();
        let mut refused = Vec::new();
        let done: Done = Box::new(|_, _| panic!("the probe is not made"));
        prober.start_all(vec![(request(0), done)], |group| refused.push(group));
        assert_eq!(refused, [GroupId(0)]);
        assert_eq!(observed.try_recv(), Ok((TIMED_OUT, None)));
        drop(hangs);
    }

    /// The open of a test's node never hangs, so a request that has expired stands in for one that
    /// waited too long.
    #[test]
    fn probe_past_its_deadline_is_not_made() {
        let (_directory, prober) = prober(1);
        let (send, receive) = mpsc::channel();
        let request = Request { deadline: Instant::now(), ..request(0) };
        std::thread::sleep(Duration::from_millis(1));
        prober.start(request, Box::new(move |result, _| send.send(result.occupancy).unwrap())).unwrap();
        assert_eq!(receive.recv_timeout(PATIENCE), Ok(TIMED_OUT));
    }
}
