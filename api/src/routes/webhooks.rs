//! Room: routes of webhook endpoints.
//! Takes: a caller's request. Gives: endpoints made, shown, listed, changed and deleted; a secret to
//! who may manage endpoints.
//! Never: calls an endpoint.

use std::collections::BTreeMap;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use harkara_jobs::webhook::{
    self, Endpoint, EndpointChange, EndpointStatus, NewEndpoint, change_endpoint, create_endpoint,
    delete_endpoint, endpoint_secret, list_endpoints,
};
use harkara_shared::audit::Entry;
use harkara_shared::id::EndpointId;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::{IntoParams, ToSchema};

use super::page::{Page, to_read};
use crate::ApiState;
use crate::access::{Scope, check_endpoints};
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::cursor::List;
use crate::faults::Faults;
use crate::problem::Problem;
use crate::query::{Limit, PathId, Query};

/// An endpoint that is wanted.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewEndpoint, example = json!({
    "url": "https://example.com/webhooks",
    "event_types": ["invoice.*"]
}))]
pub(super) struct EndpointRequest {
    /// Where events are posted: an https URL at a public address.
    #[schema(value_type = String, required, nullable = false, max_length = 2048)]
    url: Option<String>,
    /// Types it takes, such as `invoice.paid` or `invoice.*`; none for all.
    #[schema(value_type = Option<Vec<String>>, max_items = 100)]
    event_types: Option<Vec<String>>,
    /// Headers sent along.
    #[schema(value_type = Option<BTreeMap<String, String>>)]
    headers: Option<BTreeMap<String, String>>,
}

/// A change of an endpoint; what is left out stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndpointChange, example = json!({"status": "paused"}))]
pub(super) struct ChangeRequest {
    /// Where events are posted: an https URL at a public address.
    #[schema(max_length = 2048)]
    url: Option<String>,
    /// Types it takes, such as `invoice.paid` or `invoice.*`; none for all.
    #[schema(max_items = 100)]
    event_types: Option<Vec<String>>,
    /// Headers sent along, in place of all old ones.
    headers: Option<BTreeMap<String, String>>,
    /// Whether it is delivered to.
    status: Option<StatusName>,
}

/// Deliveries to a `paused` endpoint wait; those to a `disabled` one are skipped.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EndpointStatus)]
pub(super) enum StatusName {
    Active,
    Paused,
    Disabled,
}

impl From<EndpointStatus> for StatusName {
    fn from(status: EndpointStatus) -> Self {
        match status {
            EndpointStatus::Active => Self::Active,
            EndpointStatus::Paused => Self::Paused,
            EndpointStatus::Disabled => Self::Disabled,
        }
    }
}

impl From<StatusName> for EndpointStatus {
    fn from(name: StatusName) -> Self {
        match name {
            StatusName::Active => Self::Active,
            StatusName::Paused => Self::Paused,
            StatusName::Disabled => Self::Disabled,
        }
    }
}

/// An address that events are delivered to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub(super) struct EndpointAnswer {
    /// Id.
    #[schema(value_type = String, example = "ep_01h455vb4pex5vsknk084sn02q")]
    id: EndpointId,
    /// Where events are posted.
    #[schema(example = "https://example.com/webhooks")]
    url: String,
    /// Types it takes; none for all.
    #[schema(example = json!(["invoice.*"]))]
    event_types: Vec<String>,
    /// Headers sent along.
    headers: BTreeMap<String, String>,
    /// Whether it is delivered to.
    status: StatusName,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it was last changed.
    updated_at: DateTime<Utc>,
    /// The secret its messages are signed with. In the answer that made it only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: Option<String>,
}

impl EndpointAnswer {
    /// As the audit log tells it: headers may hold secrets of the receiver.
    fn told(&self) -> Value {
        let headers: BTreeMap<&str, &str> = self
            .headers
            .keys()
            .map(|name| (name.as_str(), "redacted"))
            .collect();
        json!({
            "url": self.url, "event_types": self.event_types, "headers": headers,
            "status": self.status,
        })
    }
}

