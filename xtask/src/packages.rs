//! Finds the programs and files that a task needs. As root on Debian and its derivatives, installs missing ones with apt;
//! otherwise names them.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::atomic::Ordering;

use crate::context::Context;
use crate::{Result, process};

/// Something that a task needs, and Debian's package of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// A program on PATH, and its package.
    Program(&'static str, &'static str),
    /// A file, and its package.
    File(&'static str, &'static str),
    /// A C library to link with. Debian's gcc does not bring one.
    Linker,
    /// Python can make virtual environments.
    Venv,
}

use Need::{File, Linker, Program, Venv};

/// A C compiler that can link a program.
pub const C: &[Need] = &[Program("cc", "gcc"), Linker];
/// The names of PCI devices.
pub const PCI_IDS: Need = File("/usr/share/misc/pci.ids", "pci.ids");
/// Python with virtual environments.
pub const PYTHON: &[Need] = &[Program("python3", "python3"), Venv];
/// What builds and installs the C library.
pub const C_LIBRARY: &[Need] =
    &[Program("make", "make"), Program("pkg-config", "pkg-config"), Program("readelf", "binutils")];
/// The compilers and checkers of the C tests. Clang's sanitizers are looked up separately.
pub const C_TESTS: &[Need] =
    &[Program("g++", "g++"), Program("clang", "clang"), Program("valgrind", "valgrind")];
/// The virtual machine.
pub const VM: &[Need] = &[
    Program("qemu-system-x86_64", "qemu-system-x86"),
    Program("modprobe", "kmod"),
    Program("cpio", "cpio"),
    Program("xz", "xz-utils"),
];

impl Context {
    /// Returns the packages of missing programs and files, each once.
    #[must_use]
    pub fn missing(&self, needs: &[Need]) -> Vec<String> {
        let mut packages: Vec<String> = Vec::new();
        for need in needs {
            let (there, package) = match *need {
                Program(program, package) => (self.find(program).is_some(), package),
                File(file, package) => (Path::new(file).exists(), package),
                Linker => (self.can_link(), "libc6-dev"),
                Venv => {
                    let mut python = self.command("python3");
                    (process::succeeds(python.args(["-c", "import venv, ensurepip"])), "python3-venv")
                }
            };
            if !there && !packages.iter().any(|known| known == package) {
                packages.push(package.into());
            }
        }
        packages
    }

    /// Installs what is missing.
    ///
    /// # Errors
    ///
    /// Fails if something is missing and cannot be installed.
    pub fn need(&self, needs: &[Need]) -> Result {
        self.install(&self.missing(needs))
    }

    /// Installs packages with apt.
    ///
    /// # Errors
    ///
    /// Fails if this is not root on Debian, and if apt fails.
    pub fn install(&self, packages: &[String]) -> Result {
        if packages.is_empty() {
            return Ok(());
        }
        let names = packages.join(" ");
        if !is_root() || self.find("apt-get").is_none() {
            return Err(format!(
                "missing: {names}; install it (on Debian: apt-get install {names}) and run this again"
            )
            .into());
        }
        self.update_apt();
        let mut apt = self.command("apt-get");
        apt.env("DEBIAN_FRONTEND", "noninteractive");
        apt.args(["install", "-y", "-qq", "--no-install-recommends"]).args(packages);
        process::run(&mut apt).map_err(|_| format!("apt-get could not install: {names}").into())
    }

    /// Updates apt's package lists, as root and once in a run. The old lists may do if this fails.
    pub fn update_apt(&self) {
        if is_root()
            && !self.apt_is_fresh.swap(true, Ordering::Relaxed)
            && process::run(self.command("apt-get").args(["update", "-qq"])).is_err()
        {
            eprintln!("apt-get update failed");
        }
    }

    /// Returns the newest package whose name matches a regular expression. Signed and unsigned kernels are the same.
    #[must_use]
    pub fn newest_package(&self, pattern: &str) -> Option<String> {
        let mut search = self.command("apt-cache");
        let output = search.args(["search", "--names-only", pattern]).stderr(Stdio::null()).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = text.lines().filter_map(|line| line.split_whitespace().next());
        names.max_by_key(|name| version_key(name)).map(str::to_owned)
    }

    /// Downloads and unpacks a Debian package into a directory, unless that exists; it does not install it.
    ///
    /// # Errors
    ///
    /// Fails if the package cannot be downloaded or unpacked.
    pub fn unpack_package(&self, package: &str, directory: &Path) -> Result {
        if directory.is_dir() {
            return Ok(());
        }
        eprintln!("downloading {package}");
        let new =
            directory.with_file_name(format!(".{}.{}", process::file_name(directory), std::process::id()));
        process::make_directory(&new)?;
        let unpacked = self.download(package, &new).and_then(|()| Ok(std::fs::rename(&new, directory)?));
        if unpacked.is_err() {
            let _ = std::fs::remove_dir_all(&new);
        }
        unpacked.map_err(|error| format!("cannot download {package} with apt-get: {error}").into())
    }

    fn download(&self, package: &str, directory: &Path) -> Result {
        // apt warns that its sandbox user cannot write here.
        process::run(self.command("apt-get").args(["download", "-q", package]).current_dir(directory))?;
        for file in process::entries(directory) {
            process::run(self.command("dpkg").arg("-x").arg(&file).arg(directory))?;
            std::fs::remove_file(file)?;
        }
        Ok(())
    }

    fn can_link(&self) -> bool {
        let program =
            "printf '#include <stdio.h>\\nint main(void) { return 0; }\\n' | cc -x c -o /dev/null -";
        process::succeeds(self.command("sh").args(["-c", program]))
    }
}

/// Returns whether this process runs as root.
#[must_use]
pub fn is_root() -> bool {
    // proc(5): the directory has the effective user id of the process. This needs no unsafe code and no dependency.
    std::fs::metadata("/proc/self").is_ok_and(|data| std::os::unix::fs::MetadataExt::uid(&data) == 0)
}

/// Splits a name into texts and numbers, so that 6.12.9 is before 6.12.10.
pub(crate) fn version_key(name: &str) -> Vec<(String, u64)> {
    let mut parts = vec![(String::new(), 0_u64)];
    let mut in_number = false;
    for letter in name.chars() {
        match (letter.to_digit(10), parts.last_mut()) {
            (Some(digit), Some((_, number))) => {
                *number = number.saturating_mul(10).saturating_add(digit.into());
                in_number = true;
            }
            (None, Some((text, _))) if !in_number => text.push(letter),
            _ => {
                parts.push((letter.into(), 0));
                in_number = false;
            }
        }
    }
    parts
}

/// Returns a command's program and arguments from words.
pub(crate) fn words(context: &Context, words: &[&str]) -> Result<Command> {
    let (program, arguments) = words.split_first().ok_or("an empty command")?;
    let mut command = context.command(program);
    command.args(arguments);
    Ok(command)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_ordered_by_numbers() {
        let names = [
            "linux-image-6.12.9+deb12-amd64",
            "linux-image-6.12.73+deb12-amd64",
            "linux-image-6.12.63+deb12-amd64",
        ];
        assert_eq!(names.into_iter().max_by_key(|name| version_key(name)), Some(names[1]));
    }

    #[test]
    fn missing_packages_are_listed_once() {
        let context = Context::new().unwrap();
        let needs =
            [Program("no-such-program", "a"), File("/no/such/file", "a"), Program("sh", "b"), File("/", "c")];
        assert_eq!(context.missing(&needs), ["a"]);
    }
}
