//! The DRA driver with the kubelet's own DRA manager and a real API server: tests in two versions of Kubernetes, random steps with
//! the scheduler and the controllers, and figures beside a driver on the Go helper library.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::dra_mutants::{MUTANTS, Mutant};
use super::go::is_formatted;
use super::kubelet_build::{go_in, vet};
use crate::artifacts::SIM_NODE;
use crate::context::Context;
use crate::log::{Log, ensure};
use crate::scratch::Scratch;
use crate::suite::Suite;
use crate::{Result, process};

/// The Go module.
const HERE: &str = "tests/dra/kubelet";

/// The versions of the kubelet, with Go's flags for each. 1.34 is the oldest with the API. Its API server drops taints, and the tests
/// start the newest API server with the features of 1.34.
const VERSIONS: [(&str, &[&str]); 2] = [("1.37", &[]), ("1.34", &["-modfile=older.mod", "-tags=older"])];

/// Programs of the cluster test (tests/cluster), with the variables that name them to the tests.
const PARTS: [(&str, &str, &str); 4] = [
    ("etcd-", "etcd", "VFIO_TEST_ETCD"),
    ("kubernetes-", "kube-apiserver", "VFIO_TEST_APISERVER"),
    ("kubernetes-", "kube-scheduler", "VFIO_TEST_SCHEDULER"),
    ("kubernetes-", "kube-controller-manager", "VFIO_TEST_CONTROLLER_MANAGER"),
];

/// The variable that names the driver to the tests.
const DRIVER: &str = "VFIO_TEST_PLUGIN";

/// The random steps of `./verify`.
const STEPS: u64 = 2000;
/// The nodes that play them.
const NODES: u64 = 16;
/// The random steps in which a broken driver must be found, and in which the driver itself must not be.
const STEPS_OF_MUTANT: u64 = 600;

/// The line before the results, in the output of the tests (tests/dra/kubelet/logs_test.go).
const RESULT: &str = "== result";
/// The lines that are shown of an output without results.
const LAST: usize = 40;

/// Runs the tests with each version: the arguments are those of a Go test program, such as `-test.run NAME`.
///
/// # Errors
///
/// Fails if Go is missing or if nothing builds.
pub fn run(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let mut suite = Suite::new();
    let Some(programs) = prepare(context, &mut suite, &VERSIONS)? else { return Ok(suite.end()) };
    for ((version, _), program) in VERSIONS.iter().zip(programs) {
        let logs = Logs::new(context, &format!("kubelet-{version}"))?;
        let others = ["-test.skip=^(TestChaos|TestNumbers)$".to_owned()];
        let tests = test_program(context, &program, &logs, &[&others, arguments].concat());
        suite.count_output(&format!("the driver with the kubelet {version} and an API server"), |output| {
            let ended = process::each_line(tests, |line| {
                process::print(line);
                output.push_str(line);
            })?;
            logs.end(ended.success());
            Ok(ended.success())
        });
    }
    Ok(suite.end())
}

/// Plays random steps on nodes of a cluster: the arguments are the number of steps, a seed and the number of nodes.
///
/// # Errors
///
/// Fails if Go is missing, if nothing builds, or if an argument is no number.
pub fn chaos(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let number = |index: usize, default: u64| arguments.get(index).map_or(Ok(default), |text| text.parse());
    let (steps, seed, nodes) = (number(0, STEPS)?, number(1, 1)?, number(2, NODES)?);
    let mut suite = Suite::new();
    let Some(programs) = prepare(context, &mut suite, newest())? else { return Ok(suite.end()) };
    for program in programs {
        let further = [format!("-seed={seed}"), format!("-nodes={nodes}")];
        suite.check_aloud(&format!("{steps} random steps with the scheduler"), |log| {
            play(context, &program, steps, &further, log)
        });
    }
    Ok(suite.end())
}

/// Builds drivers that break one promise each, and checks that a test and the random steps find them. The arguments are names of
/// mutants; without any, all are built, and the driver itself plays the same steps.
///
/// # Errors
///
/// Fails if Go is missing, if nothing builds, or if there is no such mutant.
pub fn mutants(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let all: Vec<&str> = MUTANTS.iter().map(|mutant| mutant.name).collect();
    if let Some(unknown) = arguments.iter().find(|name| !all.contains(&name.as_str())) {
        return Err(format!("there is no mutant {unknown}; there are: {}", all.join(", ")).into());
    }
    let mut suite = Suite::new();
    let Some(programs) = prepare(context, &mut suite, newest())? else { return Ok(suite.end()) };
    for program in programs {
        if arguments.is_empty() {
            suite.check_aloud("the driver itself", |log| play(context, &program, STEPS_OF_MUTANT, &[], log));
        }
        let is_chosen =
            |mutant: &&Mutant| arguments.is_empty() || arguments.iter().any(|name| name == mutant.name);
        for mutant in MUTANTS.iter().filter(is_chosen) {
            let name = mutant.name;
            let is_built = suite.check(&format!("{name}: build"), |log| {
                let path = mutant.build(context, log)?;
                context.set(DRIVER, path);
                Ok(())
            });
            if !is_built {
                continue;
            }
            let test = mutant.test;
            suite.check(&format!("{name}: found by {test}"), |log| fails(context, &program, test, log));
            let expected = [format!("-expect-violation={}", mutant.violation)];
            suite.check_aloud(&format!("{name}: found by random steps"), |log| {
                play(context, &program, STEPS_OF_MUTANT, &expected, log)
            });
            let _ = std::fs::remove_file(context.debug(&mutant.program()));
        }
    }
    Ok(suite.end())
}

