//! The device record and the event as frozen Python values.

use crate::python::words::Word;
use pyo3::prelude::*;
use std::fmt::Write;
use vfio_probe::Sriov;

/// A device as sysfs describes it.
#[pyclass(frozen, eq, hash, get_all, module = "vfio_probe")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Device {
    id: String,
    vendor: u16,
    device: u16,
    subsystem_vendor: u16,
    subsystem_device: u16,
    class_code: u32,
    driver: Option<String>,
    group: Option<u32>,
    numa_node: Option<u16>,
    sriov: Word,
    vfs: u16,
    cdev: Option<u32>,
    kind: Word,
    vgpu_type: Option<String>,
    parent: Option<String>,
}

impl From<&vfio_probe::Device> for Device {
    fn from(device: &vfio_probe::Device) -> Self {
        Self {
            id: device.id.to_string(),
            vendor: device.vendor,
            device: device.device,
            subsystem_vendor: device.subsystem_vendor,
            subsystem_device: device.subsystem_device,
            class_code: device.class,
            driver: device.driver.map(|driver| driver.to_string()),
            group: device.group.map(|group| group.0),
            numa_node: device.numa_node,
            sriov: Word::sriov(device.sriov),
            vfs: if let Sriov::Physical(count) = device.sriov { count } else { 0 },
            cdev: device.cdev,
            kind: Word::kind(device.kind),
            vgpu_type: device.vgpu_type.map(|name| name.to_string()),
            parent: device.parent.map(|parent| parent.to_string()),
        }
    }
}

#[pymethods]
impl Device {
    fn __repr__(&self) -> String {
        let mut text = format!(
            "<Device {} {:04x}:{:04x} class {:06x}",
            self.id, self.vendor, self.device, self.class_code
        );
        push(&mut text, "driver", self.driver.as_ref());
        push(&mut text, "group", self.group);
        push(&mut text, "numa_node", self.numa_node);
        text + ">"
    }
}

/// An event of a watch.
#[pyclass(frozen, eq, hash, get_all, module = "vfio_probe")]
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Event {
    kind: Word,
    device: Option<String>,
    group: Option<u32>,
}

impl From<vfio_probe::Event> for Event {
    fn from(event: vfio_probe::Event) -> Self {
        Self {
            kind: Word::event(event),
            device: event.device().map(|device| device.to_string()),
            group: event.group().map(|group| group.0),
        }
    }
}

#[pymethods]
impl Event {
    fn __repr__(&self) -> String {
        let mut text = format!("<Event {}", self.kind);
        push(&mut text, "device", self.device.as_ref());
        push(&mut text, "group", self.group);
        text + ">"
    }
}

/// Appends ` name value` to a repr if there is a value.
pub(crate) fn push(text: &mut String, name: &str, value: Option<impl std::fmt::Display>) {
    if let Some(value) = value {
        // Writing to a String cannot fail.
        let _ = write!(text, " {name} {value}");
    }
}
