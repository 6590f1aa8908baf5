//! Samples of a node's allocatable devices, and the gaps in them. Pure functions.

use std::fmt;
use std::time::Duration;

/// What a source said at one moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Since any fixed moment.
    pub at: Duration,
    /// Allocatable devices, or None if the source did not answer.
    pub allocatable: Option<i64>,
}

/// A time in which fewer devices were allocatable.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// From the first sample with fewer devices to the next one with all of them, or to the last sample.
    pub length: Duration,
    /// The fewest devices.
    pub lowest: i64,
}

/// The samples of one event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Samples with a number of devices.
    pub samples: usize,
    /// Samples for which the source did not answer.
    pub unanswered: usize,
    /// The longest time between two answers: a shorter gap may be missed.
    pub longest_pause: Duration,
    /// In the order of time.
    pub gaps: Vec<Gap>,
}

impl Summary {
    /// Summarises samples in the order of time.
    #[must_use]
    pub fn of(samples: &[Sample], full: i64) -> Self {
        let mut summary = Self::default();
        let mut last: Option<Duration> = None;
        let mut open: Option<(Duration, i64)> = None;
        for sample in samples {
            let Some(allocatable) = sample.allocatable else {
                summary.unanswered += 1;
                continue;
            };
            summary.samples += 1;
            let pause = last.map_or(Duration::ZERO, |last| sample.at.saturating_sub(last));
            summary.longest_pause = summary.longest_pause.max(pause);
            last = Some(sample.at);
            open = match open {
                None if allocatable < full => Some((sample.at, allocatable)),
                Some((start, lowest)) if allocatable < full => Some((start, lowest.min(allocatable))),
                Some((start, lowest)) => {
                    summary.gaps.push(Gap { length: sample.at.saturating_sub(start), lowest });
                    None
                }
                None => None,
            };
        }
        if let (Some((start, lowest)), Some(last)) = (open, last) {
            summary.gaps.push(Gap { length: last.saturating_sub(start), lowest });
        }
        summary
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { samples, unanswered, longest_pause, gaps } = self;
        for (index, Gap { length, lowest }) in gaps.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{} ms with {lowest} at the lowest", length.as_millis())?;
        }
        if gaps.is_empty() {
            write!(f, "no gap")?;
        }
        write!(f, " ({samples} samples, at most {} ms apart", longest_pause.as_millis())?;
        if *unanswered > 0 {
            write!(f, ", {unanswered} unanswered")?;
        }
        write!(f, ")")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[(u64, Option<i64>)]) -> Vec<Sample> {
        let sample = |&(at, allocatable)| Sample { at: Duration::from_millis(at), allocatable };
        values.iter().map(sample).collect()
    }

    #[test]
    fn gap_lasts_until_the_next_full_sample() {
        let taken = samples(&[
            (0, Some(6)),
            (200, Some(0)),
            (400, None),
            (900, Some(4)),
            (1100, Some(6)),
            (1300, Some(5)),
        ]);
        let summary = Summary::of(&taken, 6);
        let gap = |length, lowest| Gap { length: Duration::from_millis(length), lowest };
        assert_eq!(summary.gaps, [gap(900, 0), gap(0, 5)]);
        assert_eq!((summary.samples, summary.unanswered), (5, 1));
        assert_eq!(summary.longest_pause, Duration::from_millis(700));
    }

    #[test]
    fn full_samples_have_no_gap() {
        let summary = Summary::of(&samples(&[(0, Some(6)), (200, Some(6))]), 6);
        assert_eq!(summary.to_string(), "no gap (2 samples, at most 200 ms apart)");
        assert_eq!(Summary::of(&[], 6), Summary::default());
    }
}
