//! The two plugins that are measured, and how each is started on a simulated node.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use vfio_sim_node::Node;

/// A plugin's program.
pub(crate) enum Plugin {
    /// This repository's plugin.
    Ours(PathBuf),
    /// NVIDIA's kubevirt-gpu-device-plugin. Its paths are fixed, so it runs in a chroot.
    Nvidia(PathBuf),
}

impl Plugin {
    /// Returns the program and its arguments. `more` are arguments for this repository's plugin.
    pub(crate) fn command(&self, node: &Node, more: &[&str]) -> Vec<OsString> {
        let word = |text: &str| OsString::from(text);
        match self {
            Self::Ours(program) => {
                let mut words = vec![program.into(), word("serve")];
                words.extend(node.plugin_options());
                words.extend(more.iter().map(|argument| word(argument)));
                words
            }
            Self::Nvidia(program) => {
                prepare_chroot(node, program);
                vec![word("chroot"), node.root().into(), word("/nvidia")]
            }
        }
    }

    /// Returns whether it is this repository's plugin.
    pub(crate) fn is_ours(&self) -> bool {
        matches!(self, Self::Ours(_))
    }
}

/// Copies the program with its libraries and the table of names into the node's tree. Regular files replace the group nodes: their
/// links lead out of the tree.
fn prepare_chroot(node: &Node, program: &Path) {
    let root = node.root();
    if root.join("nvidia").exists() {
        return;
    }
    fs::copy(program, root.join("nvidia")).unwrap();
    let listed = std::process::Command::new("ldd").arg(program).output().unwrap();
    let listed = String::from_utf8(listed.stdout).unwrap();
    let ids = ["/usr/share/misc/pci.ids"];
    for library in listed.split_whitespace().filter(|word| word.starts_with('/')).chain(ids) {
        let to = if library == ids[0] { "/usr/pci.ids" } else { library };
        let to = root.join(to.trim_start_matches('/'));
        fs::create_dir_all(to.parent().unwrap()).unwrap();
        fs::copy(library, to).unwrap();
    }
    for entry in fs::read_dir(root.join("dev/vfio")).unwrap() {
        let path = entry.unwrap().path();
        if path.is_symlink() {
            fs::remove_file(&path).unwrap();
            fs::write(&path, "").unwrap();
        }
    }
}
