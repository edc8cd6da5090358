//! Builds the body of a webhook (Standard Webhooks 1.0.0, "Payload structure").
//!
//! The event's data is sent byte for byte as it was posted.

use chrono::{DateTime, Utc};
use serde::Serialize;

#[derive(Serialize)]
struct Head<'a> {
    r#type: &'a str,
    timestamp: DateTime<Utc>,
}

/// `{"type":…,"timestamp":…,"data":…}`, with `data` as it was posted.
#[must_use]
pub fn body(event_type: &str, at: DateTime<Utc>, data: &str) -> String {
    let head = Head {
        r#type: event_type,
        timestamp: at,
    };
    // Serializing two strings cannot fail.
    let mut text = serde_json::to_string(&head).unwrap_or_default();
    text.pop();
    text.reserve(data.len() + 9);
    text.push_str(",\"data\":");
    text.push_str(data);
    text.push('}');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn data_is_sent_byte_for_byte() {
        let at = "2026-11-28T12:00:00Z".parse().unwrap();
        let text = body("invoice.paid", at, r#"{"b": 1.10,"a":2}"#);
        let expected = r#"{"type":"invoice.paid","timestamp":"2026-11-28T12:00:00Z","data":{"b": 1.10,"a":2}}"#;
        assert_eq!(text, expected);
    }
}
