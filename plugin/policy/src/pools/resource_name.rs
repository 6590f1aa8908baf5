//! Makes the names of resources, and checks what the kubelet accepts as one.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt::Write;

/// Limit for the part after the slash, in bytes (the kubelet's `IsQualifiedName`).
const MAX_NAME: usize = 63;

/// Returns the name of a model, made from its name in pci.ids as NVIDIA's plugin does. Models with the same name share a resource.
/// Without a name, or with one that the kubelet would refuse, the hex id is returned.
pub fn model_name(device: u16, pci_ids_name: Option<&str>) -> String {
    let name = pci_ids_name.map(sanitized).filter(|name| acceptable(name));
    name.unwrap_or_else(|| format!("{device:04x}"))
}

/// Returns the name of a vGPU type, made as NVIDIA's plugin does: the driver's name with one `_` for each run of white space (`GRID
/// T4-1Q` becomes GRID_T4-1Q). Without a name, or with one that the kubelet would refuse, `number` is returned: the type's
/// directory or number.
pub fn type_name(number: &str, name: Option<&str>) -> String {
    let name = name.map(|name| name.split_whitespace().collect::<Vec<_>>().join("_"));
    name.filter(|name| is_resource(&format!("nvidia.com/{name}"))).unwrap_or_else(|| number.to_owned())
}

/// Returns the resource of a model.
pub fn resource_of(vendor: u16, model: &str) -> String {
    match vendor {
        0x10de => format!("nvidia.com/{model}"),
        _ => format!("pci-{vendor:04x}.vfio/{model}"),
    }
}

/// Converts a name to upper case, `/`, `.` and runs of white space to `_`, and drops other characters outside `[A-Za-z0-9_]`.
fn sanitized(name: &str) -> String {
    let mut out = String::new();
    let mut words = name.split_whitespace();
    if let Some(first) = words.next() {
        out.push_str(first);
    }
    for word in words {
        let _ = write!(out, "_{word}");
    }
    out.chars()
        .map(|c| if matches!(c, '/' | '.') { '_' } else { c.to_ascii_uppercase() })
        .filter(|c| c.is_ascii_alphanumeric() || *c == '_')
        .collect()
}

fn acceptable(name: &str) -> bool {
    let ends = |c: Option<char>| c.is_some_and(|c| c.is_ascii_alphanumeric());
    name.len() <= MAX_NAME && ends(name.chars().next()) && ends(name.chars().last())
}

/// Returns whether the kubelet accepts a name as a device plugin's resource (`IsExtendedResourceName`): a domain in lower case that
/// is not Kubernetes' own, a slash, and a name of at most 63 characters that begins and ends with a letter or digit.
pub fn is_resource(text: &str) -> bool {
    let Some((domain, name)) = text.split_once('/') else { return false };
    let label = |label: &str| {
        let inner = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
        label.starts_with(inner) && label.ends_with(inner) && label.chars().all(|c| inner(c) || c == '-')
    };
    // The domain must also fit with the prefix `requests.` of quotas.
    domain.len() + "requests.".len() <= 253
        && domain.split('.').all(label)
        && !text.starts_with("requests.")
        && !text.contains("kubernetes.io/")
        && acceptable(name)
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'))
}

/// Returns the environment variable from which KubeVirt reads the addresses of a resource's devices (`ResourceNameToEnvVar`). A
/// hyphen stays.
pub fn env_name(resource: &str, mdev: bool) -> String {
    let prefix = if mdev { "MDEV_PCI_RESOURCE_" } else { "PCI_RESOURCE_" };
    // The name of a resource is ASCII. Each Allocate makes this text.
    let upper = |c: char| if matches!(c, '/' | '.') { '_' } else { c.to_ascii_uppercase() };
    let mut name = String::with_capacity(prefix.len() + resource.len());
    name.push_str(prefix);
    name.extend(resource.chars().map(upper));
    name
}

