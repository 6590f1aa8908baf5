//! Makes the DeviceClasses by which pods request devices.

use crate::dra::attributes::{RESOURCE, value_of};
use crate::dra::names::{DraDriver, is_subdomain};
use k8s_openapi::api::resource::v1::{CELDeviceSelector, DeviceClass, DeviceClassSpec, DeviceSelector};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use std::collections::BTreeMap;
use std::fmt;

/// The classes of a node's resources.
#[derive(Clone, PartialEq, Debug, Default)]
pub struct Classes {
    /// The classes, in the order of the resources.
    pub classes: Vec<DeviceClass>,
    /// The resources without a class.
    pub left_out: Vec<(String, NoClass)>,
}

/// Why a resource has no class.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum NoClass {
    /// Its class would have the name of this resource's class, or would select this resource's devices too.
    SameAs(String),
    /// Its class would have a name that the API server refuses.
    BadName(String),
}

impl fmt::Display for NoClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SameAs(other) => {
                write!(
                    f,
                    "its class would have the name or the devices of the class of {other}; rename one of them in the pools file"
                )
            }
            Self::BadName(name) => {
                write!(f, "{name} cannot be the name of a class; rename the resource in the pools file")
            }
        }
    }
}

/// Returns one class for each resource. With `extended` the class also serves pods that request the resource by its name, as from
/// a device plugin (`extendedResourceName`).
pub fn classes<'a>(
    driver: &DraDriver,
    resources: impl IntoIterator<Item = &'a str>,
    extended: bool,
) -> Classes {
    let mut names: BTreeMap<String, &str> = BTreeMap::new();
    let mut values: BTreeMap<&str, &str> = BTreeMap::new();
    let mut made = Classes::default();
    for resource in resources {
        let (name, value) = (class_name(resource), value_of(resource));
        match names.get(&name).or(values.get(value)) {
            Some(known) if *known == resource => {}
            Some(known) => made.left_out.push((resource.to_owned(), NoClass::SameAs((*known).to_owned()))),
            None if !is_subdomain(&name) => made.left_out.push((resource.to_owned(), NoClass::BadName(name))),
            None => {
                made.classes.push(class(driver, &name, resource, extended));
                names.insert(name, resource);
                values.insert(value, resource);
            }
        }
    }
    made
}

fn class(driver: &DraDriver, name: &str, resource: &str, extended: bool) -> DeviceClass {
    let value = value_of(resource);
    // A driver and a resource have no character that CEL reads as the end of a string.
    let expression =
        format!("device.driver == \"{driver}\" && device.attributes[\"{driver}\"].{RESOURCE} == \"{value}\"");
    let selector = DeviceSelector { cel: Some(CELDeviceSelector { expression }) };
    let spec = DeviceClassSpec {
        extended_resource_name: extended.then(|| resource.to_owned()),
        selectors: Some(vec![selector]),
        ..DeviceClassSpec::default()
    };
    let metadata = ObjectMeta { name: Some(name.to_owned()), ..ObjectMeta::default() };
    DeviceClass { metadata, spec: Some(spec) }
}

/// Returns the name of a resource's class: `nvidia.com/GH100_H100_PCIE` becomes gh100-h100-pcie.nvidia.com.
fn class_name(resource: &str) -> String {
    let (domain, name) = resource.split_once('/').unwrap_or(("", resource));
    let label = |c: char| if c.is_ascii_alphanumeric() { c.to_ascii_lowercase() } else { '-' };
    let name: String = name.chars().map(label).collect();
    format!("{name}.{domain}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn made(resources: &[&str], extended: bool) -> Classes {
        classes(&"vfio.example.com".parse().unwrap(), resources.iter().copied(), extended)
    }

    #[test]
    fn class_selects_the_resource_of_the_driver() {
        let made = made(&["nvidia.com/GH100_H100_PCIE", "nvidia.com/GH100_H100_PCIE"], false);
        assert_eq!(made.left_out, []);
        let expected = json!([{
            "apiVersion": "resource.k8s.io/v1",
            "kind": "DeviceClass",
            "metadata": {"name": "gh100-h100-pcie.nvidia.com"},
            "spec": {"selectors": [{"cel": {"expression":
                "device.driver == \"vfio.example.com\" && \
                 device.attributes[\"vfio.example.com\"].resource == \"nvidia.com/GH100_H100_PCIE\""}}]},
        }]);
        assert_eq!(serde_json::to_value(&made.classes).unwrap(), expected);
    }

    #[test]
    fn extended_class_serves_the_name_of_the_resource() {
        let json = serde_json::to_value(&made(&["nvidia.com/A_B"], true).classes).unwrap();
        assert_eq!(json[0]["spec"]["extendedResourceName"], "nvidia.com/A_B");
    }

    #[test]
    fn resource_that_another_class_would_select_is_left_out() {
        let long = format!("example.com/{}", "x".repeat(60));
        let (first, second) = (format!("{long}1"), format!("{long}2"));
        let made = made(&["a.io/X_1", "a.io/x-1", &first, &second], false);
        assert_eq!(made.classes.len(), 2);
        let expected = [
            ("a.io/x-1".to_owned(), NoClass::SameAs("a.io/X_1".to_owned())),
            (second, NoClass::SameAs(first)),
        ];
        assert_eq!(made.left_out, expected);
    }

    #[test]
    fn resource_with_a_name_that_is_too_long_is_left_out() {
        let resource = format!("{}io/{}", "abc.".repeat(60), "x".repeat(63));
        let made = made(&[&resource], false);
        assert!(made.classes.is_empty() && matches!(made.left_out[0].1, NoClass::BadName(_)));
    }
}
