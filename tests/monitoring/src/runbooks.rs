//! Checks the texts of the alerts: each has all of them, and its runbook is a section that exists.

use crate::rules::Alert;

/// What each link to a runbook begins with.
const PAGE: &str = "https://github.com/vfio-probe/vfio-probe/blob/main/docs/runbooks.md#";

/// Returns what is wrong with the alerts' texts.
pub(crate) fn faults(alerts: &[Alert], page: &str) -> Vec<String> {
    let mut faults = Vec::new();
    for alert in alerts {
        let mut fault = |text: String| faults.push(format!("{}: {text}", alert.name));
        if !["critical", "warning", "info"].contains(&alert.severity.as_str()) {
            fault(format!("the severity {:?}", alert.severity));
        }
        for (what, text) in [("summary", &alert.summary), ("description", &alert.description)] {
            if !text.contains("$labels.instance") && !text.contains("$labels.node") {
                fault(format!("its {what} names no node"));
            }
        }
        match alert.runbook_url.strip_prefix(PAGE) {
            Some(anchor) if anchor == alert.name.to_lowercase() && has_heading(page, &alert.name) => {}
            _ => fault(format!("no section of docs/runbooks.md: {}", alert.runbook_url)),
        }
    }
    if alerts.is_empty() {
        faults.push("no alert".to_owned());
    }
    faults
}

fn has_heading(page: &str, name: &str) -> bool {
    page.lines().any(|line| line.trim_start_matches('#').trim() == name && line.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const RULES: &str = include_str!("../../../deploy/monitoring/alerts.yaml");
    const RUNBOOKS: &str = include_str!("../../../docs/runbooks.md");
    const TESTS: &str = include_str!("../../../deploy/monitoring/alerts_test.yaml");

    /// The names of the alerts in the file.
    fn names() -> Vec<&'static str> {
        let names: Vec<&str> =
            RULES.lines().filter_map(|line| line.trim().strip_prefix("- alert: ")).collect();
        assert!(names.len() >= 10, "{names:?}");
        names
    }

    #[test]
    fn each_alert_links_to_its_section() {
        let links: Vec<&str> =
            RULES.lines().filter_map(|line| line.trim().strip_prefix("runbook_url: ")).collect();
        let expected: Vec<String> =
            names().iter().map(|name| format!("{PAGE}{}", name.to_lowercase())).collect();
        assert_eq!(links, expected);
        for name in names() {
            assert!(has_heading(RUNBOOKS, name), "docs/runbooks.md has no section {name}");
        }
    }

    #[test]
    fn each_alert_has_a_case_and_a_near_case() {
        let cases: Vec<&str> = TESTS.split("- eval_time: ").skip(1).collect();
        for name in names() {
            let of_alert = |case: &&&str| case.contains(&format!("alertname: {name}\n"));
            let (silent, firing): (Vec<&str>, Vec<&str>) =
                cases.iter().filter(of_alert).partition(|case| case.contains("exp_alerts: []"));
            assert!(!silent.is_empty() && !firing.is_empty(), "{name}: {silent:?} {firing:?}");
        }
    }

    #[test]
    fn faults_of_an_alert_are_found() {
        let alert = Alert {
            name: "VfioDeviceLost".to_owned(),
            severity: "page".to_owned(),
            summary: "lost".to_owned(),
            description: "{{ $labels.instance }}".to_owned(),
            runbook_url: format!("{PAGE}lost"),
            expression: String::new(),
        };
        let found = faults(&[alert], "## VfioDeviceLost\n");
        assert_eq!(found.len(), 3, "{found:#?}");
        assert_eq!(faults(&[], ""), ["no alert"]);
    }
}
