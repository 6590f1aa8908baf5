//! Checks of texts and scripts.

use crate::context::Context;
use crate::log::ensure;
use crate::{Result, process};

/// Checks the spelling with codespell.
///
/// # Errors
///
/// Fails if codespell cannot be installed.
pub fn spelling(context: &mut Context, _: &[String]) -> Result<bool> {
    let codespell = context.pip_tool("codespell==2.4.3")?.join("codespell");
    Ok(context.command(codespell).status()?.success())
}

/// Checks all shell scripts with shellcheck.
///
/// # Errors
///
/// Fails if git or shellcheck does not run, and if there is no script.
pub fn shell_scripts(context: &mut Context, _: &[String]) -> Result<bool> {
    let files = process::output(context.command("git").args(["ls-files", "-z"]))?;
    let scripts: Vec<&str> = files.split('\0').filter(|file| is_shell(context, file)).collect();
    ensure(!scripts.is_empty(), "there is no shell script")?;
    Ok(context.command("shellcheck").arg("-x").args(scripts).status()?.success())
}

fn is_shell(context: &Context, file: &str) -> bool {
    let text = std::fs::read(context.top.join(file)).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let is_script = ["#!/bin/sh", "#!/bin/bash"].iter().any(|begin| text.starts_with(begin));
    is_script || text.lines().any(|line| line.starts_with("# shellcheck shell"))
}

/// Checks the words of the programs' help texts.
///
/// # Errors
///
/// Fails if the check does not run.
pub fn help_texts(context: &mut Context, _: &[String]) -> Result<bool> {
    context.programs(&["vfio-device-plugin", "vfio-demo"])?;
    let mut check = context.command("scripts/check-language");
    for program in ["vfio-device-plugin", "vfio-demo"] {
        check.arg("--program").arg(context.debug(program));
    }
    Ok(check.status()?.success())
}
