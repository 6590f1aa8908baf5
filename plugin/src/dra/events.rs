//! Reports refusals as events of the claim and of its pods, which `kubectl describe` shows.
//!
//! A report never delays a call: it waits in a short queue. Each state of a claim is reported once. What cannot be sent is dropped: the
//! log has it as well, and the kubelet's own event has the error of a call.

use crate::dra::api::{RequestError, request};
use k8s_openapi::api::core::v1::{Event, EventSource, ObjectReference};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::PostParams;
use kube::{Api, Client};
use kubelet_api::dra::Claim;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio::sync::mpsc;

/// Reports that wait. More are dropped.
const QUEUE: usize = 64;
/// Claims whose latest report is remembered.
const MAX_CLAIMS: usize = 1024;
/// Pods of a claim that get an event of their own.
const MAX_PODS: usize = 8;
/// Limit for a message, in bytes (`NoteLengthLimit` in pkg/apis/core/validation).
const MAX_MESSAGE: usize = 1024;
/// Limit for the start of an event's name. The API server uses the first 58 bytes of it.
const MAX_NAME: usize = 58;

/// What is reported.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// A claim is not prepared.
    PrepareRefused,
    /// A claim stays prepared.
    UnprepareFailed,
    /// A claim has ended, and a process still holds its group.
    GroupStillHeld,
}

impl Kind {
    /// Returns the event's reason.
    fn as_str(self) -> &'static str {
        match self {
            Self::PrepareRefused => "PrepareRefused",
            Self::UnprepareFailed => "UnprepareFailed",
            Self::GroupStillHeld => "GroupStillHeld",
        }
    }
}

/// A report about a claim.
#[derive(Debug)]
struct Report {
    claim: Claim,
    /// The names of its pods, by uid.
    pods: BTreeMap<String, String>,
    kind: Kind,
    message: String,
}

/// The reports. Clones share them.
#[derive(Clone, Debug)]
pub(super) struct Events {
    queue: mpsc::Sender<Report>,
    /// The latest report of each claim, by uid.
    latest: Arc<Mutex<BTreeMap<String, (Kind, String)>>>,
}

/// The other end of the queue.
pub(super) struct EventSender {
    client: Client,
    /// The driver and the node.
    source: EventSource,
    queue: mpsc::Receiver<Report>,
}

/// Returns the reports and the task that sends them.
pub(super) fn events(client: Client, driver: &str, node: &str) -> (Events, EventSender) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let source = EventSource { component: Some(driver.to_owned()), host: Some(node.to_owned()) };
    (Events { queue: sender, latest: Arc::default() }, EventSender { client, source, queue })
}

impl Events {
    /// Reports something about a claim, unless it was the latest report about it. `pods` are the names of its pods, by uid.
    pub(super) fn report(&self, claim: &Claim, pods: &BTreeMap<String, String>, kind: Kind, message: String) {
        let mut latest = self.latest.lock();
        if latest.get(&claim.uid).is_some_and(|(known, text)| *known == kind && *text == message) {
            return;
        }
        if latest.len() >= MAX_CLAIMS {
            latest.clear();
        }
        latest.insert(claim.uid.clone(), (kind, message.clone()));
        drop(latest);
        let pods = pods.iter().take(MAX_PODS).map(|(uid, name)| (uid.clone(), name.clone())).collect();
        if self.queue.try_send(Report { claim: claim.clone(), pods, kind, message }).is_err() {
            tracing::debug!(claim = claim.name, "dropped an event: too many wait");
        }
    }

    /// Forgets what was reported about a claim: the next report is a new one.
    pub(super) fn forget(&self, uid: &str) {
        self.latest.lock().remove(uid);
    }
}

