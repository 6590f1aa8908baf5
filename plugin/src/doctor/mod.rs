//! `doctor`: what is wrong with this node, in plain words, and what to do.

use crate::kubelet_dir::kubelet_socket;
use crate::list::{ANSWER, look};
use crate::settings::Settings;
use crate::snapshot::{DeviceView, describe};
use crate::status;
use serde::Serialize;
use std::path::Path;
use vfio_probe::device::Detail;
use vfio_probe::{Device, DeviceId, Occupancy, Root, Viability, Why};

/// How bad a finding is; also the exit code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    Fine,
    Warning,
    Broken,
}

#[derive(Serialize)]
struct Finding {
    level: Level,
    /// The device, group, folder or socket that it is about.
    about: String,
    what: String,
    /// What to do.
    advice: &'static str,
}

/// Runs the command: 0 fine, 1 warnings, 2 broken.
pub(crate) fn run(settings: &Settings, json: bool, probe: bool) -> anyhow::Result<u8> {
    let findings = examine(settings, probe)?;
    if json {
        println!("{}", serde_json::json!({ "findings": findings }));
    } else if findings.is_empty() {
        println!("Nothing is wrong.");
    } else {
        for Finding { level, about, what, advice } in &findings {
            let word = if *level == Level::Broken { "broken " } else { "warning" };
            println!("{word}  {about}: {what}\n         {advice}");
        }
    }
    Ok(findings.iter().map(|finding| finding.level).max().unwrap_or(Level::Fine) as u8)
}

fn examine(settings: &Settings, probe: bool) -> anyhow::Result<Vec<Finding>> {
    let mut findings = Vec::new();
    let mut say = |level, about: String, what: &str, advice| {
        findings.push(Finding { level, about, what: what.to_owned(), advice });
    };
    let root = Root::open(&settings.root)?;
    let mut unreadable = Vec::new();
    let views = look(settings, probe, |error| unreadable.push(error))?;
    if is_empty(&settings.root.join("sys/kernel/iommu_groups")) {
        let advice = "Turn on the IOMMU in the firmware and boot with intel_iommu=on or amd_iommu=on.";
        say(Level::Broken, "host".into(), "there are no IOMMU groups: the IOMMU is off", advice);
    }
    if !views.is_empty() && !settings.root.join("dev/vfio").is_dir() {
        let advice = "In a container, mount the host's /dev/vfio; without it only sysfs can be looked at.";
        say(Level::Warning, "/dev/vfio".into(), "cannot be seen", advice);
    }
    for error in unreadable {
        say(
            Level::Warning,
            "sysfs".into(),
            &error.to_string(),
            "The device is left out until this can be read.",
        );
    }
    if views.is_empty() {
        let advice = "Bind devices to vfio-pci (driverctl set-override ADDRESS vfio-pci), or give --select.";
        say(Level::Warning, "selection".into(), "no device of it is bound to a VFIO driver", advice);
    }
    for (id, driver) in unbound(settings, &root, &views) {
        let what = format!("is selected, but bound to {driver}");
        let advice = "If machines are to have it: driverctl set-override ADDRESS vfio-pci.";
        say(Level::Warning, id.to_string(), &what, advice);
    }
    for view in &views {
        examine_device(settings, view, &mut say);
    }
    if kubelet_socket(&settings.kubelet_dir).is_none() {
        let advice = "Is the kubelet running? Give --kubelet-dir if its root directory was moved.";
        say(Level::Warning, settings.kubelet_dir.display().to_string(), "there is no kubelet.sock", advice);
    }
    match status::fetch(&settings.run_dir, ANSWER) {
        Ok(report) => {
            for resource in report.resources.iter().filter(|resource| !resource.registered) {
                let advice = "Look into the log of serve for why the kubelet refuses.";
                say(Level::Warning, resource.name.clone(), "is not registered with the kubelet", advice);
            }
        }
        Err(error) => {
            let advice = "Start serve, or give the --run-dir that it has.";
            say(Level::Warning, "serve".into(), &format!("{error:#}"), advice);
        }
    }
    Ok(findings)
}

fn examine_device(
    settings: &Settings,
    view: &DeviceView,
    say: &mut impl FnMut(Level, String, &str, &'static str),
) {
    let id = view.device.id.to_string();
    let Some(group) = &view.group else {
        return say(Level::Broken, id, "has no IOMMU group", "Turn on the IOMMU.");
    };
    if let Viability::NotViable { member, driver } = group.viability {
        let what = format!("group {} is not viable: {member} is bound to {driver}", group.id);
        let advice = "Bind that function to vfio-pci or pci-stub, or unbind it.";
        say(Level::Warning, id.clone(), &what, advice);
    }
    let node = settings.root.join(format!("dev/vfio/{}", group.id));
    let noiommu = settings.root.join(format!("dev/vfio/noiommu-{}", group.id));
    if settings.root.join("dev/vfio").is_dir() && !node.exists() && !noiommu.exists() {
        let what = format!("/dev/vfio/{} does not exist", group.id);
        say(Level::Warning, id.clone(), &what, "Bind the device anew; look into dmesg for vfio.");
    }
    if group.occupancy == Occupancy::Unknown(Why::Denied) {
        let advice = "Run as root; in a container the device cgroup must allow it (see deploy/README.md).";
        say(Level::Warning, id.clone(), "its group may not be opened from here", advice);
    }
    let foreign = group.holders.iter().any(|holder| holder.owner.pod_uid.is_none());
    if group.occupancy.is_held() && (foreign || group.holders.is_empty()) {
        let what = format!("is held by {}", describe(&group.holders));
        let advice = "If it should not be, end that process; the device comes back by itself.";
        say(Level::Warning, id, &what, advice);
    }
}

/// Functions that the selection names and that no VFIO driver has; here all functions may be looked at.
fn unbound(settings: &Settings, root: &Root, views: &[DeviceView]) -> Vec<(DeviceId, String)> {
    let Ok(entries) = std::fs::read_dir(settings.root.join("sys/bus/pci/devices")) else { return Vec::new() };
    let mut found: Vec<(DeviceId, String)> = entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|id| !views.iter().any(|view| view.device.id == *id))
        .filter_map(|id| root.device(id, Detail::Identity).ok())
        // Bridges are never passed through, whatever a wide selection says.
        .filter(|device: &Device| device.class >> 16 != 0x06)
        .filter(|device| settings.select.iter().any(|selector| selector.matches(device)))
        .map(|device| (device.id, device.driver.map_or("no driver".to_owned(), |driver| driver.to_string())))
        .collect();
    found.sort();
    found
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).map_or(true, |mut entries| entries.next().is_none())
}
