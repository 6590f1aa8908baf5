//! Finds which devices of this Linux host are bound to VFIO, which of their IOMMU groups are free,
//! and which processes hold the others.
//!
//! The crate is for node agents and device plugins that pass whole devices to VMs. It is
//! synchronous, has no unsafe code and depends on no service: its sources are sysfs, procfs and the
//! device nodes. The C, Go and Python packages of this project are built on it.
//!
//! # Examples
//!
//! Print each group with its state, its devices and its holders. This opens no device node and needs
//! no privilege, but it sees only the holders that the user may see:
//!
//! ```no_run
//! use vfio_probe::{Detail, Root};
//!
//! # fn main() -> vfio_probe::Result<()> {
//! let snapshot = Root::host()?.snapshot(Detail::Full, None)?;
//! for group in &snapshot.groups {
//!     println!("group {} is {} by {}", group.id, group.occupancy, group.evidence);
//!     for device in snapshot.devices.iter().filter(|device| device.group == Some(group.id)) {
//!         println!("  device {} {:04x}:{:04x}", device.id, device.vendor, device.device);
//!     }
//!     for holder in &group.holders {
//!         println!("  held by {} ({})", holder.pid, holder.command);
//!     }
//! }
//! if !snapshot.coverage.is_complete() {
//!     println!("there may be more holders");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Wait until group 51 is free, at most a minute:
//!
//! ```no_run
//! use std::time::Duration;
//! use vfio_probe::{GroupId, Root, Watch, watch};
//!
//! # fn main() -> vfio_probe::Result<()> {
//! let mut watch = Watch::open(&Root::host()?, watch::Options::default())?;
//! if watch.wait_until_free(GroupId(51), Some(Duration::from_secs(60)))? {
//!     println!("free");
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Follow all devices over time:
//!
//! ```no_run
//! use vfio_probe::{Root, Watch, watch};
//!
//! # fn main() -> vfio_probe::Result<()> {
//! let mut watch = Watch::open(&Root::host()?, watch::Options::default())?;
//! while let Some(event) = watch.wait_for_event(None)? {
//!     println!("{event}"); // such as `bound 0000:3b:00.0`, `held 51`, `ready`
//! }
//! # Ok(())
//! # }
//! ```
//!
//! A test of your own needs no hardware: a [`Root`] can be any directory.
//!
//! ```
//! use vfio_probe::{Detail, Root};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let tree = tempfile::tempdir()?;
//! std::fs::create_dir_all(tree.path().join("sys/class/vfio-dev"))?;
//! let snapshot = Root::open(&tree)?.snapshot(Detail::Full, None)?;
//! assert!(snapshot.devices.is_empty());
//! # Ok(())
//! # }
//! ```
//!
//! # Peek and probe
//!
//! There are two ways to learn whether a group is held:
//!
//! * A **peek** ([`Root::peek`]) reads `enable` of the group's functions in sysfs. It opens no
//!   device node, needs no privilege and disturbs no process. It is unavailable for mediated
//!   devices, and it misses a holder that has the group open and no device yet.
//! * A **probe** ([`Root::probe`]) opens `/dev/vfio/<group>` and closes it. It is certain. But
//!   while the probe has the group open, the open by another process fails with EBUSY. So a *free*
//!   group should be probed as rarely as possible.
//!
//! A [`Watch`] probes only if its options allow it, and only if a peek cannot decide. A [`Prober`]
//! probes with a deadline, because the kernel can hold the open for seconds.
//!
//! # Where to begin
//!
//! | type | purpose |
//! | --- | --- |
//! | [`Root`] | all calls that ask once: `/`, a host's tree in a container, or a test's directory |
//! | [`Snapshot`] | devices, groups and holders at one moment, in one value |
//! | [`Watch`], [`watch::Options`] | everything over time, as one descriptor to poll, and waits |
//! | [`Prober`] | probes with a deadline |
//! | [`Device`], [`Member`], [`Viability`] | the record of a device, and of a member of a group |
//! | [`Occupancy`], [`Evidence`], [`Peek`] | whether a group is held, and what that rests on |
//! | [`Holder`], [`ScanCoverage`] | the processes that hold a group, and how much was searched |
//! | [`DeviceNodes`] | the device nodes that a VM needs |
//! | [`Hardware`] | whether a function responds, and its fatal PCIe errors |
//! | [`names`] | the names of device models |
//! | [`Error`] | a failure, with its place and errno |
//!
//! Ids and words have `Display` and `FromStr`: they are read as they are written.
//!
//! # Cost
//!
//! The cost of a scan grows with the number of bound devices, not with the number of all PCI
//! functions. A repeated scan, peek, probe or pass without a change allocates nothing on the heap.
//!
//! # Limitations
//!
//! * Linux only. Holders of devices can be attributed from Linux 6.18 on (`vfio-device-syspath` in
//!   fdinfo); [`ScanCoverage`] says what could not be seen.
//! * A holder search sees the processes of the root's /proc only, and needs CAP_SYS_PTRACE for
//!   those of other users. In a pid namespace other than the host's, [`ScanCoverage`] says so.
//! * Without device nodes for groups (CONFIG_VFIO_GROUP=n) a probe proves nothing, so only a peek
//!   decides.
//! * Attributes of one device are read one after the other. A device that changes during a scan can
//!   have a mixed record until the next reading.
#![forbid(unsafe_code)]

