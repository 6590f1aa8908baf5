//! Builds the README's examples as its readers would, and runs them on a simulated node.

use std::path::Path;
use std::process::Command;

use crate::context::Context;
use crate::log::{Log, ensure, same};
use crate::node::Node;
use crate::packages::{C, PYTHON};
use crate::scratch::Scratch;
use crate::suite::Suite;
use crate::{Result, process};

/// The groups of the eight GPUs.
const GROUPS: std::ops::RangeInclusive<u32> = 51..=58;

const GO_PACKAGE: &str = "github.com/vfio-probe/vfio-probe/go/vfioprobe";

/// Runs the suite.
///
/// # Errors
///
/// Fails if a tool is missing or the simulated node does not start.
pub fn readme(context: &mut Context, _: &[String]) -> Result<bool> {
    context.need(C)?;
    context.need(PYTHON)?;
    context.need_go()?;
    let work = Scratch::new()?;
    let mut node = Node::start(context)?;
    context.shared_c_library()?;
    let holder = node.start_vm("0000:3d:00.0", None)?;
    let page = process::read(&context.top.join("README.md"))?;
    let mut suite = Suite::new();
    let languages: [(&str, Build); 4] = [("python", python), ("go", go), ("c", c), ("rust", rust)];
    for (language, build) in languages {
        suite.check(language, |log| {
            let directory = work.join(language);
            process::make_directory(&directory)?;
            let mut program = build(context, &directory, &code_block(&page, language)?, log)?;
            let output = log.output(program.arg(node.root()).arg("51"))?;
            same(output.trim_end(), &expected(holder))
        });
    }
    Ok(suite.end())
}

/// Builds an example as the README says, and returns the command that runs it. Target directories are shared with other tests.
type Build = fn(&Context, &Path, &str, &mut Log) -> Result<Command>;

fn python(context: &Context, directory: &Path, example: &str, log: &mut Log) -> Result<Command> {
    process::write(&directory.join("example.py"), example)?;
    log.run(context.command("python3").args(["-m", "venv", "venv"]).current_dir(directory))?;
    let mut pip = context.command(directory.join("venv/bin/pip"));
    pip.env("CARGO_TARGET_DIR", context.target.join("python"));
    log.run(pip.args(["install", "--quiet"]).arg(context.top.join("python")))?;
    let mut run = context.command(directory.join("venv/bin/python"));
    run.arg(directory.join("example.py"));
    Ok(run)
}

fn c(context: &Context, directory: &Path, example: &str, log: &mut Log) -> Result<Command> {
    process::write(&directory.join("example.c"), example)?;
    let mut cc = context.command("cc");
    cc.current_dir(directory).args(["-Wall", "-Wextra", "-Werror", "-o", "example", "example.c"]);
    log.run(cc.args(context.c_flags("vfio-probe")?))?;
    Ok(context.command(directory.join("example")))
}

fn go(context: &Context, directory: &Path, example: &str, log: &mut Log) -> Result<Command> {
    process::write(&directory.join("main.go"), example)?;
    let go = |arguments: &[&str]| {
        let mut go = context.command("go");
        go.env_remove("GOFLAGS").env_remove("GOPROXY").current_dir(directory).args(arguments);
        go
    };
    log.run(&mut go(&["mod", "init", "example.test/list"]))?;
    for page in ["README.md", "docs/go.md"] {
        log.run(&mut go(&["mod", "edit", "-dropreplace", GO_PACKAGE, "-droprequire", GO_PACKAGE]))?;
        let commands = go_commands(&process::read(&context.top.join(page))?, &context.top);
        ensure(commands.len() == 2, &format!("{page} has not two commands of Go that add the package"))?;
        for command in commands {
            log.run(&mut go(&command.split_whitespace().skip(1).collect::<Vec<_>>()))?;
        }
        log.run(&mut go(&["vet", "."]))?;
    }
    Ok(go(&["run", "."]))
}

/// Returns the commands of a page that add the Go package of this checkout to a module.
fn go_commands(page: &str, top: &Path) -> Vec<String> {
    let commands = page.lines().map(str::trim).filter(|line| line.starts_with("go mod "));
    commands.map(|line| line.replace("=PATH/", &format!("={}/", top.display()))).collect()
}

fn rust(context: &Context, directory: &Path, example: &str, log: &mut Log) -> Result<Command> {
    let cargo = |arguments: &[&str]| {
        let mut cargo = context.cargo(arguments);
        cargo.current_dir(directory);
        cargo
    };
    log.run(&mut cargo(&["init", "--quiet", "--name", "example"]))?;
    log.run(cargo(&["add", "--quiet", "--path"]).arg(context.top.join("core")))?;
    std::fs::copy(context.top.join("Cargo.lock"), directory.join("Cargo.lock"))?;
    process::write(&directory.join("src/main.rs"), example)?;
    let mut run = cargo(&["run", "--quiet", "--target-dir"]);
    run.arg(context.target.join("readme")).arg("--");
    Ok(run)
}

/// Returns the first code block of a language in a page.
pub(crate) fn code_block(page: &str, language: &str) -> Result<String> {
    let block =
        page.split_once(&format!("\n```{language}\n")).and_then(|(_, rest)| rest.split_once("\n```\n"));
    Ok(block.ok_or_else(|| format!("the page has no code block of {language}"))?.0.to_owned() + "\n")
}

/// Returns the state of each group, and that the wait for group 51 has ended.
fn expected(holder: u32) -> String {
    let state = |group| if group == 52 { format!("held {holder}") } else { "free".to_owned() };
    let lines: Vec<String> = GROUPS.map(|group| format!("group {group} {}", state(group))).collect();
    lines.join("\n") + "\nfree"
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::{code_block, go_commands};

    #[test]
    fn commands_of_a_page_name_the_checkout() {
        let page =
            "1. Add it:\n\n   ```sh\n   make\n   go mod edit -replace m=PATH/go\n   go mod tidy\n   ```\n";
        assert_eq!(go_commands(page, Path::new("/src")), ["go mod edit -replace m=/src/go", "go mod tidy"]);
    }

    #[test]
    fn first_block_of_a_language_is_returned() {
        let page = "# Page\n\n```c\nint a;\n\nint b;\n```\n\n```go\npackage main\n```\n\n```c\nint c;\n```\n";
        assert_eq!(code_block(page, "c").unwrap(), "int a;\n\nint b;\n");
        assert_eq!(code_block(page, "go").unwrap(), "package main\n");
        assert_eq!(code_block(page, "rust").unwrap_err().to_string(), "the page has no code block of rust");
    }
}
