//! What begins an ownership, what ends one, and what does not.

use super::*;
use crate::assignments::expiry::UNCONFIRMED;
use proptest::prelude::*;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

const A: &str = "0000:01:00.0";
const B: &str = "0000:02:00.0";
const R: &str = "nvidia.com/GPU";

fn set(ids: &[&str]) -> BTreeSet<String> {
    ids.iter().map(|&id| id.to_owned()).collect()
}

fn pod(name: &str, ids: &[&str]) -> ListedPod {
    let given = ((String::from("compute"), R.to_owned()), set(ids));
    let devices = if ids.is_empty() { BTreeMap::new() } else { BTreeMap::from([given]) };
    ListedPod { pod: name.to_owned(), devices }
}

fn entry(uid: &str, ids: &[&str]) -> CheckpointEntry {
    told(uid, ids, ids)
}

fn told(uid: &str, ids: &[&str], told: &[&str]) -> CheckpointEntry {
    let (pod_uid, container, resource) = (uid.to_owned(), "compute".to_owned(), R.to_owned());
    CheckpointEntry { pod_uid, container, resource, ids: set(ids), told: set(told) }
}

struct Story {
    ledger: Ledger,
    now: Instant,
    young: bool,
    written: bool,
    adopt: bool,
    kubelet: u64,
}

impl Story {
    fn new() -> Self {
        let (ledger, now) = (Ledger::default(), Instant::now());
        Self { ledger, now, young: false, written: false, adopt: false, kubelet: 1 }
    }

    fn restart_kubelet(&mut self) {
        self.kubelet += 1;
    }

    /// Our own restart, in which only what was written is remembered.
    fn restart(&mut self) {
        let text = serde_json::to_vec(&self.ledger).unwrap();
        self.ledger = serde_json::from_slice(&text).unwrap();
        self.ledger.restarted(self.now);
    }

    fn round(&mut self, pods: Option<&[ListedPod]>, checkpoint: Option<&[CheckpointEntry]>) -> LedgerUpdate {
        self.round_with(pods, checkpoint, &[])
    }

    fn round_with(
        &mut self,
        pods: Option<&[ListedPod]>,
        checkpoint: Option<&[CheckpointEntry]>,
        cgroups: &[(String, BTreeSet<String>, String)],
    ) -> LedgerUpdate {
        self.now += Duration::from_secs(1);
        let (now, young, kubelet) = (self.now, self.young, Some(KubeletSocket::new(0, self.kubelet, (0, 0))));
        self.ledger.take(&Observation {
            pods,
            checkpoint,
            kubelet,
            young,
            settling: Duration::from_secs(3),
            cgroups,
            adopt: self.adopt,
            written: self.written,
            ..Observation::at(now)
        })
    }

    fn grant(&mut self, ids: &[&str]) {
        self.ledger.record_allocate(R, set(ids), set(ids), Default::default(), self.now);
    }

    /// What is owned, and by whom.
    fn owned(&self) -> Vec<(String, String)> {
        let mut owned: Vec<(String, String)> = Vec::new();
        for given in self.ledger.given() {
            owned.extend(given.real.iter().map(|id| (id.clone(), given.pod.to_string())));
        }
        owned.sort();
        owned
    }

    fn is(&self, expected: &[(&str, &str)]) {
        let expected: Vec<_> =
            expected.iter().map(|(id, pod)| ((*id).to_owned(), format!("pod {pod}"))).collect();
        assert_eq!(self.owned(), expected);
    }
}

const OTHER: &str = "a/other";

