//! Runs a Prometheus that scrapes local plugins every second, and queries it.

use crate::http::{escaped, free_port, get};
use crate::rules::{self, Alert};
use anyhow::{Context, bail};
use serde_json::Value;
use std::fmt::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// A running Prometheus. It ends, and its data are removed, when this is dropped.
pub(crate) struct Prometheus {
    child: Child,
    port: u16,
    directory: TempDir,
}

impl Prometheus {
    /// Starts the program. `targets` are the names of the nodes and the ports of their plugins.
    ///
    /// # Errors
    /// The program or its files cannot be started or written.
    pub(crate) fn start(programs: &Path, rules: &Path, targets: &[(String, u16)]) -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("vfio-prometheus-").tempdir()?;
        let mut text = format!(
            "global: {{scrape_interval: 1s, evaluation_interval: 1s}}\nrule_files: ['{}']\nscrape_configs:\n  \
             - job_name: vfio-device-plugin\n    honor_labels: true\n    static_configs:\n",
            rules.display()
        );
        for (node, port) in targets {
            writeln!(text, "      - {{targets: ['127.0.0.1:{port}'], labels: {{node: {node}}}}}")?;
        }
        let configuration = directory.path().join("prometheus.yaml");
        std::fs::write(&configuration, text)?;
        let log = std::fs::File::create(directory.path().join("log"))?;
        let port = free_port()?;
        let child = Command::new(programs.join("prometheus"))
            .arg(format!("--config.file={}", configuration.display()))
            .arg(format!("--storage.tsdb.path={}", directory.path().join("data").display()))
            .arg(format!("--web.listen-address=127.0.0.1:{port}"))
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .context("cannot start prometheus")?;
        Ok(Self { child, port, directory })
    }

    /// Waits until every rule has been evaluated without an error, and returns the alerts.
    ///
    /// # Errors
    /// The program has ended, or a rule has an error for longer than `patience`.
    pub(crate) async fn rules(&self, patience: Duration) -> anyhow::Result<Vec<Alert>> {
        let until = Instant::now() + patience;
        loop {
            let answer = self.api("rules");
            if let Some(alerts) = answer.as_ref().ok().and_then(rules::alerts) {
                return Ok(alerts);
            }
            if Instant::now() > until {
                let log = std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
                bail!("no rules: {answer:?}; the log of prometheus:\n{log}");
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }

    /// Returns the series of an instant query as text, `{labels} value`, without those that are not a number.
    ///
    /// # Errors
    /// Prometheus refuses the query.
    pub(crate) fn query(&self, expression: &str) -> anyhow::Result<Vec<String>> {
        let answer = self.api(&format!("query?query={}", escaped(expression)))?;
        let series = answer.pointer("/data/result").and_then(Value::as_array).context("no result")?;
        let line = |series: &Value| {
            let value = series.pointer("/value/1")?.as_str().filter(|value| *value != "NaN")?;
            Some(format!("{} {value}", series.get("metric")?))
        };
        Ok(series.iter().filter_map(line).collect())
    }

    fn api(&self, path: &str) -> anyhow::Result<Value> {
        Ok(serde_json::from_str(&get(self.port, &format!("/api/v1/{path}"))?)?)
    }
}

impl Drop for Prometheus {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
