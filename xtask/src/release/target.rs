//! The targets of a release, and what each is called in packages and images.

use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::{Result, process};

/// A target of rustc that the project publishes for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The name of rustc.
    pub triple: &'static str,
    /// The name of Debian and of image registries.
    pub architecture: &'static str,
    /// The prefix of GNU's tools and Debian's directory of libraries.
    pub gnu: &'static str,
    /// Whether the C library is glibc. Debian packages need it.
    pub is_glibc: bool,
}

/// All targets. The first of an architecture is the one of its image and packages.
pub const TARGETS: &[Target] = &[
    Target {
        triple: "x86_64-unknown-linux-gnu",
        architecture: "amd64",
        gnu: "x86_64-linux-gnu",
        is_glibc: true,
    },
    Target {
        triple: "aarch64-unknown-linux-gnu",
        architecture: "arm64",
        gnu: "aarch64-linux-gnu",
        is_glibc: true,
    },
    Target {
        triple: "x86_64-unknown-linux-musl",
        architecture: "amd64",
        gnu: "x86_64-linux-gnu",
        is_glibc: false,
    },
    Target {
        triple: "aarch64-unknown-linux-musl",
        architecture: "arm64",
        gnu: "aarch64-linux-gnu",
        is_glibc: false,
    },
];

impl Target {
    /// Returns the target of this host with glibc.
    ///
    /// # Errors
    ///
    /// Fails on an architecture that is in no release.
    pub fn host() -> Result<Self> {
        named(&format!("{}-unknown-linux-gnu", std::env::consts::ARCH))
    }

    /// Returns whether programs of this target run on this host.
    #[must_use]
    pub fn is_native(&self) -> bool {
        self.triple.split('-').next() == Some(std::env::consts::ARCH)
    }

    /// Returns the name of one of GNU's tools for this target, such as strip.
    #[must_use]
    pub fn tool(&self, name: &str) -> String {
        if self.is_native() { name.to_owned() } else { format!("{}-{name}", self.gnu) }
    }

    /// Fails unless Rust's standard library for this target is installed. The error says how to add it; nothing is added here.
    ///
    /// # Errors
    ///
    /// Fails if it is missing or rustc does not run.
    pub fn need_std(&self, context: &Context) -> Result {
        if self.has_std(&sysroot(context)?) {
            return Ok(());
        }
        let triple = self.triple;
        Err(format!("Rust's standard library for {triple} is missing; add it (with rustup: rustup target add {triple})").into())
    }

    fn has_std(&self, sysroot: &Path) -> bool {
        sysroot.join("lib/rustlib").join(self.triple).join("lib").is_dir()
    }
}

/// Returns the target with this name.
///
/// # Errors
///
/// Fails with the known names.
pub fn named(triple: &str) -> Result<Target> {
    let known = || TARGETS.iter().map(|target| target.triple).collect::<Vec<_>>().join(", ");
    let target = TARGETS.iter().find(|target| target.triple == triple);
    Ok(*target.ok_or_else(|| format!("no release has the target {triple}; it has {}", known()))?)
}

/// Returns the targets that can be built here, and the others.
///
/// # Errors
///
/// Fails if rustc does not run.
pub fn installed(context: &Context) -> Result<(Vec<Target>, Vec<Target>)> {
    let sysroot = sysroot(context)?;
    Ok(TARGETS.iter().partition(|target| target.has_std(&sysroot)))
}

/// Returns the directory of the Rust in use.
///
/// # Errors
///
/// Fails if rustc does not run.
pub fn sysroot(context: &Context) -> Result<PathBuf> {
    Ok(process::output(context.command("rustc").args(["--print", "sysroot"]))?.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn missing_standard_library_names_the_command_that_adds_it() {
        let context = Context::new().unwrap();
        let unknown = Target { triple: "riscv64gc-unknown-linux-gnu", ..TARGETS[0] };
        let error = unknown.need_std(&context).unwrap_err().to_string();
        assert!(error.ends_with("rustup target add riscv64gc-unknown-linux-gnu)"), "{error}");
        Target::host().unwrap().need_std(&context).unwrap();
    }

    #[test]
    fn unknown_target_is_refused_with_the_known_ones() {
        let error = named("m68k-unknown-linux-gnu").unwrap_err().to_string();
        assert!(error.contains("x86_64-unknown-linux-gnu, aarch64-unknown-linux-gnu"), "{error}");
    }

    #[test]
    fn tools_of_other_architectures_have_a_prefix() {
        let other = TARGETS.iter().find(|target| !target.is_native()).unwrap();
        assert_eq!(Target::host().unwrap().tool("strip"), "strip");
        assert_eq!(other.tool("strip"), format!("{}-strip", other.gnu));
    }
}
