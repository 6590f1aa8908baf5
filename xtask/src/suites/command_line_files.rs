//! Writes the plugin's man pages and shell completion scripts for packages, and checks them.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::context::Context;
use crate::log::{Log, ensure};
use crate::scratch::Scratch;
use crate::suite::Suite;
use crate::{Result, process};

/// Writes a man page for the program and one for each command: `xtask man DIRECTORY`. Their date is that of
/// `SOURCE_DATE_EPOCH`, or of the last commit without it.
///
/// # Errors
///
/// Fails if there is no directory among the arguments, and if the pages cannot be written.
pub fn man(context: &mut Context, arguments: &[String]) -> Result<bool> {
    write(context, "man", &directory(arguments)?)?;
    Ok(true)
}

/// Writes a completion script for each shell: `xtask completions DIRECTORY`.
///
/// # Errors
///
/// Fails if there is no directory among the arguments, and if the scripts cannot be written.
pub fn completions(context: &mut Context, arguments: &[String]) -> Result<bool> {
    write(context, "completions", &directory(arguments)?)?;
    Ok(true)
}

/// Checks that each command has a page, that groff and mandoc find no fault in the pages, and that shells can read their scripts.
///
/// # Errors
///
/// Fails if the files cannot be written.
pub fn check(context: &mut Context, _: &[String]) -> Result<bool> {
    let work = Scratch::new()?;
    for kind in ["man", "completions"] {
        write(context, kind, &work.join(kind))?;
    }
    let mut suite = Suite::new();
    let pages = process::entries(&work.join("man"));
    suite.check("each command has a page", |log| has_all_pages(context, log, &pages));
    for page in &pages {
        let name = process::file_name(page);
        let mut groff = context.command("groff");
        groff.args(["-man", "-Tutf8", "-ww", "-z"]).arg(page);
        suite.check(&format!("{name}: groff"), |log| is_silent(log, &mut groff));
        let mut mandoc = context.command("mandoc");
        mandoc.args(["-T", "lint", "-W", "warning"]).arg(page);
        suite.check(&format!("{name}: mandoc"), |log| is_silent(log, &mut mandoc));
    }
    let scripts = work.join("completions");
    suite.check("bash completes commands and options", |log| bash_completes(context, log, &scripts));
    suite.check("a script for each shell", |_| {
        let names = ["_vfio-device-plugin", "vfio-device-plugin.elv", "vfio-device-plugin.fish"];
        let missing: Vec<_> = names.into_iter().filter(|name| !scripts.join(name).is_file()).collect();
        ensure(missing.is_empty(), &format!("missing: {missing:?}"))
    });
    Ok(suite.end())
}

/// Returns the one argument as a directory, relative to the caller's.
fn directory(arguments: &[String]) -> Result<PathBuf> {
    let [directory] = arguments else {
        return Err("expected one argument, the directory to write to".into());
    };
    Ok(std::env::current_dir()?.join(directory))
}

/// Runs the example that writes the files.
fn write(context: &Context, kind: &str, directory: &Path) -> Result {
    const BUILD: &[&str] = &["build", "--quiet", "--workspace", "--example", "command_line_files"];
    // With --workspace, cargo reuses what ./verify has built.
    process::run(&mut context.cargo(BUILD))?;
    let mut example = context.command(context.target.join("debug/examples/command_line_files"));
    example.arg(kind).arg(directory);
    if kind == "man" {
        example.arg(date(context)?);
    }
    process::run(&mut example)
}

/// Returns the date of the pages, so that the same source makes the same pages.
fn date(context: &Context) -> Result<String> {
    let mut date = match context.get("SOURCE_DATE_EPOCH") {
        Some(seconds) => {
            let mut date = context.command("date");
            date.args(["-u", "+%F", "-d", &format!("@{}", seconds.to_string_lossy())]);
            date
        }
        None => {
            let mut log = context.command("git");
            log.args(["log", "-1", "--format=%cs"]);
            log
        }
    };
    process::output(&mut date)
}

/// The commands are those that `--help` prints.
fn has_all_pages(context: &mut Context, log: &mut Log, pages: &[PathBuf]) -> Result {
    context.programs(&["vfio-device-plugin"])?;
    let help = log.output(context.command(context.debug("vfio-device-plugin")).arg("--help"))?;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    // A longer help goes on in a line that is indented further.
    let commands = commands.take_while(|line| !line.is_empty()).filter_map(|line| line.strip_prefix("  "));
    let commands = commands.filter_map(|line| line.split(' ').next()).filter(|name| !name.is_empty());
    let names = commands
        .filter(|command| *command != "help")
        .map(|command| format!("vfio-device-plugin-{command}.1"));
    let mut expected: Vec<String> = names.chain(["vfio-device-plugin.1".to_owned()]).collect();
    expected.sort();
    ensure(expected.len() > 5, "--help prints no commands")?;
    let found: Vec<String> = pages.iter().map(|page| process::file_name(page)).collect();
    ensure(found == expected, &format!("expected {expected:?}, found {found:?}"))
}

/// The command succeeds and prints nothing.
fn is_silent(log: &mut Log, command: &mut Command) -> Result {
    let output = command.output().map_err(process::cannot_start(command))?;
    let text = [output.stdout, output.stderr].concat();
    log.say(&String::from_utf8_lossy(&text));
    ensure(output.status.success() && text.is_empty(), "there are warnings")
}

/// Asks the script as bash does when a user presses the tab key.
fn bash_completes(context: &Context, log: &mut Log, scripts: &Path) -> Result {
    const ASK: &str = r#"
        . "$0"
        COMP_WORDS=(vfio-device-plugin "$@") COMP_CWORD=$#
        function=$(complete -p vfio-device-plugin | sed 's/.*-F \([^ ]*\).*/\1/')
        "$function" vfio-device-plugin "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
        printf '%s ' "${COMPREPLY[@]}"
    "#;
    let script = scripts.join("vfio-device-plugin.bash");
    for (words, expected) in
        [(&["doc"][..], "doctor"), (&["list", "--pr"], "--probe"), (&["ready", "--liv"], "--live")]
    {
        let mut bash = context.command("bash");
        let replies = log.output(bash.args(["-c", ASK]).arg(&script).args(words))?;
        ensure(replies.trim() == expected, &format!("{words:?}: {replies}"))?;
    }
    Ok(())
}
