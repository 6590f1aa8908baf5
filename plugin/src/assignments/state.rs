//! The state file assignments.json: what the plugin knows of assignments, kept over its own restart.

use crate::run_dir::RunDir;
use crate::state_file::StateFile;
use serde::{Deserialize, Serialize};
use vfio_plugin_policy::assignments::kubelet::KubeletAge;
use vfio_plugin_policy::assignments::ledger::Ledger;

const NAME: &str = "assignments.json";
/// Changes with every incompatible change of [`AssignmentsState`].
const VERSION: u32 = 1;

/// What is kept.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub(super) struct AssignmentsState {
    /// The assignments.
    pub(super) ledger: Ledger,
    /// When the kubelet's socket was first seen.
    pub(super) kubelet: KubeletAge,
}

/// The file.
#[derive(Debug)]
pub(super) struct AssignmentsFile(StateFile);

impl AssignmentsFile {
    /// Returns the file in `run_dir`, and the state that an earlier process left there. A file that cannot be used is kept aside and
    /// counts as no state.
    pub(super) fn open(run_dir: &RunDir) -> (Self, AssignmentsState) {
        let mut file = StateFile::new(run_dir, NAME);
        let state = file.read_once(VERSION);
        (Self(file), state)
    }

    /// Writes the state if it changed since the last write.
    pub(super) fn write(&mut self, state: &AssignmentsState) {
        self.0.write_versioned(VERSION, state);
    }

    /// Returns whether the latest write succeeded.
    pub(super) fn is_written(&self) -> bool {
        self.0.is_written()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::problems::Problems;
    use std::collections::BTreeSet;
    use std::time::{Duration, Instant};
    use vfio_plugin_policy::assignments::kubelet::{Clocks, KubeletSocket};

    fn open(directory: &tempfile::TempDir) -> (AssignmentsFile, AssignmentsState) {
        AssignmentsFile::open(&RunDir::of_serve(directory.path(), &Problems::default()))
    }

    fn clocks(wall: u64, boot: u64) -> Clocks {
        Clocks { wall: Duration::from_secs(wall), boot: Duration::from_secs(boot) }
    }

    fn state() -> AssignmentsState {
        let mut state = AssignmentsState::default();
        let ids = BTreeSet::from(["0000:1b:00.0".to_owned()]);
        state.ledger.record_allocate("a.b/c", ids.clone(), ids, Default::default(), Instant::now());
        state
    }

    #[test]
    fn state_is_read_back_with_its_version() {
        let directory = tempfile::tempdir().unwrap();
        let (mut file, before) = open(&directory);
        assert_eq!(before, AssignmentsState::default());
        file.write(&state());
        let text = std::fs::read_to_string(directory.path().join("assignments.json")).unwrap();
        assert!(text.starts_with(r#"{"version":1,"#), "{text}");
        let (_, after) = open(&directory);
        assert_eq!(
            after.ledger.assignments()[0].checkpoint_ids,
            state().ledger.assignments()[0].checkpoint_ids
        );
    }

    #[test]
    fn other_version_or_malformed_file_is_no_state() {
        let directory = tempfile::tempdir().unwrap();
        let (mut file, _) = open(&directory);
        file.write(&state());
        let path = directory.path().join("assignments.json");
        let text = std::fs::read_to_string(&path).unwrap();
        for other in [
            text.replace(r#""version":1"#, r#""version":2"#),
            text.replace(r#""version":1,"#, ""),
            text.replace("0000:1b:00.0", "0000:1b:00.0\" and"),
            "[1,".to_owned(),
            String::new(),
        ] {
            assert_ne!(other, text);
            std::fs::write(&path, &other).unwrap();
            assert_eq!(open(&directory).1, AssignmentsState::default(), "{other}");
        }
    }

    #[test]
    fn kubelets_age_survives_a_restart_and_a_clock_step() {
        let directory = tempfile::tempdir().unwrap();
        let socket = Some(KubeletSocket::new(1, 7, (1_000_000, 0)));
        let (mut file, mut state) = open(&directory);
        assert_eq!(state.kubelet.observe(socket, clocks(1_000_010, 500)), Some(Duration::from_secs(10)));
        file.write(&state);
        for step_to in [0, 9_000_000] {
            let (_, mut restarted) = open(&directory);
            let age = restarted.kubelet.observe(socket, clocks(step_to, 590));
            assert_eq!(age, Some(Duration::from_secs(100)));
        }
    }
}
