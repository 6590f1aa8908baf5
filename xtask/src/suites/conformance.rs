//! Compares the results of all languages on the same trees, and the cost of their calls.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::node::{Node, field, number};
use crate::packages::C;
use crate::scratch::Scratch;
use crate::{Result, process};

/// The figures of one language: the field, and the call.
const FIGURES: [(&str, &str); 9] = [
    ("enable_ns", "read of `enable`, by the language alone"),
    ("watch_ns", "state of a group in a watch"),
    ("peek_ns", "peek of a group"),
    ("probe_free_ns", "probe of a free group"),
    ("probe_held_ns", "probe of a held group"),
    ("nodes_ns", "device nodes of a group"),
    ("hardware_ns", "hardware of a device"),
    ("scan_ns", "scan of eight devices"),
    ("snapshot_ns", "snapshot of eight devices"),
];

/// Builds the C library, the Go package, the Python wheel and the plugin, and runs the program `conformance`.
///
/// # Errors
///
/// Fails if something does not build.
pub fn conformance(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let work = prepare(context)?;
    context.programs(&["conformance", "vfio-device-plugin"])?;
    let c = compile_c(context, work.path(), "tests/conformance/dump.c", "-O1")?;
    let go = build_go(context, work.path(), "./internal/dump")?;
    let python = install_python(context, work.path())?;
    let mut compare = context.command(context.debug("conformance"));
    compare.arg("--plugin").arg(context.debug("vfio-device-plugin")).args(arguments);
    for language in [
        format!("c={}", c.display()),
        format!("go={}", go.display()),
        format!("python={} {}", python.display(), context.top.join("tests/conformance/dump.py").display()),
    ] {
        compare.arg("--language").arg(language);
    }
    Ok(compare.status().map_err(|error| format!("cannot run conformance: {error}"))?.success())
}

/// Measures calls in all languages on one simulated node. Prints nanoseconds per call and the ratio to the Rust core. The
/// languages take turns, three times; each figure is the minimum.
///
/// # Errors
///
/// Fails if something does not build or a program prints no figures.
pub fn cost(context: &mut Context, _: &[String]) -> Result<bool> {
    let work = prepare(context)?;
    process::run(&mut context.cargo(&["build", "--quiet", "--release", "-p", "conformance-calls"]))?;
    let mut node = Node::start(context)?;
    let programs = [
        vec![context.target.join("release/calls")],
        vec![compile_c(context, work.path(), "tests/conformance/calls.c", "-O2")?],
        vec![build_go(context, work.path(), "./internal/calls")?],
        vec![install_python(context, work.path())?, context.top.join("python/benches/calls.py")],
    ];
    node.start_vm("0000:1b:00.0", None)?;
    let mut least: BTreeMap<String, BTreeMap<&str, f64>> = BTreeMap::new();
    let mut order = Vec::new();
    for _ in 0..3 {
        for program in &programs {
            let (program, arguments) = program.split_first().ok_or("no program")?;
            // Without CAP_SYS_ADMIN, with which the open of a held group would succeed.
            let mut measure = context.bare(program);
            let output =
                process::output(measure.args(arguments).arg(node.root()).args(["52", "51", "0000:3d:00.0"]))?;
            let language = field(&output, "language").ok_or_else(|| format!("not figures: {output}"))?;
            if !order.iter().any(|known| known == language) {
                order.push(language.to_owned());
            }
            let kept = least.entry(language.to_owned()).or_default();
            for name in FIGURES.iter().map(|(name, _)| *name).chain(["cgo_ns"]) {
                if let Some(figure) = number(&output, name) {
                    kept.entry(name).and_modify(|least| *least = least.min(figure)).or_insert(figure);
                }
            }
        }
    }
    print_figures(&order, &least)?;
    Ok(true)
}

fn prepare(context: &mut Context) -> Result<Scratch> {
    context.need(C)?;
    context.need_go()?;
    context.set("CGO_ENABLED", "1");
    context.shared_c_library()?;
    Scratch::new()
}

fn compile_c(context: &Context, work: &Path, source: &str, optimization: &str) -> Result<PathBuf> {
    let program = work.join("c");
    let mut cc = context.command("cc");
    cc.args(["-std=c11", optimization, "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-o"])
        .arg(&program)
        .arg(source);
    process::run(cc.args(context.c_flags("vfio-probe")?))?;
    Ok(program)
}

fn build_go(context: &Context, work: &Path, package: &str) -> Result<PathBuf> {
    let program = work.join("go");
    let mut build = context.command("go");
    build.current_dir(context.top.join("go/vfioprobe")).args(["build", "-o"]).arg(&program).arg(package);
    process::run(&mut build)?;
    Ok(program)
}

/// Returns an interpreter that has the wheel.
fn install_python(context: &Context, work: &Path) -> Result<PathBuf> {
    context.wheel(work, process::run)?;
    process::run(&mut context.install_wheel(work, &work.join("venv")))?;
    Ok(work.join("venv/bin/python"))
}

fn print_figures(order: &[String], least: &BTreeMap<String, BTreeMap<&str, f64>>) -> Result {
    let figure = |language: &str, name: &str| -> Result<f64> {
        let figure = least.get(language).and_then(|figures| figures.get(name));
        Ok(*figure.ok_or_else(|| format!("{language} has no figure {name}"))?)
    };
    let titles: String = order.iter().map(|language| format!("{language:>20}")).collect();
    process::print_line(format!("{:40}{titles}", ""));
    for (name, call) in FIGURES {
        let mut line = format!("{call:40}");
        for language in order {
            let (nanoseconds, rust) = (figure(language, name)?, figure("rust", name)?);
            line += &format!("{:>20}", format!("{nanoseconds:.0} ns ({:.2})", nanoseconds / rust));
        }
        process::print_line(line);
    }
    process::print_line(format!("a cgo call without work: {:.0} ns", figure("go", "cgo_ns")?));
    Ok(())
}