impl From<Endpoint> for EndpointAnswer {
    fn from(endpoint: Endpoint) -> Self {
        Self {
            id: endpoint.id,
            url: endpoint.url,
            event_types: endpoint.event_types,
            headers: endpoint.headers,
            status: endpoint.status.into(),
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            secret: None,
        }
    }
}

/// The secret of an endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EndpointSecret)]
pub(super) struct SecretAnswer {
    /// The secret its messages are signed with (Standard Webhooks).
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
}

/// Create a webhook endpoint
///
/// The answer holds the secret its messages are signed with. Needs the scope `webhooks:manage`.
#[utoipa::path(
    post,
    path = "/v1/webhook-endpoints",
    operation_id = "create_endpoint",
    tag = "webhooks",
    request_body = EndpointRequest,
    responses((status = 201, description = "The endpoint, with its secret", body = EndpointAnswer,
        headers(("Location" = String, description = "Path of the endpoint"))))
)]
pub(super) async fn create(
    State(state): State<ApiState>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, Problem> {
    caller.require(Scope::WebhooksManage)?;
    let mut faults = Faults::default();
    let request: EndpointRequest = body.members(&mut faults).unwrap_or_default();
    if request.url.is_none() {
        faults.add("", "/url", "missing", "must be there");
    }
    let new = NewEndpoint {
        url: request.url.unwrap_or_default(),
        event_types: request.event_types.unwrap_or_default(),
        headers: request.headers.unwrap_or_default(),
    };
    faults.extend("", new.check(state.egress()));
    faults.none_in_body()?;
    let mut tx = state.begin(&caller).await?;
    if !caller.administers() {
        check_endpoints(&mut tx).await?;
    }
    let (endpoint, secret) = create_endpoint(&mut tx, state.keys(), new).await?;
    let answer = EndpointAnswer::from(endpoint);
    let entry = Entry::new("endpoint.create", answer.id).after(answer.told());
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    let location = [(LOCATION, format!("/v1/webhook-endpoints/{}", answer.id))];
    let answer = EndpointAnswer {
        secret: Some(secret.expose()),
        ..answer
    };
    Ok((StatusCode::CREATED, location, Json(answer)).into_response())
}

/// Which endpoints to list.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EndpointQuery {
    /// How many endpoints a page holds.
    #[serde(default, skip_serializing)]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: Limit,
    /// `next_cursor` of the page before.
    #[serde(skip_serializing)]
    cursor: Option<String>,
}

/// List webhook endpoints, newest first
///
/// Needs the scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/v1/webhook-endpoints",
    operation_id = "list_endpoints",
    tag = "webhooks",
    params(EndpointQuery),
    responses((status = 200, description = "A page of endpoints", body = Page<EndpointAnswer>))
)]
pub(super) async fn list(
    State(state): State<ApiState>,
    caller: Caller,
    Query(query): Query<EndpointQuery>,
) -> Result<Json<Page<EndpointAnswer>>, Problem> {
    caller.require(Scope::WebhooksRead)?;
    let list = List::of("/v1/webhook-endpoints", caller.tenant, &query);
    let before = state
        .cursors()
        .before(list, query.cursor.as_deref())?
        .map(EndpointId::from_uuid);
    let mut tx = state.begin(&caller).await?;
    let endpoints = list_endpoints(&mut tx, before, to_read(query.limit)).await?;
    tx.commit().await?;
    let place = |endpoint: &Endpoint| endpoint.id.as_uuid().into_bytes();
    Ok(Json(Page::of(
        endpoints,
        query.limit,
        state.cursors(),
        list,
        place,
        EndpointAnswer::from,
    )))
}

