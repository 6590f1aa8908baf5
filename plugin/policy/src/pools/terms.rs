//! The terms of an offer: its policies for held devices, its device nodes, its CDI names.

use crate::pools::backend::Backend;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// What the kubelet receives for a held device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename_all = "lowercase"))]
pub enum Busy {
    /// Unhealthy if the device is held and assigned to no pod of this node.
    Attributed,
    /// Unhealthy as soon as the device is held.
    Unhealthy,
    /// Healthy. Allocate refuses the device.
    Advertise,
}

impl Busy {
    /// All policies, in the order of the help text.
    pub const ALL: [Self; 3] = [Self::Attributed, Self::Unhealthy, Self::Advertise];

    /// Returns its word in flags, pools files and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attributed => "attributed",
            Self::Unhealthy => "unhealthy",
            Self::Advertise => "advertise",
        }
    }

    /// Returns its line in the help text.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Attributed => "Unhealthy if the device is held and assigned to no pod of this node",
            Self::Unhealthy => {
                "Unhealthy as soon as the device is held, even by a pod that it is assigned to"
            }
            Self::Advertise => "Healthy; Allocate refuses the device",
        }
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What Allocate does with a held device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema), schemars(rename_all = "lowercase"))]
pub enum BusyAllocate {
    /// Refuse it. The pod fails, and the pod that replaces it is allocated another device.
    Reject,
    /// Allocate a free device of the pool instead. The kubelet's checkpoint then names the held device.
    Substitute,
}

impl BusyAllocate {
    /// All policies, in the order of the help text.
    pub const ALL: [Self; 2] = [Self::Reject, Self::Substitute];

    /// Returns its word in flags, pools files and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Substitute => "substitute",
        }
    }

    /// Returns its line in the help text.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Reject => "Refuse it; the pod fails, and its replacement is allocated another device",
            Self::Substitute => {
                "Allocate a free device instead; the kubelet's checkpoint then names the held one"
            }
        }
    }
}

/// How a pool offers its devices.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "kebab-case")]
pub enum OfferBy {
    /// By the kubelet's device plugin API.
    #[default]
    DevicePlugin,
    /// By Dynamic Resource Allocation, to pods with claims.
    Dra,
}

impl OfferBy {
    /// Both, in the order of the help text.
    pub const ALL: [Self; 2] = [Self::DevicePlugin, Self::Dra];

    /// Returns its word in flags, pools files and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::DevicePlugin => "device-plugin",
            Self::Dra => "dra",
        }
    }

    /// Returns its line in the help text.
    pub const fn help(self) -> &'static str {
        match self {
            Self::DevicePlugin => "By the kubelet's device plugin API",
            Self::Dra => "By Dynamic Resource Allocation, to pods with claims",
        }
    }
}

/// How container runtimes find a pool's devices by CDI.
// Not `on` and `off`, which many programs that write YAML take for booleans.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Cdi {
    /// Not at all: no spec and no names.
    #[default]
    None,
    /// By a spec on disk and the names in `cdi_devices` of Allocate's response.
    Devices,
    /// As `devices`, and by the names in annotations. For kubelets before 1.29 and containerd before 1.7.2, which do not know
    /// `cdi_devices`.
    // A runtime that knows both uses each name once (containerd: `WithCDI`; CRI-O: `SpecInjectCDIDevices`).
    Annotations,
    /// By the names in `cdi_devices` alone: Allocate's response has no device nodes. The runtime takes the nodes from the spec of
    /// the moment in which it creates the container, so a response that the kubelet stores survives reboots and binds.
    Names,
}

impl Cdi {
    /// All ways, in the order of the documentation.
    pub const ALL: [Self; 4] = [Self::None, Self::Devices, Self::Annotations, Self::Names];

    /// Returns its word in pools files.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Devices => "devices",
            Self::Annotations => "annotations",
            Self::Names => "names",
        }
    }
}

/// The terms on which a pool offers its devices.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Terms {
    /// How the devices are offered. An allocation does not pin it: a device whose pool changes it is offered the new way once its
    /// allocation has ended.
    pub offer: OfferBy,
    /// Which device nodes a container receives.
    pub backend: Backend,
    /// What the kubelet receives for a held device; none for the value of `--busy`.
    pub busy: Option<Busy>,
    /// What Allocate does with a held device; none for the value of `--busy-allocate`.
    pub busy_allocate: Option<BusyAllocate>,
    /// How container runtimes find the devices by CDI.
    pub cdi: Cdi,
}

/// The terms that must not change while a device is assigned to a pod. The kubelet's checkpoint keeps Allocate's response
/// (`AllocResp`) with the device nodes and CDI names, and a container that is created again receives the same response.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct PinnedTerms {
    /// The device nodes.
    pub backend: Backend,
    /// The CDI names.
    pub cdi: Cdi,
}

impl Terms {
    /// Returns the part that must not change.
    pub fn pinned(self) -> PinnedTerms {
        PinnedTerms { backend: self.backend, cdi: self.cdi }
    }

    /// Returns these terms with the pinned part of an allocation.
    pub fn with(self, PinnedTerms { backend, cdi }: PinnedTerms) -> Self {
        Self { backend, cdi, ..self }
    }

    /// Returns the terms of a device that keeps its allocation when its pool has the terms `now`: the pinned part stays, and the
    /// policies for held devices are the new ones.
    pub fn kept(self, now: Self) -> Self {
        now.with(self.pinned())
    }
}

/// How a device is offered.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Offer {
    /// The resource that the device belongs to.
    pub resource: Arc<str>,
    /// The terms.
    pub terms: Terms,
}

impl Offer {
    /// Returns the offer of a device that keeps its allocation when the pools offer it as `now`; none if they do not offer it.
    pub fn kept(&self, now: Option<&Self>) -> Self {
        let terms = now.map_or(self.terms, |now| self.terms.kept(now.terms));
        Self { resource: Arc::clone(&self.resource), terms }
    }
}
