//! The VM as a host: binds functions and runs processes that hold groups.

use anyhow::{Context, Result, bail, ensure};
use rustix::fs::inotify::{self, CreateFlags, ReadFlags, WatchFlags};
use rustix::io::Errno;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Alone in its group.
pub(crate) const ALONE: &str = "0000:00:02.0";
/// Two functions that share a group.
pub(crate) const FIRST: &str = "0000:00:03.0";
pub(crate) const SECOND: &str = "0000:00:03.1";
/// Shares its group with [`NEIGHBOUR`].
pub(crate) const BESIDE: &str = "0000:00:04.0";
/// An e1000, bound to its host driver.
pub(crate) const NEIGHBOUR: &str = "0000:00:04.1";
/// Alone in its group; bound while the plugin runs.
pub(crate) const LATE: &str = "0000:00:05.0";
/// Below a root port that shares its group.
pub(crate) const BELOW_BRIDGE: &str = "0000:01:00.0";
/// Bound at the start of each test: one alone, the two of a group, and the one beside a host driver.
pub(crate) const BOUND: [&str; 4] = [ALONE, FIRST, SECOND, BESIDE];
/// Each alone in its group; bound by tests that need a node with eight devices.
pub(crate) const EIGHT: [&str; 8] = [
    "0000:00:0a.0",
    "0000:00:0b.0",
    "0000:00:0c.0",
    "0000:00:0d.0",
    "0000:00:0e.0",
    "0000:00:0f.0",
    "0000:00:10.0",
    "0000:00:11.0",
];

/// Functions that fakeid turns into GPUs, and the audio function beside the last of them.
pub(crate) const GPUS: [&str; 3] = ["0000:00:12.0", "0000:00:13.0", "0000:00:14.0"];
pub(crate) const GPU_SOUND: &str = "0000:00:14.1";

/// Software emulation is slow. Times that matter are printed in milliseconds.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

fn device(address: &str) -> PathBuf {
    PathBuf::from("/sys/bus/pci/devices").join(address)
}

/// Binds a function to vfio-pci.
pub(crate) fn bind(address: &str) -> Result<()> {
    bind_to(address, "vfio-pci")
}

/// Binds a function to a driver, and unbinds it from another driver first.
pub(crate) fn bind_to(address: &str, driver: &str) -> Result<()> {
    if driver_of(address).as_deref() == Some(driver) {
        return Ok(());
    }
    if driver_of(address).is_some() {
        unbind(address)?;
    }
    fs::write(device(address).join("driver_override"), driver).context("driver_override")?;
    fs::write("/sys/bus/pci/drivers_probe", address)
        .with_context(|| format!("cannot bind {address} to {driver}"))?;
    ensure!(driver_of(address).as_deref() == Some(driver), "{address} was not bound to {driver}");
    Ok(())
}

/// Unbinds a function. Blocks while its device is held, as the kernel does.
pub(crate) fn unbind(address: &str) -> Result<()> {
    match fs::write(device(address).join("driver/unbind"), address) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error).context("unbind"),
        _ => Ok(()),
    }
}

/// Returns the driver of a function.
pub(crate) fn driver_of(address: &str) -> Option<String> {
    let link = fs::read_link(device(address).join("driver")).ok()?;
    Some(link.file_name()?.to_string_lossy().into_owned())
}

/// Returns the group of a PCI function.
pub(crate) fn group(address: &str) -> Result<String> {
    group_of("pci", address)
}

/// Returns the group of a device of any bus.
pub(crate) fn group_of(bus: &str, device: &str) -> Result<String> {
    let link = fs::read_link(format!("/sys/bus/{bus}/devices/{device}/iommu_group"))
        .with_context(|| format!("{device}: iommu_group"))?;
    Ok(link.file_name().unwrap_or_default().to_string_lossy().into_owned())
}

/// Returns the device node (cdev) of a PCI function.
pub(crate) fn cdev(address: &str) -> Result<String> {
    cdev_of("pci", address)
}

/// Returns the device node (cdev) of a device of any bus.
pub(crate) fn cdev_of(bus: &str, device: &str) -> Result<String> {
    let dir = format!("/sys/bus/{bus}/devices/{device}/vfio-dev");
    let entry = fs::read_dir(&dir).context(dir)?.next().context("an empty dir")??;
    Ok(format!("/dev/vfio/devices/{}", entry.file_name().to_string_lossy()))
}

/// Returns the functions near a NUMA node except bridges, sorted by address.
pub(crate) fn near(node: u32) -> Result<Vec<String>> {
    functions(|dir| {
        let read = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
        read("numa_node").trim() == node.to_string() && !read("class").starts_with("0x06")
    })
}

/// Returns the SR-IOV NIC, an igb (8086:10c9), if QEMU has it.
pub(crate) fn sriov_nic() -> Option<String> {
    let is_nic = |dir: &Path| {
        let id = |name: &str| fs::read_to_string(dir.join(name)).unwrap_or_default();
        id("vendor").trim() == "0x8086" && id("device").trim() == "0x10c9"
    };
    functions(is_nic).ok()?.into_iter().next()
}

