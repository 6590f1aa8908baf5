//! Streams the health of the published devices to the kubelet, which shows it in the status of their pods (KEP-4680).
//!
//! The stream exists in two versions with the same content: Kubernetes 1.34 to 1.36 know v1alpha1, later ones v1.

use crate::dra::driver::Driver;
use crate::dra::offered::Wanted;
use futures_util::{Stream, StreamExt, stream};
use kubelet_api::{dra_health_v1, dra_health_v1alpha1};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use vfio_plugin_policy::dra::health::HealthReport;
use vfio_plugin_policy::dra::names::device_name;

/// The longest time between two messages.
const REFRESH: Duration = Duration::from_secs(20);
/// How long the kubelet keeps a device's health without another message. By default it is 30 s.
const TIMEOUT: Duration = Duration::from_secs(60);

/// Messages for the kubelet.
type Messages<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service, in both versions.
#[derive(Clone)]
pub(super) struct HealthService {
    /// The pool.
    node: String,
    wanted: watch::Receiver<Option<Arc<Wanted>>>,
    stop: CancellationToken,
}

impl HealthService {
    /// Returns the service. Its streams end with `stop`.
    pub(super) fn new(driver: &Driver, stop: CancellationToken) -> Self {
        Self { node: driver.node.clone(), wanted: driver.wanted.clone(), stop }
    }

    /// Returns the health of all published devices, now and after each change, and again after a time. Ends with the driver.
    fn reports(&self) -> impl Stream<Item = Arc<Wanted>> + Send + use<> {
        let first: Option<Arc<Wanted>> = None;
        let state = (self.wanted.clone(), first, Instant::now());
        let reports = stream::unfold(state, |(mut wanted, mut sent, mut refresh)| async move {
            loop {
                let now = wanted.borrow_and_update().clone();
                let is_due = Instant::now() >= refresh;
                let is_news =
                    |now: &Arc<Wanted>| is_due || sent.as_ref().is_none_or(|sent| sent.health != now.health);
                if let Some(now) = now.filter(is_news) {
                    sent = Some(Arc::clone(&now));
                    refresh = Instant::now() + REFRESH;
                    return Some((now, (wanted, sent, refresh)));
                }
                // Before the first decision there is nothing to refresh.
                let until = if sent.is_some() { refresh } else { Instant::now() + REFRESH };
                if let Ok(Err(_)) = timeout_at(until, wanted.changed()).await {
                    return None;
                }
            }
        });
        reports.take_until(self.stop.clone().cancelled_owned())
    }
}

/// Implements the service of one version.
macro_rules! serve {
    ($api:ident) => {
        #[tonic::async_trait]
        impl $api::dra_resource_health_server::DraResourceHealth for HealthService {
            type NodeWatchResourcesStream = Messages<$api::NodeWatchResourcesResponse>;

            async fn node_watch_resources(
                &self,
                _: Request<$api::NodeWatchResourcesRequest>,
            ) -> Result<Response<Self::NodeWatchResourcesStream>, Status> {
                let pool_name = self.node.clone();
                let device = move |report: &HealthReport| $api::DeviceHealth {
                    device: Some($api::DeviceIdentifier {
                        pool_name: pool_name.clone(),
                        device_name: device_name(report.device),
                    }),
                    health: match report.is_healthy {
                        true => $api::HealthStatus::Healthy.into(),
                        false => $api::HealthStatus::Unhealthy.into(),
                    },
                    last_updated_time: now(),
                    health_check_timeout_seconds: TIMEOUT.as_secs().cast_signed(),
                    message: report.message.clone(),
                };
                let message = move |wanted: Arc<Wanted>| {
                    let devices = wanted.health.iter().map(&device).collect();
                    Ok($api::NodeWatchResourcesResponse { devices })
                };
                Ok(Response::new(Box::pin(self.reports().map(message))))
            }
        }
    };
}

serve!(dra_health_v1);
serve!(dra_health_v1alpha1);

/// Returns the seconds since the epoch.
fn now() -> i64 {
    let now = UNIX_EPOCH.elapsed().unwrap_or_default();
    now.as_secs().cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(is_healthy: bool, message: &str) -> HealthReport {
        HealthReport { device: "0000:1b:00.0".parse().unwrap(), is_healthy, message: message.to_owned() }
    }

    fn wanted(requests: u64, health: HealthReport) -> Option<Arc<Wanted>> {
        Some(Arc::new(Wanted { requests, health: vec![health], ..Wanted::default() }))
    }

    #[tokio::test(start_paused = true)]
    async fn health_is_sent_at_first_after_changes_and_again_after_20_s() {
        let (sender, receiver) = watch::channel(None);
        let service =
            HealthService { node: "node-1".to_owned(), wanted: receiver, stop: CancellationToken::new() };
        let mut reports = Box::pin(service.reports());
        let began = Instant::now();
        tokio::spawn(async move {
            tokio::time::sleep(Duration::from_secs(50)).await;
            sender.send_replace(wanted(1, report(true, "")));
            tokio::time::sleep(Duration::from_secs(5)).await;
            sender.send_replace(wanted(2, report(true, "")));
            tokio::time::sleep(Duration::from_secs(5)).await;
            sender.send_replace(wanted(3, report(false, "lost")));
            tokio::time::sleep(Duration::from_secs(50)).await;
        });
        let mut sent = Vec::new();
        while let Some(wanted) = reports.next().await {
            sent.push((began.elapsed().as_secs(), wanted.health[0].is_healthy));
        }
        assert_eq!(sent, [(50, true), (60, false), (80, false), (100, false)]);
    }

    #[tokio::test(start_paused = true)]
    async fn stream_ends_with_the_driver() {
        let (_sender, receiver) = watch::channel(wanted(1, report(true, "")));
        let stop = CancellationToken::new();
        let service = HealthService { node: "node-1".to_owned(), wanted: receiver, stop: stop.clone() };
        let mut reports = Box::pin(service.reports());
        assert!(reports.next().await.is_some());
        stop.cancel();
        assert!(reports.next().await.is_none());
    }
}
