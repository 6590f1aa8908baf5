//! The plugin with the kubelet's own device manager, in two versions of Kubernetes or in those that are asked for.

use std::process::Command;
use std::thread;

use crate::context::Context;
use crate::log::{Log, ensure};
use crate::packages::is_root;
use crate::suite::Suite;
use crate::suites::kubelet_build::{self, Version};
use crate::{Result, process};

/// Steps of a random run for each version.
const STEPS: u64 = 2000;
/// How often `upgrades` replaces the plugin in each way.
const TIMES: u64 = 5;

/// What to run, from the arguments `[--version VERSION]... [NUMBER [SEED]]`.
struct Plan {
    versions: Vec<Version>,
    numbers: Vec<u64>,
}

impl Plan {
    fn parse(arguments: &[String], usage: &str) -> Result<Self> {
        let (mut versions, mut numbers) = (Vec::new(), Vec::new());
        let mut rest = arguments.iter();
        while let Some(argument) = rest.next() {
            if argument == "--version" {
                versions.push(rest.next().ok_or_else(|| format!("usage: {usage}"))?.as_str());
            } else {
                let number = argument.parse();
                numbers.push(number.map_err(|_| format!("{argument} is not a number; usage: {usage}"))?);
            }
        }
        Ok(Self { versions: Version::named(&versions)?, numbers })
    }

    /// Builds what the tests need. Returns false if something is missing.
    fn prepare(&self, context: &mut Context, suite: &mut Suite) -> bool {
        // Find out before minutes are spent on building the kubelets.
        suite.check("mount namespaces", |log| can_mount(context, log))
            && suite.check("build", |_| {
                let directory = context.target.join("kubelet");
                kubelet_build::build(context, &directory, &self.versions)?;
                kubelet_build::build_orders(context, &directory)?;
                context.programs(&["vfio-chaos", "vfio-upgrades", "vfio-device-plugin"])
            })
    }
}

/// Runs the plugin against the device managers: written scenarios, upgrades, random steps, and a plugin that breaks a promise,
/// which the check must find. The arguments are versions of Kubernetes, the number of random steps for each, and a seed.
///
/// # Errors
///
/// Fails if an argument is no number or no version.
pub fn kubelets(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let plan = Plan::parse(arguments, "run [--version VERSION]... [STEPS [SEED]]")?;
    let number = |index: usize, default| plan.numbers.get(index).copied().unwrap_or(default);
    let (steps, seed) = (number(0, STEPS), number(1, 1));
    let mut suite = Suite::new();
    if !plan.prepare(context, &mut suite) {
        return Ok(suite.end());
    }
    // These two are conditions of the tests, not tests.
    let mut suite = Suite::new();
    let versions = &plan.versions;
    count(&mut suite, "scenarios", each(versions, |version| vec![play(context, version, &["--scenarios"])]));
    count(&mut suite, "orders of a hand-over", each(versions, |version| vec![orders(context, version)]));
    let short = ["--short", "--times", "1"];
    count(&mut suite, "upgrades", each(versions, |version| vec![replace(context, version, &short)]));
    let seed_text = seed.to_string();
    let violation = ["--busy", "unhealthy", "--expect-violation", "--steps", "200", "--seed", &seed_text];
    if let Some(version) = versions.first() {
        suite.check("the check finds what the policy unhealthy breaks", |log| {
            log.run(&mut play(context, version, &violation))
        });
    }
    // Half of the steps with an allocator that refuses, half with one that substitutes.
    let (half, rest) = ((steps / 2).to_string(), (steps - steps / 2).to_string());
    let next_seed = seed.saturating_add(1000).to_string();
    let random = |version: &Version| {
        vec![
            play(context, version, &["--steps", &half, "--seed", &seed_text]),
            play(
                context,
                version,
                &["--steps", &rest, "--seed", &next_seed, "--busy-allocate", "substitute"],
            ),
        ]
    };
    for Played { version, text, success } in each(versions, random) {
        suite.check_aloud(&format!("{steps} random steps, kubelet {version}"), |log| {
            log.say(text.trim_end());
            ensure(success, "a run failed")
        });
    }
    Ok(suite.end())
}

