//! Durations as the API writes them: text such as `90s`, `250ms`, `1h30m`.
//!
//! Parsing and formatting are exact: nothing is rounded, no missing unit is guessed, and signs and
//! fractions are rejected.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};

/// Units from coarse to fine, each with its nanoseconds. A day is always 24 hours.
const UNITS: [(&str, u128); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// The text is not a duration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidDuration {
    /// Not a sequence of integers with units, coarse units first.
    #[error(
        "not a duration: expected integers with a unit of d, h, m, s, ms, us or ns, as in \"90s\" or \"1h30m\""
    )]
    Malformed,
    /// More than 2⁶⁴ seconds.
    #[error("the duration is too long")]
    TooLong,
}

/// Parses one or more integers with a unit each, without spaces, coarse units first and each unit at
/// most once: `90s`, `5m`, `24h`, `250ms`, `7d`, `1h30m`.
///
/// # Errors
/// [`InvalidDuration::Malformed`] for any other text, including the empty one;
/// [`InvalidDuration::TooLong`] when an integer or the sum exceeds what a [`Duration`] holds.
pub fn parse(text: &str) -> Result<Duration, InvalidDuration> {
    let mut coarser = UNITS.iter();
    let mut rest = text;
    let mut nanos = 0_u128;
    loop {
        let (number, tail) = split_at_first(rest, |c| !c.is_ascii_digit());
        let (unit, tail) = split_at_first(tail, |c| !c.is_ascii_alphabetic());
        // The iterator advances past each unit found, so a later part must have a finer unit.
        let (_, size) = coarser
            .find(|(name, _)| *name == unit)
            .ok_or(InvalidDuration::Malformed)?;
        if number.is_empty() {
            return Err(InvalidDuration::Malformed);
        }
        // Only too many digits can fail here. Seven parts of 64 bits in days fit 128 bits.
        let number: u64 = number.parse().map_err(|_| InvalidDuration::TooLong)?;
        nanos += u128::from(number) * size;
        rest = tail;
        if rest.is_empty() {
            break;
        }
    }
    let seconds = u64::try_from(nanos / NANOS_PER_SECOND).map_err(|_| InvalidDuration::TooLong)?;
    let below = u32::try_from(nanos % NANOS_PER_SECOND).map_err(|_| InvalidDuration::TooLong)?;
    Ok(Duration::new(seconds, below))
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;

fn split_at_first(text: &str, ends: impl Fn(char) -> bool) -> (&str, &str) {
    text.split_at(text.find(ends).unwrap_or(text.len()))
}

/// Whole milliseconds, as database columns store them; saturates at `i64::MAX`.
#[must_use]
pub fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

/// Formats as one integer and the coarsest unit that is exact: `90s`, `1d`, `1500ms`.
///
/// A single number and unit, so that clients need no parser for sums.
#[must_use]
pub fn format(duration: Duration) -> String {
    HumanDuration(duration).to_string()
}

/// A duration that is this module's text in serde and `Display`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HumanDuration(pub Duration);

crate::text_schema!(HumanDuration, crate::schema::duration());

impl fmt::Display for HumanDuration {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let nanos = self.0.as_nanos();
        let exact = |(_, size): &&(&str, u128)| nanos.is_multiple_of(*size);
        // Zero is a multiple of every unit; `0s` reads better than `0d`.
        let (unit, size) = match nanos {
            0 => ("s", NANOS_PER_SECOND),
            _ => UNITS.iter().find(exact).copied().ok_or(fmt::Error)?,
        };
        write!(f, "{}{unit}", nanos / size)
    }
}

impl FromStr for HumanDuration {
    type Err = InvalidDuration;

    fn from_str(text: &str) -> Result<Self, InvalidDuration> {
        parse(text).map(Self)
    }
}

impl From<Duration> for HumanDuration {
    fn from(duration: Duration) -> Self {
        Self(duration)
    }
}

impl From<HumanDuration> for Duration {
    fn from(duration: HumanDuration) -> Self {
        duration.0
    }
}

impl Serialize for HumanDuration {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for HumanDuration {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?
            .parse()
            .map_err(D::Error::custom)
    }
}

/// For `#[serde(with = "harkara_shared::duration")]` on a field of type [`Duration`].
///
/// # Errors
/// The error of the serializer.
pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    HumanDuration(*duration).serialize(serializer)
}

/// For `#[serde(with = "harkara_shared::duration")]` on a field of type [`Duration`].
///
/// # Errors
/// When the value is not a string, or [`parse`] rejects it.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    HumanDuration::deserialize(deserializer).map(Duration::from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn documented_forms_are_parsed() {
        for (text, millis) in [
            ("0s", 0),
            ("90s", 90_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("250ms", 250),
            ("7d", 604_800_000),
            ("1h30m", 5_400_000),
            ("1d1h1m1s1ms", 90_061_001),
            ("007s", 7_000),
        ] {
            assert_eq!(parse(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(parse("1us1ns"), Ok(Duration::from_nanos(1_001)));
    }

    #[test]
    fn malformed_text_is_rejected() {
        for text in [
            "", " ", "s", "5", "-5s", "+5s", "1.5s", "5 s", " 5s", "5s ", "5S", "5M", "5w", "5sec",
            "5m5m", "30m1h", "1h-1m", "1h30", "٣s", "5µs", "1e3s", "0x5s", "sms", "P1D",
        ] {
            assert_eq!(parse(text), Err(InvalidDuration::Malformed), "{text}");
        }
    }

    #[test]
    fn overflow_is_rejected() {
        assert_eq!(parse("18446744073709551615s999999999ns"), Ok(Duration::MAX));
        for text in [
            "18446744073709551616s",
            "18446744073709551615m",
            "18446744073709551615s1000000000ns",
            "99999999999999999999999999ns",
        ] {
            assert_eq!(parse(text), Err(InvalidDuration::TooLong), "{text}");
        }
    }

    #[test]
    fn format_uses_the_coarsest_exact_unit() {
        for (seconds, text) in [
            (0, "0s"),
            (90, "90s"),
            (300, "5m"),
            (5_400, "90m"),
            (86_400, "1d"),
            (90_000, "25h"),
        ] {
            assert_eq!(format(Duration::from_secs(seconds)), text);
        }
        assert_eq!(format(Duration::from_millis(1_500)), "1500ms");
        assert_eq!(
            format(Duration::MAX),
            "18446744073709551615999999999ns".to_owned()
        );
    }

    #[test]
    fn json_is_the_text_form_only() {
        let day = HumanDuration(Duration::from_secs(86_400));
        assert_eq!(serde_json::to_string(&day).unwrap(), r#""1d""#);
        assert_eq!(
            serde_json::from_str::<HumanDuration>(r#""24h""#).unwrap(),
            day
        );
        assert!(serde_json::from_str::<HumanDuration>("86400").is_err());
        assert!(serde_json::from_str::<HumanDuration>("null").is_err());
    }

    proptest! {
        #[test]
        fn duration_survives_formatting_and_parsing(seconds in 0..10_000_000_000_u64, nanos in 0..1_000_000_000_u32) {
            for duration in [Duration::new(seconds, nanos), Duration::from_secs(seconds)] {
                prop_assert_eq!(parse(&format(duration)), Ok(duration));
            }
        }

        #[test]
        fn parser_accepts_any_text_without_panicking(text in "\\PC{0,20}", close in "([0-9]{0,21}[dhmsun]{0,2}){0,3}") {
            let _ = parse(&text);
            let _ = parse(&close);
        }
    }
}
