//! Imports the images on a new disk, so that no run has to.

use std::path::Path;

use xtask::context::Context;
use xtask::process;
use xtask::scratch::Scratch;

use super::{Parts, images};
use crate::Result;
use crate::control_plane::Ports;
use crate::node::{Accelerator, Node};

/// Boots a new disk, imports the images in containerd, and writes what has changed back to the disk.
pub(super) fn run(context: &Context, parts: &Parts, images: &Path) -> Result {
    let work = Scratch::new()?;
    let accelerator = Accelerator::choose(context, parts, work.path())?;
    let mut node = Node::start(context, parts, work.path(), Ports::find()?, accelerator, Vec::new())?;
    node.wait_up(context)?;
    node.start_containerd()?;
    for name in images::IMAGES {
        node.import(&format!("docker.io/cluster/{name}:1"), &images.join(format!("{name}.tar")))?;
    }
    node.run("service stop containerd; rm -f /var/log/*.log /etc/node-services")?;
    node.stop()?;
    let mut commit = context.command("qemu-img");
    process::run(commit.args(["commit", "-q"]).arg(work.join("disk")))
}
