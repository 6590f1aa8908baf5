//! What docs/migration.md says of names, variables and nodes, run as it is written there.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{Serve, expect, health, kubelet, run};
use regex::Regex;
use std::fs;
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Function, Node};

/// A row of the page.
struct Row {
    device: String,
    name: String,
    resource: String,
    variable: String,
    value: String,
    nodes: String,
}

fn page() -> String {
    fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/migration.md")).unwrap()
}

/// The rows after the mark, without the ticks.
fn rows(page: &str) -> Vec<Row> {
    let (_, table) = page.split_once("<!-- these rows are run -->").unwrap();
    let lines = table.trim_start().lines().take_while(|line| line.starts_with('|')).skip(2);
    let row = |line: &str| {
        let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', ""));
        let [device, name, resource, variable, value, nodes] = cells.collect::<Vec<_>>().try_into().unwrap();
        Row { device, name, resource, variable, value, nodes }
    };
    lines.map(row).collect()
}

/// As NVIDIA's plugin does it (`getDeviceName`), with its own expressions.
fn nvidias_name(name: &str) -> String {
    let name = name.trim().to_uppercase().replace(['/', '.'], "_");
    let name = Regex::new(r"\s+").unwrap().replace_all(&name, "_").into_owned();
    Regex::new("[^a-zA-Z0-9_.]+").unwrap().replace_all(&name, "").into_owned()
}

/// The same for a type of vGPUs (`readVgpuIDFromFile`).
fn nvidias_type(name: &str) -> String {
    Regex::new(r"\s+").unwrap().replace_all(name.trim_matches('\n'), "_").into_owned()
}

const PHYSICAL: &str = "0000:01:00.0";

/// Puts the row's device into the tree; its id.
fn add(node: &Node, row: &Row, number: u32) -> String {
    let (address, group) = (format!("0000:{:02x}:00.0", number + 16), number + 50);
    match row.device.split_once(':') {
        Some(("10de", id)) => {
            let id = u16::from_str_radix(id, 16).unwrap();
            node.add(Function::gpu(&address, group, 0).with_device(id)).unwrap();
            address
        }
        None if row.device == "mdev" => {
            let (uuid, kind) =
                (format!("83b8f4f2-509f-382f-3c1e-e6bfe0fa{number:04}"), format!("nvidia-{number}"));
            let mdev = Mdev {
                uuid: uuid.clone(),
                parent: PHYSICAL.into(),
                kind: kind.clone(),
                group,
                cdev: Some(group),
            };
            node.add_mdev(&mdev).unwrap();
            let name = format!("sys/devices/pci0000:00/{PHYSICAL}/mdev_supported_types/{kind}/name");
            node.write(&name, format!("{}\n", row.name)).unwrap();
            node.write(&format!("dev/vfio/{group}"), "").unwrap();
            uuid
        }
        None if row.device == "vendor VF" => {
            let function = Function { physfn: Some(PHYSICAL.into()), ..Function::gpu(&address, group, 0) };
            node.add(function.with_driver(Some("nvidia"))).unwrap();
            let folder = format!("sys/devices/pci0000:00/{address}/nvidia");
            fs::create_dir(node.root().join(&folder)).unwrap();
            node.write(&format!("{folder}/current_vgpu_type"), "1414\n").unwrap();
            node.write(&format!("{folder}/creatable_vgpu_types"), format!("1414 : {}\n", row.name)).unwrap();
            address
        }
        _ => panic!("no such device: {}", row.device),
    }
}

#[tokio::test]
async fn names_variables_and_nodes_are_those_of_the_page() {
    let page = page();
    let rows = rows(&page);
    for id in ["2684", "20b0", "2330", "2b85", "20f3", "2342", "25b6", "2abc"] {
        assert!(rows.iter().any(|row| row.device == format!("10de:{id}")), "no row of {id}");
    }
    for kind in ["mdev", "vendor VF"] {
        assert!(rows.iter().any(|row| row.device == kind), "no row of {kind}");
    }
    let node = Node::new().unwrap();
    node.add(Function::gpu(PHYSICAL, 49, 0).with_driver(Some("nvidia"))).unwrap();
    let mut ids = "8086  Intel Corporation\n10de  NVIDIA Corporation\n".to_owned();
    let mut devices = Vec::new();
    for (number, row) in (0..).zip(&rows) {
        devices.push((row, add(&node, row, number), format!("/dev/vfio/{}", number + 50)));
        if let Some((_, id)) = row.device.split_once(':').filter(|_| row.name != "none") {
            ids += &format!("\t{id}  {}\n", row.name);
        }
    }
    ids += "8087  Another\n\t2abc  Not NVIDIA's\n";
    node.write("pci.ids", ids).unwrap();
    let ids = node.root().join("pci.ids");
    let kubelet = kubelet(&node).await;
    let _serve = Serve::start(&node, &["--pci-ids", ids.to_str().unwrap()]);
    for (row, id, group) in &devices {
        // The page says what NVIDIA's own rule makes of the name.
        let by_its_rule = match (row.device.split_once(':'), row.name.as_str()) {
            (Some((_, id)), "none") => id.to_owned(),
            (Some(_), name) => nvidias_name(name),
            (None, name) => nvidias_type(name),
        };
        assert_eq!(row.resource, format!("nvidia.com/{by_its_rule}"));
        let prefix = if row.device == "mdev" { "MDEV_PCI_RESOURCE" } else { "PCI_RESOURCE" };
        assert_eq!(row.variable, format!("{prefix}_NVIDIA_COM_{}", by_its_rule.to_uppercase()));
        assert_eq!(row.value, if row.device == "mdev" { "uuid" } else { "address" });

        expect(&kubelet, &row.resource, |books| health(books, &row.resource, id) == Some(true)).await;
        let answers = kubelet.allocate(&row.resource, &[std::slice::from_ref(id)]).await.unwrap();
        let envs: Vec<_> = answers[0].envs.iter().collect();
        assert_eq!(envs, [(&row.variable, id)]);
        let nodes: Vec<&str> = answers[0].devices.iter().map(|spec| &*spec.host_path).collect();
        assert_eq!(nodes.join(" "), row.nodes.replace("/dev/vfio/<group>", group), "{}", row.resource);
        assert!(answers[0].devices.iter().all(|spec| spec.permissions == "mrw"));
    }
    // What KubeVirt is told to ask for is offered.
    let pools: Vec<&str> = page.split("```").filter(|block| block.starts_with("yaml\n# pools")).collect();
    let asked = Regex::new(r"(?:resourceName|deviceName): (\S+)").unwrap();
    let mut names = asked.captures_iter(&page).map(|found| found[1].to_owned()).peekable();
    assert!(names.peek().is_some());
    for name in names {
        assert!(rows.iter().any(|row| row.resource == name), "{name} is in no row");
    }
    // And the files of pools are understood.
    assert_eq!(pools.len(), 3);
    for text in pools {
        node.write("pools.yaml", text.strip_prefix("yaml\n").unwrap()).unwrap();
        let file = node.root().join("pools.yaml");
        let (code, _, error) = run(&node, &["list", "--pools", file.to_str().unwrap()]);
        assert_eq!(code, 0, "{text}: {error}");
        assert!(!error.contains("pools.yaml"), "{text}: {error}");
    }
}
