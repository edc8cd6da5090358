//! Room: JSON that callers send, read so that a mistake can be pointed at.
//! Takes: text. Gives: values, and a fault for each member that is not as it should be.
//! Never: knows what a member means.

use std::collections::BTreeMap;
use std::fmt;

pub(crate) use harkara_kind::field_error::token;
use harkara_kind::field_error::{self, FieldError};
use serde::de::{DeserializeOwned, DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use crate::faults::Faults;

/// Texts longer than this are read once: after their first mistake nothing more is looked for.
const LONGEST_REREAD: usize = 1 << 20;

/// Checks that `text` is JSON.
///
/// # Errors
/// With line and column of the first character that is not.
pub(crate) fn check_syntax(text: &str) -> Result<(), serde_json::Error> {
    serde_json::from_str::<&RawValue>(text).map(drop)
}

/// Reads the members of the object `text`, which stands at `prefix` of the request.
///
/// A member that cannot be read is a fault and then left out, so that the next one is found, too.
/// All members of `T` should therefore be optional, and those that must be there be asked for
/// afterwards. `None` when `text` is not an object at all, or nothing can be made of it.
pub(crate) fn decode<T: DeserializeOwned>(
    text: &str,
    prefix: &str,
    faults: &mut Faults,
) -> Option<T> {
    // Derived readers would take an array for an object, member by member.
    if !is_object(text) {
        faults.add(prefix, "", "invalid", "must be an object");
        return None;
    }
    let mut rest = std::borrow::Cow::Borrowed(text);
    loop {
        let mut decoder = serde_json::Deserializer::from_str(&rest);
        let error = match serde_path_to_error::deserialize::<_, T>(&mut decoder) {
            Ok(value) => return Some(value),
            Err(error) => error,
        };
        let fault = precise(FieldError::new(
            field_error::pointer(error.path()),
            "invalid",
            field_error::words(error.inner()),
        ));
        let without = without_member(&rest, &fault.pointer);
        faults.push(fault.under(prefix));
        match without {
            Some(shorter) if !faults.is_full() => rest = shorter.into(),
            _ => return None,
        }
    }
}

/// Whether the JSON `text` is an object.
pub(crate) fn is_object(text: &str) -> bool {
    text.trim_start().starts_with('{')
}

/// A decoder points at the object where a member is missing, unknown or repeated; this points at
/// the member.
pub(crate) fn precise(mut fault: FieldError) -> FieldError {
    let kinds = [
        ("unknown field `", "unknown_field"),
        ("missing field `", "missing"),
        ("duplicate field `", "duplicate"),
    ];
    for (words, code) in kinds {
        let Some(rest) = fault.detail.strip_prefix(words) else {
            continue;
        };
        // A name may itself hold a backtick; what follows it never does more than list names.
        let end = rest.find("`, expected ").or_else(|| rest.rfind('`'));
        let name = end.and_then(|end| rest.get(..end)).unwrap_or(rest);
        let token = token(name);
        if !fault.pointer.ends_with(&token) {
            fault.pointer.push_str(&token);
        }
        fault.code = code;
        break;
    }
    fault
}

/// The object without the member that `pointer` leads to or through; `None` if there is none, or
/// the text is too long to be read again.
fn without_member(text: &str, pointer: &str) -> Option<String> {
    if text.len() > LONGEST_REREAD {
        return None;
    }
    let first = pointer.strip_prefix('/')?.split('/').next()?;
    let name = first.replace("~1", "/").replace("~0", "~");
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_str(text).ok()?;
    members.remove(&name)?;
    serde_json::to_string(&members).ok()
}

/// Finds what is JSON but cannot be kept: NUL characters, which Postgres has no room for, halves of
/// surrogate pairs, numbers beyond all ranges and nesting deeper than 128.
///
/// `text` must be JSON and stands at `prefix` of the request.
pub(crate) fn check_storable(text: &str, prefix: &str, faults: &mut Faults) {
    let mut walk = Walk {
        pointer: prefix.to_owned(),
        faults,
    };
    let mut decoder = serde_json::Deserializer::from_str(text);
    if let Err(error) = Step(&mut walk).deserialize(&mut decoder) {
        let pointer = walk.pointer;
        faults.push(FieldError::new(
            pointer,
            "invalid",
            field_error::words(&error),
        ));
    }
}

struct Walk<'a> {
    /// Where the walk is. An error leaves it there.
    pointer: String,
    faults: &'a mut Faults,
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
            self.0.pointer.push_str(&token(&name));
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
        let mut faults = Faults::default();
        let sample = decode(text, "/at", &mut faults);
        (sample, told(faults))
    }

    fn told(faults: Faults) -> Vec<(String, String)> {
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
            let mut faults = Faults::default();
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
