//! `list`: what the kernel says of each device, beside what the kubelet was told.

use crate::names::Namer;
use crate::settings::Settings;
use crate::snapshot::{DeviceReport, DeviceView, GroupView, Listing};
use crate::status;
use crate::table::{layout, or_dash};
use crate::vgpu_types::Types;
use anyhow::Context;
use std::collections::BTreeMap;
use std::time::{Duration, Instant};
use vfio_probe::device::Detail;
use vfio_probe::peek::Peek;
use vfio_probe::{Buffer, Device, Evidence, GroupId, Occupancy, Prober, Root, Viability, Why};

/// How long a running `serve` may take to answer, and an open with `--probe`.
pub(crate) const ANSWER: Duration = Duration::from_secs(2);

/// Runs the command.
pub(crate) fn run(settings: &Settings, json: bool, probe: bool) -> anyhow::Result<u8> {
    if let Some(mistake) = &settings.not_understood {
        let file = settings.pools_file();
        eprintln!("vfio-device-plugin: {file}: {mistake}: these are the devices of the running serve");
    }
    let told = status::fetch(&settings.run_dir, ANSWER);
    if let Err(error) = &told {
        eprintln!("vfio-device-plugin: {error:#}: what the kubelet was told is unknown");
    }
    let views = look(settings, probe, |error| eprintln!("vfio-device-plugin: left out: {error}"))?;
    let told = told.map(|status| status.devices).unwrap_or_default();
    let mut devices: Vec<DeviceReport> = views.iter().map(|view| beside(view, &told)).collect();
    // One whose unbind waits for its holder, or that a pod owns still, is in no listing of bound devices any more; only
    // serve remembers it.
    devices.extend(told.into_iter().filter(|told| {
        (told.driver.is_none() || told.owner.is_some())
            && !views.iter().any(|view| view.device.id.to_string() == told.address)
    }));
    let listing = Listing { devices };
    if json {
        println!("{}", serde_json::to_string(&listing)?);
    } else {
        print!("{}", table(&listing));
    }
    Ok(0)
}

/// Looks at all offered devices afresh; what cannot be read is said to `complain` and costs nothing else.
pub(crate) fn look(
    settings: &Settings,
    probe: bool,
    mut complain: impl FnMut(vfio_probe::Error),
) -> anyhow::Result<Vec<DeviceView>> {
    let root = std::sync::Arc::new(Root::open(&settings.root)?);
    let mut buffer = Buffer::new();
    let mut devices: Vec<Device> = Vec::new();
    root.scan(Detail::Full, &mut buffer, |device| match device {
        Ok(device) => devices.push(device),
        Err(error) => complain(error),
    })
    .with_context(|| format!("{}: not a tree with the host's sys", settings.root.display()))?;
    devices.sort_by_key(|device| device.id);
    let mut namer =
        Namer::new(settings.offered.clone(), settings.pci_ids.clone(), Types::new(&settings.run_dir));
    namer.learn(&root, &devices.iter());
    let offered: Vec<_> = devices.iter().filter_map(|device| Some((*device, namer.offer(device)?))).collect();
    let prober = Prober::new(std::sync::Arc::clone(&root));
    let has_nodes = root.has_group_nodes();
    let mut groups = BTreeMap::new();
    for id in offered.iter().filter_map(|(device, _)| device.group) {
        let prober = (probe && has_nodes).then_some(&prober);
        groups.entry(id).or_insert_with(|| group(&root, id, has_nodes, prober, &mut buffer));
    }
    // Where an open does not tell, who holds what is all that can be known of a device that is open and not used yet.
    let worth_asking = |view: &&GroupView| view.occupancy.is_held() || !view.has_node;
    let held: Vec<GroupId> = groups.values().filter(worth_asking).map(|view| view.id).collect();
    if !held.is_empty() {
        let mut found = Vec::new();
        let looked = root.holders(&held, &mut |holder| found.push(holder)).map_err(&mut complain).ok();
        for view in groups.values_mut().filter(|view| held.contains(&view.id)) {
            view.holders = found.iter().filter(|holder| holder.group == view.id).copied().collect();
            view.looked = looked;
        }
    }
    let view = |(device, offer): (Device, _)| {
        let group = device.group.and_then(|id| groups.get(&id).cloned());
        DeviceView { group, ..DeviceView::unbound(device, offer) }
    };
    Ok(offered.into_iter().map(view).collect())
}

