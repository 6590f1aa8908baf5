//! Reads two fields of an entry: the device ids and the stored response.

use crate::kubelet::checkpoint::entries::Reading;
use crate::kubelet::checkpoint::response::{self, Response};
use crate::kubelet::kept::Budget;
use serde::Deserializer;
use serde::de::{DeserializeSeed, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use std::collections::BTreeSet;
use std::fmt;
use vfio_plugin_policy::assignments::record::is_vfio_id;

/// The ids of a container: by NUMA node since 1.20, before that a list. Keeps those that can be a device's or a group's.
pub(super) struct Ids<'r, 'a> {
    pub(super) reading: &'r mut Reading<'a>,
    pub(super) budget: &'r mut Budget,
    pub(super) ids: BTreeSet<String>,
}

impl<'de> DeserializeSeed<'de> for &mut Ids<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for &mut Ids<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("device ids")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<(), A::Error> {
        while list.next_element_seed(Id(&mut *self))?.is_some() {}
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        while map.next_key::<IgnoredAny>()?.is_some() {
            map.next_value_seed(NodeIds(&mut *self))?;
        }
        Ok(())
    }
}

/// The ids of one NUMA node, which is a list or null.
struct NodeIds<'i, 'r, 'a>(&'i mut Ids<'r, 'a>);

impl<'de> DeserializeSeed<'de> for NodeIds<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for NodeIds<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the device ids of a NUMA node")
    }

    fn visit_unit<E: Error>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<(), A::Error> {
        self.0.visit_seq(list)
    }
}

/// One id.
struct Id<'i, 'r, 'a>(&'i mut Ids<'r, 'a>);

impl<'de> DeserializeSeed<'de> for Id<'_, '_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<(), D::Error> {
        from.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Id<'_, '_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a device id")
    }

    fn visit_str<E: Error>(self, id: &str) -> Result<(), E> {
        let Ids { reading, budget, ids } = self.0;
        if is_vfio_id(id, true) {
            reading.check(budget.insert(ids, id))?;
        }
        Ok(())
    }
}

/// The stored response: a text or null.
pub(super) struct StoredResponse<'r, 'a> {
    pub(super) reading: &'r mut Reading<'a>,
    pub(super) budget: &'r mut Budget,
}

impl<'de> DeserializeSeed<'de> for StoredResponse<'_, '_> {
    type Value = Response;

    fn deserialize<D: Deserializer<'de>>(self, from: D) -> Result<Response, D::Error> {
        from.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for StoredResponse<'_, '_> {
    type Value = Response;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a response in base64")
    }

    fn visit_unit<E: Error>(self) -> Result<Response, E> {
        Ok(Response::default())
    }

    fn visit_str<E: Error>(self, base64: &str) -> Result<Response, E> {
        self.reading.check(response::read(base64, self.budget))
    }
}
