//! Logs what an operator should correct in the names of resources, each condition once.

use crate::log_once::LogOnce;
use crate::problems::{ProblemCode, Problems};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use vfio_plugin_policy::pools::resource_name::{env_name, variable_collisions};
use vfio_plugin_policy::pools::terms::Offer;
use vfio_plugin_policy::pools::{Pools, selector};
use vfio_probe::Device;

/// The conditions that were logged.
#[derive(Debug)]
pub(super) struct NamingWarnings {
    problems: Problems,
    /// Places of two pools.
    overlaps: LogOnce<(usize, usize)>,
    /// Place of a pool, and the alias' key.
    unused_aliases: LogOnce<(usize, String)>,
    /// The second resource of each pair.
    collisions: LogOnce<Arc<str>>,
}

impl NamingWarnings {
    /// Returns no warnings yet.
    pub(super) fn new(problems: Problems) -> Self {
        Self {
            problems,
            overlaps: LogOnce::default(),
            unused_aliases: LogOnce::default(),
            collisions: LogOnce::default(),
        }
    }

    /// Logs pairs of pools that select the same device. The first one in the file offers it.
    pub(super) fn overlaps<'a>(&mut self, pools: &Pools, devices: impl Iterator<Item = &'a Device>) {
        let code = ProblemCode::PoolsOverlap;
        let overlaps = pools.overlaps(devices);
        self.problems.keep(code, |about| overlaps.iter().any(|(.., device)| device.id.to_string() == about));
        for (first, second, device) in overlaps {
            let (pool, also_in) = (pools.title(first), pools.title(second));
            let text =
                format_args!("pools {pool} and {also_in} both select it; the first in the file offers it");
            self.problems.begin(code, device.id, text);
            if self.overlaps.is_new((first, second)) {
                tracing::warn!(
                    device = %device.id, pool, also_in,
                    "device is selected by two pools; the first in the file offers it"
                );
            }
        }
    }

    /// Logs the keys of `alias` that matched no model, for each pool that has a model. The file alone cannot show such an error: a
    /// key may be written otherwise than the model's name.
    ///
    /// While pci.ids cannot be read, models have no names. Then only hex ids are judged.
    pub(super) fn unused_aliases(
        &mut self,
        pools: &Pools,
        used: &BTreeMap<usize, BTreeSet<String>>,
        names_unknown: bool,
    ) {
        let mut unused = BTreeSet::new();
        for (place, used) in used {
            let keys = pools.get(*place).into_iter().flat_map(|pool| pool.alias.keys());
            let judged = |key: &&String| !names_unknown || selector::hex(key).is_some();
            for key in keys.filter(|key| !used.contains(*key)).filter(judged) {
                let about = format!("alias {key}");
                let text = format!("it matches no device of the pool {}", pools.title(*place));
                self.problems.begin(ProblemCode::AliasUnused, &about, text);
                unused.insert(about);
                if self.unused_aliases.is_new((*place, key.clone())) {
                    tracing::warn!(
                        alias = key,
                        pool = pools.title(*place),
                        "alias matches no device of its pool"
                    );
                }
            }
        }
        self.problems.keep(ProblemCode::AliasUnused, |about| unused.contains(about));
    }

    /// Logs pairs of resources for which KubeVirt reads the addresses from one variable. The pools file is checked for them when it is
    /// read, but models get their names later.
    pub(super) fn collisions<'a>(&mut self, resources: impl Iterator<Item = &'a Arc<str>>) {
        let resources: BTreeSet<&Arc<str>> = resources.collect();
        let collisions: Vec<_> =
            variable_collisions(resources.into_iter().map(|resource| &**resource)).collect();
        let code = ProblemCode::VariableShared;
        self.problems.keep(code, |about| collisions.iter().any(|(_, second)| *second == about));
        for (first, second) in collisions {
            self.problems.begin(
                code,
                second,
                format_args!("it shares its environment variable with {first}"),
            );
            if self.collisions.is_new(second.into()) {
                let variable = env_name(second, false);
                tracing::warn!(
                    first,
                    second,
                    variable,
                    "two resources share one variable, so a container with both sees the addresses of one; give one an alias"
                );
            }
        }
    }

    /// Logs resources under which one pool offers devices to claims, and another by the device plugin.
    pub(super) fn offered_twice<'a>(&mut self, offers: impl Iterator<Item = &'a Offer>) {
        let mut ways: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
        for offer in offers {
            ways.entry(&offer.resource).or_default().insert(offer.terms.offer.as_str());
        }
        ways.retain(|_, ways| ways.len() > 1);
        let code = ProblemCode::ResourceOfferedTwice;
        self.problems.keep(code, |about| ways.contains_key(about));
        for resource in ways.into_keys() {
            let text = "one pool offers it to claims, and another by the device plugin";
            if self.problems.begin(code, resource, text) {
                tracing::warn!(resource, "{text}");
            }
        }
    }

    /// Forgets what was logged about the pools, because they were replaced.
    pub(super) fn forget_pools(&mut self) {
        self.overlaps.clear();
        self.unused_aliases.clear();
    }
}
