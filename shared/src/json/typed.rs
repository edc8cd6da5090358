//! Runs the visitors of a type with [`Error`] inside a deserializer that has another error type.

use std::fmt;

use serde::de::{
    self, DeserializeSeed, Deserializer, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::Error;

/// A deserializer whose errors are [`Error`], around one of another error type.
///
/// The visitors of `T` run with [`Error`]; on its way through the inner deserializer an error waits in a
/// slot, since the inner one carries only its own type.
pub(super) struct Typed<'k, D> {
    source: D,
    /// Receives the text, when this reads the name of a member or variant.
    name: Option<&'k mut String>,
}

impl<D> Typed<'_, D> {
    pub(super) fn new(source: D) -> Self {
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
