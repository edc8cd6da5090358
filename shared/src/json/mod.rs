//! Decodes JSON text and reports what is wrong, and where, as data.
//!
//! `serde_json` reports errors as English text. Here the visitors of `serde` construct [`Error`] instead:
//! its kind, which becomes a stable code, does not depend on any wording. Text is decoded in linear time
//! however many of its members are wrong.

#[cfg(test)]
mod tests;
mod typed;

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::{self, Display};

use serde::de::{
    self, DeserializeSeed, Deserializer, Expected, IntoDeserializer, MapAccess, Unexpected, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::value::RawValue;

use typed::Typed;

/// What is wrong with a part of a JSON text.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The object has no such member.
    UnknownField,
    /// The object lacks a member.
    MissingField,
    /// The object has a member twice.
    DuplicateField,
    /// The value has the wrong type or is out of range.
    Invalid,
}

impl ErrorKind {
    /// The stable code of this kind.
    #[must_use]
    pub const fn code(self) -> &'static str {
        match self {
            Self::UnknownField => "unknown_field",
            Self::MissingField => "missing",
            Self::DuplicateField => "duplicate",
            Self::Invalid => "invalid",
        }
    }
}

/// Why a JSON text does not decode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Error {
    /// What is wrong.
    pub kind: ErrorKind,
    /// One sentence.
    pub detail: String,
    /// From the failing value to the root: the order in which it becomes known.
    path: Vec<String>,
}

impl Error {
    fn new(kind: ErrorKind, detail: impl Into<String>) -> Self {
        Self {
            kind,
            detail: detail.into(),
            path: Vec::new(),
        }
    }

    /// The error of the parser itself.
    fn of_parser(error: impl Display) -> Self {
        Self::new(ErrorKind::Invalid, without_position(&error.to_string()))
    }

    /// The same error inside the member or item `name`.
    fn inside(mut self, name: impl Into<String>) -> Self {
        self.path.push(name.into());
        self
    }

    /// JSON pointer (RFC 6901) to the wrong value. A missing, unknown or repeated member is pointed at
    /// itself, not its object.
    #[must_use]
    pub fn pointer(&self) -> String {
        let names = self.path.iter().rev();
        names.map(|name| pointer_token(name)).collect()
    }
}

impl Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.pointer(), self.detail)
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    fn custom<T: Display>(message: T) -> Self {
        Self::new(ErrorKind::Invalid, message.to_string())
    }

    fn invalid_type(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}, got {unexpected}"))
    }

    fn invalid_value(unexpected: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::custom(format_args!("expected {expected}, got {unexpected}"))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::custom(format_args!(
            "expected {}, got `{variant}`",
            one_of(expected)
        ))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        let detail = match expected {
            [] => "unknown member".to_owned(),
            _ => format!("unknown member, expected {}", one_of(expected)),
        };
        Self::new(ErrorKind::UnknownField, detail).inside(field)
    }

    fn missing_field(field: &'static str) -> Self {
        Self::new(ErrorKind::MissingField, "is required").inside(field)
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::new(ErrorKind::DuplicateField, "duplicate value").inside(field)
    }
}

fn one_of(names: &[&str]) -> String {
    let names: Vec<String> = names.iter().map(|name| format!("`{name}`")).collect();
    match names.as_slice() {
        [only] => only.clone(),
        _ => format!("one of {}", names.join(", ")),
    }
}

/// A member's name as a part of a JSON pointer, slash included.
#[must_use]
pub fn pointer_token(name: &str) -> String {
    format!("/{}", name.replace('~', "~0").replace('/', "~1"))
}

/// The parser's message without line and column, which a JSON pointer replaces.
#[must_use]
pub fn message(error: &serde_json::Error) -> String {
    without_position(&error.to_string())
}

fn without_position(text: &str) -> String {
    let end = text.rfind(" at line ").unwrap_or(text.len());
    text.get(..end).unwrap_or(text).to_owned()
}