/// Replaces the plugin in every way with each kubelet, and kills either process at every step of the hand-over: the tables of
/// docs/upgrades.md. The arguments are versions of Kubernetes, and how often to replace the plugin in each way.
///
/// # Errors
///
/// Fails if an argument is no number or no version.
pub fn upgrades(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let plan = Plan::parse(arguments, "scripts/xtask upgrades [--version VERSION]... [TIMES]")?;
    let times = plan.numbers.first().unwrap_or(&TIMES).to_string();
    let mut suite = Suite::new();
    if !plan.prepare(context, &mut suite) {
        return Ok(suite.end());
    }
    let mut suite = Suite::new();
    // One kubelet after the other, because the gaps are measured.
    for version in &plan.versions {
        suite.count(&format!("upgrades, kubelet {version}"), replace(context, version, &["--times", &times]));
    }
    Ok(suite.end())
}

/// Returns the command that replaces the plugin with a kubelet.
fn replace(context: &Context, version: &Version, arguments: &[&str]) -> Command {
    with_plugin(context, "vfio-upgrades", version, arguments)
}

/// Returns the command that plays random steps or scenarios with a kubelet.
fn play(context: &Context, version: &Version, arguments: &[&str]) -> Command {
    with_plugin(context, "vfio-chaos", version, arguments)
}

fn with_plugin(context: &Context, program: &str, version: &Version, arguments: &[&str]) -> Command {
    let mut command = context.command(context.debug(program));
    command
        .arg("--plugin")
        .arg(context.debug("vfio-device-plugin"))
        .arg("--kubelet")
        .arg(version.program(&context.target.join("kubelet")))
        .args(arguments);
    command
}

/// Returns the command that plays the orders of a hand-over with a kubelet, in a mount namespace with a /var/lib/kubelet of its
/// own.
fn orders(context: &Context, version: &Version) -> Command {
    const NAMESPACE: &str = r#"mount -t tmpfs none /var/lib && mkdir /var/lib/kubelet && exec "$@""#;
    let directory = context.target.join("kubelet");
    let mut unshare = context.command("unshare");
    if !is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", NAMESPACE, "sh"]);
    unshare.arg(directory.join("orders")).arg(version.program(&directory));
    unshare
}

/// What the commands of a version have printed, and whether they succeeded.
struct Played {
    version: String,
    text: String,
    success: bool,
}

/// Runs each version's commands beside the others', one after the other until one fails.
fn each(versions: &[Version], commands: impl Fn(&Version) -> Vec<Command>) -> Vec<Played> {
    let running: Vec<_> = versions
        .iter()
        .map(|version| {
            let commands = commands(version);
            (version.to_string(), thread::spawn(move || play_all(commands)))
        })
        .collect();
    let crashed = |_| ("the thread of this run has panicked".to_owned(), false);
    let outcomes = running.into_iter().map(|(version, run)| (version, run.join().unwrap_or_else(crashed)));
    outcomes.map(|(version, (text, success))| Played { version, text, success }).collect()
}

/// Prints the outputs and counts the tests in them.
fn count(suite: &mut Suite, name: &str, played: Vec<Played>) {
    for Played { version, text, success } in played {
        suite.count_output(&format!("{name}, kubelet {version}"), |output| {
            process::print(&text);
            output.push_str(&text);
            Ok(success)
        });
    }
}

fn play_all(commands: Vec<Command>) -> (String, bool) {
    let mut text = String::new();
    for command in commands {
        let played = process::each_line(command, |line| text.push_str(line));
        match played {
            Ok(status) if status.success() => {}
            Ok(_) => return (text, false),
            Err(error) => return (format!("{text}{error}\n"), false),
        }
    }
    (text, true)
}

/// The kubelet runs with a /var/lib/kubelet of its own (tests/kubelet/process).
fn can_mount(context: &Context, log: &mut Log) -> Result {
    let mut unshare = context.command("unshare");
    if is_root() {
        return log.run(unshare.args(["--mount", "true"])).map_err(|_| {
            "root may not make mount namespaces; in a container, add CAP_SYS_ADMIN and lift seccomp and AppArmor".into()
        });
    }
    log.run(unshare.args(["--user", "--map-root-user", "--mount", "true"])).map_err(|_| {
        "unprivileged user namespaces are missing; run this as root, or allow them with the settings of these that exist: \
         sysctl user.max_user_namespaces=1000 kernel.unprivileged_userns_clone=1 \
         kernel.apparmor_restrict_unprivileged_userns=0"
            .into()
    })
}
