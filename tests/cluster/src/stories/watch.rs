//! Watches the node's status in the API server: every change, not samples.

use std::path::PathBuf;

use super::step::NODE;
use crate::process::Daemon;
use crate::{Cluster, Result};

/// Prints capacity and allocatable of all resources, one change a line.
const COLUMNS: &str = r#"jsonpath={.status.capacity}{" "}{.status.allocatable}{"
"}"#;

/// A running watch. It ends when it is dropped.
#[derive(Debug)]
pub(super) struct Watch {
    log: PathBuf,
    _kubectl: Daemon,
}

impl Watch {
    /// Starts to watch.
    ///
    /// # Errors
    ///
    /// Fails if kubectl cannot be started.
    pub(super) fn start(cluster: &Cluster, name: &str) -> Result<Self> {
        let log = cluster.work().join(format!("watch-{name}.log"));
        let mut command = cluster.kubectl_command();
        // The last one counts: a watch has no end.
        command.args(["get", "node", NODE, "--watch", "--output", COLUMNS, "--request-timeout=0"]);
        Ok(Self { _kubectl: Daemon::start(cluster.context(), "kubectl", &log, &command)?, log })
    }

    /// Returns capacity and allocatable after each change so far. Equal neighbours are one.
    ///
    /// # Errors
    ///
    /// Fails if a line cannot be read.
    pub(super) fn changes(&self, prefix: &str) -> Result<Vec<(i64, i64)>> {
        read(&xtask::process::read(&self.log)?, prefix)
    }
}

/// Returns capacity and allocatable as one line.
pub(super) fn line(changes: &[(i64, i64)]) -> String {
    let texts: Vec<String> =
        changes.iter().map(|(capacity, allocatable)| format!("{capacity}/{allocatable}")).collect();
    texts.join(" -> ")
}

fn read(text: &str, prefix: &str) -> Result<Vec<(i64, i64)>> {
    let mut changes = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let mut values = serde_json::Deserializer::from_str(line).into_iter();
        let mut next = || -> Result<i64> {
            let value: serde_json::Value =
                values.next().ok_or_else(|| format!("the watch printed {line:?}"))??;
            let quantities =
                value.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with(prefix));
            quantities.map(|(_, count)| Ok(count.as_str().unwrap_or_default().parse::<i64>()?)).sum()
        };
        changes.push((next()?, next()?));
    }
    changes.dedup();
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::read;

    #[test]
    fn changes_have_both_figures_and_no_repetition() {
        let line = |allocatable: u8| {
            format!(
                "{{\"cpu\":\"1\",\"nvidia.com/A\":\"6\"}} {{\"cpu\":\"1\",\"nvidia.com/A\":\"{allocatable}\"}}\n"
            )
        };
        let text = [line(6), line(6), line(0), "{} {}\n".into(), line(6)].concat();
        assert_eq!(read(&text, "nvidia.com/").unwrap(), [(6, 6), (6, 0), (0, 0), (6, 6)]);
        assert!(read("error: the server is away\n", "nvidia.com/").is_err());
    }
}
