//! Room: collecting what is wrong with a request.
//! Takes: faults, one by one. Gives: all of them at once, or leave to go on.
//! Never: keeps two faults of one member, or more faults than anybody reads.

use harkara_kind::field_error::FieldError;

use crate::problem::{Code, Problem};

/// Errors reported for one request.
pub(crate) const MAX_FIELD_ERRORS: usize = 100;

/// The faults of one request.
#[derive(Debug, Default)]
pub(crate) struct FieldErrors(Vec<FieldError>);

impl FieldErrors {
    /// Adds a fault, unless its member has one already: what follows from a mistake is no second.
    pub(crate) fn push(&mut self, fault: FieldError) {
        if !self.is_full() && !self.0.iter().any(|known| known.pointer == fault.pointer) {
            self.0.push(fault);
        }
    }

    /// Adds a fault of the member at `prefix` and `pointer`.
    pub(crate) fn add(
        &mut self,
        prefix: &str,
        pointer: &str,
        code: &'static str,
        detail: impl Into<String>,
    ) {
        self.push(FieldError::new(format!("{prefix}{pointer}"), code, detail));
    }

    /// Adds faults of the part of the request that stands at `prefix`.
    pub(crate) fn extend(&mut self, prefix: &str, faults: Vec<FieldError>) {
        for fault in faults {
            self.push(fault.under(prefix));
        }
    }

    pub(crate) fn into_vec(self) -> Vec<FieldError> {
        self.0
    }

    /// Whether there is no point in looking further.
    pub(crate) fn is_full(&self) -> bool {
        self.0.len() >= MAX_FIELD_ERRORS
    }

    /// Goes on if nothing is wrong with the body.
    pub(crate) fn into_body_result(self) -> Result<(), Problem> {
        self.none(Code::Invalid)
    }

    /// Goes on if nothing is wrong with the query string.
    pub(crate) fn into_query_result(self) -> Result<(), Problem> {
        self.none(Code::InvalidQuery)
    }

    fn none(self, code: Code) -> Result<(), Problem> {
        if self.0.is_empty() {
            return Ok(());
        }
        Err(self.problem(code))
    }

    /// The problem that tells of them; there should be one.
    pub(crate) fn problem(self, code: Code) -> Problem {
        let first = self.0.first();
        let first = first.map(|first| format!("{}: {}", first.pointer, first.detail));
        let first = first.unwrap_or_default();
        let detail = match self.0.len() {
            0 | 1 => first,
            MAX_FIELD_ERRORS => {
                format!("{MAX_FIELD_ERRORS} mistakes or more; the first is {first}")
            }
            many => format!("{many} mistakes; the first is {first}"),
        };
        Problem::new(code, detail).with_field_errors(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_has_one_fault_and_a_request_at_most_a_hundred() {
        let mut faults = FieldErrors::default();
        faults.add("", "/a", "first", "x");
        faults.add("", "/a", "second", "x");
        assert_eq!(faults.0.len(), 1);
        for index in 0..200 {
            faults.add("/jobs", &format!("/{index}"), "invalid", "x");
        }
        assert!(faults.is_full());
        assert_eq!(faults.0.len(), 100);
    }
}
