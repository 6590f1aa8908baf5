//! The prepared claims, which are the only ones whose pods may hold the node's devices.
//!
//! They are kept in the state file claims.json in the driver's directory. A claim that was prepared before the latest boot is not
//! prepared any more. So the file is not synchronized: what a power cut can take from it is void after the boot.

use crate::assignments::AssignmentsHandle;
use crate::run_dir::RunDir;
use crate::state_file::StateFile;
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::watch;
use vfio_plugin_policy::dra::prepared::{ClaimRecord, PreparedClaim, PreparedDevice};
use vfio_probe::{DeviceId, GroupId};

/// The state file.
const FILE: &str = "claims.json";
/// The version of the state file's content.
const VERSION: u32 = 1;

/// All prepared claims, by uid.
#[derive(Debug)]
pub(super) struct PreparedClaims {
    /// Never locked while the file is written, so that no reader waits for the disk.
    state: Mutex<State>,
    /// Locked during a change: one at a time.
    file: Mutex<StateFile>,
    assignments: AssignmentsHandle,
    /// The current boot.
    boot: String,
    /// Changes when a claim was removed.
    removed: watch::Sender<()>,
}

#[derive(Debug)]
struct State {
    /// The claims that the file has.
    claims: BTreeMap<String, PreparedClaim>,
    /// The claims whose devices are protected. During a change that is also a claim that the file does not have yet, and one that it may
    /// still have.
    protected: BTreeMap<String, PreparedClaim>,
    /// The claims whose containers have ended and whose groups are still held. Their devices are judged as if no claim had them.
    ended: BTreeSet<String>,
}

impl PreparedClaims {
    /// Reads the claims that an earlier process has prepared, and sets them as assignments. Returns also whether there was a record.
    ///
    /// # Errors
    /// The state file cannot be read now. The driver must not start without it: it would not know who may hold a device.
    pub(super) fn open(
        directory: &RunDir,
        assignments: AssignmentsHandle,
        boot: String,
    ) -> std::io::Result<(Self, bool)> {
        let mut file = state_file(directory);
        let content = file.read_versioned(VERSION)?;
        let was_there = content.is_some();
        let ClaimRecord { claims } = content.unwrap_or_default();
        let state = State { protected: claims.clone(), claims, ended: BTreeSet::new() };
        let prepared = Self {
            state: Mutex::new(state),
            file: Mutex::new(file),
            assignments,
            boot,
            removed: watch::Sender::default(),
        };
        prepared.set_assignments(&prepared.state.lock());
        Ok((prepared, was_there))
    }

    /// Returns how many claims a file has that were prepared in a boot. `boot` returns its id; it is called if there are claims.
    ///
    /// # Errors
    /// The file cannot be read now.
    pub(super) fn read(directory: &RunDir, boot: impl FnOnce() -> String) -> std::io::Result<usize> {
        let ClaimRecord { claims } = state_file(directory).read_versioned(VERSION)?.unwrap_or_default();
        if claims.is_empty() {
            return Ok(0);
        }
        let boot = boot();
        Ok(claims.values().filter(|claim| claim.boot == boot).count())
    }

    /// Returns how many claims were prepared since the latest boot.
    pub(super) fn current(&self) -> usize {
        self.state.lock().claims.values().filter(|claim| self.is_current(claim)).count()
    }

    /// Returns a claim. None if it is not known.
    pub(super) fn get(&self, uid: &str) -> Option<PreparedClaim> {
        self.state.lock().claims.get(uid).cloned()
    }

    /// Returns the current boot.
    pub(super) fn boot(&self) -> &str {
        &self.boot
    }

    /// Returns whether a claim was prepared since the latest boot. Without that, none of its pods has run since.
    pub(super) fn is_current(&self, claim: &PreparedClaim) -> bool {
        claim.boot == self.boot
    }

    /// Returns the other claim that has a device or its group, with its uid.
    pub(super) fn other_with(
        &self,
        uid: &str,
        device: DeviceId,
        group: Option<GroupId>,
    ) -> Option<(String, PreparedClaim)> {
        let (id, group) = (device.to_string(), group.map(|group| group.0));
        let has =
            |device: &PreparedDevice| device.device == id || device.group.is_some() && device.group == group;
        let state = self.state.lock();
        let mut others = state.claims.iter().filter(|(other, claim)| *other != uid && self.is_current(claim));
        let found = others.find(|(_, claim)| claim.own_devices().any(has));
        found.map(|(uid, claim)| (uid.clone(), claim.clone()))
    }

    /// Adds or replaces a claim. When this returns, the monitor probes none of its devices, and the file has it. Waits for the disk.
    ///
    /// # Errors
    /// The file could not be written. The claims are as before then.
    pub(super) fn insert(&self, uid: &str, claim: PreparedClaim) -> Result<(), NotWritten> {
        self.change(|claims| claims.insert(uid.to_owned(), claim))?;
        self.set_ended(uid, false);
        Ok(())
    }

    /// Removes a claim, from the file first. Waits for the disk.
    ///
    /// # Errors
    /// The file could not be written. The claim is still there then.
    pub(super) fn remove(&self, uid: &str) -> Result<(), NotWritten> {
        self.change(|claims| claims.remove(uid))?;
        self.removed.send_replace(());
        Ok(())
    }

    /// Waits until a claim is not there any more.
    pub(super) async fn wait_until_removed(&self, uid: &str) {
        let mut removed = self.removed.subscribe();
        while self.get(uid).is_some() && removed.changed().await.is_ok() {}
    }

