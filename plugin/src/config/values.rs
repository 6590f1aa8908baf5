//! Parses the values of flags.

use clap::ValueEnum;
use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};
use std::time::Duration;
use vfio_plugin_policy::health::checks::Checks;
#[cfg(feature = "dra")]
use vfio_plugin_policy::pools::terms::OfferBy;
use vfio_plugin_policy::pools::terms::{Busy, BusyAllocate};

/// A word of `--checks`.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum Check {
    /// Its device node is missing
    Node,
    /// Its hardware does not respond: the registers read all ones
    Lost,
    /// It has had fatal PCIe errors (AER) since it was bound
    Aer,
    /// The host itself uses its memory, as a boot framebuffer does
    Framebuffer,
    /// No check; excludes the other words
    None,
}

/// Returns the checks that these words turn on.
///
/// # Errors
/// `none` comes with another word.
pub(super) fn checks(words: &[Check]) -> Result<Checks, String> {
    if words.contains(&Check::None) && words.iter().any(|word| *word != Check::None) {
        return Err(
            "--checks: `none` excludes the other checks; expected `none` or some of node, lost, aer and framebuffer"
                .to_owned(),
        );
    }
    let has = |word| words.contains(&word);
    Ok(Checks {
        node: has(Check::Node),
        lost: has(Check::Lost),
        aer: has(Check::Aer),
        framebuffer: has(Check::Framebuffer),
    })
}

/// Returns a parser of `--busy`, with a line of help for each value.
pub(super) fn busy() -> impl TypedValueParser<Value = Busy> {
    words(Busy::ALL, Busy::as_str, Busy::help)
}

/// Returns a parser of `--busy-allocate`, with a line of help for each value.
pub(super) fn busy_allocate() -> impl TypedValueParser<Value = BusyAllocate> {
    words(BusyAllocate::ALL, BusyAllocate::as_str, BusyAllocate::help)
}

/// Returns a parser of `--offer`, with a line of help for each value.
#[cfg(feature = "dra")]
pub(super) fn offer() -> impl TypedValueParser<Value = OfferBy> {
    words([OfferBy::DevicePlugin, OfferBy::Dra], OfferBy::as_str, OfferBy::help)
}

/// Returns a parser of these values by their words. Types of the policy crate, which does not know clap, cannot derive `ValueEnum`.
fn words<T: Copy + Send + Sync + 'static, const N: usize>(
    values: [T; N],
    word: fn(T) -> &'static str,
    help: fn(T) -> &'static str,
) -> impl TypedValueParser<Value = T> {
    PossibleValuesParser::new(values.map(|value| PossibleValue::new(word(value)).help(help(value)))).try_map(
        move |text| {
            values.into_iter().find(|value| word(*value) == text).ok_or("not one of the possible values")
        },
    )
}

/// Forms of the log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub(crate) enum LogFormat {
    /// One line of text for each event
    Text,
    /// One JSON object for each event
    Json,
}

/// Parses a time from 50ms to 1h: a number with `ms`, `s`, `m` or `h`. A number alone means seconds.
pub(super) fn interval(text: &str) -> Result<Duration, String> {
    const EXPECTED: &str = "expected a time from 50ms to 1h, like 500ms, 1s or 2 (seconds)";
    let (number, unit) = match text.find(|c: char| c.is_ascii_alphabetic()) {
        Some(at) => text.split_at(at),
        None => (text, "s"),
    };
    let number: f64 = number.trim().parse().map_err(|_| EXPECTED.to_owned())?;
    let seconds = match unit {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(EXPECTED.to_owned()),
    };
    if (0.05..=3600.0).contains(&seconds) {
        Ok(Duration::from_secs_f64(seconds))
    } else {
        Err(EXPECTED.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_parsed_and_bounded() {
        for (text, millis) in
            [("1s", 1000), ("500ms", 500), ("2", 2000), ("0.05", 50), ("1h", 3_600_000), ("1.5s", 1500)]
        {
            assert_eq!(interval(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "0", "49ms", "2h", "-1s", "fast", "1d", "NaN", "inf", "s"] {
            assert!(interval(text).is_err(), "{text}");
        }
    }

    #[test]
    fn none_excludes_the_other_checks() {
        let checked = |node, lost, aer| Ok(Checks { node, lost, aer, framebuffer: false });
        assert_eq!(checks(&[Check::None]), checked(false, false, false));
        assert_eq!(checks(&[Check::Node, Check::Lost]), checked(true, true, false));
        assert_eq!(checks(&[Check::Aer, Check::Aer]), checked(false, false, true));
        assert!(checks(&[Check::None, Check::Lost]).unwrap_err().contains("excludes"));
    }
}
