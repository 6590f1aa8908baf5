//! Tests the Python module: lints, types, stubs, the wheel, pytest on the simulated node, the examples.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::context::Context;
use crate::log::{Log, ensure, same};
use crate::packages::{C, Need, PYTHON};
use crate::scratch::Scratch;
use crate::suite::Suite;
use crate::{Result, process};

/// Prints the version of a CPython that can use the wheel and make virtual environments.
const VERSION: &str = "import sys, venv, ensurepip
if sys.implementation.name == 'cpython' and sys.version_info >= (3, 10): print('%d.%d' % sys.version_info[:2])";

/// Runs the suite. The arguments are pytest's.
///
/// # Errors
///
/// Fails if a tool is missing.
pub fn python(context: &mut Context, arguments: &[String]) -> Result<bool> {
    context.need(C)?;
    context.need(PYTHON)?;
    context.need(&[Need::Program("nm", "binutils")])?;
    let work = Scratch::new()?;
    context.set("PYTHONDONTWRITEBYTECODE", "1");
    context.set("RUFF_CACHE_DIR", work.join("ruff"));
    context.set("MYPY_CACHE_DIR", work.join("mypy"));
    context.simulated_node()?;
    let module =
        Module { context, work: work.path(), here: context.top.join("python"), bin: work.join("venv/bin") };
    let mut suite = Suite::new();
    suite.check("lints of the Rust half", |log| module.lints(log));
    suite.check("wheel", |log| context.wheel(work.path(), |command| log.run(command)));
    suite.check("tools", |log| module.install_tools(log));
    suite.check("installed", |log| log.run(&mut context.install_wheel(work.path(), &work.join("venv"))));
    if suite.has_failed() {
        eprintln!("the other checks need the wheel and the tools");
        return Ok(suite.end());
    }
    suite.check("one wheel for all CPythons", |log| module.is_one_abi3_wheel(log));
    suite.check("auditwheel: the wheel needs glibc 2.17 at most", |log| module.fits_its_tag(log));
    suite.check("twine check", |log| {
        log.run(context.command(module.bin.join("twine")).args(["check", "--strict"]).args(module.wheels()))
    });
    suite.check("abi3audit", |log| {
        log.run(context.command(module.bin.join("abi3audit")).arg("--strict").args(module.wheels()))
    });
    suite.check("the wheel has licenses, URLs and command", |log| module.has_metadata(log));
    suite.check("the wheel exports its entry point only", |log| module.exports_its_entry_point_only(log));
    for (version, python) in module.other_pythons()? {
        suite.check(&format!("the wheel on CPython {version}"), |log| module.works_on(&python, log));
    }
    suite.check("ruff", |log| module.ruff(log, &["check", "--quiet"]));
    suite.check("ruff format", |log| module.ruff(log, &["format", "--quiet", "--check"]));
    suite.check("types of the package", |log| module.types(log, &[module.here.join("vfio_probe")]));
    let mut programs: Vec<PathBuf> = ["tests", "examples", "benches"]
        .iter()
        .flat_map(|name| process::entries(&module.here.join(name)))
        .collect();
    programs.retain(|path| path.extension().is_some_and(|extension| extension == "py"));
    programs.push(module.conformance());
    suite.check("types of tests, examples and programs", |log| module.types(log, &programs));
    suite.check("stubs", |log| module.stubs(log));
    let mut tests = context.command("timeout");
    tests.arg("900").arg(context.debug("vfio-sim-node")).arg("exec").arg(module.bin.join("python"));
    tests
        .args(["-m", "pytest", "-p", "no:cacheprovider", "-c"])
        .arg(module.config())
        .arg(module.here.join("tests"));
    tests.args(arguments).current_dir(work.path());
    suite.count("tests", tests);
    Ok(suite.end())
}

/// The module under test.
struct Module<'a> {
    context: &'a Context,
    work: &'a Path,
    /// The sources.
    here: PathBuf,
    /// The programs of the virtual environment.
    bin: PathBuf,
}

