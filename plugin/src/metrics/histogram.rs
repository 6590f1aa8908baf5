//! A histogram of durations on atomics: neither a record nor a scrape waits for the other.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

/// The upper limits of the buckets, in nanoseconds: 10 us to 5 s. Opens take 10 us, an Allocate a millisecond, and both have a
/// deadline of 2 s.
const LIMITS: [u64; 18] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    5_000_000_000,
];

/// Counts durations by bucket.
#[derive(Debug, Default)]
pub(crate) struct Histogram {
    /// Durations of each bucket, and in the last place those above all limits. Not cumulative.
    counts: [AtomicU64; LIMITS.len() + 1],
    /// In nanoseconds: enough for 584 years.
    sum: AtomicU64,
}

/// The values of a histogram at one moment.
#[derive(Debug)]
pub(super) struct HistogramValues {
    /// The sum of all durations, in seconds.
    pub(super) sum: f64,
    /// The number of durations.
    pub(super) count: u64,
    /// The upper limit of each bucket in seconds, and its count; not cumulative. The last limit is infinity.
    pub(super) buckets: [(f64, u64); LIMITS.len() + 1],
}

impl Histogram {
    /// Counts a duration.
    pub(crate) fn record(&self, duration: Duration) {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        let bucket = LIMITS.partition_point(|limit| *limit < nanos);
        if let Some(count) = self.counts.get(bucket) {
            count.fetch_add(1, Ordering::Relaxed);
        }
        self.sum.fetch_add(nanos, Ordering::Relaxed);
    }

    /// Returns the values. A duration that is counted meanwhile may be missing in the sum.
    pub(super) fn values(&self) -> HistogramValues {
        let seconds = |nanos: u64| Duration::from_nanos(nanos).as_secs_f64();
        let counts = self.counts.each_ref().map(|count| count.load(Ordering::Relaxed));
        let mut buckets = counts.map(|count| (f64::INFINITY, count));
        for (bucket, limit) in buckets.iter_mut().zip(LIMITS) {
            bucket.0 = seconds(limit);
        }
        let count = counts.iter().sum();
        HistogramValues { sum: seconds(self.sum.load(Ordering::Relaxed)), count, buckets }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_counted_up_to_and_with_their_limit() {
        let histogram = Histogram::default();
        for nanos in [0, 10_000, 10_001, 5_000_000_000, 5_000_000_001] {
            histogram.record(Duration::from_nanos(nanos));
        }
        let values = histogram.values();
        let filled: Vec<(f64, u64)> = values.buckets.into_iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(filled, [(0.00001, 2), (0.000025, 1), (5.0, 1), (f64::INFINITY, 1)]);
        assert_eq!(values.count, 5);
        assert!((values.sum - 10.000_020_002).abs() < 1e-9, "{}", values.sum);
    }
}
