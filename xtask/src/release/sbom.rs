//! Makes the bill of materials of the program with cargo-cyclonedx.

use super::epoch;
use super::target::Target;
use crate::context::Context;
use crate::{Result, process};

/// From crates.io. It reads cargo's metadata and runs no code of the crates.
const CYCLONEDX: (&str, &str) = ("cargo-cyclonedx", "0.5.9");

/// Returns the bill of materials of the plugin for a target, as JSON of CycloneDX.
///
/// # Errors
///
/// Fails if the tool cannot be installed or fails.
pub fn of_program(context: &Context, target: &Target) -> Result<String> {
    let programs = context.cargo_tool(CYCLONEDX.0, CYCLONEDX.1)?;
    let mut tool = context.command(programs.join(CYCLONEDX.0));
    tool.args(["cyclonedx", "--quiet", "--format", "json", "--no-build-deps", "--target", target.triple]);
    tool.args(["--override-filename", "vfio-probe-sbom", "--manifest-path", "plugin/Cargo.toml"]);
    // The number of the document is derived from its content, and its time is that of the commit.
    tool.env("SOURCE_DATE_EPOCH", epoch(context)?.to_string());
    let run = process::run(&mut tool);
    // The tool writes beside the manifest of each package that it describes.
    let mut bill = None;
    for manifest in ["core", "ffi", "plugin", "plugin/api", "plugin/policy", "xtask", "tests/node"]
        .map(|name| context.top.join(name))
    {
        let file = manifest.join("vfio-probe-sbom.json");
        if manifest.ends_with("plugin") && file.exists() {
            bill = Some(process::read(&file)?);
        }
        let _ = std::fs::remove_file(file);
    }
    run?;
    bill.ok_or_else(|| "cargo-cyclonedx has written no bill of materials of the plugin".into())
}
