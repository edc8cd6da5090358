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

/// Finds what is JSON but cannot be kept: NUL characters, which Postgres has no room for, halves of
/// surrogate pairs, numbers beyond all ranges and nesting deeper than 128.
///
/// `text` must be JSON and stands at `prefix` of the request.
pub(crate) fn check_storable(text: &str, prefix: &str, faults: &mut FieldErrors) {
    let mut walk = Walk {
        pointer: prefix.to_owned(),
        faults,
    };
    let mut decoder = serde_json::Deserializer::from_str(text);
    if let Err(error) = Step(&mut walk).deserialize(&mut decoder) {
        let pointer = walk.pointer;
        faults.push(FieldError::new(pointer, "invalid", json::message(&error)));
    }
}

struct Walk<'a> {
    /// Where the walk is. An error leaves it there.
    pointer: String,
    faults: &'a mut FieldErrors,
}

impl Walk<'_> {
    fn check(&mut self, text: &str) {
        if text.contains('\0') {
            let detail = "holds a NUL character (\\u0000), which cannot be stored";
            self.faults.push(FieldError::new(
                self.pointer.clone(),
                "nul_character",
                detail,
            ));
        }
    }
}

struct Step<'w, 'a>(&'w mut Walk<'a>);

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
        let mut faults = FieldErrors::default();
        let sample = decode(text, "/at", &mut faults);
        (sample, told(faults))
    }

    fn told(faults: FieldErrors) -> Vec<(String, String)> {
        faults
            .into_vec()
            .into_iter()
            .map(|fault| (fault.pointer, fault.code.to_owned()))
            .collect()
    }

    fn fault(pointer: &str, code: &str) -> (String, String) {
        (pointer.to_owned(), code.to_owned())
    }

    #[test]
    fn every_wrong_member_is_pointed_at_and_the_rest_is_read() {
        let (sample, faults) = decoded(
            r#"{"nmae":1,"a/b~`c":2,"name":"x","count":"3","nested":{"neded":true},"list":[true,0]}"#,
        );
        assert_eq!(
            sample,
            Some(Sample {
                name: Some("x".to_owned()),
                ..Sample::default()
            })
        );
        let mut faults = faults;
        faults.sort();
        assert_eq!(
            faults,
            [
                fault("/at/a~1b~0`c", "unknown_field"),
                fault("/at/count", "invalid"),
                fault("/at/list/1", "invalid"),
                fault("/at/nested/neded", "unknown_field"),
                fault("/at/nmae", "unknown_field"),
            ]
        );
    }

    #[test]
    fn a_missing_and_a_repeated_member_are_pointed_at() {
        let (_, faults) = decoded(r#"{"nested":{}}"#);
        assert_eq!(faults, [fault("/at/nested/needed", "missing")]);
        let (_, faults) = decoded(r#"{"name":"x","name":"y"}"#);
        assert_eq!(faults, [fault("/at/name", "duplicate")]);
    }

    #[test]
    fn what_is_no_object_is_a_fault_of_the_whole() {
        for text in ["[]", r#"["x",1]"#, "1", "null", r#""{""#] {
            assert_eq!(
                decoded(text),
                (None, vec![fault("/at", "invalid")]),
                "{text}"
            );
        }
    }

    #[test]
    fn null_stands_for_an_absent_member() {
        assert_eq!(
            decoded(r#"{"name":null}"#),
            (Some(Sample::default()), Vec::new())
        );
    }

    #[test]
    fn what_cannot_be_stored_is_pointed_at() {
        let unstorable = |text: &str| {
            let mut faults = FieldErrors::default();
            check_syntax(text).map_err(|error| error.to_string())?;
            check_storable(text, "/at", &mut faults);
            Ok::<_, String>(told(faults))
        };
        assert_eq!(
            unstorable(r#"{"a":["x",1.5,null,true,{"b":-1}]}"#),
            Ok(Vec::new())
        );
        assert_eq!(
            unstorable(r#"{"a":["x","\u0000",{"b/c":"y\u0000"}],"k\u0000":1}"#),
            Ok(vec![
                fault("/at/a/1", "nul_character"),
                fault("/at/a/2/b~1c", "nul_character"),
                fault("/at/k\0", "nul_character"),
            ])
        );
        assert_eq!(
            unstorable(r#"{"a":["x","\ud800"]}"#),
            Ok(vec![fault("/at/a/1", "invalid")])
        );
        assert_eq!(
            unstorable(r#"{"a":1e999}"#),
            Ok(vec![fault("/at/a", "invalid")])
        );
        let deep = format!("{}{}", "[".repeat(200), "]".repeat(200));
        let found = unstorable(&deep).unwrap_or_default();
        assert_eq!(found.len(), 1);
    }
}
