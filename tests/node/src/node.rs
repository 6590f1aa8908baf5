//! The simulated node: its directories, its VMs, and ways to make its files unreadable.

use crate::capabilities::drop_sys_admin;
use crate::function::Function;
use crate::group_node::GroupNode;
use crate::kernel::NodeInner;
use crate::vm::{Vm, VmProgram, VmSpec};
use std::fs;
use std::io::Result;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A simulated node. Its directory is removed when it is dropped.
#[derive(Debug)]
pub struct Node {
    pub(crate) inner: Arc<NodeInner>,
    program: VmProgram,
}

impl Node {
    /// Creates an empty node. Drops CAP_SYS_ADMIN from the calling thread, since a process with it gets no EBUSY
    /// here.
    ///
    /// # Errors
    /// The capability cannot be dropped, or the directory cannot be created.
    pub fn new() -> Result<Self> {
        drop_sys_admin()?;
        let dir = tempfile::Builder::new().prefix("vfio-node-").tempdir()?;
        let root = dir.path().to_owned();
        for path in [
            "sys/bus/pci/devices",
            "sys/bus/pci/drivers/vfio-pci",
            "sys/class/vfio-dev",
            "sys/class/vfio",
            "sys/class/misc/vfio",
            "sys/kernel/iommu_groups",
            "sys/devices/pci0000:00",
            "dev/vfio",
            "proc/1/fd",
            "proc/1/ns",
            "bin",
            "run",
            "var/lib/kubelet/device-plugins",
            "var/lib/kubelet/pod-resources",
        ] {
            fs::create_dir_all(root.join(path))?;
        }
        symlink("/dev/null", root.join("dev/vfio/vfio"))?;
        // MISC_MAJOR and VFIO_MINOR of the kernel.
        fs::write(root.join("sys/class/misc/vfio/dev"), "10:196\n")?;
        symlink("/proc/self", root.join("proc/self"))?;
        // The first process of a host's pid namespace (`PROC_PID_INIT_INO`).
        symlink("pid:[4026531836]", root.join("proc/1/ns/pid"))?;
        fs::write(root.join("proc/1/cgroup"), "0::/init.scope\n")?;
        Ok(Self { inner: Arc::new(NodeInner::new(dir)?), program: VmProgram::default() })
    }

    /// Replaces the program that runs as a VM.
    #[must_use]
    pub fn with_vm_program(self, program: VmProgram) -> Self {
        Self { program, ..self }
    }

    /// Creates a node with eight GPUs: `0000:1b:00.0` and on, groups 51 to 58, four each on NUMA nodes 0 and 1.
    ///
    /// # Errors
    /// See [`Node::add`].
    pub fn with_eight_gpus() -> Result<Self> {
        let node = Self::new()?;
        node.add_eight_gpus()?;
        Ok(node)
    }

    /// Adds the GPUs of [`Node::with_eight_gpus`].
    ///
    /// # Errors
    /// See [`Node::add`].
    pub fn add_eight_gpus(&self) -> Result<()> {
        for (index, bus) in [0x1b, 0x3d, 0x4e, 0x5f, 0x9b, 0xbd, 0xce, 0xdf].into_iter().enumerate() {
            let (group, numa) = (51 + u32::try_from(index).unwrap_or(0), i32::from(index >= 4));
            self.add(Function::gpu(&format!("0000:{bus:02x}:00.0"), group, numa))?;
        }
        Ok(())
    }

    /// Returns the directory that stands for `/`.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.inner.root
    }

    /// Returns the kubelet's directory for device plugins.
    #[must_use]
    pub fn kubelet_dir(&self) -> PathBuf {
        self.root().join("var/lib/kubelet/device-plugins")
    }

    /// Returns the path of the kubelet's pod resources socket.
    #[must_use]
    pub fn pod_resources_socket(&self) -> PathBuf {
        self.root().join("var/lib/kubelet/pod-resources/kubelet.sock")
    }

    /// Returns the directory for the plugin's own socket and state files.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.root().join("run")
    }

    /// Starts a VM, which opens the groups of its functions.
    ///
    /// # Errors
    /// EBUSY, as QEMU gets it, if one of the groups is held; ENOENT if a group has no device node.
    pub fn start_vm(&self, spec: &VmSpec) -> Result<Vm> {
        // The name of the link becomes the command name of the process (`begin_new_exec`).
        let link = self.root().join("bin/qemu-system-x86");
        if !link.exists() {
            symlink(&self.program.path, &link)?;
        }
        self.inner.start(&self.program, &link, spec)
    }

    /// Returns how many opens of a group by processes other than the node's VMs have succeeded.
    #[must_use]
    pub fn opens(&self, group: u32) -> u64 {
        self.inner.lock().groups.get(&group).map_or(0, GroupNode::opens)
    }

    /// Returns true if a VM holds the group.
    #[must_use]
    pub fn is_held(&self, group: u32) -> bool {
        self.inner.lock().held.contains(&group)
    }

    /// Writes a file of the tree in place.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        fs::write(self.root().join(path), content)
    }

    /// Reads a file of the tree.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.root().join(path))
    }

    /// Removes a file, a link or a directory of the tree.
    ///
    /// # Errors
    /// The path does not exist or cannot be removed.
    pub fn delete(&self, path: &str) -> Result<()> {
        let path = self.root().join(path);
        if fs::symlink_metadata(&path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    }

    /// Replaces a file by a fifo. A reader that does not check the file's type then blocks forever.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn replace_by_fifo(&self, path: &str) -> Result<()> {
        self.delete(path)?;
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        let path = self.root().join(path);
        Ok(rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)?)
    }

    /// Makes a file unreadable. Root can read any file; for root a directory replaces the file, and reading it fails
    /// with EISDIR.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn make_unreadable(&self, path: &str) -> Result<()> {
        if rustix::process::geteuid().is_root() {
            self.delete(path)?;
            return fs::create_dir(self.root().join(path));
        }
        fs::set_permissions(self.root().join(path), fs::Permissions::from_mode(0o000))
    }

    /// Keeps the directory when the node is dropped.
    pub fn keep(&self) {
        self.inner.keep();
    }
}
