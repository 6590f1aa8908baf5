//! Reads the descriptors of one process, some hundred at a time.

use super::Sighting;
use super::targets::Targets;
use crate::error::is_shortage;
use crate::holders::{Holder, Via};
use crate::id::{DeviceId, GroupId};
use crate::root::{PAGE, Root, last_component};
use rustix::fs::{AtFlags, FileType, OFlags, RawDir, SeekFrom, StatxFlags, makedev, readlinkat_raw, statx};
use rustix::io::Errno;
use std::ffi::CStr;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd};
use std::time::Instant;

/// Size of the listing of one turn in bytes: about 300 descriptors. A VMM that has just started has
/// its group among its first descriptors.
const TURN: usize = 8 * 1024;
/// Length of the longest name in /proc/PID/fd: a number of 32 bits.
const NAME_MAX: usize = 10;
/// Number of descriptors between two inspects the clock.
const CHECK_TIME: u32 = 64;

/// A process, and where its search continues.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Place {
    pub(super) pid: u32,
    /// Position in /proc/PID/fd for lseek. 0 at the start.
    position: u64,
    /// Inode of /proc/PID/fd at the latest turn. A different inode can mean a different process
    /// with this pid, so the search starts again.
    inode: u64,
    /// A descriptor could not be read.
    denied: Option<Errno>,
}

impl Place {
    pub(super) fn start(pid: u32) -> Self {
        Self { pid, position: 0, inode: 0, denied: None }
    }
}

/// One turn of a process, and what it has found.
pub(super) struct Turn {
    place: Place,
    end: Instant,
    pub(super) sightings: Vec<Sighting>,
    pub(super) descriptors: u32,
    pub(super) unattributed: u32,
    /// The process has /dev/vfio/vfio or /dev/iommu open.
    pub(super) uses_vfio: bool,
    /// Why a descriptor could not be read.
    denied: Option<Errno>,
    /// This process has no descriptor or no memory left to read with.
    shortage: Option<Errno>,
}

impl Turn {
    pub(super) fn new(place: Place, end: Instant) -> Self {
        Self {
            place,
            end,
            sightings: Vec::new(),
            descriptors: 0,
            unattributed: 0,
            uses_vfio: false,
            denied: place.denied,
            shortage: None,
        }
    }
}

/// A descriptor of a process.
struct Descriptor<'a> {
    /// The opened /proc/PID/fd. It belongs to this process even after the kernel reuses the pid.
    directory: BorrowedFd<'a>,
    name: &'a CStr,
    pid: u32,
}

/// An anonymous descriptor.
enum DeviceFd {
    /// It is not VFIO's.
    Other,
    /// It is a VFIO device, and the kernel does not report which.
    Unattributed,
    /// It is this device.
    Of(DeviceId),
}

/// Returns the size of a `struct linux_dirent64` with a name of this length.
fn entry_size(name: usize) -> usize {
    (19 + name + 1).next_multiple_of(8)
}

/// Reads descriptors with buffers of its own.
#[derive(Debug)]
pub(super) struct Reader(Box<[MaybeUninit<u8>]>);

impl Reader {
    pub(super) fn new() -> Self {
        Self(Box::new_uninit_slice(TURN))
    }

    /// Reads the next descriptors of a process. Returns where to continue, or none if there are no
    /// more.
    ///
    /// # Errors
    /// The descriptors cannot be read: no permission, or this process has no descriptor left. A
    /// process that has ended is no error.
    pub(super) fn take_turn(
        &mut self,
        root: &Root,
        targets: &Targets,
        turn: &mut Turn,
    ) -> Result<Option<Place>, Errno> {
        let result = self.read(root, targets, turn);
        match (result, turn.shortage.or(turn.denied)) {
            (_, Some(errno)) if turn.shortage.is_some() => Err(errno),
            // The process has ended.
            (Err(Errno::NOENT | Errno::SRCH), _) => Ok(None),
            (Ok(None), Some(errno)) => Err(errno),
            (result, denied) => Ok(result?.map(|place| Place { denied, ..place })),
        }
    }

    fn read(&mut self, root: &Root, targets: &Targets, turn: &mut Turn) -> Result<Option<Place>, Errno> {
        let Place { pid, position, inode, .. } = turn.place;
        let directory = root.open_at(format_args!("proc/{pid}/fd"), OFlags::RDONLY | OFlags::DIRECTORY)?;
        let now = rustix::fs::fstat(&directory)?.st_ino;
        if position > 0 && inode == now {
            rustix::fs::seek(&directory, SeekFrom::Start(position))?;
        }
        let mut entries = RawDir::new(directory.as_fd(), &mut self.0);
        let mut used = 0;
        while let Some(entry) = entries.next() {
            let entry = entry?;
            let (name, position) = (entry.file_name(), entry.next_entry_cookie());
            used += entry_size(name.to_bytes().len());
            if name.to_bytes().first() != Some(&b'.') {
                let descriptor = Descriptor { directory: directory.as_fd(), name, pid };
                descriptor.examine(root, targets, turn);
                turn.descriptors += 1;
            }
            let is_empty = entries.is_buffer_empty();
            let is_full = is_empty && used + entry_size(NAME_MAX) >= TURN;
            let check = turn.descriptors.is_multiple_of(CHECK_TIME) && turn.descriptors > 0;
            if is_full || (check && Instant::now() >= turn.end) {
                return Ok(Some(Place { pid, position, inode: now, denied: None }));
            }
            if is_empty {
                // There was room left for another entry. A signal ends the call too (`filldir64`), so
                // only the next call shows the end.
                used = 0;
            }
        }
        Ok(None)
    }
}

