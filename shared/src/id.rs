//! Identifiers: one type per kind of resource, so that a tenant's id cannot be used as an endpoint's.
//!
//! The text form is a `TypeID` (<https://github.com/jetify-com/typeid>), or for jobs `job_` and 13
//! characters. Parsing does not check whether the resource exists.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use uuid::Uuid;

/// Crockford's base32 alphabet in lower case, in order of value.
const DIGITS: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";

/// Digits of a UUID: 26 × 5 = 130 bits, the top two always zero.
const UUID_DIGITS: u32 = 26;

/// Digits of a job's number: 13 × 5 = 65 bits, the top one always zero.
const JOB_DIGITS: u32 = 13;

/// The text is not an id of the expected kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("invalid id: expected `{expected}_` followed by {digits} base32 characters")]
pub struct InvalidId {
    /// The expected prefix, without its underscore.
    pub expected: &'static str,
    /// The expected number of base32 characters after the underscore.
    pub digits: u32,
}

/// Declares an id type over a `UUIDv7`, displayed as a `TypeID` with the given prefix.
///
/// The calling crate must depend on `serde`, `sqlx` and `uuid`. The type is `Copy`, ordered by time of
/// creation, stored as `uuid` and text everywhere else: `Display`, `Debug`, `FromStr` and serde agree.
#[macro_export]
macro_rules! typed_id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, ::sqlx::Type)]
        #[sqlx(transparent)]
        pub struct $name(::uuid::Uuid);

        impl $name {
            /// The part before the underscore.
            pub const PREFIX: &'static str = $prefix;

            /// Generates a `UUIDv7`, so that later ids sort after earlier ones.
            #[must_use]
            #[expect(clippy::new_without_default, reason = "every id is unique; none is a default")]
            pub fn new() -> Self {
                Self(::uuid::Uuid::now_v7())
            }

            /// The stored form of the id.
            #[must_use]
            pub const fn as_uuid(&self) -> ::uuid::Uuid {
                self.0
            }

            /// The id with this stored form.
            #[must_use]
            pub const fn from_uuid(uuid: ::uuid::Uuid) -> Self {
                Self(uuid)
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                $crate::id::write_type_id(f, Self::PREFIX, self.0)
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::id::InvalidId;

            fn from_str(text: &str) -> ::std::result::Result<Self, Self::Err> {
                $crate::id::read_type_id(text, Self::PREFIX).map(Self)
            }
        }

        $crate::id_as_text!($name);
        $crate::text_schema!($name, $crate::schema::type_id(Self::PREFIX));
    };
}

/// Implements `ToSchema` for a type by a function that returns its schema.
#[doc(hidden)]
#[macro_export]
macro_rules! text_schema {
    ($name:ident, $schema:expr) => {
        #[cfg(feature = "openapi")]
        impl ::utoipa::PartialSchema for $name {
            fn schema() -> ::utoipa::openapi::RefOr<::utoipa::openapi::schema::Schema> {
                $schema
            }
        }

        #[cfg(feature = "openapi")]
        impl ::utoipa::ToSchema for $name {
            fn name() -> ::std::borrow::Cow<'static, str> {
                ::std::borrow::Cow::Borrowed(stringify!($name))
            }
        }
    };
}

/// For [`typed_id!`] only: `Debug` and serde through `Display` and `FromStr`.
#[doc(hidden)]
#[macro_export]
macro_rules! id_as_text {
    ($name:ident) => {
        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                ::std::fmt::Display::fmt(self, f)
            }
        }

        impl ::serde::Serialize for $name {
            fn serialize<S: ::serde::Serializer>(
                &self,
                serializer: S,
            ) -> ::std::result::Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> ::serde::Deserialize<'de> for $name {
            fn deserialize<D: ::serde::Deserializer<'de>>(
                deserializer: D,
            ) -> ::std::result::Result<Self, D::Error> {
                <::std::string::String as ::serde::Deserialize>::deserialize(deserializer)?
                    .parse()
                    .map_err(::serde::de::Error::custom)
            }
        }
    };
}

typed_id!(
    /// A tenant, which owns jobs, keys and resources.
    TenantId, "ten"
);
typed_id!(
    /// An API key; not its secret text.
    ApiKeyId, "key"
);
typed_id!(
    /// A user who signs in.
    UserId, "usr"
);
typed_id!(
    /// A session of a signed-in user.
    SessionId, "ses"
);
typed_id!(
    /// A role granted to a user.
    GrantId, "grt"
);
typed_id!(
    /// A permission allowed or denied to a user.
    OverrideId, "prm"
);
typed_id!(
    /// An event that a tenant published; also the `webhook-id` of its deliveries.
    EventId, "evt"
);
typed_id!(
    /// A webhook endpoint.
    EndpointId, "ep"
);
typed_id!(
    /// The delivery of one event to one endpoint.
    DeliveryId, "dlv"
);
typed_id!(
    /// A link to a tenant's portal.
    PortalLinkId, "lnk"
);
typed_id!(
    /// A schedule.
    ScheduleId, "sch"
);
typed_id!(
    /// One run of a worker process; a restart gets a new id.
    WorkerId, "wrk"
);

