//! The installed library, and commands that compile and run programs with it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Failed, Trial};
use xtask::Result;
use xtask::context::Context;
use xtask::log::Log;
use xtask::packages::{C, C_TESTS, Need};
use xtask::scratch::Scratch;

/// The library, installed when the first test needs it.
#[derive(Default)]
pub(crate) struct Library(OnceLock<Result<Installed, String>>);

/// An installed library.
pub(crate) struct Installed {
    pub(crate) context: Context,
    pub(crate) work: Scratch,
    pub(crate) prefix: PathBuf,
    pub(crate) version: String,
}

/// How a program uses the library.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Link {
    Shared,
    Static,
}

impl Library {
    /// Returns the installed library, or why it is not there.
    pub(crate) fn installed(&self) -> Result<&Installed, String> {
        self.0
            .get_or_init(|| Installed::new().map_err(|error| error.to_string()))
            .as_ref()
            .map_err(Clone::clone)
    }
}

impl Installed {
    fn new() -> Result<Self> {
        let mut context = Context::new()?;
        context.need(C)?;
        context.need(C_TESTS)?;
        context.need(&[Need::Program("gcc", "gcc"), Need::Program("nm", "binutils")])?;
        context.need_sanitizers()?;
        let version = context.version()?;
        let work = Scratch::new()?;
        let prefix = work.join("prefix");
        context.c_library(&prefix)?;
        context.simulated_node()?;
        context.set("EXPECTED_VERSION", &version);
        context.set("TSAN_OPTIONS", "suppressions=ffi/tests/tsan.supp");
        Ok(Self { context, work, prefix, version })
    }

    /// Returns `make -C ffi` with a directory of the scratch directory as DESTDIR.
    pub(crate) fn make(&self, words: &[&str], destination: &str) -> Command {
        let mut make = self.context.command("make");
        make.args(["-s", "-C", "ffi"]).args(words);
        make.arg(xtask::artifacts::assignment("DESTDIR=", &self.work.join(destination)));
        make
    }

    /// Compiles a program with all warnings as errors.
    pub(crate) fn compile(
        &self,
        log: &mut Log,
        compiler: &[&str],
        link: Link,
        source: &str,
        program: &Path,
    ) -> Result {
        let (name, arguments) = compiler.split_first().ok_or("no compiler")?;
        let mut command = self.context.command(name);
        command.args(arguments).args([
            "-Wall",
            "-Wextra",
            "-Wpedantic",
            "-Wconversion",
            "-Wshadow",
            "-Werror",
        ]);
        command.args(["-D_GNU_SOURCE", "-g", "-o"]).arg(program).args([source, "-x", "none"]);
        let package = match link {
            Link::Shared => "vfio-probe",
            Link::Static => "vfio-probe-static",
        };
        log.run(command.args(self.context.c_flags(package)?).arg("-lpthread"))
    }
}

/// Returns a test that gets the installed library and a log. The log is printed if the test fails.
pub(crate) fn trial(
    library: &Arc<Library>,
    name: impl Into<String>,
    test: impl FnOnce(&Installed, &mut Log) -> Result + Send + 'static,
) -> Trial {
    let library = Arc::clone(library);
    Trial::test(name, move || {
        let mut log = Log::new().map_err(|error| Failed::from(error.to_string()))?;
        test(library.installed()?, &mut log).map_err(|error| Failed::from(format!("{}{error}", log.text())))
    })
}
