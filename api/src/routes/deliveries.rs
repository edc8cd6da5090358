//! Room: routes of deliveries.
//! Takes: a caller's request. Gives: deliveries and their attempts; one made again.
//! Never: delivers itself.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use harkara_jobs::webhook::{
    self, Cause, Delivery, DeliveryAttempt, DeliveryFilter, DeliveryState, SentRequest, Unsent,
    delivery_attempts,
};
use harkara_shared::audit::Entry;
use harkara_shared::id::{DeliveryId, EndpointId, JobId};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::{IntoParams, ToSchema};

use super::jobs::ErrorResponse;
use super::page::{Page, Whole, to_read};
use super::webhooks::redelivery::StartedJobResponse;
use crate::ApiState;
use crate::access::Scope;
use crate::auth::Caller;
use crate::cursor::List;
use crate::problem::{Code, Problem};
use crate::query::{Limit, PathId, Query, Status, is_of_page};
use crate::time::Moment;

/// What has become of a delivery: `failed` was given up; `skipped` was not sent, because its
/// endpoint was disabled or deleted.
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

/// One event on its way to one endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Delivery)]
pub(super) struct DeliveryResponse {
    /// Id.
    #[schema(value_type = String, example = "dlv_01h455vb4pex5vsknk084sn02q")]
    id: DeliveryId,
    /// The event.
    #[schema(example = "evt_01h455vb4pex5vsknk084sn02q")]
    event_id: String,
    /// Where it goes.
    #[schema(value_type = String, example = "ep_01h455vb4pex5vsknk084sn02q")]
    endpoint_id: EndpointId,
    /// The job that delivers it; null when it was skipped.
    #[schema(required, value_type = Option<String>, example = "job_0000000000500")]
    job_id: Option<JobId>,
    /// What has become of it.
    state: DeliveryStateName,
    /// Requests made.
    #[schema(example = 1)]
    attempts: u32,
    /// What the receiver answered last.
    #[schema(required, example = 204)]
    status_code: Option<u16>,
    /// When its event was posted.
    created_at: DateTime<Utc>,
    /// When it reached its final state.
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
    /// 1 for the first.
    #[schema(example = 1)]
    number: u32,
    /// Why it was made.
    cause: Cause,
    /// When it was made.
    started_at: DateTime<Utc>,
    /// Milliseconds to its end.
    #[schema(example = 87)]
    duration_ms: u64,
    /// What was sent.
    #[schema(required)]
    request: Option<SentRequestResponse>,
    /// The address that the connection was made to.
    #[schema(required, example = "93.184.215.14")]
    address: Option<String>,
    /// What the receiver answered, if it did.
    #[schema(required, example = 204)]
    status_code: Option<u16>,
    /// The first headers of the answer, 4 KiB of them; values that may be secrets are redacted.
    response_headers: BTreeMap<String, String>,
    /// The first 16 KiB of the answer.
    #[schema(required)]
    response_body: Option<String>,
    /// Whether there was more of it.
    response_truncated: bool,
    /// What went wrong.
    #[schema(required)]
    error: Option<ErrorResponse>,
}

/// What was sent.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = DeliveryRequest)]
pub(super) struct SentRequestResponse {
    /// Always POST.
    #[schema(example = "POST")]
    method: &'static str,
    /// Where.
    #[schema(example = "https://example.com/webhooks")]
    url: String,
    /// Headers; signatures and the endpoint's own values are redacted.
    headers: BTreeMap<String, String>,
    /// The first 16 KiB of the body; null when the payload is not kept any more.
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
            cause: attempt.cause,
            started_at: attempt.started_at,
            duration_ms: attempt.duration_ms,
            request: attempt.request.map(SentRequestResponse::from),
            address: attempt.address,
            status_code: attempt.status_code,
            response_headers: attempt.response_headers,
            response_body: attempt.response_body,
            response_truncated: attempt.is_cut,
            error: attempt.error.map(ErrorResponse::from),
        }
    }
}

/// Which deliveries to list. Parameters that are given must all hold.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeliveryQuery {
    /// To this endpoint.
    #[param(value_type = Option<String>, example = "ep_01h455vb4pex5vsknk084sn02q")]
    endpoint_id: Option<EndpointId>,
    /// Of this event.
    #[param(example = "evt_01h455vb4pex5vsknk084sn02q")]
    event_id: Option<String>,
    /// In this state.
    state: Option<DeliveryStateName>,
    /// Whose receiver answered this last.
    #[param(value_type = Option<u16>, minimum = 100, maximum = 599, example = 500)]
    status_code: Option<Status>,
    /// Made at this moment or later.
    #[param(value_type = Option<String>, format = DateTime)]
    created_after: Option<Moment>,
    /// Made at this moment or earlier.
    #[param(value_type = Option<String>, format = DateTime)]
    created_before: Option<Moment>,
    /// How many deliveries a page holds.
    #[serde(default, skip_serializing_if = "is_of_page")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: Limit,
    /// `next_cursor` of the page before, with the same filters.
    #[serde(skip_serializing_if = "is_of_page")]
    cursor: Option<String>,
}