/// Show a webhook endpoint
///
/// Needs the scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/v1/webhook-endpoints/{id}",
    operation_id = "get_endpoint",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's id",
        example = "ep_01h455vb4pex5vsknk084sn02q")),
    responses((status = 200, description = "The endpoint", body = EndpointAnswer))
)]
pub(super) async fn show(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<EndpointAnswer>, Problem> {
    caller.require(Scope::WebhooksRead)?;
    let mut tx = state.begin(&caller).await?;
    let endpoint = webhook::endpoint(&mut tx, id).await?;
    tx.commit().await?;
    endpoint
        .map(|endpoint| Json(endpoint.into()))
        .ok_or_else(no_endpoint)
}

/// Change a webhook endpoint
///
/// Needs the scope `webhooks:manage`.
#[utoipa::path(
    patch,
    path = "/v1/webhook-endpoints/{id}",
    operation_id = "change_endpoint",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's id",
        example = "ep_01h455vb4pex5vsknk084sn02q")),
    request_body = ChangeRequest,
    responses((status = 200, description = "The endpoint as it is now", body = EndpointAnswer))
)]
pub(super) async fn change(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
    body: JsonBody,
) -> Result<Json<EndpointAnswer>, Problem> {
    caller.require(Scope::WebhooksManage)?;
    let mut faults = Faults::default();
    let request: ChangeRequest = body.members(&mut faults).unwrap_or_default();
    let change = EndpointChange {
        url: request.url,
        event_types: request.event_types,
        headers: request.headers,
        status: request.status.map(EndpointStatus::from),
    };
    faults.extend("", change.check(state.egress()));
    faults.none_in_body()?;
    let mut tx = state.begin(&caller).await?;
    let before = webhook::endpoint(&mut tx, id).await?;
    let before = EndpointAnswer::from(before.ok_or_else(no_endpoint)?);
    let after = change_endpoint(&mut tx, state.engine(), id, change).await?;
    let after = EndpointAnswer::from(after.ok_or_else(no_endpoint)?);
    let entry = Entry::new("endpoint.change", id)
        .before(before.told())
        .after(after.told());
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    Ok(Json(after))
}

/// Delete a webhook endpoint
///
/// Its deliveries stay to be read; those that wait are skipped. Needs the scope `webhooks:manage`.
#[utoipa::path(
    delete,
    path = "/v1/webhook-endpoints/{id}",
    operation_id = "delete_endpoint",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's id",
        example = "ep_01h455vb4pex5vsknk084sn02q")),
    responses((status = 204, description = "The endpoint is gone"))
)]
pub(super) async fn delete(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<StatusCode, Problem> {
    caller.require(Scope::WebhooksManage)?;
    let mut tx = state.begin(&caller).await?;
    let before = webhook::endpoint(&mut tx, id).await?;
    let before = EndpointAnswer::from(before.ok_or_else(no_endpoint)?);
    if !delete_endpoint(&mut tx, id).await? {
        return Err(no_endpoint());
    }
    let entry = Entry::new("endpoint.delete", id).before(before.told());
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Show the secret of a webhook endpoint
///
/// A person confirms first that it is they (`POST /v1/session/confirm`). Needs the scope `webhooks:manage`.
#[utoipa::path(
    get,
    path = "/v1/webhook-endpoints/{id}/secret",
    operation_id = "get_endpoint_secret",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's id",
        example = "ep_01h455vb4pex5vsknk084sn02q")),
    responses((status = 200, description = "The secret", body = SecretAnswer))
)]
pub(super) async fn secret(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<SecretAnswer>, Problem> {
    caller.require(Scope::WebhooksManage)?;
    caller.require_confirmed()?;
    let mut tx = state.begin(&caller).await?;
    let secret = endpoint_secret(&mut tx, state.keys(), id).await?;
    let secret = secret.ok_or_else(no_endpoint)?.expose();
    caller
        .record(&mut tx, &Entry::new("endpoint.reveal", id))
        .await?;
    tx.commit().await?;
    Ok(Json(SecretAnswer { secret }))
}

fn no_endpoint() -> Problem {
    Problem::not_found("endpoint")
}
