//! Says why a claim is not prepared or unprepared, for the kubelet and for events.

use crate::dra::prepared::NotWritten;
use std::fmt;
use std::path::PathBuf;
use vfio_plugin_policy::allocation::AllocateError;
use vfio_plugin_policy::dra::claim::ClaimError;
use vfio_probe::{DeviceId, GroupId};

/// Why a claim is not prepared or unprepared.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum CallError {
    /// The claim cannot be read from the API server.
    Get(String),
    /// The API server has no such claim.
    NoClaim,
    /// The claim itself.
    Claim(ClaimError),
    /// The state of a device.
    Device(AllocateError),
    /// Another prepared claim has the device or its group.
    Claimed { device: DeviceId, claim: String },
    /// The kubelet still ends the containers of another claim that has the device or its group. Whether its record says so.
    Ending { device: DeviceId, claim: String, is_recorded: bool },
    /// The kubelet has ended the call.
    Cancelled,
    /// The device plugin offers the device.
    OfferedByDevicePlugin(DeviceId),
    /// The kubelet asks again for a claim whose allocation has changed.
    Reallocated,
    /// The node's devices are not known yet.
    NotReady,
    /// A file cannot be written or removed.
    File { path: PathBuf, error: String },
    /// The disk of a claim's files has not answered. The files may still be written or removed.
    Late { directory: PathBuf },
    /// An earlier call works on the claim and has not ended in time.
    Busy,
    /// The record of claims cannot be written.
    NotWritten(NotWritten),
    /// A group of the claim is still held, and the API server has not stored that.
    NotWithheld { group: GroupId },
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Get(error) => write!(f, "cannot get the claim from the API server: {error}"),
            Self::NoClaim => f.write_str("the API server has no such claim"),
            Self::Claim(error) => error.fmt(f),
            Self::Device(error) => error.fmt(f),
            Self::Claimed { device, claim } => {
                write!(f, "{device}: claim {claim} has it or a device of its group")
            }
            Self::Ending { device, claim, is_recorded } => {
                write!(
                    f,
                    "{device}: claim {claim} has it or a device of its group; its pod was deleted by force, and the kubelet is \
                     still ending its containers"
                )?;
                if !is_recorded {
                    f.write_str(" or has lost its record of the claim")?;
                }
                f.write_str("; the kubelet tries again")
            }
            Self::Cancelled => f.write_str("the kubelet has ended the call"),
            Self::OfferedByDevicePlugin(device) => write!(
                f,
                "{device}: the device plugin offers it now, and no longer the DRA driver; delete the pod to have another device \
                 allocated"
            ),
            Self::Reallocated => {
                f.write_str("the claim is prepared for other devices than it is allocated now")
            }
            Self::NotReady => f.write_str("the driver has just started, and does not know the devices yet"),
            Self::File { path, error } => write!(f, "cannot write or remove {}: {error}", path.display()),
            Self::Late { directory } => write!(
                f,
                "the disk of {} or of the CDI specs has not answered in time; the kubelet tries again",
                directory.display()
            ),
            Self::Busy => f.write_str(
                "an earlier call for the claim has not ended; if this goes on, the disk of the kubelet's directory or of the CDI specs does \
                 not answer",
            ),
            Self::NotWritten(error) => error.fmt(f),
            Self::NotWithheld { group } => write!(
                f,
                "group {group} is still held after the claim's containers have ended, and the API server has not stored the \
                 taint that keeps other pods from it; the kubelet tries again"
            ),
        }
    }
}

impl From<AllocateError> for CallError {
    fn from(error: AllocateError) -> Self {
        Self::Device(error)
    }
}

impl From<ClaimError> for CallError {
    fn from(error: ClaimError) -> Self {
        Self::Claim(error)
    }
}

impl From<NotWritten> for CallError {
    fn from(error: NotWritten) -> Self {
        Self::NotWritten(error)
    }
}
