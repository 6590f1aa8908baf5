//! `dra`: prints what a driver for Dynamic Resource Allocation publishes of this node.

mod classes;
mod devices;
mod slices;

use crate::commands::stdout;
use crate::config::Config;
use clap::Subcommand;
use serde::Serialize;

/// What to print.
#[derive(Subcommand, Debug)]
pub(crate) enum DraCommand {
    /// Print the ResourceSlices of this node as JSON, and on standard error why devices are withheld
    Slices {
        /// Version of the API server, from 1.34 on; without taints and counters before 1.36
        #[arg(long, value_name = "VERSION", default_value = "1.37", value_parser = minor)]
        kubernetes: u32,
        /// Probe each group by opening its device node; a VM that starts at that moment can fail
        #[arg(long)]
        probe: bool,
    },
    /// Print a DeviceClass for each resource of this node as JSON
    Classes {
        /// Let the classes also serve pods that request the resources by name (extendedResourceName)
        #[arg(long)]
        extended: bool,
    },
}

/// Runs the command and returns the exit code.
pub(crate) fn run(config: &Config, command: &DraCommand) -> anyhow::Result<u8> {
    match command {
        DraCommand::Slices { kubernetes, probe } => slices::run(config, *kubernetes, *probe),
        DraCommand::Classes { extended } => classes::run(config, *extended),
    }
}

/// A list of objects, in the form that `kubectl` reads and prints.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct List<'a, T> {
    api_version: &'static str,
    kind: &'static str,
    items: &'a [T],
}

fn print<T: Serialize>(items: &[T]) -> anyhow::Result<()> {
    let list = List { api_version: "v1", kind: "List", items };
    stdout::print(&(serde_json::to_string_pretty(&list)? + "\n"))
}

/// Parses the version of an API server to its second number.
fn minor(text: &str) -> Result<u32, String> {
    let minor = text.strip_prefix("1.").and_then(|minor| minor.parse().ok());
    minor.filter(|minor| *minor >= 34).ok_or_else(|| "expected a version like 1.37, from 1.34 on".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_with_the_api_are_accepted() {
        assert_eq!(["1.34", "1.37", "1.40"].map(|text| minor(text).ok()), [Some(34), Some(37), Some(40)]);
        for text in ["1.33", "2.0", "1", "1.", "v1.37", "1.37.2", "1.-1"] {
            assert!(minor(text).is_err(), "{text}");
        }
    }
}
