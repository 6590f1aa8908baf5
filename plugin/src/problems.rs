//! The current problems of a running `serve`: conditions that last and that an operator should know of.
//!
//! Each part of the plugin records a problem where it finds it, and ends it there. The log has the begin of each; the status socket
//! reports those that have not ended, for `list` and `doctor`.

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;
use std::time::SystemTime;

/// Limit for the number of problems that are reported. On a node with more, the first ones show what is wrong, and the log has the
/// others.
const MAX_PROBLEMS: usize = 256;
/// Limit for the number of further problems that are remembered, so that each is logged once. More are neither logged nor counted.
const MAX_FURTHER: usize = 1024;
/// Limit for the text of a problem in characters: it may contain what another program sent.
const MAX_TEXT: usize = 500;

/// The kind of a problem.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum ProblemCode {
    /// A state file could not be written: the run directory is full or read-only.
    StateFileNotWritten,
    /// A state file could not be used and is kept under another name.
    StateFileKeptAside,
    /// A state file cannot be read at the moment.
    StateFileUnread,
    /// Another user can change the run directory.
    RunDirShared,
    /// Pod resources could not be listed; the checkpoint shows the assignments.
    PodResourcesUnavailable,
    /// Neither pod resources nor the checkpoint shows the assignments.
    AssignmentsUnknown,
    /// The kubelet's checkpoint exists and cannot be read.
    CheckpointUnreadable,
    /// The kubelet's checkpoint has more bytes or entries than the plugin reads.
    CheckpointTooLarge,
    /// The kubelet's checkpoint is not understood: empty, half written, or of a format that this version does not know.
    CheckpointMalformed,
    /// The kubelet's directory of device plugins is missing.
    KubeletDirMissing,
    /// inotify does not watch the kubelet's directory.
    KubeletDirUnwatched,
    /// A resource cannot be registered.
    NotRegistered,
    /// Connections cannot be accepted.
    AcceptFailed,
    /// The pools file has an error, and the former pools stay in use.
    PoolsRejected,
    /// pci.ids cannot be read, so models are named by their ids.
    PciIdsUnreadable,
    /// The name of a vGPU type cannot be read.
    VgpuTypeUnreadable,
    /// The driver reports no name of a vGPU type, so it is offered by its number.
    VgpuTypeUnnamed,
    /// Two pools select one device.
    PoolsOverlap,
    /// A key of `alias` matches no device.
    AliasUnused,
    /// Two resources share one environment variable.
    VariableShared,
    /// A CDI spec could not be written or removed.
    CdiSpecNotUpdated,
    /// The bound devices cannot be listed.
    DevicesNotListed,
    /// A device is left out because its record cannot be read.
    DeviceUnreadable,
    /// No thread can be started for the hardware checks.
    HardwareUnchecked,
    /// The kernel's events of devices are not available.
    UeventsUnavailable,
    /// The process may open few files.
    DescriptorLimit,
    /// The API server does not answer the DRA driver.
    ApiServerUnavailable,
    /// The API server refuses the DRA driver's account a right.
    ApiServerForbidden,
    /// ResourceSlices could not be written.
    SlicesNotWritten,
    /// The API server does not store taints.
    TaintsDropped,
    /// Prepared claims are left, and no DRA driver runs.
    ClaimsWithoutDriver,
    /// Two pools offer devices under one resource, one of them to claims.
    ResourceOfferedTwice,
    /// The address of `--listen` cannot be used, so metrics and probes over HTTP get no answer.
    ListenFailed,
    /// Lines of the log were lost.
    LogLinesLost,
    /// There are more problems than are reported.
    MoreProblems,
    /// A code of another version.
    #[serde(other)]
    Other,
}

impl ProblemCode {
    /// Returns the word for the code, as JSON has it.
    pub(crate) fn word(self) -> String {
        serde_json::to_string(&self).unwrap_or_default().trim_matches('"').to_owned()
    }
}

