//! Tests of supervision: panics and early ends are reported, stops are not.

use super::*;
use std::time::Duration;
use tokio::time::timeout;

#[tokio::test]
async fn panicking_task_is_reported_with_its_message() {
    let (supervisor, mut failures) = Supervisor::new();
    supervisor.task("the poller", async { panic!("boom") });
    assert_eq!(failures.first().await.to_string(), "the poller panicked: boom");
}

#[tokio::test]
async fn task_that_returns_early_is_reported() {
    let (supervisor, mut failures) = Supervisor::new();
    supervisor.task("the socket watcher", async {});
    assert_eq!(failures.first().await.to_string(), "the socket watcher ended unexpectedly");
}

#[tokio::test]
async fn thread_that_panics_or_returns_is_reported() {
    let (supervisor, mut failures) = Supervisor::new();
    supervisor.thread("monitor", 64 * 1024, || panic!("{} descriptors", 0)).unwrap();
    assert_eq!(failures.first().await.to_string(), "the monitor thread panicked: 0 descriptors");
    supervisor.thread("monitor", 64 * 1024, || {}).unwrap();
    assert_eq!(failures.first().await.to_string(), "the monitor thread ended unexpectedly");
}

#[tokio::test]
async fn panic_of_an_unsupervised_thread_is_reported() {
    let (supervisor, mut failures) = Supervisor::new();
    PanicReports::new().report_to(&supervisor);
    let thread = std::thread::Builder::new().name("hardware".to_owned());
    assert!(thread.spawn(|| panic!("a reader's end")).unwrap().join().is_err());
    // Other tests may panic meanwhile.
    let mut failure = failures.first().await;
    while failure.name != "the hardware thread" {
        failure = failures.first().await;
    }
    assert_eq!(failure.to_string(), "the hardware thread panicked: a reader's end");
}

#[tokio::test]
async fn contained_panic_is_not_reported() {
    let (supervisor, mut failures) = Supervisor::new();
    PanicReports::new().report_to(&supervisor);
    let thread = std::thread::Builder::new().name("contained".to_owned());
    let panics = || {
        assert_eq!(contain(|| 7), Some(7));
        assert_eq!(contain(|| -> u32 { panic!("handled") }), None);
        panic!("not handled");
    };
    assert!(thread.spawn(panics).unwrap().join().is_err());
    // Other tests may panic meanwhile.
    let mut failure = failures.first().await;
    while failure.name != "the contained thread" {
        failure = failures.first().await;
    }
    assert_eq!(failure.panic.as_deref(), Some("not handled"));
}

#[tokio::test(start_paused = true)]
async fn ends_after_the_stop_are_not_reported() {
    let (supervisor, mut failures) = Supervisor::new();
    let resource = supervisor.child_token();
    resource.cancel();
    supervisor.task_until("resource a/b", resource, async {}).await.unwrap();
    assert!(timeout(Duration::from_secs(1), failures.first()).await.is_err());
    supervisor.stop();
    supervisor.task("the poller", async {});
    supervisor.ended().await;
    assert!(timeout(Duration::from_secs(1), failures.first()).await.is_err());
}

#[tokio::test]
async fn stop_drops_tasks_and_waits_for_those_that_end_themselves() {
    let (supervisor, _failures) = Supervisor::new();
    supervisor.task("the poller", std::future::pending());
    let (stop, (sender, mut ended)) = (supervisor.child_token(), tokio::sync::oneshot::channel());
    supervisor.task_until("resource a/b", stop.clone(), async move {
        stop.cancelled().await;
        tokio::task::yield_now().await;
        sender.send(()).unwrap();
    });
    supervisor.stop();
    supervisor.ended().await;
    assert!(ended.try_recv().is_ok());
}
