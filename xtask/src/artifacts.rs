//! What the suites test: programs of the workspace, the installed C library and the Python wheel.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::context::Context;
use crate::packages::{C_LIBRARY, PYTHON};
use crate::{Result, process};

/// `./verify` has built all programs in one go.
pub const BUILT: &str = "VFIO_PROBE_BUILT";
/// The program of the simulated node.
pub const SIM_NODE: &str = "VFIO_SIM_NODE";

impl Context {
    /// Builds the programs of these packages in the debug profile. `./verify` builds all of them in one go: a build of single
    /// packages selects other features of the dependencies and compiles them again.
    ///
    /// # Errors
    ///
    /// Fails if a package does not build.
    pub fn programs(&self, packages: &[&str]) -> Result {
        if self.get(BUILT).is_some_and(|built| !built.is_empty()) {
            return Ok(());
        }
        let mut build = self.cargo(&["build", "--quiet"]);
        process::run(build.args(packages.iter().map(|package| format!("--package={package}"))))
    }

    /// Returns the integration test with this name, built with all tests of the workspace. `cargo test --test NAME` selects other
    /// features of the dependencies and compiles them again.
    ///
    /// # Errors
    ///
    /// Fails if there is no such test or it does not build.
    pub fn test_program(&self, name: &str) -> Result<PathBuf> {
        let mut build = self.cargo(&["test", "--workspace", "--no-run", "--message-format", "json"]);
        let messages = process::output(&mut build)?;
        let target = format!("\"name\":\"{name}\"");
        let test =
            messages.lines().find(|line| line.contains("\"kind\":[\"test\"]") && line.contains(&target));
        let program = test.and_then(|line| Some(line.split_once("\"executable\":\"")?.1.split_once('"')?.0));
        Ok(program.ok_or_else(|| format!("the workspace has no test {name}, or it does not build"))?.into())
    }

    /// Builds the program of the simulated node.
    ///
    /// # Errors
    ///
    /// Fails if it does not build.
    pub fn simulated_node(&mut self) -> Result {
        self.programs(&["vfio-sim-node"])?;
        self.set(SIM_NODE, self.debug("vfio-sim-node"));
        Ok(())
    }

    /// Returns a command that runs a program without CAP_SYS_ADMIN, with which the open of a held group would succeed.
    #[must_use]
    pub fn bare(&self, program: impl AsRef<Path>) -> Command {
        let mut command = self.command(self.debug("vfio-sim-node"));
        command.arg("exec").arg(program.as_ref());
        command
    }

    /// Installs the C library below a prefix, for pkg-config and the loader.
    ///
    /// # Errors
    ///
    /// Fails if it does not build.
    pub fn c_library(&mut self, prefix: &Path) -> Result {
        self.need(C_LIBRARY)?;
        process::run(self.command("make").args(["-s", "-C", "ffi", "CARGOFLAGS=--quiet"]))
            .map_err(|error| format!("cannot build the C library: {error}"))?;
        let mut install = self.command("make");
        install.args(["-s", "-C", "ffi", "install"]).arg(assignment("PREFIX=", prefix));
        process::run(&mut install).map_err(|error| format!("cannot install the C library: {error}"))?;
        self.set("PKG_CONFIG_PATH", prefix.join("lib/pkgconfig"));
        self.set("LD_LIBRARY_PATH", prefix.join("lib"));
        // Go's build cache identifies a package by its files and flags, without C headers and the output of pkg-config.
        let mut hasher = DefaultHasher::new();
        (process::read(&prefix.join("include/vfio_probe.h"))?, prefix).hash(&mut hasher);
        self.set("CGO_CFLAGS", format!("-O2 -g -DVFIO_PROBE_{:x}", hasher.finish()));
        Ok(())
    }

    /// Installs the C library in the target directory, where the suites of other languages share it.
    ///
    /// # Errors
    ///
    /// Fails if it does not build.
    pub fn shared_c_library(&mut self) -> Result {
        self.c_library(&self.target.join("prefix"))
    }

    /// Returns the flags with which a C program uses the package of pkg-config.
    ///
    /// # Errors
    ///
    /// Fails if the library is not installed.
    pub fn c_flags(&self, package: &str) -> Result<Vec<String>> {
        let flags = process::output(self.command("pkg-config").args(["--cflags", "--libs", package]))?;
        Ok(flags.split_whitespace().map(str::to_owned).collect())
    }

