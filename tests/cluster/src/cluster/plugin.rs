//! The plugin's pods.

use std::fmt::Write as _;

use serde_json::Value;

use super::{Cluster, PLUGIN_LABEL, PLUGIN_NAMESPACE, POD};
use crate::Result;

impl Cluster {
    /// Applies a manifest of the plugin, and waits until its pod is ready. The pod of an earlier manifest has then been replaced.
    ///
    /// # Errors
    ///
    /// Fails if it is not ready in time, with the pod's events.
    pub fn deploy_plugin(&self, manifest: &str) -> Result {
        self.apply(manifest)?;
        let ready = self.wait("the plugin's pod is ready", POD, |cluster| {
            let rollout = ["rollout", "status", "daemonset/vfio-device-plugin", "-n", PLUGIN_NAMESPACE];
            let said = cluster.kubectl_text(&[&rollout[..], &["--watch=false"]].concat())?;
            if !said.contains("successfully rolled out") {
                return Err(said.into());
            }
            let pods = cluster.plugin_pods()?;
            Ok((pods.len() == 1 && pods.iter().all(is_ready)).then_some(()))
        });
        ready.map_err(|error| {
            let mut text = error.to_string();
            for pod in self.plugin_pods().unwrap_or_default() {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                let _ = write!(text, "\n{name}: {}\n{}", pod["status"], self.events(name));
            }
            text.into()
        })
    }

    /// Returns the plugin's pods.
    ///
    /// # Errors
    ///
    /// Fails if the API server does not answer.
    pub fn plugin_pods(&self) -> Result<Vec<Value>> {
        let mut listed = self.kubectl(&["get", "pods", "-n", PLUGIN_NAMESPACE, "-l", PLUGIN_LABEL])?;
        Ok(listed["items"].as_array_mut().map(std::mem::take).unwrap_or_default())
    }

    /// Returns the name of the one pod of the plugin.
    ///
    /// # Errors
    ///
    /// Fails if there is none, or more than one.
    pub fn plugin_pod(&self) -> Result<String> {
        match self.plugin_pods()?.as_slice() {
            [pod] => Ok(pod["metadata"]["name"].as_str().unwrap_or_default().into()),
            pods => Err(format!("the plugin has {} pods", pods.len()).into()),
        }
    }
}

/// Whether all containers of a pod are ready.
fn is_ready(pod: &Value) -> bool {
    let conditions = pod.pointer("/status/conditions").and_then(Value::as_array);
    let is_deleted = pod["metadata"]["deletionTimestamp"].is_string();
    let mut conditions = conditions.into_iter().flatten();
    !is_deleted && conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn pod_that_is_being_deleted_is_not_ready() {
        let conditions = json!([{"type": "Ready", "status": "True"}]);
        let mut pod = json!({"metadata": {}, "status": {"conditions": conditions}});
        assert!(is_ready(&pod));
        pod["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert!(!is_ready(&pod));
        assert!(!is_ready(&json!({"metadata": {}, "status": {}})));
    }
}
