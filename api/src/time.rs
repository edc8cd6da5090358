//! Room: moments as callers write them.
//! Takes: RFC 3339 text. Gives: UTC. Never: guesses a missing zone, or reads a clock.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// A moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub(crate) struct Timestamp(pub(crate) DateTime<Utc>);

impl From<Timestamp> for DateTime<Utc> {
    fn from(moment: Timestamp) -> Self {
        moment.0
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        DateTime::parse_from_rfc3339(&text)
            .map(|moment| Self(moment.to_utc()))
            .map_err(|_| {
                D::Error::custom("not a time: expected RFC 3339, as in 2030-01-31T12:00:00Z")
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rfc_3339_is_a_time() {
        let read = |text: &str| serde_json::from_str::<Timestamp>(&format!("\"{text}\""));
        let noon = "2030-01-31T12:00:00Z";
        for same in [
            noon,
            "2030-01-31T12:00:00.000Z",
            "2030-01-31T14:00:00+02:00",
        ] {
            let moment = read(same)
                .map(|moment| moment.0.to_rfc3339())
                .unwrap_or_default();
            assert_eq!(moment, "2030-01-31T12:00:00+00:00", "{same}");
        }
        for wrong in [
            "",
            "2030-01-31",
            "2030-01-31T12:00:00",
            "now",
            "1893456000",
            "12:00:00Z",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}
