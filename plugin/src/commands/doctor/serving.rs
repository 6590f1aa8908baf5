//! Checks the running `serve`, and adds what only it can know.

use crate::commands::doctor::finding::{Code, Findings};
use crate::commands::doctor::holders;
use crate::commands::doctor::pods::PodLookup;
use crate::config::Config;
use crate::files::{is_kept_aside, names};
use crate::problems::ProblemCode;
use crate::status::readiness::Readiness;
use crate::status::report::{DeviceReport, StatusReport};
use crate::status::words::StateWord;
use vfio_plugin_policy::device::DeviceState;
use vfio_plugin_policy::health::reason::Reason;
use vfio_plugin_policy::pools::terms::OfferBy;
use vfio_probe::DeviceId;

/// Registrations in a row that the kubelet accepted without opening a stream, before that is a finding.
const UNFOLLOWED: u32 = 2;

/// The advice for a file that was kept aside.
const KEPT_ASIDE: &str = "Remove the file when you need it no more. Assignments that only it had are forgotten; an Allocate still finds held devices.";

/// Adds what is wrong with the running `serve`.
pub(super) fn examine(
    config: &Config,
    serving: &anyhow::Result<StatusReport>,
    devices: &[DeviceState],
    pods: &PodLookup<'_>,
    findings: &mut Findings,
) {
    let report = match serving {
        Ok(report) => report,
        Err(error) => {
            let advice = match config.run_dir.metadata() {
                Ok(metadata) if !metadata.is_dir() => {
                    "--run-dir is no directory, so serve keeps no state and answers nowhere: rename what is there."
                }
                _ => "Start serve, or set --run-dir to its run directory.",
            };
            for kept in names(&config.run_dir).iter().filter(|name| is_kept_aside(name)) {
                let about = config.run_dir.join(kept).display().to_string();
                findings.warn(
                    Code::StateFileKeptAside,
                    about,
                    "is a file that an earlier serve could not use",
                    KEPT_ASIDE,
                );
            }
            return findings.warn(Code::ServeNotRunning, "serve", format!("{error:#}"), advice);
        }
    };
    let unfollowed = report.resources.iter().find(|resource| resource.unfollowed >= UNFOLLOWED);
    if let Some(resource) = unfollowed {
        let what = format!(
            "accepted the registration of {} {} times in a row and never opened a stream",
            resource.name, resource.unfollowed
        );
        let advice = "It is too old: kubelets before 1.26 send a socket path as HTTP/2 authority. Kubernetes 1.26 or newer is needed.";
        findings.broken(Code::KubeletTooOld, "kubelet", what, advice);
    } else {
        for reason in Readiness::from(report).unready_devices(config.interval) {
            findings.warn(
                Code::ServeNotReady,
                "serve",
                reason,
                "Look into the log of serve, and into the kubelet's log.",
            );
        }
    }
    for problem in &report.problems {
        // Also found by a check that says more.
        if findings.mention(&problem.about) {
            continue;
        }
        if let Some(advice) = advice(problem.code) {
            findings.warn(Code::Problem(problem.code), &problem.about, &problem.text, advice);
        }
    }
    if report.version != env!("CARGO_PKG_VERSION") {
        let what = format!("is version {}, and this is {}", report.version, env!("CARGO_PKG_VERSION"));
        findings.warn(Code::ServeVersionDiffers, "serve", what, "Run the command from the same image.");
    }
    // The scheduler subtracts such a device twice: as requested and as not allocatable.
    let is_lost = |device: &DeviceReport| device.typed_reason == Some(Reason::Lost);
    let twice = |device: &&DeviceReport| {
        device.assignment.is_some()
            && device.offer == OfferBy::DevicePlugin
            && device.is_unhealthy()
            && device.state == StateWord::Held
            && !is_lost(device)
    };
    let lost: Vec<&str> = report.devices.iter().filter(twice).map(|device| device.address.as_str()).collect();
    if !lost.is_empty() {
        let what = format!(
            "reports {} of running pods as Unhealthy ({}): allocatable - requested is {} too low",
            if lost.len() == 1 { "a device".to_owned() } else { format!("{} devices", lost.len()) },
            lost.join(", "),
            lost.len()
        );
        let advice = format!(
            "Its policy is --busy {}, or `busy` of a pool; with attributed, assigned devices stay Healthy.",
            report.busy
        );
        findings.warn(Code::CountedTwice, "serve", what, advice);
    }
    for device in &report.devices {
        if let Some(reason) = &device.reason
            && is_unbinding(device, devices)
        {
            let advice = holders::advice_about_unbinding(&device.address, &device.holders, pods);
            findings.warn(Code::Unbinding, &device.address, reason, advice);
        }
        if let Some(reason) = &device.reason
            && device.is_unhealthy()
            && (device.assignment.is_none() || is_lost(device))
            && !findings.mention(&device.address)
        {
            let (what, advice) = match &device.taint {
                Some(taint) => (
                    format!("has the taint {}: {reason}", taint.name),
                    "Claims get it again by itself when that ends.",
                ),
                None => (format!("is Unhealthy: {reason}"), "It becomes Healthy by itself when that ends."),
            };
            findings.warn(Code::Unhealthy, &device.address, what, advice);
        }
    }
}

