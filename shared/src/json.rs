//! Decodes JSON text and reports what is wrong, and where, as data.
//!
//! `serde_json` reports errors as English text. Here the visitors of `serde` construct [`Error`] instead:
//! its kind, which becomes a stable code, does not depend on any wording. Text is decoded in linear time
//! however many of its members are wrong.

use std::borrow::Cow;
use std::collections::HashSet;
use std::fmt::{self, Display};

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};
use serde::{Deserialize, forward_to_deserialize_any};
use serde_json::value::RawValue;

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

/// A deserializer whose errors are [`Error`], around one of another error type.
///
/// The visitors of `T` run with [`Error`]; on its way through the inner deserializer an error waits in a
/// slot, since the inner one carries only its own type.
struct Typed<'k, D> {
    source: D,
    /// Receives the text, when this reads the name of a member or variant.
    name: Option<&'k mut String>,
}

impl<D> Typed<'_, D> {
    fn new(source: D) -> Self {
        Self { source, name: None }
    }
}

/// Puts the error into the slot, and a placeholder in its place.
fn keep<T, E: de::Error>(result: Result<T, Error>, slot: &mut Option<Error>) -> Result<T, E> {
    result.map_err(|error| {
        *slot = Some(error);
        E::custom("")
    })
}

/// Takes the error out of the slot; without one, the source's own error is converted.
fn restore<T, E: de::Error>(result: Result<T, E>, slot: Option<Error>) -> Result<T, Error> {
    result.map_err(|error| slot.unwrap_or_else(|| Error::of_parser(error)))
}

macro_rules! deserialize {
    ($($method:ident($($argument:ident: $type:ty),*);)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, $($argument: $type,)* visitor: V) -> Result<V::Value, Error> {
                let mut slot = None;
                let bridge = Bridge { inner: visitor, slot: &mut slot, name: self.name };
                let result = self.source.$method($($argument,)* bridge);
                restore(result, slot)
            }
        )*
    };
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Typed<'_, D> {
    type Error = Error;

    deserialize! {
        deserialize_any();
        deserialize_bool();
        deserialize_i8();
        deserialize_i16();
        deserialize_i32();
        deserialize_i64();
        deserialize_i128();
        deserialize_u8();
        deserialize_u16();
        deserialize_u32();
        deserialize_u64();
        deserialize_u128();
        deserialize_f32();
        deserialize_f64();
        deserialize_char();
        deserialize_str();
        deserialize_string();
        deserialize_bytes();
        deserialize_byte_buf();
        deserialize_option();
        deserialize_unit();
        deserialize_unit_struct(name: &'static str);
        deserialize_newtype_struct(name: &'static str);
        deserialize_seq();
        deserialize_tuple(len: usize);
        deserialize_tuple_struct(name: &'static str, len: usize);
        deserialize_map();
        deserialize_struct(name: &'static str, fields: &'static [&'static str]);
        deserialize_enum(name: &'static str, variants: &'static [&'static str]);
        deserialize_identifier();
        deserialize_ignored_any();
    }

    fn is_human_readable(&self) -> bool {
        self.source.is_human_readable()
    }
}

/// A visitor or seed that runs with [`Error`] inside a deserializer with another error.
struct Bridge<'s, 'k, T> {
    inner: T,
    slot: &'s mut Option<Error>,
    name: Option<&'k mut String>,
}

impl<T> Bridge<'_, '_, T> {
    fn note_name(&mut self, text: &str) {
        if let Some(name) = &mut self.name {
            text.clone_into(name);
        }
    }
}

macro_rules! visit {
    ($($method:ident($type:ty);)*) => {
        $(
            fn $method<E: de::Error>(self, value: $type) -> Result<V::Value, E> {
                keep(self.inner.$method(value), self.slot)
            }
        )*
    };
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Bridge<'_, '_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.expecting(f)
    }

    visit! {
        visit_bool(bool);
        visit_i8(i8);
        visit_i16(i16);
        visit_i32(i32);
        visit_i64(i64);
        visit_i128(i128);
        visit_u8(u8);
        visit_u16(u16);
        visit_u32(u32);
        visit_u64(u64);
        visit_u128(u128);
        visit_f32(f32);
        visit_f64(f64);
        visit_char(char);
        visit_bytes(&[u8]);
        visit_borrowed_bytes(&'de [u8]);
        visit_byte_buf(Vec<u8>);
    }

    fn visit_str<E: de::Error>(mut self, text: &str) -> Result<V::Value, E> {
        self.note_name(text);
        keep(self.inner.visit_str(text), self.slot)
    }

    fn visit_borrowed_str<E: de::Error>(mut self, text: &'de str) -> Result<V::Value, E> {
        self.note_name(text);
        keep(self.inner.visit_borrowed_str(text), self.slot)
    }

    fn visit_string<E: de::Error>(mut self, text: String) -> Result<V::Value, E> {
        self.note_name(&text);
        keep(self.inner.visit_string(text), self.slot)
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        keep(self.inner.visit_none(), self.slot)
    }

    fn visit_unit<E: de::Error>(self) -> Result<V::Value, E> {
        keep(self.inner.visit_unit(), self.slot)
    }

    fn visit_some<D: Deserializer<'de>>(self, source: D) -> Result<V::Value, D::Error> {
        let Self { inner, slot, name } = self;
        keep(inner.visit_some(Typed { source, name }), slot)
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, source: D) -> Result<V::Value, D::Error> {
        let Self { inner, slot, name } = self;
        keep(inner.visit_newtype_struct(Typed { source, name }), slot)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        keep(
            self.inner.visit_seq(TypedItems { access, index: 0 }),
            self.slot,
        )
    }

    fn visit_map<A: MapAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        let members = TypedMembers {
            access,
            name: String::new(),
        };
        keep(self.inner.visit_map(members), self.slot)
    }

    fn visit_enum<A: EnumAccess<'de>>(self, access: A) -> Result<V::Value, A::Error> {
        keep(self.inner.visit_enum(TypedEnum(access)), self.slot)
    }
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for Bridge<'_, '_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, source: D) -> Result<S::Value, D::Error> {
        let Self { inner, slot, name } = self;
        keep(inner.deserialize(Typed { source, name }), slot)
    }
}

struct TypedItems<A> {
    access: A,
    index: usize,
}

impl<'de, A: SeqAccess<'de>> SeqAccess<'de> for TypedItems<A> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(
        &mut self,
        seed: S,
    ) -> Result<Option<S::Value>, Error> {
        let mut slot = None;
        let bridge = Bridge {
            inner: seed,
            slot: &mut slot,
            name: None,
        };
        let result = self.access.next_element_seed(bridge);
        let index = self.index;
        self.index += 1;
        restore(result, slot).map_err(|error| error.inside(index.to_string()))
    }

    fn size_hint(&self) -> Option<usize> {
        self.access.size_hint()
    }
}

