//! Writes and removes the files of a claim: the CDI spec and the metadata.

use crate::allocate::device_specs::extended_memory;
use crate::dra::call_error::CallError;
use crate::dra::claim_spec::{self, RequestEdits};
use crate::dra::driver::{CallLock, Driver};
use crate::files::{Links, create_directories, is_on_disk, read, replace_on};
use crate::node::device_nodes;
use kubelet_api::dra::Claim;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use tokio::task::spawn_blocking;
use tokio::time::{Instant, timeout_at};
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::dra::claim::{AllocatedDevice, Allocation};
use vfio_plugin_policy::dra::metadata::{ClaimName, Device, Metadata, Request, claim_directory};
use vfio_plugin_policy::dra::names::device_name;
use vfio_plugin_policy::dra::prepared::PreparedClaim;
use vfio_plugin_policy::pools::backend::{self, GroupNodes};
use vfio_plugin_policy::pools::resource_name::env_name;
use vfio_probe::{DeviceId, GroupId, Kind};

/// The permissions of the files: every runtime and every container may read them.
const MODE: u32 = 0o644;
/// A file with another content than this process writes is at most this long.
const MAX_SIZE: u64 = 1024 * 1024;

/// A file of a claim.
#[derive(Debug)]
pub(super) struct ClaimFile {
    path: PathBuf,
    text: String,
    /// Whether it is synchronized, so that it outlives a power cut.
    outlives: bool,
}

impl Driver {
    /// Returns the files of a claim: the metadata first, which the spec mounts.
    ///
    /// # Errors
    /// The content of a file cannot be made.
    pub(super) fn claim_files(
        &self,
        claim: &Claim,
        prepared: &PreparedClaim,
        allocation: &Allocation,
    ) -> Result<Vec<ClaimFile>, CallError> {
        let snapshot = self.checks().snapshot();
        let mut by_request: BTreeMap<&str, Vec<&AllocatedDevice>> = BTreeMap::new();
        for result in &allocation.results {
            by_request.entry(result.base_request()).or_default().push(result);
        }
        let (mut files, mut requests) = (Vec::new(), BTreeMap::new());
        for (request, results) in by_request {
            let directory = claim_directory(&self.plugins_dir, &claim.namespace, &claim.name).join(request);
            let path = directory.join("metadata.json");
            let metadata = self.metadata(claim, allocation, &results, &snapshot);
            let text = metadata.text().map_err(|error| failed(&path, &error))?;
            // Only the claim's pods read it.
            files.push(ClaimFile { path: path.clone(), text, outlives: false });
            let container_path = metadata.container_path(self.name.as_str(), request);
            let edits = self.edits(prepared, &results, &snapshot);
            requests.insert(request.to_owned(), RequestEdits { metadata: (path, container_path), ..edits });
        }
        let path = claim_spec::path(&self.cdi_dir, &self.name, &claim.uid);
        let text =
            claim_spec::text(&self.name, &claim.uid, &requests).map_err(|error| failed(&path, &error))?;
        // The container runtime reads all specs when it starts.
        files.push(ClaimFile { path, text, outlives: true });
        Ok(files)
    }

    /// Writes the files of a claim, if their content differs.
    ///
    /// # Errors
    /// A file cannot be written, or the disk does not answer by the deadline.
    pub(super) async fn write_files(
        &self,
        lock: &CallLock,
        files: Vec<ClaimFile>,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let directory = self.plugins_dir.clone();
        on_disk(lock, directory, deadline, move || files.iter().try_for_each(write)).await
    }

