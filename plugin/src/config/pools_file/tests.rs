//! Tests of the pools file's reader.

use super::*;
use std::collections::BTreeMap;
use vfio_plugin_policy::pools::Pool;
use vfio_plugin_policy::pools::backend::Backend;
use vfio_plugin_policy::pools::selector::Selector;
use vfio_plugin_policy::pools::terms::{Busy, BusyAllocate, Cdi, Terms};
use vfio_probe::{GroupId, PciAddress};

fn parse_file(text: &str) -> Result<Pools, PoolsError> {
    parse(text, OfferBy::default())
}

#[test]
#[cfg(feature = "dra")]
fn pool_says_how_its_devices_are_offered() {
    let file = "pools:\n  - {select: [{device: 1}], offer: dra}\n  - {select: [{device: 2}], offer: device-plugin}\n  - {select: [{}]}\n";
    for default in [OfferBy::DevicePlugin, OfferBy::Dra] {
        let pools = parse(file, default).unwrap();
        let offers = [0, 1, 2].map(|place| pools.get(place).unwrap().terms.offer);
        assert_eq!(offers, [OfferBy::Dra, OfferBy::DevicePlugin, default]);
        assert!(pools.offer_by(OfferBy::Dra) && pools.offer_by(OfferBy::DevicePlugin));
    }
    assert!(!parse_file("pools: [{select: [{}]}]").unwrap().offer_by(OfferBy::Dra));
}

#[test]
fn every_key_is_read() {
    let pools = parse_file(
        "# GPUs by name, all others by model\n\
         pools:\n\
         \x20 - resource: nvidia.com/H100\n\
         \x20   select:\n\
         \x20     - {vendor: 10de, device: 2330}\n\
         \x20     - {vendor: 10de, device: 0123, class: 0302, driver: vfio-pci, numa_node: 1}\n\
         \x20   backend: both\n\
         \x20   busy: unhealthy\n\
         \x20   busy_allocate: substitute\n\
         \x20   cdi: annotations\n\
         \x20 - select:\n\
         \x20     - {address: \"0000:3b:00.0\", group: 51, parent: \"0000:3b:00.1\"}\n\
         \x20   alias: {2331: H200}\n",
    )
    .unwrap();
    let selector = |text: &str| text.parse::<Selector>().unwrap();
    let expected = Pools::new(vec![
        Pool {
            resource: Some("nvidia.com/H100".into()),
            select: vec![
                selector("10de:2330"),
                Selector {
                    driver: Some("vfio-pci".into()),
                    numa_node: Some(1),
                    ..selector("10de:0123/0302")
                },
            ],
            terms: Terms {
                offer: OfferBy::default(),
                backend: Backend::Both,
                busy: Some(Busy::Unhealthy),
                busy_allocate: Some(BusyAllocate::Substitute),
                cdi: Cdi::Annotations,
            },
            alias: BTreeMap::new(),
        },
        Pool {
            select: vec![Selector {
                address: "0000:3b:00.0".parse().ok(),
                group: Some(GroupId(51)),
                parent: PciAddress::parse(b"0000:3b:00.1"),
                ..Selector::default()
            }],
            alias: BTreeMap::from([("2331".into(), "H200".into())]),
            ..Pool::default()
        },
    ]);
    assert_eq!(pools, expected);
    assert!(pools.need_parents());
}

