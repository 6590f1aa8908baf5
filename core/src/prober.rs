//! Probes with a deadline: the open runs on a helper thread, because the kernel can hold it for seconds.

use crate::id::{DeviceId, GroupId};
use crate::occupancy::{Occupancy, UnknownReason};
use crate::peek::EnableCount;
use crate::probe::occupancy_of;
use crate::root::Root;
use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::{Duration, Instant};

/// An open that takes longer than this hangs, as far as the other questions are concerned.
const HANGS: Duration = Duration::from_millis(20);

/// Opens that may be under way at once, over all groups. A kernel that lets four hang is asked no fifth.
pub const MAX_CONCURRENT: usize = 4;

/// One question.
#[derive(Clone, Debug)]
pub struct Request {
    /// The group to open.
    pub group: GroupId,
    /// Functions whose `enable` is read while our descriptor is open, when nobody else can have them: the baseline.
    pub baseline_of: Vec<DeviceId>,
    /// A question that nobody has begun to ask by then is not asked: the answer is `Unknown(TimedOut)`.
    pub deadline: Instant,
}

/// The answer.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ProbeResult {
    /// The group that was asked for.
    pub group: GroupId,
    /// What the open said.
    pub occupancy: Occupancy,
    /// `enable` counts with nobody there, of the functions asked for; empty unless the open succeeded.
    pub baselines: Vec<(DeviceId, u32)>,
}

/// Called once, on a helper thread, with the answer and whether more answers follow at once. Must not block.
pub type Done = Box<dyn FnOnce(ProbeResult, bool) + Send>;

/// An open of this group is still outstanding; a second one would only queue behind it in the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ProbeOutstanding;

/// Asks groups by opening them, off the caller's thread; at most one open a group and [`MAX_CONCURRENT`] in all.
///
/// Helper threads start when first needed and one stays. Dropping the prober waits for none of them: an open that
/// hangs in the kernel must not hang an exit.
pub struct Prober {
    shared: Arc<Shared>,
}

struct Shared {
    root: Arc<Root>,
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    queue: VecDeque<Question>,
    /// Questions so far, by which each has a number.
    asked: u64,
    outstanding: Vec<GroupId>,
    workers: usize,
    idle: usize,
    /// When a worker last took a question.
    taken: Option<Instant>,
    closed: bool,
}

struct Question {
    number: u64,
    request: Request,
    done: Done,
}

impl State {
    /// Queues a question and gives it a number; none while the group's last one has no answer.
    fn queue(&mut self, request: Request, done: Done) -> Option<u64> {
        if self.outstanding.contains(&request.group) {
            return None;
        }
        self.asked += 1;
        let number = self.asked;
        self.outstanding.push(request.group);
        self.queue.push_back(Question { number, request, done });
        Some(number)
    }

    /// Takes back a question that no helper has begun to ask.
    fn withdraw(&mut self, number: u64) {
        let place = self.queue.iter().position(|question| question.number == number);
        if let Some(question) = place.and_then(|place| self.queue.remove(place)) {
            self.outstanding.retain(|group| *group != question.request.group);
        }
    }
}

impl Shared {
    // A worker that panicked left counters behind, nothing half done.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Prober {
    /// A prober of the groups below `root`. Starts no thread yet.
    #[must_use]
    pub fn new(root: Arc<Root>) -> Self {
        Self { shared: Arc::new(Shared { root, state: Mutex::default(), wake: Condvar::new() }) }
    }

    /// Queues a question and returns at once.
    ///
    /// # Errors
    /// The group's last question has no answer yet.
    pub fn start(&self, request: Request, done: Done) -> Result<(), ProbeOutstanding> {
        self.ask(request, done).map(|_| ())
    }

    fn ask(&self, request: Request, done: Done) -> Result<u64, ProbeOutstanding> {
        let mut state = self.shared.lock();
        let number = state.queue(request, done).ok_or(ProbeOutstanding)?;
        self.begin(&mut state);
        Ok(number)
    }

    /// Queues many, in one go; `refused` gets the groups whose last question has no answer yet.
    pub fn start_all(&self, questions: Vec<(Request, Done)>, mut refused: impl FnMut(GroupId)) {
        let mut state = self.shared.lock();
        for (request, done) in questions {
            let group = request.group;
            if state.queue(request, done).is_none() {
                refused(group);
            }
        }
        self.begin(&mut state);
    }

