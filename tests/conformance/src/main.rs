//! Compares the results of every language on the same trees with those of the core, field by field.
//!
//! Each language has a program that prints its results for a tree as JSON; for the command line it is `list --json --probe`.
//! With the argument `unprobed` the program calls what opens no group: a default watch, waits, a snapshot, device nodes and
//! hardware. The node counts the opens of that run, which must be none.
//!
//! With the argument `errors` it makes calls with bad input, and every language must report the same: kind, errno, place, text.
//!
//! The last line is `N passed, N failed`. It counts one check for each tree, that it has the properties of its name, and one
//! for each language and tree. One more for each language is that the node counts the opens of its probes.

mod bad_input;
mod compare;
mod core_calls;
mod core_dump;
mod errors;
mod listing;
mod trees;
mod unprobed;

use anyhow::{Context, bail, ensure};
use clap::Parser;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, ExitCode, Output};
use trees::Recipe;
use vfio_sim_node::Node;

/// Compares the results of every language on the same trees.
#[derive(Parser)]
struct Arguments {
    /// A language and its dump program, which gets the tree as an argument: `c=target/dump`, `python=python3 dump.py`.
    #[arg(long = "language", value_name = "NAME=COMMAND", required = true)]
    languages: Vec<String>,
    /// The device plugin. Its command `list` is compared too.
    #[arg(long)]
    plugin: String,
    /// Prints the results of the core for each tree.
    #[arg(long)]
    verbose: bool,
    /// Compares the errors of calls with bad input only, and prints what was found as the table of docs/errors.md.
    #[arg(long)]
    errors: bool,
}

/// A program for the comparison.
struct Program {
    name: String,
    command: Vec<String>,
    /// True for `list`, which prints a selection of devices in its own format.
    is_list: bool,
}

