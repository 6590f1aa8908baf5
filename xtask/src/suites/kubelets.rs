//! The kubelet's own device manager, in two versions of Kubernetes: its programs, their lints, and the plugin with them.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;

use crate::context::Context;
use crate::log::{Log, ensure};
use crate::packages::is_root;
use crate::scratch::Scratch;
use crate::suite::Suite;
use crate::{Result, process};

/// The versions of Kubernetes, with Go's flags for each.
const VERSIONS: [(&str, &[&str]); 2] = [("1.37", &[]), ("1.34", &["-modfile=older.mod", "-tags", "older"])];
/// Steps of a random run for each version.
const STEPS: u64 = 2000;

/// Returns Go in tests/kubelet. All commands use the same flags, so that they share one build of Kubernetes: paths are trimmed,
/// and functions are not inlined, which saves a fifth of the compiler's time.
fn go(context: &Context, arguments: &[&str]) -> Command {
    go_in(context, "tests/kubelet", arguments)
}

/// Returns Go in a directory of the repository, with the flags of [`go`].
pub(super) fn go_in(context: &Context, directory: &str, arguments: &[&str]) -> Command {
    let mut go = context.command("go");
    go.current_dir(context.top.join(directory));
    go.env("CGO_ENABLED", "0").env("GOFLAGS", "-mod=readonly -trimpath -gcflags=all=-l");
    go.args(arguments);
    go
}

/// Runs Go in tests/kubelet with the flags of this suite.
///
/// # Errors
///
/// Fails if Go is missing.
pub fn kubelet_go(context: &mut Context, arguments: &[String]) -> Result<bool> {
    context.need_go()?;
    Ok(go(context, &[]).args(arguments).status()?.success())
}

/// Builds the kubelets: the arguments are a directory and the versions, all by default. A program that is newer than its sources
/// stays.
///
/// # Errors
///
/// Fails if a version is unknown or does not build.
pub fn kubelet_build(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let (directory, versions) = arguments.split_first().ok_or("usage: build DIRECTORY [VERSION...]")?;
    let versions: Vec<&str> = versions.iter().map(String::as_str).collect();
    build(context, &std::env::current_dir()?.join(directory), &versions)?;
    Ok(true)
}

/// Builds the kubelets of these versions, or of all, as DIRECTORY/kubelet-VERSION.
///
/// # Errors
///
/// Fails if a version is unknown or does not build.
pub fn build(context: &mut Context, directory: &Path, versions: &[&str]) -> Result {
    if let Some(unknown) = versions.iter().find(|version| VERSIONS.iter().all(|(known, _)| known != *version))
    {
        return Err(format!("{unknown} is neither 1.37 nor 1.34").into());
    }
    context.need_go()?;
    process::make_directory(directory)?;
    for (version, flags) in VERSIONS {
        let program = directory.join(format!("kubelet-{version}"));
        let is_wanted = versions.is_empty() || versions.contains(&version);
        // Linking 70 MB takes long: only if a source has changed.
        if is_wanted && !is_newer_than_sources(&program, &context.top.join("tests/kubelet")) {
            let mut build = go(context, &["build", "-ldflags=-s"]);
            process::run(build.args(flags).arg("-o").arg(&program).arg("."))?;
        }
    }
    Ok(())
}

/// Builds the program that plays the orders of a hand-over, as DIRECTORY/orders. It runs with the kubelet of each version.
fn build_orders(context: &Context, directory: &Path) -> Result {
    let program = directory.join("orders");
    process::run(go(context, &["build", "-ldflags=-s", "-o"]).arg(&program).arg("./orders"))
}

fn is_newer_than_sources(program: &Path, sources: &Path) -> bool {
    let modified = |path: &Path| path.metadata().and_then(|data| data.modified()).ok();
    let Some(built) = modified(program) else { return false };
    process::entries(sources).iter().filter(|path| path.is_file()).all(|path| modified(path) <= Some(built))
}

