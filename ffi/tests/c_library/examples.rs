//! The examples, compiled as their first lines say and fully static, on a simulated node.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use libtest_mimic::Trial;
use xtask::Result;
use xtask::log::{Log, ensure};
use xtask::node::Node;
use xtask::process::{read, write};

use super::library::{Installed, Library, Link, trial};

/// How long a line may take on a loaded host.
const PATIENCE: Duration = Duration::from_secs(10);
const POD: &str = "4b5a1c7e-5b0a-4a57-9d3a-0123456789ab";

pub(crate) fn trials(library: &Arc<Library>) -> Vec<Trial> {
    let mut trials = Vec::new();
    for (kind, link) in [("shared", Link::Shared), ("static", Link::Static)] {
        for example in ["list", "agent", "wait"] {
            let name = format!("examples::{example}_compiles_{kind}");
            trials.push(trial(library, name, move |installed, log| {
                compile(installed, log, example, link).map(drop)
            }));
        }
        let name = format!("examples::examples_run_on_a_simulated_node_{kind}");
        trials.push(trial(library, name, move |installed, log| run(installed, log, link)));
    }
    trials.push(trial(library, "examples::wait_ends_when_the_holder_ends", waits));
    trials.push(trial(library, "examples::example_of_the_header_runs", header_example));
    trials.push(trial(library, "examples::list_names_a_missing_root", names_a_missing_root));
    trials.push(trial(library, "examples::agent_refuses_an_unknown_option", refuses_an_unknown_option));
    trials
}

fn compile(installed: &Installed, log: &mut Log, example: &str, link: Link) -> Result<PathBuf> {
    let program = installed.work.join(format!("{example}-{link:?}"));
    let compiler: &[&str] = match link {
        Link::Shared => &["cc", "-std=c11"],
        Link::Static => &["cc", "-std=c11", "-static"],
    };
    installed.compile(log, compiler, link, &format!("ffi/examples/{example}.c"), &program)?;
    Ok(program)
}

/// The output of a program while it runs. The program is killed when this is dropped.
struct Running {
    child: Child,
    output: PathBuf,
}

impl Running {
    fn start(mut command: Command, output: PathBuf) -> Result<Self> {
        let file = File::create(&output)?;
        let child = command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file).spawn()?;
        Ok(Self { child, output })
    }

    /// Waits until the output has the line.
    fn wait_for(&self, line: &str) -> Result {
        let start = Instant::now();
        loop {
            let text = read(&self.output)?;
            if text.lines().any(|printed| printed == line) {
                return Ok(());
            }
            ensure(start.elapsed() < PATIENCE, &format!("no line is `{line}` in:\n{text}"))?;
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks the program to end, and fails unless it ends with status 0.
    fn end(mut self, log: &mut Log, installed: &Installed) -> Result {
        log.run(installed.context.command("kill").args(["-TERM", &self.child.id().to_string()]))?;
        let status = self.child.wait()?;
        ensure(status.success(), &format!("the agent's exit status is {status}, not 0"))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn run(installed: &Installed, log: &mut Log, link: Link) -> Result {
    let (list, agent) = (compile(installed, log, "list", link)?, compile(installed, log, "agent", link)?);
    let mut node = Node::start_built(&installed.context)?;
    let pid = node.start_vm("0000:3d:00.0", Some(POD))?;
    let listed = log.output(installed.context.command(list).arg(node.root()))?;
    for line in ["0000:3d:00.0 10de:2330 group 52 looks-held", "0000:1b:00.0 10de:2330 group 51 looks-free"] {
        ensure(listed.lines().any(|printed| printed == line), &format!("no line is `{line}`"))?;
    }
    let output = installed.work.join(format!("agent-{link:?}.out"));
    write(&output, "")?;
    let running = Running::start(watch(installed, &agent, node.root()), output)?;
    running.wait_for("bound 0000:df:00.0")?;
    running.wait_for(&format!("held group 52 0000:3d:00.0 by pid {pid} (qemu-system-x86) of pod {POD}"))?;
    node.order(&format!("{{\"kill_vm\":{{\"pid\":{pid}}}}}"))?;
    running.wait_for("freed group 52 0000:3d:00.0")?;
    running.end(log, installed)
}

fn waits(installed: &Installed, log: &mut Log) -> Result {
    let program = compile(installed, log, "wait", Link::Shared)?;
    let mut node = Node::start_built(&installed.context)?;
    let pid = node.start_vm("0000:3d:00.0", Some(POD))?;
    let output = installed.work.join("wait.out");
    write(&output, "")?;
    let mut command = installed.context.command(program);
    command.args(["52", "60"]).arg(node.root());
    let mut running = Running::start(command, output)?;
    running.wait_for(&format!("group 52 is held, pid {pid} (qemu-system-x86) of user 0"))?;
    node.order(&format!("{{\"kill_vm\":{{\"pid\":{pid}}}}}"))?;
    running.wait_for("group 52 is free")?;
    let status = running.child.wait()?;
    ensure(status.success(), &format!("the exit status is {status}, not 0"))
}

/// Compiles and runs the program in the header's first comment.
fn header_example(installed: &Installed, log: &mut Log) -> Result {
    let header = read(&installed.prefix.join("include/vfio_probe.h"))?;
    let lines = header.lines().skip_while(|line| *line != " * EXAMPLE").skip(1);
    let lines = lines.take_while(|line| *line != " * CONVENTIONS");
    let code: Vec<&str> = lines.map(|line| line.strip_prefix(" *     ").unwrap_or_default()).collect();
    let (source, program) = (installed.work.join("header.c"), installed.work.join("header"));
    write(&source, code.join("\n"))?;
    let source = source.display().to_string();
    installed.compile(log, &["cc", "-std=c99"], Link::Shared, &source, &program)?;
    let mut node = Node::start_built(&installed.context)?;
    node.start_vm("0000:3d:00.0", Some(POD))?;
    let listed = log.output(installed.context.command(program).arg(node.root()))?;
    ensure(listed.lines().count() == 8, "there are eight GPUs")?;
    for line in ["0000:3d:00.0 held", "0000:1b:00.0 free"] {
        ensure(listed.lines().any(|printed| printed == line), &format!("no line is `{line}`"))?;
    }
    Ok(())
}

fn watch(installed: &Installed, agent: &Path, root: &Path) -> Command {
    let mut command = installed.context.command(agent);
    command.arg("--root").arg(root).args(["--interval", "50"]);
    command
}

fn names_a_missing_root(installed: &Installed, log: &mut Log) -> Result {
    let list = compile(installed, log, "list", Link::Shared)?;
    let output = installed.context.command(list).arg("/nowhere").output()?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure(!output.status.success(), "the exit status is 0")?;
    let expected = "list: root directory /nowhere: No such file";
    ensure(error.lines().any(|line| line.starts_with(expected)), &error)
}

fn refuses_an_unknown_option(installed: &Installed, log: &mut Log) -> Result {
    let agent = compile(installed, log, "agent", Link::Shared)?;
    let status = installed.context.command(agent).args(["--rot", "/"]).stderr(Stdio::null()).status()?;
    ensure(status.code() == Some(64), &format!("{status}, not 64"))
}