/// Measures the program of the image beside a minimal driver on the Go helper library: the arguments are the numbers of devices of the
/// nodes, separated by commas, and the idle time, such as 10m. `PROGRAM` names another program of this plugin.
///
/// # Errors
///
/// Fails if Go is missing or if nothing builds.
pub fn numbers(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let argument = |index: usize, default: &str| arguments.get(index).map_or(default, |text| text).to_owned();
    let (sizes, idle) = (argument(0, "8,256"), argument(1, "10m"));
    let mut suite = Suite::new();
    let program = match context.get("PROGRAM") {
        Some(path) => path,
        None => process::output(&mut context.command("deploy/build-static"))?.trim().into(),
    };
    context.set(DRIVER, program);
    let Some(programs) = prepare(context, &mut suite, newest())? else { return Ok(suite.end()) };
    let helper = context.target.join("dra/helper");
    suite.check("driver on the Go helper library", |log| {
        vet(context, HERE, &Scratch::new()?, &[], "./helper")?;
        let mut build = go_in(context, HERE, &["build", "-ldflags=-s -w", "-o"]);
        // As Go builds any driver: the flags of the kubelets are for a short build.
        log.run(build.env("GOFLAGS", "-mod=readonly -trimpath").arg(&helper).arg("./helper"))
    });
    context.set("VFIO_TEST_HELPER", helper);
    for program in programs {
        let logs = Logs::new(context, "numbers")?;
        let mut command = test_program(context, &program, &logs, &["-test.run=TestNumbers".to_owned()]);
        command.arg(format!("-sizes={sizes}")).arg(format!("-idle={idle}"));
        // A panic goes to standard error.
        command.stderr(std::fs::File::create(logs.0.join("errors"))?);
        let has_run = suite.check("figures beside the Go helper library", |_| {
            ensure(command.status()?.success(), "the run failed")
        });
        logs.end(has_run);
    }
    Ok(suite.end())
}

fn newest() -> &'static [(&'static str, &'static [&'static str])] {
    VERSIONS.get(..1).unwrap_or_default()
}

/// Builds the driver, unless [`DRIVER`] is set, and the tests. Returns the tests of each version. None if something does not build,
/// or if the parts of the cluster are missing.
fn prepare(
    context: &mut Context,
    suite: &mut Suite,
    versions: &[(&str, &[&str])],
) -> Result<Option<Vec<PathBuf>>> {
    context.need_go()?;
    context.simulated_node()?;
    let gofmt = context.gofmt()?;
    suite.check("format", |log| is_formatted(context, &gofmt, &context.top.join(HERE), log));
    let has_driver = context.get(DRIVER).is_some();
    let mut programs = Vec::new();
    let is_built = suite.check("build", |log| {
        if !has_driver {
            log.run(&mut context.cargo(&["build", "-p", "vfio-device-plugin"]))?;
        }
        for (version, flags) in versions {
            let program = context.target.join(format!("dra/kubelet-{version}.test"));
            log.run(go_in(context, HERE, &["test", "-c"]).args(*flags).arg("-o").arg(&program).arg("."))?;
            programs.push(program);
        }
        Ok(())
    });
    if !has_driver {
        context.set(DRIVER, context.debug("vfio-device-plugin"));
    }
    let node = context.get(SIM_NODE).ok_or("the simulated node is not built")?;
    context.set("VFIO_TEST_SIM_NODE", node);
    let has_parts = find_parts(context);
    Ok((is_built && has_parts).then_some(programs))
}

/// Names the parts of the cluster to the tests. Returns false and says so if they are missing.
fn find_parts(context: &mut Context) -> bool {
    let cache = context.cache.join("cluster");
    for (prefix, program, variable) in PARTS {
        match context.get(variable).map(PathBuf::from).or_else(|| part(context, &cache, prefix, program)) {
            Some(path) => context.set(variable, path),
            None => {
                process::print_line(format!(
                    "not run: no {program} in {}; tests/cluster/run builds it",
                    cache.display()
                ));
                return false;
            }
        }
    }
    true
}

