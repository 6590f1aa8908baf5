//! Orders to the node: one per line as JSON, one reply per line.

use std::collections::BTreeMap;
use std::io::{BufRead, Error, Result, Write};
use std::path::{Component, Path};
use std::time::Duration;
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Function, Hold, Node, Vm, VmSpec};

/// An order: one change of the node, or one query.
#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Order {
    /// Adds a function, bound if it names a driver.
    Add(Function),
    /// Adds a GPU like those of an eight-GPU node.
    AddGpu {
        address: String,
        group: u32,
        numa_node: i32,
    },
    AddMdev(Mdev),
    Bind {
        address: String,
        driver: String,
    },
    Unbind {
        address: String,
    },
    Remove {
        address: String,
    },
    StartVm(StartVm),
    /// Kills a VM. The reply comes when its groups are free.
    KillVm {
        pid: u32,
    },
    /// Writes a file of the tree.
    Write {
        path: String,
        content: String,
    },
    Read {
        path: String,
    },
    /// Removes a file, a link or a directory of the tree.
    Delete {
        path: String,
    },
    Link {
        path: String,
        target: String,
    },
    MakeUnreadable {
        path: String,
    },
    /// Returns how many opens of the group by processes other than VMs have succeeded.
    Opens {
        group: u32,
    },
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct StartVm {
    addresses: Vec<String>,
    pod_uid: Option<String>,
    container_id: Option<String>,
    cgroup: Option<String>,
    /// The group is open, but no device of it: EBUSY while `enable` is 0.
    #[serde(default)]
    group_only: bool,
    #[serde(default)]
    teardown_ms: u64,
}

/// Executes orders until the input ends. The VMs then end, and the directory is removed.
///
/// # Errors
/// The input cannot be read, or the reader of the replies has gone.
pub(crate) fn serve(node: &Node) -> Result<()> {
    let mut vms = BTreeMap::new();
    let mut replies = std::io::stdout().lock();
    writeln!(replies, "{}", serde_json::json!({ "root": node.root() }))?;
    for line in std::io::stdin().lock().lines() {
        let done = serde_json::from_str(&line?)
            .map_err(Error::from)
            .and_then(|order| execute(node, &mut vms, order));
        let reply = done.unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }));
        writeln!(replies, "{reply}")?;
    }
    Ok(())
}

/// Refuses paths that lead out of the tree, because tests run as root.
fn inside(path: &str) -> Result<&str> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if Path::new(path).components().all(plain) {
        Ok(path)
    } else {
        Err(Error::other(format!("{path}: not a path inside the tree, like sys/bus")))
    }
}

fn execute(node: &Node, vms: &mut BTreeMap<u32, Vm>, order: Order) -> Result<serde_json::Value> {
    let mut reply = serde_json::json!({});
    match order {
        Order::Add(function) => node.add(function)?,
        Order::AddGpu { address, group, numa_node } => node.add(Function::gpu(&address, group, numa_node))?,
        Order::AddMdev(mdev) => node.add_mdev(&mdev)?,
        Order::Bind { address, driver } => node.bind(&address, &driver)?,
        Order::Unbind { address } => node.unbind(&address)?,
        Order::Remove { address } => node.remove(&address)?,
        Order::StartVm(order) => {
            let vm = node.start_vm(&VmSpec {
                addresses: order.addresses,
                pod_uid: order.pod_uid,
                container_id: order.container_id,
                cgroup: order.cgroup,
                hold: if order.group_only { Hold::GroupOnly } else { Hold::Device },
                teardown: Duration::from_millis(order.teardown_ms),
            })?;
            reply = serde_json::json!({ "pid": vm.pid() });
            vms.insert(vm.pid(), vm);
        }
        Order::KillVm { pid } => {
            vms.remove(&pid)
                .ok_or_else(|| Error::other(format!("{pid} is not the pid of a VM of this node")))?
                .kill();
        }
        Order::Write { path, content } => node.write(inside(&path)?, content)?,
        Order::Read { path } => reply = serde_json::json!({ "content": node.read(inside(&path)?)? }),
        Order::Delete { path } => node.delete(inside(&path)?)?,
        Order::Link { path, target } => std::os::unix::fs::symlink(target, node.root().join(inside(&path)?))?,
        Order::MakeUnreadable { path } => node.make_unreadable(inside(&path)?)?,
        Order::Opens { group } => reply = serde_json::json!({ "opens": node.opens(group) }),
    }
    Ok(reply)
}
