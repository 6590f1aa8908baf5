//! `dra`: prints what a driver for Dynamic Resource Allocation publishes of this node.

mod classes;
mod devices;
mod slices;

use crate::commands::stdout;
use crate::config::Config;
use clap::Subcommand;
use serde::Serialize;
use vfio_plugin_policy::dra::names::{DraDriver, is_subdomain};

/// The driver's name if none is set.
const DRIVER: &str = "vfio-probe.github.io";

/// What to print.
#[derive(Subcommand, Debug)]
pub(crate) enum DraCommand {
    /// Print the ResourceSlices of this node as JSON, and on standard error why devices are withheld
    Slices {
        /// Name of the driver: a DNS name of at most 63 characters
        #[arg(long, value_name = "NAME", default_value = DRIVER)]
        dra_driver: DraDriver,
        /// Name of the Kubernetes node [default: the host's name]
        #[arg(long, value_name = "NAME", value_parser = node_name)]
        node: Option<String>,
        /// Version of the API server, from 1.34 on; without taints and counters before 1.36
        #[arg(long, value_name = "VERSION", default_value = "1.37", value_parser = minor)]
        kubernetes: u32,
        /// Probe each group by opening its device node; a VM that starts at that moment can fail
        #[arg(long)]
        probe: bool,
    },
    /// Print a DeviceClass for each resource of this node as JSON
    Classes {
        /// Name of the driver: a DNS name of at most 63 characters
        #[arg(long, value_name = "NAME", default_value = DRIVER)]
        dra_driver: DraDriver,
        /// Let the classes also serve pods that request the resources by name (extendedResourceName)
        #[arg(long)]
        extended: bool,
    },
}

/// Runs the command and returns the exit code.
pub(crate) fn run(config: &Config, command: &DraCommand) -> anyhow::Result<u8> {
    match command {
        DraCommand::Slices { dra_driver, node, kubernetes, probe } => {
            slices::run(config, dra_driver, node.clone(), *kubernetes, *probe)
        }
        DraCommand::Classes { dra_driver, extended } => classes::run(config, dra_driver, *extended),
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

fn node_name(text: &str) -> Result<String, String> {
    is_subdomain(text).then(|| text.to_owned()).ok_or_else(|| "expected a DNS name in lower case".to_owned())
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

    #[test]
    fn default_driver_is_valid() {
        assert_eq!(DRIVER.parse::<DraDriver>().unwrap().as_str(), DRIVER);
    }
}
