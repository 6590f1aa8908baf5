//! Checks the pools of a file and converts them to the policy's types.

use super::raw::{PoolsFile, RawPool, RawSelector};
use crate::config::pools_error::PoolsError;
use serde_saphyr::Spanned;
use std::collections::BTreeMap;
use vfio_plugin_policy::pools::resource_name::{env_name, is_resource, variable_collisions};
use vfio_plugin_policy::pools::selector::Selector;
use vfio_plugin_policy::pools::terms::{OfferBy, Terms};
use vfio_plugin_policy::pools::{Pool, Pools, selector};

/// Converts the pools of a file. `default_offer` is that of pools without the key.
///
/// # Errors
/// The first pool that is not usable: its line, and what was expected.
pub(super) fn pools(file: PoolsFile, default_offer: OfferBy) -> Result<Pools, PoolsError> {
    if file.pools.is_empty() {
        return Err(PoolsError::at(1, "expected at least one pool"));
    }
    let mut resources: Vec<String> = Vec::new();
    let mut pools = Vec::new();
    for raw in file.pools {
        let line = raw.defined.line();
        let RawPool { resource, select, offer, backend, busy, busy_allocate, cdi, alias } = raw.value;
        let offer = offer.unwrap_or(default_offer);
        if select.is_empty() {
            let text = "expected `select` with at least one selector; `- {}` selects every device";
            return Err(PoolsError::at(line, text));
        }
        if offer == OfferBy::Dra && cfg!(not(feature = "dra")) {
            let text = "`offer: dra` needs a program that is built with the feature `dra`";
            return Err(PoolsError::at(line, text));
        }
        if let Some(resource) = &resource {
            check_resource(resource, &mut resources)?;
        }
        if let (Some(resource), Some((_, name))) = (&resource, alias.first_key_value()) {
            let text = format!(
                "expected no `alias`, because `resource: {}` names all devices of the pool",
                resource.value
            );
            return Err(PoolsError::at(name.defined.line(), text));
        }
        check_aliases(&alias)?;
        pools.push(Pool {
            resource: resource.map(|resource| resource.value.into()),
            select: select.into_iter().map(Selector::from).collect(),
            terms: Terms { offer, backend, busy, busy_allocate, cdi },
            alias: alias.into_iter().map(|(model, name)| (model, name.value)).collect(),
        });
    }
    Ok(Pools::new(pools))
}

/// Checks a pool's resource against the kubelet's rules and the resources of the pools before it, and adds it to these.
fn check_resource(resource: &Spanned<String>, resources: &mut Vec<String>) -> Result<(), PoolsError> {
    check(resource, is_resource, "a resource name that the kubelet accepts, like nvidia.com/H100")?;
    let error = |text| Err(PoolsError::at(resource.defined.line(), text));
    if resources.contains(&resource.value) {
        return error(format!(
            "{:?}: another pool has this resource; put the selectors into that pool",
            resource.value
        ));
    }
    resources.push(resource.value.clone());
    if let Some((first, second)) = variable_collisions(resources.iter().map(String::as_str)).next() {
        return error(format!(
            "{second:?}: expected a name that differs from {first} in more than case, _ and ., because KubeVirt reads both from {}",
            env_name(second, false)
        ));
    }
    Ok(())
}

/// Checks that the aliases are names of resources, and that no model has two.
fn check_aliases(alias: &BTreeMap<String, Spanned<String>>) -> Result<(), PoolsError> {
    let mut ids: BTreeMap<u16, &str> = BTreeMap::new();
    for (key, name) in alias {
        if let Some(first) = selector::hex(key).and_then(|id| ids.insert(id, key)) {
            let text = format!("{key:?} is the same id as {first:?}; expected one of them");
            return Err(PoolsError::at(name.defined.line(), text));
        }
        let is_usable = |name: &str| is_resource(&format!("nvidia.com/{name}"));
        let expected = "at most 63 letters, digits, - _ and ., with a letter or digit at both ends";
        check(name, is_usable, expected)?;
    }
    Ok(())
}

fn check(text: &Spanned<String>, fits: impl Fn(&str) -> bool, expected: &str) -> Result<(), PoolsError> {
    if fits(&text.value) {
        return Ok(());
    }
    Err(PoolsError::at(text.defined.line(), format!("{:?}: expected {expected}", text.value)))
}

impl From<RawSelector> for Selector {
    fn from(raw: RawSelector) -> Self {
        let RawSelector { vendor, device, class, driver, address, group, parent, numa_node, vgpu_type } = raw;
        Self { vendor, device, class, driver, address, group, parent, numa_node, vgpu_type }
    }
}
