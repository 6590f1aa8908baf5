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

    fn deadline(&self) -> Instant {
        self.deadline
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
