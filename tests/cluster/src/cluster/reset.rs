//! Between stories: deletes what a story has left, and saves the logs of one that failed.

use xtask::process;

use super::{Cluster, PLUGIN_NAMESPACE, POD};
use crate::Result;

impl Cluster {
    /// Deletes what a story has left: all of the namespace default, the plugin, and processes that hold groups.
    ///
    /// # Errors
    ///
    /// Fails if something stays; the cluster is then of no use.
    pub fn reset(&mut self) -> Result {
        self.control_plane.check()?;
        self.node.check()?;
        let kinds = "deployments,daemonsets,replicasets,jobs";
        self.kubectl_text(&["delete", kinds, "--all", "--wait=false"])?;
        self.kubectl_text(&["delete", "daemonsets", "-n", PLUGIN_NAMESPACE, "--all", "--wait=false"])?;
        self.kubectl_text(&["delete", "pods", "-A", "--all", "--wait=false"])?;
        self.kubectl_text(&[
            "delete",
            "configmap",
            "-n",
            PLUGIN_NAMESPACE,
            "vfio-device-plugin-pools",
            "--ignore-not-found",
        ])?;
        self.kubectl_text(&["delete", "events", "-A", "--all"])?;
        self.node
            .run("rm -f /etc/kubernetes/manifests/*; service stop plugin; killall -q -KILL holder || true")?;
        self.wait("all pods are gone", POD, |cluster| {
            let pods = cluster.kubectl(&["get", "pods", "-A"])?;
            Ok(pods["items"].as_array().is_some_and(Vec::is_empty).then_some(()))
        })?;
        self.wait("no process holds a group", POD, |cluster| {
            let script = "fuser /dev/vfio/[0-9]* 2>/dev/null || true";
            Ok(cluster.node.run(script)?.is_empty().then_some(()))
        })?;
        self.node.run("rm -rf /run/vfio-device-plugin").map(|_| ())
    }

    /// Saves all logs in a directory, and returns a line that names it.
    #[must_use]
    pub fn save_logs(&self, name: &str) -> String {
        let directory = std::env::temp_dir().join("vfio-probe-cluster").join(format!("failed-{name}"));
        let _ = std::fs::remove_dir_all(&directory);
        if process::make_directory(&directory).is_err() {
            return format!("the logs cannot be saved in {}", directory.display());
        }
        for file in process::entries(self.work.path()) {
            if file.extension().is_some_and(|extension| extension == "log") {
                let _ = std::fs::copy(&file, directory.join(process::file_name(&file)));
            }
        }
        for (file, arguments) in [
            ("objects.txt", ["get", "all,nodes", "-A", "-o", "wide"]),
            ("events.txt", ["get", "events", "-A", "-o", "wide"]),
            ("pods.yaml", ["get", "pods", "-A", "-o", "yaml"]),
            ("nodes.yaml", ["get", "nodes", "-A", "-o", "yaml"]),
        ] {
            let text = self.kubectl_text(&arguments).unwrap_or_else(|error| error.to_string());
            let _ = process::write(&directory.join(file), text);
        }
        self.node.save_logs(&directory);
        format!("the logs are in {}", directory.display())
    }
}
