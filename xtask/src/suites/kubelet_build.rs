//! Builds the kubelet's own device manager (tests/kubelet) for versions of Kubernetes, and checks its Go code.

use std::fmt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::context::Context;
use crate::log::ensure;
use crate::scratch::Scratch;
use crate::{Result, process};

/// The Go module.
const HERE: &str = "tests/kubelet";
/// The versions of Kubernetes that are always tested, with Go's flags for each. Their modules are pinned by hashes in
/// tests/kubelet.
const TESTED: [(&str, &[&str]); 2] =
    [("1.37", &[]), ("1.34", &["-modfile=older.mod", "-tags", "older,until_1_34"])];
/// The minor versions that build on demand.
const ON_DEMAND: std::ops::RangeInclusive<u32> = 26..=36;
/// The last minor versions before the Go API of the device manager changed: a build tag `until_1_MINOR` for each.
const CHANGES: [u32; 5] = [34, 33, 30, 28, 26];

/// A version of Kubernetes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Version {
    /// One that is always tested, by its minor version.
    Tested(&'static str, &'static [&'static str]),
    /// Any other one: `1.MINOR.PATCH`.
    OnDemand {
        /// The minor version.
        minor: u32,
        /// The patch version.
        patch: u32,
    },
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tested(name, _) => f.write_str(name),
            Self::OnDemand { minor, patch } => write!(f, "1.{minor}.{patch}"),
        }
    }
}

impl Version {
    /// Returns the versions with these names, or those that are always tested if there are no names.
    ///
    /// # Errors
    ///
    /// Fails if a name is no version that can be built.
    pub fn named(names: &[&str]) -> Result<Vec<Self>> {
        if names.is_empty() {
            return Ok(TESTED.iter().map(|(name, flags)| Self::Tested(name, flags)).collect());
        }
        names.iter().map(|name| Self::parse(name)).collect()
    }

    fn parse(name: &str) -> Result<Self> {
        if let Some((name, flags)) = TESTED.iter().find(|(tested, _)| *tested == name) {
            return Ok(Self::Tested(name, flags));
        }
        let mut numbers = name.split('.').map(str::parse::<u32>);
        match (numbers.next(), numbers.next(), numbers.next(), numbers.next()) {
            (Some(Ok(1)), Some(Ok(minor)), Some(Ok(patch)), None) if ON_DEMAND.contains(&minor) => {
                Ok(Self::OnDemand { minor, patch })
            }
            _ => Err(format!("{name} is none of 1.37, 1.34 and 1.26.PATCH to 1.36.PATCH").into()),
        }
    }

    /// Returns the path of this version's program.
    #[must_use]
    pub fn program(&self, directory: &Path) -> PathBuf {
        directory.join(format!("kubelet-{self}"))
    }

    /// Returns Go's flags. For a version on demand, the module file is written first.
    fn flags(&self, context: &Context) -> Result<Vec<String>> {
        match self {
            Self::Tested(_, flags) => Ok(flags.iter().map(|&flag| flag.to_owned()).collect()),
            Self::OnDemand { minor, .. } => {
                let tags = CHANGES.iter().filter(|last| minor <= *last);
                let tags: String = tags.map(|last| format!(",until_1_{last}")).collect();
                let file = self.write_module_file(context)?;
                Ok(vec![
                    "-mod=mod".into(),
                    format!("-modfile={}", file.display()),
                    "-tags".into(),
                    format!("older{tags}"),
                ])
            }
        }
    }

    /// Writes a module file with the modules of this version: Kubernetes' own module file replaces modules of its repository
    /// by directories, and these are published under the same version number with a major version of 0. Go adds all others when
    /// it builds, and checks their hashes with the checksum database.
    fn write_module_file(&self, context: &Context) -> Result<PathBuf> {
        let directory = context.target.join("kubelet");
        process::make_directory(&directory)?;
        let mut download = context.command("go");
        download.current_dir(&directory).args(["mod", "download", &format!("k8s.io/kubernetes@v{self}")]);
        process::run(&mut download)?;
        let cache = process::output(context.command("go").args(["env", "GOMODCACHE"]))?;
        let own = format!("cache/download/k8s.io/kubernetes/@v/v{self}.mod");
        let file = directory.join(format!("{self}.mod"));
        process::write(&file, self.module_file(&process::read(&Path::new(cache.trim()).join(own))?))?;
        Ok(file)
    }

