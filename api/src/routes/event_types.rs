//! Routes of event types.
//!
//! Registers, lists and shows event types and their versions. Never changes an existing version and never
//! fetches a schema's references.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use harkara_shared::audit::Entry;
use harkara_webhooks::{
    self as webhooks, EventType, NewEventType, find_event_type, forget_current_version,
};
use serde::{Deserialize, Deserializer, Serialize, de::Error as _};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::paging::{Page, Paging};
use crate::problem::Problem;
use crate::query::{EventTypeName, PathId, Query};

/// A new version of an event type.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewEventType, example = json!({
    "name": "invoice.paid",
    "description": "An invoice was paid in full",
    "schema": {
        "type": "object",
        "properties": {"invoice": {"type": "string"}, "amount": {"type": "integer", "minimum": 0}},
        "required": ["invoice", "amount"]
    },
    "example": {"invoice": "in_42", "amount": 1200}
}))]
pub(super) struct NewEventTypeRequest {
    /// Name of the event type: segments of letters, digits and `_`, separated by dots.
    #[schema(value_type = String, required, nullable = false, max_length = 128,
        pattern = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", example = "invoice.paid")]
    name: Option<String>,
    /// What an event of this type means.
    #[schema(max_length = 1000)]
    description: Option<String>,
    /// JSON Schema (draft 2020-12) that the data of events must satisfy, at most 64 KiB. Without a schema
    /// any data is accepted. References must point into the schema itself and must not be circular.
    /// `pattern` supports neither look-around nor back-references.
    #[schema(value_type = Option<Object>)]
    schema: Option<Value>,
    /// Example of an event's data, at most 64 KiB. Must satisfy the schema.
    example: Option<Value>,
}

/// One version of an event type.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EventType)]
pub(super) struct EventTypeResponse {
    /// Name of the event type.
    #[schema(example = "invoice.paid")]
    name: String,
    /// Version number, starting at 1, without gaps. The current version is the highest.
    #[schema(minimum = 1, example = 1)]
    version: u32,
    /// What an event of this type means; empty if no description was given.
    #[schema(example = "An invoice was paid in full")]
    description: String,
    /// JSON Schema (draft 2020-12) of the data; null if any data is accepted.
    #[schema(value_type = Option<Object>, required, example = json!({"type": "object"}))]
    schema: Option<Value>,
    /// Example of an event's data; null if none was given.
    #[schema(required, example = json!({"invoice": "in_42", "amount": 1200}))]
    example: Option<Value>,
    /// Whether the platform provides this version.
    seeded: bool,
    /// Whether events of this type are emitted by the platform itself. They cannot be posted.
    operational: bool,
    /// When this version was registered.
    created_at: DateTime<Utc>,
}

impl From<EventType> for EventTypeResponse {
    fn from(event_type: EventType) -> Self {
        Self {
            name: event_type.name,
            version: event_type.version,
            description: event_type.description,
            schema: event_type.schema,
            example: event_type.example,
            seeded: event_type.seeded,
            operational: event_type.operational,
            created_at: event_type.created_at,
        }
    }
}

/// Register an event type
///
/// Creates the next version of the name and makes it the current one: events without a `version` must
/// satisfy its schema, within five seconds in other processes. A version never changes and can be
/// referenced as long as the tenant exists.
#[utoipa::path(
    post,
    path = "/v1/event-types",
    operation_id = "register_event_type",
    tag = "webhooks",
    request_body = NewEventTypeRequest,
    responses(
        (status = 201, description = "The version", body = EventTypeResponse,
            headers(("Location" = String, description = "Path of the type"))),
        (status = 409, description = "Event types of this name are reserved for the platform"),
    )
)]
pub(super) async fn register_event_type(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksManage>,
    body: JsonBody,
) -> Result<Response, Problem> {
    let mut errors = FieldErrors::default();
    let request: NewEventTypeRequest = body.members(&mut errors).unwrap_or_default();
    if request.name.is_none() {
        errors.add("", "/name", "missing", "is required");
    }
    let new = NewEventType {
        name: request.name.unwrap_or_default(),
        description: request.description.unwrap_or_default(),
        schema: request.schema,
        example: request.example,
    };
    // Compiling a large schema would block this thread's other requests.
    let checked = tokio::task::spawn_blocking(move || (new.check(), new)).await;
    let (wrong, new) = checked.map_err(Problem::internal)?;
    errors.extend("", wrong);
    errors.into_body_result()?;
    let mut tx = state.begin(&caller).await?;
    let response = EventTypeResponse::from(webhooks::register_event_type(&mut tx, new).await?);
    let entry = Entry::new("event_type.register", &response.name).after(json!({
        "version": response.version, "description": response.description,
        "has_schema": response.schema.is_some(),
    }));
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    forget_current_version(caller.tenant, &response.name).await;
    let location = [(LOCATION, format!("/v1/event-types/{}", response.name))];
    Ok((StatusCode::CREATED, location, Json(response)).into_response())
}

