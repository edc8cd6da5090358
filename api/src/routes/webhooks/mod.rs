//! Routes of webhook endpoints.
//!
//! Creates, lists, shows, changes and deletes endpoints. Never sends a request to an endpoint itself.

pub(super) mod keys;
pub(super) mod redelivery;
mod request;
mod response;
pub(super) mod settings;
pub(super) mod stats;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use harkara_shared::audit::Entry;
use harkara_shared::id::EndpointId;
use harkara_webhooks::{self as webhooks, Endpoint, lane};
use serde::{Deserialize, Serialize};
use utoipa::IntoParams;

use self::request::{EndpointChangeRequest, NewEndpointRequest};
use self::response::EndpointResponse;
use super::page::{Page, to_read};
use crate::ApiState;
use crate::access::{Scope, check_endpoints};
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::cursor::List;
use crate::faults::Faults;
use crate::problem::Problem;
use crate::query::{Limit, PathId, Query, is_of_page};

/// Create a webhook endpoint
///
/// The response contains the secret that signs the endpoint's messages. Needs the scope `webhooks:manage`.
#[utoipa::path(
    post,
    path = "/v1/webhook-endpoints",
    operation_id = "create_endpoint",
    tag = "webhooks",
    request_body = NewEndpointRequest,
    responses((status = 201, description = "The endpoint, with its secret", body = EndpointResponse,
        headers(("Location" = String, description = "Path of the endpoint"))))
)]
pub(super) async fn create_endpoint(
    State(state): State<ApiState>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, Problem> {
    caller.require(Scope::WebhooksManage)?;
    let mut faults = Faults::default();
    let request: NewEndpointRequest = body.members(&mut faults).unwrap_or_default();
    let new = request.read(state.egress(), &mut faults);
    faults.none_in_body()?;
    let mut tx = state.begin(&caller).await?;
    if !caller.administers() {
        check_endpoints(&mut tx).await?;
    }
    let (endpoint, secret) = webhooks::create_endpoint(&mut tx, state.keys(), new).await?;
    let mut response = EndpointResponse::from(endpoint.clone());
    let entry = Entry::new("endpoint.create", response.id).after(response.audit_value());
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    // The endpoint is committed and its secret can be shown only in this response, so a failure to
    // configure the lane is not an error: the nightly maintenance configures it.
    if let Err(error) = lane::apply(state.engine(), caller.tenant, &endpoint).await {
        tracing::warn!(%error, endpoint.id = %endpoint.id, "could not configure lane of endpoint; nightly maintenance will configure it");
    }
    let location = [(LOCATION, format!("/v1/webhook-endpoints/{}", response.id))];
    response.secret = Some(secret.expose());
    Ok((StatusCode::CREATED, location, Json(response)).into_response())
}

/// Page of a list of endpoints.
#[derive(Debug, Deserialize, Serialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EndpointQuery {
    /// Maximum number of endpoints per page. Default 50.
    #[serde(default, skip_serializing_if = "is_of_page")]
    #[param(value_type = Option<u32>, minimum = 1, maximum = 200, default = 50)]
    limit: Limit,
    /// Cursor of the page: `next_cursor` of the previous page.
    #[serde(skip_serializing_if = "is_of_page")]
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
    responses((status = 200, description = "A page of endpoints", body = Page<EndpointResponse>))
)]
pub(super) async fn list_endpoints(
    State(state): State<ApiState>,
    caller: Caller,
    Query(query): Query<EndpointQuery>,
) -> Result<Json<Page<EndpointResponse>>, Problem> {
    caller.require(Scope::WebhooksRead)?;
    let list = List::of("/v1/webhook-endpoints", caller.tenant, &query);
    let before = state
        .cursors()
        .before(list, query.cursor.as_deref())?
        .map(EndpointId::from_uuid);
    let mut tx = state.begin(&caller).await?;
    let endpoints = webhooks::list_endpoints(&mut tx, before, to_read(query.limit)).await?;
    tx.commit().await?;
    let place = |endpoint: &Endpoint| endpoint.id.as_uuid().into_bytes();
    Ok(Json(Page::of(
        endpoints,
        query.limit,
        state.cursors(),
        list,
        place,
        EndpointResponse::from,
    )))
}

/// Get a webhook endpoint
///
/// Needs the scope `webhooks:read`.
#[utoipa::path(
    get,
    path = "/v1/webhook-endpoints/{id}",
    operation_id = "get_endpoint",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's id",
        example = "ep_01h455vb4pex5vsknk084sn02q")),
    responses((status = 200, description = "The endpoint", body = EndpointResponse))
)]
pub(super) async fn get_endpoint(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<EndpointResponse>, Problem> {
    caller.require(Scope::WebhooksRead)?;
    let mut tx = state.begin(&caller).await?;
    let endpoint = webhooks::endpoint(&mut tx, id).await?;
    tx.commit().await?;
    endpoint
        .map(|endpoint| Json(endpoint.into()))
        .ok_or_else(endpoint_not_found)
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
    request_body = EndpointChangeRequest,
    responses((status = 200, description = "The changed endpoint", body = EndpointResponse))
)]
pub(super) async fn change_endpoint(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
    body: JsonBody,
) -> Result<Json<EndpointResponse>, Problem> {
    caller.require(Scope::WebhooksManage)?;
    let mut faults = Faults::default();
    let request: EndpointChangeRequest = body.members(&mut faults).unwrap_or_default();
    let change = request.read(state.egress(), &mut faults);
    faults.none_in_body()?;
    let mut tx = state.begin(&caller).await?;
    let before = webhooks::endpoint(&mut tx, id).await?;
    let before = before.ok_or_else(endpoint_not_found)?;
    let after =
        webhooks::change_endpoint(&mut tx, state.engine(), state.keys(), id, change).await?;
    let after = after.ok_or_else(endpoint_not_found)?;
    let response = EndpointResponse::from(after.clone());
    let old_order = before.ordering;
    let entry = Entry::new("endpoint.change", id)
        .before(EndpointResponse::from(before).audit_value())
        .after(response.audit_value());
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    // The engine is configured after the commit. If that fails, repeating the request configures it again.
    if old_order != after.ordering {
        lane::forget(state.engine(), caller.tenant, id, old_order).await?;
    }
    lane::apply(state.engine(), caller.tenant, &after).await?;
    Ok(Json(response))
}

/// Delete a webhook endpoint
///
/// Its deliveries can still be read; pending deliveries are skipped. Needs the scope `webhooks:manage`.
#[utoipa::path(
    delete,
    path = "/v1/webhook-endpoints/{id}",
    operation_id = "delete_endpoint",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's id",
        example = "ep_01h455vb4pex5vsknk084sn02q")),
    responses((status = 204, description = "The endpoint was deleted"))
)]
pub(super) async fn delete_endpoint(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<StatusCode, Problem> {
    caller.require(Scope::WebhooksManage)?;
    let mut tx = state.begin(&caller).await?;
    let before = webhooks::endpoint(&mut tx, id).await?;
    let before = before.ok_or_else(endpoint_not_found)?;
    let ordering = before.ordering;
    if !webhooks::delete_endpoint(&mut tx, state.engine(), id).await? {
        return Err(endpoint_not_found());
    }
    let entry =
        Entry::new("endpoint.delete", id).before(EndpointResponse::from(before).audit_value());
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    lane::forget(state.engine(), caller.tenant, id, ordering).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn endpoint_not_found() -> Problem {
    Problem::not_found("endpoint")
}
