use super::*;
use crate::dra::attributes::{DeviceFacts, attributes};
use crate::health::reason::Reason;
use crate::testing::node_of;
use k8s_openapi::api::resource::v1::ResourceSliceSpec;

const ALL: Features = Features { taints: true, counters: true };
const NONE: Features = Features { taints: false, counters: false };

fn listed(address: &str, group: u32) -> Listed {
    Listed {
        id: address.parse().unwrap(),
        group: Some(GroupId(group)),
        attributes: Arc::default(),
        withheld: None,
        prepared: false,
    }
}

fn held(address: &str, group: u32) -> Listed {
    Listed { withheld: Some(Reason::Held { holders: Vec::new() }.into()), ..listed(address, group) }
}

fn made(listed: &[Listed], features: Features) -> Entries {
    entries(&"vfio.example.com".parse().unwrap(), listed, features)
}

fn names(entries: &Entries) -> Vec<&str> {
    entries.devices.iter().map(|device| device.name.as_str()).collect()
}

#[test]
fn devices_keep_their_order_and_taints() {
    let made = made(&[held("0000:02:00.0", 2), listed("0000:01:00.0", 1)], ALL);
    assert_eq!(names(&made), ["pci-0000-02-00-0", "pci-0000-01-00-0"]);
    let taints: Vec<_> =
        made.devices.iter().map(|entry| entry.device().taints.map(|taints| taints.len())).collect();
    assert_eq!(taints, [Some(1), None]);
    assert_eq!((made.counter_sets, made.left_out), (Vec::new(), Vec::new()));
}

#[test]
fn withheld_device_is_left_out_where_taints_are_dropped() {
    let devices = [held("0000:02:00.0", 2), listed("0000:01:00.0", 1)];
    let made = made(&devices, NONE);
    assert_eq!((names(&made), made.left_out.clone()), (vec!["pci-0000-01-00-0"], vec![devices[0].id]));
}

#[test]
fn prepared_device_stays_listed() {
    let made = made(&[Listed { prepared: true, ..held("0000:02:00.0", 2) }], NONE);
    assert_eq!(names(&made), ["pci-0000-02-00-0"]);
    assert_eq!(made.devices[0].device().taints, None);
}

#[test]
fn only_lists_with_the_same_entries_count_as_the_same() {
    let base = [listed("0000:01:00.0", 1), held("0000:02:00.0", 2)];
    let changed = |change: fn(&mut Listed)| {
        let mut devices = base.clone();
        change(&mut devices[1]);
        devices
    };
    for features in [ALL, NONE] {
        assert!(have_same_entries(&base, &base.clone(), features));
        assert!(!have_same_entries(&base, &base[..1], features));
        for other in [
            changed(|device| device.id = "0000:03:00.0".parse().unwrap()),
            changed(|device| device.group = None),
            changed(|device| device.withheld = None),
            changed(|device| {
                let state = node_of(1).devices[0].clone();
                device.attributes = Arc::new(attributes(&state, &DeviceFacts::default()));
            }),
        ] {
            assert!(!have_same_entries(&base, &other, features), "{other:?}");
        }
        let prepared = changed(|device| device.prepared = true);
        let is_same = have_same_entries(&base, &prepared, features);
        assert_eq!(is_same, made(&base, features) == made(&prepared, features));
        assert_eq!(is_same, features.taints);
    }
}

#[test]
fn devices_of_one_group_consume_one_counter() {
    let made =
        made(&[listed("0000:01:00.0", 33), listed("0000:01:00.1", 33), listed("0000:02:00.0", 34)], ALL);
    let sets = serde_json::to_value(&made.counter_sets).unwrap();
    assert_eq!(sets, serde_json::json!([{"name": "groups-1", "counters": {"g33": {"value": "1"}}}]));
    let consumed = serde_json::json!([{"counterSet": "groups-1", "counters": {"g33": {"value": "1"}}}]);
    for entry in &made.devices[..2] {
        assert_eq!(serde_json::to_value(entry.device().consumes_counters).unwrap(), consumed);
    }
    assert_eq!(made.devices[2].device().consumes_counters, None, "the only device of its group");
}

#[test]
fn older_api_server_gets_no_counters() {
    let made = made(&[listed("0000:01:00.0", 33), listed("0000:01:00.1", 33)], NONE);
    assert!(
        made.counter_sets.is_empty()
            && made.devices.iter().all(|entry| entry.device().consumes_counters.is_none())
    );
}

#[test]
fn counter_set_of_a_group_depends_on_its_number() {
    let groups = |numbers: &[u32]| {
        let sets = counter_sets(numbers.iter().copied().map(GroupId));
        sets.into_iter().map(|set| (set.name, set.counters.len())).collect::<Vec<_>>()
    };
    assert_eq!(
        groups(&[31, 32, 63, 64]),
        [("groups-0".into(), 1), ("groups-1".into(), 2), ("groups-2".into(), 1)]
    );
    let all: Vec<u32> = (0..64).collect();
    assert!(groups(&all).iter().all(|(_, counters)| *counters == 32), "the API server's limit");
}

#[test]
fn features_follow_the_version_of_kubernetes() {
    assert_eq!([34, 35, 36, 37].map(Features::of_minor), [NONE, NONE, ALL, ALL]);
}

#[test]
fn dropped_fields_turn_their_feature_off() {
    let slice = |devices: Vec<Device>, counter_sets: Vec<CounterSet>| ResourceSlice {
        spec: ResourceSliceSpec {
            devices: Some(devices),
            shared_counters: Some(counter_sets),
            ..ResourceSliceSpec::default()
        },
        ..ResourceSlice::default()
    };
    let group = [held("0000:01:00.0", 33), listed("0000:01:00.1", 33)];
    let full = made(&group, ALL);
    let devices = slice(full.devices.iter().map(Entry::device).collect(), Vec::new());
    let counters = slice(Vec::new(), full.counter_sets.clone());
    assert_eq!(ALL.without_dropped(&devices, &devices), ALL);
    assert_eq!(ALL.without_dropped(&counters, &counters), ALL);
    let without = |change: fn(&mut Device)| {
        let mut stored = devices.clone();
        stored.spec.devices.iter_mut().flatten().for_each(change);
        ALL.without_dropped(&devices, &stored)
    };
    assert_eq!(without(|device| device.taints = None), Features { taints: false, counters: true });
    assert_eq!(without(|device| device.consumes_counters = None), Features { taints: true, counters: false });
    let dropped = ALL.without_dropped(&counters, &slice(Vec::new(), Vec::new()));
    assert_eq!(dropped, Features { taints: true, counters: false });
    assert_eq!(NONE.without_dropped(&devices, &devices), NONE, "what is off stays off");
}
