//! Resource names of devices, looked up in pci.ids once an id.

use crate::resources::{Selector, resource_name};
use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::Arc;
use vfio_probe::Device;

/// Gives devices their resources; remembers every id that it has seen.
#[derive(Debug)]
pub(crate) struct Namer {
    select: Vec<Selector>,
    file: Option<PathBuf>,
    known: HashMap<(u16, u16), Arc<str>>,
    complained: bool,
}

impl Namer {
    /// For the devices that `select` names, with names from `file` or the first of the usual places.
    pub(crate) fn new(select: &[Selector], file: Option<PathBuf>) -> Self {
        Self { select: select.to_vec(), file, known: HashMap::new(), complained: false }
    }

    /// Looks up the ids of all devices that are offered and not known yet, in one pass over the file.
    pub(crate) fn learn<'a>(&mut self, devices: impl Iterator<Item = &'a Device>) {
        let mut unknown: Vec<(u16, u16)> = devices
            .filter(|device| self.selects(device))
            .map(|device| (device.vendor, device.device))
            .filter(|ids| !self.known.contains_key(ids))
            .collect();
        unknown.sort_unstable();
        unknown.dedup();
        if unknown.is_empty() {
            return;
        }
        let mut names = vec![None; unknown.len()];
        let found = vfio_probe::names::open(self.file.as_deref()).and_then(|mut file| {
            vfio_probe::names::find(&mut file, &unknown, &mut |index, name| {
                if let Some(slot) = names.get_mut(index) {
                    *slot = Some(name.to_owned());
                }
            })
        });
        if let (Err(error), false) = (found, self.complained) {
            self.complained = true;
            tracing::warn!(%error, "no pci.ids: resources are named by hex ids; give --pci-ids or install pci.ids");
        }
        for ((vendor, device), name) in unknown.into_iter().zip(names) {
            let resource = resource_name(vendor, device, name.as_deref());
            self.known.insert((vendor, device), resource.into());
        }
    }

    /// A device's resource; none if it is not offered.
    pub(crate) fn resource(&self, device: &Device) -> Option<Arc<str>> {
        self.selects(device).then(|| self.known.get(&(device.vendor, device.device)).cloned()).flatten()
    }

    fn selects(&self, device: &Device) -> bool {
        self.select.iter().any(|selector| selector.matches(device))
    }
}