fn main() -> anyhow::Result<ExitCode> {
    let arguments = Arguments::parse();
    let mut programs = Vec::new();
    for language in &arguments.languages {
        let (name, command) = language.split_once('=').context("--language must be NAME=COMMAND")?;
        let command = command.split_whitespace().map(str::to_owned).collect();
        programs.push(Program { name: name.to_owned(), command, is_list: false });
    }
    if arguments.errors {
        let compared = errors::compare(&programs, &arguments.plugin)?;
        print!("{}", compared.table);
        return Ok(end(compared.passed, &compared.failures));
    }
    let list = [arguments.plugin.as_str(), "list", "--json", "--probe", "--root"];
    programs.push(Program {
        name: "list".to_owned(),
        command: list.map(str::to_owned).to_vec(),
        is_list: true,
    });

    print!("{:<66} {:>6}", "tree", "fields");
    programs.iter().for_each(|program| print!(" {:>7}", program.name));
    println!();
    let (mut passed, mut failed) = (0, 0);
    // The opens by probes: a node that counts none would make the check of the other calls worthless.
    let mut counted: BTreeMap<String, u64> = BTreeMap::new();
    // A tree of the shared list without an expected property fails.
    let kinds = vfio_sim_node::trees::ALL.iter().map(|&(name, build)| {
        let shows =
            trees::KINDS.iter().find(|(known, _)| *known == name).map_or(&[][..], |(_, shows)| *shows);
        (name, build, shows)
    });
    let others = trees::OTHERS.iter().map(|&Recipe { name, build, shows }| (name, build, shows));
    for (name, build, shows) in others.chain(kinds) {
        let tree = build().with_context(|| format!("the tree {name:?}"))?;
        let mut ours = core_dump::dump(tree.node.root());
        let before = opens(&tree.node);
        let unprobed = unprobed::dump(tree.node.root());
        let opened_by_core = opens(&tree.node) - before;
        if let Some(document) = ours.as_object_mut() {
            document.insert("unprobed".to_owned(), unprobed);
        }
        if arguments.verbose {
            println!("{name}: {ours:#}");
        }
        let mut lines: Vec<String> = shows.iter().filter_map(|show| missing_property(&ours, *show)).collect();
        if opened_by_core > 0 {
            lines.push(format!("    core: {opened_by_core} opens by calls that must open nothing"));
        }
        if shows.is_empty() {
            lines.push("    core: no property of this tree is checked; add one to trees.rs".to_owned());
        }
        *(if lines.is_empty() { &mut passed } else { &mut failed }) += 1;
        print!("{name:<66} {:>6}", compare::fields(&ours));
        for program in &programs {
            let differs = match compare_with(program, &tree.node, &ours) {
                Ok((differences, opened)) => {
                    *counted.entry(program.name.clone()).or_default() += opened;
                    differences
                }
                Err(error) => vec![format!("{error:#}")],
            };
            print!(" {:>7}", if differs.is_empty() { "same" } else { "DIFFERS" });
            *(if differs.is_empty() { &mut passed } else { &mut failed }) += 1;
            lines.extend(differs.into_iter().map(|difference| format!("    {}{difference}", program.name)));
        }
        println!();
        lines.iter().for_each(|line| println!("{line}"));
    }
    for program in programs.iter().filter(|program| !program.is_list) {
        let opened = counted.get(&program.name).copied().unwrap_or_default();
        println!("{:<8} {opened} opens by probes, 0 by all other calls", program.name);
        *(if opened > 0 { &mut passed } else { &mut failed }) += 1;
    }
    let compared = errors::compare(&programs, &arguments.plugin)?;
    println!("{:<66} {:>6} checks of errors", "calls with bad input", compared.passed);
    compared.failures.iter().for_each(|failure| println!("    {failure}"));
    passed += compared.passed;
    failed += u32::try_from(compared.failures.len())?;
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Prints the failures and the counts.
fn end(passed: u32, failures: &[String]) -> ExitCode {
    failures.iter().for_each(|failure| println!("    {failure}"));
    println!("{passed} passed, {} failed", failures.len());
    if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Returns a message if the document of the core does not have a property that the name of the tree promises.
fn missing_property(ours: &Value, (place, expected): (&str, &str)) -> Option<String> {
    let found = ours.pointer(place).map_or_else(
        || "missing".to_owned(),
        |value| value.as_str().map_or_else(|| value.to_string(), str::to_owned),
    );
    (found != expected)
        .then(|| format!("    core{place}: got {found}, want {expected}: the tree does not match its name"))
}

/// Returns how often processes other than VMs have opened a group of the node.
fn opens(node: &Node) -> u64 {
    let entries = std::fs::read_dir(node.root().join("dev/vfio")).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok()).map(|group| node.opens(group)).sum()
}

/// Runs a program on a tree. Returns the differences from the core, and the opens by its probes.
fn compare_with(program: &Program, node: &Node, ours: &Value) -> anyhow::Result<(Vec<String>, u64)> {
    let root = node.root();
    if program.is_list {
        return Ok((compare_list(program, root, ours)?, 0));
    }
    let before = opens(node);
    let mut theirs = json_of(&run(program, root, &[])?)?;
    let probed = opens(node);
    let unprobed = json_of(&run(program, root, &["unprobed"])?)?;
    let opened = opens(node) - probed;
    if let Some(document) = theirs.as_object_mut() {
        document.insert("unprobed".to_owned(), unprobed);
    }
    let mut differences = compare::differences(ours, &theirs);
    if opened > 0 {
        differences.push(format!(": {opened} opens by calls that must open nothing"));
    }
    Ok((differences, probed - before))
}

/// Compares the plugin's `list`.
fn compare_list(program: &Program, root: &Path, ours: &Value) -> anyhow::Result<Vec<String>> {
    // An empty run directory, so that `list` does not ask a plugin that serves on this host.
    let run_dir = root.join("run");
    let output = run(program, root, &["--run-dir", &run_dir.to_string_lossy()])?;
    if ours.get("error").is_some() {
        ensure!(!output.status.success(), ": succeeded although the core failed");
        let errors = String::from_utf8_lossy(&output.stderr);
        let text = ours.pointer("/error/text").and_then(Value::as_str).unwrap_or_default();
        ensure!(errors.contains(text), ": stderr must contain {text:?}: {errors:?}");
        return Ok(Vec::new());
    }
    Ok(compare::differences(&listing::expected(ours), &listing::compared_part(json_of(&output)?)))
}

/// Runs a program of a language with a tree and more arguments.
fn run(program: &Program, root: &Path, arguments: &[&str]) -> anyhow::Result<Output> {
    let (executable, words) = program.command.split_first().context("the command is empty")?;
    let output = Command::new(executable).args(words).arg(root).args(arguments).output();
    output.with_context(|| executable.clone())
}

fn json_of(output: &Output) -> anyhow::Result<Value> {
    if !output.status.success() {
        bail!(": {}: {}", output.status, String::from_utf8_lossy(&output.stderr));
    }
    serde_json::from_slice(&output.stdout).context(": the output is not JSON")
}