    fn change<T>(
        &self,
        change: impl FnOnce(&mut BTreeMap<String, PreparedClaim>) -> T,
    ) -> Result<(), NotWritten> {
        let mut file = self.file.lock();
        let claims = {
            let state = &mut *self.state.lock();
            let mut claims = state.claims.clone();
            change(&mut claims);
            state.protected.extend(claims.iter().map(|(uid, claim)| (uid.clone(), claim.clone())));
            // A claim that has ended protects no device, also while the disk takes long to remove it: its taint would be taken back.
            self.set_assignments(state);
            claims
        };
        let content = ClaimRecord { claims };
        file.write_versioned(VERSION, &content);
        let (is_written, is_late) = (file.is_written(), file.is_late());
        let state = &mut *self.state.lock();
        if is_written {
            state.claims = content.claims;
            state.ended.retain(|uid| state.claims.contains_key(uid));
        }
        state.protected = state.claims.clone();
        self.set_assignments(state);
        if is_written { Ok(()) } else { Err(NotWritten { is_late }) }
    }

    /// Sets whether the containers of a claim have ended while its groups are still held. The scheduler may get its devices when it
    /// is unprepared, so they are published as if no claim had them. No other claim is prepared with them before that.
    pub(super) fn set_ended(&self, uid: &str, has_ended: bool) {
        let state = &mut *self.state.lock();
        if has_ended {
            state.ended.insert(uid.to_owned());
        } else {
            state.ended.remove(uid);
        }
        self.set_assignments(state);
    }

    fn set_assignments(&self, state: &State) {
        let protects =
            |(uid, claim): &(&String, &PreparedClaim)| self.is_current(claim) && !state.ended.contains(*uid);
        let claims = state.protected.iter().filter(protects);
        self.assignments.set_claims(&claims.flat_map(|(uid, claim)| claim.claimed_devices(uid)).collect());
    }
}

fn state_file(directory: &RunDir) -> StateFile {
    StateFile::new(directory, FILE).of_this_boot()
}

/// The state file could not be written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct NotWritten {
    /// Whether the disk has not finished a write yet.
    pub(super) is_late: bool,
}

impl std::fmt::Display for NotWritten {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "the driver's state file {FILE} could not be written; its log says why")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::Cli;
    use crate::node::monitor::MonitorHandle;
    use crate::problems::Problems;
    use clap::Parser;
    use serde_json::json;
    use std::cell::Cell;
    use vfio_plugin_policy::pools::terms::PinnedTerms;
    use vfio_sim_node::Node;

    const GPU: &str = "0000:1b:00.0";

    fn claim(boot: &str, devices: &serde_json::Value) -> serde_json::Value {
        json!({
            "namespace": "default", "name": "gpu", "boot": boot, "pods": [], "is_for_any_pod": false,
            "pod_claim_name": null, "is_adopted": false, "devices": devices,
        })
    }

    #[test]
    fn ended_claim_protects_no_device_while_it_cannot_be_removed() {
        let node = Node::with_eight_gpus().unwrap();
        let root = format!("--root={}", node.root().display());
        let config = Cli::parse_from(["vfio-device-plugin", &root]).config;
        let run_dir = RunDir::of_serve(&node.run_dir(), &Problems::default());
        let monitor = MonitorHandle::without_passes(&config, &run_dir).unwrap();
        let assignments = AssignmentsHandle::new(&run_dir, monitor);
        let directory = tempfile::tempdir().unwrap();
        let dra_dir = RunDir::of_serve(directory.path(), &Problems::default());
        let (claims, _) = PreparedClaims::open(&dra_dir, assignments.clone(), "now".into()).unwrap();
        let protected = || assignments.current().reserved().devices;
        let devices = json!([{
            "request": "gpu", "device": GPU, "group": 51, "resource": "vfio.io/gpu", "pinned": PinnedTerms::default(), "is_admin": false,
        }]);
        claims.insert("uid", serde_json::from_value(claim("now", &devices)).unwrap()).unwrap();
        assert_eq!(protected(), [GPU.parse().unwrap()]);
        claims.set_ended("uid", true);
        assert!(protected().is_empty());
        // A directory of this name cannot be replaced.
        std::fs::remove_file(directory.path().join(FILE)).unwrap();
        std::fs::create_dir(directory.path().join(FILE)).unwrap();
        assert_eq!(claims.remove("uid"), Err(NotWritten { is_late: false }));
        assert!(claims.get("uid").is_some() && protected().is_empty());
        std::fs::remove_dir(directory.path().join(FILE)).unwrap();
        claims.remove("uid").unwrap();
        assert!(claims.get("uid").is_none() && protected().is_empty());
    }

    #[test]
    fn boot_is_read_only_if_claims_are_recorded() {
        let directory = tempfile::tempdir().unwrap();
        let (run_dir, calls) = (RunDir::of_reader(directory.path()), Cell::new(0));
        let boot = || {
            calls.set(calls.get() + 1);
            "now".to_owned()
        };
        assert_eq!((PreparedClaims::read(&run_dir, boot).unwrap(), calls.get()), (0, 0));
        let none = json!([]);
        let content = json!({
            "version": VERSION, "claims": { "one": claim("now", &none), "two": claim("before", &none) },
        });
        std::fs::write(directory.path().join(FILE), content.to_string()).unwrap();
        assert_eq!((PreparedClaims::read(&run_dir, boot).unwrap(), calls.get()), (1, 1));
    }
}
