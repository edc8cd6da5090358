//! Describes an operation by the types in its handler's signature.
//!
//! A path parameter, a query string, and what a route requires of its caller are types of the handler
//! already; [`described`] adds them to the OpenAPI document, so that no attribute repeats them.

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use utoipa::openapi::path::{Operation, ParameterBuilder, ParameterIn};
use utoipa::openapi::security::SecurityRequirement;
use utoipa::openapi::{HttpMethod, PathItem, Required};
use utoipa::{IntoParams, PartialSchema};
use utoipa_axum::router::UtoipaMethodRouter;

use super::{API_KEY, CSRF_TOKEN, SESSION};
use crate::ApiState;
use crate::auth::{AnonymousActor, Authorized, Caller, Requirement, SignedInUser};
use crate::body::JsonBody;
use crate::cursor::CursorKey;
use crate::paging::{Paged, Paging};
use crate::query::{PathId, PathPair, PathParameter, Query};
use crate::request_context::TraceContext;

/// Where an operation is served.
pub(crate) struct Location<'a> {
    method: &'a HttpMethod,
    /// Names in the path's template, in their order.
    names: Vec<&'a str>,
}

/// An extractor that the OpenAPI document describes.
pub(crate) trait DescribeExtractor {
    /// Adds to the operation what the extractor reads or requires. Most add nothing.
    fn describe(_operation: &mut Operation, _place: &Location<'_>) {}
}

impl DescribeExtractor for State<ApiState> {}
impl DescribeExtractor for Caller {}
impl DescribeExtractor for AnonymousActor {}
impl DescribeExtractor for TraceContext {}
impl DescribeExtractor for HeaderMap {}
impl DescribeExtractor for JsonBody {}
impl DescribeExtractor for Request {}

impl<R: Requirement> DescribeExtractor for Authorized<R> {
    fn describe(operation: &mut Operation, location: &Location<'_>) {
        add_description(operation, &R::RULE.describe());
        operation.security = Some(
            R::RULE
                .any_of
                .iter()
                .flat_map(|scope| {
                    [
                        SecurityRequirement::new(API_KEY, [scope.as_str()]),
                        by_session(location.method, &[scope.as_str()]),
                    ]
                })
                .collect(),
        );
    }
}

impl DescribeExtractor for SignedInUser {
    fn describe(operation: &mut Operation, location: &Location<'_>) {
        add_description(operation, "For signed-in users only; API keys are refused.");
        operation.security = Some(vec![by_session(location.method, &[])]);
    }
}

impl<T: IntoParams> DescribeExtractor for Query<T> {
    fn describe(operation: &mut Operation, _: &Location<'_>) {
        add_query::<T>(operation);
    }
}

impl<K: CursorKey> DescribeExtractor for Paging<K> {
    fn describe(operation: &mut Operation, _: &Location<'_>) {
        add_query::<Self>(operation);
    }
}

impl<F: IntoParams, K: CursorKey> DescribeExtractor for Paged<F, K> {
    fn describe(operation: &mut Operation, _: &Location<'_>) {
        add_query::<F>(operation);
        add_query::<Paging<K>>(operation);
    }
}

impl<T: PathParameter> DescribeExtractor for PathId<T> {
    fn describe(operation: &mut Operation, location: &Location<'_>) {
        add_path::<T>(operation, location, 0);
    }
}

impl<A: PathParameter, B: PathParameter> DescribeExtractor for PathPair<A, B> {
    fn describe(operation: &mut Operation, location: &Location<'_>) {
        add_path::<A>(operation, location, 0);
        add_path::<B>(operation, location, 1);
    }
}

fn by_session(method: &HttpMethod, scopes: &[&str]) -> SecurityRequirement {
    let session = SecurityRequirement::new(SESSION, scopes.iter().copied());
    match method {
        HttpMethod::Get => session,
        _ => session.add::<_, [&str; 0], &str>(CSRF_TOKEN, []),
    }
}

fn add_description(operation: &mut Operation, sentence: &str) {
    let description = operation.description.take();
    let description = description.filter(|text| !text.is_empty());
    operation.description = Some(match description {
        Some(text) => format!("{text}\n\n{sentence}"),
        None => sentence.to_owned(),
    });
}

fn add_query<T: IntoParams>(operation: &mut Operation) {
    let parameters = operation.parameters.get_or_insert_default();
    parameters.extend(
        T::into_params(|| Some(ParameterIn::Query))
            .into_iter()
            .map(Into::into),
    );
}

fn add_path<T: PathParameter>(operation: &mut Operation, location: &Location<'_>, index: usize) {
    let name = location.names.get(index).copied().unwrap_or_default();
    let parameter = ParameterBuilder::new()
        .name(name)
        .parameter_in(ParameterIn::Path)
        .required(Required::True)
        .description(Some(T::DESCRIPTION))
        .schema(Some(T::Schema::schema()))
        .example(Some(T::EXAMPLE.into()))
        .build();
    operation
        .parameters
        .get_or_insert_default()
        .push(parameter.into());
}

/// A handler whose extractors the OpenAPI document describes; `T` is the tuple of their types.
pub(crate) trait DescribeHandler<T> {
    /// Adds what all extractors read or require.
    fn describe(operation: &mut Operation, location: &Location<'_>);
}

macro_rules! handlers {
    ($(($($extractor:ident),*),)*) => {
        $(
            impl<F, A, $($extractor,)*> DescribeHandler<($($extractor,)*)> for F
            where
                F: Fn($($extractor),*) -> A,
                $($extractor: DescribeExtractor,)*
            {
                fn describe(operation: &mut Operation, location: &Location<'_>) {
                    $($extractor::describe(operation, location);)*
                }
            }
        )*
    };
}

handlers! {
    (T1),
    (T1, T2),
    (T1, T2, T3),
    (T1, T2, T3, T4),
    (T1, T2, T3, T4, T5),
    (T1, T2, T3, T4, T5, T6),
}

/// The route of one handler, described by the handler's signature.
pub(crate) fn described<T, F: DescribeHandler<T>>(
    (schemas, mut paths, router): UtoipaMethodRouter<ApiState>,
    _: F,
) -> UtoipaMethodRouter<ApiState> {
    for (path, item) in &mut paths.paths {
        let names: Vec<&str> = path.split(['{', '}']).skip(1).step_by(2).collect();
        for (method, operation) in operations(item) {
            let location = Location {
                method: &method,
                names: names.clone(),
            };
            F::describe(operation, &location);
        }
    }
    (schemas, paths, router)
}

/// The operations of a path, with their methods.
pub(crate) fn operations(
    item: &mut PathItem,
) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    [
        (HttpMethod::Get, &mut item.get),
        (HttpMethod::Put, &mut item.put),
        (HttpMethod::Post, &mut item.post),
        (HttpMethod::Patch, &mut item.patch),
        (HttpMethod::Delete, &mut item.delete),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}
