//! Room: the answer to an outbound request.
//! Takes: status, headers and as much of the body as was read.
//! Gives: the body as text that a database takes, and when the receiver wants to be asked again.
//! Never: judges a status.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use chrono::{DateTime, Utc};
use http::header::RETRY_AFTER;
use http::{HeaderMap, HeaderName, StatusCode};

/// How much of a body is read, in bytes; the connection is closed rather than more.
pub const BODY_LIMIT: usize = 64 * 1024;

/// How many header fields of an answer are kept.
pub const HEADERS_LIMIT: usize = 64;

/// How much of an answer's headers is kept, in bytes of names and values.
pub const HEADER_BYTES_LIMIT: usize = 8 * 1024;

/// Headers that decide what happens next, and so are kept before others.
const FIRST_KEPT: [HeaderName; 2] = [RETRY_AFTER, HeaderName::from_static("webhook-delivery")];

/// The longest that `Retry-After` may ask for.
const LONGEST_WAIT: Duration = Duration::from_secs(24 * 3_600);

/// What the receiver answered, redirects included. Headers and body stay out of `Debug`.
#[derive(Clone)]
pub struct EgressResponse {
    /// The status.
    pub status: StatusCode,
    /// The headers as they came, at most [`HEADERS_LIMIT`] with [`HEADER_BYTES_LIMIT`] bytes;
    /// `retry-after` and `webhook-delivery` go first. They may hold secrets.
    pub headers: HeaderMap,
    /// At most [`BODY_LIMIT`] bytes, not decompressed.
    pub body: Vec<u8>,
    /// Whether the body was longer than [`BODY_LIMIT`].
    pub truncated: bool,
    /// The address that was connected to.
    pub address: Option<IpAddr>,
    /// From the start of the request to the end of the answer.
    pub duration: Duration,
}

impl EgressResponse {
    /// The body as text for a database: at most `limit` bytes, cut between characters. What is not
    /// UTF-8 becomes U+FFFD; NUL, which PostgreSQL refuses, is left out.
    #[must_use]
    pub fn body_text(&self, limit: usize) -> String {
        let mut text = String::from_utf8_lossy(&self.body).replace('\0', "");
        text.truncate(text.floor_char_boundary(limit));
        text
    }
}

/// What of an answer's headers is kept; see [`EgressResponse::headers`].
pub(super) fn kept(all: &HeaderMap) -> HeaderMap {
    let first = |name: &HeaderName| FIRST_KEPT.contains(name);
    let mut room = HEADER_BYTES_LIMIT;
    let (deciding, others) = all.iter().partition::<Vec<_>, _>(|(name, _)| first(name));
    deciding
        .into_iter()
        .chain(others)
        .filter(|(name, value)| {
            let rest = room.checked_sub(name.as_str().len() + value.len());
            rest.inspect(|rest| room = *rest).is_some()
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

/// How long the receiver asks to be left alone: `Retry-After` in seconds or as a date (RFC 9110
/// §10.2.3), at most 24 hours; zero for a date that is past.
///
/// `None` without the header, and when it says neither.
#[must_use]
pub fn retry_after(headers: &HeaderMap, now: DateTime<Utc>) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    let wait = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // Only too many digits can fail here, which is to say too long.
        text.parse().map_or(LONGEST_WAIT, Duration::from_secs)
    } else {
        let until = DateTime::<Utc>::from(httpdate::parse_http_date(text).ok()?);
        (until - now).to_std().unwrap_or_default()
    };
    Some(wait.min(LONGEST_WAIT))
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

    fn asked(value: &[u8]) -> Option<u64> {
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
    fn retry_after_is_read_in_seconds_and_in_every_form_of_date() {
        assert_eq!(asked(b"120"), Some(120));
        assert_eq!(asked(b" 0 "), Some(0));
        assert_eq!(asked(b"Sun, 06 Nov 1994 08:50:37 GMT"), Some(60));
        assert_eq!(asked(b"Sunday, 06-Nov-94 08:50:37 GMT"), Some(60));
        assert_eq!(asked(b"Sun Nov  6 08:50:37 1994"), Some(60));
    }

    #[test]
    fn retry_after_is_bounded_by_now_and_a_day() {
        assert_eq!(asked(b"86401"), Some(86_400));
        assert_eq!(asked(b"99999999999999999999999999"), Some(86_400));
        assert_eq!(asked(b"Sun, 06 Nov 1994 08:48:37 GMT"), Some(0));
        assert_eq!(asked(b"Thu, 01 Jan 1970 00:00:00 GMT"), Some(0));
        assert_eq!(asked(b"Fri, 31 Dec 9999 23:59:59 GMT"), Some(86_400));
    }

    #[test]
    fn a_retry_after_that_says_nothing_is_none() {
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
            assert_eq!(asked(value), None, "{value:?}");
        }
        assert_eq!(retry_after(&HeaderMap::new(), crate::clock::now()), None);
    }

    #[test]
    fn headers_are_kept_up_to_their_limits_and_those_that_decide_before_others() {
        let header = |name: &str, value: String| (name.parse().unwrap(), value.parse().unwrap());
        let many = (0..200).map(|n| header("set-cookie", format!("n={n}")));
        let last = [("retry-after", "7"), ("webhook-delivery", "disable")]
            .map(|(name, value)| header(name, value.to_owned()));
        let all = many.chain(last).collect();
        let kept_of = |all: &HeaderMap| {
            let kept = kept(all);
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
    fn an_answer_with_few_headers_keeps_them_all() {
        let all = HeaderMap::from_iter([
            (RETRY_AFTER, "1".parse().unwrap()),
            (http::header::SET_COOKIE, "a".parse().unwrap()),
            (http::header::SET_COOKIE, "b".parse().unwrap()),
        ]);
        assert_eq!(kept(&all), all);
    }

    proptest! {
        #[test]
        fn body_text_keeps_its_bounds(body: Vec<u8>, limit in 0..300_usize) {
            let text = response(&body).body_text(limit);
            prop_assert!(text.len() <= limit && !text.contains('\0'));
        }

        #[test]
        fn no_header_breaks_retry_after(value in "[\\x20-\\x7e]{0,40}") {
            prop_assert!(asked(value.as_bytes()).is_none_or(|wait| wait <= 86_400));
        }
    }
}
