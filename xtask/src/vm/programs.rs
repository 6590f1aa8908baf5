//! The programs that run in the guest.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{GuestFile, say};
use crate::context::Context;
use crate::packages::C_LIBRARY;
use crate::suites::{go::STATIC, kubelet_build};
use crate::{Result, process};

/// Builds the program that holds a group.
pub(super) fn holder(context: &Context, work: &Path) -> Result<PathBuf> {
    let program = work.join("holder");
    let mut cc = context.command("cc");
    cc.args(["-std=c11", "-O1", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-static", "-o"]).arg(&program);
    process::run(cc.arg("tests/vm/holder.c"))?;
    Ok(program)
}

/// Builds the tests and what they run.
pub(super) fn tests(context: &mut Context, work: &Path) -> Result<Vec<GuestFile>> {
    // The program of the image, and the tests as ./verify has built them, which need their libraries.
    let plugin = process::output(&mut context.command("deploy/build-static"))?;
    context.programs(&["vm-guest-tests"])?;
    let tests = context.debug("vm-guest-tests");
    let mut files = vec![GuestFile::program(plugin.into())];
    files.extend(libraries(context, &tests)?);
    files.push(GuestFile::program(tests));
    let kubelets = context.target.join("kubelet");
    let built = kubelet_build::Version::named(&["1.37"])
        .and_then(|versions| kubelet_build::build(context, &kubelets, &versions));
    match built {
        Ok(()) => files
            .push(GuestFile { source: kubelets.join("kubelet-1.37"), destination: "/bin/kubelet".into() }),
        // Few tests need it, and the others run without it.
        Err(error) => {
            say(&format!("cannot build the kubelet; the tests that need /bin/kubelet will fail: {error}"));
        }
    }
    // The same holds for the programs that link the library.
    if let Err(error) = other_languages(context, work) {
        say(&format!("cannot build the programs in C and Go; the tests that need them will fail: {error}"));
    }
    let built = ["c-agent", "c-dump", "go-agent", "go-dump"].map(|name| work.join(name));
    files.extend(built.into_iter().filter(|program| program.exists()).map(GuestFile::program));
    Ok(files)
}

/// Returns the shared libraries that a program needs.
fn libraries(context: &Context, program: &Path) -> Result<Vec<GuestFile>> {
    let listed = process::output(context.command("ldd").arg(program))?;
    let paths = listed.split_whitespace().filter(|word| word.starts_with('/'));
    Ok(paths.map(|path| GuestFile { source: path.into(), destination: path.into() }).collect())
}

/// Builds the static programs in C and Go.
fn other_languages(context: &mut Context, work: &Path) -> Result {
    context.need(C_LIBRARY)?;
    context.need_go()?;
    context.shared_c_library()?;
    let flags = context.c_flags("vfio-probe-static")?;
    for (name, source) in [("c-agent", "ffi/examples/agent.c"), ("c-dump", "tests/conformance/dump.c")] {
        let mut cc = context.command("cc");
        cc.args(["-std=c11", "-O1", "-static", "-o"]).arg(work.join(name)).arg(source).args(&flags);
        process::run(&mut cc)?;
    }
    // The flags are those of the Go package's suite, which has compiled most of this.
    let go = |directory: &str, name: &str, package: &str| {
        let mut go: Command = context.command("go");
        go.current_dir(context.top.join(directory)).env("CGO_ENABLED", "1").arg("build").args(STATIC);
        go.args(["-ldflags", "-s -linkmode external -extldflags -static", "-o"])
            .arg(work.join(name))
            .arg(package);
        process::run(&mut go)
    };
    go("go/vfioprobe/examples/agent", "go-agent", ".")?;
    go("go/vfioprobe", "go-dump", "./internal/dump")
}