#[test]
fn error_has_its_line_and_what_was_expected() {
    let pool = |text: &str| format!("pools:\n  - select: [{{}}]\n    {text}\n");
    let selector = |text: &str| format!("pools:\n  - select:\n      - {text}\n");
    for (text, expected) in [
        (String::new(), "line 1: the file ends here; expected `pools:`"),
        ("pools: []\n".into(), "line 1: expected at least one pool"),
        ("pools: 3\n".into(), "line 1: expected a list"),
        ("pool: []\n".into(), "line 1: unknown field `pool`"),
        (pool("resourc: a/b"), "line 3: unknown field `resourc`, expected one of"),
        (pool("backend: legasy"), "line 3: \"legasy\": expected one of legacy, iommufd, both, auto"),
        (pool("backend:"), "line 3: the key has no value; expected a value, or no such key"),
        (pool("busy: null"), "line 3: the key has no value; expected a value, or no such key"),
        (pool("backend: \"\""), "line 3: \"\": expected one of legacy, iommufd, both, auto"),
        (pool("backend:\n\n      - auto"), "line 5: expected a single value, not a list or keys"),
        (pool("[a]: b"), "line 3: expected a single value, not a list or keys"),
        (pool("\"a\\eb\": c"), "line 3: unknown field `a\\u{1b}b`, expected one of"),
        (pool(&format!("busy: {}", "x".repeat(300))), "line 3: \"xxxx"),
        (pool(&format!("{}: 1", "x".repeat(300))), "line 3: unknown field `xxxx"),
        (pool("busy: *unknown"), "line 3: while parsing node, found unknown anchor"),
        (pool("<<: 5"), "line 3: expected keys with values"),
        (pool("busy: auto\n    <<: {buzy: auto}"), "line 4: unknown field `buzy`"),
        (pool("backend: [auto]"), "line 3: expected a single value, not a list or keys"),
        (pool("busy: maybe"), "line 3: \"maybe\": expected one of attributed, unhealthy, advertise"),
        (pool("busy_allocate: swap"), "line 3: \"swap\": expected one of reject, substitute"),
        (pool("resource:"), "line 3: the key has no value; expected a value, or no such key"),
        (pool("resource: {a: b}"), "line 3: expected a single value"),
        (pool("select: [{}]"), "line 3: \"select\" is set twice; expected each key once"),
        (pool("alias: x"), "line 3: expected keys with values"),
        (pool("cdi: on"), "line 3: \"on\": expected one of none, devices, annotations, names"),
        (pool("resource: GPU"), "line 3: \"GPU\": expected a resource name that the kubelet accepts"),
        (pool("resource: nvidia.com/-"), "line 3: \"nvidia.com/-\": expected a resource"),
        (pool("resource: kubernetes.io/gpu"), "line 3: \"kubernetes.io/gpu\": expected a resource"),
        (
            "pools:\n  - {resource: a.b/c, alias: {2330: d}, select: [{}]}\n".into(),
            "line 2: expected no `alias`, because `resource: a.b/c`",
        ),
        (selector("{class: \"\"}"), "line 3: \"\": expected up to 6 hex digits"),
        (selector("{class: 0x}"), "line 3: \"0x\": expected up to 6 hex digits"),
        (pool("alias: {2330: \"a b\"}"), "line 3: \"a b\": expected at most 63 letters, digits"),
        (pool("alias: {20b0: a, 0x20B0: b}"), "line 3: \"20b0\" is the same id as \"0x20B0\"; expected one"),
        (selector("{vendor: nvidia}"), "line 3: \"nvidia\": expected up to 4 hex digits"),
        (selector("{class: 0302001}"), "line 3: \"0302001\": expected up to 6 hex digits"),
        (selector("{address: 3b:00.0}"), "line 3: \"3b:00.0\": expected a PCI address"),
        (selector("{parent: x}"), "line 3: \"x\": expected a PCI address"),
        (selector("{group: many}"), "line 3: \"many\": expected an IOMMU group number, like 51"),
        (selector("{vgpu_type: 0}"), "line 3: \"0\": expected a vGPU type's directory or number"),
        (selector("{numa_node: -1}"), "line 3: \"-1\": expected a NUMA node number, like 0"),
        (selector("{driver: }"), "line 3: the key has no value; expected"),
        (selector("{driver: \"\"}"), "line 3: \"\": expected a driver name, like vfio-pci"),
        (selector("x"), "line 3: expected keys with values, like `vendor: 10de`"),
        (selector("{vendr: 1}"), "line 3: unknown field `vendr`, expected one of vendor, device, class"),
        ("pools:\n\t- select: [{}]\n".into(), "line 2: the line begins with a tab; expected spaces"),
        (
            "pools: [{select: [{}]}]\n---\npools: []\n".into(),
            "line 3: a second document begins; expected one",
        ),
        ("pools:\n  - select: []\n".into(), "line 2: expected `select` with at least one selector"),
        ("pools:\n  - resource: a.b/c\n".into(), "line 2: missing field `select`; each"),
        (
            "pools:\n  - {resource: a.b/c, select: [{}]}\n  - {resource: a.b/c, select: [{}]}\n".into(),
            "line 3: \"a.b/c\": another pool has this resource",
        ),
        (
            "pools:\n  - {resource: a.b/c.d, select: [{}]}\n  - {resource: a.b/C_d, select: [{}]}\n".into(),
            "line 3: \"a.b/C_d\": expected a name that differs from a.b/c.d in more than case",
        ),
        ("pools: [\n".into(), "line 1: "),
    ] {
        let error = parse_file(&text).unwrap_err().to_string();
        assert!(error.starts_with(expected) && error.len() < 200, "{text:?}: {error:?}, not {expected:?}");
        assert!(error.len() > "line 3: ".len() && !error.contains('\n'), "{error:?}");
    }
}

