//! Route of events.
//!
//! Posts an event and returns the deliveries created for it, each with its job. Never sends a request to an
//! endpoint itself.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use harkara_shared::audit::Entry;
use harkara_shared::id::{DeliveryId, EndpointId, JobId};
use harkara_webhooks::{self as webhooks, NewEvent, Posted, PostedDelivery};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, SchemaType, Type};

use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::problem::Problem;
use crate::request_context::TraceContext;
use crate::schema::EventId;

/// An event to post.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewEvent, example = json!({
    "type": "invoice.paid",
    "data": {"invoice": "in_42", "amount": 1200}
}))]
pub(super) struct NewEventRequest {
    /// Event type: segments of letters, digits and `_`, separated by dots.
    #[serde(rename = "type")]
    #[schema(value_type = String, required, nullable = false, max_length = 128,
        pattern = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", example = "invoice.paid")]
    event_type: Option<String>,
    /// Data of the event: any JSON value except null, at most 256 KiB.
    #[schema(schema_with = non_null_schema, required)]
    data: Option<Box<RawValue>>,
    /// Version of the event type that the data conforms to. Default: the current version. If the event type
    /// is registered, the data must satisfy its schema.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    version: Option<u32>,
    /// Id chosen by the application. Posting an event with the id of an earlier event returns the
    /// deliveries of that event.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    id: Option<String>,
    /// Channels of the event. Endpoints with channels receive the event if they share one of them.
    #[schema(max_items = 10, example = json!(["region:north"]))]
    channels: Option<Vec<String>>,
    /// Endpoints with `fifo` ordering receive events with the same key one after another. Must not contain
    /// control characters.
    #[schema(min_length = 1, max_length = 200, example = "customer-42")]
    ordering_key: Option<String>,
}

/// Schema of any JSON value except null.
fn non_null_schema() -> Object {
    let types = [
        Type::Object,
        Type::Array,
        Type::String,
        Type::Number,
        Type::Boolean,
    ];
    ObjectBuilder::new()
        .schema_type(SchemaType::from_iter(types))
        .description(Some(
            "Data of the event: any JSON value except null, at most 256 KiB.",
        ))
        .build()
}

/// An accepted event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PostedEvent)]
pub(super) struct PostedEventResponse {
    /// Id of the event, sent as `webhook-id`.
    #[schema(value_type = EventId)]
    id: String,
    /// One delivery for each endpoint that subscribes to the event.
    deliveries: Vec<PostedDeliveryResponse>,
}

impl From<Posted> for PostedEventResponse {
    fn from(Posted { id, deliveries }: Posted) -> Self {
        let deliveries = deliveries
            .into_iter()
            .map(PostedDeliveryResponse::from)
            .collect();
        Self { id, deliveries }
    }
}

/// A delivery created for an event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PostedDelivery)]
pub(super) struct PostedDeliveryResponse {
    /// Id of the delivery.
    id: DeliveryId,
    /// Id of the endpoint.
    endpoint_id: EndpointId,
    /// The job that makes the delivery; null if it was skipped.
    #[schema(required)]
    job_id: Option<JobId>,
}

impl From<PostedDelivery> for PostedDeliveryResponse {
    fn from(delivery: PostedDelivery) -> Self {
        Self {
            id: delivery.id,
            endpoint_id: delivery.endpoint_id,
            job_id: delivery.job_id,
        }
    }
}

/// Post an event
///
/// Creates a delivery for each endpoint that subscribes to the event type. Data that does not satisfy the
/// type's schema is rejected. The type does not have to be registered. Types that the platform emits cannot
/// be posted.
#[utoipa::path(
    post,
    path = "/v1/events",
    operation_id = "post_event",
    tag = "webhooks",
    request_body = NewEventRequest,
    responses(
        (status = 202, description = "The event and its deliveries", body = PostedEventResponse),
        (status = 409, description = "Another event has this id"),
        (status = 429, description = "The tenant's `max_waiting` is reached, or too many requests"),
    )
)]
pub(super) async fn post_event(
    State(state): State<ApiState>,
    caller: Authorized<scope::JobsWrite>,
    TraceContext(trace): TraceContext,
    body: JsonBody,
) -> Result<(StatusCode, Json<PostedEventResponse>), Problem> {
    let mut errors = FieldErrors::default();
    let request: NewEventRequest = body.members(&mut errors).unwrap_or_default();
    let event = validate_event(request, &mut errors);
    errors.into_body_result()?;
    // Validation returns an event unless it added an error.
    let event = event
        .ok_or_else(|| Problem::internal("validation returned neither an event nor an error"))?;
    let mut tx = state.begin(&caller).await?;
    let posted = webhooks::post_event(&mut tx, state.engine(), event, trace).await?;
    if caller.is_user() {
        let after = json!({"deliveries": posted.deliveries.len()});
        let entry = Entry::new("event.post", &posted.id).after(after);
        caller.record(&mut tx, &entry).await?;
    }
    tx.commit().await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(PostedEventResponse::from(posted)),
    ))
}

fn validate_event(request: NewEventRequest, errors: &mut FieldErrors) -> Option<NewEvent> {
    for (pointer, is_missing) in [
        ("/type", request.event_type.is_none()),
        ("/data", request.data.is_none()),
    ] {
        if is_missing {
            errors.add("", pointer, "missing", "is required");
        }
    }
    // Validate the other members even if the data is missing.
    let has_data = request.data.is_some();
    let event = NewEvent {
        id: request.id,
        event_type: request.event_type.unwrap_or_default(),
        version: request.version,
        data: request
            .data
            .or_else(|| RawValue::from_string("null".to_owned()).ok())?,
        channels: request.channels.unwrap_or_default(),
        ordering_key: request.ordering_key,
    };
    errors.extend("", event.check());
    has_data.then_some(event)
}
