//! Decodes JSON that callers send, and reports each wrong member.
//!
//! Built on [`harkara_shared::json`]. Nothing here knows what a member means.

use std::fmt;

use harkara_kind::field_error::FieldError;
use harkara_shared::json;
pub(crate) use harkara_shared::json::pointer_token;
use serde::Deserialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::field_errors::{FieldErrors, MAX_FIELD_ERRORS};

/// Checks that `text` is JSON.
///
/// # Errors
/// With line and column of the first character that is not.
pub(crate) fn check_syntax(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<&RawValue>(text).map(drop)
}

/// Decodes the members of the object `text`, which is at `prefix` of the request.
///
/// A member that cannot be decoded is reported and left out, so that the next wrong one is found, too.
/// Members of `T` should therefore be optional, and the caller reports those that are required. `None` when
/// `text` is not an object, or no value can be made of the rest.
pub(crate) fn decode<'de, T: Deserialize<'de>>(
    text: &'de str,
    prefix: &str,
    errors: &mut FieldErrors,
) -> Option<T> {
    // Derived visitors accept an array as an object, member by member.
    if !is_object(text) {
        errors.add(prefix, "", "invalid", "must be an object");
        return None;
    }
    let (value, found) = json::decode_object(text, MAX_FIELD_ERRORS);
    for error in found {
        errors.push(FieldError::from(error).under(prefix));
    }
    value
}

/// Whether the JSON `text` is an object.
pub(crate) fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// Reports JSON that cannot be stored: NUL characters, which PostgreSQL does not accept, lone surrogates,
/// numbers out of range and nesting deeper than 128.
///
/// `text` must be JSON and is at `prefix` of the request.
pub(crate) fn check_storable(text: &str, prefix: &str, errors: &mut FieldErrors) {
    let mut check = StorageCheck {
        pointer: prefix.to_owned(),
        errors,
    };
    let mut decoder = serde_json::Deserializer::from_str(text);
    if let Err(error) = Step(&mut check).deserialize(&mut decoder) {
        let pointer = check.pointer;
        errors.push(FieldError::new(pointer, "invalid", json::message(&error)));
    }
}

struct StorageCheck<'a> {
    /// Pointer to the current value; after a parser error, to the value it occurred in.
    pointer: String,
    errors: &'a mut FieldErrors,
}

impl StorageCheck<'_> {
    fn check(&mut self, text: &str) {
        if text.contains('\0') {
            let detail = "contains a NUL character (\\u0000), which cannot be stored";
            self.errors.push(FieldError::new(
                self.pointer.clone(),
                "nul_character",
                detail,
            ));
        }
    }
}

struct Step<'w, 'a>(&'w mut StorageCheck<'a>);