    /// Removes the files of a claim. Files that are not there are no error.
    ///
    /// # Errors
    /// A file cannot be removed, or the disk does not answer by the deadline.
    pub(super) async fn remove_files(
        &self,
        lock: &CallLock,
        claim: &Claim,
        deadline: Instant,
    ) -> Result<(), CallError> {
        let spec = claim_spec::path(&self.cdi_dir, &self.name, &claim.uid);
        let metadata = claim_directory(&self.plugins_dir, &claim.namespace, &claim.name);
        let remove = move || {
            for (path, result) in
                [(&spec, std::fs::remove_file(&spec)), (&metadata, std::fs::remove_dir_all(&metadata))]
            {
                match result {
                    Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(path, &error)),
                    _ => {}
                }
            }
            Ok(())
        };
        on_disk(lock, self.plugins_dir.clone(), deadline, remove).await
    }

    fn metadata<'a>(
        &'a self,
        claim: &'a Claim,
        allocation: &'a Allocation,
        results: &[&'a AllocatedDevice],
        snapshot: &NodeSnapshot,
    ) -> Metadata<'a> {
        let device = |result: &&AllocatedDevice| Device {
            driver: self.name.as_str(),
            pool: &self.node,
            name: device_name(result.device),
            attributes: snapshot
                .get(result.device)
                .map(|state| self.facts.attributes(state).by_name())
                .unwrap_or_default(),
        };
        let name = results.first().map(|result| result.request.as_str()).unwrap_or_default();
        Metadata {
            metadata: ClaimName {
                name: &claim.name,
                namespace: &claim.namespace,
                uid: &claim.uid,
                generation: 1,
            },
            pod_claim_name: allocation.pod_claim_name.as_deref(),
            requests: [Request { name, devices: results.iter().map(device).collect() }],
        }
    }

    /// Returns the device nodes and variables of a request. A request for an administrator has none: a group is opened once.
    fn edits(
        &self,
        prepared: &PreparedClaim,
        results: &[&AllocatedDevice],
        snapshot: &NodeSnapshot,
    ) -> RequestEdits {
        let own: Vec<&DeviceState> = results
            .iter()
            .filter(|result| !result.is_admin)
            .filter_map(|result| snapshot.get(result.device))
            .collect();
        let pinned = |id: DeviceId| {
            let mut devices = prepared.own_devices();
            devices.find(|device| device.id() == Some(id)).map(|device| device.pinned)
        };
        let backend = own
            .first()
            .and_then(|device| pinned(device.device.id))
            .map(|pinned| pinned.backend)
            .unwrap_or_default();
        let mut groups: Vec<GroupId> = own.iter().filter_map(|device| device.device.group).collect();
        groups.dedup();
        let nodes = groups.into_iter().map(|group| {
            device_nodes::read(&self.monitor.root, snapshot.container_node_missing, backend, group)
        });
        let nodes: Vec<GroupNodes> = nodes.collect();
        let mut paths =
            if nodes.is_empty() { Vec::new() } else { backend::node_paths(backend, &nodes).paths };
        let ids: Vec<DeviceId> = own.iter().map(|device| device.device.id).collect();
        paths.extend(extended_memory(&self.monitor.root, &own, &ids));
        let mut variables: BTreeMap<String, String> = BTreeMap::new();
        for device in &own {
            let name = env_name(&device.resource, device.device.kind == Kind::Mdev);
            let ids = variables.entry(name).or_default();
            if !ids.is_empty() {
                ids.push(',');
            }
            ids.push_str(&device.device.id.to_string());
        }
        RequestEdits { nodes: paths, variables, ..RequestEdits::default() }
    }
}

/// Works on files, on a thread of its own: the driver goes on while a disk does not answer. Waits until the deadline. The claim stays
/// locked until the work has ended, so that the next call for it does not work on the same files.
async fn on_disk(
    lock: &CallLock,
    directory: PathBuf,
    deadline: Instant,
    work: impl FnOnce() -> Result<(), CallError> + Send + 'static,
) -> Result<(), CallError> {
    let lock = CallLock::clone(lock);
    let work = spawn_blocking(move || {
        let result = work();
        drop(lock);
        result
    });
    match timeout_at(deadline, work).await {
        Ok(Ok(result)) => result,
        Ok(Err(error)) => Err(failed(&directory, &error)),
        Err(_) => Err(CallError::Late { directory }),
    }
}

/// Replaces a file, unless it has the content already.
///
/// Synchronizing takes milliseconds on a disk. After a power cut the claim is prepared as a new one, and its files are compared here
/// before a pod starts.
fn write(ClaimFile { path, text, outlives }: &ClaimFile) -> Result<(), CallError> {
    // First: a directory that is there is not made again, which would wait for a disk that hangs.
    if read(path, Links::Refuse, MAX_SIZE).is_ok_and(|content| content == text.as_bytes()) {
        return Ok(());
    }
    let parent = path.parent().unwrap_or(path);
    create_directories(parent).map_err(|error| failed(parent, &error))?;
    replace_on(*outlives && is_on_disk(parent), path, text.as_bytes(), MODE)
        .map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> CallError {
    CallError::File { path: PathBuf::from(path), error: error.to_string() }
}
