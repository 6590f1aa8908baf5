//! The files that are made from the chart: the manifests for kubectl, and the pools' definitions in the schema of the values.

use std::path::Path;

use super::{helm, template};
use crate::context::Context;
use crate::log::{Log, same};
use crate::suite::Suite;
use crate::{Result, process};

/// A file below deploy, what its head says, and the values.
type Manifest = (&'static str, &'static str, &'static [&'static str]);

const OPTIONAL_POOLS: &str = "pools.existingConfigMap=vfio-device-plugin-pools,pools.optional=true";

const MANIFESTS: &[Manifest] = &[
    (
        "daemonset.yaml",
        "The mode `unprivileged`; daemonset-probing.yaml is the mode `probing`.",
        &["--set", OPTIONAL_POOLS, "--show-only", "templates/daemonset.yaml"],
    ),
    (
        "daemonset-probing.yaml",
        "The mode `probing`; daemonset.yaml is the mode `unprivileged`.",
        &["--set", OPTIONAL_POOLS, "--set", "mode=probing", "--show-only", "templates/daemonset.yaml"],
    ),
    (
        "pools-configmap.yaml",
        "Pools for daemonset.yaml and daemonset-probing.yaml. After you created it, restart the DaemonSet.",
        &["--values", "deploy/chart/examples/pools.yaml", "--show-only", "templates/configmap.yaml"],
    ),
    (
        "kata-cdi.yaml",
        "The mode `probing` with CDI for Kata, instead of the two DaemonSets.",
        &["--values", "deploy/chart/examples/kata-cdi.yaml"],
    ),
    (
        "dra/daemonset.yaml",
        "The mode `unprivileged` as a DRA driver; it needs rbac.yaml and policy.yaml.",
        &["--set", OPTIONAL_POOLS, "--set", "offer=dra", "--show-only", "templates/daemonset.yaml"],
    ),
    (
        "dra/daemonset-probing.yaml",
        "The mode `probing` as a DRA driver; it needs rbac.yaml and policy.yaml.",
        &[
            "--set",
            OPTIONAL_POOLS,
            "--set",
            "offer=dra,mode=probing",
            "--show-only",
            "templates/daemonset.yaml",
        ],
    ),
    (
        "dra/rbac.yaml",
        "The service account of the DRA driver, and its rights.",
        &[
            "--set",
            "offer=dra",
            "--show-only",
            "templates/serviceaccount.yaml",
            "--show-only",
            "templates/dra-rbac.yaml",
        ],
    ),
    (
        "dra/policy.yaml",
        "Limits the DRA driver of each node to the ResourceSlices of that node.",
        &["--set", "offer=dra", "--show-only", "templates/dra-policy.yaml"],
    ),
];

const VALUES_SCHEMA: &str = "deploy/chart/values.schema.json";
const POOLS_SCHEMA: &str = "deploy/pools.schema.json";

/// Writes the files.
///
/// # Errors
///
/// Fails if Helm cannot be installed or the chart has an error.
pub fn write(context: &mut Context, _: &[String]) -> Result<bool> {
    let helm = helm(context)?;
    process::write(&context.top.join(VALUES_SCHEMA), values_schema(context)?)?;
    for manifest in MANIFESTS {
        let mut log = Log::new()?;
        let text = rendered(context, &helm, manifest, &mut log)
            .map_err(|error| format!("{error}\n{}", log.text()))?;
        process::write(&context.top.join("deploy").join(manifest.0), text)?;
    }
    Ok(true)
}

/// Checks that the files are what `write` makes.
pub(super) fn check(context: &Context, helm: &Path, suite: &mut Suite) {
    let again = "scripts/xtask manifests writes the file";
    suite.check("pools in values.schema.json", |_| {
        let is = process::read(&context.top.join(VALUES_SCHEMA))?;
        same(&is, &values_schema(context)?).map_err(|error| format!("{again}: {error}").into())
    });
    for manifest in MANIFESTS {
        suite.check(&format!("deploy/{} is rendered from the chart", manifest.0), |log| {
            let is = process::read(&context.top.join("deploy").join(manifest.0))?;
            same(&is, &rendered(context, helm, manifest, log)?)
                .map_err(|error| format!("{again}: {error}").into())
        });
    }
}

/// Renders a manifest: the chart's output below a head.
fn rendered(context: &Context, helm: &Path, manifest: &Manifest, log: &mut Log) -> Result<String> {
    let (name, about, words) = manifest;
    let words: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
    let text = template(context, helm, log, &words)?;
    // Versions of Helm differ in the empty lines.
    let kept = |line: &&str| !line.is_empty() && !line.starts_with("# Source: ");
    let mut lines: Vec<&str> = text.lines().filter(kept).collect();
    if lines.first() == Some(&"---") {
        lines.remove(0);
    }
    Ok(format!(
        "# Rendered from the Helm chart by `scripts/xtask manifests`: change deploy/chart, not this file.\n\
         # {about}\n#\n# kubectl apply -f deploy/{name}\n#\n{}\n",
        lines.join("\n")
    ))
}

/// Returns the schema of the values with the definitions of the pools' schema.
fn values_schema(context: &Context) -> Result<String> {
    let values = process::read(&context.top.join(VALUES_SCHEMA))?;
    let pools = process::read(&context.top.join(POOLS_SCHEMA))?;
    with_definitions(&values, &pools)
        .ok_or_else(|| format!("{VALUES_SCHEMA} or {POOLS_SCHEMA} does not begin with $defs").into())
}

/// Returns the values' schema with the key `$defs` of the pools' schema, which is the first key of both.
fn with_definitions(values: &str, pools: &str) -> Option<String> {
    let split = |text: &'_ str| -> Option<usize> {
        text.starts_with("{\n  \"$defs\": {\n").then(|| text.find("\n  },\n")).flatten()
    };
    let (values_end, pools_end) = (split(values)?, split(pools)?);
    Some(format!("{}{}", pools.get(..pools_end)?, values.get(values_end..)?))
}

#[cfg(test)]
mod tests {
    use super::with_definitions;

    #[test]
    fn definitions_are_copied_and_the_rest_stays() {
        let values = "{\n  \"$defs\": {\n    \"a\": {\n    }\n  },\n  \"title\": \"Values\"\n}\n";
        let pools = "{\n  \"$defs\": {\n    \"b\": 1\n  },\n  \"title\": \"Pools\"\n}\n";
        let made = "{\n  \"$defs\": {\n    \"b\": 1\n  },\n  \"title\": \"Values\"\n}\n";
        assert_eq!(with_definitions(values, pools).unwrap(), made);
        assert_eq!(with_definitions(made, pools).unwrap(), made);
        assert_eq!(with_definitions("{}", pools), None);
    }
}
