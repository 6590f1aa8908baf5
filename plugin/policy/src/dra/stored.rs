//! Keeps what the API server stores of a slice, in a fraction of the memory of the API's type.

use k8s_openapi::api::resource::v1::{CounterSet, Device, DeviceTaint, ResourceSlice, ResourceSliceSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

/// A stored slice.
#[derive(Clone, Debug)]
pub struct StoredSlice {
    /// The slice without its devices.
    rest: ResourceSlice,
    devices: Vec<StoredDevice>,
}

/// A device of a stored slice.
#[derive(Clone, PartialEq, Debug)]
pub struct StoredDevice {
    /// The name.
    pub name: String,
    /// The taints.
    pub taints: Vec<DeviceTaint>,
    /// All other fields, as JSON. It takes a kilobyte; as the API's types they take seven.
    rest: Box<str>,
}

impl StoredSlice {
    /// Returns its metadata.
    pub fn metadata(&self) -> &ObjectMeta {
        &self.rest.metadata
    }

    /// Returns its content without the devices.
    pub fn spec(&self) -> &ResourceSliceSpec {
        &self.rest.spec
    }

    /// Returns its counter sets.
    pub fn counter_sets(&self) -> impl Iterator<Item = &CounterSet> {
        self.spec().shared_counters.iter().flatten()
    }

    /// Returns its devices.
    pub fn devices(&self) -> &[StoredDevice] {
        &self.devices
    }

    /// Returns whether it is a slice with these devices. `rest` is that slice without devices.
    pub(super) fn is_equal_to(
        &self,
        rest: &ResourceSlice,
        devices: impl ExactSizeIterator<Item = Device>,
    ) -> bool {
        self.rest == *rest
            && self.devices.len() == devices.len()
            && self.devices.iter().zip(devices).all(|(stored, device)| *stored == device.into())
    }
}

impl From<ResourceSlice> for StoredSlice {
    fn from(mut slice: ResourceSlice) -> Self {
        let devices = slice.spec.devices.take().into_iter().flatten();
        Self { devices: devices.map(StoredDevice::from).collect(), rest: slice }
    }
}

impl From<Device> for StoredDevice {
    fn from(mut device: Device) -> Self {
        let (name, taints) = (std::mem::take(&mut device.name), device.taints.take().unwrap_or_default());
        // A device has no map with other keys than texts, so it can always be written.
        let rest = serde_json::to_string(&device).unwrap_or_default();
        Self { name, taints, rest: rest.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn device(fields: Value) -> Device {
        serde_json::from_value(fields).unwrap()
    }

    fn devices() -> [Value; 2] {
        [
            json!({
                "name": "pci-0000-1b-00-0", "attributes": {"model": {"string": "GH100"}, "iommuGroup": {"int": 51}},
                "taints": [{"key": "a.io/held", "effect": "NoSchedule"}],
            }),
            json!({"name": "pci-0000-3d-00-0", "consumesCounters": [{"counterSet": "groups-1", "counters": {}}]}),
        ]
    }

    #[test]
    fn each_difference_of_a_device_is_found() {
        let rest: ResourceSlice = serde_json::from_value(json!({
            "metadata": {"name": "s"},
            "spec": {"driver": "a.io", "pool": {"name": "n", "generation": 1, "resourceSliceCount": 1}},
        }))
        .unwrap();
        let mut slice = rest.clone();
        slice.spec.devices = Some(devices().map(device).to_vec());
        let stored = StoredSlice::from(slice);
        let is = |rest: &ResourceSlice, devices: Vec<Value>| {
            stored.is_equal_to(rest, devices.into_iter().map(device))
        };
        assert!(is(&rest, devices().to_vec()));
        for (place, field, value) in [
            (0, "name", json!("pci-0000-1b-00-1")),
            (0, "attributes", json!({"model": {"string": "GH100"}, "iommuGroup": {"int": 52}})),
            (0, "attributes", json!({"model": {"string": "GH100"}})),
            (0, "taints", json!([{"key": "a.io/lost", "effect": "NoSchedule"}])),
            (0, "taints", Value::Null),
            (1, "consumesCounters", json!([{"counterSet": "groups-2", "counters": {}}])),
            (1, "allNodes", json!(true)),
        ] {
            let mut other = devices();
            other[place][field] = value;
            assert!(!is(&rest, other.to_vec()), "{other:?}");
        }
        let [first, second] = devices();
        assert!(!is(&rest, vec![first.clone()]), "a device is missing");
        assert!(!is(&rest, vec![second, first]), "another order");
        let mut other = rest.clone();
        other.spec.pool.generation = 2;
        assert!(!is(&other, devices().to_vec()), "another generation");
    }
}
