//! Which devices of this host are bound to VFIO, which of their IOMMU groups are free, and who holds the others.
//!
//! The core is synchronous, has no unsafe code and, once warm, no heap allocation in a repeated scan and peek. All
//! paths are looked up below a [`Root`]: `/` in production, a mounted host tree in a container, a folder in tests.
//!
//! Two ways to ask whether a group is held:
//!
//! * **peek** ([`Root::peek`]) reads `enable` of the group's functions in sysfs. No device node, no privilege, disturbs
//!   nobody; blind for mediated devices and for a holder that has the group open but no device yet.
//! * **probe** ([`Root::probe`]) opens `/dev/vfio/<group>` and closes it. Certain, but while our descriptor is open
//!   another process' open fails with EBUSY, so a *free* group is opened as rarely as possible: see [`Monitor`].
//!
//! | module | one idea |
//! | --- | --- |
//! | [`root`] | the directory below which everything is looked up |
//! | [`id`], [`text`] | addresses, group numbers and short names, as small `Copy` values |
//! | [`device`], [`scan`] | the device record, and the walk over bound devices |
//! | [`group`] | members of an IOMMU group and viability |
//! | [`probe`], [`prober`], [`peek`] | the open, the open with a deadline, the look without opening |
//! | [`occupancy`] | pure: what the answers say about a group, and when to ask again |
//! | [`monitor`], [`watch`] | all of it over time, and as one pollable descriptor |
//! | [`nodes`] | which device nodes a group has |
//! | [`egm`] | which memory of Grace systems goes with all of its GPUs |
//! | [`hardware`] | whether a function is there, and its fatal PCIe errors, asked where that wakes nobody |
//! | [`holders`], [`cgroup`] | which process has a group open, and which pod it belongs to |
//! | [`uevent`], [`names`] | parsers: kernel events, pci.ids |
#![forbid(unsafe_code)]

pub mod bounded_pool;
pub mod cgroup;
pub mod device;
pub mod device_nodes;
pub mod egm;
pub mod error;
pub mod group;
pub mod hardware;
pub mod holders;
pub mod id;
pub mod monitor;
pub mod names;
pub mod occupancy;
pub mod peek;
pub mod probe;
pub mod prober;
pub mod root;
pub mod scan;
pub mod text;
pub mod uevent;
pub mod watch;

pub use device::{Device, Kind, Sriov};
pub use error::{Error, ErrorKind, Result};
pub use group::{Member, Viability};
pub use hardware::Presence;
pub use holders::{Holder, ScanCoverage};
pub use id::{DeviceId, GroupId, PciAddress, Uuid};
pub use monitor::{Change, Monitor};
pub use occupancy::{Evidence, Occupancy, UnknownReason};
pub use prober::Prober;
pub use root::{Buffer, Root};
pub use watch::{Event, Watch};
