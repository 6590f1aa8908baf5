//! Tests the Go package: format, vet, tests with the race detector, tests with the static library, and the examples as static
//! programs.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::go_objects::{self, PACKAGE};
use crate::context::Context;
use crate::log::{Log, ensure};
use crate::node::{Node, number};
use crate::packages::{C, C_LIBRARY};
use crate::scratch::Scratch;
use crate::suite::Suite;
use crate::{Result, process};

/// The version of staticcheck.
const STATICCHECK: &str = "v0.8.2";
/// The example with a module of its own.
const AGENT: &str = "go/vfioprobe/examples/agent";
/// The program that packs a module.
const MODZIP: &str = "tests/modzip";
/// Flags of a build that needs no shared library.
pub(crate) const STATIC: [&str; 2] = ["-tags", "vfio_probe_static,netgo,osusergo"];
const STATIC_LIBRARY: [&str; 2] = ["-tags", "vfio_probe_static"];
const POD: &str = "0d9a1c7e-5b0a-4a57-9d3a-0123456789ab";

/// Runs the suite.
///
/// # Errors
///
/// Fails if a tool is missing or the simulated node does not start.
pub fn go(context: &mut Context, _: &[String]) -> Result<bool> {
    context.need(C)?;
    context.need(C_LIBRARY)?;
    context.need_go()?;
    context.set("CGO_ENABLED", "1");
    let work = Scratch::new()?;
    context.shared_c_library()?;
    let mut node = Node::start(context)?;
    let gofmt = context.gofmt()?;
    // Runs programs without CAP_SYS_ADMIN, with which the open of a held group would succeed.
    let bare = format!("{} exec", context.debug("vfio-sim-node").display());
    let tests = ["test", "-count=1", "-v", "-exec", bare.as_str()];
    let (list, agent) = (work.join("list"), work.join("agent"));
    let root = node.root().to_owned();

    let mut suite = Suite::new();
    suite.check("format", |log| {
        is_formatted(context, &gofmt, &context.top.join(PACKAGE), log)?;
        is_formatted(context, &gofmt, &context.top.join(MODZIP), log)
    });
    suite.check("modules", |log| each_module(context, log, &["mod", "tidy", "-diff"], &[]));
    suite.check("vet", |log| each_module(context, log, &["vet"], &["./..."]));
    suite.check("objects are of these sources", |log| go_objects::are_current(context, log));
    suite.check("objects have the header's functions only", |log| go_objects::has_header_only(context, log));
    suite.check("objects are reproducible", |log| go_objects::is_reproducible(context, log));
    suite.check("go get from a proxy directory", |log| from_a_proxy(context, &work, &root, log));
    suite.check("staticcheck", |log| {
        let staticcheck =
            context.go_tool("honnef.co/go/tools/cmd/staticcheck", STATICCHECK)?.join("staticcheck");
        log.run(context.command(staticcheck).arg("./...").current_dir(context.top.join(PACKAGE)))
    });
    suite.check("vet, static", |log| {
        each_module(context, log, &["vet", "-tags", "vfio_probe_static"], &["./..."])
    });
    suite.count("tests", command(context, PACKAGE, &[&tests[..], &["-race", "./..."]]));
    // The shared library, by pkg-config.
    suite.count(
        "tests, shared library",
        command(context, PACKAGE, &[&tests, &["-tags", "vfio_probe_system", "."]]),
    );
    suite.count(
        "fuzz of texts",
        command(
            context,
            PACKAGE,
            &[
                &["test", "-v", "-run", "^FuzzUnmarshalText$", "-fuzz", "^FuzzUnmarshalText$"],
                &["-fuzztime", "3s", "."],
            ],
        ),
    );
    // Without LD_LIBRARY_PATH, because the shared library must not be needed.
    let mut static_tests = command(context, PACKAGE, &[&tests, &STATIC_LIBRARY, &["./..."]]);
    static_tests.env_remove("LD_LIBRARY_PATH");
    suite.count("tests, static", static_tests);
    suite.count("agent", command(context, AGENT, &[&tests[..], &["-race", "."]]));

    let vm = node.start_vm("0000:1b:00.0", Some(POD))?;
    suite.check("program of docs/go.md", |log| documented_program(context, &gofmt, &work, &root, log));
    suite.check("list", |log| {
        lists(log, &mut command(context, PACKAGE, &[&["run", "./examples/list"]]), &root, vm)
    });
    suite.check("static programs", |log| build_static(context, log, PACKAGE, &list, "./examples/list"));
    suite.check("static agent", |log| build_static(context, log, AGENT, &agent, "."));
    suite
        .check("static programs need no libraries", |log| needs_no_libraries(context, log, &[&list, &agent]));
    suite.check("static list", |log| {
        lists(log, context.command(&list).env_remove("LD_LIBRARY_PATH"), &root, vm)
    });
    let mut static_agent = command(context, AGENT, &[&tests[..], &["."]]);
    static_agent.env("VFIO_PROBE_AGENT", &agent);
    suite.count("static agent", static_agent);
    let calls = work.join("calls");
    suite.check("a build without cgo names the cause", |log| without_cgo(context, log));
    suite
        .check("a build without the library names docs/go.md's package", |log| without_library(context, log));
    suite.check("program that measures calls", |log| {
        log.run(command(context, PACKAGE, &[&["build", "-o"]]).arg(&calls).arg("./internal/calls"))
    });
    suite.check("cost of calls", |log| {
        measures(log, context.bare(&calls).arg(&root).args(["52", "51", "0000:3d:00.0"]))
    });
    Ok(suite.end())
}