/// Returns each pair of different resources for which KubeVirt reads the addresses from the same variable.
///
/// A container that requests both sees the addresses of one of them: the kubelet uses the variable of the first response
/// (`deviceRunContainerOptions`), and the order of responses is random.
pub fn variable_collisions<'a>(
    resources: impl Iterator<Item = &'a str>,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    let mut known: BTreeMap<String, &str> = BTreeMap::new();
    resources.filter_map(move |resource| match known.entry(env_name(resource, false)) {
        Entry::Vacant(place) => {
            place.insert(resource);
            None
        }
        Entry::Occupied(first) => Some((*first.get(), resource)).filter(|(first, second)| first != second),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rule of NVIDIA's plugin (`getDeviceName` of kubevirt-gpu-device-plugin), step by step as it is written there.
    fn nvidias_name(name: &str) -> String {
        let name = name.trim().to_uppercase().replace(['/', '.'], "_");
        let mut spaces_joined = String::new();
        for c in name.chars().map(|c| if c.is_whitespace() { ' ' } else { c }) {
            if c != ' ' || !spaces_joined.ends_with(' ') {
                spaces_joined.push(c);
            }
        }
        let name = spaces_joined.replace(' ', "_");
        name.chars().filter(|c| matches!(c, 'a'..='z' | 'A'..='Z' | '0'..='9' | '_' | '.')).collect()
    }

    #[test]
    fn every_built_in_nvidia_model_is_named_by_nvidias_rule() {
        let mut refused = Vec::new();
        let mut models = 0;
        for id in 0..=u16::MAX {
            let Some(name) = vfio_probe::names::built_in(0x10de, id) else { continue };
            models += 1;
            let expected = nvidias_name(name.as_str());
            if is_resource(&format!("nvidia.com/{expected}")) {
                assert_eq!(model_name(id, Some(name.as_str())), expected, "{id:04x}");
            } else {
                assert_eq!(model_name(id, Some(name.as_str())), format!("{id:04x}"));
                refused.push(format!("{id:04x} {expected}"));
            }
        }
        // The kubelet refuses these: more than 63 characters, or no letter or digit at the end.
        assert_eq!(
            refused,
            [
                "05be NF200_PCIE_2_0_SWITCH_FOR_QUADRO_PLEX_S4___TESLA_S870___TESLA_S1070___TESLA_S2050",
                "24fa GA104_RTX_A4500_EMBEDDED_GPU_",
                "25f9 GA107_RTX_A1000_EMBEDDED_GPU_",
            ]
        );
        assert_eq!(models, 1931);
    }

    #[test]
    fn model_names_equal_those_of_nvidias_plugin() {
        for (id, name, expected) in [
            (0x2684, Some("AD102 [GeForce RTX 4090]"), "AD102_GEFORCE_RTX_4090"),
            (0x20b0, Some("GA100 [A100 SXM4 40GB]"), "GA100_A100_SXM4_40GB"),
            (0x2330, Some("GH100 [H100 SXM5 80GB]"), "GH100_H100_SXM5_80GB"),
            (0x2b85, Some("GB202 [GeForce RTX 5090]"), "GB202_GEFORCE_RTX_5090"),
            (0x20f3, Some("GA100 [A800-SXM4-80GB]"), "GA100_A800SXM480GB"),
            (0x2342, Some("GH100 [GH200 120GB / 480GB]"), "GH100_GH200_120GB___480GB"),
            (0x25b6, Some("GA107GL [A2 / A16]"), "GA107GL_A2___A16"),
            (0x1234, None, "1234"),
            (0x1234, Some("..."), "1234"),
            (0x1234, Some("Ends badly /"), "1234"),
            (0x1234, Some(&*"x".repeat(64)), "1234"),
            (0x1234, Some(&*"x".repeat(63)), &*"X".repeat(63)),
        ] {
            assert_eq!(model_name(id, name), expected);
        }
        assert_eq!(resource_of(0x10de, "2330"), "nvidia.com/2330");
        assert_eq!(resource_of(0x1234, "11e8"), "pci-1234.vfio/11e8");
    }

    #[test]
    fn variables_are_those_that_kubevirt_reads() {
        let name = env_name("nvidia.com/GH100_H100_SXM5_80GB", false);
        assert_eq!(name, "PCI_RESOURCE_NVIDIA_COM_GH100_H100_SXM5_80GB");
        assert_eq!(env_name("example.com/my-gpu", true), "MDEV_PCI_RESOURCE_EXAMPLE_COM_MY-GPU");
    }

    #[test]
    fn names_that_differ_in_case_dot_or_underscore_collide() {
        let all = ["a.b/x.y", "a.b/x", "a.b/x_y", "a.b/x", "a_b/x", "a.b/X.Y", "a.b/x-y"];
        let found: Vec<_> = variable_collisions(all.into_iter()).collect();
        assert_eq!(found, [("a.b/x.y", "a.b/x_y"), ("a.b/x", "a_b/x"), ("a.b/x.y", "a.b/X.Y")]);
    }

    #[test]
    fn type_names_keep_hyphens_unless_refused() {
        for (name, expected) in [
            (Some("GRID T4-1Q"), "GRID_T4-1Q"),
            (Some("NVIDIA A40-8Q"), "NVIDIA_A40-8Q"),
            (Some("GRID  V100D-32Q"), "GRID_V100D-32Q"),
            (Some("Dummy/type"), "nvidia-35"),
            (Some("ends-"), "nvidia-35"),
            (None, "nvidia-35"),
        ] {
            assert_eq!(type_name("nvidia-35", name), expected);
        }
    }

    #[test]
    fn resource_is_what_the_kubelet_accepts() {
        for name in ["nvidia.com/GPU", "a/b", "example.com/my-gpu_1.x", &format!("a.b/{}", "x".repeat(63))] {
            assert!(is_resource(name), "{name}");
        }
        let long = format!("a.b/{}", "x".repeat(64));
        let domain = format!("{}/x", "a.".repeat(130));
        for name in [
            "",
            "GPU",
            "nvidia.com/",
            "/GPU",
            "a/b/c",
            "a.b/-x",
            "a.b/x-",
            "a.b/x y",
            "a.b/\u{e4}",
            "Nvidia.com/x",
            "-a/b",
            "a..b/c",
            "kubernetes.io/gpu",
            "x.kubernetes.io/gpu",
            "requests.a/b",
            &long,
            &domain,
        ] {
            assert!(!is_resource(name), "{name}");
        }
    }
}
