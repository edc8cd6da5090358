//! Extractor for forms.
//!
//! Returns the fields of a form by name. Knows nothing of their meaning.

use std::collections::BTreeMap;
use std::fmt;

use axum::extract::{FromRequest, Request};
use url::form_urlencoded;

use crate::body::{Chunks, media_type, unsupported};
use crate::problem::Problem;

/// Maximum size of a form in bytes.
const MAX_FORM_BYTES: usize = 1 << 20;

/// Extracts the fields of a form. If a field occurs twice, the first value is used.
pub(crate) struct Form(BTreeMap<String, String>);

impl fmt::Debug for Form {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Form(redacted)")
    }
}

impl Form {
    /// Returns a field; empty if it is missing.
    pub(crate) fn text(&self, name: &str) -> String {
        self.0.get(name).cloned().unwrap_or_default()
    }

    /// Returns a field if it is not blank.
    pub(crate) fn optional(&self, name: &str) -> Option<String> {
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
        let chunks = Chunks::new(&parts.headers, body, MAX_FORM_BYTES).await?;
        let bytes = chunks.rest().await?;
        let mut fields = BTreeMap::new();
        for (name, value) in form_urlencoded::parse(&bytes) {
            // PostgreSQL cannot store NUL characters in text.
            let value = value.replace('\0', "");
            fields.entry(name.into_owned()).or_insert(value);
        }
        Ok(Self(fields))
    }
}