/// Returns Go in a directory of the repository.
fn command(context: &Context, directory: &str, arguments: &[&[&str]]) -> Command {
    let mut go = context.command("go");
    go.current_dir(context.top.join(directory)).args(arguments.concat());
    go
}

/// Fails with the files below a directory that gofmt would change.
pub(crate) fn is_formatted(context: &Context, gofmt: &Path, directory: &Path, log: &mut Log) -> Result {
    let unformatted = log.output(context.command(gofmt).arg("-l").arg(directory))?;
    ensure(unformatted.is_empty(), &format!("gofmt would change: {unformatted}"))
}

fn each_module(context: &Context, log: &mut Log, words: &[&str], packages: &[&str]) -> Result {
    for module in [PACKAGE, AGENT, MODZIP] {
        log.run(&mut command(context, module, &[words, packages]))?;
    }
    Ok(())
}

fn build_static(context: &Context, log: &mut Log, module: &str, program: &Path, package: &str) -> Result {
    let mut build = command(context, module, &[&["build"], &STATIC]);
    log.run(
        build.args(["-ldflags", "-linkmode external -extldflags -static", "-o"]).arg(program).arg(package),
    )
}

/// Fails if a program needs an interpreter or a shared library.
fn needs_no_libraries(context: &Context, log: &mut Log, programs: &[&PathBuf]) -> Result {
    for program in programs {
        let headers = log.output(context.command("readelf").arg("-dl").arg(program))?;
        let found = headers.lines().find(|line| line.contains("NEEDED") || line.contains("INTERP"));
        ensure(found.is_none(), &format!("{}: {}", program.display(), found.unwrap_or_default()))?;
    }
    Ok(())
}

/// Builds the example, expects a failure and returns what Go prints.
fn fails_to_build(log: &mut Log, build: &mut Command) -> Result<String> {
    let output = build.args(["build", "-o", "/dev/null", "./examples/list"]).output()?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    log.say(&text);
    ensure(!output.status.success(), "the build succeeds")?;
    Ok(text)
}

fn without_cgo(context: &Context, log: &mut Log) -> Result {
    let text = fails_to_build(log, command(context, PACKAGE, &[]).env("CGO_ENABLED", "0"))?;
    let errors: Vec<&str> = text.lines().filter(|line| line.contains(".go:")).collect();
    ensure(
        errors.len() == 1 && text.contains("needs_cgo__install_a_C_compiler__"),
        "this is not one error that names cgo",
    )
}

/// docs/go.md explains this error by a text in it.
fn without_library(context: &Context, log: &mut Log) -> Result {
    let mut build = command(context, PACKAGE, &[]);
    build.env("GOFLAGS", "-mod=readonly -tags=vfio_probe_system");
    // Go does not ask pkg-config for a package in its build cache. With these flags none is: no build with them succeeds.
    build.env("CGO_CFLAGS", "-DVFIO_PROBE_WITHOUT_LIBRARY");
    let text = fails_to_build(
        log,
        build.env("PKG_CONFIG_LIBDIR", "/no/such/directory").env_remove("PKG_CONFIG_PATH"),
    )?;
    let page = process::read(&context.top.join("docs/go.md"))?;
    for part in ["Package vfio-probe was not found in the pkg-config search path", "libvfio-probe-dev"] {
        ensure(page.contains(part), &format!("docs/go.md does not have {part:?}"))?;
    }
    ensure(
        text.contains("Package vfio-probe was not found in the pkg-config search path"),
        "pkg-config prints another error",
    )
}

