//! The command line: builds the parts, starts a cluster and runs the stories.

use std::time::Instant;

use xtask::context::Context;
use xtask::counts::Counts;
use xtask::process;

use crate::cluster::{Cluster, Plugin};
use crate::node::Function;
use crate::parts::{self, Parts};
use crate::progress::{clock, say};
use crate::stories::{STORIES, Story};
use crate::{Result, wait};

const HELP: &str = "\
Runs the plugin in a whole Kubernetes cluster of one node with real VFIO groups.

  tests/cluster/run [STORY...]      build what is missing and run the stories with a STORY in their name, all by default
  tests/cluster/run --quick         run the stories of .ci/run
  tests/cluster/run --cached        exit with 1 unless all parts are in the cache
  tests/cluster/run --build         build the parts only
  tests/cluster/run --shell         start a cluster, print how to reach it, and keep it until Ctrl-C
  tests/cluster/run --list          list the stories
  tests/cluster/run --clean         remove all parts from the cache
  tests/cluster/run --kubernetes VERSION ...
                                    any of these with another Kubernetes that tests/cluster/versions lists

It needs root. The node's processor is the host's if a guest boots with KVM, otherwise an emulated one; VFIO_PROBE_VM_ACCEL=tcg|kvm
chooses.";

/// What the command line asks for.
#[derive(Debug, PartialEq, Eq)]
enum Action<'a> {
    Help,
    Unknown,
    List,
    Clean,
    Build,
    Cached,
    Shell,
    Quick,
    Run(&'a [String]),
}

impl<'a> Action<'a> {
    fn parse(arguments: &'a [String]) -> Self {
        match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["--help" | "-h"] => Self::Help,
            ["--list"] => Self::List,
            ["--clean"] => Self::Clean,
            ["--build"] => Self::Build,
            ["--cached"] => Self::Cached,
            ["--shell"] => Self::Shell,
            ["--quick"] => Self::Quick,
            words if words.iter().any(|word| word.starts_with('-')) => Self::Unknown,
            _ => Self::Run(arguments),
        }
    }
}

/// Takes `--kubernetes VERSION` from the front of the arguments.
fn take_kubernetes(arguments: &[String]) -> (Option<&str>, &[String]) {
    match arguments {
        [option, version, rest @ ..] if option == "--kubernetes" && !version.starts_with('-') => {
            (Some(version), rest)
        }
        _ => (None, arguments),
    }
}

/// Runs what the arguments ask for, and returns whether it passed.
///
/// # Errors
///
/// Fails if a part does not build, or no story has one of the names.
pub fn run(arguments: &[String]) -> Result<bool> {
    let mut context = Context::new()?;
    let (kubernetes, arguments) = take_kubernetes(arguments);
    match Action::parse(arguments) {
        Action::Help => process::print_line(HELP),
        Action::Unknown => {
            eprintln!("{HELP}");
            return Ok(false);
        }
        Action::List => {
            for story in STORIES {
                process::print_line(format!("{:24} {}", story.name, story.about));
            }
        }
        Action::Clean => parts::clean(&context)?,
        Action::Cached => return Ok(parts::cached(&mut context, kubernetes)?.is_some()),
        Action::Build => {
            parts::build(&mut context, kubernetes)?;
        }
        Action::Shell => shell(&mut context, kubernetes)?,
        Action::Quick => {
            let quick: Vec<&Story> = STORIES.iter().filter(|story| story.quick).collect();
            return build_and_play(&mut context, kubernetes, &quick);
        }
        Action::Run(names) => return build_and_play(&mut context, kubernetes, &select(STORIES, names)?),
    }
    Ok(true)
}

/// Returns the stories with one of the names in theirs, or all without names.
fn select<'a>(stories: &'a [Story], names: &[String]) -> Result<Vec<&'a Story>> {
    if let Some(unknown) = names.iter().find(|name| !stories.iter().any(|story| story.name.contains(*name))) {
        return Err(format!("no story has {unknown} in its name; tests/cluster/run --list lists them").into());
    }
    let is_selected = |story: &&Story| names.is_empty() || names.iter().any(|name| story.name.contains(name));
    Ok(stories.iter().filter(is_selected).collect())
}

/// Builds the program and the image of this tree.
fn plugin(context: &Context) -> Result<Plugin> {
    say("building the plugin's image");
    let image = format!("docker.io/library/vfio-device-plugin:{}", context.version()?);
    let archive = context.target.join("cluster-plugin.tar");
    process::make_directory(&context.target)?;
    let mut build = context.command("deploy/build-image");
    process::run(build.arg(&image).arg(&archive))?;
    let program = process::output(&mut context.command("deploy/build-static"))?;
    Ok(Plugin { program: program.into(), archive, image })
}