/// Checks the kubelets' Go code with gofmt and vet, for both versions of Kubernetes.
///
/// # Errors
///
/// Fails with what gofmt or vet reports.
pub fn kubelet_lint(context: &mut Context, _: &[String]) -> Result<bool> {
    context.need_go()?;
    let mut gofmt = context.command(context.gofmt()?);
    let unformatted = process::output(gofmt.arg("-l").arg(context.top.join("tests/kubelet")))?;
    ensure(unformatted.is_empty(), &format!("gofmt would change: {unformatted}"))?;
    let work = Scratch::new()?;
    for (_, flags) in VERSIONS {
        vet(context, "tests/kubelet", &work, flags, ".")?;
    }
    vet(context, "tests/kubelet", &work, &[], "./orders")?;
    Ok(true)
}

/// `go vet` would analyse all of Kubernetes first. This runs the same tool on this package only, with the compiled packages of
/// the build (the file's format: golang.org/x/tools/go/analysis/unitchecker.Config).
pub(super) fn vet(context: &Context, module: &str, work: &Scratch, flags: &[&str], package: &str) -> Result {
    // A line is an import path and a file; the last one is this package's, with its sources instead.
    const FORMAT: &str = "{{.ImportPath}}\t{{.Export}}\t{{.Dir}}\t{{join .GoFiles \"\t\"}}";
    let listed = process::output(
        go_in(context, module, &["list"]).args(flags).args(["-export", "-deps", "-f", FORMAT, package]),
    )?;
    let packages: Vec<Vec<&str>> = listed.lines().map(|line| line.split('\t').collect()).collect();
    let Some([path, _, directory, files @ ..]) = packages.last().map(Vec::as_slice) else {
        return Err("go list prints no package".into());
    };
    let files: Vec<String> = files.iter().map(|file| quoted(&format!("{directory}/{file}"))).collect();
    let (mut imports, mut exports) = (Vec::new(), Vec::new());
    for package in &packages {
        if let [path, export, ..] = package.as_slice() {
            imports.push(format!("{}:{}", quoted(path), quoted(path)));
            if !export.is_empty() {
                exports.push(format!("{}:{}", quoted(path), quoted(export)));
            }
        }
    }
    let config = format!(
        r#"{{"ID":{path},"Compiler":"gc","ImportPath":{path},"Dir":{directory},"GoFiles":[{files}],"ImportMap":{{{imports}}},"PackageFile":{{{exports}}},"VetxOutput":"/dev/null"}}"#,
        path = quoted(path),
        directory = quoted(directory),
        files = files.join(","),
        imports = imports.join(","),
        exports = exports.join(","),
    );
    let file = work.join("vet.cfg");
    process::write(&file, config)?;
    process::run(go_in(context, module, &["tool", "vet"]).arg(file))
}

/// Returns a text as a JSON string.
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

