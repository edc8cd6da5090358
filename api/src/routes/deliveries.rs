//! Routes of deliveries.
//!
//! Lists deliveries and their attempts, and starts a redelivery. Never sends a request to an endpoint
//! itself.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use harkara_shared::audit::Entry;
use harkara_shared::id::{DeliveryId, EndpointId, JobId};
use harkara_webhooks::{
    self as webhooks, Delivery, DeliveryAttempt, DeliveryFilter, DeliveryState, RedeliverError,
    SentRequest, Trigger, delivery_attempts,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::jobs::ErrorResponse;
use super::webhooks::redelivery::StartedJobResponse;
use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::paging::{List, Page, Paged};
use crate::problem::{Code, Problem};
use crate::query::{PathId, Status};
use crate::schema::EventId;
use crate::time::Timestamp;

/// State of a delivery. `failed`: all attempts were used up. `skipped`: not sent, because the endpoint was
/// disabled or deleted.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = DeliveryState)]
pub(super) enum DeliveryStateName {
    Pending,
    Succeeded,
    Failed,
    Skipped,
    Cancelled,
}

impl From<DeliveryState> for DeliveryStateName {
    fn from(state: DeliveryState) -> Self {
        match state {
            DeliveryState::Pending => Self::Pending,
            DeliveryState::Succeeded => Self::Succeeded,
            DeliveryState::Failed => Self::Failed,
            DeliveryState::Skipped => Self::Skipped,
            DeliveryState::Cancelled => Self::Cancelled,
        }
    }
}

impl From<DeliveryStateName> for DeliveryState {
    fn from(name: DeliveryStateName) -> Self {
        match name {
            DeliveryStateName::Pending => Self::Pending,
            DeliveryStateName::Succeeded => Self::Succeeded,
            DeliveryStateName::Failed => Self::Failed,
            DeliveryStateName::Skipped => Self::Skipped,
            DeliveryStateName::Cancelled => Self::Cancelled,
        }
    }
}

/// One event for one endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(super) struct DeliveryResponse {
    /// Id of the delivery.
    id: DeliveryId,
    /// Id of the event.
    #[schema(value_type = EventId)]
    event_id: String,
    /// Id of the endpoint.
    endpoint_id: EndpointId,
    /// The job that makes the delivery; null if it was skipped.
    #[schema(required)]
    job_id: Option<JobId>,
    /// State of the delivery.
    state: DeliveryStateName,
    /// Number of requests made so far.
    #[schema(example = 1)]
    attempts: u32,
    /// HTTP status of the last response.
    #[schema(required, example = 204)]
    status_code: Option<u16>,
    /// When the event was posted.
    created_at: DateTime<Utc>,
    /// When the delivery reached a final state.
    #[schema(required)]
    finished_at: Option<DateTime<Utc>>,
}

impl From<Delivery> for DeliveryResponse {
    fn from(delivery: Delivery) -> Self {
        Self {
            id: delivery.id,
            status_code: delivery.last_status(),
            event_id: delivery.event_id,
            endpoint_id: delivery.endpoint_id,
            job_id: delivery.job_id,
            state: delivery.state.into(),
            attempts: delivery.attempts,
            created_at: delivery.created_at,
            finished_at: delivery.finished_at,
        }
    }
}

/// One request made for a delivery.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeliveryAttempt)]
pub(super) struct DeliveryAttemptResponse {
    /// Number of the attempt, starting at 1.
    #[schema(example = 1)]
    number: u32,
    /// Why the request was made.
    cause: Trigger,
    /// When the request was started.
    started_at: DateTime<Utc>,
    /// Duration of the request in milliseconds.
    #[schema(example = 87)]
    duration_ms: u64,
    /// The request that was sent.
    #[schema(required)]
    request: Option<SentRequestResponse>,
    /// IP address that the request was sent to.
    #[schema(required, example = "93.184.215.14")]
    address: Option<String>,
    /// HTTP status of the response; null if there was none.
    #[schema(required, example = 204)]
    status_code: Option<u16>,
    /// Headers of the response, up to 4 KiB. Values that may be secrets are redacted.
    response_headers: BTreeMap<String, String>,
    /// The first 16 KiB of the response body.
    #[schema(required)]
    response_body: Option<String>,
    /// Whether the response body was longer than what is shown.
    response_truncated: bool,
    /// Why the attempt failed; null if it succeeded.
    #[schema(required)]
    error: Option<ErrorResponse>,
}

/// The request that was sent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeliveryRequest)]
pub(super) struct SentRequestResponse {
    /// HTTP method, always POST.
    #[schema(example = "POST")]
    method: &'static str,
    /// URL of the endpoint.
    #[schema(example = "https://example.com/webhooks")]
    url: String,
    /// Headers of the request. Signatures and header values configured for the endpoint are redacted.
    headers: BTreeMap<String, String>,
    /// The first 16 KiB of the request body; null if the payload is no longer stored.
    #[schema(required)]
    body: Option<String>,
}

impl From<SentRequest> for SentRequestResponse {
    fn from(request: SentRequest) -> Self {
        Self {
            method: "POST",
            url: request.url,
            headers: request.headers,
            body: request.body,
        }
    }
}

