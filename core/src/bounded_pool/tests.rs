//! Tests of the order, the keys and the deadlines of a bounded pool.

use super::*;

const PATIENCE: Duration = Duration::from_secs(10);
const LIMITS: Limits =
    Limits { threads: 2, hang: Duration::from_millis(5), name: "pool-test", stack_size: 64 * 1024 };

/// Waits for `release`, then sends its key, or none if it has expired.
struct Waiting {
    key: u32,
    deadline: Instant,
    release: Option<mpsc::Receiver<()>>,
    send: mpsc::Sender<(u32, Option<()>)>,
}

impl Call for Waiting {
    type Key = u32;
    type Output = ();

    fn key(&self) -> u32 {
        self.key
    }

    fn deadline(&self) -> Option<Instant> {
        Some(self.deadline)
    }

    fn run(&mut self) {
        if let Some(release) = &self.release {
            let _ = release.recv();
        }
    }

    fn finish(self, output: Option<()>, _: bool) {
        let _ = self.send.send((self.key, output));
    }
}

fn call(key: u32, send: &mpsc::Sender<(u32, Option<()>)>) -> Waiting {
    Waiting { key, deadline: Instant::now() + PATIENCE, release: None, send: send.clone() }
}

#[test]
fn urgent_call_runs_first_and_removed_calls_never_run() {
    let pool = BoundedPool::new(Limits { threads: 1, ..LIMITS });
    let (send, receive) = mpsc::channel();
    let (release, hang) = mpsc::channel();
    pool.submit(Waiting { release: Some(hang), ..call(0, &send) }).ok().unwrap();
    while pool.shared.lock().taken.is_none() {
        thread::sleep(Duration::from_millis(1));
    }
    for key in 1..5 {
        pool.submit(call(key, &send)).ok().unwrap();
    }
    assert!(pool.submit(call(3, &send)).is_err(), "outstanding");
    pool.submit_first(call(9, &send)).ok().unwrap();
    pool.retain(|call| call.key % 2 == 1);
    assert!(!pool.is_outstanding(&2) && pool.is_outstanding(&3));
    drop(release);
    let keys: Vec<u32> = (0..4).map(|_| receive.recv_timeout(PATIENCE).unwrap().0).collect();
    assert_eq!(keys, [0, 9, 1, 3]);
}

#[test]
fn expired_call_is_not_made_and_still_finishes() {
    let pool = BoundedPool::new(LIMITS);
    let (send, receive) = mpsc::channel();
    let deadline = Instant::now();
    thread::sleep(Duration::from_millis(1));
    pool.submit(Waiting { deadline, ..call(7, &send) }).ok().unwrap();
    assert_eq!(receive.recv_timeout(PATIENCE), Ok((7, None)));
    assert!(!pool.is_outstanding(&7));
}

/// Submits a call that hangs until the sender is dropped, and waits until it runs.
fn hang(pool: &BoundedPool<Waiting>, key: u32, send: &mpsc::Sender<(u32, Option<()>)>) -> mpsc::Sender<()> {
    let (release, hang) = mpsc::channel();
    pool.submit(Waiting { release: Some(hang), ..call(key, send) }).ok().unwrap();
    while !pool.shared.lock().queue.is_empty() {
        thread::sleep(Duration::from_millis(1));
    }
    release
}

#[test]
fn urgent_calls_keep_their_order_and_wait_for_no_other() {
    let slow = Duration::from_secs(3600);
    let pool = BoundedPool::new(Limits { threads: 2, hang: slow, ..LIMITS });
    let (send, receive) = mpsc::channel();
    let first = hang(&pool, 0, &send);
    pool.submit(call(1, &send)).ok().unwrap();
    assert_eq!(pool.threads(), 1, "the first call may still end soon");
    let (release, second) = mpsc::channel();
    pool.submit_first(Waiting { release: Some(second), ..call(10, &send) }).ok().unwrap();
    assert_eq!(pool.threads(), 2, "an urgent call does not wait for that");
    for key in 11..13 {
        pool.submit_first(call(key, &send)).ok().unwrap();
    }
    drop(release);
    let keys: Vec<u32> = (0..4).map(|_| receive.recv_timeout(PATIENCE).unwrap().0).collect();
    assert_eq!(keys, [10, 11, 12, 1]);
    drop(first);
}

#[test]
fn closed_pool_drops_queued_calls_and_refuses_new_ones() {
    let pool = BoundedPool::new(Limits { threads: 1, ..LIMITS });
    let (send, receive) = mpsc::channel();
    let release = hang(&pool, 0, &send);
    pool.submit(call(1, &send)).ok().unwrap();
    pool.close();
    assert!(!pool.is_outstanding(&1));
    assert!(pool.submit(call(2, &send)).is_err() && pool.submit_first(call(3, &send)).is_err());
    let mut refused = Vec::new();
    pool.submit_all([call(4, &send)], |call| refused.push(call.key)).unwrap();
    assert_eq!(refused, [4]);
    drop(refused);
    drop((release, send));
    assert_eq!(receive.recv_timeout(PATIENCE), Ok((0, Some(()))), "a running call finishes");
    assert!(receive.recv_timeout(PATIENCE).is_err(), "no other call runs");
    while pool.threads() > 0 {
        thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn thread_that_cannot_start_is_reported_and_calls_stay_queued() {
    // No address space has room for this stack.
    let pool = BoundedPool::new(Limits { stack_size: 1 << 60, ..LIMITS });
    let (send, _receive) = mpsc::channel();
    assert!(pool.submit(call(1, &send)).ok().unwrap().thread.is_err());
    assert!(pool.submit_first(call(2, &send)).ok().unwrap().thread.is_err());
    assert!(pool.submit_all([call(3, &send)], drop).is_err());
    assert!(pool.ensure_progress().is_err());
    assert!((1..4).all(|key| pool.is_outstanding(&key)));
    assert_eq!(pool.threads(), 0);
}
