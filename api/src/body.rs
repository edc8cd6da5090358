//! Room: request bodies.
//! Takes: a request. Gives: its content type, its bytes up to a limit, or its JSON text.
//! Never: knows what a body means.

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;

use crate::faults::Faults;
use crate::json;
use crate::problem::{Code, Problem};

/// Bytes of an ordinary body.
const ORDINARY_LIMIT: usize = 1 << 20;

/// The media type of a request's body, in lower case and without parameters; empty when there is
/// none or it is not text.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(|essence| essence.trim().to_ascii_lowercase())
        .unwrap_or_default()
}

/// Whether the media type is JSON's, or one built on it.
pub(crate) fn is_json(media_type: &str) -> bool {
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

/// A body as it arrives, up to a limit.
pub(crate) struct Chunks {
    stream: BodyDataStream,
    left: usize,
    limit: usize,
}

impl Chunks {
    /// The body of a request, refused at once when it says that it is longer than `limit` bytes.
    pub(crate) fn of(headers: &HeaderMap, body: Body, limit: usize) -> Result<Self, Problem> {
        let told: Option<usize> = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok());
        if told.is_some_and(|told| told > limit) {
            return Err(too_large(limit));
        }
        Ok(Self { stream: body.into_data_stream(), left: limit, limit })
    }

    /// The next part; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let Some(chunk) = self.stream.next().await else { return Ok(None) };
        let chunk = chunk
            .map_err(|_| Problem::new(Code::MalformedBody, "the body broke off before its end"))?;
        self.left = self.left.checked_sub(chunk.len()).ok_or_else(|| too_large(self.limit))?;
        Ok(Some(chunk))
    }

    /// All that is left.
    pub(crate) async fn rest(mut self) -> Result<Vec<u8>, Problem> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

fn too_large(limit: usize) -> Problem {
    let mib = limit >> 20;
    Problem::new(Code::BodyTooLarge, format!("a body here has at most {mib} MiB"))
}

/// The problem of a body of another media type than those named in `wanted`.
pub(crate) fn unsupported(media_type: &str, wanted: &str) -> Problem {
    let found = match media_type {
        "" => "none".to_owned(),
        found => format!("`{found}`"),
    };
    Problem::new(Code::UnsupportedMediaType, format!("the content type must be {wanted}, not {found}"))
}

/// Reads bytes as UTF-8 that is JSON.
pub(crate) fn json_text(bytes: Vec<u8>) -> Result<String, Problem> {
    let malformed = |reason: String| {
        Problem::new(Code::MalformedBody, format!("the body is not JSON: {reason}"))
    };
    let text = String::from_utf8(bytes).map_err(|error| malformed(error.to_string()))?;
    json::check_syntax(&text).map_err(|error| malformed(error.to_string()))?;
    Ok(text)
}

/// The extractor for JSON bodies of ordinary size. Its text is JSON; its members are for
/// [`JsonBody::members`].
#[derive(Debug)]
pub(crate) struct JsonBody(String);

impl JsonBody {
    /// The text.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// Reads the members as [`json::decode`] does, having checked that they can be stored.
    pub(crate) fn members<T: DeserializeOwned>(&self, faults: &mut Faults) -> Option<T> {
        json::check_storable(&self.0, "", faults);
        json::decode(&self.0, "", faults)
    }
}

impl<S: Send + Sync> FromRequest<S> for JsonBody {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let media_type = media_type(&parts.headers);
        if !is_json(&media_type) {
            return Err(unsupported(&media_type, "application/json"));
        }
        let bytes = Chunks::of(&parts.headers, body, ORDINARY_LIMIT)?.rest().await?;
        Ok(Self(json_text(bytes)?))
    }
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test that cannot go on should stop")]

    use super::*;

    #[test]
    fn json_is_told_by_its_media_type() {
        for (text, json) in [
            ("application/json", true),
            ("Application/JSON; charset=utf-8", true),
            ("application/cloudevents+json", true),
            ("text/json", false),
            ("application/x-ndjson", false),
            ("application/jsonp", false),
            ("", false),
        ] {
            let headers = HeaderMap::from_iter([(CONTENT_TYPE, text.parse().unwrap())]);
            assert_eq!(is_json(&media_type(&headers)), json, "{text}");
        }
        assert_eq!(media_type(&HeaderMap::new()), "");
    }

    #[tokio::test]
    async fn a_body_without_a_length_is_cut_at_the_limit() {
        let body = Body::from(vec![b'x'; 11]);
        let chunks = Chunks::of(&HeaderMap::new(), body, 10).unwrap();
        assert_eq!(chunks.rest().await.unwrap_err().status().as_u16(), 413);
        let body = Body::from(vec![b'x'; 10]);
        let chunks = Chunks::of(&HeaderMap::new(), body, 10).unwrap();
        assert_eq!(chunks.rest().await.unwrap().len(), 10);
    }
}
