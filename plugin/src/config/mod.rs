//! The settings of all commands: each is a flag, an environment variable and a default.

#[cfg(feature = "dra")]
pub(crate) mod dra;
mod listen;
pub(crate) mod pools_error;
pub(crate) mod pools_file;
pub(crate) mod pools_watch;
#[cfg(test)]
mod schema;
mod values;

use crate::config::pools_error::PoolsError;
use clap::{ArgAction, Args};
use std::os::unix::fs::FileTypeExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use values::{Check, busy, busy_allocate, interval};
use vfio_plugin_policy::health::checks::Checks;
use vfio_plugin_policy::pools::Pools;
use vfio_plugin_policy::pools::selector::Selector;
use vfio_plugin_policy::pools::terms::{Busy, BusyAllocate, OfferBy};

pub(crate) use listen::ListenAddress;
pub(crate) use values::LogFormat;

/// The settings. The first lines of the fields' comments are the help text.
#[derive(Args, Clone, Debug)]
pub(crate) struct Config {
    /// Directory that contains the host's sys, dev and proc
    #[arg(long, global = true, value_name = "DIR", default_value = "/", env = "VFIO_DEVICE_PLUGIN_ROOT")]
    pub(crate) root: PathBuf,

    /// The kubelet's root directory, its option --root-dir: /var/lib/k0s/kubelet for k0s
    #[arg(long, global = true, value_name = "DIR", default_value = kubelet_api::KUBELET_ROOT,
          env = "VFIO_DEVICE_PLUGIN_KUBELET_ROOT")]
    pub(crate) kubelet_root: PathBuf,

    /// The kubelet's directory for device plugins. Kubelets use the default with any root directory, unless kubelet.sock is in
    /// device-plugins of --kubelet-root
    #[arg(long, global = true, value_name = "DIR", default_value = kubelet_api::DEVICE_PLUGINS,
          env = "VFIO_DEVICE_PLUGIN_KUBELET_DIR")]
    pub(crate) kubelet_dir: PathBuf,

    /// Socket of the kubelet's pod resources API [default: pod-resources/kubelet.sock in --kubelet-root]
    #[arg(long, global = true, value_name = "SOCKET", default_value = kubelet_api::POD_RESOURCES, hide_default_value = true,
          env = "VFIO_DEVICE_PLUGIN_POD_RESOURCES")]
    pub(crate) pod_resources: PathBuf,

    /// Time between two checks of the devices, from 50ms to 1h: 500ms, 1s, or 2 for seconds
    #[arg(long, global = true, value_name = "TIME", default_value = "1s", value_parser = interval,
          env = "VFIO_DEVICE_PLUGIN_INTERVAL")]
    pub(crate) interval: Duration,

    /// Health that the kubelet receives for a held device
    #[arg(long, global = true, value_parser = busy(), default_value = "attributed", env = "VFIO_DEVICE_PLUGIN_BUSY")]
    pub(crate) busy: Busy,

    /// What Allocate does with a held device
    #[arg(
        long,
        global = true,
        value_parser = busy_allocate(),
        default_value = "reject",
        env = "VFIO_DEVICE_PLUGIN_BUSY_ALLOCATE"
    )]
    pub(crate) busy_allocate: BusyAllocate,

    /// How long a device must stay held without a pod, or without its device node, before it is Unhealthy; also the time
    /// between the two checks that confirm lost hardware
    #[arg(long, global = true, value_name = "TIME", default_value = "3s", value_parser = interval,
          env = "VFIO_DEVICE_PLUGIN_SETTLING")]
    pub(crate) settling: Duration,

    /// Faults that make a device Unhealthy, separated by commas
    #[arg(
        long,
        global = true,
        value_enum,
        value_delimiter = ',',
        action = ArgAction::Set,
        value_name = "CHECKS",
        default_value = "node,lost",
        env = "VFIO_DEVICE_PLUGIN_CHECKS"
    )]
    checks: Vec<Check>,

    /// Time between two checks of a device's hardware, for the checks lost, aer and framebuffer
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = interval,
          env = "VFIO_DEVICE_PLUGIN_CHECKS_INTERVAL")]
    pub(crate) checks_interval: Duration,

    /// The longest time between two reads of the kubelet's assignments while a device is held or assigned. Changes on the node
    /// cause a read sooner
    #[arg(long, global = true, value_name = "TIME", default_value = "10s", value_parser = interval,
          env = "VFIO_DEVICE_PLUGIN_ASSIGNMENTS_INTERVAL")]
    pub(crate) assignments_interval: Duration,

    /// How long a started kubelet may take to know its pods
    #[arg(long, global = true, value_name = "TIME", default_value = "60s", value_parser = interval,
          env = "VFIO_DEVICE_PLUGIN_KUBELET_START")]
    pub(crate) kubelet_start: Duration,

    /// The selectors of the devices to offer.
    #[arg(
        help = "Devices to offer: VENDOR[:DEVICE][/CLASS] in hex, `*` for any; may be set more than once",
        long,
        global = true,
        value_name = "SELECTOR",
        default_value = "10de/03",
        value_delimiter = ',',
        env = "VFIO_DEVICE_PLUGIN_SELECT"
    )]
    pub(crate) select: Vec<Selector>,

    /// YAML file of pools, instead of --select: resources, selectors, backends, CDI and policies
    #[arg(long, global = true, value_name = "FILE", env = "VFIO_DEVICE_PLUGIN_POOLS")]
    pub(crate) pools: Option<PathBuf>,

    /// The pools of that file, or the one pool of --select.
    #[arg(skip)]
    pub(crate) offered: Pools,

    /// The error of the pools file, if `offered` is what a running `serve` offers.
    #[arg(skip)]
    pub(crate) pools_error: Option<PoolsError>,

    /// Never open a group; for containers that may not open device nodes
    #[arg(long, global = true, env = "VFIO_DEVICE_PLUGIN_NO_PROBE")]
    pub(crate) no_probe: bool,

    /// pci.ids file that all names of models come from [default: the names that are built in, and the host's pci.ids for
    /// models that are not]
    #[arg(long, global = true, value_name = "FILE", env = "VFIO_DEVICE_PLUGIN_PCI_IDS")]
    pub(crate) pci_ids: Option<PathBuf>,

    /// Directory of the socket on which `serve` reports to the other commands, and of the state files of `serve`
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/run/vfio-device-plugin",
        env = "VFIO_DEVICE_PLUGIN_RUN_DIR"
    )]
    pub(crate) run_dir: PathBuf,

    /// Directory of the CDI specs, for pools that use CDI
    #[arg(
        long,
        global = true,
        value_name = "DIR",
        default_value = "/var/run/cdi",
        env = "VFIO_DEVICE_PLUGIN_CDI_DIR"
    )]
    pub(crate) cdi_dir: PathBuf,

    /// Address for metrics and probes over HTTP: IP:PORT, [IPv6]:PORT, or :PORT for all addresses [default: off]
    #[arg(
        long,
        global = true,
        value_name = "ADDR",
        value_parser = listen::listen,
        env = "VFIO_DEVICE_PLUGIN_LISTEN"
    )]
    pub(crate) listen: Option<ListenAddress>,

    /// The settings of the DRA driver.
    #[cfg(feature = "dra")]
    #[command(flatten)]
    pub(crate) dra: dra::DraOptions,

    /// Least severe events to log: off, error, warn, info, debug, or trace, which logs the same as debug
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
    /// Checks what clap cannot: words that exclude each other.
    ///
    /// # Errors
    /// The flag, and what was expected.
    pub(crate) fn validate(&self) -> Result<(), String> {
        #[cfg(feature = "dra")]
        self.dra.validate()?;
        values::checks(&self.checks).map(|_| ())
    }

    /// Returns whether any pool offers its devices by DRA.
    pub(crate) fn offers_by_dra(&self) -> bool {
        self.offered.offer_by(OfferBy::Dra)
    }

    /// Returns how the devices of a pool without a key `offer` are offered.
    pub(crate) fn default_offer(&self) -> OfferBy {
        #[cfg(feature = "dra")]
        return self.dra.offer;
        #[cfg(not(feature = "dra"))]
        return OfferBy::DevicePlugin;
    }

    /// Returns the faults that make a device Unhealthy.
    pub(crate) fn checks(&self) -> Checks {
        // `validate` refuses the words for which this fails.
        values::checks(&self.checks).unwrap_or(Checks {
            node: false,
            lost: false,
            aer: false,
            framebuffer: false,
        })
    }

    /// Sets the paths that come from the kubelet's root directory: the socket of pod resources, and the directory for device
    /// plugins if the kubelet's socket is in that root. Otherwise the directory is the kubelet's constant. True keeps a path that
    /// was set.
    pub(crate) fn derive_kubelet_paths(&mut self, keep_dir: bool, keep_pod_resources: bool) {
        let in_root = self.kubelet_root.join("device-plugins");
        if !keep_dir && is_socket(&in_root.join(kubelet_api::KUBELET_SOCKET)) {
            self.kubelet_dir = in_root;
        }
        if !keep_pod_resources {
            self.pod_resources = self.kubelet_root.join(kubelet_api::POD_RESOURCES);
        }
    }

    /// Reads the pools.
    ///
    /// # Errors
    /// The file cannot be read, or has an error: its line, and what was expected.
    pub(crate) fn read_pools(&mut self) -> Result<(), PoolsError> {
        self.offered = match &self.pools {
            None => Pools::of_selectors(&self.select, self.default_offer()),
            Some(path) => pools_file::read(path, self.default_offer())?,
        };
        Ok(())
    }

    /// Checks that `serve` can offer the pools as they say.
    ///
    /// # Errors
    /// A pool offers its devices by DRA, and the node's name is not set.
    pub(crate) fn check_pools(&self) -> Result<(), PoolsError> {
        #[cfg(feature = "dra")]
        if self.offers_by_dra() && self.dra.node.is_none() {
            let text = "a pool has `offer: dra`, which needs --node: the name of this Kubernetes node";
            return Err(PoolsError::of_file(text));
        }
        Ok(())
    }

    /// Returns the path of the pools file for messages; empty without one.
    pub(crate) fn pools_file(&self) -> String {
        self.pools.as_ref().map(|path| path.display().to_string()).unwrap_or_default()
    }
}

