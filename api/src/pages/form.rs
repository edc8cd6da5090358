//! Room: what forms send.
//! Takes: a request. Gives: fields by name. Never: knows what a field means.

use std::collections::BTreeMap;
use std::fmt;

use axum::extract::{FromRequest, Request};
use url::form_urlencoded;

use crate::body::{Chunks, media_type, unsupported};
use crate::problem::Problem;

/// Bytes of a form.
const MAX_FORM_BYTES: usize = 1 << 20;

/// The extractor for the fields of a form. Of a field that is there twice, the first counts.
pub(crate) struct Form(BTreeMap<String, String>);

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Form(redacted)")
    }
}

impl Form {
    /// A field; empty when it is not there.
    pub(crate) fn text(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_default()
    }

    /// A field that is filled in.
    pub(crate) fn given(&self, name: &str) -> Option<String> {
        let text = self.0.get(name)?.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl<S: Send + Sync> FromRequest<S> for Form {
    type Rejection = Problem;

    async fn from_request(request: Request, _: &S) -> Result<Self, Problem> {
        let (parts, body) = request.into_parts();
        let media_type = media_type(&parts.headers);
        if media_type != "application/x-www-form-urlencoded" {
            return Err(unsupported(
                &media_type,
                "application/x-www-form-urlencoded",
            ));
        }
        let chunks = Chunks::of(&parts.headers, body, MAX_FORM_BYTES).await?;
        let bytes = chunks.rest().await?;
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(&bytes) {
            // Nothing of a form is stored that PostgreSQL's text cannot hold.
            let value = value.replace('\0', "");
            fields.entry(name.into_owned()).or_insert(value);
        }
        Ok(Self(fields))
    }
}
