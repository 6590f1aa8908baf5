//! The simulated node for programs in any language: orders as JSON, one a line, and a reply a line.
//!
//! ```text
//! $ vfio-sim-node serve --eight-gpus
//! {"root":"/tmp/vfio-node-1a2b"}
//! {"start_vm":{"addresses":["0000:1b:00.0"]}}        <- an order
//! {"pid":4711}                                       -> its reply
//! $ vfio-sim-node exec PROGRAM [ARG...]              the program without CAP_SYS_ADMIN, to which EBUSY is told
//! ```

use std::collections::BTreeMap;
use std::io::{BufRead, Error, Result, Write};
use std::os::unix::process::CommandExt;
use std::path::{Component, Path};
use std::process::ExitCode;
use std::time::Duration;
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Function, Hold, Node, Vm, VmSpec, drop_sys_admin};

/// What can be done to a node.
#[derive(serde::Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
enum Order {
    /// A function appears, bound if it names a driver.
    Add(Function),
    /// A GPU as in an eight-GPU node appears.
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
    StartVm(Machine),
    /// Ends a machine; the reply comes when its groups are free.
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
    /// Removes a file, link or folder of the tree.
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
    /// How often others than machines have opened the group with success.
    Opens {
        group: u32,
    },
}

#[derive(serde::Deserialize)]
#[serde(deny_unknown_fields)]
struct Machine {
    addresses: Vec<String>,
    pod_uid: Option<String>,
    container_id: Option<String>,
    /// The group is open, no device of it: EBUSY, but `enable` is 0.
    #[serde(default)]
    group_only: bool,
    #[serde(default)]
    teardown_ms: u64,
}

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let done = match words.as_slice() {
        ["exec", program, arguments @ ..] => {
            drop_sys_admin().and_then(|()| Err(std::process::Command::new(program).args(arguments).exec()))
        }
        ["serve", options @ ..] => node(options).and_then(|node| serve(&node)),
        _ => Err(Error::other(
            "usage: vfio-sim-node serve [--before-6.1 | --cdevs | --without-groups] [--eight-gpus] | exec PROGRAM [ARG...]",
        )),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("vfio-sim-node: {error}");
            ExitCode::from(2)
        }
    }
}

fn node(options: &[&str]) -> Result<Node> {
    let mut node = Node::new()?;
    for option in options {
        match *option {
            "--before-6.1" => node = node.without_vfio_class()?,
            "--cdevs" => node = node.with_cdevs()?,
            "--without-groups" => node = node.without_group_nodes()?,
            "--eight-gpus" => node.add_eight_gpus()?,
            other => return Err(Error::other(format!("no such option: {other}"))),
        }
    }
    Ok(node)
}

/// Until the orders end; then the machines end and the folder goes.
fn serve(node: &Node) -> Result<()> {
    let mut machines = BTreeMap::new();
    println!("{}", serde_json::json!({ "root": node.root() }));
    for line in std::io::stdin().lock().lines() {
        let done = serde_json::from_str(&line?)
            .map_err(Error::from)
            .and_then(|order| obey(node, &mut machines, order));
        let reply = done.unwrap_or_else(|error| serde_json::json!({ "error": error.to_string() }));
        println!("{reply}");
        std::io::stdout().flush()?;
    }
    Ok(())
}

/// A path of the tree stays in the tree: tests run as root.
fn inside(path: &str) -> Result<&str> {
    let plain = |part: Component<'_>| matches!(part, Component::Normal(_) | Component::CurDir);
    if Path::new(path).components().all(plain) {
        Ok(path)
    } else {
        Err(Error::other(format!("{path}: not a path inside the tree, like sys/bus")))
    }
}

fn obey(node: &Node, machines: &mut BTreeMap<u32, Vm>, order: Order) -> Result<serde_json::Value> {
    let mut reply = serde_json::json!({});
    match order {
        Order::Add(function) => node.add(function)?,
        Order::AddGpu { address, group, numa_node } => node.add(Function::gpu(&address, group, numa_node))?,
        Order::AddMdev(mdev) => node.add_mdev(&mdev)?,
        Order::Bind { address, driver } => node.bind(&address, &driver)?,
        Order::Unbind { address } => node.unbind(&address)?,
        Order::Remove { address } => node.remove(&address)?,
        Order::StartVm(machine) => {
            let vm = node.start_vm(&VmSpec {
                addresses: machine.addresses,
                pod_uid: machine.pod_uid,
                container_id: machine.container_id,
                hold: if machine.group_only { Hold::GroupOnly } else { Hold::Device },
                teardown: Duration::from_millis(machine.teardown_ms),
            })?;
            reply = serde_json::json!({ "pid": vm.pid() });
            machines.insert(vm.pid(), vm);
        }
        Order::KillVm { pid } => {
            machines.remove(&pid).ok_or_else(|| Error::other(format!("{pid} is no machine")))?.kill();
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
