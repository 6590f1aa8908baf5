//! Tests of resource names: allocated devices stay, names that are learned late move the others.

use super::*;
use std::fs;
use std::path::Path;
use std::time::Duration;
use vfio_plugin_policy::pools::backend::Backend;
use vfio_plugin_policy::pools::terms::{Busy, Cdi, OfferBy, PinnedTerms, Terms};
use vfio_plugin_policy::testing::device_state;
use vfio_probe::text::Text;
use vfio_probe::{Occupancy, Viability};

const HEX: &str = "nvidia.com/2330";
const NAMED: &str = "nvidia.com/GH100_H100_SXM5_80GB";

fn device(address: &str) -> Device {
    device_state(address, 51, Occupancy::Free, Instant::now(), Viability::Viable, false).device
}

fn nowhere() -> RunDir {
    RunDir::of_reader(Path::new("/dev/null/run"))
}

fn pinned(resource: &str) -> PinnedOffer {
    PinnedOffer { resource: resource.into(), pinned: PinnedTerms::default() }
}

/// The resources of two devices, the first of which a pod is assigned.
fn resources(namer: &mut ResourceNamer, devices: &[Device; 2], pinned_offer: PinnedOffer) -> [String; 2] {
    let pinned_offers = BTreeMap::from([(devices[0].id, pinned_offer)]);
    let offers = namer.offers(devices.iter(), &pinned_offers, |_| false);
    devices.map(|device| offers[&device.id].resource.to_string())
}

#[test]
fn late_pci_ids_moves_unassigned_devices_to_their_name() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("pci.ids");
    let root = Root::open(directory.path()).unwrap();
    let devices = [device("0000:01:00.0"), device("0000:02:00.0")];
    let pools = Pools::of_selectors(&["10de".parse().unwrap()], OfferBy::default());
    let mut namer = ResourceNamer::new(pools, Some(file.clone()), &nowhere());
    assert!(namer.learn(&root, &devices.iter()));
    assert_eq!(resources(&mut namer, &devices, pinned(HEX)), [HEX, HEX]);
    assert!(!namer.is_due(Instant::now()));
    fs::write(&file, "10de  NVIDIA Corporation\n\t2330  GH100 [H100 SXM5 80GB]\n").unwrap();
    assert!(namer.is_due(Instant::now()), "the file is another one");
    assert!(namer.learn(&root, &devices.iter()));
    assert_eq!(resources(&mut namer, &devices, pinned(HEX)), [HEX, NAMED]);
    assert!(namer.keeps_any());
    assert!(!namer.learn(&root, &devices.iter()), "nothing is left to learn");
}

#[test]
fn late_name_of_a_vgpu_type_moves_unassigned_devices() {
    let directory = tempfile::tempdir().unwrap();
    let uuids = ["83b8f4f2-509f-382f-3c1e-e6bfe0fa1001", "83b8f4f2-509f-382f-3c1e-e6bfe0fa1002"];
    let vgpu_type = Text::new(b"nvidia-222");
    let devices = uuids.map(|uuid| {
        let mut device = device("0000:01:00.0");
        (device.id, device.kind, device.vgpu_type) = (uuid.parse().unwrap(), Kind::Mdev, vgpu_type);
        device
    });
    let name = |uuid| directory.path().join(format!("sys/bus/mdev/devices/{uuid}/mdev_type/name"));
    // A directory in the file's place cannot be read.
    uuids.iter().for_each(|uuid| fs::create_dir_all(name(*uuid)).unwrap());
    let root = Root::open(directory.path()).unwrap();
    let pools = Pools::of_selectors(&["10de".parse().unwrap()], OfferBy::default());
    let mut namer = ResourceNamer::new(pools, None, &nowhere());
    let now = Instant::now();
    assert!(namer.learn_at(&root, &devices.iter(), now));
    let number = "nvidia.com/nvidia-222";
    assert_eq!(resources(&mut namer, &devices, pinned(number)), [number; 2]);
    for uuid in uuids {
        fs::remove_dir(name(uuid)).unwrap();
        fs::write(name(uuid), "GRID T4-1Q\n").unwrap();
    }
    assert!(!namer.is_due(now));
    let now = now + Duration::from_secs(1);
    assert!(namer.is_due(now), "a failed read is repeated without a change of any device");
    assert!(namer.learn_at(&root, &devices.iter(), now));
    assert_eq!(resources(&mut namer, &devices, pinned(number)), [number, "nvidia.com/GRID_T4-1Q"]);
}

