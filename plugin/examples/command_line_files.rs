//! Writes the man pages and the shell completion scripts of `vfio-device-plugin`, for packages:
//!
//! ```text
//! command_line_files man DIRECTORY [DATE]      vfio-device-plugin.1, and a page for each command
//! command_line_files completions DIRECTORY     a script for each shell
//! ```
//!
//! DATE, for example 2026-11-30, is the date of the pages. An example and not a command: the program
//! prints completion scripts too, but contains no generator of man pages.

use clap::{Arg, Command, ValueEnum};
use clap_complete::{Generator, Shell};
use clap_mangen::Man;
use clap_mangen::roff::{Roff, bold, italic, roman};
use std::error::Error;
use std::io::Write;
use std::path::Path;

const PROGRAM: &str = "vfio-device-plugin";

/// The heading of the options that every command has.
const COMMON: &str = "Common options";

/// Files that the pages name: the defaults of options, and what they contain.
const FILES: &[(&str, &str)] = &[
    ("/var/lib/kubelet/device-plugins", "The kubelet's socket and checkpoint, and the sockets of serve."),
    (
        "/run/vfio-device-plugin",
        "The status socket of serve, on which the other commands ask it, and its state files.",
    ),
    ("/var/run/cdi", "The CDI specs that serve writes for pools that use CDI."),
];

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    match words.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["man", directory] => write_pages(Path::new(directory), ""),
        ["man", directory, date] => write_pages(Path::new(directory), date),
        ["completions", directory] => write_completions(Path::new(directory)),
        _ => Err("usage: command_line_files man DIRECTORY [DATE] | completions DIRECTORY".into()),
    }
}

/// Writes a completion script for each shell, under the name that its completion system expects.
fn write_completions(directory: &Path) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(directory)?;
    for shell in Shell::value_variants() {
        let file = directory.join(shell.file_name(PROGRAM));
        std::fs::write(file, vfio_device_plugin::completion_script(*shell))?;
    }
    Ok(())
}

/// Writes one page for the program and one for each command.
fn write_pages(directory: &Path, date: &str) -> Result<(), Box<dyn Error>> {
    std::fs::create_dir_all(directory)?;
    let mut program = vfio_device_plugin::command_line()
        .disable_help_subcommand(true)
        .subcommand_help_heading("COMMANDS")
        .subcommand_value_name("command")
        .mut_args(|arg| if arg.is_global_set() { arg.help_heading(COMMON) } else { arg });
    program.build();
    write_page(directory, date, &program, &program)?;
    for command in program.get_subcommands() {
        write_page(directory, date, &program, command)?;
    }
    Ok(())
}

/// Writes the page of the program or of one of its commands.
fn write_page(
    directory: &Path,
    date: &str,
    program: &Command,
    command: &Command,
) -> Result<(), Box<dyn Error>> {
    let source = format!("{PROGRAM} {}", program.get_version().unwrap_or_default());
    let man = Man::new(command.clone()).date(date).source(source).manual("VFIO device plugin");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    // The synopsis has the command's own options only: all options are twenty more.
    let hidden = |arg: Arg| if is_common(&arg) { arg.hide(true) } else { arg };
    Man::new(command.clone().mut_args(hidden)).render_synopsis_section(&mut page)?;
    let mut more = Roff::new();
    more.text([roman("["), italic("common options"), roman("]")]);
    more.to_writer(&mut page)?;
    man.render_description_section(&mut page)?;
    if command.has_subcommands() {
        man.render_subcommands_section(&mut page)?;
    }
    man.render_options_section(&mut page)?;
    page.write_all(&end_of_page(program, command).into_bytes())?;
    // Before a list of values, clap_mangen writes two line breaks around an empty line, which mandoc reports.
    let page = String::from_utf8(page)?.replace("\n.br\n\n.br\n", "\n.sp\n");
    std::fs::write(directory.join(man.get_filename()), page)?;
    Ok(())
}

/// Returns whether an option belongs to every command. clap adds `--help` itself, without the mark of a global option.
fn is_common(arg: &Arg) -> bool {
    arg.is_global_set() || arg.get_id() == "help" || arg.get_id() == "version"
}

/// Returns the sections after the options: exit status, files, and the other pages.
fn end_of_page(program: &Command, command: &Command) -> String {
    let mut roff = Roff::new();
    roff.control("SH", ["EXIT STATUS"]);
    let exit_codes = program.get_after_help().map(ToString::to_string).unwrap_or_default();
    let exit_codes = exit_codes.trim_start_matches("Exit codes: ").trim_end_matches('.');
    for (code, meaning) in exit_codes.split("; ").filter_map(|part| part.split_once(' ')) {
        roff.control("TP", []);
        roff.text([bold(code)]);
        roff.text([roman(meaning)]);
    }
    roff.control("SH", ["FILES"]);
    for (path, content) in FILES {
        roff.control("TP", []);
        roff.text([italic(*path)]);
        roff.text([roman(*content)]);
    }
    roff.control("SH", ["SEE ALSO"]);
    let pages = program.get_subcommands().map(|other| format!("{PROGRAM}-{}", other.get_name()));
    let pages = std::iter::once(PROGRAM.to_owned()).chain(pages);
    let this = command.get_display_name().unwrap_or(PROGRAM);
    let others: Vec<String> = pages.filter(|page| page != this).collect();
    for (index, page) in others.iter().enumerate() {
        let comma = if index + 1 < others.len() { "," } else { "" };
        roff.control("BR", [&**page, &*format!("(1){comma}")]);
    }
    roff.to_roff()
}