#[test]
fn forms_of_yaml_have_the_same_pools() {
    let expected = parse("pools: [{select: [{vendor: 10de, device: 2330}], busy: unhealthy}]").unwrap();
    for text in [
        "\u{feff}# a comment\r\npools:\r\n- select:\r\n  - vendor: 10de\r\n    device: 2330\r\n  busy: unhealthy\r\n",
        "%YAML 1.2\n---\n{\"pools\": [{\"select\": [{\"vendor\": \"10de\", \"device\": \"2330\"}], \"busy\": \"unhealthy\"}]}\n...\n",
        "pools:\n- select:\n  - vendor: '10de'\n    device: !!str 2330\n  ? busy\n  : >-\n    unhealthy\n",
        "pools: [{select: [{vendor: &v 10de, device: 2330}], busy: &b unhealthy}]",
        "pools:\n- <<: {busy: unhealthy}\n  select: [{<<: [{vendor: 10de}, {vendor: 10ff, device: 2330}]}]\n",
        "pools:\n- <<: {busy: attributed, select: [{vendor: 10de, device: 2330}]}\n  busy: unhealthy\n",
    ] {
        assert_eq!(parse(text).as_ref(), Ok(&expected), "{text}");
    }
    let twice =
        "pools:\n- &p\n  select: [&s {vendor: 10de}]\n- {<<: *p, busy: unhealthy}\n- {select: [*s, {}]}\n";
    let written = "pools: [{select: [{vendor: 10de}]}, {select: [{vendor: 10de}], busy: unhealthy}, {select: [{vendor: 10de}, {}]}]";
    assert_eq!(parse(twice), parse(written));
    assert!(parse(twice).is_ok());
}

#[test]
fn aliases_repeat_a_bounded_part_of_the_file() {
    let too_much = "the file nests or repeats more than a list of pools does";
    let selectors =
        |count: usize| format!("pools: [{{select: [&s {{vendor: 10de}}{}]}}]", ", *s".repeat(count));
    assert!(parse(&selectors(5_000)).is_ok());
    let chain: String = (1..100).map(|n| format!("  - &a{n} [*a{}]\n", n - 1)).collect();
    for text in [
        selectors(15_000),
        format!("pools: [{{select: [{{}}], alias: &a {{{}: b}}}}{}]", "x".repeat(1000), ", *a".repeat(600)),
        format!("pools:\n  - &a0 []\n{chain}"),
        "pools: &p [*p]".into(),
    ] {
        let error = parse(&text).unwrap_err().to_string();
        assert!(error.ends_with(too_much), "{error}: {}", text.get(..60).unwrap_or(&text));
    }
}

/// Documents that are deeper than the parser's stack, and valid ones that nest by merge keys.
#[test]
fn deep_nesting_is_an_error_and_no_crash() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("pools.yaml");
    let deep = |begin: &str, end: &str, times: usize| format!("{}{}", begin.repeat(times), end.repeat(times));
    for text in [
        format!("<<: {}", deep("{a: ", "}", 990)),
        format!("pools: {}", deep("[", "]", 20_000)),
        format!("pools: {}", deep("{<<: ", "}", 58)),
        "- ".repeat(30_000),
    ] {
        std::fs::write(&path, &text).unwrap();
        // The size of the stack of the monitor thread, which reads the file.
        let thread = std::thread::Builder::new().stack_size(256 * 1024);
        let path = path.clone();
        let error = thread
            .spawn(move || read(&path, OfferBy::default()))
            .unwrap()
            .join()
            .unwrap()
            .unwrap_err()
            .to_string();
        assert!(error.len() < 250, "{error}");
    }
    std::fs::write(&path, "#".repeat(70_000)).unwrap();
    assert_eq!(
        read(&path, OfferBy::default()).unwrap_err().to_string(),
        "expected a regular file of at most 64 KiB"
    );
}

proptest::proptest! {
    #[test]
    fn no_text_panics(text: String) {
        let _ = parse_file(&text);
    }
}
