//! Samples what a process uses, and decides whether it grows.

use std::fmt;
use std::io::{Error, Result};

/// The growth of resident memory that still counts as none, in KiB. Allocators keep freed memory in pieces.
const MEMORY: i64 = 1024;
/// The growth of descriptors or of threads that counts as none: a connection may be about to end.
const OTHER: i64 = 2;

/// One sample.
#[derive(Clone, Copy, Debug)]
struct Sample {
    /// Resident memory in KiB (`VmRSS`).
    memory: i64,
    descriptors: i64,
    threads: i64,
}

/// All samples, in order.
#[derive(Debug, Default)]
pub(crate) struct Samples(Vec<Sample>);

/// The medians of the first and the last third.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growth {
    first: Sample,
    last: Sample,
    samples: usize,
}

impl Samples {
    /// Adds a sample of a process.
    ///
    /// # Errors
    /// There is no such process.
    pub(crate) fn take(&mut self, pid: u32) -> Result<()> {
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let field = |name: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(name));
            let number = line.and_then(|line| line.split_ascii_whitespace().next()?.parse().ok());
            number.ok_or_else(|| Error::other(format!("/proc/{pid}/status has no {name}")))
        };
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))?.count();
        self.0.push(Sample {
            memory: field("VmRSS:")?,
            threads: field("Threads:")?,
            descriptors: i64::try_from(descriptors).unwrap_or(i64::MAX),
        });
        Ok(())
    }

    /// Returns the number of samples.
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// Compares the first third with the last, without the first tenth, in which buffers reach their size. None if there are too
    /// few samples.
    pub(crate) fn growth(&self) -> Option<Growth> {
        let warm = self.0.get(self.0.len() / 10..)?;
        let third = warm.len() / 3;
        let (first, last) = (warm.get(..third)?, warm.get(warm.len() - third..)?);
        (third >= 3).then(|| Growth { first: median(first), last: median(last), samples: self.0.len() })
    }
}

/// Returns the median of each figure.
fn median(samples: &[Sample]) -> Sample {
    let of = |figure: fn(&Sample) -> i64| {
        let mut figures: Vec<i64> = samples.iter().map(figure).collect();
        figures.sort_unstable();
        figures.get(figures.len() / 2).copied().unwrap_or_default()
    };
    Sample {
        memory: of(|sample| sample.memory),
        descriptors: of(|sample| sample.descriptors),
        threads: of(|sample| sample.threads),
    }
}

impl Growth {
    /// Returns whether something grew.
    pub(crate) fn is_leak(&self) -> bool {
        self.last.memory - self.first.memory > MEMORY
            || self.last.descriptors - self.first.descriptors > OTHER
            || self.last.threads - self.first.threads > OTHER
    }
}

impl fmt::Display for Growth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, samples } = self;
        write!(
            f,
            "{samples} samples, medians of the first and the last third: resident {} -> {} KiB, descriptors {} -> {}, threads {} -> {}",
            first.memory, last.memory, first.descriptors, last.descriptors, first.threads, last.threads
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn growth(memory: impl Fn(i64) -> i64, descriptors: impl Fn(i64) -> i64) -> Growth {
        let sample = |n| Sample { memory: memory(n), descriptors: descriptors(n), threads: 7 };
        Samples((0..60).map(sample).collect()).growth().unwrap()
    }

    #[test]
    fn odd_samples_are_no_leak_and_growth_is() {
        let steady = |n| 5000 + n % 3 * 100;
        assert!(!growth(steady, |_| 20).is_leak());
        assert!(!growth(|n| if n % 20 == 19 { 90_000 } else { steady(n) }, |_| 20).is_leak());
        assert!(!growth(|n| if n < 6 { 3000 } else { 5000 }, |_| 20).is_leak(), "the start does not count");
        assert!(growth(|n| 5000 + n * 40, |_| 20).is_leak());
        assert!(growth(steady, |n| 20 + n / 10).is_leak());
    }

    #[test]
    fn few_samples_decide_nothing() {
        let mut samples = Samples::default();
        samples.take(std::process::id()).unwrap();
        assert!(samples.growth().is_none() && samples.len() == 1);
    }
}
