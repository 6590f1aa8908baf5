//! What a story has found, as a row of the table.

use crate::pods::Admissions;
use crate::stories::Story;
use kubelet_process::Samples;
use std::fmt;

/// The head of the table.
pub(crate) const HEAD: &str = "kubelet  | order                      | killed | at step | gap, ms | lowest | pods admitted | refused | every 200 ms";

/// What a story has found.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    pub(crate) samples: Samples,
    pub(crate) admissions: Admissions,
}

/// A row of the table.
pub(crate) struct Row<'a> {
    pub(crate) version: &'a str,
    pub(crate) story: &'a Story,
    pub(crate) found: &'a Found,
    /// Why the story has failed.
    pub(crate) verdict: Option<&'a str>,
}

#[allow(clippy::cast_precision_loss, reason = "a gap is less than a day")]
impl fmt::Display for Row<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { version, story, found: Found { samples, admissions }, verdict } = self;
        let (killed, step) = story.kill().map_or_else(
            || ("-".to_owned(), "-".to_owned()),
            |(victim, step)| (victim.to_string(), step.to_string()),
        );
        write!(
            f,
            "{version} | {:26} | {killed:6} | {step:7} | {:7.1} | {:6} | {:13} | {:7} | {}",
            story.order(),
            samples.gap_us as f64 / 1000.0,
            samples.lowest,
            admissions.admitted,
            admissions.refused.len(),
            runs(&samples.kept),
        )?;
        verdict.map_or(Ok(()), |verdict| write!(f, "\nFAILED {story}: {verdict}"))
    }
}

/// Writes equal numbers in a row once: `8*12 0*1 8*7`.
fn runs(numbers: &[usize]) -> String {
    let runs = numbers.chunk_by(|a, b| a == b);
    let texts = runs.filter_map(|run| Some(format!("{}*{}", run.first()?, run.len())));
    texts.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_samples_are_written_once() {
        assert_eq!(runs(&[8, 8, 8, 0, 8, 8]), "8*3 0*1 8*2");
        assert_eq!(runs(&[]), "");
    }
}
