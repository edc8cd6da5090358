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
use harkara_accounts::check_endpoints;
use harkara_shared::audit::Entry;
use harkara_shared::id::EndpointId;
use harkara_webhooks::{self as webhooks, Endpoint, lane};

use self::request::{EndpointChangeRequest, NewEndpointRequest};
use self::response::EndpointResponse;

use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::paging::{Page, Paging};
use crate::problem::Problem;
use crate::query::PathId;

/// Create a webhook endpoint
///
/// The response contains the secret that signs the endpoint's messages.
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
    caller: Authorized<scope::WebhooksManage>,
    body: JsonBody,
) -> Result<Response, Problem> {
    let mut errors = FieldErrors::default();
    let request: NewEndpointRequest = body.members(&mut errors).unwrap_or_default();
    let new = request.read(state.egress(), &mut errors);
    errors.into_body_result()?;
    let mut tx = state.begin(&caller).await?;
    if !caller.is_platform_admin() {
        check_endpoints(&mut tx).await?;
    }
    let (endpoint, secret) = webhooks::create_endpoint(&mut tx, state.keys(), new).await?;
    let mut response = EndpointResponse::from(endpoint.clone());
    let entry = Entry::new("endpoint.create", response.id).after(response.audit_value());
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    // The endpoint is committed and its secret can be shown only in this response, so a failure to
    // configure the lane is not an error: the nightly maintenance configures it.
    if let Err(error) = lane::apply_limits(state.engine(), caller.tenant, &endpoint).await {
        tracing::warn!(%error, endpoint.id = %endpoint.id, "could not configure lane of endpoint; nightly maintenance will configure it");
    }
    let location = [(LOCATION, format!("/v1/webhook-endpoints/{}", response.id))];
    response.secret = Some(secret.expose());
    Ok((StatusCode::CREATED, location, Json(response)).into_response())
}

/// List webhook endpoints, newest first
#[utoipa::path(
    get,
    path = "/v1/webhook-endpoints",
    operation_id = "list_endpoints",
    tag = "webhooks",
    responses((status = 200, description = "A page of endpoints", body = Page<EndpointResponse>))
)]
pub(super) async fn list_endpoints(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksRead>,
    paging: Paging<EndpointId>,
) -> Result<Json<Page<EndpointResponse>>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let endpoints = webhooks::list_endpoints(&mut tx, paging.after, paging.fetch_limit()).await?;
    tx.commit().await?;
    Ok(paging.page(
        endpoints,
        |endpoint: &Endpoint| endpoint.id,
        EndpointResponse::from,
    ))
}

/// Get a webhook endpoint
#[utoipa::path(
    get,
    path = "/v1/webhook-endpoints/{id}",
    operation_id = "get_endpoint",
    tag = "webhooks",
    responses((status = 200, description = "The endpoint", body = EndpointResponse))
)]
pub(super) async fn get_endpoint(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksRead>,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<EndpointResponse>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let endpoint = webhooks::find_endpoint(&mut tx, id).await?;
    tx.commit().await?;
    endpoint
        .map(|endpoint| Json(endpoint.into()))
        .ok_or_else(endpoint_not_found)
}

/// Change a webhook endpoint
#[utoipa::path(
    patch,
    path = "/v1/webhook-endpoints/{id}",
    operation_id = "change_endpoint",
    tag = "webhooks",
    request_body = EndpointChangeRequest,
    responses((status = 200, description = "The changed endpoint", body = EndpointResponse))
)]
pub(super) async fn change_endpoint(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksManage>,
    PathId(id): PathId<EndpointId>,
    body: JsonBody,
) -> Result<Json<EndpointResponse>, Problem> {
    let mut errors = FieldErrors::default();
    let request: EndpointChangeRequest = body.members(&mut errors).unwrap_or_default();
    let change = request.read(state.egress(), &mut errors);
    errors.into_body_result()?;
    let mut tx = state.begin(&caller).await?;
    let before = webhooks::find_endpoint(&mut tx, id).await?;
    let before = before.ok_or_else(endpoint_not_found)?;
    let after =
        webhooks::change_endpoint(&mut tx, state.engine(), state.keys(), id, change).await?;
    let after = after.ok_or_else(endpoint_not_found)?;
    let response = EndpointResponse::from(after.clone());
    let old_ordering = before.ordering;
    let entry = Entry::new("endpoint.change", id)
        .before(EndpointResponse::from(before).audit_value())
        .after(response.audit_value());
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    // The engine is configured after the commit. If that fails, repeating the request configures it again.
    if old_ordering != after.ordering {
        lane::remove_limits(state.engine(), caller.tenant, id, old_ordering).await?;
    }
    lane::apply_limits(state.engine(), caller.tenant, &after).await?;
    Ok(Json(response))
}

/// Delete a webhook endpoint
///
/// Its deliveries can still be read; pending deliveries are skipped.
#[utoipa::path(
    delete,
    path = "/v1/webhook-endpoints/{id}",
    operation_id = "delete_endpoint",
    tag = "webhooks",
    responses((status = 204, description = "The endpoint was deleted"))
)]
pub(super) async fn delete_endpoint(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksManage>,
    PathId(id): PathId<EndpointId>,
) -> Result<StatusCode, Problem> {
    let mut tx = state.begin(&caller).await?;
    let before = webhooks::find_endpoint(&mut tx, id).await?;
    let before = before.ok_or_else(endpoint_not_found)?;
    let ordering = before.ordering;
    if !webhooks::delete_endpoint(&mut tx, state.engine(), id).await? {
        return Err(endpoint_not_found());
    }
    let entry =
        Entry::new("endpoint.delete", id).before(EndpointResponse::from(before).audit_value());
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    lane::remove_limits(state.engine(), caller.tenant, id, ordering).await?;
    Ok(StatusCode::NO_CONTENT)
}

fn endpoint_not_found() -> Problem {
    Problem::not_found("endpoint")
}