fn build_and_play(context: &mut Context, kubernetes: Option<&str>, stories: &[&Story]) -> Result<bool> {
    let parts = parts::build(context, kubernetes)?;
    let plugin = plugin(context)?;
    Ok(play(&parts, &plugin, stories))
}

/// Runs stories in one cluster. After a story that failed, the next one gets a new cluster.
fn play(parts: &Parts, plugin: &Plugin, stories: &[&Story]) -> bool {
    let mut counts = Counts::default();
    let mut running: Option<Cluster> = None;
    for story in stories {
        say(format!("{}: {}", story.name, story.about));
        let start = Instant::now();
        let result = prepared(&mut running, parts, plugin).and_then(|cluster| (story.run)(cluster));
        let time = clock(start.elapsed());
        match &result {
            Ok(()) => process::print_line(format!("ok {} {time}", story.name)),
            Err(error) => {
                process::print_line(format!("FAILED {} {time}", story.name));
                error.to_string().lines().for_each(|line| process::print_line(format!("    {line}")));
                // After the result: it takes minutes if the cluster does not answer.
                if let Some(cluster) = running.take() {
                    let saved = cluster.save_logs(story.name);
                    saved.lines().for_each(|line| process::print_line(format!("    {line}")));
                }
            }
        }
        counts += Counts::one(result.is_ok());
    }
    // The processes end before the last line.
    drop(running);
    process::print_line(counts);
    counts.failed == 0
}

/// Returns a cluster without pods.
fn prepared<'a>(running: &'a mut Option<Cluster>, parts: &Parts, plugin: &Plugin) -> Result<&'a mut Cluster> {
    if let Some(cluster) = running.as_mut()
        && let Err(error) = cluster.reset()
    {
        say(format!("a new cluster, because the old one cannot be used again: {error}"));
        *running = None;
    }
    if running.is_none() {
        *running = Some(Cluster::start(parts, plugin, Function::six_gpus())?);
    }
    Ok(running.as_mut().ok_or("no cluster")?)
}

/// Keeps a cluster until it is interrupted.
fn shell(context: &mut Context, kubernetes: Option<&str>) -> Result {
    let parts = parts::build(context, kubernetes)?;
    let cluster = Cluster::start(&parts, &plugin(context)?, Function::six_gpus())?;
    let kubectl = parts.kubernetes.join("kubectl");
    process::print_line(format!("{} --kubeconfig {}", kubectl.display(), cluster.kubeconfig().display()));
    process::print_line(cluster.node().enter());
    let ended = wait::wait("Ctrl-C", std::time::Duration::from_secs(12 * 3600), || Ok(None::<()>));
    ended.or(Ok(()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn options_and_names_are_parsed() {
        assert_eq!(Action::parse(&words("--quick")), Action::Quick);
        assert_eq!(Action::parse(&words("--help")), Action::Help);
        assert_eq!(Action::parse(&words("--nonsense")), Action::Unknown);
        assert_eq!(Action::parse(&words("a --quick")), Action::Unknown);
        let names = words("a b");
        assert_eq!(Action::parse(&names), Action::Run(&names));
    }

    #[test]
    fn version_of_kubernetes_precedes_the_rest() {
        assert_eq!(take_kubernetes(&words("a b")), (None, &words("a b")[..]));
        let with = words("--kubernetes 1.34.4 --quick");
        assert_eq!(take_kubernetes(&with), (Some("1.34.4"), &words("--quick")[..]));
        for wrong in ["--kubernetes", "--kubernetes --quick", "a --kubernetes 1.34.4"] {
            let wrong = words(wrong);
            let (version, rest) = take_kubernetes(&wrong);
            assert_eq!((version, Action::parse(rest)), (None, Action::Unknown));
        }
    }

    #[test]
    fn part_of_a_name_selects_stories_and_unknown_ones_fail() {
        assert_eq!(select(STORIES, &[]).unwrap().len(), STORIES.len());
        assert_eq!(select(STORIES, &words("scheduled")).unwrap().len(), 1);
        assert!(select(STORIES, &words("no-such-story")).is_err());
    }

    #[test]
    fn names_of_stories_are_unique() {
        for (index, story) in STORIES.iter().enumerate() {
            assert!(STORIES.iter().skip(index + 1).all(|other| other.name != story.name), "{}", story.name);
        }
    }
}
