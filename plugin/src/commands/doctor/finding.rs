//! The findings of `doctor`: what is wrong, how bad it is, and what to do.

use crate::commands::escape::escaped;
use serde::Serialize;

/// How bad a finding is; as a number, the exit code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Nothing is wrong: what the node lacks by design, and what a check could not see.
    Info,
    /// Something works less well than it could, or a VM cannot use a device.
    Warning,
    /// The plugin cannot work.
    Broken,
}

/// One thing that is wrong.
#[derive(Serialize, Debug)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// The device, group, directory or socket that the finding is about.
    pub(super) about: String,
    /// What is wrong; it reads as a sentence after `about`.
    pub(super) what: String,
    /// What to do; empty if there is nothing to do.
    pub(super) advice: String,
}

/// All findings, in the order of the checks.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    /// Adds something that is not wrong.
    pub(super) fn inform(&mut self, about: impl Into<String>, what: impl Into<String>) {
        self.add(Level::Info, about.into(), what.into(), String::new());
    }

    /// Adds a warning.
    pub(super) fn warn(
        &mut self,
        about: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(Level::Warning, about.into(), what.into(), advice.into());
    }

    /// Adds something without whose repair the plugin cannot work.
    pub(super) fn broken(
        &mut self,
        about: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(Level::Broken, about.into(), what.into(), advice.into());
    }

    fn add(&mut self, level: Level, about: String, what: String, advice: String) {
        self.0.push(Finding { level, about, what, advice });
    }

    /// Appends other findings.
    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Returns whether there is a finding about this device or file.
    pub(super) fn mention(&self, about: &str) -> bool {
        self.0.iter().any(|finding| finding.about == about)
    }

    /// Returns the worst level.
    pub(super) fn worst(&self) -> Level {
        self.0.iter().map(|finding| finding.level).max().unwrap_or(Level::Info)
    }

    /// Returns the findings as text, two lines each, or one without advice. The texts are escaped ([`escaped`]).
    pub(super) fn text(&self) -> String {
        let line = |Finding { level, about, what, advice }: &Finding| {
            let word = match level {
                Level::Info => "info   ",
                Level::Warning => "warning",
                Level::Broken => "broken ",
            };
            let [about, what, advice] = [about, what, advice].map(|text| escaped(text));
            let break_line = if advice.is_empty() { "" } else { "\n         " };
            format!("{word}  {about}: {what}{break_line}{advice}\n")
        };
        let mut text: String = self.0.iter().map(line).collect();
        if self.worst() == Level::Info {
            text.push_str("Nothing is wrong.\n");
        }
        text
    }

    /// Returns the findings as JSON.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "findings": self.0 })
    }
}