struct TypedMembers<A> {
    access: A,
    /// The name of the member whose value is next.
    name: String,
}

impl<'de, A: MapAccess<'de>> MapAccess<'de> for TypedMembers<A> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(
        &mut self,
        seed: K,
    ) -> Result<Option<K::Value>, Error> {
        let mut slot = None;
        let bridge = Bridge {
            inner: seed,
            slot: &mut slot,
            name: Some(&mut self.name),
        };
        let result = self.access.next_key_seed(bridge);
        restore(result, slot)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let mut slot = None;
        let bridge = Bridge {
            inner: seed,
            slot: &mut slot,
            name: None,
        };
        let result = self.access.next_value_seed(bridge);
        restore(result, slot).map_err(|error| error.inside(self.name.as_str()))
    }

    fn size_hint(&self) -> Option<usize> {
        self.access.size_hint()
    }
}

struct TypedEnum<A>(A);

impl<'de, A: EnumAccess<'de>> EnumAccess<'de> for TypedEnum<A> {
    type Error = Error;
    type Variant = TypedVariant<A::Variant>;

    fn variant_seed<S: DeserializeSeed<'de>>(
        self,
        seed: S,
    ) -> Result<(S::Value, Self::Variant), Error> {
        let mut slot = None;
        let mut name = String::new();
        let bridge = Bridge {
            inner: seed,
            slot: &mut slot,
            name: Some(&mut name),
        };
        let result = self.0.variant_seed(bridge);
        let (value, access) = restore(result, slot)?;
        Ok((value, TypedVariant { access, name }))
    }
}

struct TypedVariant<A> {
    access: A,
    /// The variant's name, which is the member that holds its value.
    name: String,
}

