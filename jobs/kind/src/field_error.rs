//! An error in one member of an input, as data: a JSON pointer, a stable code and a sentence. Independent of HTTP.

use harkara_shared::json;
use serde::Serialize;

/// One error in an input.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldError {
    /// JSON pointer (RFC 6901) to the wrong member, from the root of the input; empty for the root.
    pub pointer: String,
    /// Stable snake_case code.
    pub code: &'static str,
    /// One sentence.
    pub detail: String,
}

impl FieldError {
    /// A field error from its three parts.
    #[must_use]
    pub fn new(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            code,
            detail: detail.into(),
        }
    }

    /// The same error in an input that is at `prefix` of a larger one.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        self.pointer.insert_str(0, prefix);
        self
    }
}

impl From<json::Error> for FieldError {
    fn from(error: json::Error) -> Self {
        Self::new(error.pointer(), error.kind.code(), error.detail)
    }
}
