//! What was found, how bad it is, and what to do.

use serde::Serialize;

/// How bad a finding is; also the exit code.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Level {
    /// Nothing to do. No finding has it.
    Fine,
    /// Something does less than it could, or stands in a machine's way.
    Warning,
    /// The plugin cannot do its work.
    Broken,
}

/// One thing that is wrong.
#[derive(Serialize, Debug)]
pub(super) struct Finding {
    pub(super) level: Level,
    /// The device, group, folder or socket that it is about.
    pub(super) about: String,
    pub(super) what: String,
    /// What to do.
    pub(super) advice: String,
}

/// All that is wrong, in the order in which it was looked for.
#[derive(Debug, Default)]
pub(super) struct Findings(Vec<Finding>);

impl Findings {
    /// Something to look into.
    pub(super) fn warn(
        &mut self,
        about: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.say(Level::Warning, about.into(), what.into(), advice.into());
    }

    /// Something that must be mended.
    pub(super) fn broken(
        &mut self,
        about: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.say(Level::Broken, about.into(), what.into(), advice.into());
    }

    fn say(&mut self, level: Level, about: String, what: String, advice: String) {
        self.0.push(Finding { level, about, what, advice });
    }

    /// And these.
    pub(super) fn extend(&mut self, more: Self) {
        self.0.extend(more.0);
    }

    /// Whether anything was said about it.
    pub(super) fn mention(&self, about: &str) -> bool {
        self.0.iter().any(|finding| finding.about == about)
    }

    /// The worst of it.
    pub(super) fn worst(&self) -> Level {
        self.0.iter().map(|finding| finding.level).max().unwrap_or(Level::Fine)
    }

    /// As text for people.
    pub(super) fn text(&self) -> String {
        if self.0.is_empty() {
            return "Nothing is wrong.\n".to_owned();
        }
        let line = |Finding { level, about, what, advice }: &Finding| {
            let word = if *level == Level::Broken { "broken " } else { "warning" };
            format!("{word}  {about}: {what}\n         {advice}\n")
        };
        self.0.iter().map(line).collect()
    }

    /// As JSON for programs.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "findings": self.0 })
    }
}
