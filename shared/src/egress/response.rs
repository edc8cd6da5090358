//! The response to an outbound request.
//!
//! Limits what is kept of headers and body, converts the body to text for a database, and reads
//! `Retry-After`. It does not interpret the status.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, StatusCode};

/// How much of a body is read, in bytes; after that the connection is closed.
pub const BODY_LIMIT: usize = 64 * 1024;

/// How many header fields of a response are kept.
pub const HEADERS_LIMIT: usize = 64;

/// How much of a response's headers is kept, in bytes of names and values.
pub const HEADER_BYTES_LIMIT: usize = 8 * 1024;

/// Headers that decide what happens next, and so are kept before others.
const PRIORITY_HEADERS: [HeaderName; 2] =
    [RETRY_AFTER, HeaderName::from_static("webhook-delivery")];

/// The longest wait that is accepted from `Retry-After`.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(24 * 3_600);

/// The receiver's response, which can be a redirect. `Debug` shows neither headers nor body.
#[derive(Clone)]
pub struct EgressResponse {
    /// Any HTTP status, not interpreted.
    pub status: StatusCode,
    /// The headers as received, at most [`HEADERS_LIMIT`] fields and [`HEADER_BYTES_LIMIT`] bytes;
    /// `retry-after` and `webhook-delivery` are kept first. They can contain secrets.
    pub headers: HeaderMap,
    /// At most [`BODY_LIMIT`] bytes, not decompressed.
    pub body: Vec<u8>,
    /// Whether the body was longer than [`BODY_LIMIT`].
    pub truncated: bool,
    /// The remote address, if known.
    pub address: Option<IpAddr>,
    /// From the start of the request to the end of the response.
    pub duration: Duration,
}

impl EgressResponse {
    /// The body as text for a database: at most `limit` bytes, cut between characters. Invalid UTF-8
    /// becomes U+FFFD; NUL, which PostgreSQL rejects, is removed.
    #[must_use]
    pub fn body_text(&self, limit: usize) -> String {
        let mut text = String::from_utf8_lossy(&self.body).replace('\0', "");
        text.truncate(text.floor_char_boundary(limit));
        text
    }
}

/// The headers that are kept; see [`EgressResponse::headers`].
pub(super) fn retained_headers(all: &HeaderMap) -> HeaderMap {
    let is_priority = |name: &HeaderName| PRIORITY_HEADERS.contains(name);
    let mut remaining = HEADER_BYTES_LIMIT;
    let (priority, others) = all
        .iter()
        .partition::<Vec<_>, _>(|(name, _)| is_priority(name));
    priority
        .into_iter()
        .chain(others)
        .filter(|(name, value)| {
            let rest = remaining.checked_sub(name.as_str().len() + value.len());
            rest.inspect(|rest| remaining = *rest).is_some()
        })
        .take(HEADERS_LIMIT)
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

impl fmt::Debug for EgressResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EgressResponse")
            .field("status", &self.status)
            .field("body_bytes", &self.body.len())
            .field("truncated", &self.truncated)
            .field("duration", &self.duration)
            .finish_non_exhaustive()
    }
}