// The inner modules serve this project's own plugin, tests and fuzzers, and change without notice.
// What others need of them is exported below. They are private for rustdoc, because its JSON, which
// `./verify` compares, lacks what is exported from a hidden module. They are written out, because
// rustfmt does not find the files of modules in a macro.
#[cfg(doc)]
mod bounded_pool;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod bounded_pool;
#[cfg(doc)]
mod cgroup;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod cgroup;
#[cfg(doc)]
mod device;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod device;
#[cfg(doc)]
mod device_nodes;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod device_nodes;
#[cfg(doc)]
mod egm;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod egm;
#[cfg(doc)]
mod error;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod error;
#[cfg(doc)]
mod group;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod group;
#[cfg(doc)]
mod hardware;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod hardware;
#[cfg(doc)]
mod holder_search;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod holder_search;
#[cfg(doc)]
mod holders;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod holders;
#[cfg(doc)]
mod id;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod id;
#[cfg(doc)]
mod monitor;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod monitor;
pub mod names;
#[cfg(doc)]
mod occupancy;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod occupancy;
#[cfg(doc)]
mod peek;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod peek;
#[cfg(doc)]
mod pid_namespace;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod pid_namespace;
#[cfg(doc)]
mod probe;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod probe;
#[cfg(doc)]
mod prober;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod prober;
#[cfg(doc)]
mod root;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod root;
#[cfg(doc)]
mod scan;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod scan;
#[cfg(doc)]
mod snapshot;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod snapshot;
#[cfg(doc)]
mod text;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod text;
#[cfg(doc)]
mod uevent;
#[cfg(not(doc))]
#[doc(hidden)]
pub mod uevent;
pub mod watch;
mod words;

pub use cgroup::{Container, InPod};
pub use device::{Detail, Device, Kind, Sriov};
pub use device_nodes::DeviceNodes;
pub use error::{Error, ErrorKind, Result};
pub use group::{GroupSummary, Member, Viability};
#[doc(hidden)]
pub use hardware::PresenceReader;
pub use hardware::{Hardware, Presence};
#[doc(hidden)]
pub use holder_search::HolderSearch;
pub use holders::{Holder, ScanCoverage, Via};
pub use id::{DeviceId, GroupId, ParseIdError, PciAddress, Uuid};
#[doc(hidden)]
pub use monitor::{Change, Monitor};
pub use occupancy::{Evidence, Occupancy, UnknownReason};
pub use peek::Peek;
pub use pid_namespace::PidNamespace;
pub use prober::Prober;
pub use root::{Buffer, Root};
pub use scan::Bound;
pub use snapshot::{GroupSnapshot, Snapshot};
pub use text::{DriverName, Text};
pub use watch::{Event, Watch};
pub use words::ParseWordError;
