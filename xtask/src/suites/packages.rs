//! Builds what users install, and uses it as they do: Debian packages in a clean Debian, the Python source distribution in a clean
//! virtual environment, the crate as cargo publishes it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::chroot::Chroot;
use super::release_files;
use crate::context::Context;
use crate::log::{Log, ensure};
use crate::node::Node;
use crate::packages::{Need, PYTHON};
use crate::release::target::Target;
use crate::release::{artefacts, deb, python};
use crate::scratch::Scratch;
use crate::suite::Suite;
use crate::{Result, process};

/// A device of the simulated node, and a pod that holds it.
const HELD: &str = "0000:1b:00.0";
const POD: &str = "0d9a1c7e-5b0a-4a57-9d3a-0123456789ab";
const UNIT: &str = "/usr/lib/systemd/system/vfio-device-plugin.service";

/// Runs the suite: `xtask packages [DIRECTORY]`. The files of a release in the directory are tested as they are; otherwise the
/// packages are built.
///
/// # Errors
///
/// Fails if a tool is missing, there is no Debian to install in, or the simulated node does not start.
pub fn packages(context: &mut Context, arguments: &[String]) -> Result<bool> {
    let release = match arguments {
        [] => None,
        [directory] => {
            Some(std::fs::canonicalize(directory).map_err(|error| format!("{directory}: {error}"))?)
        }
        _ => return Err("usage: scripts/xtask packages [DIRECTORY]".into()),
    };
    context.need(&[Need::Program("lintian", "lintian")])?;
    context.need(PYTHON)?;
    let work = Scratch::new()?;
    let mut node = Node::start(context)?;
    node.start_vm(HELD, Some(POD))?;
    let mut suite = Suite::new();
    let mut built = Vec::new();
    if let Some(directory) = &release {
        release_files::check(context, &mut suite, directory, work.path());
    }
    suite.check("Debian packages", |log| {
        built = match &release {
            Some(directory) => in_directory(directory)?,
            None => build(context, &work.join("debian"))?,
        };
        for package in &built {
            log.say(&format!("{}: {} bytes", process::file_name(package), package.metadata()?.len()));
        }
        ensure(built.len() == 3, "there are not three packages of this architecture")
    });
    suite.check("lintian", |log| {
        log.run(context.command("lintian").args(["--fail-on", "error,warning"]).args(&built))
    });
    let chroot = Chroot::new(context)?;
    let before = chroot.paths()?;
    chroot.copy(&built)?;
    chroot.copy(&[context.top.join("ffi/examples/list.c")])?;
    let debian = Debian { context, chroot: &chroot, node: node.root() };
    let installed = suite.check("install in a clean Debian", |log| debian.run(log, "dpkg -i *.deb"));
    if installed {
        debian.tests(&mut suite);
    }
    suite.check("purge leaves nothing", |log| debian.purges(log, &before));
    suite.check("Python source distribution builds in a clean environment", |log| {
        source_distribution(context, log, work.path(), release.as_deref())
    });
    suite.check("cargo publish --dry-run of the core", |_| {
        let archive = artefacts::core_crate(context)?;
        let listed = process::output(context.command("tar").arg("tzf").arg(&archive))?;
        for file in ["/README.md", "/LICENSE", "/src/lib.rs"] {
            ensure(listed.lines().any(|line| line.ends_with(file)), &format!("the crate has no {file}"))?;
        }
        same_program(context)
    });
    Ok(suite.end())
}

fn build(context: &Context, directory: &Path) -> Result<Vec<PathBuf>> {
    let target = Target::host()?;
    let program = process::output(context.command("deploy/build-static").arg(target.triple))?;
    deb::packages(context, &target, Path::new(&program), directory)
}

/// Returns the packages of this host's architecture in a directory.
fn in_directory(directory: &Path) -> Result<Vec<PathBuf>> {
    let ending = format!("_{}.deb", Target::host()?.architecture);
    let mut found = process::entries(directory);
    found.retain(|path| process::file_name(path).ends_with(&ending));
    Ok(found)
}

/// The system in which the packages are installed.
struct Debian<'a> {
    context: &'a Context,
    chroot: &'a Chroot,
    node: &'a Path,
}

