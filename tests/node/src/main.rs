//! Serves a simulated node to programs in any language, and runs programs so that they get EBUSY there.

mod orders;

use std::io::{Error, ErrorKind, Write};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitCode};
use vfio_sim_node::{Node, capabilities, drop_sys_admin};

/// The help text.
const HELP: &str = "\
Serves a simulated node with VFIO devices, for tests of programs in any language. It needs no privilege and no hardware.

  vfio-sim-node serve [OPTION]...          create a node, print its directory, execute orders from standard input
  vfio-sim-node exec PROGRAM [ARGUMENT]... run a program without CAP_SYS_ADMIN, so that it gets EBUSY of held groups
  vfio-sim-node --help | --version

Options of serve:
  --eight-gpus       add eight GPUs, 0000:1b:00.0 and on, in the groups 51 to 58; without it the node is empty
  --before-6.1       as kernels before 6.1: no /sys/class/vfio-dev
  --cdevs            add /dev/iommu, and a cdev for each device
  --without-groups   as kernels without CONFIG_VFIO_GROUP: cdevs, and no group nodes

`serve` prints {\"root\":DIRECTORY} and reads one order per line as JSON; each order has a reply of one line:

  {\"start_vm\":{\"addresses\":[\"0000:1b:00.0\"]}}   {\"pid\":4711}, a process that holds the group
  {\"kill_vm\":{\"pid\":4711}}                       {}, when the group is free
  {\"opens\":{\"group\":51}}                         {\"opens\":0}, the opens by other processes than VMs

tests/node/README.md in the repository has every order. The node ends with its VMs, and its directory is removed, when
standard input ends (Ctrl-D).

A process with CAP_SYS_ADMIN, such as root's, opens held groups without an error here, and a probe then reports `free`. The
kernel's VFIO has no such exception. Run your program with `exec`, which gives this capability up; PROGRAM is searched on PATH.

Exit codes: 0 success, 1 failure, 64 wrong usage; `exec` exits as PROGRAM does, with 126 if PROGRAM cannot be run and with 127
if it is not found.
";

/// What `serve` prints on standard error if it was started with CAP_SYS_ADMIN.
const ROOT_SEES: &str = "\
vfio-sim-node: this process has CAP_SYS_ADMIN, and processes with it get no EBUSY here: they see held groups as free; run your \
program with `vfio-sim-node exec PROGRAM`";

/// `EX_USAGE` of sysexits.h.
const USAGE: u8 = 64;

/// A failure, with the exit code.
struct Failure(u8, String);

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self(1, error.to_string())
    }
}

fn main() -> ExitCode {
    let words: Vec<_> = std::env::args_os().skip(1).collect();
    let first = words.first().map(|word| word.to_string_lossy().into_owned());
    let rest = words.get(1..).unwrap_or_default();
    let done = match first.as_deref() {
        Some("serve") => serve(&rest.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>()),
        Some("exec") => match rest.split_first() {
            Some((program, arguments)) => exec(Command::new(program).args(arguments)),
            None => Err(Failure(USAGE, "exec needs a PROGRAM; see vfio-sim-node --help".into())),
        },
        Some("--help" | "-h" | "help") => print(HELP),
        Some("--version" | "-V") => print(concat!("vfio-sim-node ", env!("CARGO_PKG_VERSION"), "\n")),
        Some(other) => Err(Failure(USAGE, format!("no such command: {other}; see vfio-sim-node --help"))),
        None => Err(Failure(USAGE, "a command is missing; see vfio-sim-node --help".into())),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure(code, text)) => {
            eprintln!("vfio-sim-node: {text}");
            ExitCode::from(code)
        }
    }
}

fn print(text: &str) -> Result<(), Failure> {
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}

fn serve(options: &[impl AsRef<str>]) -> Result<(), Failure> {
    let had_sys_admin = capabilities::has_sys_admin()?;
    let mut node = Node::new()?;
    // The devices come last: they get the device nodes that the kernel has.
    let mut has_gpus = false;
    for option in options.iter().map(AsRef::as_ref) {
        match option {
            "--before-6.1" => node = node.without_vfio_class()?,
            "--cdevs" => node = node.with_cdevs()?,
            "--without-groups" => node = node.without_group_nodes()?,
            "--eight-gpus" => has_gpus = true,
            "--help" | "-h" => return print(HELP),
            other => {
                return Err(Failure(USAGE, format!("no such option: {other}; see vfio-sim-node --help")));
            }
        }
    }
    if has_gpus {
        node.add_eight_gpus()?;
    }
    if had_sys_admin {
        eprintln!("{ROOT_SEES}");
    }
    Ok(orders::serve(&node)?)
}

/// Replaces this process by the program. Returns only if that fails.
fn exec(command: &mut Command) -> Result<(), Failure> {
    drop_sys_admin().map_err(|error| Failure(126, format!("cannot give up CAP_SYS_ADMIN: {error}")))?;
    let error = command.exec();
    let code = if error.kind() == ErrorKind::NotFound { 127 } else { 126 };
    Err(Failure(code, format!("cannot run {}: {error}", command.get_program().to_string_lossy())))
}
