//! Reads request bodies: media type, bytes up to a limit, JSON text.
//!
//! `http_body_util::Limited` is not used: it stops at the limit, but a body that is too large must be drained before
//! the response, or many clients never see it.

use axum::body::{Body, BodyDataStream};
use axum::extract::{FromRequest, Request};
use axum::http::HeaderMap;
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE};
use bytes::Bytes;
use futures_util::StreamExt;
use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::field_errors::FieldErrors;
use crate::json;
use crate::problem::{Code, Problem};

/// Maximum size of a body on most routes, in bytes.
const DEFAULT_LIMIT: usize = 1 << 20;

/// Maximum size of a batch of jobs, in bytes.
pub(crate) const BATCH_LIMIT: usize = 64 << 20;

/// Maximum size of a body on this route, in bytes.
pub(crate) fn size_limit(route: &str) -> usize {
    match route {
        "/v1/jobs/batch" => BATCH_LIMIT,
        _ => DEFAULT_LIMIT,
    }
}

/// Bytes beyond the limit that are read and discarded before a body is refused, so that most clients finish
/// sending and see the response.
const MAX_DISCARDED_BYTES: Option<usize> = Some(8 << 20);

/// The media type of a request's body, in lower case and without parameters; empty when the header is
/// missing or not text.
pub(crate) fn media_type(headers: &HeaderMap) -> String {
    headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.split(';').next())
        .map(|essence| essence.trim().to_ascii_lowercase())
        .unwrap_or_default()
}

/// Whether the media type is JSON or has the suffix `+json`.
pub(crate) fn is_json(media_type: &str) -> bool {
    media_type == "application/json"
        || (media_type.starts_with("application/") && media_type.ends_with("+json"))
}

/// Reads a body chunk by chunk, up to a limit.
pub(crate) struct Chunks {
    stream: BodyDataStream,
    /// Bytes that may still follow.
    left: usize,
    /// Maximum size of the body, in bytes.
    limit: usize,
}

impl Chunks {
    /// The body of a request; refused at once when `Content-Length` exceeds `limit` bytes.
    pub(crate) async fn new(
        headers: &HeaderMap,
        body: Body,
        limit: usize,
    ) -> Result<Self, Problem> {
        let declared: Option<usize> = headers
            .get(CONTENT_LENGTH)
            .and_then(|value| value.to_str().ok())
            .and_then(|value| value.parse().ok());
        let mut chunks = Self {
            stream: body.into_data_stream(),
            left: limit,
            limit,
        };
        if declared.is_some_and(|length| length > limit) {
            return Err(chunks.too_large().await);
        }
        Ok(chunks)
    }

    /// The next part; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Problem> {
        let Some(chunk) = self.stream.next().await else {
            return Ok(None);
        };
        let chunk = chunk.map_err(|_| Problem::new(Code::MalformedBody, "the body ended early"))?;
        match self.left.checked_sub(chunk.len()) {
            Some(left) => self.left = left,
            None => return Err(self.too_large().await),
        }
        Ok(Some(chunk))
    }

    /// The rest of the body.
    pub(crate) async fn rest(mut self) -> Result<Vec<u8>, Problem> {
        let mut bytes = Vec::new();
        while let Some(chunk) = self.next().await? {
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }

    /// Reads and discards the rest: a client that is still sending when the connection closes may never
    /// see the response.
    pub(crate) async fn discard(mut self) -> Result<(), Problem> {
        while self.next().await?.is_some() {}
        Ok(())
    }

    async fn too_large(&mut self) -> Problem {
        // As in `discard`, but bounded.
        let mut left = MAX_DISCARDED_BYTES;
        while let (Some(budget), Some(Ok(chunk))) = (left, self.stream.next().await) {
            left = budget.checked_sub(chunk.len());
        }
        let mib = self.limit >> 20;
        Problem::new(
            Code::BodyTooLarge,
            format!("the body of this route must be at most {mib} MiB"),
        )
    }
}

/// The problem of a body whose media type is not among `expected`.
pub(crate) fn unsupported(media_type: &str, expected: &str) -> Problem {
    let found = match media_type {
        "" => "none".to_owned(),
        found => format!("`{found}`"),
    };
    Problem::new(
        Code::UnsupportedMediaType,
        format!("the content type must be {expected}, got {found}"),
    )
}

/// Checks that the bytes are JSON in UTF-8 and returns the text.
pub(crate) fn json_text(bytes: Vec<u8>) -> Result<String, Problem> {
    let malformed = |reason: String| {
        Problem::new(
            Code::MalformedBody,
            format!("the body is not JSON: {reason}"),
        )
    };
    let text = String::from_utf8(bytes).map_err(|error| malformed(error.to_string()))?;
    json::check_syntax(&text).map_err(|error| malformed(error.to_string()))?;
    Ok(text)
}

/// The extractor of a JSON body of at most 1 MiB. [`JsonBody::members`] decodes it.
#[derive(Debug)]
pub(crate) struct JsonBody(String);

impl JsonBody {
    /// The text.
    pub(crate) fn text(&self) -> &str {
        &self.0
    }

    /// The body as a value, for the audit log.
    pub(crate) fn value(&self) -> Value {
        // The syntax was checked.
        serde_json::from_str(&self.0).unwrap_or_default()
    }

    /// Checks that the body can be stored, then decodes its members as [`json::decode`] does.
    pub(crate) fn members<T: DeserializeOwned>(&self, errors: &mut FieldErrors) -> Option<T> {
        json::check_storable(&self.0, "", errors);
        json::decode(&self.0, "", errors)
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
        let bytes = Chunks::new(&parts.headers, body, DEFAULT_LIMIT)
            .await?
            .rest()
            .await?;
        Ok(Self(json_text(bytes)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn media_type_decides_whether_a_body_is_json() {
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
    async fn body_without_a_declared_length_is_limited() {
        let body = Body::from(vec![b'x'; 11]);
        let chunks = Chunks::new(&HeaderMap::new(), body, 10).await.unwrap();
        assert_eq!(chunks.rest().await.unwrap_err().status().as_u16(), 413);
        let body = Body::from(vec![b'x'; 10]);
        let chunks = Chunks::new(&HeaderMap::new(), body, 10).await.unwrap();
        assert_eq!(chunks.rest().await.unwrap().len(), 10);
    }
}