/// Returns the devices that `serve` still lists because their unbinds wait for holders. `devices` are the bound ones.
pub(super) fn unbinding(
    reported: &[DeviceReport],
    devices: &[DeviceState],
) -> impl Iterator<Item = DeviceId> {
    reported
        .iter()
        .filter(|device| is_unbinding(device, devices))
        .filter_map(|device| device.address.parse().ok())
}

/// Returns whether a device is still listed because its unbind waits. [`super::assignments`] has the assigned ones.
fn is_unbinding(device: &DeviceReport, devices: &[DeviceState]) -> bool {
    device.assignment.is_none()
        && matches!(device.typed_reason, Some(Reason::Unbinding { .. }))
        && !devices.iter().any(|bound| bound.device.id.to_string() == device.address)
}

/// Returns what to do about a problem of `serve`. None if another check of `doctor` finds the same and says more.
fn advice(code: ProblemCode) -> Option<&'static str> {
    Some(match code {
        // The checks of the pools file, of the kubelet, of the devices and of CDI specs.
        ProblemCode::PoolsRejected
        | ProblemCode::PodResourcesUnavailable
        | ProblemCode::AssignmentsUnknown
        | ProblemCode::KubeletDirMissing
        | ProblemCode::DeviceUnreadable
        | ProblemCode::VariableShared
        | ProblemCode::NotRegistered => return None,
        ProblemCode::StateFileNotWritten => {
            "Free space in the run directory, or make it writable; until then a restart of serve forgets the latest state."
        }
        ProblemCode::StateFileKeptAside => KEPT_ASIDE,
        ProblemCode::StateFileUnread => "serve reads it again later. Until then it writes no state there.",
        ProblemCode::RunDirShared => {
            "Let root, or the user that runs serve, own the run directory, with mode 0755."
        }
        ProblemCode::CheckpointUnreadable => {
            "Make it readable for serve; it is a regular file of the kubelet."
        }
        ProblemCode::CheckpointTooLarge | ProblemCode::CheckpointMalformed => {
            "The kubelet writes it again with the next pod. Until then, devices of init containers and uids of pods are unknown."
        }
        ProblemCode::KubeletDirUnwatched => {
            "Raise fs.inotify.max_user_instances and max_user_watches; until then a restart of the kubelet is seen up to a second later."
        }
        ProblemCode::AcceptFailed => {
            "Raise the limit of open files of serve (LimitNOFILE), or end what uses up the node's."
        }
        ProblemCode::ListenFailed => {
            "Free the port, correct --listen, or allow the port (NET_BIND_SERVICE for one below 1024). serve tries again by itself."
        }
        ProblemCode::ApiServerUnavailable => {
            "Running pods are not affected. Until the API server answers, no claim is prepared and no taint is changed; serve tries again by itself."
        }
        ProblemCode::ApiServerForbidden => {
            "Give the account of serve this right (docs/dra.md, Rights); if a policy refuses it, compare the node's name with --node."
        }
        ProblemCode::SlicesNotWritten => {
            "Look into the log of the API server, and at what else writes to the slices; serve tries again by itself."
        }
        ProblemCode::TaintsDropped => {
            "Kubernetes 1.36 and newer store taints, unless the feature gate DRADeviceTaints is off. Devices are withheld all the same."
        }
        ProblemCode::ClaimsWithoutDriver => {
            "Set --node and give serve the rights of the DRA driver: it then unprepares the claims and offers none. Without it their pods stay Terminating, and their devices are withheld."
        }
        ProblemCode::ResourceOfferedTwice => {
            "Name the devices of one of the pools otherwise (`resource` or `alias`): a DeviceClass with extendedResourceName serves none on a node whose device plugin offers that resource."
        }
        ProblemCode::PciIdsUnreadable => {
            "Install pci.ids, or set --pci-ids. Unassigned devices then move to the named resources."
        }
        ProblemCode::VgpuTypeUnreadable => {
            "Look into the log of the vendor's driver; the type is offered by its number."
        }
        ProblemCode::VgpuTypeUnnamed => {
            "The driver names a type while it can create another vGPU of it. Give the type an alias to name it before that."
        }
        ProblemCode::PoolsOverlap => "Let one of the two pools select it.",
        ProblemCode::AliasUnused => "Compare the key with the names that `list` prints, or remove it.",
        ProblemCode::CdiSpecNotUpdated => {
            "Make --cdi-dir writable for serve; in a container, mount the host's directory."
        }
        ProblemCode::DevicesNotListed => {
            "Let serve read the host's sys below --root; new devices are not seen until it can."
        }
        ProblemCode::HardwareUnchecked => "Raise the limit of processes of serve (pids cgroup, LimitNPROC).",
        ProblemCode::UeventsUnavailable => {
            "Nothing is lost: changes are found once an interval. A pod with hostUsers: false gets no uevents."
        }
        ProblemCode::DescriptorLimit => "Raise the hard limit of open files of serve (LimitNOFILE).",
        ProblemCode::LogLinesLost => {
            "Free the disk or restart the reader of standard error; changes are in list and in health.json."
        }
        ProblemCode::MoreProblems => "Read the log of serve for the others; they often have one cause.",
        ProblemCode::Other => "Run the command from the same image as serve; it knows this problem.",
    })
}
