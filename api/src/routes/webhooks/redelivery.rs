//! Routes that test, enable and recover an endpoint.
//!
//! Enqueue the jobs that do it. Never send a request to an endpoint themselves.

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use harkara_kind::JobKind;
use harkara_queue::Quota;
use harkara_queue::job::NewJob;
use harkara_shared::audit::Entry;
use harkara_shared::clock;
use harkara_shared::id::{EndpointId, JobId};
use harkara_webhooks::kinds::webhook_recover::{
    Args, RecoverableState, WebhookRecover, default_states,
};
use harkara_webhooks::{self as webhooks, EndpointChange, EndpointStatus, change_endpoint};
use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
use utoipa::ToSchema;

use super::endpoint_not_found;
use super::response::EndpointResponse;
use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::problem::{Code, Problem};
use crate::query::PathId;
use crate::request_context::TraceContext;
use crate::routes::events::PostedEventResponse;
use crate::time::Timestamp;

/// Default event type of a test.
const DEFAULT_TEST_EVENT_TYPE: &str = "webhook.test";

/// An event that tests an endpoint.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndpointTest, example = json!({"type": "invoice.paid", "data": {"invoice": "in_42"}}))]
pub(in crate::routes) struct EndpointTestRequest {
    /// Event type. Default `webhook.test`. The endpoint does not have to subscribe to it.
    #[serde(rename = "type")]
    #[schema(max_length = 128, pattern = r"^[A-Za-z0-9_]+(\.[A-Za-z0-9_]+)*$")]
    event_type: Option<String>,
    /// Data of the event: a JSON object.
    #[schema(value_type = Option<Object>)]
    data: Option<Box<RawValue>>,
}

/// Test a webhook endpoint
///
/// Posts an event to this endpoint only, with a single attempt, even if the endpoint is disabled.
#[utoipa::path(
    post,
    path = "/v1/webhook-endpoints/{id}/test",
    operation_id = "test_endpoint",
    tag = "webhooks",
    request_body = EndpointTestRequest,
    responses(
        (status = 202, description = "The event and its delivery", body = PostedEventResponse),
        (status = 429, description = "The tenant's `max_waiting` is reached, or too many requests"),
    )
)]
pub(in crate::routes) async fn test_endpoint(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksManage>,
    PathId(id): PathId<EndpointId>,
    body: JsonBody,
) -> Result<(StatusCode, Json<PostedEventResponse>), Problem> {
    let mut errors = FieldErrors::default();
    let request: EndpointTestRequest = body.members(&mut errors).unwrap_or_default();
    let event_type = request
        .event_type
        .unwrap_or_else(|| DEFAULT_TEST_EVENT_TYPE.to_owned());
    let data = request.data.map_or_else(
        || to_raw_value(&json!({"test": true})).map_err(Problem::internal),
        Ok,
    )?;
    if !data.get().starts_with('{') {
        errors.add("", "/data", "invalid", "must be a JSON object");
    }
    let event = webhooks::NewEvent::new(&event_type, data.clone());
    errors.extend("", event.check());
    errors.into_body_result()?;
    let mut tx = state.begin(&caller).await?;
    let posted = webhooks::test_endpoint(&mut tx, state.engine(), id, &event_type, data).await?;
    let posted = posted.ok_or_else(endpoint_not_found)?;
    let entry = Entry::new("endpoint.test", id).after(json!({"type": event_type}));
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    Ok((
        StatusCode::ACCEPTED,
        Json(PostedEventResponse::from(posted)),
    ))
}

