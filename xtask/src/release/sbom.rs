//! Makes the bill of materials of the program with cargo-cyclonedx.

use super::target::Target;
use super::{epoch, in_worktree};
use crate::context::Context;
use crate::{Result, process};

/// From crates.io. It reads cargo's metadata and runs no code of the crates.
const CYCLONEDX: (&str, &str) = ("cargo-cyclonedx", "0.5.9");
const NAME: &str = "vfio-probe-sbom";

/// Returns the bill of materials of the plugin of the commit HEAD for a target, as JSON of CycloneDX.
///
/// # Errors
///
/// Fails if the tool cannot be installed or fails.
pub fn of_program(context: &Context, target: &Target) -> Result<String> {
    let programs = context.cargo_tool(CYCLONEDX.0, CYCLONEDX.1)?;
    // The tool writes a file beside each manifest of the workspace, so it runs in a copy.
    in_worktree(context, |sources| {
        let mut tool = context.command(programs.join(CYCLONEDX.0));
        tool.current_dir(sources).env("SOURCE_DATE_EPOCH", epoch(context)?.to_string());
        tool.args(["cyclonedx", "--quiet", "--format", "json", "--spec-version", "1.5", "--no-build-deps"]);
        tool.args(["--target", target.triple, "--override-filename", NAME]);
        process::run(tool.args(["--manifest-path", "plugin/Cargo.toml"]))?;
        let text = process::read(&sources.join("plugin").join(format!("{NAME}.json")))?;
        // The directory of the copy is in the references.
        Ok(text.replace(&sources.display().to_string(), "/vfio-probe"))
    })
}