impl<'de, A: VariantAccess<'de>> VariantAccess<'de> for TypedVariant<A> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        self.access.unit_variant().map_err(Error::of_parser)
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value, Error> {
        let mut slot = None;
        let bridge = Bridge {
            inner: seed,
            slot: &mut slot,
            name: None,
        };
        let result = self.access.newtype_variant_seed(bridge);
        restore(result, slot).map_err(|error| error.inside(self.name))
    }

    fn tuple_variant<V: Visitor<'de>>(self, len: usize, visitor: V) -> Result<V::Value, Error> {
        let mut slot = None;
        let bridge = Bridge {
            inner: visitor,
            slot: &mut slot,
            name: None,
        };
        let result = self.access.tuple_variant(len, bridge);
        restore(result, slot).map_err(|error| error.inside(self.name))
    }

    fn struct_variant<V: Visitor<'de>>(
        self,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let mut slot = None;
        let bridge = Bridge {
            inner: visitor,
            slot: &mut slot,
            name: None,
        };
        let result = self.access.struct_variant(fields, bridge);
        restore(result, slot).map_err(|error| error.inside(self.name))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::fmt::Write as _;

    use super::*;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: Option<String>,
        count: Option<i64>,
        nested: Option<Nested>,
        list: Option<Vec<bool>>,
        map: Option<BTreeMap<String, Shape>>,
    }

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Nested {
        needed: bool,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(rename_all = "snake_case")]
    enum Shape {
        Point,
        Circle(u32),
        Square { side: u32 },
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Raw<'a> {
        #[serde(borrow)]
        text: &'a RawValue,
        owned: Option<Box<RawValue>>,
    }

    fn found(text: &str) -> Vec<(String, &'static str)> {
        let (_, errors) = decode_object::<Sample>(text, 100);
        errors
            .iter()
            .map(|error| (error.pointer(), error.kind.code()))
            .collect()
    }

    #[test]
    fn each_kind_of_error_points_at_its_value() {
        for (text, pointer, code) in [
            (r#"{"a/b~`c":1}"#, "/a~1b~0`c", "unknown_field"),
            (r#"{"nested":{}}"#, "/nested/needed", "missing"),
            (
                r#"{"nested":{"neded":true}}"#,
                "/nested/neded",
                "unknown_field",
            ),
            (
                r#"{"nested":{"needed":true,"needed":true}}"#,
                "/nested/needed",
                "duplicate",
            ),
            (r#"{"name":"x","name":"y"}"#, "/name", "duplicate"),
            (r#"{"count":"3"}"#, "/count", "invalid"),
            (r#"{"count":99999999999999999999}"#, "/count", "invalid"),
            (r#"{"list":[true,0]}"#, "/list/1", "invalid"),
            (r#"{"map":{"a":"oval"}}"#, "/map/a", "invalid"),
            (
                r#"{"map":{"a":{"circle":"x"}}}"#,
                "/map/a/circle",
                "invalid",
            ),
            (
                r#"{"map":{"a":{"square":{}}}}"#,
                "/map/a/square/side",
                "missing",
            ),
            (r#"{"name":"\ud800"}"#, "/name", "invalid"),
        ] {
            assert_eq!(found(text), [(pointer.to_owned(), code)], "{text}");
        }
    }

    #[test]
    fn wrong_members_are_all_reported_and_the_rest_is_decoded() {
        let text = r#"{"nmae":1,"name":"x","count":"3","list":[0],"map":{"a":"point"}}"#;
        let (sample, errors) = decode_object::<Sample>(text, 100);
        let pointers: Vec<String> = errors.iter().map(Error::pointer).collect();
        assert_eq!(pointers, ["/nmae", "/count", "/list/0"]);
        let expected = Sample {
            name: Some("x".to_owned()),
            map: Some(BTreeMap::from([("a".to_owned(), Shape::Point)])),
            ..Sample::default()
        };
        assert_eq!(sample, Some(expected));
    }

    #[test]
    fn raw_values_keep_their_text() {
        let raw: Raw<'_> = decode(r#"{"text": [1.0, 1e2], "owned": {"a": 1}}"#).unwrap();
        assert_eq!(raw.text.get(), "[1.0, 1e2]");
        assert_eq!(raw.owned.unwrap().get(), r#"{"a": 1}"#);
        let error = decode::<Raw<'_>>(r#"{"text": 1, "txt": 2}"#).unwrap_err();
        assert_eq!(error.pointer(), "/txt");
    }

    #[test]
    fn details_name_the_expected_value() {
        let detail = |text: &str| decode::<Sample>(text).unwrap_err().detail;
        assert!(detail(r#"{"nmae":1}"#).starts_with("unknown member, expected one of `name`"));
        assert_eq!(detail(r#"{"nested":{}}"#), "is required");
        assert!(detail(r#"{"map":{"a":"oval"}}"#).ends_with("got `oval`"));
    }

    #[test]
    fn a_megabyte_of_wrong_members_is_decoded_in_linear_time() {
        let mut text = String::from("{");
        while text.len() < 1 << 20 {
            let number = text.len();
            write!(text, "\"{number}\":0,").unwrap();
        }
        text.push_str("\"name\":1}");
        let started = std::time::Instant::now();
        assert_eq!(found(&text).len(), 100);
        // Quadratic time would be minutes.
        assert!(started.elapsed().as_secs() < 5);
    }
}