impl From<DeliveryAttempt> for DeliveryAttemptResponse {
    fn from(attempt: DeliveryAttempt) -> Self {
        Self {
            number: attempt.number,
            cause: attempt.trigger,
            started_at: attempt.started_at,
            duration_ms: attempt.duration_ms,
            request: attempt.request.map(SentRequestResponse::from),
            address: attempt.address,
            status_code: attempt.status_code,
            response_headers: attempt.response_headers,
            response_body: attempt.response_body,
            response_truncated: attempt.is_body_truncated,
            error: attempt.error.map(ErrorResponse::from),
        }
    }
}

/// Filters of deliveries. All filters that are given must match.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeliveryQuery {
    /// Only deliveries to this endpoint.
    #[param(example = "ep_01h455vb4pex5vsknk084sn02q", inline)]
    endpoint_id: Option<EndpointId>,
    /// Only deliveries of this event.
    #[param(example = "evt_01h455vb4pex5vsknk084sn02q")]
    event_id: Option<String>,
    /// Only deliveries in this state.
    state: Option<DeliveryStateName>,
    /// Only deliveries whose last response had this HTTP status.
    #[param(value_type = Option<u16>, minimum = 100, maximum = 599, example = 500)]
    status_code: Option<Status>,
    /// Only deliveries created at or after this time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Timestamp>,
    /// Only deliveries created at or before this time.
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Timestamp>,
}

/// List deliveries, newest first
///
/// Each page reads at most 5,000 deliveries. If few of them match, a page may hold fewer than `limit`
/// items, or none, and still have a `next_cursor`: continue until `next_cursor` is null.
#[utoipa::path(
    get,
    path = "/v1/deliveries",
    operation_id = "list_deliveries",
    tag = "webhooks",
    responses((status = 200, description = "A page of deliveries", body = Page<DeliveryResponse>))
)]
pub(super) async fn list_deliveries(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksRead>,
    Paged { filters, paging }: Paged<DeliveryQuery, DeliveryId>,
) -> Result<Json<Page<DeliveryResponse>>, Problem> {
    let filter = DeliveryFilter {
        endpoint_id: filters.endpoint_id,
        event_id: filters.event_id,
        state: filters.state.map(DeliveryState::from),
        status_code: filters.status_code.map(|status| status.0),
        created_after: filters.created_after.map(DateTime::from),
        created_before: filters.created_before.map(DateTime::from),
    };
    let mut tx = state.begin(&caller).await?;
    let page =
        webhooks::list_deliveries(&mut tx, &filter, paging.after, paging.fetch_limit()).await?;
    tx.commit().await?;
    Ok(paging.page_down_to(
        page.deliveries,
        page.next_before,
        |delivery| delivery.id,
        DeliveryResponse::from,
    ))
}

/// Get a delivery
#[utoipa::path(
    get,
    path = "/v1/deliveries/{id}",
    operation_id = "get_delivery",
    tag = "webhooks",
    responses((status = 200, description = "The delivery", body = DeliveryResponse))
)]
pub(super) async fn get_delivery(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksRead>,
    PathId(id): PathId<DeliveryId>,
) -> Result<Json<DeliveryResponse>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let delivery = webhooks::find_delivery(&mut tx, id).await?;
    tx.commit().await?;
    delivery
        .map(|delivery| Json(delivery.into()))
        .ok_or_else(delivery_not_found)
}

/// List the attempts of a delivery
///
/// Oldest first.
#[utoipa::path(
    get,
    path = "/v1/deliveries/{id}/attempts",
    operation_id = "list_delivery_attempts",
    tag = "webhooks",
    responses((status = 200, description = "The attempts", body = List<DeliveryAttemptResponse>))
)]
pub(super) async fn list_delivery_attempts(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksRead>,
    PathId(id): PathId<DeliveryId>,
) -> Result<Json<List<DeliveryAttemptResponse>>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let attempts = delivery_attempts(&mut tx, id).await?;
    tx.commit().await?;
    let attempts = attempts.ok_or_else(delivery_not_found)?;
    Ok(Json(List {
        data: attempts
            .into_iter()
            .map(DeliveryAttemptResponse::from)
            .collect(),
    }))
}

/// Redeliver
///
/// Sends the delivery once more, whatever its state. If an attempt is already pending, it is made now.
#[utoipa::path(
    post,
    path = "/v1/deliveries/{id}/redeliver",
    operation_id = "redeliver",
    tag = "webhooks",
    responses(
        (status = 202, description = "The job that makes the delivery", body = StartedJobResponse),
        (status = 409, description = "The endpoint is disabled or deleted, or the payload is no longer stored"),
    )
)]
pub(super) async fn redeliver(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksManage>,
    PathId(id): PathId<DeliveryId>,
) -> Result<(StatusCode, Json<StartedJobResponse>), Problem> {
    let mut tx = state.begin(&caller).await?;
    let job_id = match webhooks::redeliver(&mut tx, state.engine(), id).await? {
        Ok(job_id) => job_id,
        Err(RedeliverError::NotFound) => return Err(delivery_not_found()),
        Err(error) => {
            let detail = match error {
                RedeliverError::EndpointDisabled => "endpoint is disabled; enable it first",
                RedeliverError::PayloadGone => "payload of the event is no longer stored",
                RedeliverError::EndpointGone | RedeliverError::NotFound => "endpoint was deleted",
            };
            return Err(Problem::new(Code::Conflict, detail));
        }
    };
    let entry = Entry::new("delivery.redeliver", id).after(json!({"job_id": job_id}));
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    Ok((StatusCode::ACCEPTED, Json(StartedJobResponse { job_id })))
}

fn delivery_not_found() -> Problem {
    Problem::not_found("delivery")
}
