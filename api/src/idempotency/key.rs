//! Parses the header `Idempotency-Key`.

use axum::http::{HeaderMap, HeaderName};

use crate::problem::{Code, Problem};

/// `Idempotency-Key`.
const KEY_HEADER: HeaderName = HeaderName::from_static("idempotency-key");

/// Maximum characters of a key.
const MAX_KEY_CHARS: usize = 255;

/// The key of a request, if it has one: bare, or as a Structured Field string (RFC 9651).
///
/// # Errors
/// A problem of status 400 when it is malformed or repeated.
pub(super) fn parse(headers: &HeaderMap) -> Result<Option<String>, Problem> {
    let malformed = |detail: &str| Problem::new(Code::InvalidIdempotencyKey, detail);
    let mut values = headers.get_all(KEY_HEADER).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(malformed("the header `Idempotency-Key` is repeated")),
    };
    value.to_str().ok().and_then(parse_key).map(Some).ok_or_else(|| {
        malformed(
            "`Idempotency-Key` must be 1 to 255 visible ASCII characters, bare or in double quotes",
        )
    })
}

fn parse_key(text: &str) -> Option<String> {
    let key = match text.strip_prefix('"') {
        Some(quoted) => unquote(quoted.strip_suffix('"')?)?,
        None => text.to_owned(),
    };
    let fits =
        (1..=MAX_KEY_CHARS).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic());
    fits.then_some(key)
}

/// The content of a quoted string, with its escapes `\"` and `\\` resolved.
fn unquote(text: &str) -> Option<String> {
    let mut key = String::with_capacity(text.len());
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => key.push(
                characters
                    .next()
                    .filter(|next| matches!(next, '"' | '\\'))?,
            ),
            '"' => return None,
            other => key.push(other),
        }
    }
    Some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_is_the_same_with_and_without_quotes() {
        let longest = "x".repeat(255);
        let quoted = format!("\"{longest}\"");
        for (text, key) in [
            ("abc", "abc"),
            ("\"abc\"", "abc"),
            ("a\"b", "a\"b"),
            (r#""a\"b\\c""#, r#"a"b\c"#),
            (r"a\b", r"a\b"),
            (&longest, &longest),
            (&quoted, &longest),
        ] {
            assert_eq!(parse_key(text).as_deref(), Some(key), "{text}");
        }
    }

    #[test]
    fn malformed_key_is_refused() {
        for text in [
            "",
            "\"\"",
            "\"",
            "\"abc",
            "\"a\"b\"",
            r#""abc\""#,
            r#""a\bc""#,
            "\"abc\";x=1",
            "a b",
            "\"a b\"",
            &"x".repeat(256),
        ] {
            assert_eq!(parse_key(text), None, "{text}");
        }
    }
}
