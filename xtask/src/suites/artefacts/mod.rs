//! Uses each library as its users do: a program, written against what is published, is built and run in a clean Debian that has
//! neither this repository nor a registry. Prints how long each takes to its first answer. Runs on demand: it needs release builds.

mod publish;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::Stdio;
use std::time::Instant;

use super::chroot::{Chroot, Mount};
use crate::context::Context;
use crate::log::{Log, ensure, same};
use crate::node::Node;
use crate::packages::{C_LIBRARY, PYTHON};
use crate::scratch::Scratch;
use crate::suite::Suite;
use crate::{Result, process};

/// What a user of any of the languages has before. Rust and Go come from this host, read-only.
const INCLUDE: &str = "gcc,libc6-dev,pkg-config,python3-venv";
/// The buses of the eight GPUs, in groups from 51 on; the first one is held.
const HELD: &str = "0000:1b:00.0";
const GROUP: u32 = 51;

/// A language: what is published for it, and how its users build and run a program.
struct Language {
    name: &'static str,
    /// The file in tests/artefacts.
    program: &'static str,
    /// Builds what is published into a directory, which appears as /test/published.
    publish: fn(&Context, &Path) -> Result,
    /// The directory of a toolchain of this host, and where it appears.
    toolchain: Option<fn(&Context) -> Result<Mount>>,
    /// Installs what is published, as the pages say.
    install: &'static str,
    /// Builds the program, for languages that are compiled.
    build: &'static str,
    run: &'static str,
}

const LANGUAGES: [Language; 4] = [
    Language {
        name: "rust",
        program: "agent.rs",
        publish: publish::rust,
        toolchain: Some(publish::rust_toolchain),
        install: "export PATH=/toolchain/bin:$PATH; mkdir .cargo; mv published/config.toml .cargo/; \
                  mkdir src; mv agent.rs src/main.rs; cargo init --quiet --name agent .; \
                  cargo add --quiet vfio-probe",
        build: "export PATH=/toolchain/bin:$PATH; cargo build --quiet",
        run: "target/debug/agent",
    },
    Language {
        name: "c",
        program: "agent.c",
        publish: publish::c,
        toolchain: None,
        install: "cp -a published/. /; ldconfig",
        build: "cc -Wall -Wextra -Werror agent.c $(pkg-config --cflags --libs vfio-probe) -o agent",
        run: "./agent",
    },
    Language {
        name: "go",
        program: "agent.go",
        publish: publish::go,
        toolchain: Some(publish::go_toolchain),
        install: "export PATH=/toolchain/bin:$PATH GOPROXY=file:///test/published GONOSUMDB=* GOTOOLCHAIN=local; \
                  go mod init example.test/agent; go get github.com/vfio-probe/vfio-probe/go/vfioprobe",
        build: "export PATH=/toolchain/bin:$PATH GOPROXY=off GOTOOLCHAIN=local; go vet .; go build -o agent .",
        run: "./agent",
    },
    Language {
        name: "python",
        program: "agent.py",
        publish: publish::python,
        toolchain: None,
        install: "python3 -m venv venv; \
                  venv/bin/pip install --quiet --no-index --find-links published vfio-probe",
        build: "venv/bin/python -m compileall -q agent.py",
        run: "venv/bin/python agent.py",
    },
];

/// Runs the suite: `xtask artefacts [LANGUAGE]...`, by default all languages.
///
/// # Errors
///
/// Fails if a tool is missing, there is no Debian to install in, or the simulated node does not start.
pub fn artefacts(context: &mut Context, names: &[String]) -> Result<bool> {
    if let Some(unknown) = names.iter().find(|name| LANGUAGES.iter().all(|language| language.name != **name))
    {
        return Err(format!("{unknown}: no such language; use rust, c, go or python").into());
    }
    context.need(PYTHON)?;
    context.need(C_LIBRARY)?;
    context.need_go()?;
    let mut suite = Suite::new();
    for language in LANGUAGES.iter().filter(|it| names.is_empty() || names.iter().any(|name| name == it.name))
    {
        let mut node = Node::start(context)?;
        suite.check_aloud(language.name, |log| language.check(context, &mut node, log));
    }
    Ok(suite.end())
}

impl Language {
    fn check(&self, context: &Context, node: &mut Node, log: &mut Log) -> Result {
        let work = Scratch::new()?;
        let published = work.join("published");
        process::make_directory(&published)?;
        (self.publish)(context, &published)?;
        let chroot = Chroot::with(context, "artefacts", INCLUDE)?;
        chroot.copy(&[context.top.join("tests/artefacts").join(self.program)])?;
        let mut copy = context.command("cp");
        process::run(copy.arg("-a").arg(&published).arg(chroot.path("test/published")))?;
        let holder = node.start_vm(HELD, None)?;
        let mut mounts = vec![Mount { from: node.root().into(), to: "/node" }];
        if let Some(toolchain) = self.toolchain {
            mounts.push(toolchain(context)?);
        }

        let began = Instant::now();
        log.run(&mut chroot.isolated(context, &mounts, self.install))?;
        let installed = began.elapsed();
        log.run(&mut chroot.isolated(context, &mounts, self.build))?;
        let built = began.elapsed();
        let script = format!("exec {} /node {GROUP}", self.run);
        let mut command = chroot.isolated(context, &mounts, &script);
        let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn()?;
        let (mut lines, mut answered) = (Vec::new(), None);
        for line in BufReader::new(child.stdout.take().ok_or("the program has no output")?).lines() {
            let line = line?;
            answered.get_or_insert(began.elapsed());
            log.say(&line);
            // The program waits now: the group becomes free when its holder ends.
            if line.starts_with("waiting") {
                node.order(&format!("{{\"kill_vm\":{{\"pid\":{holder}}}}}"))?;
            }
            lines.push(line);
        }
        ensure(child.wait()?.success(), "the program failed")?;
        same(&without_start(&lines), &expected(holder))?;
        let answered = answered.ok_or("the program printed nothing")?;
        process::print_line(format!(
            "{}: first answer {:.1} s after the first command: install {:.1} s, build {:.1} s, run {:.3} s",
            self.name,
            answered.as_secs_f64(),
            installed.as_secs_f64(),
            (built - installed).as_secs_f64(),
            (answered - built).as_secs_f64(),
        ));
        Ok(())
    }
}

/// Removes the start time of the holder, which is checked to be a time of this year or later.
fn without_start(lines: &[String]) -> String {
    let line = |line: &String| match line.split_once(" since ") {
        Some((before, seconds)) if seconds.parse().is_ok_and(|seconds: u64| seconds > 1_700_000_000) => {
            format!("{before} since then")
        }
        _ => line.clone(),
    };
    lines.iter().map(line).collect::<Vec<_>>().join("\n")
}

fn expected(holder: u32) -> String {
    let mut lines = vec![format!("group {GROUP} held (holder) by {holder} qemu-system-x86 uid 0 since then")];
    lines.extend((GROUP + 1..GROUP + 8).map(|group| format!("group {group} free: vfio/vfio vfio/{group}")));
    lines.extend([format!("waiting for group {GROUP}"), format!("group {GROUP} free")]);
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::without_start;

    #[test]
    fn start_time_must_be_a_time() {
        let lines = ["a since 1800000000", "b since 0", "c since x", "d"].map(str::to_owned);
        assert_eq!(without_start(&lines), "a since then\nb since 0\nc since x\nd");
    }
}