    /// Builds the Python module's wheel in DIRECTORY/wheels and makes an empty virtual environment, DIRECTORY/venv. A function
    /// runs the commands: `process::run`, or one that writes a log.
    ///
    /// # Errors
    ///
    /// Fails if the wheel does not build.
    pub fn wheel(&self, directory: &Path, mut run: impl FnMut(&mut Command) -> Result) -> Result {
        self.need(PYTHON)?;
        run(self.command("python3").args(["-m", "venv"]).arg(directory.join("venv")))
            .map_err(|error| format!("cannot make a virtual environment: {error}"))?;
        let triple = format!("{}-unknown-linux-gnu", std::env::consts::ARCH);
        let mut build = self.wheel_build(&triple)?;
        run(build.arg("--out").arg(directory.join("wheels")))
            .map_err(|error| format!("cannot build the wheel: {error}").into())
    }

    /// Returns the command that builds the wheel of a release for a target, without the directory to build in. Zig links it for
    /// an old C library, so that it runs on every distribution that the tag in its name stands for.
    ///
    /// # Errors
    ///
    /// Fails if maturin cannot be installed.
    pub fn wheel_build(&self, triple: &str) -> Result<Command> {
        let programs = self.maturin()?;
        let mut build = self.command(programs.join("maturin"));
        // A target directory of its own, because this library and the C ABI's are both called libvfio_probe.so. The interpreter
        // is always the same: with another one, cargo compiles PyO3 again.
        build.current_dir(self.top.join("python")).env("CARGO_TARGET_DIR", self.target.join("python"));
        build.env("CARGO_ZIGBUILD_PYTHON_PATH", programs.join("python"));
        build.env("CARGO_ENCODED_RUSTFLAGS", remap(self));
        let tag = if triple.ends_with("-musl") { "musllinux_1_2" } else { "manylinux2014" };
        build.args(["build", "--quiet", "--locked", "--release", "--zig", "--compatibility", tag]);
        build.args(["--target", triple, "--interpreter"]).arg(self.find("python3").unwrap_or_default());
        Ok(build)
    }

    /// Installs the maturin that pyproject.toml names, with zig, and returns the directory of its programs.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be installed.
    pub fn maturin(&self) -> Result<PathBuf> {
        let project = process::read(&self.top.join("python/pyproject.toml"))?;
        let package = project.split('"').find(|word| word.starts_with("maturin[zig]=="));
        self.pip_tool(package.ok_or("python/pyproject.toml names no maturin with zig")?)
    }

    /// Returns a command that installs the wheel of DIRECTORY, and nothing else, in a virtual environment.
    #[must_use]
    pub fn install_wheel(&self, directory: &Path, venv: &Path) -> Command {
        let mut pip = self.command(venv.join("bin/pip"));
        pip.args(["install", "--quiet", "--no-index", "--no-deps"]);
        pip.args(process::entries(&directory.join("wheels")));
        pip
    }
}

/// Returns flags of rustc, as `CARGO_ENCODED_RUSTFLAGS` has them, that keep the directories of this host out of libraries.
#[must_use]
pub fn remap(context: &Context) -> OsString {
    let home = context.get("HOME").unwrap_or_default();
    let cargo = context.get("CARGO_HOME").filter(|value| !value.is_empty());
    let cargo = cargo.map_or_else(|| Path::new(&home).join(".cargo"), Into::into);
    let mut flags = OsString::new();
    // rustc uses the last prefix that fits.
    for (from, to) in
        [(&cargo, "/cargo"), (&context.top, "/vfio-probe"), (&context.target, "/vfio-probe/target")]
    {
        if !flags.is_empty() {
            flags.push("\u{1f}");
        }
        flags.push("--remap-path-prefix=");
        flags.push(from);
        flags.push("=");
        flags.push(to);
    }
    flags
}

/// Returns an argument of make such as PREFIX=/usr.
#[must_use]
pub fn assignment(name: &str, value: &Path) -> OsString {
    let mut argument = OsString::from(name);
    argument.push(value);
    argument
}
