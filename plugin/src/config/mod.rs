//! Every setting: a flag, an environment variable, a default.

pub(crate) mod pools_error;
pub(crate) mod pools_file;
pub(crate) mod pools_watch;
#[cfg(test)]
mod schema;

use crate::config::pools_error::PoolsError;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use clap::{Args, ValueEnum};
use std::path::PathBuf;
use std::time::Duration;
use vfio_plugin_policy::health::checks::Checks;
use vfio_plugin_policy::pools::Pools;
use vfio_plugin_policy::pools::selector::Selector;
use vfio_plugin_policy::pools::terms::{Busy, BusyAllocate};

/// Config that all commands share.
#[derive(Args, Clone, Debug)]
pub(crate) struct Config {
    /// Directory that holds the host's sys, dev and proc
    #[arg(long, global = true, value_name = "DIR", default_value = "/", env = "VFIO_DEVICE_PLUGIN_ROOT")]
    pub(crate) root: PathBuf,

    /// The kubelet's folder for device plugins
    #[arg(long, global = true, value_name = "DIR", default_value = kubelet_api::DEVICE_PLUGINS,
          env = "VFIO_DEVICE_PLUGIN_KUBELET_DIR")]
    pub(crate) kubelet_dir: PathBuf,

    /// The kubelet's pod resources socket
    #[arg(long, global = true, value_name = "SOCKET", default_value = kubelet_api::POD_RESOURCES,
          env = "VFIO_DEVICE_PLUGIN_POD_RESOURCES")]
    pub(crate) pod_resources: PathBuf,

    /// Time between two looks at the devices: 500ms, 1s, 2 (seconds); 50ms to 1h
    #[arg(long, global = true, value_name = "TIME", default_value = "1s", value_parser = interval,
          env = "VFIO_DEVICE_PLUGIN_INTERVAL")]
    pub(crate) interval: Duration,

    /// What the kubelet is told of a held device
    #[arg(long, global = true, value_parser = busy(), default_value = "attributed", env = "VFIO_DEVICE_PLUGIN_BUSY")]
    pub(crate) busy: Busy,

    /// What Allocate does with a device that is held after all
    #[arg(
        long,
        global = true,
        value_parser = busy_allocate(),
        default_value = "reject",
        env = "VFIO_DEVICE_PLUGIN_BUSY_ALLOCATE"
    )]
    pub(crate) busy_allocate: BusyAllocate,

    /// How long a device may be held without a pod, or without its node, before it is Unhealthy; and how far apart two looks
    /// have to find it lost
    #[arg(long, global = true, value_name = "TIME", default_value = "3s", value_parser = interval,
          env = "VFIO_DEVICE_PLUGIN_SETTLING")]
    pub(crate) settling: Duration,

    /// What makes a device Unhealthy beside being held, by comma: node (its node is missing), lost (its registers read all
    /// ones), aer (fatal PCIe errors); or none
    #[arg(
        long,
        global = true,
        value_name = "CHECKS",
        default_value = "node,lost",
        env = "VFIO_DEVICE_PLUGIN_CHECKS"
    )]
    pub(crate) checks: Checks,

    /// Time between two looks at a device's hardware, for the checks lost and aer
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = interval,
          env = "VFIO_DEVICE_PLUGIN_CHECKS_INTERVAL")]
    pub(crate) checks_interval: Duration,

    /// The longest time between two reads of the kubelet's assignments while a device is held or assigned. Changes on the node
    /// cause a read sooner
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = interval,
          env = "VFIO_DEVICE_PLUGIN_ASSIGNMENTS_INTERVAL")]
    pub(crate) assignments_interval: Duration,

    /// How long a kubelet may take after its start to know its pods
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = interval,
          env = "VFIO_DEVICE_PLUGIN_KUBELET_START")]
    pub(crate) kubelet_start: Duration,

    /// The selected devices.
    #[arg(
        help = "Devices to offer, VENDOR[:DEVICE][/CLASS] in hex, `*` for any; may be given more than once",
        long,
        global = true,
        value_name = "SELECTOR",
        default_value = "10de/03",
        value_delimiter = ',',
        env = "VFIO_DEVICE_PLUGIN_SELECT"
    )]
    pub(crate) select: Vec<Selector>,

    /// Pools of devices in a YAML file, in place of --select: resources, selectors, backends, CDI, policies
    #[arg(long, global = true, value_name = "FILE", env = "VFIO_DEVICE_PLUGIN_POOLS")]
    pub(crate) pools: Option<PathBuf>,

    /// What that file says, or the one pool of --select.
    #[arg(skip)]
    pub(crate) offered: Pools,

    /// UnknownReason it is not understood, where a running `serve` tells what is offered.
    #[arg(skip)]
    pub(crate) not_understood: Option<PoolsError>,

    /// Never open a group, only look: for containers that may not open device nodes
    #[arg(long, global = true, env = "VFIO_DEVICE_PLUGIN_NO_PROBE")]
    pub(crate) no_probe: bool,

    /// The pci.ids file that names come from [default: the first of /usr/pci.ids, /usr/share/misc/pci.ids and
    /// /usr/share/hwdata/pci.ids]
    #[arg(long, global = true, value_name = "FILE", env = "VFIO_DEVICE_PLUGIN_PCI_IDS")]
    pub(crate) pci_ids: Option<PathBuf>,

    /// Folder of the socket on which `serve` tells its state to the other commands, and of what it remembers
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/run/vfio-device-plugin",
        env = "VFIO_DEVICE_PLUGIN_RUN_DIR"
    )]
    pub(crate) run_dir: PathBuf,

    /// Folder of the CDI specs of pools that have them
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/var/run/cdi",
        env = "VFIO_DEVICE_PLUGIN_CDI_DIR"
    )]
    pub(crate) cdi_dir: PathBuf,

    /// How much to log
    #[arg(
        long,
        global = true,
        value_name = "LEVEL",
        default_value = "info",
        env = "VFIO_DEVICE_PLUGIN_LOG_LEVEL"
    )]
    pub(crate) log_level: tracing_subscriber::filter::LevelFilter,

    /// Form of the log
    #[arg(long, global = true, value_enum, default_value = "text", env = "VFIO_DEVICE_PLUGIN_LOG_FORMAT")]
    pub(crate) log_format: LogFormat,
}