#[test]
fn alias_by_name_is_not_judged_before_names_are_known() {
    let directory = tempfile::tempdir().unwrap();
    let root = Root::open(directory.path()).unwrap();
    let file = directory.path().join("pci.ids");
    let select = vec!["10de".parse().unwrap()];
    let alias = BTreeMap::from([("GH100_H100_SXM5_80GB".to_owned(), "H100".to_owned())]);
    let pools = Pools::new(vec![Pool { select, alias, ..Pool::default() }]);
    let mut namer = ResourceNamer::new(pools, Some(file.clone()), &nowhere());
    let devices = [device("0000:01:00.0")];
    namer.learn(&root, &devices.iter());
    assert_eq!(&*namer.offer(&devices[0]).unwrap().resource, HEX);
    assert!(namer.used_aliases[&0].is_empty() && namer.models.is_failing());
    fs::write(&file, "10de  NVIDIA Corporation\n\t2330  GH100 [H100 SXM5 80GB]\n").unwrap();
    namer.learn(&root, &devices.iter());
    assert_eq!(&*namer.offer(&devices[0]).unwrap().resource, "nvidia.com/H100");
    assert_eq!(namer.used_aliases[&0].len(), 1);
}

#[test]
fn allocated_device_keeps_its_terms_in_the_next_process() {
    let gpu = device("0000:01:00.0");
    let pinned = PinnedTerms { backend: Backend::Iommufd, cdi: Cdi::Devices };
    let pinned_offers = BTreeMap::from([(gpu.id, PinnedOffer { resource: "a.b/c".into(), pinned })]);
    let busy = Some(Busy::Advertise);
    let terms = Terms { busy, ..Terms::default() };
    let select = vec!["10de".parse().unwrap()];
    let pool = Pool { resource: Some("a.b/c".into()), select, terms, ..Pool::default() };
    for (pools, busy) in [(vec![pool], busy), (Vec::new(), None)] {
        let mut namer = ResourceNamer::new(Pools::new(pools), None, &nowhere());
        assert!(namer.contradicts(&pinned_offers));
        let offers = namer.offers([gpu].iter(), &pinned_offers, |_| false);
        assert_eq!(offers[&gpu.id].terms, Terms { busy, ..Terms::default() }.with(pinned));
        assert!(namer.keeps_any() && !namer.contradicts(&pinned_offers));
    }
}

#[test]
fn allocated_device_stays_in_the_resource_of_the_checkpoint() {
    let devices = [device("0000:01:00.0"), device("0000:02:00.0")];
    let pools = |resource: &str| {
        let select = vec!["10de".parse().unwrap()];
        Pools::new(vec![Pool { resource: Some(resource.into()), select, ..Pool::default() }])
    };
    let mut namer = ResourceNamer::new(pools("a.b/new"), None, &nowhere());
    let offered = |namer: &mut ResourceNamer, allocated: &[(usize, &str)], stays: bool| {
        let pinned_offers =
            allocated.iter().map(|(place, resource)| (devices[*place].id, pinned(resource))).collect();
        let offers = namer.offers(devices.iter(), &pinned_offers, |_| stays);
        let words: Vec<_> = offers.values().map(|offer| offer.resource.to_string()).collect();
        (words.join(" "), namer.keeps_any(), namer.contradicts(&pinned_offers))
    };
    let expected = |words: &str, keeps: bool| (words.to_owned(), keeps, false);
    assert_eq!(offered(&mut namer, &[], true), expected("a.b/new a.b/new", false));
    assert_eq!(offered(&mut namer, &[(0, "a.b/old")], true), expected("a.b/old a.b/new", true));
    namer.set_pools(pools("a.b/newest"));
    assert_eq!(offered(&mut namer, &[(0, "a.b/old")], false), expected("a.b/old a.b/newest", true));
    // The second device was allocated by a.b/new while the file changed to a.b/newest.
    assert_eq!(offered(&mut namer, &[(1, "a.b/new")], true), expected("a.b/old a.b/new", true));
    assert_eq!(offered(&mut namer, &[], false), expected("a.b/newest a.b/newest", false));
    namer.set_pools(Pools::new(Vec::new()));
    assert_eq!(offered(&mut namer, &[(1, "a.b/new")], false), expected("a.b/new", true));
}