/// List event types by name, each in its current version
///
/// Includes the tenant's own event types and those provided by the platform.
#[utoipa::path(
    get,
    path = "/v1/event-types",
    operation_id = "list_event_types",
    tag = "webhooks",
    responses((status = 200, description = "A page of types", body = Page<EventTypeResponse>))
)]
pub(super) async fn list_event_types(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksRead>,
    paging: Paging<String>,
) -> Result<Json<Page<EventTypeResponse>>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let types =
        webhooks::list_event_types(&mut tx, paging.after.as_deref(), paging.fetch_limit()).await?;
    tx.commit().await?;
    Ok(paging.page(
        types,
        |shown: &EventType| shown.name.clone(),
        EventTypeResponse::from,
    ))
}

/// Version of an event type.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct VersionQuery {
    /// Version number. Default: the current version.
    #[param(value_type = Option<u32>, minimum = 1, maximum = 2_147_483_647)]
    version: Option<Version>,
}

/// A version number from 1.
#[derive(Debug, Clone, Copy)]
struct Version(u32);

impl<'de> Deserialize<'de> for Version {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse()
            .ok()
            .filter(|version| (1..=i32::MAX.unsigned_abs()).contains(version))
            .map(Self)
            .ok_or_else(|| D::Error::custom("must be an integer between 1 and 2147483647"))
    }
}

/// Get an event type
#[utoipa::path(
    get,
    path = "/v1/event-types/{name}",
    operation_id = "get_event_type",
    tag = "webhooks",
    responses((status = 200, description = "The version", body = EventTypeResponse))
)]
pub(super) async fn get_event_type(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksRead>,
    PathId(name): PathId<EventTypeName>,
    Query(query): Query<VersionQuery>,
) -> Result<Json<EventTypeResponse>, Problem> {
    let version = query.version.map(|version| version.0);
    let mut tx = state.begin(&caller).await?;
    let found = find_event_type(&mut tx, &name, version).await?;
    tx.commit().await?;
    found
        .map(|found| Json(found.into()))
        .ok_or_else(|| match version {
            Some(_) => Problem::not_found("version of the event type"),
            None => event_type_not_found(),
        })
}

/// List the versions of an event type, newest first
#[utoipa::path(
    get,
    path = "/v1/event-types/{name}/versions",
    operation_id = "list_event_type_versions",
    tag = "webhooks",
    responses((status = 200, description = "A page of versions", body = Page<EventTypeResponse>))
)]
pub(super) async fn list_event_type_versions(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksRead>,
    PathId(name): PathId<EventTypeName>,
    paging: Paging<u32>,
) -> Result<Json<Page<EventTypeResponse>>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let versions =
        webhooks::list_event_type_versions(&mut tx, &name, paging.after, paging.fetch_limit())
            .await?;
    tx.commit().await?;
    if versions.is_empty() {
        return Err(event_type_not_found());
    }
    Ok(paging.page(
        versions,
        |shown: &EventType| shown.version,
        EventTypeResponse::from,
    ))
}

fn event_type_not_found() -> Problem {
    Problem::not_found("event type")
}
