//! Pages of lists: reads `limit`, `cursor` and the filters of a query string, and builds the page.
//!
//! A list reads one item more than a page holds; that item shows that another page follows. Lists are never
//! counted.

use axum::Json;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::openapi::Required;
use utoipa::openapi::path::{Parameter, ParameterBuilder, ParameterIn};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::{IntoParams, ToSchema};

use crate::ApiState;
use crate::auth::Caller;
use crate::cursor::{CursorKey, Cursors, ListScope};
use crate::field_errors::FieldErrors;
use crate::problem::Problem;
use crate::query;

/// Items of a page when the request sets no `limit`.
const DEFAULT_LIMIT: u32 = 50;

/// Maximum number of items of a page.
const MAX_LIMIT: u32 = 200;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Page<T> {
    /// The items.
    pub(crate) data: Vec<T>,
    /// For the parameter `cursor` of the next page; null at the end of the list. A page may be short, even
    /// empty, and not be the last: continue until this is null.
    #[schema(required, example = "AQAAAAAAAAAAAAAAAAAAAAA…")]
    pub(crate) next_cursor: Option<String>,
}

/// All items of a list that has no pages.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct List<T> {
    /// The items, oldest first.
    pub(crate) data: Vec<T>,
}

/// A list without filters.
#[derive(Debug, Default, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NoFilters {}

/// The extractor of a page's position in a list without filters, whose sort key is `K`.
#[derive(Debug)]
pub(crate) struct Paging<K> {
    /// Key of the previous page's last item; `None` for the first page.
    pub(crate) after: Option<K>,
    limit: u32,
    list: ListScope,
    cursors: Cursors,
}

/// The extractor of a page's position in a list with the filters `F`.
#[derive(Debug)]
pub(crate) struct Paged<F, K> {
    /// The filters of the list.
    pub(crate) filters: F,
    /// The position of the page.
    pub(crate) paging: Paging<K>,
}

impl<K: CursorKey> Paging<K> {
    /// The position that `cursor` names in a list whose pages have the default size.
    pub(crate) fn new(
        list: ListScope,
        cursor: Option<&str>,
        cursors: &Cursors,
    ) -> Result<Self, Problem> {
        Ok(Self {
            after: cursor
                .map(|cursor| cursors.read(list, cursor))
                .transpose()?,
            limit: DEFAULT_LIMIT,
            list,
            cursors: cursors.clone(),
        })
    }

    /// How many items to read: one more than the page holds.
    pub(crate) fn fetch_limit(&self) -> u32 {
        self.limit.saturating_add(1)
    }

    /// The page of items read with [`Paging::fetch_limit`].
    pub(crate) fn page<I, T>(
        &self,
        mut items: Vec<I>,
        key: impl Fn(&I) -> K,
        render: impl Fn(I) -> T,
    ) -> Json<Page<T>> {
        let size = usize::try_from(self.limit).unwrap_or(usize::MAX);
        let has_more = items.len() > size;
        items.truncate(size);
        let last = items.last().filter(|_| has_more);
        let next_cursor = last.and_then(|item| self.cursors.write(self.list, &key(item)));
        Json(Page {
            data: items.into_iter().map(render).collect(),
            next_cursor,
        })
    }

    /// As [`Paging::page`], for a list of which a request scans only a bounded part: when the scan ended at `below`
    /// before the page was full, the next page continues there.
    pub(crate) fn page_down_to<I, T>(
        &self,
        items: Vec<I>,
        below: Option<K>,
        key: impl Fn(&I) -> K,
        render: impl Fn(I) -> T,
    ) -> Json<Page<T>> {
        let Json(mut page) = self.page(items, key, render);
        if page.next_cursor.is_none() {
            page.next_cursor = below.and_then(|below| self.cursors.write(self.list, &below));
        }
        Json(page)
    }
}

/// The parameters that every list has.
#[derive(Debug, Default, Deserialize)]
struct PageParameters {
    limit: Option<PageLimit>,
    cursor: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PageLimit(u32);

impl<'de> Deserialize<'de> for PageLimit {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        query::whole_number(deserializer, 1..=MAX_LIMIT).map(Self)
    }
}

impl<F, K> FromRequestParts<ApiState> for Paged<F, K>
where
    F: DeserializeOwned + Serialize + Send,
    K: CursorKey,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let mut errors = FieldErrors::default();
        let mut members = query::members(parts.uri.query().unwrap_or_default(), &mut errors);
        let paging: Map<String, Value> = ["limit", "cursor"]
            .into_iter()
            .filter_map(|name| members.remove_entry(name))
            .collect();
        let filters: Option<F> = query::decode(members, &mut errors);
        let parameters: Option<PageParameters> = query::decode(paging, &mut errors);
        errors.into_query_result()?;
        // Without an error there is a value.
        let missing = || Problem::internal("a query string without value or error");
        let (filters, parameters) = (
            filters.ok_or_else(missing)?,
            parameters.ok_or_else(missing)?,
        );
        let caller = Caller::from_request_parts(parts, state).await?;
        let list = ListScope::new(parts.uri.path(), caller.tenant, &filters)?;
        let mut paging = Paging::new(list, parameters.cursor.as_deref(), state.cursors())?;
        if let Some(PageLimit(limit)) = parameters.limit {
            paging.limit = limit;
        }
        Ok(Self { filters, paging })
    }
}

impl<K: CursorKey> FromRequestParts<ApiState> for Paging<K> {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let Paged::<NoFilters, K> { paging, .. } = Paged::from_request_parts(parts, state).await?;
        Ok(paging)
    }
}

impl<K> IntoParams for Paging<K> {
    fn into_params(_: impl Fn() -> Option<ParameterIn>) -> Vec<Parameter> {
        let limit = ObjectBuilder::new()
            .schema_type(Type::Integer)
            .format(Some(SchemaFormat::KnownFormat(KnownFormat::Int32)))
            .default(Some(DEFAULT_LIMIT.into()))
            .minimum(Some(1))
            .maximum(Some(MAX_LIMIT));
        let cursor = ObjectBuilder::new().schema_type(Type::String);
        [
            ("limit", "How many items a page holds.", limit),
            (
                "cursor",
                "`next_cursor` of the previous page, with the same filters.",
                cursor,
            ),
        ]
        .map(|(name, description, schema)| {
            ParameterBuilder::new()
                .name(name)
                .parameter_in(ParameterIn::Query)
                .required(Required::False)
                .description(Some(description))
                .schema(Some(schema))
                .build()
        })
        .into()
    }
}