/// The wait that the receiver requests: `Retry-After` in seconds or as a date (RFC 9110 §10.2.3), at
/// most 24 hours; zero for a date in the past.
///
/// `None` without the header, or when it is malformed.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Parsing digits fails only on overflow, so the wait is the maximum.
        text.parse().map_or(MAX_RETRY_AFTER, Duration::from_secs)
    } else {
        let until = DateTime::<Utc>::from(httpdate::parse_http_date(text).ok()?);
        // A negative difference does not convert: the date has passed.
        (until - now).to_std().unwrap_or_default()
    };
    Some(wait.min(MAX_RETRY_AFTER))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn response(body: &[u8]) -> EgressResponse {
        EgressResponse {
            status: StatusCode::OK,
            headers: HeaderMap::new(),
            body: body.to_vec(),
            truncated: false,
            address: None,
            duration: Duration::ZERO,
        }
    }

    fn parsed_wait(value: &[u8]) -> Option<u64> {
        let now = "1994-11-06T08:49:37Z".parse().unwrap();
        let value = http::HeaderValue::from_bytes(value).unwrap();
        let headers = HeaderMap::from_iter([(RETRY_AFTER, value)]);
        retry_after(&headers, now).map(|wait| wait.as_secs())
    }

    #[test]
    fn body_text_fits_a_text_column() {
        assert_eq!(response(b"plain").body_text(100), "plain");
        assert_eq!(response(b"a\0b\0").body_text(100), "ab");
        assert_eq!(response(b"a\xffb").body_text(100), "a\u{fffd}b");
        assert_eq!(response("añb".as_bytes()).body_text(2), "a");
        assert_eq!(response("añb".as_bytes()).body_text(3), "añ");
        assert_eq!(response(b"abc").body_text(0), "");
    }

    #[test]
    fn debug_shows_neither_headers_nor_body() {
        let mut answer = response(b"hidden");
        answer.headers = HeaderMap::from_iter([(RETRY_AFTER, "hidden".parse().unwrap())]);
        assert!(!format!("{answer:?}").contains("hidden"));
    }

    #[test]
    fn retry_after_accepts_seconds_and_every_date_format() {
        assert_eq!(parsed_wait(b"120"), Some(120));
        assert_eq!(parsed_wait(b" 0 "), Some(0));
        assert_eq!(parsed_wait(b"Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(parsed_wait(b"Sunday, 06-Nov-94 08:50:37 GMT"), Some(60));
        assert_eq!(parsed_wait(b"Sun Nov  6 08:50:37 1994"), Some(60));
    }

    #[test]
    fn retry_after_is_bounded_by_now_and_a_day() {
        assert_eq!(parsed_wait(b"86401"), Some(86_400));
        assert_eq!(parsed_wait(b"99999999999999999999999999"), Some(86_400));
        assert_eq!(parsed_wait(b"Sun, 06 Nov 1994 08:48:37 GMT"), Some(0));
        assert_eq!(parsed_wait(b"Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(parsed_wait(b"Fri, 31 Dec 9999 23:59:59 GMT"), Some(86_400));
    }

    #[test]
    fn malformed_retry_after_is_none() {
        for value in [
            &b""[..],
            b"soon",
            b"-5",
            b"+5",
            b"1.5",
            b"5s",
            b"\xff",
            b"5, 6",
        ] {
            assert_eq!(parsed_wait(value), None, "{value:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), crate::clock::now()), None);
    }

    #[test]
    fn headers_are_limited_and_priority_headers_are_kept_first() {
        let header = |name: &str, value: String| (name.parse().unwrap(), value.parse().unwrap());
        let many = (0..200).map(|n| header("set-cookie", format!("n={n}")));
        let last = [("retry-after", "7"), ("webhook-delivery", "disable")]
            .map(|(name, value)| header(name, value.to_owned()));
        let all = many.chain(last).collect();
        let kept_of = |all: &HeaderMap| {
            let kept = retained_headers(all);
            assert_eq!(kept["retry-after"], "7");
            assert_eq!(kept["webhook-delivery"], "disable");
            kept
        };
        let few = kept_of(&all);
        assert_eq!(few.len(), HEADERS_LIMIT);
        assert_eq!(few["set-cookie"], "n=0");

        let long = [1, 5_000, 9_000, 5_000, 100].map(|long| header("x-long", "x".repeat(long)));
        let all = long
            .into_iter()
            .chain(
                all.iter()
                    .map(|(name, value)| (name.clone(), value.clone())),
            )
            .collect();
        let bounded = kept_of(&all);
        let lengths: Vec<usize> = bounded.get_all("x-long").iter().map(|v| v.len()).collect();
        assert_eq!(lengths, [1, 5_000, 100]);
        let bytes =
            |(name, value): (&HeaderName, &http::HeaderValue)| name.as_str().len() + value.len();
        assert!(bounded.iter().map(bytes).sum::<usize>() <= HEADER_BYTES_LIMIT);
    }

    #[test]
    fn few_headers_are_all_kept() {
        let all = HeaderMap::from_iter([
            (RETRY_AFTER, "1".parse().unwrap()),
            (http::header::SET_COOKIE, "a".parse().unwrap()),
            (http::header::SET_COOKIE, "b".parse().unwrap()),
        ]);
        assert_eq!(retained_headers(&all), all);
    }

    proptest! {
        #[test]
        fn body_text_keeps_its_bounds(body: Vec<u8>, limit in 0..300_usize) {
            let text = response(&body).body_text(limit);
            prop_assert!(text.len() <= limit && !text.contains('\0'));
        }

        #[test]
        fn retry_after_accepts_any_header_without_panicking(value in "[\\x20-\\x7e]{0,40}") {
            prop_assert!(parsed_wait(value.as_bytes()).is_none_or(|wait| wait <= 86_400));
        }
    }
}