fn is_socket(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.file_type().is_socket())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser, Debug)]
    struct Flags {
        #[command(flatten)]
        config: Config,
    }

    fn parse(words: &[&str]) -> Result<Config, String> {
        let words = ["plugin"].into_iter().chain(words.iter().copied());
        let config = Flags::try_parse_from(words).map_err(|error| error.to_string())?.config;
        config.validate().map(|()| config)
    }

    #[test]
    fn checks_are_a_list_of_known_words() {
        for (words, node, lost, aer, framebuffer) in [
            (&[][..], true, true, false, false),
            (&["--checks", "none"], false, false, false, false),
            (&["--checks", "node"], true, false, false, false),
            (&["--checks", "lost,aer"], false, true, true, false),
            (&["--checks", "framebuffer"], false, false, false, true),
            (&["--checks", "aer,node,lost,aer"], true, true, true, false),
        ] {
            let expected = Checks { node, lost, aer, framebuffer };
            assert_eq!(parse(words).unwrap().checks(), expected, "{words:?}");
        }
        for text in ["", "all", "lost,", "LOST"] {
            let error = parse(&["--checks", text]).unwrap_err();
            assert!(
                error.contains("[possible values: node, lost, aer, framebuffer, none]"),
                "{text}: {error}"
            );
        }
        assert!(parse(&["--checks", "none,lost"]).unwrap_err().contains("`none` excludes the other checks"));
        assert!(parse(&["--checks", "lost", "--checks", "aer"]).is_err(), "once, as any setting");
    }

    /// Parses a root directory and derives the paths from it.
    fn derived(root: &str, keep_dir: bool, keep_pod_resources: bool) -> (String, String) {
        let mut config = parse(&["--kubelet-root", root, "--kubelet-dir", "/set"]).unwrap();
        if !keep_dir {
            config.kubelet_dir = kubelet_api::DEVICE_PLUGINS.into();
        }
        config.derive_kubelet_paths(keep_dir, keep_pod_resources);
        (config.kubelet_dir.display().to_string(), config.pod_resources.display().to_string())
    }

    #[test]
    fn pod_resources_follow_the_kubelets_root() {
        for root in [
            "/var/lib/kubelet",
            "/var/lib/k0s/kubelet",
            "/var/snap/microk8s/common/var/lib/kubelet",
            "/var/lib/rancher/rke2/agent/kubelet",
            "/var/data/kubelet",
        ] {
            let (kubelet_dir, pod_resources) = derived(root, false, false);
            assert_eq!(pod_resources, format!("{root}/pod-resources/kubelet.sock"));
            // DevicePluginPath is a constant of the kubelet; no host of these tests runs a kubelet with such a root.
            assert_eq!(kubelet_dir, "/var/lib/kubelet/device-plugins", "{root}");
        }
    }

    #[test]
    fn kubelet_socket_below_the_root_moves_the_directory() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().to_str().unwrap().to_owned();
        let directory = root.path().join("device-plugins");
        std::fs::create_dir(&directory).unwrap();
        assert_eq!(derived(&path, false, false).0, "/var/lib/kubelet/device-plugins", "an empty directory");
        std::fs::write(directory.join("kubelet.sock"), "").unwrap();
        assert_eq!(derived(&path, false, false).0, "/var/lib/kubelet/device-plugins", "a file");
        std::fs::remove_file(directory.join("kubelet.sock")).unwrap();
        let _listener = std::os::unix::net::UnixListener::bind(directory.join("kubelet.sock")).unwrap();
        assert_eq!(derived(&path, false, false).0, directory.display().to_string());
        assert_eq!(derived(&path, true, false).0, "/set", "a path that was set stays");
        let kept = derived(&path, true, true).1;
        assert!(!kept.starts_with(&path), "{kept}");
    }
}
