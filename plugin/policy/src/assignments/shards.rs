//! A map from devices to values of which versions share their unchanged parts.

use std::sync::Arc;
use vfio_probe::DeviceId;

/// The number of parts. A change copies one of them.
const SHARDS: usize = 16;

/// A part: values in the order of their devices.
type Shard<V> = Arc<Vec<(DeviceId, V)>>;

/// A map that is cheap to clone, and to change after a clone: both cost a fraction of the map's size.
#[derive(Clone, Debug)]
pub(super) struct Shards<V>([Shard<V>; SHARDS]);

impl<V: Clone> Shards<V> {
    /// Returns the value of a device.
    pub(super) fn get(&self, id: DeviceId) -> Option<&V> {
        let shard = self.0.get(place(id))?;
        let index = shard.binary_search_by_key(&id, |(id, _)| *id).ok()?;
        shard.get(index).map(|(_, value)| value)
    }

    /// Sets the value of a device. Returns the previous one.
    pub(super) fn insert(&mut self, id: DeviceId, value: V) -> Option<V> {
        let shard = Arc::make_mut(self.0.get_mut(place(id))?);
        match shard.binary_search_by_key(&id, |(id, _)| *id) {
            Ok(index) => shard.get_mut(index).map(|(_, known)| std::mem::replace(known, value)),
            Err(index) => {
                shard.insert(index, (id, value));
                None
            }
        }
    }

    /// Returns all devices with their values, in no order.
    pub(super) fn iter(&self) -> impl Iterator<Item = (DeviceId, &V)> {
        self.0.iter().flat_map(|shard| shard.iter()).map(|(id, value)| (*id, value))
    }
}

impl<V> Default for Shards<V> {
    fn default() -> Self {
        Self(std::array::from_fn(|_| Arc::default()))
    }
}

impl<V> FromIterator<(DeviceId, V)> for Shards<V> {
    /// Makes a map of devices that come in the order of their ids, each once.
    fn from_iter<I: IntoIterator<Item = (DeviceId, V)>>(values: I) -> Self {
        let mut shards: [Vec<(DeviceId, V)>; SHARDS] = std::array::from_fn(|_| Vec::new());
        for (id, value) in values {
            if let Some(shard) = shards.get_mut(place(id)) {
                shard.push((id, value));
            }
        }
        Self(shards.map(Arc::new))
    }
}

/// Returns the part of a device. Neighbours are in different parts.
fn place(id: DeviceId) -> usize {
    let key = match id {
        DeviceId::Pci(pci) => {
            pci.domain << 16 ^ u32::from(pci.bus) << 8 ^ u32::from(pci.device) << 3 ^ u32::from(pci.function)
        }
        DeviceId::Mdev(uuid) => (uuid.0 ^ uuid.0 >> 32 ^ uuid.0 >> 64 ^ uuid.0 >> 96) as u32,
    };
    // Fibonacci hashing: the upper bits depend on all bits of the key.
    (key.wrapping_mul(0x9E37_79B9) >> 28) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(index: u32) -> DeviceId {
        format!("{:04x}:{:02x}:{:02x}.{}", index >> 14, index >> 6 & 0xff, index >> 3 & 7, index & 7)
            .parse()
            .unwrap()
    }

    #[test]
    fn change_is_seen_in_the_new_version_only() {
        let old: Shards<u32> = (0..1000).map(|index| (id(index), index)).collect();
        let mut new = old.clone();
        assert_eq!(new.insert(id(7), 70), Some(7));
        assert_eq!(new.insert(id(5000), 1), None);
        assert_eq!((old.get(id(7)), new.get(id(7))), (Some(&7), Some(&70)));
        assert_eq!((old.get(id(5000)), new.get(id(5000))), (None, Some(&1)));
        assert_eq!((old.iter().count(), new.iter().count()), (1000, 1001));
        assert!((0..1000).all(|index| old.get(id(index)) == Some(&index)));
    }

    #[test]
    fn devices_spread_over_the_parts() {
        let map: Shards<()> = (0..1600).map(|index| (id(index), ())).collect();
        let sizes = map.0.iter().map(|shard| shard.len());
        assert!(sizes.clone().min() > Some(50) && sizes.max() < Some(200));
    }
}