    fn begin(&self, state: &mut State) {
        // One worker takes a whole batch, an open is microseconds; more start only when it seems to hang in one.
        let hangs = state.taken.is_some_and(|taken| taken.elapsed() > HANGS);
        if state.idle > 0 {
            self.shared.wake.notify_one();
        } else if state.workers == 0 || hangs {
            self.spawn(state);
        }
    }

    /// Adds a helper thread if questions wait while others hang. Call it when answers are overdue.
    pub fn ensure_progress(&self) {
        let mut state = self.shared.lock();
        if !state.queue.is_empty() && state.idle == 0 {
            self.spawn(&mut state);
        }
    }

    /// Asks one group and waits for the answer, at most `deadline`; later it is `Unknown(TimedOut)`. An open that has begun by
    /// then goes on, and may have the group for a moment later; one that has not is not made any more.
    ///
    /// Late at once while another question about the group has no answer yet.
    #[must_use]
    pub fn probe(&self, group: GroupId, deadline: Duration) -> Occupancy {
        let (send, receive) = mpsc::sync_channel(1);
        let request = Request { group, baseline_of: Vec::new(), deadline: Instant::now() + deadline };
        // try_send: the receiver may have given up, the helper must not care.
        let done = Box::new(move |answer: ProbeResult, _| {
            let _ = send.try_send(answer.occupancy);
        });
        let late = Occupancy::Unknown(UnknownReason::TimedOut);
        let Ok(number) = self.ask(request, done) else { return late };
        let first = deadline.min(HANGS);
        let told = receive.recv_timeout(first).or_else(|_| {
            // Behind another group's open that hangs: this one gets a helper of its own.
            self.ensure_progress();
            receive.recv_timeout(deadline.saturating_sub(first))
        });
        told.unwrap_or_else(|_| {
            self.shared.lock().withdraw(number);
            late
        })
    }

    fn spawn(&self, state: &mut State) {
        if state.workers >= MAX_CONCURRENT {
            return;
        }
        let shared = Arc::clone(&self.shared);
        // Nothing recurses or holds large buffers here.
        let thread = std::thread::Builder::new().name("vfio-probe".into()).stack_size(64 * 1024);
        // Where no thread can be had, the question stays queued and its asker's deadline answers.
        if thread.spawn(move || work(&shared)).is_ok() {
            state.workers += 1;
        }
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        state.closed = true;
        state.queue.clear();
        self.shared.wake.notify_all();
    }
}

impl fmt::Debug for Prober {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Prober").field("root", &self.shared.root).finish_non_exhaustive()
    }
}

fn work(shared: &Shared) {
    let mut state = shared.lock();
    while !state.closed {
        let Some(Question { request, done, .. }) = state.queue.pop_front() else {
            if state.idle > 0 {
                break; // Another one already waits; the extra workers of a hang go.
            }
            state.idle += 1;
            state = shared.wake.wait(state).unwrap_or_else(PoisonError::into_inner);
            state.idle -= 1;
            continue;
        };
        state.taken = Some(Instant::now());
        drop(state);
        let answer = ask(&shared.root, &request);
        state = shared.lock();
        state.outstanding.retain(|group| *group != request.group);
        let more = !state.queue.is_empty();
        drop(state);
        done(answer, more);
        state = shared.lock();
    }
    state.workers -= 1;
}