/// Runs the plugin against the device managers: written scenarios, random steps, and a plugin that breaks a promise, which the
/// check must find. The arguments are the number of random steps for each version, and a seed.
///
/// # Errors
///
/// Fails if an argument is no number.
pub fn kubelets(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let number = |index: usize, default: u64| match arguments.get(index) {
        Some(text) => text.parse().map_err(|_| format!("{text} is not a number; usage: run [STEPS [SEED]]")),
        None => Ok(default),
    };
    let (steps, seed) = (number(0, STEPS)?, number(1, 1)?);
    let mut suite = Suite::new();
    // Find out before minutes are spent on building the kubelets.
    let mut is_ready = suite.check("mount namespaces", |log| can_mount(context, log));
    is_ready = is_ready
        && suite.check("build", |_| {
            build(context, &context.target.join("kubelet"), &[])?;
            build_orders(context, &context.target.join("kubelet"))?;
            context.programs(&["vfio-chaos", "vfio-device-plugin"])
        });
    if !is_ready {
        return Ok(suite.end());
    }
    // These two are conditions of the tests, not tests.
    let mut suite = Suite::new();
    let scenarios = |version| vec![play(context, version, &["--scenarios"])];
    for (version, (text, success)) in both(scenarios) {
        suite.count_output(&format!("scenarios, kubelet {version}"), |output| {
            process::print(&text);
            output.push_str(&text);
            Ok(success)
        });
    }
    for (version, (text, success)) in both(|version| vec![orders(context, version)]) {
        suite.count_output(&format!("orders of a hand-over, kubelet {version}"), |output| {
            process::print(&text);
            output.push_str(&text);
            Ok(success)
        });
    }
    let seed_text = seed.to_string();
    let violation = ["--busy", "unhealthy", "--expect-violation", "--steps", "200", "--seed", &seed_text];
    suite.check("the check finds what the policy unhealthy breaks", |log| {
        log.run(&mut play(context, "1.37", &violation))
    });
    // Half of the steps with an allocator that refuses, half with one that substitutes.
    let (half, rest) = ((steps / 2).to_string(), (steps - steps / 2).to_string());
    let next_seed = seed.saturating_add(1000).to_string();
    let random = |version| {
        vec![
            play(context, version, &["--steps", &half, "--seed", &seed_text]),
            play(
                context,
                version,
                &["--steps", &rest, "--seed", &next_seed, "--busy-allocate", "substitute"],
            ),
        ]
    };
    for (version, (text, success)) in both(random) {
        suite.check_aloud(&format!("{steps} random steps, kubelet {version}"), |log| {
            log.say(text.trim_end());
            ensure(success, "a run failed")
        });
    }
    Ok(suite.end())
}

/// Returns the command that plays the orders of a hand-over with a kubelet, in a mount namespace with a /var/lib/kubelet of its
/// own.
fn orders(context: &Context, version: &str) -> Command {
    const NAMESPACE: &str = r#"mount -t tmpfs none /var/lib && mkdir /var/lib/kubelet && exec "$@""#;
    let directory = context.target.join("kubelet");
    let mut unshare = context.command("unshare");
    if !is_root() {
        unshare.args(["--user", "--map-root-user"]);
    }
    unshare.args(["--mount", "--propagation", "private", "sh", "-c", NAMESPACE, "sh"]);
    unshare.arg(directory.join("orders")).arg(directory.join(format!("kubelet-{version}")));
    unshare
}

fn play(context: &Context, version: &str, arguments: &[&str]) -> Command {
    let kubelet: PathBuf = context.target.join("kubelet").join(format!("kubelet-{version}"));
    let mut play = context.command(context.debug("vfio-chaos"));
    play.arg("--plugin")
        .arg(context.debug("vfio-device-plugin"))
        .arg("--kubelet")
        .arg(kubelet)
        .args(arguments);
    play
}

/// Runs each version's commands beside the other's, one after the other until one fails. Returns output and success of each.
fn both(commands: impl Fn(&'static str) -> Vec<Command>) -> Vec<(&'static str, (String, bool))> {
    let running: Vec<_> = VERSIONS
        .iter()
        .map(|(version, _)| {
            let commands = commands(version);
            (*version, thread::spawn(move || play_all(commands)))
        })
        .collect();
    let crashed = || ("the thread of this run has panicked".to_owned(), false);
    running.into_iter().map(|(version, run)| (version, run.join().unwrap_or_else(|_| crashed()))).collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_older_than_a_source_is_built_again() {
        let scratch = Scratch::new().unwrap();
        let (program, source) = (scratch.join("program"), scratch.join("main.go"));
        process::write(&source, "").unwrap();
        assert!(!is_newer_than_sources(&program, scratch.path()));
        process::write(&program, "").unwrap();
        let past = std::time::SystemTime::UNIX_EPOCH;
        std::fs::File::options().write(true).open(&source).unwrap().set_modified(past).unwrap();
        assert!(is_newer_than_sources(&program, scratch.path()));
        std::fs::File::options().write(true).open(&program).unwrap().set_modified(past).unwrap();
        std::fs::File::options()
            .write(true)
            .open(&source)
            .unwrap()
            .set_modified(std::time::SystemTime::now())
            .unwrap();
        assert!(!is_newer_than_sources(&program, scratch.path()));
    }
}