/// A job: 64 bits assigned by the queue, displayed as `job_` and 13 Crockford base32 characters.
///
/// Text and number sort alike. Assigned numbers are not negative; a negative one still survives
/// formatting and parsing.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, sqlx::Type)]
#[sqlx(transparent)]
pub struct JobId(i64);

impl JobId {
    /// The part before the underscore.
    pub const PREFIX: &'static str = "job";

    /// The stored form of the id.
    #[must_use]
    pub const fn as_i64(&self) -> i64 {
        self.0
    }

    /// The id with this stored form.
    #[must_use]
    pub const fn from_i64(number: i64) -> Self {
        Self(number)
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_id(
            f,
            Self::PREFIX,
            u128::from(self.0.cast_unsigned()),
            JOB_DIGITS,
        )
    }
}

impl FromStr for JobId {
    type Err = InvalidId;

    /// Accepts both cases and Crockford's look-alikes (`i` and `l` for 1, `o` for 0), because people
    /// read job ids to each other.
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let parse = || {
            let text = text.to_ascii_lowercase();
            let digits = text.strip_prefix(Self::PREFIX)?.strip_prefix('_')?;
            let canonical = digits.replace(['i', 'l'], "1").replace('o', "0");
            u64::try_from(read_digits(&canonical, JOB_DIGITS)?).ok()
        };
        let invalid = InvalidId {
            expected: Self::PREFIX,
            digits: JOB_DIGITS,
        };
        parse()
            .map(|number| Self(number.cast_signed()))
            .ok_or(invalid)
    }
}

id_as_text!(JobId);
text_schema!(JobId, crate::schema::job_id());

/// Writes `prefix_` and the UUID's 26 digits (`TypeID` specification 0.3).
///
/// For [`typed_id!`] only.
///
/// # Errors
/// The error of the formatter.
#[doc(hidden)]
pub fn write_type_id(f: &mut fmt::Formatter<'_>, prefix: &str, uuid: Uuid) -> fmt::Result {
    write_id(f, prefix, uuid.as_u128(), UUID_DIGITS)
}

/// Parses the text that [`write_type_id`] writes; lower case only, as the specification requires.
///
/// For [`typed_id!`] only.
///
/// # Errors
/// [`InvalidId`] for a wrong prefix, a wrong length, an invalid character or more than 128 bits.
#[doc(hidden)]
pub fn read_type_id(text: &str, prefix: &'static str) -> Result<Uuid, InvalidId> {
    text.strip_prefix(prefix)
        .and_then(|rest| rest.strip_prefix('_'))
        .and_then(|digits| read_digits(digits, UUID_DIGITS))
        .map(Uuid::from_u128)
        .ok_or(InvalidId {
            expected: prefix,
            digits: UUID_DIGITS,
        })
}

/// Writes the prefix, the underscore and the lowest `digits` × 5 bits of the value.
fn write_id(f: &mut fmt::Formatter<'_>, prefix: &str, value: u128, digits: u32) -> fmt::Result {
    f.write_str(prefix)?;
    f.write_char('_')?;
    (0..digits).rev().try_for_each(|place| {
        let [.., low] = (value >> (5 * place)).to_be_bytes();
        let digit = DIGITS.get(usize::from(low & 31)).ok_or(fmt::Error)?;
        f.write_char(char::from(*digit))
    })
}