impl EventSender {
    /// Sends the reports; never returns.
    pub(super) async fn run(mut self) {
        let mut fails = false;
        while let Some(report) = self.queue.recv().await {
            for event in self.events(&report) {
                let api: Api<Event> = Api::namespaced(self.client.clone(), &report.claim.namespace);
                match request(api.create(&PostParams::default(), &event)).await {
                    Ok(_) => fails = false,
                    Err(error) => {
                        if !std::mem::replace(&mut fails, true) {
                            tracing::warn!(%error, "events cannot be created");
                        }
                        // The others would wait for the timeout as well.
                        if matches!(error, RequestError::Unanswered(_)) {
                            break;
                        }
                    }
                }
            }
        }
        // The driver, which has the other end, ends with the process.
        std::future::pending::<()>().await;
    }

    /// Returns the events of a report: of the claim, and of its pods.
    fn events(&self, report: &Report) -> Vec<Event> {
        let Report { claim, pods, kind, message } = report;
        let object = |api: &str, kind: &str, name: &str, uid: &str| ObjectReference {
            api_version: Some(api.to_owned()),
            kind: Some(kind.to_owned()),
            namespace: Some(claim.namespace.clone()),
            name: Some(name.to_owned()),
            uid: Some(uid.to_owned()),
            ..ObjectReference::default()
        };
        let of_claim = object("resource.k8s.io/v1", "ResourceClaim", &claim.name, &claim.uid);
        let of_pods = pods.iter().map(|(uid, name)| object("v1", "Pod", name, uid));
        let objects = std::iter::once(of_claim).chain(of_pods);
        objects.map(|object| self.event(object, *kind, message)).collect()
    }

    fn event(&self, object: ObjectReference, kind: Kind, message: &str) -> Event {
        let now = Some(Time(Timestamp::now()));
        let start = first(object.name.as_deref().unwrap_or_default(), MAX_NAME - 1);
        Event {
            metadata: ObjectMeta {
                namespace: object.namespace.clone(),
                generate_name: Some(format!("{}-", start.trim_end_matches(['-', '.']))),
                ..ObjectMeta::default()
            },
            involved_object: object,
            reason: Some(kind.as_str().to_owned()),
            message: Some(first(message, MAX_MESSAGE).to_owned()),
            type_: Some("Warning".to_owned()),
            first_timestamp: now.clone(),
            last_timestamp: now,
            count: Some(1),
            reporting_component: self.source.component.clone(),
            reporting_instance: self.source.host.clone(),
            source: Some(self.source.clone()),
            ..Event::default()
        }
    }
}

/// Returns the start of a text, in whole characters.
fn first(text: &str, bytes: usize) -> &str {
    let mut ends = (0..=bytes.min(text.len())).rev();
    ends.find_map(|end| text.get(..end)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(uid: &str) -> Claim {
        Claim { namespace: "vms".into(), name: "vm-gpus-x7".into(), uid: uid.into() }
    }

    #[test]
    fn each_state_of_a_claim_is_reported_once() {
        let (sender, mut queue) = mpsc::channel(QUEUE);
        let events = Events { queue: sender, latest: Arc::default() };
        let pods = BTreeMap::from([("p1".to_owned(), "vm".to_owned())]);
        let refuse = |text: &str| events.report(&claim("u1"), &pods, Kind::PrepareRefused, text.to_owned());
        refuse("held by pid 1");
        refuse("held by pid 1");
        refuse("held by pid 2");
        events.forget("u1");
        refuse("held by pid 2");
        let mut messages = Vec::new();
        while let Ok(report) = queue.try_recv() {
            assert_eq!(report.pods, pods);
            messages.push(report.message);
        }
        assert_eq!(messages, ["held by pid 1", "held by pid 2", "held by pid 2"]);
        for number in 0..2 * MAX_CLAIMS {
            events.report(&claim(&number.to_string()), &BTreeMap::new(), Kind::GroupStillHeld, String::new());
        }
        assert!(events.latest.lock().len() <= MAX_CLAIMS);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(first("a\u{e4}", 2), "a");
        assert_eq!(first("short", 100), "short");
    }
}