fn ask(root: &Root, request: &Request) -> ProbeResult {
    let group = request.group;
    let mut baselines = Vec::new();
    let occupancy =
        if Instant::now() > request.deadline {
            Occupancy::Unknown(UnknownReason::TimedOut)
        } else if request.baseline_of.is_empty() {
            root.probe(group)
        } else {
            match root.open_group(group) {
                Ok(_ours_alone) => {
                    baselines.extend(request.baseline_of.iter().filter_map(|&device| {
                        Some((device, EnableCount::default().read(root, device).ok()?))
                    }));
                    Occupancy::Free
                }
                Err(errno) => occupancy_of(errno),
            }
        };
    ProbeResult { group, occupancy, baselines }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_question_of_a_batch_is_answered_once() {
        let folder = tempfile::tempdir().unwrap();
        let vfio = folder.path().join("dev/vfio");
        std::fs::create_dir_all(&vfio).unwrap();
        for group in 0..50 {
            std::fs::write(vfio.join(group.to_string()), "").unwrap();
        }
        let prober = Prober::new(Arc::new(Root::open(folder.path()).unwrap()));
        let (send, receive) = mpsc::channel();
        for group in 0..100 {
            let send = send.clone();
            let request = Request {
                group: GroupId(group),
                baseline_of: Vec::new(),
                deadline: Instant::now() + Duration::from_secs(10),
            };
            prober.start(request, Box::new(move |answer, _| send.send(answer).unwrap())).unwrap();
        }
        let mut answers: Vec<_> =
            (0..100).map(|_| receive.recv_timeout(Duration::from_secs(10)).unwrap()).collect();
        answers.sort_by_key(|answer| answer.group);
        for (number, answer) in (0..100).zip(&answers) {
            let expected = if number < 50 { Occupancy::Free } else { Occupancy::Absent };
            assert_eq!((answer.group, answer.occupancy), (GroupId(number), expected));
        }
    }

    const PATIENCE: Duration = Duration::from_secs(10);

    /// Asks a question whose answer's taker holds it up, which keeps the helper as long as an open that hangs in the kernel
    /// would: until the first is dropped. The second tells that it has begun.
    fn hang(prober: &Prober, group: u32) -> (mpsc::Sender<()>, mpsc::Receiver<()>) {
        let (release, hang) = mpsc::channel::<()>();
        let (began, begins) = mpsc::channel();
        let request =
            Request { group: GroupId(group), baseline_of: Vec::new(), deadline: Instant::now() + PATIENCE };
        let done = Box::new(move |_, _| {
            began.send(()).unwrap();
            let _ = hang.recv();
        });
        prober.start(request, done).unwrap();
        (release, begins)
    }

    /// Waits for it as the monitor does, who sees to it that there are helpers.
    fn hurry_until(prober: &Prober, begins: &mpsc::Receiver<()>) {
        while begins.recv_timeout(Duration::from_millis(1)).is_err() {
            prober.ensure_progress();
        }
    }

    #[test]
    fn a_fifth_question_is_late_when_four_hang_and_the_end_waits_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let prober = Prober::new(Arc::new(Root::open(folder.path()).unwrap()));
        let mut hangs = Vec::new();
        for group in 0..4 {
            let (release, begins) = hang(&prober, group);
            hangs.push(release);
            hurry_until(&prober, &begins);
        }
        assert_eq!(prober.shared.lock().workers, MAX_CONCURRENT);
        let late = Occupancy::Unknown(UnknownReason::TimedOut);
        assert_eq!(prober.probe(GroupId(4), Duration::from_millis(20)), late);
        assert_eq!(prober.probe(GroupId(4), Duration::from_millis(20)), late, "nor when asked again");
        assert_eq!(prober.shared.lock().workers, MAX_CONCURRENT);
        hangs.pop();
        assert_eq!(prober.probe(GroupId(5), PATIENCE), Occupancy::Absent, "one is back");
        drop(prober);
        drop(hangs);
    }

    /// One helper that hangs keeps no other group waiting, whoever asks.
    #[test]
    fn a_question_behind_one_that_hangs_is_answered_and_a_late_one_leaves_nothing_behind() {
        let folder = tempfile::tempdir().unwrap();
        let prober = Prober::new(Arc::new(Root::open(folder.path()).unwrap()));
        let (release, begins) = hang(&prober, 0);
        begins.recv_timeout(PATIENCE).unwrap();
        let mut hangs = vec![release];
        // Nobody but the probe sees to it that there are more helpers.
        for asked in 10..13 {
            assert_eq!(prober.probe(GroupId(asked), PATIENCE), Occupancy::Absent, "group {asked}");
        }
        for group in 1..4 {
            let (release, begins) = hang(&prober, group);
            hangs.push(release);
            hurry_until(&prober, &begins);
        }
        let late = Occupancy::Unknown(UnknownReason::TimedOut);
        assert_eq!(prober.probe(GroupId(20), Duration::from_millis(30)), late, "all four hang");
        assert!(!prober.shared.lock().outstanding.contains(&GroupId(20)), "it was never begun");
        drop(hangs);
        assert_eq!(prober.probe(GroupId(20), PATIENCE), Occupancy::Absent);
    }

    /// A FIFO without O_NONBLOCK would hang; with it our open returns, so a question that expired stands in for a hang.
    #[test]
    fn a_question_past_its_deadline_is_not_asked() {
        let folder = tempfile::tempdir().unwrap();
        let root = Root::open(folder.path()).unwrap();
        let request = Request { group: GroupId(1), baseline_of: Vec::new(), deadline: Instant::now() };
        std::thread::sleep(Duration::from_millis(1));
        assert_eq!(ask(&root, &request).occupancy, Occupancy::Unknown(UnknownReason::TimedOut));
    }
}
