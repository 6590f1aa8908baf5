//! The virtual machine: its devices, its console and its exit status.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use super::say;
use crate::context::Context;
use crate::{Result, process};

/// The functions that the tests expect (tests/vm/guest/src/host.rs). Functions of one conventional PCI slot share a group.
#[rustfmt::skip]
const DEVICES: &[&str] = &[
    "-device", "VGA,addr=01.0",                                                        // the boot display: no test uses it
    "-device", "edu,addr=02.0",                                                        // a group of one function
    "-device", "edu,addr=03.0,multifunction=on", "-device", "edu,addr=03.1",           // a group of two
    // One beside a host driver: not viable.
    "-device", "edu,addr=04.0,multifunction=on", "-device", "e1000,addr=04.1,romfile=",
    "-device", "edu,addr=05.0",                                                        // a second group of one
    // Eight more, each alone.
    "-device", "edu,addr=0a.0", "-device", "edu,addr=0b.0", "-device", "edu,addr=0c.0", "-device", "edu,addr=0d.0",
    "-device", "edu,addr=0e.0", "-device", "edu,addr=0f.0", "-device", "edu,addr=10.0", "-device", "edu,addr=11.0",
    "-device", "edu,addr=12.0", "-device", "edu,addr=13.0",                            // two functions that get the ids of GPUs
    "-device", "edu,addr=14.0,multifunction=on", "-device", "edu,addr=14.1",           // a third GPU, with its audio function
    "-device", "ati-vga,addr=06.0,romfile=",                                           // vendor 1002, class 0300
    "-device", "nvme,serial=vm0,addr=08.0",                                            // a function that can be reset
    // A bridge in the group.
    "-device", "pcie-root-port,id=rp0,chassis=1,slot=1,addr=09.0,disable-acs=on", "-device", "edu,bus=rp0",
    // The memory of two NUMA nodes, and two functions on the second; the other functions have no NUMA node.
    "-object", "memory-backend-ram,id=near0,size=768M", "-object", "memory-backend-ram,id=near1,size=768M",
    "-numa", "node,nodeid=0,cpus=0,memdev=near0", "-numa", "node,nodeid=1,cpus=1,memdev=near1",
    "-device", "pxb-pcie,id=second,bus_nr=128,numa_node=1,addr=15.0",
    "-device", "pcie-root-port,id=rp1,bus=second,chassis=2,slot=2", "-device", "edu,bus=rp1",
    "-device", "pcie-root-port,id=rp2,bus=second,chassis=3,slot=3", "-device", "edu,bus=rp2",
];

/// An SR-IOV NIC, which QEMU has from 8.0 on. With an older QEMU, the tests that need one report that.
const SRIOV: &[&str] = &[
    "-device",
    "pcie-root-port,id=rp3,chassis=4,slot=4,bus=pcie.0,addr=16.0",
    "-device",
    "igb,bus=rp3,romfile=",
];

/// no_timer_check: a busy host is too slow for that check, and a kernel that fails it panics.
const KERNEL_WORDS: &str = "console=ttyS0 quiet loglevel=4 panic=-1 intel_iommu=on iommu=nopt random.trust_cpu=on \
    tsc=nowatchdog no_timer_check";

/// The exit status of timeout(1) after the limit.
const TIMED_OUT: i32 = 124;

/// A VM that is ready to boot.
pub(super) struct Machine {
    command: Command,
    accelerator: String,
    seconds: u64,
}

