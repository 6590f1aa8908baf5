//! Shortens a sequence that fails (delta debugging), as far as time allows.

use std::time::Instant;

/// Leaves out smaller and smaller pieces while the remaining sequence still fails, until `until`.
pub(crate) fn shrink<T: Clone>(
    sequence: &[T],
    until: Instant,
    mut fails: impl FnMut(&[T]) -> bool,
) -> Vec<T> {
    let mut sequence = sequence.to_vec();
    let mut piece = sequence.len().div_ceil(2);
    while piece > 0 {
        let mut start = 0;
        let mut shorter = false;
        while start < sequence.len() {
            if Instant::now() > until {
                return sequence;
            }
            let (before, rest) = sequence.split_at(start);
            let rest = rest.get(piece.min(rest.len())..).unwrap_or_default();
            let without = [before, rest].concat();
            if fails(&without) {
                sequence = without;
                shorter = true;
            } else {
                start += piece;
            }
        }
        if !shorter || piece > sequence.len() {
            piece /= 2;
        }
    }
    sequence
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn failing_steps_remain_in_their_order() {
        let sequence: Vec<u32> = (0..100).collect();
        let fails = |sequence: &[u32]| {
            let place = |wanted| sequence.iter().position(|&step| step == wanted);
            place(17).zip(place(80)).is_some_and(|(first, second)| first < second)
        };
        assert_eq!(shrink(&sequence, Instant::now() + Duration::from_secs(60), fails), [17, 80]);
        assert_eq!(shrink(&sequence, Instant::now(), |_| true).len(), 100, "unchanged without time");
        assert!(shrink(&sequence, Instant::now() + Duration::from_secs(60), |_| true).is_empty());
    }
}
