//! The alerts as Prometheus has loaded them, and the query that shows that each can be true.

use crate::Query;
use serde_json::Value;

/// One alert.
#[derive(Clone, Debug)]
pub(crate) struct Alert {
    pub(crate) name: String,
    pub(crate) expression: String,
    pub(crate) severity: String,
    pub(crate) summary: String,
    pub(crate) description: String,
    pub(crate) runbook_url: String,
}

/// Changes of expressions that cannot be true within the time of a test, and why.
const CHANGES: [(&str, &str, &str); 4] = [
    // No open of a simulated device takes as long or hangs: any probe will do.
    ("VfioProbeSlow", "> 0.5", "> 0"),
    ("VfioProbeTimeout", "{result=\"timeout\"}", "{result=~\".+\"}"),
    // The plugin reported a moment ago, not half an hour.
    ("VfioPluginAbsent", "offset 30m", "offset 5s"),
    // The target of a plugin that has ended stays in this configuration; in Kubernetes it goes with the pod.
    ("VfioPluginAbsent", ".*vfio-device-plugin.*", "none"),
];

/// Alerts about a plugin that has ended.
const OF_AN_END: [&str; 2] = ["VfioPluginDown", "VfioPluginAbsent"];

/// Returns the alerts in the answer of `/api/v1/rules`, or none if a rule has not been evaluated yet.
pub(crate) fn alerts(answer: &Value) -> Option<Vec<Alert>> {
    let groups = answer.pointer("/data/groups")?.as_array()?;
    let rules = groups.iter().flat_map(|group| group.get("rules").and_then(Value::as_array)).flatten();
    let alert = |rule: &Value| {
        let text =
            |pointer: &str| rule.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
        (text("/health") == "ok").then(|| Alert {
            name: text("/name"),
            expression: text("/query"),
            severity: text("/labels/severity"),
            summary: text("/annotations/summary"),
            description: text("/annotations/description"),
            runbook_url: text("/annotations/runbook_url"),
        })
    };
    rules.map(alert).collect::<Option<Vec<_>>>().filter(|alerts| !alerts.is_empty())
}

/// Returns the query of each alert, and whether it needs the end of a plugin.
pub(crate) fn queries(alerts: &[Alert]) -> Vec<(bool, Query)> {
    let query = |alert: &Alert| {
        let mut expression = alert.expression.clone();
        let mut name = format!("alert {} ({})", alert.name, alert.severity);
        for (_, from, to) in CHANGES.iter().filter(|(changed, ..)| *changed == alert.name) {
            expression = expression.replace(from, to);
            name += &format!(", with {to}");
        }
        (OF_AN_END.contains(&alert.name.as_str()), Query { name, expression })
    };
    alerts.iter().map(query).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_fit_the_alerts() {
        let rules = include_str!("../../../deploy/monitoring/alerts.yaml");
        for (name, from, _) in CHANGES {
            let (_, rule) = rules.split_once(&format!("- alert: {name}\n")).unwrap();
            let (expression, _) = rule.split_once("for:").unwrap();
            assert!(expression.contains(from), "{name}: {expression}");
        }
    }

    #[test]
    fn rule_with_an_error_gives_no_alerts() {
        let answer = |health: &str| serde_json::json!({"data": {"groups": [{"rules": [{"name": "A", "query": "up", "health": health}]}]}});
        assert_eq!(alerts(&answer("ok")).unwrap().len(), 1);
        assert!(alerts(&answer("err")).is_none() && alerts(&answer("unknown")).is_none());
        assert!(alerts(&serde_json::json!({"data": {"groups": []}})).is_none());
    }
}
