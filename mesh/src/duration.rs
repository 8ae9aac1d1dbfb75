//! Durations as people write them in settings, flags and requests: `500ms`, `24h`, `1h30m`.

use std::time::Duration;

/// Units in milliseconds, the largest first.
const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1_000), ("ms", 1)];

/// What adds to a clock without overflow: a hundred years.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 86_400);

/// Why a text is no duration that anything here can use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DurationError {
    /// It is written in another way.
    #[error(
        "`{0}` is not a duration; write a whole number and a unit of ms, s, m, h or d, such as 500ms or 24h"
    )]
    Malformed(String),
    /// Nothing.
    #[error("`{0}` is no time at all; write 1ms or more")]
    Zero(String),
    /// More than a hundred years.
    #[error("`{0}` is too long; write 36500d or less")]
    TooLong(String),
}

/// Reads `<number><unit>`, once or several times in a row; units are ms, s, m, h and d (24 h).
///
/// # Errors
/// [`DurationError`], which shows at most 40 characters of the text.
pub fn parse(text: &str) -> Result<Duration, DurationError> {
    let shown = || text.chars().take(40).collect();
    let mut total = Duration::ZERO;
    let mut rest = text;
    loop {
        let (number, unit, tail) = split(rest).ok_or_else(|| DurationError::Malformed(shown()))?;
        let millis = number.parse::<u64>().ok().and_then(|number| number.checked_mul(unit));
        total = millis
            .and_then(|millis| total.checked_add(Duration::from_millis(millis)))
            .filter(|total| *total <= LONGEST)
            .ok_or_else(|| DurationError::TooLong(shown()))?;
        if tail.is_empty() {
            break;
        }
        rest = tail;
    }
    if total.is_zero() { Err(DurationError::Zero(shown())) } else { Ok(total) }
}

/// The largest unit that says it in a whole number; what is under a millisecond is not shown.
#[must_use]
pub fn print(duration: Duration) -> String {
    let millis = duration.as_millis();
    let whole = |(_, unit): &&(&str, u64)| millis.is_multiple_of(u128::from(*unit));
    let (name, unit) = UNITS.iter().find(whole).copied().unwrap_or(("ms", 1));
    format!("{}{name}", millis / u128::from(unit))
}

/// The digits at the front, the milliseconds of the unit behind them, and the rest.
fn split(text: &str) -> Option<(&str, u64, &str)> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).filter(|digits| *digits > 0)?;
    let (number, tail) = text.split_at_checked(digits)?;
    let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
    let (unit, tail) = tail.split_at_checked(letters)?;
    let (_, millis) = UNITS.iter().find(|(name, _)| *name == unit)?;
    Some((number, *millis, tail))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("24h", 86_400_000)]
    #[case("10s", 10_000)]
    #[case("500ms", 500)]
    #[case("1h30m", 5_400_000)]
    #[case("90d", 7_776_000_000)]
    #[case("36500d", 3_153_600_000_000)]
    fn a_number_with_a_unit_is_a_duration(#[case] text: &str, #[case] millis: u64) {
        assert_eq!(parse(text), Ok(Duration::from_millis(millis)));
    }

    #[rstest]
    #[case("")]
    #[case("24")]
    #[case("h")]
    #[case("-1h")]
    #[case("+5s")]
    #[case(" 5s")]
    #[case("5s ")]
    #[case("5S")]
    #[case("5sec")]
    #[case("٥s")]
    #[case("1.5h")]
    #[case("1 h")]
    #[case("1w")]
    #[case("1h30")]
    #[case("5é")]
    fn anything_else_is_malformed(#[case] text: &str) {
        assert_eq!(parse(text), Err(DurationError::Malformed(text.to_owned())));
    }

    #[rstest]
    #[case("36501d")]
    #[case("99999999999d")]
    #[case("18446744073709551615d")]
    #[case("99999999999999999999s")]
    #[case("4294967295d4294967295d4294967295d4294967295d")]
    fn more_than_a_hundred_years_is_too_long(#[case] text: &str) {
        assert!(matches!(parse(text), Err(DurationError::TooLong(_))));
    }

    #[rstest]
    #[case("0s")]
    #[case("0h0ms")]
    fn nothing_is_no_duration(#[case] text: &str) {
        assert_eq!(parse(text), Err(DurationError::Zero(text.to_owned())));
    }

    proptest! {
        #[test]
        fn what_is_printed_is_read_as_the_same(millis in 1u64..=LONGEST.as_secs() * 1_000) {
            let duration = Duration::from_millis(millis);
            prop_assert_eq!(parse(&print(duration)), Ok(duration));
        }

        #[test]
        fn no_text_makes_it_panic(text in ".{0,30}") {
            let _ = parse(&text);
        }
    }
}