/// List deliveries, newest first
///
/// At most five thousand deliveries are looked at for a page: where few match, it may hold fewer than
/// `limit`, or none, with a `next_cursor` all the same. Go on while there is one. Needs the scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/v1/deliveries",
    operation_id = "list_deliveries",
    tag = "webhooks",
    params(DeliveryQuery),
    responses((status = 200, description = "A page of deliveries", body = Page<DeliveryResponse>))
)]
pub(super) async fn list_deliveries(
    State(state): State<ApiState>,
    caller: Caller,
    Query(query): Query<DeliveryQuery>,
) -> Result<Json<Page<DeliveryResponse>>, Problem> {
    caller.require(Scope::WebhooksRead)?;
    let list = List::of("/v1/deliveries", caller.tenant, &query);
    let before = state
        .cursors()
        .before(list, query.cursor.as_deref())?
        .map(DeliveryId::from_uuid);
    let filter = DeliveryFilter {
        endpoint_id: query.endpoint_id,
        event_id: query.event_id,
        state: query.state.map(DeliveryState::from),
        status_code: query.status_code.map(|status| status.0),
        created_after: query.created_after.map(DateTime::from),
        created_before: query.created_before.map(DateTime::from),
    };
    let mut tx = state.begin(&caller).await?;
    let page = webhook::list_deliveries(&mut tx, &filter, before, to_read(query.limit)).await?;
    tx.commit().await?;
    let place = |id: DeliveryId| id.as_uuid().into_bytes();
    Ok(Json(Page::up_to(
        page.deliveries,
        page.below.map(place),
        query.limit,
        state.cursors(),
        list,
        |delivery| place(delivery.id),
        DeliveryResponse::from,
    )))
}

/// Show a delivery
///
/// Needs the scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/v1/deliveries/{id}",
    operation_id = "get_delivery",
    tag = "webhooks",
    params(("id" = String, Path, description = "The delivery's id",
        example = "dlv_01h455vb4pex5vsknk084sn02q")),
    responses((status = 200, description = "The delivery", body = DeliveryResponse))
)]
pub(super) async fn get_delivery(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<DeliveryId>,
) -> Result<Json<DeliveryResponse>, Problem> {
    caller.require(Scope::WebhooksRead)?;
    let mut tx = state.begin(&caller).await?;
    let delivery = webhook::delivery(&mut tx, id).await?;
    tx.commit().await?;
    delivery
        .map(|delivery| Json(delivery.into()))
        .ok_or_else(delivery_not_found)
}

/// Show the requests made for a delivery
///
/// Oldest first. Needs the scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/v1/deliveries/{id}/attempts",
    operation_id = "list_delivery_attempts",
    tag = "webhooks",
    params(("id" = String, Path, description = "The delivery's id",
        example = "dlv_01h455vb4pex5vsknk084sn02q")),
    responses((status = 200, description = "The requests", body = Whole<DeliveryAttemptResponse>))
)]
pub(super) async fn list_delivery_attempts(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<DeliveryId>,
) -> Result<Json<Whole<DeliveryAttemptResponse>>, Problem> {
    caller.require(Scope::WebhooksRead)?;
    let mut tx = state.begin(&caller).await?;
    let attempts = delivery_attempts(&mut tx, id).await?;
    tx.commit().await?;
    let attempts = attempts.ok_or_else(delivery_not_found)?;
    Ok(Json(Whole {
        data: attempts
            .into_iter()
            .map(DeliveryAttemptResponse::from)
            .collect(),
    }))
}

/// Make a delivery again
///
/// Once, whatever became of it before; one that waits for its next attempt has it now. Needs the scope
/// `webhooks:manage`.
#[utoipa::path(
    post,
    path = "/v1/deliveries/{id}/redeliver",
    operation_id = "redeliver",
    tag = "webhooks",
    params(("id" = String, Path, description = "The delivery's id",
        example = "dlv_01h455vb4pex5vsknk084sn02q")),
    responses(
        (status = 202, description = "The job that makes it", body = StartedJobResponse),
        (status = 409, description = "The endpoint is disabled or deleted, or the payload is not kept any more"),
    )
)]
pub(super) async fn redeliver(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<DeliveryId>,
) -> Result<(StatusCode, Json<StartedJobResponse>), Problem> {
    caller.require(Scope::WebhooksManage)?;
    let mut tx = state.begin(&caller).await?;
    let job_id = match webhook::redeliver(&mut tx, state.engine(), id).await? {
        Ok(job_id) => job_id,
        Err(Unsent::NotFound) => return Err(delivery_not_found()),
        Err(error) => {
            let detail = match error {
                Unsent::EndpointDisabled => "the endpoint is disabled: enable it first",
                Unsent::PayloadGone => "the event's payload is not kept any more",
                Unsent::EndpointGone | Unsent::NotFound => "the endpoint was deleted",
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
