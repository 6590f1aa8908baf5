//! Reads the stored response of an Allocate (`AllocResp`): what of it names devices.

use crate::kubelet::kept::{Budget, Fault, Limit};
use crate::kubelet::wire::{Fields, Malformed};
use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use std::collections::BTreeSet;
use vfio_plugin_policy::assignments::record::is_vfio_id;
use vfio_plugin_policy::assignments::stored_answer::{is_cdi_annotation, is_vfio_node};

/// The longest response in bytes: the limit of a gRPC message that the kubelet receives (google.golang.org/grpc,
/// `defaultClientMaxReceiveMessageSize`).
pub(super) const MAX_RESPONSE: usize = 4 << 20;

/// What a response says of devices.
#[derive(Default, Debug)]
pub(super) struct Response {
    /// The ids in its environment variables.
    pub(super) ids: BTreeSet<String>,
    /// The VFIO device nodes, from device specs and from mounts.
    pub(super) nodes: BTreeSet<String>,
    /// The CDI names, from their field and from annotations.
    pub(super) cdi_names: BTreeSet<String>,
}

impl From<Malformed> for Fault {
    fn from(Malformed: Malformed) -> Self {
        Self::Malformed
    }
}

/// Reads a response from its base64 (RFC 4648) in the checkpoint.
///
/// # Errors
/// It is malformed, or has more than 4 MiB or than the budget.
pub(super) fn read(base64: &str, budget: &mut Budget) -> Result<Response, Fault> {
    if base64.len() > MAX_RESPONSE.div_ceil(3) * 4 {
        return Err(Limit::Text.into());
    }
    let message = BASE64_STANDARD.decode(base64).map_err(|_| Fault::Malformed)?;
    let mut response = Response::default();
    // The fields of ContainerAllocateResponse (device plugin v1beta1, api.proto).
    for field in Fields::of(&message) {
        let (number, value) = field?;
        match number {
            1 => {
                let (name, addresses) = first_texts(value.bytes()?)?;
                if name.starts_with("PCI_RESOURCE_") || name.starts_with("MDEV_PCI_RESOURCE_") {
                    let ids = addresses.split(',').map(str::trim).filter(|id| is_vfio_id(id, true));
                    insert(budget, &mut response.ids, ids)?;
                }
            }
            // A device's spec, and a mount, by which a plugin can give a node as well: both have their host path in field 2.
            2 | 3 => {
                let (_, host_path) = first_texts(value.bytes()?)?;
                insert(budget, &mut response.nodes, is_vfio_node(host_path).then_some(host_path))?;
            }
            4 => {
                let (key, names) = first_texts(value.bytes()?)?;
                if is_cdi_annotation(key) {
                    insert(budget, &mut response.cdi_names, names.split(','))?;
                }
            }
            5 => insert(budget, &mut response.cdi_names, [first_texts(value.bytes()?)?.0])?,
            _ => {}
        }
    }
    Ok(response)
}

/// Inserts the texts that are not empty.
fn insert<'a>(
    budget: &mut Budget,
    set: &mut BTreeSet<String>,
    texts: impl IntoIterator<Item = &'a str>,
) -> Result<(), Limit> {
    texts.into_iter().filter(|text| !text.is_empty()).try_for_each(|text| budget.insert(set, text))
}

/// Returns the texts of the fields 1 and 2 of a message. A field that is missing is empty, and the last of a repeated one counts.
fn first_texts(message: &[u8]) -> Result<(&str, &str), Malformed> {
    let mut pair = ("", "");
    for field in Fields::of(message) {
        let (number, value) = field?;
        if number == 1 {
            pair.0 = value.text()?;
        } else if number == 2 {
            pair.1 = value.text()?;
        }
    }
    Ok(pair)
}
