//! Names of vGPUs' types. A driver lists the types of which it could make one more now, so one that is in use may have no name
//! for a while: whoever might know it is asked, and what was told once is kept.

use crate::state_file::StateFile;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use vfio_plugin_policy::pools::resource_name::type_name;
use vfio_plugin_policy::pools::selector::VgpuType;
use vfio_probe::{Device, Kind, Root};

/// What is known of types.
#[derive(Debug)]
pub(crate) struct VgpuTypes {
    names: BTreeMap<String, String>,
    state_file: StateFile,
    /// What an earlier process of ours was told; read when the first type is asked for, since most nodes have none.
    remembered: Option<BTreeMap<String, String>>,
    /// VgpuTypes that were said to go by their number.
    nameless: BTreeSet<String>,
}

impl VgpuTypes {
    /// Remembers by a file in this folder.
    pub(crate) fn new(run_dir: &Path) -> Self {
        Self {
            names: BTreeMap::new(),
            state_file: StateFile::new(run_dir, "types.json"),
            remembered: None,
            nameless: BTreeSet::new(),
        }
    }

    /// The name of a type as part of a resource, if any was told.
    pub(crate) fn name(&self, number: &VgpuType) -> Option<&str> {
        self.names.get(number.as_str()).map(String::as_str)
    }

    /// Asks for the name of a type without one: first those of it, then other functions of this model, and last what is
    /// remembered. A read each, until one tells it.
    pub(crate) fn ask<'a>(
        &mut self,
        root: &Root,
        number: &VgpuType,
        devices: impl Iterator<Item = &'a Device> + Clone,
    ) {
        if self.name(number).is_some() {
            return;
        }
        let told = told(root, number, devices);
        let remembered = self.remembered.get_or_insert_with(|| self.state_file.read());
        let told = told.unwrap_or_else(|error| {
            if !self.nameless.contains(number.as_str()) {
                tracing::warn!(%error, vgpu_type = %number, "the name of a type of vGPUs cannot be read");
            }
            None
        });
        // The driver first: an update may have renamed it.
        let name = told.or_else(|| remembered.get(number.as_str()).cloned());
        let name = name.map(|name| type_name(number.as_str(), Some(&name)));
        if let Some(name) = name {
            self.names.insert(number.to_string(), name);
        } else if self.nameless.insert(number.to_string()) {
            tracing::warn!(vgpu_type = %number, "a type of vGPUs goes by its number, until the driver tells its name");
        }
    }

    /// Keeps for the next process of ours what was told to this one.
    pub(crate) fn keep(&mut self) {
        let Some(remembered) = &mut self.remembered else { return };
        let news = self.names.iter().filter(|(number, name)| remembered.get(*number) != Some(*name));
        let news: Vec<_> = news.map(|(number, name)| (number.clone(), name.clone())).collect();
        if !news.is_empty() {
            remembered.extend(news);
            self.state_file.write(remembered);
        }
    }
}

/// What the first device that knows it tells; the last error if none does.
fn told<'a>(
    root: &Root,
    number: &VgpuType,
    devices: impl Iterator<Item = &'a Device> + Clone,
) -> vfio_probe::Result<Option<String>> {
    let of_it = devices.clone().filter(|device| device.vgpu_type == Some(*number));
    let models: BTreeSet<_> = of_it.clone().map(|device| (device.vendor, device.device)).collect();
    let other = |device: &&Device| {
        device.kind == Kind::VendorVf
            && device.vgpu_type != Some(*number)
            && models.contains(&(device.vendor, device.device))
    };
    // A mediated device's type has a folder with its name, or none that ever tells one.
    let is_function = of_it.clone().any(|device| device.kind == Kind::VendorVf);
    let others = devices.filter(other).filter(|_| is_function);
    let mut failed = Ok(None);
    for device in of_it.chain(others) {
        match root.vgpu_type_name(&Device { vgpu_type: Some(*number), ..*device }) {
            Ok(Some(name)) => return Ok(Some(name.to_string())),
            Ok(None) if device.kind == Kind::Mdev => break,
            Ok(None) => {}
            Err(error) => failed = Err(error),
        }
    }
    failed
}