/// One problem.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Problem {
    /// Its kind.
    pub(crate) code: ProblemCode,
    /// The file, directory, resource or device that it is about.
    pub(crate) about: String,
    /// What is wrong; it reads as a sentence after `about`.
    pub(crate) text: String,
    /// When it began, in seconds since 1970.
    pub(crate) since: u64,
}

/// The current problems. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Problems {
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    current: BTreeMap<(ProblemCode, String), Entry>,
    /// Problems beyond the limit, each with a hash of its text.
    further: BTreeMap<(ProblemCode, String), u64>,
}

#[derive(Debug)]
struct Entry {
    text: String,
    since: SystemTime,
}

impl Problems {
    /// Records a problem. Returns whether it is new or its text has changed, and is to be logged.
    pub(crate) fn begin(&self, code: ProblemCode, about: impl fmt::Display, text: impl fmt::Display) -> bool {
        let (about, mut text) = (about.to_string(), text.to_string());
        if let Some((end, _)) = text.char_indices().nth(MAX_TEXT) {
            text.truncate(end);
        }
        let State { current, further } = &mut *self.state.lock();
        let is_full = current.len() >= MAX_PROBLEMS;
        let key = (code, about);
        match current.get_mut(&key) {
            Some(known) if known.text == text => false,
            Some(known) => {
                known.text = text;
                true
            }
            None if is_full => {
                let (has_room, hash) = (further.len() < MAX_FURTHER, hash(&text));
                match further.get_mut(&key) {
                    Some(known) => std::mem::replace(known, hash) != hash,
                    None => has_room && further.insert(key, hash).is_none(),
                }
            }
            None => {
                let was_logged = further.remove(&key) == Some(hash(&text));
                current.insert(key, Entry { text, since: SystemTime::now() });
                !was_logged
            }
        }
    }

    /// Ends a problem. Returns whether it was there.
    pub(crate) fn end(&self, code: ProblemCode, about: impl fmt::Display) -> bool {
        let State { current, further } = &mut *self.state.lock();
        // Most calls find nothing: no text is made for them.
        if !current.keys().chain(further.keys()).any(|(known, _)| *known == code) {
            return false;
        }
        let key = (code, about.to_string());
        current.remove(&key).is_some() | further.remove(&key).is_some()
    }

    /// Ends the problems of a kind for which `holds` returns false.
    pub(crate) fn keep(&self, code: ProblemCode, mut holds: impl FnMut(&str) -> bool) {
        let State { current, further } = &mut *self.state.lock();
        current.retain(|(known, about), _| *known != code || holds(about));
        further.retain(|(known, about), _| *known != code || holds(about));
    }

    /// Returns the problems, by kind.
    pub(crate) fn current(&self) -> Vec<Problem> {
        let State { current, further } = &*self.state.lock();
        let problem = |((code, about), entry): (&(ProblemCode, String), &Entry)| Problem {
            code: *code,
            about: about.clone(),
            text: entry.text.clone(),
            since: seconds(entry.since),
        };
        let mut problems: Vec<Problem> = current.iter().map(problem).collect();
        if !further.is_empty() {
            let text = format!("{} more are in the log only", further.len());
            let since = current.values().map(|entry| seconds(entry.since)).max().unwrap_or_default();
            problems.push(Problem {
                code: ProblemCode::MoreProblems,
                about: "problems".to_owned(),
                text,
                since,
            });
        }
        problems
    }
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

/// For a line of text.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.about, self.text)
    }
}

