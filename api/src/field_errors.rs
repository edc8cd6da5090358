//! Collects what is wrong with a request, so that one response reports all of it.

use harkara_kind::field_error::FieldError;

use crate::problem::{Code, Problem};

/// Maximum number of errors reported for one request.
pub(crate) const MAX_FIELD_ERRORS: usize = 100;

/// The errors of one request, at most one for each member.
#[derive(Debug, Default)]
pub(crate) struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// Adds an error unless its member has one already: consequences of an error are not reported.
    pub(crate) fn push(&mut self, error: FieldError) {
        if !self.is_full() && !self.0.iter().any(|known| known.pointer == error.pointer) {
            self.0.push(error);
        }
    }

    /// Adds an error of the member at `prefix` and `pointer`.
    pub(crate) fn add(
        &mut self,
        prefix: &str,
        pointer: &str,
        code: &'static str,
        detail: impl Into<String>,
    ) {
        self.push(FieldError::new(format!("{prefix}{pointer}"), code, detail));
    }

    /// Adds errors of the part of the request at `prefix`.
    pub(crate) fn extend(&mut self, prefix: &str, errors: Vec<FieldError>) {
        for error in errors {
            self.push(error.under(prefix));
        }
    }

    pub(crate) fn into_vec(self) -> Vec<FieldError> {
        self.0
    }

    /// Whether no further error would be reported.
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= MAX_FIELD_ERRORS
    }

    /// The problem of a request body that has errors.
    pub(crate) fn into_body_result(self) -> Result<(), Problem> {
        self.none(Code::Invalid)
    }

    /// The problem of a query string that has errors.
    pub(crate) fn into_query_result(self) -> Result<(), Problem> {
        self.none(Code::InvalidQuery)
    }

    fn none(self, code: Code) -> Result<(), Problem> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(self.problem(code))
    }

    /// The problem that lists the errors, of which there should be at least one.
    pub(crate) fn problem(self, code: Code) -> Problem {
        let first = self.0.first();
        let first = first.map(|first| format!("{}: {}", first.pointer, first.detail));
        let first = first.unwrap_or_default();
        let detail = match self.0.len() {
            0 | 1 => first,
            MAX_FIELD_ERRORS => {
                format!("{MAX_FIELD_ERRORS} or more errors; first: {first}")
            }
            many => format!("{many} errors; first: {first}"),
        };
        Problem::new(code, detail).with_field_errors(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn member_has_one_error_and_request_at_most_a_hundred() {
        let mut errors = FieldErrors::default();
        errors.add("", "/a", "first", "x");
        errors.add("", "/a", "second", "x");
        assert_eq!(errors.0.len(), 1);
        for index in 0..200 {
            errors.add("/jobs", &format!("/{index}"), "invalid", "x");
        }
        assert!(errors.is_full());
        assert_eq!(errors.0.len(), 100);
    }
}