    /// Returns the content of the module file, from Kubernetes' own.
    fn module_file(&self, own: &str) -> String {
        let published = self.to_string().replacen('1', "0", 1);
        let mut text = format!(
            "module vfio-probe/tests/kubelet\n\ngo 1.24.0\n\nrequire k8s.io/kubernetes v{self}\n\nreplace (\n"
        );
        for line in own.lines() {
            // `replace k8s.io/api => ./staging/src/k8s.io/api`, or the same within parentheses.
            let mut words = line.trim().trim_start_matches("replace ").split(" => ");
            if let (Some(module), Some(directory)) = (words.next(), words.next())
                && directory.starts_with("./staging/")
            {
                text.push_str(&format!("\t{module} => {module} v{published}\n"));
            }
        }
        text.push_str(")\n");
        text
    }
}

/// Returns Go in tests/kubelet. All commands use the same flags, so that they share one build of Kubernetes: paths are trimmed,
/// and functions are not inlined, which saves a fifth of the compiler's time.
fn go(context: &Context, arguments: &[&str]) -> Command {
    go_in(context, HERE, arguments)
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
    build(context, &std::env::current_dir()?.join(directory), &Version::named(&versions)?)?;
    Ok(true)
}

/// Builds the kubelets of these versions as DIRECTORY/kubelet-VERSION.
///
/// # Errors
///
/// Fails if Go is missing or a version does not build.
pub fn build(context: &mut Context, directory: &Path, versions: &[Version]) -> Result {
    context.need_go()?;
    process::make_directory(directory)?;
    for version in versions {
        let program = version.program(directory);
        // Linking 70 MB takes long: only if a source has changed.
        if !is_newer_than_sources(&program, &context.top.join("tests/kubelet")) {
            let linker = match version {
                Version::Tested(..) => "-ldflags=-s".to_owned(),
                Version::OnDemand { .. } => format!("-ldflags=-s -X main.version=v{version}"),
            };
            let mut build = go(context, &["build", &linker]);
            process::run(build.args(version.flags(context)?).arg("-o").arg(&program).arg("."))?;
        }
    }
    Ok(())
}

/// Builds the program that plays the orders of a hand-over, as DIRECTORY/orders. It runs with the kubelet of each version.
///
/// # Errors
///
/// Fails if it does not build.
pub(super) fn build_orders(context: &Context, directory: &Path) -> Result {
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
    for version in Version::named(&[])? {
        let flags = version.flags(context)?;
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        vet(context, HERE, &work, &flags, ".")?;
    }
    vet(context, HERE, &work, &[], "./orders")?;
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

    #[test]
    fn version_is_a_tested_one_or_has_a_patch_number() {
        let names = |names: &[&str]| -> Result<Vec<String>> {
            Ok(Version::named(names)?.iter().map(Version::to_string).collect())
        };
        assert_eq!(names(&[]).unwrap(), ["1.37", "1.34"]);
        assert_eq!(names(&["1.26.15", "1.37"]).unwrap(), ["1.26.15", "1.37"]);
        for unknown in ["1.26", "1.25.1", "1.37.2", "2.30.1", "1.30.1.1", "1.30.x", ""] {
            assert!(names(&[unknown]).is_err(), "{unknown}");
        }
    }

    #[test]
    fn module_file_has_the_published_modules_of_kubernetes() {
        let version = Version::parse("1.26.15").unwrap();
        let own = "module k8s.io/kubernetes\nreplace (\n\tk8s.io/api => ./staging/src/k8s.io/api\n\ta => b v1.0.0\n)\n\
                   replace k8s.io/kms => ./staging/src/k8s.io/kms\n";
        let text = version.module_file(own);
        let (_, replaced) = text.split_once("require k8s.io/kubernetes v1.26.15\n\n").unwrap();
        assert_eq!(
            replaced,
            "replace (\n\tk8s.io/api => k8s.io/api v0.26.15\n\tk8s.io/kms => k8s.io/kms v0.26.15\n)\n"
        );
    }
}