/// Enable a webhook endpoint
///
/// Deliveries resume. To send deliveries that were skipped meanwhile, use `POST …/recover`.
#[utoipa::path(
    post,
    path = "/v1/webhook-endpoints/{id}/enable",
    operation_id = "enable_endpoint",
    tag = "webhooks",
    responses((status = 200, description = "The changed endpoint", body = EndpointResponse))
)]
pub(in crate::routes) async fn enable_endpoint(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksManage>,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<EndpointResponse>, Problem> {
    let change = EndpointChange {
        status: Some(EndpointStatus::Active),
        ..EndpointChange::default()
    };
    let mut tx = state.begin(&caller).await?;
    let enabled = change_endpoint(&mut tx, state.engine(), state.keys(), id, change).await?;
    let enabled = EndpointResponse::from(enabled.ok_or_else(endpoint_not_found)?);
    caller
        .record(&mut tx, &Entry::new("endpoint.enable", id))
        .await?;
    tx.commit().await?;
    Ok(Json(enabled))
}

/// Deliveries to recover.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Recovery, example = json!({"since": "2026-11-27T00:00:00Z"}))]
pub(in crate::routes) struct RecoveryRequest {
    /// Only deliveries of events posted at or after this time, at most 30 days ago.
    #[schema(value_type = String, format = DateTime, required, nullable = false)]
    since: Option<Timestamp>,
    /// Only deliveries of events posted until this time. Default: now.
    #[schema(value_type = Option<String>, format = DateTime)]
    until: Option<Timestamp>,
    /// Only deliveries in these states. Default: `failed` and `skipped`.
    #[schema(min_items = 1, max_items = 3)]
    states: Option<Vec<RecoverableState>>,
}

/// A job that was started.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = StartedJob)]
pub(in crate::routes) struct StartedJobResponse {
    /// Id of the job. Its result reports the number of deliveries.
    pub(in crate::routes) job_id: JobId,
}

/// Recover the deliveries of a webhook endpoint
///
/// Delivers again what failed, or was skipped while the endpoint was disabled, oldest first, on the
/// endpoint's retry schedule.
#[utoipa::path(
    post,
    path = "/v1/webhook-endpoints/{id}/recover",
    operation_id = "recover_endpoint",
    tag = "webhooks",
    request_body = RecoveryRequest,
    responses(
        (status = 202, description = "The job that was enqueued", body = StartedJobResponse),
        (status = 409, description = "The endpoint is disabled: enable it first"),
        (status = 429, description = "The tenant's `max_waiting` is reached, or too many requests"),
    )
)]
pub(in crate::routes) async fn recover_endpoint(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksManage>,
    PathId(id): PathId<EndpointId>,
    TraceContext(trace): TraceContext,
    body: JsonBody,
) -> Result<(StatusCode, Json<StartedJobResponse>), Problem> {
    let mut tx = state.begin(&caller).await?;
    let endpoint = webhooks::find_endpoint(&mut tx, id).await?;
    let endpoint = endpoint.ok_or_else(endpoint_not_found)?;
    let mut errors = FieldErrors::default();
    let request: RecoveryRequest = body.members(&mut errors).unwrap_or_default();
    let now = clock::now();
    let Some(since) = request.since.map(DateTime::<Utc>::from) else {
        errors.add("", "/since", "missing", "is required");
        return Err(errors
            .into_body_result()
            .err()
            .unwrap_or_else(|| Problem::internal("missing member without an error")));
    };
    let args = Args {
        endpoint_id: id,
        since,
        until: request.until.map_or(now, DateTime::from),
        states: request.states.unwrap_or_else(default_states),
    };
    if since < now - chrono::TimeDelta::days(30) {
        errors.add("", "/since", "out_of_range", "must be at most 30 days ago");
    }
    errors.extend("", WebhookRecover::check(&args));
    errors.into_body_result()?;
    if endpoint.status == EndpointStatus::Disabled {
        let detail = "endpoint is disabled; enable it first";
        return Err(Problem::new(Code::Conflict, detail));
    }
    let payload = to_raw_value(&args).map_err(Problem::internal)?;
    let job = NewJob {
        trace,
        ..WebhookRecover::job(payload)
    };
    let enqueued = state
        .engine()
        .enqueue(&mut tx, caller.tenant, job, Quota::Enforce)
        .await?;
    let after = json!({"since": args.since, "until": args.until, "states": args.states});
    let entry = Entry::new("endpoint.recover", id).after(after);
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    let job_id = enqueued.id();
    Ok((StatusCode::ACCEPTED, Json(StartedJobResponse { job_id })))
}
