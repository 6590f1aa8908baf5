//! Finds which devices of this Linux host are bound to VFIO, which of their IOMMU groups are free,
//! and which processes hold the others.
//!
//! The crate is for node agents and device plugins that pass whole devices to VMs. It is
//! synchronous, has no unsafe code and depends on no service: its sources are sysfs, procfs and the
//! device nodes. The C, Go and Python packages of this project are built on it.
//!
//! # Example
//!
//! List the bound devices and whether the group of each looks held. This opens no device node and
//! needs no privilege:
//!
//! ```no_run
//! use vfio_probe::device::Detail;
//! use vfio_probe::{Buffer, Root};
//!
//! # fn main() -> vfio_probe::Result<()> {
//! let root = Root::host()?;
//! let mut devices = Vec::new();
//! root.scan(Detail::Full, &mut Buffer::new(), |device| match device {
//!     Ok(device) => devices.push(device),
//!     Err(error) => eprintln!("skipped: {error}"),
//! })?;
//! for device in devices {
//!     let Some(group) = device.group else { continue };
//!     let peek = root.peek(group, &mut Buffer::new())?;
//!     println!("{} group {group} {}", device.id, peek.as_str());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! Follow all devices over time, as one descriptor to poll:
//!
//! ```no_run
//! use vfio_probe::{Root, Watch, watch};
//!
//! # fn main() -> vfio_probe::Result<()> {
//! let mut watch = Watch::open(&Root::host()?, watch::Options::default())?;
//! // None as the timeout waits without a limit. A program with a loop of its own polls the watch's
//! // descriptor and then calls watch.next() until it returns none.
//! while let Some(event) = watch.wait_for_event(None)? {
//!     println!("{} {:?} {:?}", event.as_str(), event.device(), event.group());
//! }
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
//! [`occupancy::combine`] combines one peek with one probe. [`Monitor`] probes only if a peek
//! cannot decide. [`Prober`] probes with a deadline, because the kernel can hold the open for
//! seconds.
//!
//! # Modules
//!
//! | module | purpose |
//! | --- | --- |
//! | [`root`] | opens files below one root directory: `/`, a host's tree in a container, or a test's directory |
//! | [`id`], [`text`], [`error`] | addresses, group numbers, short texts and errors, as small `Copy` values |
//! | [`device`], [`scan`] | the record of a device, and the listing of all bound devices |
//! | [`group`] | the members of a group, and whether the group is viable |
//! | [`peek`], [`probe`], [`prober`] | the peek, the probe, and the probe with a deadline |
//! | [`bounded_pool`] | few threads for calls that may hang in the kernel |
//! | [`occupancy`] | whether a group is held, what that rests on, and when a probe is worth its price |
//! | [`snapshot`] | devices, groups and holders at one moment, in one value |
//! | [`monitor`], [`watch`] | everything over time, and as one descriptor to poll |
//! | [`holders`], [`cgroup`] | the processes that hold a group, and their pods |
//! | [`holder_search`] | the search for them in steps of a budget |
//! | [`pid_namespace`] | whether /proc shows the host's pid namespace |
//! | [`device_nodes`] | the device nodes of a group |
//! | [`egm`] | the extended GPU memory of Grace systems |
//! | [`hardware`] | whether a function responds, and its fatal PCIe errors |
//! | [`names`] | the names of device models: a table in the library, and a parser of pci.ids |
//! | [`uevent`] | a parser of the kernel's uevents |
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

// The modules of this project's own plugin, tests and fuzzers. Their items that others need are
// exported below. The others change without notice.
#[doc(hidden)]
pub mod bounded_pool;
#[doc(hidden)]
pub mod cgroup;
#[doc(hidden)]
pub mod device;
#[doc(hidden)]
pub mod device_nodes;
#[doc(hidden)]
pub mod egm;
#[doc(hidden)]
pub mod error;
#[doc(hidden)]
pub mod group;
#[doc(hidden)]
pub mod hardware;
#[doc(hidden)]
pub mod holder_search;
#[doc(hidden)]
pub mod holders;
#[doc(hidden)]
pub mod id;
#[doc(hidden)]
pub mod monitor;
pub mod names;
#[doc(hidden)]
pub mod occupancy;
#[doc(hidden)]
pub mod peek;
#[doc(hidden)]
pub mod pid_namespace;
#[doc(hidden)]
pub mod probe;
#[doc(hidden)]
pub mod prober;
#[doc(hidden)]
pub mod root;
#[doc(hidden)]
pub mod scan;
#[doc(hidden)]
pub mod snapshot;
#[doc(hidden)]
pub mod text;
#[doc(hidden)]
pub mod uevent;
pub mod watch;
mod words;

#[doc(inline)]
pub use cgroup::{Container, InPod};
#[doc(inline)]
pub use device::{Detail, Device, Kind, Sriov};
#[doc(inline)]
pub use device_nodes::DeviceNodes;
#[doc(inline)]
pub use error::{Error, ErrorKind, Result};
#[doc(inline)]
pub use group::{GroupSummary, Member, Viability};
#[doc(hidden)]
pub use hardware::PresenceReader;
#[doc(inline)]
pub use hardware::{Hardware, Presence};
#[doc(hidden)]
pub use holder_search::HolderSearch;
#[doc(inline)]
pub use holders::{Holder, ScanCoverage, Via};
#[doc(inline)]
pub use id::{DeviceId, GroupId, ParseIdError, PciAddress, Uuid};
#[doc(hidden)]
pub use monitor::{Change, Monitor};
#[doc(inline)]
pub use occupancy::{Evidence, Occupancy, UnknownReason};
#[doc(inline)]
pub use peek::Peek;
#[doc(inline)]
pub use pid_namespace::PidNamespace;
#[doc(inline)]
pub use prober::Prober;
#[doc(inline)]
pub use root::{Buffer, Root};
#[doc(inline)]
pub use scan::Bound;
#[doc(inline)]
pub use snapshot::{GroupSnapshot, Snapshot};
#[doc(inline)]
pub use text::{DriverName, Text};
#[doc(inline)]
pub use watch::{Event, Watch};
#[doc(inline)]
pub use words::ParseWordError;