/// Runs the first program of docs/go.md in a module of its own.
fn documented_program(context: &Context, gofmt: &Path, work: &Scratch, root: &Path, log: &mut Log) -> Result {
    let directory = work.join("documented");
    process::make_directory(&directory)?;
    let program = super::readme::code_block(&process::read(&context.top.join("docs/go.md"))?, "go")?;
    process::write(&directory.join("main.go"), program)?;
    let module = "github.com/vfio-probe/vfio-probe/go/vfioprobe";
    let here = context.top.join(PACKAGE);
    let text = format!(
        "module documented\n\ngo 1.24\n\nrequire {module} v0.0.0\n\nreplace {module} => {}\n",
        here.display()
    );
    process::write(&directory.join("go.mod"), text)?;
    is_formatted(context, gofmt, &directory, log)?;
    let output = log.output(context.command("go").current_dir(&directory).args(["run", "."]).arg(root))?;
    ensure(output.lines().count() == 8, "there are eight GPUs")?;
    ensure(
        output.lines().any(|line| line == "0000:1b:00.0 51 looks-held"),
        "no line says that the first GPU is held",
    )
}

/// Serves the module as a proxy would, from a directory, and builds the program of docs/go.md with `go get` alone, in an
/// environment without variables of ours.
fn from_a_proxy(context: &Context, work: &Scratch, root: &Path, log: &mut Log) -> Result {
    let version = format!("v{}", context.version()?);
    let module = format!("github.com/vfio-probe/vfio-probe/{PACKAGE}");
    let proxy = work.join("proxy");
    let versions = proxy.join(&module).join("@v");
    process::make_directory(&versions)?;
    process::write(&versions.join("list"), format!("{version}\n"))?;
    process::write(&versions.join(format!("{version}.info")), format!("{{\"Version\":\"{version}\"}}"))?;
    process::write(
        &versions.join(format!("{version}.mod")),
        process::read(&context.top.join(PACKAGE).join("go.mod"))?,
    )?;
    // The go command's own code packs the module, and refuses what a proxy would refuse.
    let mut zip = command(context, MODZIP, &[&["run", "."]]);
    zip.arg(context.top.join(PACKAGE)).args([&module, &version]).arg(versions.join(format!("{version}.zip")));
    let files = log.output(&mut zip)?;
    for name in ["go.mod", "vfio_probe.h", "internal/object/objects.txt"] {
        let file = format!("{module}@{version}/{name}");
        ensure(files.lines().any(|line| line == file), &format!("the module's zip has no {name}"))?;
    }
    ensure(!files.contains("/examples/agent/"), "the module's zip has another module in it")?;
    let (home, directory) = (work.join("home"), work.join("reader"));
    process::make_directory(&home)?;
    process::make_directory(&directory)?;
    let program = super::readme::code_block(&process::read(&context.top.join("docs/go.md"))?, "go")?;
    process::write(&directory.join("main.go"), program)?;
    let cache = process::output(context.command("go").args(["env", "GOCACHE"]))?;
    for arguments in
        [&["mod", "init", "example.test/agent"][..], &["get", &module], &["build", "-o", "agent", "."]]
    {
        let mut go = context.command("go");
        go.env_clear().env("PATH", context.get("PATH").unwrap_or_default()).env("HOME", &home);
        go.env("GOCACHE", &cache).env("GOFLAGS", "-modcacherw").env("GONOSUMDB", "*");
        go.env("GOPROXY", format!("file://{}", proxy.display()));
        log.run(go.current_dir(&directory).args(arguments))?;
    }
    let printed =
        log.output(context.command(directory.join("agent")).env_remove("LD_LIBRARY_PATH").arg(root))?;
    ensure(printed.lines().count() == 8, "the program does not print a line for each of eight GPUs")?;
    ensure(
        printed.lines().all(|line| line.ends_with(" looks-free"))
            && printed.lines().any(|line| line == "0000:1b:00.0 51 looks-free"),
        "the program does not print that all GPUs are free",
    )
}

/// Checks the output of the example: one line for each device, and the first device is held.
fn lists(log: &mut Log, program: &mut Command, root: &Path, vm: u32) -> Result {
    let output = log.output(program.arg(root))?;
    ensure(output.lines().count() == 8, "there are eight GPUs")?;
    ensure(
        output.lines().filter(|line| line.ends_with(" looks-free []")).count() == 7,
        "seven GPUs are free",
    )?;
    let held = format!("0000:1b:00.0 looks-held [pid {vm} (qemu-system-x86), pod {POD}]");
    ensure(output.contains(&held), &format!("no line says {held}"))
}

fn measures(log: &mut Log, program: &mut Command) -> Result {
    let output = log.output(program)?;
    ensure(
        output.lines().count() == 1 && output.contains("\"language\":\"go\""),
        "this is not one line of Go's figures",
    )?;
    for name in ["cgo_ns", "peek_ns", "probe_free_ns", "probe_held_ns"] {
        ensure(
            number(&output, name).is_some_and(|figure| figure >= 1.0),
            &format!("{name} is not a number above 1"),
        )?;
    }
    Ok(())
}
