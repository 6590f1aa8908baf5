//! What the plugin's commands print on nodes with faults, and the comparison of the runbooks' examples with it.
//!
//! An example is a block of the page with the language `text`. Each of its lines must be in some output. Process ids, ages and the
//! simulated node's directory differ from run to run, so they are replaced.

use anyhow::Context;
use std::path::Path;
use std::process::Command;
use vfio_sim_node::trees::{self, Tree};
use vfio_sim_node::{Function, Node};

/// Returns what `doctor` prints on the named trees and on those of this file, where no kubelet and no `serve` runs.
///
/// # Errors
/// A tree cannot be made, or the plugin cannot be started.
pub(crate) fn of_trees(plugin: &Path) -> anyhow::Result<String> {
    let mut all = String::new();
    for (name, make) in trees::ALL.iter().chain(MORE) {
        let tree = make().with_context(|| format!("the tree {name:?}"))?;
        all += &format!("# {name}\n");
        all += &of_node(plugin, &tree.node, &["doctor", "--checks", "node,lost,aer"])?;
    }
    Ok(all)
}

/// Returns what a command prints on a node. Its exit code does not matter: it says how bad the findings are.
///
/// # Errors
/// The plugin cannot be started.
pub(crate) fn of_node(plugin: &Path, node: &Node, words: &[&str]) -> anyhow::Result<String> {
    let pools = node.root().join("pools.yaml");
    let mut command = Command::new(plugin);
    command.args(words).args(node.plugin_options());
    if pools.exists() {
        command.arg("--pools").arg(pools);
    }
    let output = command.output().with_context(|| format!("cannot start {}", plugin.display()))?;
    let text =
        [output.stdout, output.stderr].map(|text| String::from_utf8_lossy(&text).into_owned()).concat();
    Ok(text.replace(&*node.root().to_string_lossy(), ""))
}

/// Returns the lines of the page's examples that no output has.
pub(crate) fn faults(page: &str, outputs: &str) -> Vec<String> {
    let known: std::collections::BTreeSet<String> = outputs.lines().map(normalized).collect();
    let mut faults = Vec::new();
    let mut in_example = false;
    let mut examples = 0;
    for line in page.lines() {
        if let Some(language) = line.trim().strip_prefix("```") {
            in_example = !in_example && language == "text";
            examples += u32::from(in_example);
        } else if in_example && !line.trim().is_empty() && !line.starts_with("$ ") {
            let expected = normalized(line);
            if !known.contains(&expected) {
                faults.push(format!("no output has the line: {expected}"));
            }
        }
    }
    if examples == 0 {
        faults.push("no example".to_owned());
    }
    faults
}

/// Returns a line with its words separated by one space, and numbers of at least three digits replaced.
fn normalized(line: &str) -> String {
    let replaced = |word: &str| {
        let digits = word.trim_matches(|letter: char| ",;:()=".contains(letter));
        let is_number = digits.len() >= 3 && digits.bytes().all(|byte| byte.is_ascii_digit());
        if is_number { word.replace(digits, "N") } else { word.to_owned() }
    };
    line.split_whitespace().map(replaced).collect::<Vec<_>>().join(" ")
}

const GPU: &str = "0000:1b:00.0";

/// Trees for findings that the named ones do not have.
const MORE: &[trees::Recipe] = &[
    ("nothing is bound", || {
        let node = Node::new()?;
        node.add(Function::gpu(GPU, 51, 0).with_driver(None))?;
        node.add(Function::gpu("0000:3d:00.0", 52, 0).with_driver(Some("nvidia")))?;
        node.add(Function::gpu("0000:4e:00.0", 53, 0).with_driver(None))?;
        node.write("sys/bus/pci/devices/0000:4e:00.0/driver_override", "nvgrace_gpu_vfio_pci\n")?;
        trees::on(node)
    }),
    ("no /dev/vfio", || without(&["dev/vfio"])),
    ("no /dev/vfio/vfio", || without(&["dev/vfio/vfio"])),
    ("fatal errors", || {
        let tree = without(&[])?;
        tree.node.set_fatal_errors(GPU, 2)?;
        Ok(tree)
    }),
    ("a boot framebuffer", || {
        let tree = without(&[])?;
        tree.node.write(
            "proc/iomem",
            "e0000000-efffffff : PCI Bus 0000:1b\n  e0000000-e0ffffff : 0000:1b:00.0\n    e0000000-e02fffff : BOOTFB\n",
        )?;
        Ok(tree)
    }),
    ("a pools file with an error", || {
        let tree = without(&[])?;
        tree.node.write("pools.yaml", "pools:\n  - select: [{vendor: 10de}]\n    busy: sometimes\n")?;
        Ok(tree)
    }),
    ("a model without a name", || {
        let node = Node::new()?;
        node.add(Function::gpu(GPU, 51, 0).with_device(0xfff0))?;
        trees::on(node)
    }),
    ("a file that was kept aside", || {
        let tree = without(&[])?;
        tree.node.write("run/assignments.json.unreadable", "{")?;
        Ok(tree)
    }),
    ("a device without an IOMMU that is used", || {
        let tree = without(&[])?;
        tree.node.write("dev/vfio/noiommu-51", "")?;
        Ok(tree)
    }),
];

/// Returns a node with one GPU and without some files.
fn without(paths: &[&str]) -> std::io::Result<Tree> {
    let node = Node::new()?;
    node.add(Function::gpu(GPU, 51, 0))?;
    for path in paths {
        node.delete(path)?;
    }
    trees::on(node)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn examples_are_compared_line_by_line() {
        let page = "```text\n$ list\nheld  by pid 4711 (qemu)\n```\nprose\n```console\nfree\n```\n";
        assert_eq!(faults(page, "held by pid 12345 (qemu)\n"), [""; 0]);
        assert_eq!(faults(page, "free\n"), ["no output has the line: held by pid N (qemu)"]);
        assert_eq!(faults("prose\n", "free\n"), ["no example"]);
    }
}