/// Decodes a text.
///
/// # Errors
/// The first error.
pub fn decode<'de, T: Deserialize<'de>>(text: &'de str) -> Result<T, Error> {
    let mut source = serde_json::Deserializer::from_str(text);
    let value = T::deserialize(Typed::new(&mut source))?;
    source.end().map_err(Error::of_parser)?;
    Ok(value)
}

/// Decodes an object and reports every member that is wrong, up to `max_errors`.
///
/// A wrong member is left out of the result. Members of `T` should therefore be optional, and the caller
/// reports those that are absent. `None` when no value can be made of the rest.
pub fn decode_object<'de, T: Deserialize<'de>>(
    text: &'de str,
    max_errors: usize,
) -> (Option<T>, Vec<Error>) {
    if let Ok(value) = decode(text) {
        return (Some(value), Vec::new());
    }
    let mut source = serde_json::Deserializer::from_str(text);
    let members = match source.deserialize_map(Split) {
        Ok(members) => members,
        Err(error) => return (None, vec![Error::of_parser(error)]),
    };
    let mut errors = Vec::new();
    let mut names = HashSet::new();
    let mut valid = Vec::with_capacity(members.len());
    for member in members {
        if errors.len() >= max_errors {
            return (None, errors);
        }
        if !names.insert(member.0.clone()) {
            let duplicate = Error::new(ErrorKind::DuplicateField, "duplicate value");
            errors.push(duplicate.inside(member.0));
            continue;
        }
        // Alone, so that the other members neither hide its error nor are decoded again for each one.
        match T::deserialize(Object(std::slice::from_ref(&member))) {
            Err(error) if error.path.last().is_some_and(|name| *name == member.0) => {
                errors.push(error);
            }
            _ => valid.push(member),
        }
    }
    match T::deserialize(Object(&valid)) {
        Ok(value) => (Some(value), errors),
        Err(error) => {
            errors.push(error);
            (None, errors)
        }
    }
}

/// A member of an object, its value not decoded yet.
type Member<'de> = (Cow<'de, str>, &'de RawValue);

/// Splits an object into its members.
struct Split;

impl<'de> Visitor<'de> for Split {
    type Value = Vec<Member<'de>>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Self::Value, A::Error> {
        let mut members = Vec::new();
        while let Some(name) = access.next_key_seed(Name)? {
            members.push((name, access.next_value()?));
        }
        Ok(members)
    }
}

/// Reads a name without a copy where the text holds no escapes.
struct Name;

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Cow<'de, str>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl<'de> Visitor<'de> for Name {
    type Value = Cow<'de, str>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a name")
    }

    fn visit_borrowed_str<E>(self, name: &'de str) -> Result<Self::Value, E> {
        Ok(Cow::Borrowed(name))
    }

    fn visit_str<E>(self, name: &str) -> Result<Self::Value, E> {
        Ok(Cow::Owned(name.to_owned()))
    }
}

/// An object of these members.
struct Object<'a, 'de>(&'a [Member<'de>]);

impl<'de> Deserializer<'de> for Object<'_, 'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_map(ObjectAccess {
            rest: self.0.iter(),
            value: None,
        })
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        visitor: V,
    ) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    forward_to_deserialize_any! {
        bool i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char str string bytes byte_buf
        unit unit_struct seq tuple tuple_struct map struct enum identifier ignored_any
    }
}

struct ObjectAccess<'a, 'de> {
    rest: std::slice::Iter<'a, Member<'de>>,
    value: Option<&'a Member<'de>>,
}

impl<'de> MapAccess<'de> for ObjectAccess<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        self.value = self.rest.next();
        let Some((name, _)) = self.value else {
            return Ok(None);
        };
        let name: &str = name;
        seed.deserialize(name.into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let (name, text) = self
            .value
            .take()
            .ok_or_else(|| Error::new(ErrorKind::Invalid, "value without a name"))?;
        let mut source = serde_json::Deserializer::from_str(text.get());
        seed.deserialize(Typed::new(&mut source))
            .map_err(|error| error.inside(name.as_ref()))
    }
}
