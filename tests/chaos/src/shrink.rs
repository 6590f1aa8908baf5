//! From a story that fails to a short one that still does (delta debugging), as far as time allows.

use std::time::Instant;

/// Leaves out ever smaller pieces, as long as what remains still fails and it is not too late.
pub(crate) fn shrink<T: Clone>(story: &[T], until: Instant, mut fails: impl FnMut(&[T]) -> bool) -> Vec<T> {
    let mut story = story.to_vec();
    let mut piece = story.len().div_ceil(2);
    while piece > 0 {
        let mut start = 0;
        let mut shorter = false;
        while start < story.len() {
            if Instant::now() > until {
                return story;
            }
            let (before, rest) = story.split_at(start);
            let rest = rest.get(piece.min(rest.len())..).unwrap_or_default();
            let without = [before, rest].concat();
            if fails(&without) {
                story = without;
                shorter = true;
            } else {
                start += piece;
            }
        }
        if !shorter || piece > story.len() {
            piece /= 2;
        }
    }
    story
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_matters_remains_in_its_order() {
        let story: Vec<u32> = (0..100).collect();
        let fails = |story: &[u32]| {
            let place = |wanted| story.iter().position(|&step| step == wanted);
            place(17).zip(place(80)).is_some_and(|(first, second)| first < second)
        };
        assert_eq!(shrink(&story, Instant::now() + Duration::from_secs(60), fails), [17, 80]);
        assert_eq!(shrink(&story, Instant::now(), |_| true).len(), 100, "no time, no change");
        assert!(shrink(&story, Instant::now() + Duration::from_secs(60), |_| true).is_empty());
    }
}