fn functions(wanted: impl Fn(&Path) -> bool) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/sys/bus/pci/devices")? {
        let entry = entry?;
        if wanted(&entry.path()) {
            found.push(entry.file_name().to_string_lossy().into_owned());
        }
    }
    found.sort();
    Ok(found)
}

/// A kernel module from the kernel's directory. It is unloaded when dropped.
pub(crate) struct Module(&'static str);

impl Module {
    /// Loads a module with a parameter; an empty text is no parameter.
    pub(crate) fn load(name: &'static str, parameter: &str) -> Result<Self> {
        let mut command = Command::new("insmod");
        command.arg(format!("/modules/{name}.ko")).args(Some(parameter).filter(|text| !text.is_empty()));
        let output = command.output().context("insmod")?;
        ensure!(output.status.success(), "insmod {name}: {}", String::from_utf8_lossy(&output.stderr));
        Ok(Self(name))
    }
}

impl Drop for Module {
    fn drop(&mut self) {
        match Command::new("rmmod").arg(self.0).status() {
            Ok(status) if status.success() => {}
            other => println!("cannot unload {}: {other:?}", self.0),
        }
    }
}

/// Returns the `enable` of a function.
pub(crate) fn enable(address: &str) -> Result<String> {
    Ok(fs::read_to_string(device(address).join("enable"))?.trim().to_owned())
}

/// Binds and unbinds everything as it is at the start of each test.
pub(crate) fn reset() {
    for address in BOUND {
        if let Err(error) = bind(address) {
            println!("cannot bind {address}: {error:#}");
        }
    }
    let unbound = EIGHT.into_iter().chain([LATE, BELOW_BRIDGE]).map(|address| (address, None));
    for (address, driver) in unbound.chain([(NEIGHBOUR, Some("e1000"))]) {
        let done = driver.map_or_else(|| unbind(address), |driver| bind_to(address, driver));
        if let Err(error) = done {
            println!("cannot reset {address}: {error:#}");
        }
    }
}

/// A process that holds a group. It is killed when dropped.
pub(crate) struct Holder(Child);

impl Holder {
    /// Runs `holder` with these arguments and waits until it holds.
    pub(crate) fn start(words: &[&str]) -> Result<Self> {
        Self::run(Command::new("/bin/holder").args(words))
    }

    /// Runs a command that ends in `holder`, and waits until it holds.
    pub(crate) fn run(command: &mut Command) -> Result<Self> {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().context("holder")?;
        let mut line = String::new();
        if let Some(out) = child.stdout.take() {
            BufReader::new(out).read_line(&mut line)?;
        }
        if line.trim() != "held" {
            let mut error = String::new();
            if let Some(mut pipe) = child.stderr.take() {
                pipe.read_to_string(&mut error)?;
            }
            let _ = child.wait();
            bail!("the holder does not hold the group: {error}");
        }
        Ok(Self(child))
    }

    /// Holds a function as a running VM does.
    pub(crate) fn full(address: &str) -> Result<Self> {
        Self::start(&["full", &group(address)?, address])
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }

    /// Kills the process with SIGKILL. Returns when that was.
    pub(crate) fn kill(mut self) -> Instant {
        let now = Instant::now();
        let _ = self.0.kill();
        now
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Counts successful opens of a group's device node by any process.
pub(crate) struct Opens {
    inotify: OwnedFd,
    count: u64,
}

impl Opens {
    /// Starts to count.
    pub(crate) fn of(address: &str) -> Result<Self> {
        let inotify = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
        // Closes are watched too: the kernel merges an event into an equal pending one. Only one process can open a
        // group at a time, so that opens and closes alternate.
        let what = WatchFlags::OPEN | WatchFlags::CLOSE_WRITE;
        inotify::add_watch(&inotify, format!("/dev/vfio/{}", group(address)?), what)?;
        Ok(Self { inotify, count: 0 })
    }

    /// Returns the number of opens since the start.
    pub(crate) fn so_far(&mut self) -> Result<u64> {
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(&self.inotify, &mut buffer);
        loop {
            match events.next() {
                Ok(event) => {
                    ensure!(!event.events().contains(ReadFlags::QUEUE_OVERFLOW), "too many opens to count");
                    self.count += u64::from(event.events().contains(ReadFlags::OPEN));
                }
                Err(Errno::AGAIN) => return Ok(self.count),
                Err(error) => return Err(error).context("inotify"),
            }
        }
    }
}

/// Waits until a condition holds. Returns how long that took.
pub(crate) fn wait_until(what: &str, mut holds: impl FnMut() -> Result<bool>) -> Result<Duration> {
    let began = Instant::now();
    while began.elapsed() < PATIENCE {
        if holds()? {
            return Ok(began.elapsed());
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    bail!("not within {PATIENCE:?}: {what}")
}
