//! One truth: the same trees through every door, compared with the core field by field.
//!
//! Each door is a program that prints what it is told of a tree as JSON; the command line's is `list --json --probe`. The
//! last line is `N passed, N failed`: one for each tree, which has to be what it is called, and one for each door to it.

mod compare;
mod core_dump;
mod listing;
mod trees;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use serde_json::Value;
use std::path::Path;
use std::process::{Command, ExitCode};
use trees::Recipe;

/// Compares what every language is told of the same trees.
#[derive(Parser)]
struct Arguments {
    /// A language and the command that prints what it is told, without the tree: `c=target/dump`, `python=python3 dump.py`.
    #[arg(long = "door", value_name = "LANGUAGE=COMMAND", required = true)]
    doors: Vec<String>,
    /// The device plugin, whose `list` is compared too.
    #[arg(long)]
    plugin: String,
    /// Prints what the core says of each tree.
    #[arg(long)]
    verbose: bool,
}

/// One way to ask.
struct Door {
    name: String,
    command: Vec<String>,
    /// Whether it is the command line, which lists a selection in words of its own.
    lists: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut doors = Vec::new();
    for door in &arguments.doors {
        let (name, command) = door.split_once('=').context("a door is LANGUAGE=COMMAND")?;
        let command = command.split_whitespace().map(str::to_owned).collect();
        doors.push(Door { name: name.to_owned(), command, lists: false });
    }
    let list = [arguments.plugin.as_str(), "list", "--json", "--probe", "--root"];
    doors.push(Door { name: "list".to_owned(), command: list.map(str::to_owned).to_vec(), lists: true });

    print!("{:<66} {:>6}", "tree", "fields");
    doors.iter().for_each(|door| print!(" {:>7}", door.name));
    println!();
    let (mut passed, mut failed) = (0, 0);
    // By the shared list: a kind that nothing is expected of fails.
    let kinds = vfio_sim_node::trees::ALL.iter().map(|&(name, build)| {
        let shows =
            trees::KINDS.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, shows)| *shows);
        (name, build, shows)
    });
    let odd = trees::ODD.iter().map(|&Recipe { name, build, shows }| (name, build, shows));
    for (name, build, shows) in odd.chain(kinds) {
        let tree = build().with_context(|| format!("the tree {name:?}"))?;
        let ours = core_dump::dump(tree.node.root());
        if arguments.verbose {
            println!("{name}: {ours:#}");
        }
        let mut said: Vec<String> = shows.iter().filter_map(|show| is_not(&ours, *show)).collect();
        if shows.is_empty() {
            said.push("    core: nothing says what makes this tree what it is called".to_owned());
        }
        *(if said.is_empty() { &mut passed } else { &mut failed }) += 1;
        print!("{name:<66} {:>6}", compare::fields(&ours));
        for door in &doors {
            let differs = match ask(door, tree.node.root(), &ours) {
                Ok(differences) => differences,
                Err(error) => vec![format!("{error:#}")],
            };
            print!(" {:>7}", if differs.is_empty() { "same" } else { "DIFFERS" });
            *(if differs.is_empty() { &mut passed } else { &mut failed }) += 1;
            said.extend(differs.into_iter().map(|difference| format!("    {}{difference}", door.name)));
        }
        println!();
        said.iter().for_each(|line| println!("{line}"));
    }
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Says if what is at this place of the core's document is not what the tree is called for.
fn is_not(ours: &Value, (place, expected): (&str, &str)) -> Option<String> {
    let found = ours.pointer(place).map_or_else(
        || "missing".to_owned(),
        |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    );
    (found != expected)
        .then(|| format!("    core{place}: is {found}, so the tree is not what it is called: {expected}"))
}

/// Where a door's answer is not the core's.
fn ask(door: &Door, root: &Path, ours: &Value) -> anyhow::Result<Vec<String>> {
    let (program, words) = door.command.split_first().context("a door without a command")?;
    let mut command = Command::new(program);
    command.args(words).arg(root);
    if door.lists {
        // Nobody serves here: what the kubelet was told is not asked of this machine's.
        command.arg("--run-dir").arg(root.join("run"));
    }
    let output = command.output().with_context(|| program.clone())?;
    let errors = String::from_utf8_lossy(&output.stderr);
    if door.lists && ours.get("error").is_some() {
        ensure!(!output.status.success(), ": succeeds where the core fails");
        let text = ours.pointer("/error/text").and_then(Value::as_str).unwrap_or_default();
        ensure!(errors.contains(text), ": does not say {text:?} but {errors:?}");
        return Ok(Vec::new());
    }
    if !output.status.success() {
        bail!(": {}: {errors}", output.status);
    }
    let theirs: Value = serde_json::from_slice(&output.stdout).context(": no JSON")?;
    if door.lists {
        return Ok(compare::differences(&listing::expected(ours), &listing::known_part(theirs)));
    }
    Ok(compare::differences(ours, &theirs))
}