#[test]
fn a_pod_is_known_by_name_and_uid_once() {
    let mut story = Story::new();
    let outcome = story.round(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    assert!(outcome.answered);
    story.is(&[(A, "a/vm")]);
    assert_eq!(story.ledger.given()[0].pod.uid.as_deref(), Some("u1"));
    let outcome = story.round(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    assert!(!outcome.ask_again);
}

#[test]
fn either_source_alone_is_enough_to_begin() {
    let mut story = Story::new();
    story.round(None, Some(&[entry("u1", &[A])]));
    story.is(&[(A, "u1")]);
    story.round(Some(&[pod("a/vm", &[A])]), None);
    story.is(&[(A, "a/vm")]);
    let mut story = Story::new();
    story.round(Some(&[pod("a/vm", &[A])]), None);
    story.is(&[(A, "a/vm")]);
}

#[test]
fn it_ends_when_the_pod_is_missing_from_two_lists() {
    for book in [Some(&[][..]), None] {
        let mut story = Story::new();
        story.round(Some(&[pod("a/vm", &[A]), pod(OTHER, &[])]), Some(&[entry("u1", &[A])]));
        let outcome = story.round(Some(&[pod(OTHER, &[])]), book);
        assert!(outcome.ask_again && !outcome.stale);
        story.is(&[(A, "a/vm")]);
        story.round(Some(&[pod(OTHER, &[])]), book);
        story.is(&[]);
    }
}

#[test]
fn while_the_checkpoint_names_it_still_it_is_to_be_written_anew_first() {
    let mut story = Story::new();
    let book = [entry("u1", &[A])];
    let without = [pod(OTHER, &[])];
    story.round(Some(&[pod("a/vm", &[A]), pod(OTHER, &[])]), Some(&book));
    assert!(story.round(Some(&without), Some(&book)).stale);
    // A kubelet that does not know which pods there are keeps them in its books: the API server is away.
    story.written = true;
    for _ in 0..9 {
        story.round(Some(&without), Some(&book));
        story.is(&[(A, "a/vm")]);
    }
    // Nobody writes it: the lists are believed in the end.
    story.written = false;
    story.round(Some(&[pod("a/vm", &[A])]), Some(&book));
    for left in [1, 1, 1, 1, 0, 0] {
        story.round(Some(&without), Some(&book));
        assert_eq!(story.owned().len(), left);
    }
}

#[test]
fn a_pod_that_has_ended_is_listed_without_its_devices_by_the_kubelet_that_showed_them() {
    let mut story = Story::new();
    let book = [entry("u1", &[A])];
    story.round(Some(&[pod("a/vm", &[A])]), Some(&book));
    assert!(story.round(Some(&[pod("a/vm", &[])]), Some(&book)).stale);
    story.is(&[(A, "a/vm")]);
    story.round(Some(&[pod("a/vm", &[])]), Some(&[]));
    story.is(&[]);
}

#[test]
fn empty_lists_failures_and_a_new_kubelet_end_nothing() {
    let mut story = Story::new();
    story.round(Some(&[pod("a/vm", &[A])]), None);
    for _ in 0..5 {
        assert!(!story.round(Some(&[]), None).answered);
        assert!(!story.round(None, None).answered);
    }
    story.is(&[(A, "a/vm")]);
    for _ in 0..4 {
        story.restart_kubelet();
        story.round(Some(&[pod(OTHER, &[])]), None);
        story.is(&[(A, "a/vm")]);
    }
    story.round(Some(&[pod(OTHER, &[])]), None);
    story.is(&[]);
}

#[test]
fn a_kubelet_that_has_lost_its_checkpoint_and_knows_static_pods_alone_ends_nothing() {
    let mut story = Story::new();
    story.round(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    story.restart_kubelet();
    story.young = true;
    for _ in 0..5 {
        assert!(story.round(Some(&[pod(OTHER, &[])]), Some(&[])).answered);
        story.is(&[(A, "a/vm")]);
    }
    for _ in 0..5 {
        story.round(Some(&[pod(OTHER, &[]), pod("a/vm", &[])]), Some(&[]));
        story.is(&[(A, "a/vm")]);
    }
    story.young = false;
    for _ in 0..2 {
        story.round(Some(&[pod(OTHER, &[])]), Some(&[]));
    }
    story.is(&[]);
}

#[test]
fn a_pod_that_runs_keeps_its_devices_though_the_books_were_lost_before_its_name_was_known() {
    let cgroups = [(R.to_owned(), set(&[A]), "u1".to_owned())];
    let mut story = Story::new();
    story.round(None, Some(&[entry("u1", &[A])]));
    story.restart_kubelet();
    for _ in 0..3 {
        story.round_with(Some(&[pod("a/vm", &[]), pod(OTHER, &[])]), Some(&[]), &cgroups);
        story.is(&[(A, "u1")]);
    }
    let elsewhere = [(R.to_owned(), set(&[B]), "u1".to_owned())];
    for _ in 0..2 {
        story.round_with(Some(&[pod(OTHER, &[])]), Some(&[]), &elsewhere);
    }
    story.is(&[]);
}

#[test]
fn a_kubelet_that_has_kept_its_checkpoint_has_not_lost_what_that_does_not_name() {
    let cgroups = [(R.to_owned(), set(&[A]), "u1".to_owned())];
    let other = [entry("u2", &[B])];
    let with_other = [pod(OTHER, &[B])];
    let begin = || {
        let mut story = Story::new();
        story.round(None, Some(&[entry("u1", &[A]), other[0].clone()]));
        story.restart_kubelet();
        story
    };
    let mut story = begin();
    for _ in 0..2 {
        story.round_with(Some(&with_other), Some(&other), &cgroups);
    }
    story.is(&[(B, OTHER)]);
    // The same, known from before a restart of ours.
    let mut story = begin();
    story.restart();
    for _ in 0..2 {
        story.round_with(Some(&with_other), Some(&other), &cgroups);
    }
    story.is(&[(B, OTHER)]);
    // Not so, if it was lost, and the other pod was given its device again.
    for noticed in [true, false] {
        let mut story = begin();
        if noticed {
            story.round(None, Some(&[]));
        }
        story.grant(&[B]);
        for _ in 0..3 {
            story.round_with(Some(&with_other), Some(&other), &cgroups);
            assert!(story.owned().contains(&(A.to_owned(), "pod u1".to_owned())));
        }
    }
    // Nor if it was lost by an earlier kubelet, before that other pod came.
    let mut story = Story::new();
    story.round(None, Some(&[entry("u1", &[A])]));
    for _ in 0..2 {
        story.restart_kubelet();
        story.round_with(None, Some(&other), &cgroups);
    }
    for _ in 0..3 {
        story.round_with(Some(&with_other), Some(&other), &cgroups);
        story.is(&[(A, "u1"), (B, OTHER)]);
    }
}

#[test]
fn what_the_same_kubelet_has_forgotten_is_gone_also_over_a_restart_of_ours() {
    let cgroups = [(R.to_owned(), set(&[A]), "u1".to_owned())];
    let mut story = Story::new();
    story.round(None, Some(&[entry("u1", &[A])]));
    story.restart();
    for _ in 0..2 {
        story.round_with(Some(&[pod(OTHER, &[])]), Some(&[]), &cgroups);
    }
    story.is(&[]);
}

#[test]
fn a_pod_that_a_kubelet_without_its_checkpoint_lists_without_its_devices_keeps_them() {
    let mut story = Story::new();
    story.round(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    story.restart_kubelet();
    for _ in 0..5 {
        story.round(Some(&[pod("a/vm", &[])]), Some(&[]));
    }
    story.is(&[(A, "a/vm")]);
    assert!(story.ledger.given()[0].may_be_lost());
    assert_eq!(story.ledger.given()[0].confirmed, Some(story.now));
    for _ in 0..2 {
        story.round(Some(&[pod(OTHER, &[])]), Some(&[]));
    }
    story.is(&[]);
}

#[test]
fn a_pod_known_by_its_name_alone_does_not_become_its_successor() {
    let mut story = Story::new();
    story.round(Some(&[pod("a/one", &[A])]), None);
    for _ in 0..3 {
        story.round(Some(&[pod("a/two", &[A])]), Some(&[entry("u2", &[A])]));
    }
    story.is(&[(A, "a/two")]);
    story.written = true;
    story.round(Some(&[pod("a/two", &[A])]), Some(&[entry("u2", &[A]), entry("u2", &[B])]));
    assert!(story.owned().iter().any(|(id, _)| id == B), "u2 is not among those that are gone");
}

#[test]
fn numbers_are_ids_of_ours_only_for_what_we_offer() {
    let rdma = ListedPod {
        devices: BTreeMap::from([(("c".into(), "rdma/hca".into()), set(&["51"]))]),
        pod: "a/rdma".into(),
    };
    let entry = CheckpointEntry { resource: "rdma/hca".into(), ..entry("u1", &["51"]) };
    let offered = BTreeSet::from([Arc::from(R)]);
    for (offered, known) in [(Some(&offered), 0), (None, 1)] {
        let mut ledger = Ledger::default();
        ledger.take(&Observation {
            pods: Some(std::slice::from_ref(&rdma)),
            checkpoint: Some(std::slice::from_ref(&entry)),
            offered,
            ..Observation::at(Instant::now())
        });
        assert_eq!(ledger.given().len(), known);
    }
}

#[test]
fn a_container_that_is_created_anew_after_a_lost_checkpoint_leaves_the_others_theirs() {
    let two = |compute: &[&str], second: &[&str]| {
        let mut listed = pod("a/vm", compute);
        if !second.is_empty() {
            listed.devices.insert(("second".into(), R.into()), set(second));
        }
        listed
    };
    let second = CheckpointEntry { container: "second".into(), ..entry("u1", &[B]) };
    let mut story = Story::new();
    story.round(Some(&[two(&[A], &[B])]), Some(&[entry("u1", &[A]), second]));
    story.is(&[(A, "a/vm"), (B, "a/vm")]);
    const NEW: &str = "0000:03:00.0";
    story.restart_kubelet();
    for _ in 0..3 {
        story.round(Some(&[two(&[NEW], &[])]), Some(&[entry("u1", &[NEW])]));
    }
    story.is(&[(B, "a/vm"), (NEW, "a/vm")]);
}

#[test]
fn a_successor_of_the_same_name_does_not_inherit() {
    let mut story = Story::new();
    story.round(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    for _ in 0..2 {
        story.round(Some(&[pod("a/vm", &[B])]), Some(&[entry("u2", &[B])]));
    }
    story.is(&[(B, "a/vm")]);
    let other = CheckpointEntry { container: "other".into(), ..entry("u3", &[A]) };
    let mut listed = pod("a/vm", &[A]);
    let given = listed.devices.remove(&("compute".to_owned(), R.to_owned())).unwrap();
    listed.devices.insert(("other".into(), R.into()), given);
    for _ in 0..2 {
        story.round(Some(&[listed.clone()]), Some(std::slice::from_ref(&other)));
    }
    story.is(&[(A, "a/vm")]);
}

#[test]
fn the_next_pod_with_the_same_device_is_the_owner() {
    let mut story = Story::new();
    story.round(Some(&[pod("a/one", &[A])]), Some(&[entry("u1", &[A])]));
    for _ in 0..2 {
        story.round(Some(&[pod("a/two", &[A])]), Some(&[entry("u2", &[A])]));
    }
    story.is(&[(A, "a/two")]);
}

#[test]
fn a_young_kubelet_that_lists_less_than_its_checkpoint_or_than_we_know_says_nothing() {
    let book = [entry("u1", &[A]), entry("u2", &[B])];
    let begin = |pods: &[ListedPod]| {
        let mut story = Story::new();
        story.round(Some(pods), Some(&book));
        story.restart_kubelet();
        story.young = true;
        story
    };
    let both = [pod("a/vm", &[A]), pod("b/vm", &[B])];
    for book in [&book[..], &book[1..]] {
        let mut story = begin(&both);
        for _ in 0..5 {
            story.round(Some(&both[1..]), Some(book));
        }
        story.is(&[(A, "a/vm"), (B, "b/vm")]);
        story.young = false;
        for _ in 0..2 {
            story.round(Some(&both[1..]), Some(&book[book.len() - 1..]));
        }
        story.is(&[(B, "b/vm")]);
    }
    // One whose name was never known.
    let mut story = begin(&both[1..]);
    for _ in 0..5 {
        story.round(Some(&both[1..]), Some(&book));
    }
    story.is(&[(A, "u1"), (B, "b/vm")]);
}

#[test]
fn a_list_that_ends_nothing_still_names_what_it_has() {
    let mut story = Story::new();
    story.young = true;
    story.round(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A]), entry("u2", &[B])]));
    story.is(&[(A, "a/vm"), (B, "u2")]);
}

#[test]
fn our_allocate_counts_until_it_is_shown_or_expires() {
    let mut story = Story::new();
    story.grant(&[A]);
    assert_eq!(story.owned(), [(A.to_owned(), "a pod being admitted".to_owned())]);
    for (pods, book) in [(None, None), (None, Some(&[][..])), (Some(&[pod(OTHER, &[])][..]), None)] {
        for _ in 0..5 {
            assert!(!story.round(pods, book).ask_again);
        }
    }
    assert_eq!(story.owned().len(), 1, "half an answer is none");
    story.now += UNCONFIRMED;
    story.round(None, None);
    story.is(&[]);
    story.grant(&[A]);
    story.round(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    story.now += UNCONFIRMED;
    story.round(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    story.is(&[(A, "a/vm")]);
    story.grant(&[A]);
    assert_eq!(story.owned().len(), 2, "another pod's, for all we know");
    story.round(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    story.is(&[(A, "a/vm")]);
}

#[test]
fn our_allocate_ends_when_the_kubelet_does_not_show_it_though_it_had_the_time() {
    let mut story = Story::new();
    story.grant(&[A]);
    let mut round = || {
        let again = story.round(Some(&[pod(OTHER, &[])]), Some(&[])).ask_again;
        (again, story.owned().len())
    };
    assert_eq!([round(), round()], [(true, 1); 2], "not before the settling time is over");
    assert_eq!([round(), round()], [(true, 1), (false, 0)]);
}

#[test]
fn after_a_substitution_the_real_device_is_owned() {
    let mut story = Story::new();
    story.ledger.record_allocate(R, set(&[A]), set(&[B]), Default::default(), story.now);
    story.round(Some(&[pod("a/vm", &[A])]), Some(&[told("u1", &[A], &[B])]));
    story.is(&[(B, "a/vm")]);
    let mut restarted = Story::new();
    restarted.round(Some(&[pod("a/vm", &[A])]), Some(&[told("u1", &[A], &[B])]));
    restarted.is(&[(B, "a/vm")]);
}

#[test]
fn an_init_containers_device_is_known_by_the_checkpoint_alone() {
    let mut story = Story::new();
    let init = CheckpointEntry { container: "init".into(), ..entry("u1", &[A, B]) };
    let book = [init, entry("u1", &[A])];
    for _ in 0..3 {
        story.round(Some(&[pod("a/vm", &[A])]), Some(&book));
    }
    let mut devices: Vec<_> = story.owned().into_iter().map(|(id, _)| id).collect();
    devices.dedup();
    assert_eq!(devices, [A, B]);
    for _ in 0..2 {
        story.round(Some(&[pod(OTHER, &[])]), Some(&[]));
    }
    story.is(&[]);
}

#[test]
fn whether_an_entry_that_no_listed_pod_has_is_out_of_date_only_a_newer_checkpoint_tells() {
    let mut story = Story::new();
    let book = [entry("u1", &[A])];
    for _ in 0..3 {
        assert!(story.round(Some(&[pod(OTHER, &[])]), Some(&book)).stale);
        story.is(&[(A, "u1")]);
    }
    // Written before a list could lack it, as by the Allocate.
    let mut other = Story::new();
    other.round(Some(&[pod(OTHER, &[])]), Some(&[]));
    other.written = true;
    other.young = true;
    assert!(!other.round(Some(&[pod(OTHER, &[])]), Some(&book)).stale);
    (other.young, other.written) = (false, false);
    assert!(other.round(Some(&[pod(OTHER, &[])]), Some(&book)).stale);
    // An init container's: once a newer one names it, it is not asked for again before there are other pods.
    story.written = true;
    assert!(!story.round(Some(&[pod(OTHER, &[])]), Some(&book)).stale);
    story.written = false;
    for _ in 0..3 {
        assert!(!story.round(Some(&[pod(OTHER, &[])]), Some(&book)).stale);
        story.is(&[(A, "u1")]);
    }
    assert!(story.round(Some(&[pod("a/third", &[])]), Some(&book)).stale);
    for _ in 0..2 {
        assert!(!story.round(Some(&[pod("a/third", &[])]), Some(&[])).stale);
    }
    story.is(&[]);
    assert!(!story.round(Some(&[]), Some(&book)).stale, "an empty list is no answer");
    assert!(!story.round(None, Some(&book)).stale);
    assert!(!story.round(Some(&[pod("a/vm", &[A])]), Some(&book)).stale);
}

#[test]
fn a_holders_cgroup_counts_only_for_a_pod_that_the_checkpoint_names() {
    let cgroups = [(R.to_owned(), set(&[A]), "u1".to_owned())];
    let mut story = Story::new();
    story.adopt = true;
    story.round_with(Some(&[pod(OTHER, &[])]), Some(&[]), &cgroups);
    story.is(&[]);
    let mut other = entry("u1", &["0000:09:00.0"]);
    other.resource = "example.com/other".into();
    story.round_with(Some(&[pod(OTHER, &[])]), Some(std::slice::from_ref(&other)), &cgroups);
    assert!(story.owned().contains(&(A.to_owned(), "pod u1".to_owned())));
    story.round(Some(&[pod(OTHER, &[])]), Some(&[other]));
    assert!(story.owned().contains(&(A.to_owned(), "pod u1".to_owned())));
    for _ in 0..2 {
        story.round(Some(&[pod(OTHER, &[])]), Some(&[]));
    }
    story.is(&[]);
}

#[test]
fn a_pod_that_holds_its_device_does_not_own_the_others_of_the_group() {
    let mut story = Story::new();
    story.adopt = true;
    let cgroups = [(R.to_owned(), set(&[B]), "u1".to_owned())];
    story.round_with(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]), &cgroups);
    story.is(&[(A, "a/vm")]);
}

#[test]
fn other_plugins_devices_are_none_of_ours() {
    let mut story = Story::new();
    story.round(Some(&[pod("a/fpga", &["fpga-0"])]), Some(&[entry("u1", &["fpga-0"])]));
    story.is(&[]);
}

#[test]
fn what_is_remembered_survives_a_restart_and_a_lost_checkpoint() {
    let mut story = Story::new();
    story.round(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
    story.restart();
    story.restart_kubelet();
    for _ in 0..3 {
        story.round(Some(&[pod("a/vm", &[])]), Some(&[]));
    }
    story.is(&[(A, "a/vm")]);
}

#[test]
fn what_was_just_given_away_survives_a_restart_until_it_is_shown_or_expires() {
    let mut story = Story::new();
    story.ledger.record_allocate(R, set(&["0000:09:00.0"]), set(&[A]), Default::default(), story.now);
    let text = serde_json::to_vec(&story.ledger).unwrap();
    story.restart();
    story.round(None, None);
    assert_eq!(story.owned(), [(A.to_owned(), "a pod being admitted".to_owned())]);
    story.round(Some(&[pod("a/vm", &["0000:09:00.0"])]), Some(&[told("u1", &["0000:09:00.0"], &[A])]));
    story.is(&[(A, "a/vm")]);
    story.ledger = serde_json::from_slice(&text).unwrap();
    story.ledger.restarted(story.now);
    story.now += UNCONFIRMED;
    story.round(None, None);
    story.is(&[]);
}

proptest! {
    /// Whatever the kubelet says in whatever order, with and without its checkpoint: a pod that every list names keeps its
    /// device.
    #[test]
    fn a_listed_pod_never_loses_its_device(
        steps in prop::collection::vec((0..6, 0..4, any::<bool>(), any::<bool>()), 0..40)
    ) {
        let mut story = Story::new();
        story.round(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
        // Since it has started without its checkpoint the kubelet knows nothing of the device.
        let mut lost = false;
        for (pods, book, young, written) in steps {
            (story.young, story.written) = (young, written);
            let pods: Option<Vec<ListedPod>> = match pods {
                0 => None,
                1 => Some(vec![]),
                2 => {
                    if !lost {
                        story.restart_kubelet();
                        lost = true;
                    }
                    Some(vec![pod("a/vm", &[])])
                }
                3 => {
                    story.restart();
                    None
                }
                // Its container was given the device again.
                4 => {
                    lost = false;
                    Some(vec![pod("a/vm", &[A]), pod("b/vm", &[B])])
                }
                _ => {
                    lost = false;
                    Some(vec![pod("a/vm", &[A]), pod(OTHER, &[])])
                }
            };
            let book: Option<Vec<CheckpointEntry>> = match book {
                0 => None,
                _ if lost => Some(vec![]),
                1 => Some(vec![entry("u1", &[A])]),
                _ => Some(vec![entry("u1", &[A]), entry("u2", &[B])]),
            };
            story.round(pods.as_deref(), book.as_deref());
            prop_assert!(story.owned().iter().any(|(id, _)| id == A), "{:?}", story.owned());
        }
    }

    /// And one that no list names any more has lost it after five of them, whatever the checkpoint says; after two, if that
    /// agrees.
    #[test]
    fn a_pod_that_is_gone_ends(books in prop::collection::vec(0..3, 5..9)) {
        let mut story = Story::new();
        story.round(Some(&[pod("a/vm", &[A])]), Some(&[entry("u1", &[A])]));
        let mut written = false;
        let mut agreed = 0;
        for book in books {
            // Once it is written without the pod it never names it again.
            story.written = book == 1 && !written;
            written |= book == 1;
            let book: Option<Vec<CheckpointEntry>> = match book {
                0 => None,
                _ if written => Some(vec![]),
                _ => Some(vec![entry("u1", &[A])]),
            };
            agreed += u32::from(book.as_ref().is_none_or(Vec::is_empty));
            story.round(Some(&[pod(OTHER, &[])]), book.as_deref());
            prop_assert!(agreed < 2 || story.owned().is_empty());
        }
        prop_assert!(story.owned().is_empty());
    }
}
