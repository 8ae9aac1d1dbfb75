//! Durations as people write them in settings and requests: `24h`, `10m`, `500ms`, `1h30m`.

use std::time::Duration;

use serde::{Deserialize, Deserializer, de};

/// A text that is no duration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{0:?} is not a duration; expected whole numbers with a unit of ms, s, m, h or d, such as 24h or 1h30m"
)]
pub(crate) struct DurationError(String);

/// Reads `<number><unit>` once or several times in a row; units are ms, s, m, h and d (24 h).
pub(crate) fn parse(text: &str) -> Result<Duration, DurationError> {
    let fault = || DurationError(text.chars().take(40).collect());
    let mut rest = text;
    let mut total = Duration::ZERO;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(fault)?;
        let (number, tail) = rest.split_at(digits);
        let letters = tail.find(|c: char| c.is_ascii_digit()).unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        let part = Duration::from_millis(unit_millis(unit).ok_or_else(fault)?);
        let number = number.parse().map_err(|_| fault())?;
        total = part.checked_mul(number).and_then(|part| total.checked_add(part)).ok_or_else(fault)?;
        rest = tail;
    }
    if text.is_empty() { Err(fault()) } else { Ok(total) }
}

/// Serde's `deserialize_with` for an optional duration.
pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Duration>, D::Error> {
    let text = String::deserialize(deserializer)?;
    parse(&text).map(Some).map_err(de::Error::custom)
}

fn unit_millis(unit: &str) -> Option<u64> {
    match unit {
        "ms" => Some(1),
        "s" => Some(1_000),
        "m" => Some(60_000),
        "h" => Some(3_600_000),
        "d" => Some(86_400_000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use rstest::rstest;

    use super::*;

    #[rstest]
    #[case("24h", 86_400_000)]
    #[case("10s", 10_000)]
    #[case("500ms", 500)]
    #[case("1h30m", 5_400_000)]
    #[case("90d", 7_776_000_000)]
    fn a_number_with_a_unit_is_a_duration(#[case] text: &str, #[case] millis: u64) {
        assert_eq!(parse(text), Ok(Duration::from_millis(millis)));
    }

    #[rstest]
    #[case("")]
    #[case("24")]
    #[case("h")]
    #[case("-1h")]
    #[case("1.5h")]
    #[case("1 h")]
    #[case("1w")]
    #[case("99999999999d")]
    #[case("4294967295d4294967295d4294967295d4294967295d9999999999999999d")]
    fn anything_else_is_refused(#[case] text: &str) {
        assert!(parse(text).is_err(), "{text:?} was read as a duration");
    }
}
