//! The node itself: its folders, its virtual machines, and ways to break it.

use crate::capabilities::drop_sys_admin;
use crate::function::Function;
use crate::group_node::GroupNode;
use crate::machine::{Vm, VmProgram, VmSpec};
use crate::state::Shared;
use std::fs;
use std::io::Result;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A simulated node. Its folder goes when it is dropped.
#[derive(Debug)]
pub struct Node {
    pub(crate) shared: Arc<Shared>,
    program: VmProgram,
}

impl Node {
    /// An empty node. Drops CAP_SYS_ADMIN from the calling thread, without which EBUSY would not bite.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn new() -> Result<Self> {
        drop_sys_admin()?;
        let folder = tempfile::Builder::new().prefix("vfio-node-").tempdir()?;
        let root = folder.path().to_owned();
        for path in [
            "sys/bus/pci/devices",
            "sys/bus/pci/drivers/vfio-pci",
            "sys/class/vfio-dev",
            "sys/class/vfio",
            "sys/kernel/iommu_groups",
            "sys/devices/pci0000:00",
            "dev/vfio",
            "proc",
            "bin",
            "run",
            "var/lib/kubelet/device-plugins",
            "var/lib/kubelet/pod-resources",
        ] {
            fs::create_dir_all(root.join(path))?;
        }
        symlink("/dev/null", root.join("dev/vfio/vfio"))?;
        symlink("/proc/self", root.join("proc/self"))?;
        Ok(Self { shared: Arc::new(Shared::new(folder)?), program: VmProgram::default() })
    }

    /// The same with another program as virtual machine.
    #[must_use]
    pub fn with_vm_program(self, program: VmProgram) -> Self {
        Self { program, ..self }
    }

    /// An 8-GPU node: `0000:1b:00.0` and on, groups 51 to 58, four on NUMA node 0 and four on 1.
    ///
    /// # Errors
    /// As [`Node::add`].
    pub fn with_eight_gpus() -> Result<Self> {
        let node = Self::new()?;
        node.add_eight_gpus()?;
        Ok(node)
    }

    /// Adds the GPUs of [`Node::with_eight_gpus`].
    ///
    /// # Errors
    /// As [`Node::add`].
    pub fn add_eight_gpus(&self) -> Result<()> {
        for (index, bus) in [0x1b, 0x3d, 0x4e, 0x5f, 0x9b, 0xbd, 0xce, 0xdf].into_iter().enumerate() {
            let (group, numa) = (51 + u32::try_from(index).unwrap_or(0), i32::from(index >= 4));
            self.add(Function::gpu(&format!("0000:{bus:02x}:00.0"), group, numa))?;
        }
        Ok(())
    }

    /// The folder that stands for `/`.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.shared.root
    }

    /// The kubelet's folder for device plugins.
    #[must_use]
    pub fn kubelet_dir(&self) -> PathBuf {
        self.root().join("var/lib/kubelet/device-plugins")
    }

    /// The kubelet's pod resources socket.
    #[must_use]
    pub fn pod_resources_socket(&self) -> PathBuf {
        self.root().join("var/lib/kubelet/pod-resources/kubelet.sock")
    }

    /// A folder for the plugin's own socket.
    #[must_use]
    pub fn run_dir(&self) -> PathBuf {
        self.root().join("run")
    }

    /// Starts a virtual machine, which opens the groups of its functions.
    ///
    /// # Errors
    /// EBUSY, as QEMU gets it, when one of them is held; ENOENT when one has no node.
    pub fn start_vm(&self, spec: &VmSpec) -> Result<Vm> {
        // The link's name becomes the process' command name (`begin_new_exec`).
        let link = self.root().join("bin/qemu-system-x86");
        if !link.exists() {
            symlink(&self.program.path, &link)?;
        }
        self.shared.start(&self.program, &link, spec)
    }

    /// How often others than its machines have opened a group with success.
    #[must_use]
    pub fn opens(&self, group: u32) -> u64 {
        self.shared.lock().groups.get(&group).map_or(0, GroupNode::opens)
    }

    /// Whether a machine holds the group.
    #[must_use]
    pub fn is_held(&self, group: u32) -> bool {
        self.shared.lock().held.contains(&group)
    }

    /// Writes a file of the tree, in place.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, path: &str, content: impl AsRef<[u8]>) -> Result<()> {
        fs::write(self.root().join(path), content)
    }

    /// Reads a file of the tree.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(&self, path: &str) -> Result<String> {
        fs::read_to_string(self.root().join(path))
    }

    /// Removes a file, a link or a folder of the tree.
    ///
    /// # Errors
    /// There is none, or it cannot be removed.
    pub fn delete(&self, path: &str) -> Result<()> {
        let path = self.root().join(path);
        if fs::symlink_metadata(&path)?.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }
    }

    /// Puts a fifo in a file's place: a reader that does not look first waits for ever.
    ///
    /// # Errors
    /// The tree cannot be written.
    pub fn replace_by_fifo(&self, path: &str) -> Result<()> {
        self.delete(path)?;
        let mode = rustix::fs::Mode::from_raw_mode(0o644);
        let path = self.root().join(path);
        Ok(rustix::fs::mknodat(rustix::fs::CWD, path, rustix::fs::FileType::Fifo, mode, 0)?)
    }

    /// Makes a file unreadable. Root reads it all the same; for root a folder in its place gives an error (EISDIR).
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

    /// Leaves the folder behind when the node is dropped.
    pub fn keep(&self) {
        self.shared.keep();
    }
}