/// `prober` only where groups have nodes to open.
fn group(
    root: &Root,
    id: GroupId,
    has_node: bool,
    prober: Option<&Prober>,
    buffer: &mut Buffer,
) -> GroupView {
    let peek = root.peek(id, buffer).unwrap_or(Peek::Blind);
    let mut members = Vec::new();
    let _ = root.members(id, buffer, |member| members.extend(member.ok()));
    let opened = prober.map(|prober| prober.probe(id, ANSWER));
    let (occupancy, evidence) = match (opened, peek) {
        (Some(answer @ (Occupancy::Free | Occupancy::Held | Occupancy::Absent)), _) => {
            (answer, Evidence::Open)
        }
        (_, Peek::LooksHeld) => (Occupancy::Held, Evidence::Enable),
        (_, Peek::LooksFree) => (Occupancy::Free, Evidence::Enable),
        (Some(answer), Peek::Blind) => (answer, Evidence::Open),
        (None, Peek::Blind) => (Occupancy::Unknown(Why::NotAsked), Evidence::None),
    };
    let (viability, since) = (Viability::of(&members), Instant::now());
    GroupView { id, occupancy, evidence, has_node, since, viability, peek, holders: Vec::new(), looked: None }
}

/// A fresh look, with what a running `serve` has told, and with its knowledge where a look cannot have it: a holder that
/// has the group open but no device, a count that is left over from before, a node that is missing.
pub(crate) fn beside(view: &DeviceView, told: &[DeviceReport]) -> DeviceReport {
    let mut report = DeviceReport::new(view, None, None);
    let Some(told) = told.iter().find(|told| told.address == report.address) else { return report };
    report.health.clone_from(&told.health);
    report.owner.clone_from(&told.owner);
    // A device that a pod owns stays in the resource that it was given by, whatever the pools say by now.
    report.resource.clone_from(&told.resource);
    if told.reason.is_some() {
        report.reason.clone_from(&told.reason);
    }
    let opened = told.evidence == "open";
    let unseen = match (report.state.as_str(), told.state.as_str()) {
        ("free" | "unknown", "held") => opened,
        ("held", "free") => told.left_over,
        ("unknown", "free") => opened,
        (_, "absent") => true,
        _ => false,
    };
    if report.evidence != "open" && unseen {
        report.state.clone_from(&told.state);
        report.evidence.clone_from(&told.evidence);
        report.holders.clone_from(&told.holders);
    }
    report
}

/// The listing as a table.
pub(crate) fn table(listing: &Listing) -> String {
    if listing.devices.is_empty() {
        return "No device of the selection is bound to a VFIO driver.\n".to_owned();
    }
    let rows: Vec<[String; 9]> = listing
        .devices
        .iter()
        .map(|device| {
            let holders =
                device.holders.iter().map(|holder| format!("pid {} ({})", holder.pid, holder.command));
            let holders: Vec<String> = holders.collect();
            let note = device.reason.clone().unwrap_or_else(|| holders.join(", "));
            [
                device.address.clone(),
                or_dash(device.iommu_group),
                or_dash(device.numa_node),
                device.resource.clone(),
                device.state.clone(),
                device.evidence.clone(),
                or_dash(device.health.clone()),
                or_dash(device.owner.clone()),
                note,
            ]
        })
        .collect();
    layout(["ADDRESS", "GROUP", "NUMA", "RESOURCE", "STATE", "BY", "KUBELET", "POD", "NOTE"], &rows)
}