/// Parses exactly `digits` canonical digits; `None` when the value does not fit 128 bits.
fn read_digits(text: &str, digits: u32) -> Option<u128> {
    if u32::try_from(text.len()).ok()? != digits {
        return None;
    }
    text.bytes().try_fold(0_u128, |value, byte| {
        let digit = DIGITS.iter().position(|known| *known == byte)?;
        // Not a shift: 26 digits can exceed 128 bits, and a shift would drop the excess.
        value
            .checked_mul(32)?
            .checked_add(u128::try_from(digit).ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use sqlx::Postgres;
    use sqlx::postgres::PgHasArrayType;

    #[test]
    fn type_id_matches_the_specification() {
        let uuid: Uuid = "01890a5d-ac96-774b-bcce-b302099a8057".parse().unwrap();
        let id = TenantId::from_uuid(uuid);
        assert_eq!(id.to_string(), "ten_01h455vb4pex5vsknk084sn02q");
        assert_eq!(format!("{id:?}"), id.to_string());
        assert_eq!("ten_01h455vb4pex5vsknk084sn02q".parse(), Ok(id));
        assert_eq!(
            EndpointId::from_uuid(Uuid::nil()).to_string(),
            "ep_00000000000000000000000000"
        );
        let largest = "key_7zzzzzzzzzzzzzzzzzzzzzzzzz";
        assert_eq!(ApiKeyId::from_uuid(Uuid::max()).to_string(), largest);
        assert_eq!(largest.parse(), Ok(ApiKeyId::from_uuid(Uuid::max())));
    }

    #[test]
    fn malformed_type_id_is_rejected_with_the_expected_format() {
        for text in [
            "",
            "ten_",
            "01h455vb4pex5vsknk084sn02q",
            "key_01h455vb4pex5vsknk084sn02q",
            "ten_01H455VB4PEX5VSKNK084SN02Q",
            "ten_01h455vb4pex5vsknk084sn02",
            "ten_01h455vb4pex5vsknk084sn02qq",
            "ten_01h455vb4pex5vsknk084sn02u",
            "ten_8zzzzzzzzzzzzzzzzzzzzzzzzz",
            "ten_zzzzzzzzzzzzzzzzzzzzzzzzzz",
            "ten_01h455vb4pex5vsknk084sn0é",
        ] {
            let error = text.parse::<TenantId>().unwrap_err();
            assert_eq!((error.expected, error.digits), ("ten", 26), "{text}");
            assert!(
                error.to_string().contains("`ten_` followed by 26"),
                "{error}"
            );
        }
    }

    #[test]
    fn new_ids_are_distinct_and_sort_by_creation() {
        let ids: Vec<EventId> = (0..1_000).map(|_| EventId::new()).collect();
        assert!(ids.is_sorted());
        assert!(ids.windows(2).all(|pair| pair.first() != pair.last()));
        assert!(ids.iter().map(EventId::to_string).is_sorted());
    }

    #[test]
    fn job_id_has_thirteen_characters_and_accepts_lookalikes() {
        assert_eq!(JobId::from_i64(0).to_string(), "job_0000000000000");
        assert_eq!(JobId::from_i64(i64::MAX).to_string(), "job_7zzzzzzzzzzzz");
        assert_eq!(JobId::from_i64(-1).to_string(), "job_fzzzzzzzzzzzz");
        let id = JobId::from_i64(1 << 10 | 1 << 5);
        assert_eq!(id.to_string(), "job_0000000000110");
        for text in [
            "job_oooooooooolio",
            "JOB_OOOOOOOOOOILO",
            "Job_0000000000iL0",
        ] {
            assert_eq!(text.parse(), Ok(id), "{text}");
        }
    }

    #[test]
    fn malformed_job_id_is_rejected() {
        for text in [
            "",
            "job_",
            "job0000000000110",
            "ten_0000000000110",
            "job_000000000011",
            "job_00000000000110",
            "job_000000000011u",
            "job_g000000000000",
            "job_-000000000001",
        ] {
            let error = text.parse::<JobId>().unwrap_err();
            assert_eq!((error.expected, error.digits), ("job", 13), "{text}");
        }
    }

    #[test]
    fn ids_have_postgres_types_for_values_and_arrays() {
        fn stored<T>() -> (String, String)
        where
            T: sqlx::Type<Postgres> + PgHasArrayType,
            T: for<'r> sqlx::Decode<'r, Postgres> + for<'q> sqlx::Encode<'q, Postgres>,
        {
            (T::type_info().to_string(), T::array_type_info().to_string())
        }
        assert_eq!(stored::<TenantId>(), ("UUID".into(), "UUID[]".into()));
        assert_eq!(stored::<JobId>(), ("INT8".into(), "INT8[]".into()));
    }

    proptest! {
        #[test]
        fn id_survives_text_and_json(uuid: u128, number: i64) {
            let delivery = DeliveryId::from_uuid(Uuid::from_u128(uuid));
            prop_assert_eq!(delivery.to_string().parse(), Ok(delivery));
            let json = serde_json::to_string(&delivery).unwrap();
            prop_assert_eq!(serde_json::from_str::<DeliveryId>(&json).unwrap(), delivery);

            let job = JobId::from_i64(number);
            prop_assert_eq!(job.to_string().parse(), Ok(job));
            prop_assert_eq!(job.to_string().to_uppercase().parse(), Ok(job));
            let json = serde_json::to_string(&job).unwrap();
            prop_assert_eq!(serde_json::from_str::<JobId>(&json).unwrap(), job);
        }

        #[test]
        fn job_id_text_sorts_like_the_number(a in 0..i64::MAX, b in 0..i64::MAX) {
            let (a, b) = (JobId::from_i64(a), JobId::from_i64(b));
            prop_assert_eq!(a.to_string().cmp(&b.to_string()), a.cmp(&b));
        }

        #[test]
        fn parsers_accept_any_text_without_panicking(text in "\\PC{0,40}") {
            let _ = text.parse::<JobId>();
            let _ = format!("job_{text}").parse::<JobId>();
            let _ = format!("wrk_{text}").parse::<WorkerId>();
        }
    }
}
