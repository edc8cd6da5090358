//! Timestamps in requests: RFC 3339 with a zone, converted to UTC.

use chrono::{DateTime, Utc};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};

/// A point in time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub(crate) struct Timestamp(pub(crate) DateTime<Utc>);

impl From<Timestamp> for DateTime<Utc> {
    fn from(timestamp: Timestamp) -> Self {
        timestamp.0
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        DateTime::parse_from_rfc3339(&text)
            .map(|timestamp| Self(timestamp.to_utc()))
            .map_err(|_| D::Error::custom("must be a time in RFC 3339, as in 2030-01-31T12:00:00Z"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_rfc_3339_is_a_timestamp() {
        let read = |text: &str| serde_json::from_str::<Timestamp>(&format!("\"{text}\""));
        let noon = "2030-01-31T12:00:00Z";
        for same in [
            noon,
            "2030-01-31T12:00:00.000Z",
            "2030-01-31T14:00:00+02:00",
        ] {
            let timestamp = read(same)
                .map(|timestamp| timestamp.0.to_rfc3339())
                .unwrap_or_default();
            assert_eq!(timestamp, "2030-01-31T12:00:00+00:00", "{same}");
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