impl<'de> DeserializeSeed<'de> for Step<'_, '_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Step<'_, '_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JSON")
    }

    fn visit_bool<E>(self, _: bool) -> Result<(), E> {
        Ok(())
    }

    fn visit_i64<E>(self, _: i64) -> Result<(), E> {
        Ok(())
    }

    fn visit_u64<E>(self, _: u64) -> Result<(), E> {
        Ok(())
    }

    fn visit_f64<E>(self, _: f64) -> Result<(), E> {
        Ok(())
    }

    fn visit_unit<E>(self) -> Result<(), E> {
        Ok(())
    }

    fn visit_str<E>(self, text: &str) -> Result<(), E> {
        self.0.check(text);
        Ok(())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<(), A::Error> {
        let length = self.0.pointer.len();
        for index in 0_usize.. {
            self.0.pointer.push('/');
            self.0.pointer.push_str(&index.to_string());
            let item = items.next_element_seed(Step(&mut *self.0))?;
            self.0.pointer.truncate(length);
            if item.is_none() {
                break;
            }
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut members: A) -> Result<(), A::Error> {
        let length = self.0.pointer.len();
        while let Some(name) = members.next_key::<std::borrow::Cow<'de, str>>()? {
            self.0.pointer.push_str(&pointer_token(&name));
            self.0.check(&name);
            members.next_value_seed(Step(&mut *self.0))?;
            self.0.pointer.truncate(length);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: Option<String>,
        count: Option<i64>,
        nested: Option<Nested>,
        list: Option<Vec<bool>>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nested {
        needed: bool,
    }

    fn decoded(text: &str) -> (Option<Sample>, Vec<(String, String)>) {
        let mut errors = FieldErrors::default();
        let sample = decode(text, "/at", &mut errors);
        (sample, pointers_and_codes(errors))
    }

    fn pointers_and_codes(errors: FieldErrors) -> Vec<(String, String)> {
        errors
            .into_vec()
            .into_iter()
            .map(|error| (error.pointer, error.code.to_owned()))
            .collect()
    }

    fn found_at(pointer: &str, code: &str) -> (String, String) {
        (pointer.to_owned(), code.to_owned())
    }

    #[test]
    fn every_wrong_member_is_reported_and_the_rest_is_decoded() {
        let (sample, errors) = decoded(
            r#"{"nmae":1,"a/b~`c":2,"name":"x","count":"3","nested":{"neded":true},"list":[true,0]}"#,
        );
        assert_eq!(
            sample,
            Some(Sample {
                name: Some("x".to_owned()),
                ..Sample::default()
            })
        );
        let mut errors = errors;
        errors.sort();
        assert_eq!(
            errors,
            [
                found_at("/at/a~1b~0`c", "unknown_field"),
                found_at("/at/count", "invalid"),
                found_at("/at/list/1", "invalid"),
                found_at("/at/nested/neded", "unknown_field"),
                found_at("/at/nmae", "unknown_field"),
            ]
        );
    }

    #[test]
    fn missing_and_repeated_members_are_reported() {
        let (_, errors) = decoded(r#"{"nested":{}}"#);
        assert_eq!(errors, [found_at("/at/nested/needed", "missing")]);
        let (_, errors) = decoded(r#"{"name":"x","name":"y"}"#);
        assert_eq!(errors, [found_at("/at/name", "duplicate")]);
    }

    #[test]
    fn text_that_is_not_an_object_is_an_error_at_the_root() {
        for text in ["[]", r#"["x",1]"#, "1", "null", r#""{""#] {
            assert_eq!(
                decoded(text),
                (None, vec![found_at("/at", "invalid")]),
                "{text}"
            );
        }
    }

    #[test]
    fn null_is_an_absent_member() {
        assert_eq!(
            decoded(r#"{"name":null}"#),
            (Some(Sample::default()), Vec::new())
        );
    }

    #[test]
    fn unstorable_json_is_reported_with_its_pointer() {
        let unstorable = |text: &str| {
            let mut errors = FieldErrors::default();
            check_syntax(text).map_err(|error| error.to_string())?;
            check_storable(text, "/at", &mut errors);
            Ok::<_, String>(pointers_and_codes(errors))
        };
        assert_eq!(
            unstorable(r#"{"a":["x",1.5,null,true,{"b":-1}]}"#),
            Ok(Vec::new())
        );
        assert_eq!(
            unstorable(r#"{"a":["x","\u0000",{"b/c":"y\u0000"}],"k\u0000":1}"#),
            Ok(vec![
                found_at("/at/a/1", "nul_character"),
                found_at("/at/a/2/b~1c", "nul_character"),
                found_at("/at/k\0", "nul_character"),
            ])
        );
        assert_eq!(
            unstorable(r#"{"a":["x","\ud800"]}"#),
            Ok(vec![found_at("/at/a/1", "invalid")])
        );
        assert_eq!(
            unstorable(r#"{"a":1e999}"#),
            Ok(vec![found_at("/at/a", "invalid")])
        );
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let found = unstorable(&deep).unwrap_or_default();
        assert_eq!(found.len(), 1);
    }
}