/// Returns the newest build of a part of the cluster test. Of Kubernetes it is one of the version that the cluster test names: others
/// are built on demand.
fn part(context: &Context, cache: &Path, prefix: &str, program: &str) -> Option<PathBuf> {
    let is_part = |path: &PathBuf| process::file_name(path).starts_with(prefix);
    let mut built: Vec<PathBuf> =
        process::entries(cache).into_iter().filter(is_part).map(|path| path.join(program)).collect();
    let versions = process::read(&context.top.join("tests/cluster/versions")).unwrap_or_default();
    let version = versions.lines().find_map(|line| line.strip_prefix("kubernetes "));
    let is_version = |path: &Path| {
        let output = process::output(context.command(path).arg("--version"));
        output.is_ok_and(|output| {
            version.is_some_and(|version| output.trim() == format!("Kubernetes v{version}"))
        })
    };
    built.retain(|path| path.exists() && (program == "etcd" || is_version(path)));
    built.sort_by_key(|path| path.metadata().and_then(|data| data.modified()).ok());
    built.pop()
}

/// The directory of the logs of one run. It is removed if the run succeeds.
struct Logs(PathBuf);

impl Logs {
    fn new(context: &Context, name: &str) -> Result<Self> {
        let directory = context.target.join("dra/logs").join(name);
        let _ = std::fs::remove_dir_all(&directory);
        process::make_directory(&directory)?;
        Ok(Self(directory))
    }

    fn end(&self, succeeded: bool) {
        if succeeded {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }
}

fn test_program(context: &Context, program: &Path, logs: &Logs, arguments: &[String]) -> Command {
    let mut tests = context.command(program);
    tests.current_dir(context.top.join(HERE)).args(["-test.v", "-test.timeout=600m"]).args(arguments);
    tests.arg("-logs").arg(&logs.0);
    tests
}

/// Plays random steps, and shows their results alone. All output is in a file, which is kept if the run fails.
fn play(context: &Context, program: &Path, steps: u64, further: &[String], log: &mut Log) -> Result {
    let logs = Logs::new(context, "chaos")?;
    // The nodes play at the same time.
    let mut arguments =
        vec!["-test.run=TestChaos".into(), "-test.parallel=64".into(), format!("-steps={steps}")];
    arguments.extend_from_slice(further);
    let path = logs.0.join("output");
    let (text, succeeded) = output_in(&path, test_program(context, program, &logs, &arguments))?;
    for line in results(&text) {
        log.say(line);
    }
    logs.end(succeeded);
    ensure(succeeded, &format!("the run failed; its output: {}", path.display()))
}

/// Checks that a test fails.
fn fails(context: &Context, program: &Path, test: &str, log: &mut Log) -> Result {
    let logs = Logs::new(context, "mutant")?;
    let arguments = ["-test.run".to_owned(), format!("^TestDriver$/^{test}$")];
    let (text, _) = output_in(&logs.0.join("output"), test_program(context, program, &logs, &arguments))?;
    let has_failed = text.contains(&format!("--- FAIL: TestDriver/{test} "));
    for line in results(&text) {
        log.say(line);
    }
    logs.end(has_failed);
    ensure(has_failed, "the test did not fail")
}

/// Runs a command with all its output in a file. Returns the output and whether the command succeeded.
fn output_in(path: &Path, mut command: Command) -> Result<(String, bool)> {
    let file = std::fs::File::create(path)?;
    command.stdin(Stdio::null()).stdout(file.try_clone()?).stderr(file);
    let succeeded = command.status().map_err(process::cannot_start(&command))?.success();
    Ok((String::from_utf8_lossy(&std::fs::read(path)?).into_owned(), succeeded))
}

/// Returns the lines of the results in an output, or its last lines if it was cut off before them.
fn results(output: &str) -> Vec<&str> {
    let lines: Vec<&str> = output.lines().collect();
    let from = match lines.iter().rposition(|line| *line == RESULT) {
        Some(at) => at + 1,
        None => lines.len().saturating_sub(LAST),
    };
    lines.into_iter().skip(from).collect()
}

#[cfg(test)]
mod tests {
    use super::{LAST, results};

    #[test]
    fn results_are_the_end_of_an_output() {
        assert_eq!(results("--- FAIL: TestChaos\n== result\n5 steps\nviolation\n"), ["5 steps", "violation"]);
        assert_eq!(results("== result\n"), [""; 0]);
        let cut_off = "line\n".repeat(LAST + 1) + "panic\n";
        assert_eq!((results(&cut_off).len(), results(&cut_off).last()), (LAST, Some(&"panic")));
    }
}
