//! What the driver's account may do: RBAC and the admission policy, with the token of the driver's pod.

use std::time::Duration;

use serde_json::{Value, json};

use super::view::DRIVER;
use crate::{Cluster, Result};

/// The time until the API server applies a new policy.
const LIMIT: Duration = Duration::from_secs(60);
/// The driver's account, in the form of kubectl.
const ACCOUNT: &str = "vfio-device-plugin";

/// The API server refuses each write outside of the driver's node, and accepts the same write inside.
///
/// # Errors
///
/// Fails if a write is accepted that must be refused, or the other way round.
pub(super) fn check(cluster: &Cluster) -> Result {
    let pod = cluster.plugin_pod()?;
    let namespace = ["--namespace", "kube-system"];
    let create = [&["create", "token", ACCOUNT], &namespace[..]].concat();
    let unbound = cluster.kubectl_text(&create)?;
    let bound = ["--bound-object-kind=Pod".to_owned(), format!("--bound-object-name={pod}")];
    let bound: Vec<&str> = bound.iter().map(String::as_str).collect();
    let token = cluster.kubectl_text(&[&create[..], &bound].concat())?;

    // A policy takes a moment to take effect.
    cluster.wait("the policy refuses", LIMIT, |cluster| {
        refused(cluster, &token, &slice("node2", "node2", DRIVER), "only ResourceSlices of its node node1")
            .map(Some)
    })?;
    refused(cluster, &token, &slice("node1", "node2", DRIVER), "only the pool of its node node1")?;
    refused(
        cluster,
        &token,
        &slice("node1", "node1", "gpu.example.com"),
        &format!("only ResourceSlices of {DRIVER}"),
    )?;
    refused(cluster, &unbound, &slice("node1", "node1", DRIVER), "names no node")?;
    write(cluster, &token, &slice("node1", "node1", DRIVER))?;
    cluster.step("the token of the driver's pod writes slices of its node and driver, and no other");

    cluster.apply(&slice("node2", "node2", DRIVER).to_string())?;
    let delete = ["delete", "resourceslice", "test", "--token", &token];
    let deleted = cluster.kubectl_text(&delete);
    cluster.kubectl_text(&["delete", "resourceslice", "test"])?;
    expect_error(deleted, "only ResourceSlices of its node node1")?;

    for (verb, resource, allowed) in [
        ("get", "resourceclaims", true),
        ("list", "resourceclaims", false),
        ("update", "resourceclaims", false),
        ("update", "resourceclaims/status", false),
        ("deletecollection", "resourceslices", false),
        ("list", "pods", false),
        ("get", "secrets", false),
        ("list", "nodes", false),
        ("update", "nodes", false),
    ] {
        let question = ["auth", "can-i", verb, resource, "--all-namespaces", "--token", &token];
        // It exits with 1 for no.
        let can = cluster.kubectl_text(&question).is_ok_and(|answer| answer.contains("yes"));
        if can != allowed {
            return Err(format!("the driver's account: {verb} {resource} is {can}").into());
        }
    }
    cluster.step("its account may get claims, and neither list nor change claims, pods, secrets and nodes");
    Ok(())
}

/// A slice with one device.
fn slice(node: &str, pool: &str, driver: &str) -> Value {
    json!({
        "apiVersion": "resource.k8s.io/v1",
        "kind": "ResourceSlice",
        "metadata": {"name": "test"},
        "spec": {
            "driver": driver,
            "nodeName": node,
            "pool": {"name": pool, "generation": 1, "resourceSliceCount": 1},
            "devices": [{"name": "stolen"}],
        },
    })
}

/// Sends an object with a token, which the API server checks and does not store.
fn write(cluster: &Cluster, token: &str, object: &Value) -> Result {
    let file = cluster.work().join("slice.json");
    xtask::process::write(&file, object.to_string())?;
    let file = file.display().to_string();
    cluster.kubectl_text(&["create", "--dry-run=server", "-f", &file, "--token", token]).map(drop)
}

fn refused(cluster: &Cluster, token: &str, object: &Value, words: &str) -> Result {
    expect_error(write(cluster, token, object), words)
}

/// Fails unless the result is an error with these words.
fn expect_error<T>(result: Result<T>, words: &str) -> Result {
    match result {
        Err(error) if error.to_string().contains(words) => Ok(()),
        Err(error) => Err(format!("the API server says {error}, not {words}").into()),
        Ok(_) => Err(format!("the API server accepts what it should refuse: {words}").into()),
    }
}