impl Debian<'_> {
    fn run(&self, log: &mut Log, script: &str) -> Result {
        log.run(&mut self.chroot.script(self.context, Some(self.node), script))
    }

    fn output(&self, log: &mut Log, script: &str) -> Result<String> {
        log.output(&mut self.chroot.script(self.context, Some(self.node), script))
    }

    fn tests(&self, suite: &mut Suite) {
        suite.check("list on a simulated node", |log| {
            let text = self.output(log, "vfio-device-plugin list --root /node --run-dir /node/run")?;
            shows_held(&text, "held")
        });
        suite.check("version of the packages is the program's", |log| {
            let version = self.context.version()?;
            let text = self.output(
                log,
                "vfio-device-plugin --version; dpkg-query -W -f '${Package} ${Version}\\n' '*vfio*'; \
                 pkg-config --modversion vfio-probe",
            )?;
            let words: Vec<&str> = text.split_whitespace().collect();
            let count = words.iter().filter(|word| word.trim_end_matches("-1") == version).count();
            ensure(count == 5, &format!("version {version} is not named five times"))
        });
        for (module, needs) in [("vfio-probe", true), ("vfio-probe-static", false)] {
            suite.check(&format!("C program by pkg-config {module}"), |log| {
                let flags = format!("$(pkg-config --cflags --libs {module})");
                let text = self.output(
                    log,
                    &format!("gcc -Wall -Werror list.c {flags} -o list; ./list /node; ldd ./list"),
                )?;
                shows_held(&text, "looks-held")?;
                ensure(text.contains("libvfio_probe.so.1") == needs, "ldd shows other libraries")
            });
        }
        suite.check("systemd-analyze verify", |log| {
            let script = format!("systemd-analyze verify --man=no {UNIT} 2>&1");
            let text = self.output(log, &script)?;
            ensure(text.is_empty(), "systemd has warnings")
        });
        suite.check_aloud("systemd-analyze security below 3", |log| {
            let words = "systemd-analyze security --offline=yes --threshold=29 --no-pager";
            let text = self.output(log, &format!("{words} {UNIT} | tail -1"))?;
            self.run(log, &format!("{words} {UNIT} >/dev/null"))?;
            ensure(text.contains("Overall exposure level"), "systemd prints no level")
        });
        suite.check("the service is not enabled by the installation", |log| {
            let state = self.output(log, "systemctl is-enabled vfio-device-plugin || true")?;
            ensure(state == "disabled", &format!("the service is {state}"))
        });
        suite.check("an upgrade of the package reloads the service", |log| {
            // systemd does not run here. Its helper does, and calls this systemctl.
            let script = "mkdir -p /run/systemd/system /tmp/record; \
                printf '#!/bin/sh\necho \"$@\" >>/tmp/record/calls\n' >/tmp/record/systemctl; chmod +x /tmp/record/systemctl; \
                PATH=/tmp/record:$PATH /var/lib/dpkg/info/vfio-device-plugin.postinst configure 0; \
                cat /tmp/record/calls; rm -r /tmp/record /run/systemd/system; rmdir --ignore-fail-on-non-empty /run/systemd";
            let calls = self.output(log, script)?;
            let words = "try-reload-or-restart vfio-device-plugin.service";
            ensure(calls.lines().any(|call| call.ends_with(words)), "the service is not reloaded")?;
            let unit = self.output(log, &format!("cat {UNIT}"))?;
            for line in ["ExecReload=/bin/sh -c \"kill -HUP ${MAINPID}\"", "NotifyAccess=main"] {
                ensure(unit.lines().any(|found| found == line), &format!("the unit has no {line}"))?;
            }
            Ok(())
        });
        suite.check("man pages and completions are there", |log| {
            self.run(
                log,
                "cd /usr/share; test -e man/man1/vfio-device-plugin.1.gz; test -e man/man1/vfio-device-plugin-doctor.1.gz; \
                 bash -n bash-completion/completions/vfio-device-plugin; test -e zsh/vendor-completions/_vfio-device-plugin; \
                 test -e fish/vendor_completions.d/vfio-device-plugin.fish",
            )
        });
    }

    /// Also after the service was enabled and a setting was changed.
    fn purges(&self, log: &mut Log, before: &BTreeSet<String>) -> Result {
        self.run(
            log,
            "systemctl enable vfio-device-plugin; echo VFIO_DEVICE_PLUGIN_SELECT=10de >>/etc/default/vfio-device-plugin; \
             systemd-tmpfiles --create vfio-device-plugin.conf; mkdir -p /run/vfio-device-plugin; \
             dpkg --purge vfio-device-plugin libvfio-probe-dev libvfio-probe1",
        )?;
        let after = self.chroot.paths()?;
        let left: Vec<&String> = after.difference(before).filter(|path| !path.starts_with("/test")).collect();
        ensure(left.is_empty(), &format!("left behind: {left:?}"))?;
        let lost: Vec<&String> = before.difference(&after).collect();
        ensure(lost.is_empty(), &format!("removed with the packages: {lost:?}"))
    }
}

/// The output has eight devices, and the word for a held one in the line of the held device only.
fn shows_held(text: &str, word: &str) -> Result {
    let lines: Vec<&str> = text.lines().filter(|line| line.starts_with("0000:")).collect();
    ensure(lines.len() == 8, "there are not eight devices")?;
    let held: Vec<&&str> =
        lines.iter().filter(|line| line.split_whitespace().any(|part| part == word)).collect();
    ensure(
        held.len() == 1 && held.iter().all(|line| line.starts_with(HELD)),
        &format!("not exactly {HELD} is {word}"),
    )
}

fn source_distribution(context: &Context, log: &mut Log, work: &Path, release: Option<&Path>) -> Result {
    let archive = match release {
        Some(directory) => release_files::file(directory, ".tar.gz")?,
        None => python::source_distribution(context, work)?,
    };
    let listed = log.output(context.command("tar").arg("tzf").arg(&archive))?;
    for file in ["LICENSE", "README.md", "Cargo.lock", "PKG-INFO"] {
        let has = listed.lines().any(|line| line.split_once('/').is_some_and(|(_, rest)| rest == file));
        ensure(has, &format!("the source distribution has no {file}"))?;
    }
    let venv = work.join("venv");
    log.run(context.command("python3").args(["-m", "venv"]).arg(&venv))?;
    // The dependencies are built once for all runs. pip unpacks the sources elsewhere each time.
    let mut pip = context.command(venv.join("bin/pip"));
    pip.env("CARGO_TARGET_DIR", context.target.join("python"));
    log.run(pip.args(["install", "--quiet", "--no-cache-dir"]).arg(&archive))?;
    log.run(context.command(venv.join("bin/vfio-probe")).arg("--version"))
}

/// The crate's page has the program of README.md, which the suite of the README builds and runs.
fn same_program(context: &Context) -> Result {
    let page = |file: &str| process::read(&context.top.join(file));
    let program = super::readme::code_block(&page("core/README.md")?, "rust")?;
    ensure(page("README.md")?.contains(&program), "core/README.md has another program than README.md")
}
