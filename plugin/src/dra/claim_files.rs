//! Writes and removes the files of a claim: the CDI spec and the metadata.

use crate::allocate::device_specs::extended_memory;
use crate::dra::claim_spec::{self, RequestEdits};
use crate::dra::driver::{CallError, Driver};
use crate::files::{Links, create_directories, is_on_disk, read, replace_on};
use crate::node::device_nodes;
use kubelet_api::dra::Claim;
use std::collections::BTreeMap;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use vfio_plugin_policy::device::{DeviceState, NodeSnapshot};
use vfio_plugin_policy::dra::attributes::attributes;
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

impl Driver {
    /// Writes the files of a claim, if their content differs: the metadata first, which the spec mounts.
    ///
    /// # Errors
    /// A file cannot be written.
    pub(super) fn write_files(
        &self,
        claim: &Claim,
        prepared: &PreparedClaim,
        allocation: &Allocation,
    ) -> Result<(), CallError> {
        let snapshot = self.checks().snapshot();
        let mut by_request: BTreeMap<&str, Vec<&AllocatedDevice>> = BTreeMap::new();
        for result in &allocation.results {
            by_request.entry(result.base_request()).or_default().push(result);
        }
        let mut requests = BTreeMap::new();
        for (request, results) in by_request {
            let directory = claim_directory(&self.plugins_dir, &claim.namespace, &claim.name).join(request);
            let path = directory.join("metadata.json");
            let metadata = self.metadata(claim, allocation, &results, &snapshot);
            let text = metadata.text().map_err(|error| failed(&path, &error))?;
            create_directories(&directory).map_err(|error| failed(&directory, &error))?;
            // Only the claim's pods read it.
            write(&path, &text, false)?;
            let container_path = metadata.container_path(self.name.as_str(), request);
            let edits = self.edits(prepared, &results, &snapshot);
            requests.insert(request.to_owned(), RequestEdits { metadata: (path, container_path), ..edits });
        }
        let path = claim_spec::path(&self.cdi_dir, &self.name, &claim.uid);
        let text =
            claim_spec::text(&self.name, &claim.uid, &requests).map_err(|error| failed(&path, &error))?;
        create_directories(&self.cdi_dir).map_err(|error| failed(&self.cdi_dir, &error))?;
        // The container runtime reads all specs when it starts.
        write(&path, &text, true)
    }

    /// Removes the files of a claim. Files that are not there are no error.
    ///
    /// # Errors
    /// A file cannot be removed.
    pub(super) fn remove_files(&self, claim: &Claim) -> Result<(), CallError> {
        let spec = claim_spec::path(&self.cdi_dir, &self.name, &claim.uid);
        let metadata = claim_directory(&self.plugins_dir, &claim.namespace, &claim.name);
        for (path, result) in
            [(&spec, std::fs::remove_file(&spec)), (&metadata, std::fs::remove_dir_all(&metadata))]
        {
            match result {
                Err(error) if error.kind() != ErrorKind::NotFound => return Err(failed(path, &error)),
                _ => {}
            }
        }
        Ok(())
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
                .map(|state| attributes(state, &self.facts.of(state)))
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

/// Replaces a file, unless it has the content already.
///
/// Only a file that `outlives` a power cut is synchronized, which takes milliseconds on a disk. After a power cut the claim is
/// prepared as a new one, and its files are compared here before a pod starts.
fn write(path: &Path, text: &str, outlives: bool) -> Result<(), CallError> {
    if read(path, Links::Refuse, MAX_SIZE).is_ok_and(|content| content == text.as_bytes()) {
        return Ok(());
    }
    let is_on_disk = outlives && path.parent().is_none_or(is_on_disk);
    replace_on(is_on_disk, path, text.as_bytes(), MODE).map_err(|error| failed(path, &error))
}

fn failed(path: &Path, error: &dyn std::fmt::Display) -> CallError {
    CallError::File { path: PathBuf::from(path), error: error.to_string() }
}
