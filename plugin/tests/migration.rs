//! Compares the names, variables and device nodes of docs/migration.md with the program.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "a test may fail loudly")]

mod common;

use common::{Serve, expect, health, kubelet, run};
use regex::Regex;
use std::fs;
use vfio_sim_node::mdev::Mdev;
use vfio_sim_node::{Function, Node};

/// A row of the page's table.
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

/// Returns the rows of the table below the mark, without the backticks.
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

/// Returns a resource name as NVIDIA's plugin makes it (`getDeviceName`), with the same regular expressions.
fn nvidia_name(name: &str) -> String {
    let name = name.trim().to_uppercase().replace(['/', '.'], "_");
    let name = Regex::new(r"\s+").unwrap().replace_all(&name, "_").into_owned();
    Regex::new("[^a-zA-Z0-9_.]+").unwrap().replace_all(&name, "").into_owned()
}

/// Returns the name of a vGPU type as NVIDIA's plugin makes it (`readVgpuIDFromFile`).
fn nvidia_type_name(name: &str) -> String {
    Regex::new(r"\s+").unwrap().replace_all(name.trim_matches('\n'), "_").into_owned()
}

const PHYSICAL: &str = "0000:01:00.0";

/// Adds the device of a row to the node and returns its id.
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
            let directory = format!("sys/devices/pci0000:00/{address}/nvidia");
            fs::create_dir(node.root().join(&directory)).unwrap();
            node.write(&format!("{directory}/current_vgpu_type"), "1414\n").unwrap();
            node.write(&format!("{directory}/creatable_vgpu_types"), format!("1414 : {}\n", row.name))
                .unwrap();
            address
        }
        _ => panic!("unknown kind of device: {}", row.device),
    }
}

#[tokio::test]
async fn names_variables_and_nodes_match_the_page() {
    let page = page();
    let rows = rows(&page);
    for id in ["2684", "20b0", "2330", "2b85", "20f3", "2342", "25b6", "2abc"] {
        assert!(rows.iter().any(|row| row.device == format!("10de:{id}")), "no row for {id}");
    }
    for kind in ["mdev", "vendor VF"] {
        assert!(rows.iter().any(|row| row.device == kind), "no row for {kind}");
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
        // The page has the name that NVIDIA's own rule makes.
        let expected = match (row.device.split_once(':'), row.name.as_str()) {
            (Some((_, id)), "none") => id.to_owned(),
            (Some(_), name) => nvidia_name(name),
            (None, name) => nvidia_type_name(name),
        };
        assert_eq!(row.resource, format!("nvidia.com/{expected}"));
        let prefix = if row.device == "mdev" { "MDEV_PCI_RESOURCE" } else { "PCI_RESOURCE" };
        assert_eq!(row.variable, format!("{prefix}_NVIDIA_COM_{}", expected.to_uppercase()));
        assert_eq!(row.value, if row.device == "mdev" { "uuid" } else { "address" });

        expect(&kubelet, &row.resource, |state| health(state, &row.resource, id) == Some(true)).await;
        let responses = kubelet.allocate(&row.resource, &[std::slice::from_ref(id)]).await.unwrap();
        let envs: Vec<_> = responses[0].envs.iter().collect();
        assert_eq!(envs, [(&row.variable, id)]);
        let nodes: Vec<&str> = responses[0].devices.iter().map(|spec| &*spec.host_path).collect();
        assert_eq!(nodes.join(" "), row.nodes.replace("/dev/vfio/<group>", group), "{}", row.resource);
        assert!(responses[0].devices.iter().all(|spec| spec.permissions == "mrw"));
    }
    // Each resource that the page has KubeVirt request is offered.
    let pools: Vec<&str> = page.split("```").filter(|block| block.starts_with("yaml\n# pools")).collect();
    let requested = Regex::new(r"(?:resourceName|deviceName): (\S+)").unwrap();
    let mut names = requested.captures_iter(&page).map(|found| found[1].to_owned()).peekable();
    assert!(names.peek().is_some());
    for name in names {
        assert!(rows.iter().any(|row| row.resource == name), "{name} is in no row");
    }
    // The pools files of the page are valid.
    assert_eq!(pools.len(), 3);
    for text in pools {
        node.write("pools.yaml", text.strip_prefix("yaml\n").unwrap()).unwrap();
        let file = node.root().join("pools.yaml");
        let (code, _, error) = run(&node, &["list", "--pools", file.to_str().unwrap()]);
        assert_eq!(code, 0, "{text}: {error}");
        assert!(!error.contains("pools.yaml"), "{text}: {error}");
    }
}
