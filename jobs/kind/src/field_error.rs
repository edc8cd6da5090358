//! Room: what is wrong with an input, said so that a machine can point at it.
//! Takes and gives: data. Never: knows HTTP.

use serde::Serialize;

/// One mistake in an input.
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
    /// A fault from its three parts.
    #[must_use]
    pub fn new(pointer: impl Into<String>, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            pointer: pointer.into(),
            code,
            detail: detail.into(),
        }
    }

    /// The same fault in an input that stands at `prefix` of a larger one.
    #[must_use]
    pub fn under(mut self, prefix: &str) -> Self {
        self.pointer.insert_str(0, prefix);
        self
    }
}

/// The JSON pointer of a place that a decoder stopped at.
#[must_use]
pub fn pointer(path: &serde_path_to_error::Path) -> String {
    use serde_path_to_error::Segment;
    let mut pointer = String::new();
    for segment in path {
        match segment {
            Segment::Seq { index } => {
                pointer.push('/');
                pointer.push_str(&index.to_string());
            }
            Segment::Map { key } | Segment::Enum { variant: key } => {
                pointer.push_str(&token(key));
            }
            Segment::Unknown => {}
        }
    }
    pointer
}

/// A member's name as a part of a JSON pointer.
#[must_use]
pub fn token(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// A decoder's complaint without the place in the text, which the pointer tells better.
#[must_use]
pub fn words(error: &serde_json::Error) -> String {
    let text = error.to_string();
    match text.rfind(" at line ") {
        Some(end) => text.get(..end).unwrap_or(&text).to_owned(),
        None => text,
    }
}