/// Returns a time in seconds since 1970.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ProblemCode::{CheckpointMalformed, DeviceUnreadable, PoolsRejected};

    #[test]
    fn problem_is_new_once_until_it_has_ended() {
        let problems = Problems::default();
        assert!(problems.begin(PoolsRejected, "pools.yaml", "line 1"));
        assert!(!problems.clone().begin(PoolsRejected, "pools.yaml", "line 1"));
        let since = problems.current()[0].since;
        assert!(problems.begin(PoolsRejected, "pools.yaml", "line 2"), "another text is news");
        assert_eq!(problems.current()[0].text, "line 2");
        assert_eq!(problems.current()[0].since, since);
        assert!(!problems.end(PoolsRejected, "other") && !problems.end(CheckpointMalformed, "pools.yaml"));
        assert!(problems.end(PoolsRejected, "pools.yaml") && problems.current().is_empty());
        assert!(problems.begin(PoolsRejected, "pools.yaml", "line 2"));
    }

    #[test]
    fn kind_ends_for_what_no_longer_holds() {
        let problems = Problems::default();
        problems.begin(DeviceUnreadable, "a", "x");
        problems.begin(DeviceUnreadable, "b", "x");
        problems.begin(PoolsRejected, "a", "x");
        problems.keep(DeviceUnreadable, |about| about == "b");
        let left: Vec<_> =
            problems.current().into_iter().map(|problem| (problem.code, problem.about)).collect();
        assert_eq!(left, [(PoolsRejected, "a".to_owned()), (DeviceUnreadable, "b".to_owned())]);
    }

    #[test]
    fn number_and_length_are_bounded() {
        let problems = Problems::default();
        problems.begin(DeviceUnreadable, "long", "ä".repeat(MAX_TEXT * 2));
        assert_eq!(problems.current()[0].text.chars().count(), MAX_TEXT);
        (0..MAX_PROBLEMS * 2).for_each(|place| {
            problems.begin(DeviceUnreadable, place, "");
        });
        assert_eq!(problems.current().len(), MAX_PROBLEMS + 1);
        let begin = |place: usize, text: &str| problems.begin(DeviceUnreadable, place, text);
        (0..MAX_FURTHER * 2).for_each(|place| {
            begin(place, "");
        });
        assert_eq!(problems.current().len(), MAX_PROBLEMS + 1);
        assert_eq!(problems.state.lock().further.len(), MAX_FURTHER);
    }

    #[test]
    fn problem_beyond_the_limit_is_new_once_and_counted() {
        let problems = Problems::default();
        (0..MAX_PROBLEMS).for_each(|place| assert!(problems.begin(DeviceUnreadable, place, "x")));
        assert_eq!(problems.current().len(), MAX_PROBLEMS);
        let begin = |text: &str| problems.begin(PoolsRejected, "pools.yaml", text);
        assert!(begin("line 1") && !begin("line 1"), "logged once");
        assert!(begin("line 2") && !begin("line 2"), "another text is news");
        let last = problems.current().pop().unwrap();
        assert_eq!((last.code, &*last.text), (ProblemCode::MoreProblems, "1 more are in the log only"));
        // A place becomes free: it is reported, and not logged again.
        assert!(problems.end(DeviceUnreadable, 0) && !begin("line 2"));
        assert_eq!(problems.current().len(), MAX_PROBLEMS);
        assert!(problems.current().iter().any(|problem| problem.code == PoolsRejected));
        assert!(problems.begin(DeviceUnreadable, "a", "x") && problems.begin(DeviceUnreadable, "b", "x"));
        problems.keep(DeviceUnreadable, |about| about == "a");
        let left: Vec<_> =
            problems.current().into_iter().map(|problem| (problem.code, problem.text)).collect();
        let more = (ProblemCode::MoreProblems, "1 more are in the log only".to_owned());
        let pools = (PoolsRejected, "line 2".to_owned());
        assert_eq!(left, [pools, more], "those beyond the limit end as well");
        assert!(!problems.begin(DeviceUnreadable, "a", "x"), "it is reported now, and was logged");
        assert!(problems.begin(DeviceUnreadable, "b", "x"), "it had ended");
        assert!(problems.end(PoolsRejected, "pools.yaml") && !problems.end(PoolsRejected, "pools.yaml"));
    }

    #[test]
    fn code_of_another_version_is_read() {
        let text = r#"{"code":"frobnicated","about":"a","text":"b","since":1}"#;
        assert_eq!(serde_json::from_str::<Problem>(text).unwrap().code, ProblemCode::Other);
        let text = serde_json::to_string(&PoolsRejected).unwrap();
        assert_eq!(text, r#""pools_rejected""#);
    }
}
