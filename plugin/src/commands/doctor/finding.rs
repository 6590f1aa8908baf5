//! The findings of `doctor`: what is wrong, how bad it is, and what to do.

use crate::commands::escape::escaped;
use crate::problems::ProblemCode;
use serde::Serialize;

/// The page that has a section for each code.
const RUNBOOKS: &str = "https://github.com/vfio-probe/vfio-probe/blob/main/docs/runbooks.md";

/// Declares the codes, and a list of all of them for the check of the runbooks.
macro_rules! codes {
    ($($code:ident,)*) => {
        /// The stable word for a finding, in JSON and text, and the heading of its section in docs/runbooks.md.
        #[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize)]
        #[serde(rename_all = "snake_case")]
        #[cfg_attr(not(any(feature = "dra", test)), expect(dead_code, reason = "the findings about the DRA driver"))]
        pub(super) enum Code {
            $($code,)*
            /// A problem of `serve`, by the problem's own code.
            #[serde(untagged)]
            Problem(ProblemCode),
        }

        #[cfg(test)]
        const ALL: &[Code] = &[$(Code::$code,)*];
    };
}

codes! {
    AssignedHeldByOtherPod,
    AssignedHeldOutsidePods,
    AssignmentsUnknown,
    CdiSpecIncomplete,
    CheckpointUnusable,
    CountedTwice,
    DeviceNodeDenied,
    DeviceUnreadable,
    DriverNotLoaded,
    DriverNotRegistered,
    FatalErrors,
    Framebuffer,
    FramebufferUnchecked,
    Gone,
    Held,
    HeldAssignmentUnknown,
    HeldCheckpointOnly,
    HoldersIncomplete,
    HoldersUndetectable,
    IommuOff,
    KubeletSilent,
    KubeletTooOld,
    Lost,
    NameNotBuiltIn,
    NoContainerNode,
    NoDeviceNode,
    NoGroup,
    NoIommuMode,
    NoIommufd,
    NoKubeletSocket,
    NoLongerBound,
    NoVfioDirectory,
    NoVgpu,
    NotBound,
    NotViable,
    NothingBound,
    OpenUnbound,
    OtherDriversUnknown,
    OutsideKubernetes,
    PhysicalFunctionShared,
    PodResourcesUnavailable,
    PoolsRejected,
    PublishedTwice,
    ResetHangs,
    ServeNotReady,
    ServeNotRunning,
    ServeVersionDiffers,
    SlicesNotStored,
    StaleAnswer,
    StateFileKeptAside,
    Unbinding,
    Unhealthy,
    VariableShared,
}

impl Code {
    /// Returns the word.
    fn word(self) -> String {
        serde_json::to_value(self).ok().and_then(|word| Some(word.as_str()?.to_owned())).unwrap_or_default()
    }
}

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
    pub(super) code: Code,
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
    pub(super) fn inform(&mut self, code: Code, about: impl Into<String>, what: impl Into<String>) {
        self.add(code, Level::Info, about.into(), what.into(), String::new());
    }

    /// Adds a warning.
    pub(super) fn warn(
        &mut self,
        code: Code,
        about: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(code, Level::Warning, about.into(), what.into(), advice.into());
    }

    /// Adds something without whose repair the plugin cannot work.
    pub(super) fn broken(
        &mut self,
        code: Code,
        about: impl Into<String>,
        what: impl Into<String>,
        advice: impl Into<String>,
    ) {
        self.add(code, Level::Broken, about.into(), what.into(), advice.into());
    }

    fn add(&mut self, code: Code, level: Level, about: String, what: String, advice: String) {
        self.0.push(Finding { code, level, about, what, advice });
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

    /// Returns the findings as text, two lines each with the code at the end, or one without advice. The texts are escaped
    /// ([`escaped`]).
    pub(super) fn text(&self) -> String {
        let line = |Finding { code, level, about, what, advice }: &Finding| {
            let word = match level {
                Level::Info => "info   ",
                Level::Warning => "warning",
                Level::Broken => "broken ",
            };
            let [about, what, advice] = [about, what, advice].map(|text| escaped(text));
            let advice = match advice.as_ref() {
                "" => String::new(),
                advice => format!("\n         {advice} [{}]", code.word()),
            };
            format!("{word}  {about}: {what}{advice}\n")
        };
        let mut text: String = self.0.iter().map(line).collect();
        if self.worst() == Level::Info {
            text.push_str("Nothing is wrong.\n");
        } else {
            text += &format!("\n[CODE] is a section of {RUNBOOKS}\n");
        }
        text
    }

    /// Returns the findings as JSON.
    pub(super) fn json(&self) -> serde_json::Value {
        serde_json::json!({ "findings": self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNBOOKS_PAGE: &str = include_str!("../../../../docs/runbooks.md");

    /// Fails unless the page has a heading or an anchor for the word.
    #[track_caller]
    fn has_section(word: &str) {
        let heading = format!("### {word}");
        let found = RUNBOOKS_PAGE.lines().any(|line| line == heading)
            || RUNBOOKS_PAGE.contains(&format!("<a id=\"{word}\"></a>"));
        assert!(!word.is_empty() && found, "docs/runbooks.md has no section {word}");
    }

    #[test]
    fn every_code_has_a_section_in_the_runbooks() {
        ALL.iter().for_each(|code| has_section(&code.word()));
    }

    #[test]
    fn every_problem_of_serve_has_a_section_in_the_runbooks() {
        let source = include_str!("../../problems.rs");
        let (_, variants) = source.split_once("enum ProblemCode {").unwrap();
        let (variants, _) = variants.split_once('}').unwrap();
        let names = variants.lines().filter_map(|line| line.trim().strip_suffix(','));
        let words: Vec<String> = names
            .map(|name| {
                let mut word = String::new();
                for letter in name.chars() {
                    if letter.is_uppercase() && !word.is_empty() {
                        word.push('_');
                    }
                    word.extend(letter.to_lowercase());
                }
                word
            })
            .filter(|word| word != "other")
            .collect();
        assert!(words.contains(&Code::Problem(ProblemCode::DescriptorLimit).word()), "{words:?}");
        words.iter().for_each(|word| has_section(word));
    }

    #[test]
    fn text_and_json_have_the_code() {
        let mut findings = Findings::default();
        findings.warn(Code::Held, "0000:1b:00.0", "is held by pid 7", "End it.");
        findings.warn(Code::Problem(ProblemCode::AcceptFailed), "status.sock", "is full", "Raise the limit.");
        let text = findings.text();
        assert!(
            text.starts_with("warning  0000:1b:00.0: is held by pid 7\n         End it. [held]\n"),
            "{text}"
        );
        assert!(text.contains("Raise the limit. [accept_failed]\n"), "{text}");
        assert_eq!(findings.json()["findings"][1]["code"], "accept_failed");
    }
}