impl Machine {
    /// Describes the VM.
    pub(super) fn new(
        context: &Context,
        kernel: &Path,
        initrd: &Path,
        append: &str,
        seconds: u64,
    ) -> Result<Self> {
        let chosen = context.get("VFIO_PROBE_VM_ACCEL").filter(|value| !value.is_empty());
        let accelerator = chosen.map_or_else(|| "tcg".into(), |value| value.to_string_lossy().into_owned());
        let arguments: &[&str] = match accelerator.as_str() {
            // One host thread for all vCPUs: QEMU with several aborts under device resets.
            "tcg" => &["-machine", "q35", "-accel", "tcg,thread=single", "-cpu", "max"],
            "kvm" => &["-machine", "q35,kernel-irqchip=split", "-accel", "kvm", "-cpu", "host"],
            _ => return Err("VFIO_PROBE_VM_ACCEL is tcg or kvm".into()),
        };
        let mut command = context.command("timeout");
        command.args(["--foreground", "-k", "5", &seconds.to_string(), "qemu-system-x86_64"]).args(arguments);
        command.args([
            "-smp",
            "2",
            "-m",
            "1536",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
            "-no-reboot",
        ]);
        // `-device intel-iommu` comes before the devices behind it.
        command.args(["-monitor", "none", "-device", "intel-iommu"]).args(DEVICES);
        if process::output(context.command("qemu-system-x86_64").args(["-device", "help"]))?
            .contains("\"igb\"")
        {
            command.args(SRIOV);
        }
        command.arg("-kernel").arg(kernel).arg("-initrd").arg(initrd);
        command.args(["-append", &format!("{KERNEL_WORDS} {append}")]);
        Ok(Self { command, accelerator, seconds })
    }

    /// How the VM's processors run.
    pub(super) fn accelerator(&self) -> &str {
        &self.accelerator
    }

    /// Boots the VM, prints the output of its command and returns the command's exit status.
    pub(super) fn boot(mut self, context: &Context, work: &Path) -> Result<u8> {
        let (console, errors) = (work.join("console"), work.join("qemu"));
        // The first serial port carries the output of the kernel and of init, the second the command's.
        self.command.args([
            "-chardev",
            &format!("file,id=con,path={}", console.display()),
            "-serial",
            "chardev:con",
        ]);
        self.command.args(["-chardev", "stdio,id=out,signal=off", "-serial", "chardev:out"]);
        self.command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(File::create(&errors)?);
        let mut child = self.command.spawn().map_err(|error| format!("cannot run timeout: {error}"))?;
        let mut exit_status = None;
        let mut output = BufReader::new(child.stdout.take().ok_or("QEMU has no output")?);
        let mut bytes = Vec::new();
        while output.read_until(b'\n', &mut bytes)? > 0 {
            let line = String::from_utf8_lossy(&bytes);
            if let Some(version) = line.strip_prefix("@@kernel ") {
                say(&format!("the guest runs Linux {}", version.trim_end()));
            } else if let Some(status) = line.strip_prefix("@@exit ") {
                exit_status = status.trim().parse::<u8>().ok();
            } else if !line.starts_with("@@") {
                process::print(&line);
            }
            bytes.clear();
        }
        let status = child.wait()?;
        if let Some(status) = exit_status {
            return Ok(status);
        }
        match status.code() {
            Some(TIMED_OUT) => say(&format!("no answer within {} s (-t SECONDS allows more)", self.seconds)),
            Some(0) => say("the guest ended before the command did"),
            // QEMU aborts where KVM refuses a register of the host's processor.
            _ if self.accelerator == "kvm" => {
                say(
                    "QEMU ended by itself: the KVM of this host cannot run the VM; unset VFIO_PROBE_VM_ACCEL",
                );
            }
            _ => say("QEMU has ended before the command did"),
        }
        eprint!("{}", read(context, &errors, 1000));
        say("the end of the guest's console:");
        eprint!("{}", read(context, &console, 40));
        Ok(status.code().and_then(|code| u8::try_from(code).ok()).filter(|code| *code != 0).unwrap_or(1))
    }
}

/// Returns the last lines of a file, whatever bytes it has.
fn read(context: &Context, file: &Path, lines: u32) -> String {
    let output = context.command("tail").args(["-n", &lines.to_string()]).arg(file).output();
    output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
}
