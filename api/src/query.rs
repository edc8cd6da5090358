//! Room: query strings and ids in paths.
//! Takes: a request's address. Gives: typed parameters, an id.
//! Never: ignores a parameter it does not know.

use std::str::FromStr;

use axum::extract::{FromRequestParts, Path};
use axum::http::request::Parts;
use harkara_kind::FieldError;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Map, Value};
use url::form_urlencoded;

use crate::faults::Faults;
use crate::json;
use crate::problem::Problem;

/// Most items of a page.
const MOST: u32 = 200;

/// The extractor for query strings: parameters are read as members of an object of strings, so that
/// `T` should refuse unknown members. A problem of status 400 names all that is wrong.
#[derive(Debug)]
pub(crate) struct Query<T>(pub(crate) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Query<T> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let mut faults = Faults::default();
        let members = members(parts.uri.query().unwrap_or_default(), &mut faults);
        // A map of strings can always be written.
        let text = serde_json::to_string(&members).unwrap_or_default();
        json::check_storable(&text, "", &mut faults);
        let query = json::decode(&text, "", &mut faults);
        faults.none_in_query()?;
        // Without a fault there is a value.
        query
            .map(Self)
            .ok_or_else(|| Problem::internal("a query string without value or fault"))
    }
}

fn members(query: &str, faults: &mut Faults) -> Map<String, Value> {
    let mut members = Map::new();
    for (name, value) in form_urlencoded::parse(query.as_bytes()) {
        if members.contains_key(name.as_ref()) {
            let pointer = format!("/{}", name.replace('~', "~0").replace('/', "~1"));
            faults.push(FieldError::new(pointer, "duplicate", "is given twice"));
        }
        members.insert(name.into_owned(), Value::String(value.into_owned()));
    }
    members
}

/// Has a parameter that tells of a page left out of the filters of its list, but not, as
/// `skip_serializing` would, out of the document.
pub(crate) fn is_of_page<T>(_: &T) -> bool {
    true
}

/// How many items a page has: 1 to 200, by default 50.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(crate) struct Limit(u32);

impl Limit {
    pub(crate) fn get(self) -> u32 {
        self.0
    }
}

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl<'de> Deserialize<'de> for Limit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .ok()
            .filter(|limit| (1..=MOST).contains(limit))
            .map(Self)
            .ok_or_else(|| D::Error::custom(format!("must be a whole number from 1 to {MOST}")))
    }
}

/// An HTTP status to look for.
#[derive(Debug, Clone, Copy, Serialize)]
#[serde(transparent)]
pub(crate) struct Status(pub(crate) u16);

impl<'de> Deserialize<'de> for Status {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .ok()
            .filter(|status| (100..=599).contains(status))
            .map(Self)
            .ok_or_else(|| D::Error::custom("must be a whole number from 100 to 599"))
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
            .map_err(|_| D::Error::custom("must be true or false"))
    }
}

/// The extractor for a name in a path and a key beneath it.
#[derive(Debug)]
pub(crate) struct PathKey(pub(crate) String, pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for PathKey {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .map(|Path((name, key))| Self(name, key))
            .map_err(|_| Problem::not_found("thing"))
    }
}

/// The extractor for the id in a path. A text that is no such id is a thing that is not there.
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
            .ok_or_else(|| Problem::not_found("id"))
    }
}

/// The extractor for the ids of a thing and of one beneath it, as [`PathId`] reads them.
#[derive(Debug)]
pub(crate) struct PathPair<A, B>(pub(crate) A, pub(crate) B);

impl<A: FromStr, B: FromStr, S: Send + Sync> FromRequestParts<S> for PathPair<A, B> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        Path::<(String, String)>::from_request_parts(parts, state)
            .await
            .ok()
            .and_then(|Path((one, two))| Some(Self(one.parse().ok()?, two.parse().ok()?)))
            .ok_or_else(|| Problem::not_found("id"))
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
        #[serde(default)]
        limit: Limit,
    }

    async fn read(query: &str) -> Result<Sample, Problem> {
        let request = Request::get(format!("/things?{query}")).body(()).unwrap();
        let (mut parts, ()) = request.into_parts();
        Query::from_request_parts(&mut parts, &())
            .await
            .map(|Query(sample)| sample)
    }

    #[tokio::test]
    async fn known_parameters_are_read() {
        for (query, name, limit) in [
            ("", None, 50),
            ("limit=200", None, 200),
            ("name=a%20b%2Bc&limit=1", Some("a b+c"), 1),
        ] {
            let sample = read(query).await.ok();
            let expected = Sample {
                name: name.map(str::to_owned),
                limit: Limit(limit),
            };
            assert_eq!(sample, Some(expected), "{query}");
        }
    }

    #[tokio::test]
    async fn other_parameters_are_refused() {
        for query in [
            "nmae=x",
            "limit=0",
            "limit=201",
            "limit=-1",
            "limit=ten",
            "limit=",
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
