//! Query strings and path parameters, read into types.
//!
//! An unknown or repeated parameter is an error, never ignored. A path parameter that cannot be an id names
//! nothing: 404.

use std::fmt::Display;
use std::ops::{Deref, RangeInclusive};
use std::str::FromStr;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use harkara_kind::field_error::FieldError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Map, Value};
use url::form_urlencoded;
use utoipa::PartialSchema;

use crate::field_errors::FieldErrors;
use crate::json;
use crate::problem::Problem;
use crate::schema;

/// The extractor of a query string, read as an object of strings: `T` should refuse unknown members. A
/// problem of status 400 lists every error.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut errors = FieldErrors::default();
        let members = members(parts.uri.query().unwrap_or_default(), &mut errors);
        let query = decode(members, &mut errors);
        errors.into_query_result()?;
        // Without an error there is a value.
        query
            .map(Self)
            .ok_or_else(|| Problem::internal("a query string without value or error"))
    }
}

/// The parameters of a query string.
pub(crate) fn members(query: &str, errors: &mut FieldErrors) -> Map<String, Value> {
    let mut members = Map::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if members.contains_key(name.as_ref()) {
            errors.push(FieldError::new(
                json::pointer_token(&name),
                "duplicate",
                "duplicate parameter",
            ));
        }
        members.insert(name.into_owned(), Value::String(value.into_owned()));
    }
    members
}

/// Reads parameters as [`json::decode`] reads the members of a body.
pub(crate) fn decode<T: DeserializeOwned>(
    members: Map<String, Value>,
    errors: &mut FieldErrors,
) -> Option<T> {
    // A map of strings always serializes.
    let text = serde_json::to_string(&members).unwrap_or_default();
    json::check_storable(&text, "", errors);
    json::decode(&text, "", errors)
}

/// Reads the whole number that a parameter's text holds.
pub(crate) fn whole_number<'de, T, D>(
    deserializer: D,
    range: RangeInclusive<T>,
) -> Result<T, D::Error>
where
    T: FromStr + PartialOrd + Display,
    D: Deserializer<'de>,
{
    let text = String::deserialize(deserializer)?;
    text.parse()
        .ok()
        .filter(|number| range.contains(number))
        .ok_or_else(|| {
            let (least, most) = (range.start(), range.end());
            D::Error::custom(format!(
                "must be a whole number between {least} and {most}, got {text:?}"
            ))
        })
}

/// An HTTP status to search for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Status(pub(crate) u16);

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        whole_number(deserializer, 100..=599).map(Self)
    }
}

/// `true` or `false`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Flag(pub(crate) bool);

impl<'de> Deserialize<'de> for Flag {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .map(Self)
            .map_err(|_| D::Error::custom("must be `true` or `false`"))
    }
}

/// A path parameter, as the OpenAPI document describes it. Its name is the one in the path's template.
pub(crate) trait PathParameter: FromStr {
    /// Its schema.
    type Schema: PartialSchema;

    /// What it names.
    const DESCRIPTION: &'static str;

    /// An example.
    const EXAMPLE: &'static str;
}

macro_rules! path_ids {
    ($($id:ident: $description:literal, $example:literal;)*) => {
        $(
            impl PathParameter for harkara_shared::id::$id {
                type Schema = Self;

                const DESCRIPTION: &'static str = $description;
                const EXAMPLE: &'static str = $example;
            }
        )*
    };
}

path_ids! {
    ApiKeyId: "The key's id", "key_01h455vb4pex5vsknk084sn02q";
    DeliveryId: "The delivery's id", "dlv_01h455vb4pex5vsknk084sn02q";
    EndpointId: "The endpoint's id", "ep_01h455vb4pex5vsknk084sn02q";
    GrantId: "The grant's id", "grt_01h455vb4pex5vsknk084sn02q";
    JobId: "The job's id", "job_0000000000500";
    OverrideId: "The permission's id", "prm_01h455vb4pex5vsknk084sn02q";
    UserId: "The user's id", "usr_01h455vb4pex5vsknk084sn02q";
}

macro_rules! path_texts {
    ($($(#[$doc:meta])* $name:ident($schema:ty): $description:literal, $example:literal;)*) => {
        $(
            $(#[$doc])*
            #[derive(Debug, Clone, PartialEq, Eq)]
            pub(crate) struct $name(pub(crate) String);

            impl FromStr for $name {
                type Err = std::convert::Infallible;

                fn from_str(text: &str) -> Result<Self, Self::Err> {
                    Ok(Self(text.to_owned()))
                }
            }

            impl Display for $name {
                fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str(&self.0)
                }
            }

            impl Deref for $name {
                type Target = str;

                fn deref(&self) -> &str {
                    &self.0
                }
            }

            impl PathParameter for $name {
                type Schema = $schema;

                const DESCRIPTION: &'static str = $description;
                const EXAMPLE: &'static str = $example;
            }
        )*
    };
}

path_texts! {
    /// A tenant, by its id or its slug.
    TenantRef(schema::TenantRef): "The tenant's id or slug", "ten_01h455vb4pex5vsknk084sn02q";
    /// A business, by the slug or the id of its tenant.
    BusinessRef(String): "The business: its tenant's slug or id", "acme-trading";
    /// A queue, by its name.
    QueueName(String): "The queue's name", "http";
    /// A lane, by its key.
    LaneKey(String): "The lane's key", "customer-42";
    /// An event type, by its name.
    EventTypeName(String): "The type's name", "user.created";
}

/// The extractor of a path's only parameter.
#[derive(Debug)]
pub(crate) struct PathId<T>(pub(crate) T);

impl<T: FromStr, S: Send + Sync> FromRequestParts<S> for PathId<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Path::<String>::from_request_parts(parts, state)
            .await
            .ok()
            .and_then(|Path(text)| text.parse().ok())
            .map(Self)
            .ok_or_else(|| Problem::not_found("resource"))
    }
}

/// The extractor of a path's two parameters: a resource and one beneath it.
#[derive(Debug)]
pub(crate) struct PathPair<A, B>(pub(crate) A, pub(crate) B);

impl<A: FromStr, B: FromStr, S: Send + Sync> FromRequestParts<S> for PathPair<A, B> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .ok()
            .and_then(|Path((one, two))| Some(Self(one.parse().ok()?, two.parse().ok()?)))
            .ok_or_else(|| Problem::not_found("resource"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::Request;

    #[derive(Debug, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Sample {
        name: Option<String>,
        status: Option<Status>,
    }

    async fn read(query: &str) -> Result<Sample, Problem> {
        let request = Request::get(format!("/items?{query}")).body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        Query::from_request_parts(&mut parts, &())
            .await
            .map(|Query(sample)| sample)
    }

    #[tokio::test]
    async fn known_parameters_are_decoded() {
        for (query, name, status) in [
            ("", None, None),
            ("status=599", None, Some(599)),
            ("name=a%20b%2Bc&status=100", Some("a b+c"), Some(100)),
        ] {
            let sample = read(query).await.ok();
            let expected = Sample {
                name: name.map(str::to_owned),
                status: status.map(Status),
            };
            assert_eq!(sample, Some(expected), "{query}");
        }
    }

    #[tokio::test]
    async fn unknown_and_invalid_parameters_are_refused() {
        for query in [
            "nmae=x",
            "status=0",
            "status=600",
            "status=-1",
            "status=ten",
            "status=",
            "name=x&name=y",
            "name=%00",
        ] {
            let status = read(query)
                .await
                .map_err(|problem| problem.status().as_u16());
            assert_eq!(status.err(), Some(400), "{query}");
        }
    }
}