impl Descriptor<'_> {
    /// Inspects the descriptor and adds what it shows to the turn.
    fn examine(&self, root: &Root, targets: &Targets, turn: &mut Turn) {
        let (kind, number) = match self.stat() {
            Ok(stat) => stat,
            // The descriptor was closed after the listing, or the process has ended.
            Err(Errno::NOENT | Errno::SRCH) => return,
            Err(errno) => {
                // Without CAP_SYS_PTRACE the listing succeeds, and each descriptor is denied. If
                // its link can be read, only the file system denies: a FUSE mount of another user,
                // which cannot contain device nodes (MNT_NODEV).
                if self.link(&mut [0; PAGE]).is_err() {
                    turn.denied = Some(errno);
                }
                return;
            }
        };
        match kind {
            FileType::CharacterDevice => {
                turn.uses_vfio |= targets.is_shared(number);
                for (group, via) in targets.with_number(number) {
                    self.sight(root, group, via, turn);
                }
            }
            // An anonymous inode has no file type.
            FileType::Unknown => match self.device(root, turn) {
                DeviceFd::Other => {}
                DeviceFd::Unattributed => turn.unattributed += 1,
                DeviceFd::Of(device) => {
                    if let Some(group) = targets.group_of(device) {
                        self.sight(root, group, Via::Device, turn);
                    }
                }
            },
            _ => {}
        }
    }

    /// Returns the type and the device number of the open file.
    ///
    /// AT_STATX_DONT_SYNC keeps network and user-space file systems out of it: a FUSE server or an
    /// NFS server that does not respond must not hang the search (`fuse_update_get_attr`,
    /// `nfs_getattr`).
    fn stat(&self) -> Result<(FileType, u64), Errno> {
        let stat = statx(self.directory, self.name, AtFlags::STATX_DONT_SYNC, StatxFlags::TYPE)?;
        let kind = FileType::from_raw_mode(stat.stx_mode.into());
        Ok((kind, makedev(stat.stx_rdev_major, stat.stx_rdev_minor)))
    }

    fn link<'b>(&self, text: &'b mut [u8]) -> Result<&'b [u8], Errno> {
        let length = readlinkat_raw(self.directory, self.name, &mut *text)?;
        Ok(text.get(..length).unwrap_or_default())
    }

    /// Returns the device of an anonymous descriptor, if it is one of VFIO's (`vfio_device_fops`,
    /// `[vfio-device]`).
    fn device(&self, root: &Root, turn: &mut Turn) -> DeviceFd {
        let mut text = [0; PAGE];
        match self.link(&mut text) {
            Ok(b"anon_inode:[vfio-device]") => {}
            _ => return DeviceFd::Other,
        }
        let Ok(name) = self.name.to_str() else { return DeviceFd::Unattributed };
        let info = match root.read(format_args!("proc/{}/fdinfo/{name}", self.pid), &mut text) {
            Err(errno) if is_shortage(errno) => {
                turn.shortage = Some(errno);
                return DeviceFd::Other;
            }
            info => info.unwrap_or_default(),
        };
        info.split(|&byte| byte == b'\n')
            .find_map(|line| line.strip_prefix(b"vfio-device-syspath:"))
            .and_then(|path| DeviceId::parse(last_component(path.trim_ascii())))
            .map_or(DeviceFd::Unattributed, DeviceFd::Of)
    }

    /// Adds a sighting, unless the turn has one of this group.
    fn sight(&self, root: &Root, group: GroupId, via: Via, turn: &mut Turn) {
        let known = turn.sightings.iter_mut().find(|sighting| sighting.holder.group == group);
        if let Some(Sighting { holder, .. }) = known {
            if (via as u8) < holder.via as u8 {
                holder.via = via;
            }
            return;
        }
        let (command, start_time) = match root.process(self.pid) {
            Ok(process) => process,
            Err(errno) => {
                turn.shortage = Some(errno).filter(|errno| is_shortage(*errno));
                return;
            }
        };
        let uid = root.uid_of(self.pid);
        let container = root.container_of(self.pid);
        // The descriptor is still there, so what was read by pid belongs to this process.
        if self.stat().is_ok() {
            let holder = Holder { group, pid: self.pid, start_time, uid, command, via, container };
            turn.sightings.push(Sighting { holder, seen: Instant::now() });
        }
    }
}
