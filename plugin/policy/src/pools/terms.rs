//! On what terms a device is offered: its policies for held devices, its device nodes, its CDI names.

use crate::pools::backend::Backend;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::sync::Arc;

/// What to do with held devices.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Busy {
    /// Unhealthy what is held and no pod of this node owns
    Attributed,
    /// Every held device is Unhealthy at once
    Unhealthy,
    /// Held devices stay Healthy; allocating one is refused
    Advertise,
}

impl Busy {
    /// All policies, in the order of the help text.
    pub const ALL: [Self; 3] = [Self::Attributed, Self::Unhealthy, Self::Advertise];

    /// The word for it in flags, pools files and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Attributed => "attributed",
            Self::Unhealthy => "unhealthy",
            Self::Advertise => "advertise",
        }
    }

    /// What it does, for a help text.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Attributed => "Unhealthy if the device is held and assigned to no pod of this node",
            Self::Unhealthy => "Unhealthy as soon as the device is held",
            Self::Advertise => "Held devices stay Healthy; Allocate refuses them",
        }
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What Allocate does with a held device.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum BusyAllocate {
    /// Refuse; the pod fails, and the one that replaces it is given another device
    Reject,
    /// Give a free device instead; the kubelet's books then name the other one
    Substitute,
}

impl BusyAllocate {
    /// All policies, in the order of the help text.
    pub const ALL: [Self; 2] = [Self::Reject, Self::Substitute];

    /// The word for it in flags, pools files and logs.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Reject => "reject",
            Self::Substitute => "substitute",
        }
    }

    /// What it does, for a help text.
    pub const fn help(self) -> &'static str {
        match self {
            Self::Reject => "Refuse; the pod fails, and its replacement gets another device",
            Self::Substitute => {
                "Allocate a free device instead; the kubelet's checkpoint then names the held one"
            }
        }
    }
}

/// How a pool uses CDI.
// Not `on` and `off`, which many a program that writes YAML takes for booleans.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
#[cfg_attr(feature = "schema", derive(schemars::JsonSchema))]
#[serde(rename_all = "lowercase")]
pub enum Cdi {
    /// No spec, no names.
    #[default]
    None,
    /// A spec, and the names in `cdi_devices`.
    Devices,
    /// The names in annotations too, for kubelets before 1.29, and containerd before 1.7.2, which know no field.
    // Whoever knows both takes each name once (containerd: `WithCDI`; CRI-O: `SpecInjectCDIDevices`).
    Annotations,
}

/// On what terms a pool's devices are given, beyond their resource.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Terms {
    /// By which device nodes a machine is given them.
    pub backend: Backend,
    /// What the kubelet is told of a held one; none is the command line's.
    pub busy: Option<Busy>,
    /// What Allocate does with one that is held after all; none is the command line's.
    pub busy_allocate: Option<BusyAllocate>,
    /// Whether container runtimes find them by CDI.
    pub cdi: Cdi,
}

/// What of a device's terms must not change while a pod has it: by which nodes it is given, and the spec that a container
/// asks for by name. The kubelet's checkpoint keeps what Allocate has answered (`AllocResp`) for a container that is made again.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct PinnedTerms {
    /// Its device nodes.
    pub backend: Backend,
    /// Its CDI names.
    pub cdi: Cdi,
}

impl Terms {
    /// What of them must not change.
    pub fn pinned(self) -> PinnedTerms {
        PinnedTerms { backend: self.backend, cdi: self.cdi }
    }

    /// These, but for what a pod's device was given by.
    pub fn with(self, PinnedTerms { backend, cdi }: PinnedTerms) -> Self {
        Self { backend, cdi, ..self }
    }

    /// Those of a device that stays where it is, when its pool says `now` something else: what a held one means is
    /// nothing that was given to anybody.
    pub fn kept(self, now: Self) -> Self {
        now.with(self.pinned())
    }
}

/// How a device is offered.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Offer {
    /// The resource that it belongs to.
    pub resource: Arc<str>,
    /// On what terms it is given.
    pub terms: Terms,
}

impl Offer {
    /// That of a device that stays, when the pools offer it otherwise `now`, or do not any more.
    pub fn kept(&self, now: Option<&Self>) -> Self {
        let terms = now.map_or(self.terms, |now| self.terms.kept(now.terms));
        Self { resource: Arc::clone(&self.resource), terms }
    }
}