impl Module<'_> {
    fn config(&self) -> PathBuf {
        self.here.join("pyproject.toml")
    }

    /// The Python program of the conformance test is checked too.
    fn conformance(&self) -> PathBuf {
        self.context.top.join("tests/conformance/dump.py")
    }

    /// Clippy for the Rust half of the module alone. `./verify` runs it for all features together.
    fn lints(&self, log: &mut Log) -> Result {
        let words =
            ["clippy", "--quiet", "-p", "vfio-probe-ffi", "--no-default-features", "--features", "python"];
        log.run(self.context.cargo(&words).args(["--", "-D", "warnings"]))
    }

    /// Installs the packages of the dependency group `test` in pyproject.toml.
    fn install_tools(&self, log: &mut Log) -> Result {
        let project = process::read(&self.config())?;
        let group = project.lines().find_map(|line| line.strip_prefix("test = [")?.strip_suffix(']'));
        let packages = group.ok_or("pyproject.toml has no dependency group test on one line")?;
        let names = packages.split('"').skip(1).step_by(2);
        log.run(self.context.command(self.bin.join("pip")).args(["install", "--quiet"]).args(names))
    }

    fn wheels(&self) -> Vec<PathBuf> {
        process::entries(&self.work.join("wheels"))
    }

    /// The name of the wheel promises a C library. auditwheel looks up which one its symbols need.
    fn fits_its_tag(&self, log: &mut Log) -> Result {
        // Without variables of the environment: it colours and shortens lines by the terminal.
        let mut auditwheel = self.context.command(self.bin.join("auditwheel"));
        let text = log.output(auditwheel.arg("show").args(self.wheels()))?;
        let tag = format!("\"manylinux_2_17_{}\"", std::env::consts::ARCH);
        ensure(text.contains(&tag), &format!("the wheel does not fit {tag}"))
    }

    fn has_metadata(&self, log: &mut Log) -> Result {
        let program = "from importlib.metadata import metadata, entry_points, files; m = metadata('vfio-probe');
print(m['License-Expression'], m['Author'], sorted(u.split(',')[0] for u in m.get_all('Project-URL')))
print([f.name for f in files('vfio-probe') if 'licenses' in f.parts], [e.name for e in entry_points(group='console_scripts')])
print(len(m.get_payload()) > 500, m['Keywords'])";
        let text = log.output(self.context.command(self.bin.join("python")).args(["-c", program]))?;
        for part in [
            "Apache-2.0 The vfio-probe authors ['Changelog', 'Documentation', 'Source']",
            "['LICENSE', 'THIRD-PARTY']",
            "'vfio-probe'",
            "True gpu",
        ] {
            ensure(text.contains(part), &format!("the metadata has no {part}"))?;
        }
        log.run(self.context.command(self.bin.join("vfio-probe")).arg("--version"))
    }

    fn is_one_abi3_wheel(&self, log: &mut Log) -> Result {
        let wheels: Vec<String> = self.wheels().iter().map(|path| process::file_name(path)).collect();
        log.say(&wheels.join("\n"));
        match wheels.as_slice() {
            [name]
                if name.starts_with("vfio_probe-")
                    && name.ends_with(".whl")
                    && name.contains("-cp310-abi3-") =>
            {
                Ok(())
            }
            _ => Err("this is not one wheel for CPython 3.10 and newer".into()),
        }
    }

    /// The wheel must not export the C ABI.
    fn exports_its_entry_point_only(&self, log: &mut Log) -> Result {
        let mut library = None;
        for python in process::entries(&self.work.join("venv/lib")) {
            let package = process::entries(&python.join("site-packages/vfio_probe"));
            library =
                library.or(package.into_iter().find(|path| process::file_name(path).starts_with("_core")));
        }
        let library = library.ok_or("the installed package has no library")?;
        let symbols = log.output(self.context.command("nm").args(["-D", "--defined-only"]).arg(library))?;
        let names: Vec<&str> = symbols.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
        same(&names.join("\n"), "PyInit__core")
    }

    /// Returns version and path of the other CPythons of this host that can use the wheel, one a version.
    fn other_pythons(&self) -> Result<BTreeMap<String, PathBuf>> {
        let version = |python: &Path| {
            let mut command = self.context.command(python);
            command.args(["-c", VERSION]).stderr(std::process::Stdio::null());
            let output = command.output().ok().filter(|output| output.status.success())?;
            Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
                .filter(|version| !version.is_empty())
        };
        let mut candidates: Vec<PathBuf> = process::entries(Path::new("/usr/bin"));
        candidates.retain(|path| process::file_name(path).starts_with("python3"));
        let home = self.context.get("HOME").map(PathBuf::from).unwrap_or_default();
        let installed = process::entries(&home.join(".pyenv/versions"));
        candidates.extend(installed.iter().map(|version| version.join("bin/python3")));
        let mut found = BTreeMap::new();
        for python in candidates {
            if let Some(version) = version(&python) {
                found.entry(version).or_insert(python);
            }
        }
        found.remove(
            &version(&self.bin.join("python"))
                .ok_or("the virtual environment has no CPython of 3.10 or newer")?,
        );
        Ok(found)
    }

    /// Installs the same wheel for another CPython, which has to construct a value and to show the help of a field.
    fn works_on(&self, python: &Path, log: &mut Log) -> Result {
        let venv = self.work.join("other");
        let _ = std::fs::remove_dir_all(&venv);
        log.run(self.context.command(python).args(["-m", "venv"]).arg(&venv))?;
        log.run(&mut self.context.install_wheel(self.work, &venv))?;
        let program = "from vfio_probe import Device, Occupancy, Root, State
with Root() as root: found = root.probe(4294967294)
assert found == Occupancy(4294967294, State.ABSENT), found
assert Device.__slots__['id'].startswith('The PCI address'), Device.__slots__";
        log.run(self.context.command(venv.join("bin/python")).args(["-c", program]))
    }

    fn ruff(&self, log: &mut Log, words: &[&str]) -> Result {
        let mut ruff = self.context.command(self.bin.join("ruff"));
        log.run(ruff.args(words).arg("--config").arg(self.config()).arg(&self.here).arg(self.conformance()))
    }

    /// Runs mypy where there is no directory vfio_probe, so that it uses the installed package.
    fn types(&self, log: &mut Log, code: &[PathBuf]) -> Result {
        ensure(!code.is_empty(), "there is no code to check")?;
        let mut mypy = self.context.command(self.bin.join("python"));
        mypy.args(["-m", "mypy", "--strict", "--config-file"]).arg(self.config()).arg("--python-executable");
        log.run(mypy.arg(self.bin.join("python")).args(code).current_dir(self.work))
    }

    fn stubs(&self, log: &mut Log) -> Result {
        let mut stubtest = self.context.command(self.bin.join("python"));
        stubtest.args(["-m", "mypy.stubtest", "vfio_probe", "--mypy-config-file"]).arg(self.config());
        stubtest.arg("--allowlist").arg(self.here.join("stubtest-allowlist")).arg("--concise");
        log.run(stubtest.current_dir(self.work))
    }
}
