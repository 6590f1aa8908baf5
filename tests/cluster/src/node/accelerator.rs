//! Whether the node's processor is emulated, or the host's by KVM.

use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use xtask::context::Context;

use crate::Result;
use crate::parts::Parts;
use crate::process::{Daemon, tail};

/// How long the guest of the trial has to boot with KVM. It takes 2 s with hardware support. A KVM that interprets the guest's
/// kernel (kvm_pvm) takes longer than the emulation.
const TRIAL: Duration = Duration::from_secs(15);
/// What node/initramfs prints in a trial.
const PASSED: &str = "@@trial passed";
/// The environment variable of the choice.
const VARIABLE: &str = "VFIO_PROBE_VM_ACCEL";

/// How the node's processor runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accelerator {
    /// QEMU's emulation.
    Tcg,
    /// The host's processor.
    Kvm,
}

impl Accelerator {
    /// Chooses KVM if a guest boots with it, otherwise the emulation. The environment variable `VFIO_PROBE_VM_ACCEL` can ask for
    /// one of them.
    ///
    /// # Errors
    ///
    /// Fails if the variable asks for KVM and no guest boots with it, or has another value.
    pub fn choose(context: &Context, parts: &Parts, work: &Path) -> Result<Self> {
        let wanted = context.get(VARIABLE).map(|value| value.to_string_lossy().into_owned());
        match wanted.as_deref() {
            Some("tcg") => Ok(Self::Tcg),
            Some("kvm") => trial(context, parts, work).map(|()| Self::Kvm).map_err(|error| {
                format!("no guest boots with KVM on this host; unset {VARIABLE}: {error}").into()
            }),
            None | Some("") => Ok(if trial(context, parts, work).is_ok() { Self::Kvm } else { Self::Tcg }),
            Some(other) => Err(format!("{VARIABLE} is {other}; it can be tcg or kvm").into()),
        }
    }

    /// Returns QEMU's arguments.
    #[must_use]
    pub fn arguments(self) -> &'static [&'static str] {
        match self {
            // One thread: with several, the node's kernel panics in text_poke when it loads modules.
            Self::Tcg => {
                &["-machine", "q35", "-accel", "tcg,thread=single,tb-size=512", "-cpu", "max", "-smp", "1"]
            }
            Self::Kvm => {
                &["-machine", "q35,kernel-irqchip=split", "-accel", "kvm", "-cpu", "host", "-smp", "2"]
            }
        }
    }

    /// Returns the name for a person.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Tcg => "emulated processor",
            Self::Kvm => "KVM",
        }
    }
}

/// Boots a guest without a disk. That a VM can be created says nothing: some hosts then abort.
fn trial(context: &Context, parts: &Parts, work: &Path) -> Result {
    let accessible = std::fs::File::options().read(true).write(true).open("/dev/kvm");
    accessible.map_err(|error| format!("cannot open /dev/kvm: {error}"))?;
    let console = work.join("trial-console.log");
    let log = work.join("trial-qemu.log");
    let mut qemu: Command = context.command("qemu-system-x86_64");
    qemu.args(Accelerator::Kvm.arguments()).args([
        "-m",
        "512",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
    ]);
    qemu.args(["-no-reboot", "-monitor", "none", "-device", "intel-iommu"]);
    qemu.args([
        "-serial",
        &format!("file:{}", console.display()),
        "-append",
        "console=ttyS0 quiet panic=-1 cluster.trial",
    ]);
    qemu.arg("-kernel").arg(&parts.kernel).arg("-initrd").arg(&parts.initramfs).stdin(Stdio::null());
    let mut guest = Daemon::start(context, "QEMU with KVM", &log, &qemu)?;
    let ended = guest.wait(TRIAL);
    guest.kill();
    let text = tail(&console, 200);
    if text.contains(PASSED) {
        return Ok(());
    }
    let errors = tail(&log, 5);
    ended?;
    Err(format!("QEMU has ended before the guest was up: {errors}").into())
}
