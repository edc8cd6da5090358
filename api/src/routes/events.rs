//! Room: the route of events.
//! Takes: an event. Gives: the deliveries made, each with its job.
//! Never: delivers.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use harkara_jobs::webhook::{self, NewEvent, Posted, PostedDelivery};
use harkara_shared::audit::Entry;
use harkara_shared::id::{DeliveryId, EndpointId, JobId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;
use utoipa::ToSchema;
use utoipa::openapi::schema::{Object, ObjectBuilder, SchemaType, Type};

use crate::ApiState;
use crate::access::Scope;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::faults::Faults;
use crate::origin::Origin;
use crate::problem::Problem;

/// An event that happened.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewEvent, example = json!({
    "type": "invoice.paid",
    "data": {"invoice": "in_42", "amount": 1200}
}))]
pub(super) struct NewEventRequest {
    /// Type: segments of letters, digits and `_`, joined by dots.
    #[serde(rename = "type")]
    #[schema(value_type = String, required, nullable = false, max_length = 128,
        pattern = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$", example = "invoice.paid")]
    event_type: Option<String>,
    /// What happened: non_null_schema but null, at most 256 KiB of JSON.
    #[schema(schema_with = non_null_schema, required)]
    data: Option<Box<RawValue>>,
    /// Version of the type that the data is of; by default the current one. Of a type that is registered the
    /// data must satisfy the schema.
    #[schema(minimum = 1, maximum = 2_147_483_647)]
    version: Option<u32>,
    /// The application's own id of it; one that was posted before answers what was made then.
    #[schema(pattern = "^[A-Za-z0-9_-]{1,64}$")]
    id: Option<String>,
    /// Channels it belongs to: endpoints that name channels take it if they name one of these.
    #[schema(max_items = 10, example = json!(["region:north"]))]
    channels: Option<Vec<String>>,
    /// Endpoints that want order (`fifo`) get the events of one such key one after another. No control
    /// characters.
    #[schema(min_length = 1, max_length = 200, example = "customer-42")]
    ordering_key: Option<String>,
}

/// Any JSON but null.
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
            "What happened: non_null_schema but null, at most 256 KiB of JSON.",
        ))
        .build()
}

/// An event that was taken.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PostedEvent)]
pub(super) struct PostedEventResponse {
    /// The event's id, sent as `webhook-id`.
    #[schema(example = "evt_01h455vb4pex5vsknk084sn02q")]
    id: String,
    /// One for each endpoint that takes the event's type.
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

/// A delivery made by an event.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PostedDelivery)]
pub(super) struct PostedDeliveryResponse {
    /// Id.
    #[schema(value_type = String, example = "dlv_01h455vb4pex5vsknk084sn02q")]
    id: DeliveryId,
    /// Where it goes.
    #[schema(value_type = String, example = "ep_01h455vb4pex5vsknk084sn02q")]
    endpoint_id: EndpointId,
    /// The job that delivers it; null when it was skipped.
    #[schema(required, value_type = Option<String>, example = "job_0000000000500")]
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
/// Makes a delivery for each endpoint that takes its type. Data that does not satisfy the type's schema is
/// refused; types need not be registered, and those the platform itself tells of are not posted. Needs the scope `jobs:write`.
#[utoipa::path(
    post,
    path = "/v1/events",
    operation_id = "post_event",
    tag = "webhooks",
    params(("traceparent" = Option<String>, Header,
        description = "W3C trace context, carried by the job and out again")),
    request_body = NewEventRequest,
    responses(
        (status = 202, description = "The event, with its deliveries", body = PostedEventResponse),
        (status = 409, description = "The id stands for another event"),
        (status = 429, description = "As many jobs of the tenant wait as may (`max_waiting`), or the caller asks too often"),
    )
)]
pub(super) async fn post_event(
    State(state): State<ApiState>,
    caller: Caller,
    Origin(trace): Origin,
    body: JsonBody,
) -> Result<(StatusCode, Json<PostedEventResponse>), Problem> {
    caller.require(Scope::JobsWrite)?;
    let mut faults = Faults::default();
    let request: NewEventRequest = body.members(&mut faults).unwrap_or_default();
    let event = validate_event(request, &mut faults);
    faults.none_in_body()?;
    // Without a fault there is an event.
    let event = event.ok_or_else(|| Problem::internal("a body without event or fault"))?;
    let mut tx = state.begin(&caller).await?;
    let posted = webhook::post_event(&mut tx, state.engine(), event, trace).await?;
    if caller.is_person() {
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

fn validate_event(request: NewEventRequest, faults: &mut Faults) -> Option<NewEvent> {
    for (pointer, is_missing) in [
        ("/type", request.event_type.is_none()),
        ("/data", request.data.is_none()),
    ] {
        if is_missing {
            faults.add("", pointer, "missing", "must be there");
        }
    }
    // The other members are checked although the data is missing.
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
    faults.extend("", event.check());
    has_data.then_some(event)
}