impl Config {
    /// Reads the pools.
    ///
    /// # Errors
    /// The file cannot be read, or says something that is not understood: its name, the line, and what was expected.
    pub(crate) fn read_pools(&mut self) -> Result<(), PoolsError> {
        self.offered = match &self.pools {
            None => Pools::of_selectors(&self.select),
            Some(path) => pools_file::read(path)?,
        };
        Ok(())
    }

    /// The pools' file for messages.
    pub(crate) fn pools_file(&self) -> String {
        self.pools.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

/// The values of `--busy`, with their help.
fn busy() -> impl TypedValueParser<Value = Busy> {
    let values = Busy::ALL.map(|busy| PossibleValue::new(busy.as_str()).help(busy.help()));
    PossibleValuesParser::new(values)
        .map(|word| Busy::ALL.into_iter().find(|busy| busy.as_str() == word).unwrap_or(Busy::Attributed))
}

/// The values of `--busy-allocate`, with their help.
fn busy_allocate() -> impl TypedValueParser<Value = BusyAllocate> {
    let values = BusyAllocate::ALL.map(|policy| PossibleValue::new(policy.as_str()).help(policy.help()));
    PossibleValuesParser::new(values).map(|word| {
        BusyAllocate::ALL.into_iter().find(|policy| policy.as_str() == word).unwrap_or(BusyAllocate::Reject)
    })
}

/// Forms of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// A line of text an event
    Text,
    /// A JSON object an event
    Json,
}

/// Parses a time: a number with `ms` or `s`, or of seconds.
fn interval(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a time from 50ms to 1h, like 500ms, 1s or 2";
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let number: f64 = number.trim().parse().map_err(|_| EXPECTED.to_owned())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(EXPECTED.to_owned()),
    };
    if (0.05..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(EXPECTED.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_and_bounded() {
        for (text, millis) in
            [("1s", 1000), ("500ms", 500), ("2", 2000), ("0.05", 50), ("1h", 3_600_000), ("1.5s", 1500)]
        {
            assert_eq!(interval(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "49ms", "2h", "-1s", "fast", "1d", "NaN", "inf", "s"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }
}
