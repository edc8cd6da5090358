//! Routes of API keys.
//!
//! Creates, lists, shows, changes, rotates and revokes keys, each change with an entry in the audit log.
//! Never returns a key's text twice and never lets a caller create a key with scopes that the caller lacks.

pub(super) mod limits;
mod request;
mod response;

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use harkara_accounts::{
    self as accounts, ApiKey, KeyChange, KeyTier, NewKey, add_api_key, is_name,
};
use harkara_shared::audit::Entry;
use harkara_shared::clock;
use harkara_shared::database::TenantTx;
use harkara_shared::id::ApiKeyId;

use self::request::{
    ApiKeyChangeRequest, NewApiKeyRequest, RotateApiKeyRequest, parse_networks, validate_expiry,
    validate_new_key,
};
use self::response::ApiKeyResponse;
use crate::ApiState;
use crate::auth::{Authorized, Caller, Confirmed, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::paging::{Page, Paging};
use crate::problem::{Code, Problem};
use crate::query::PathId;

/// How long a rotated key stays valid by default, and the maximum.
const DEFAULT_GRACE: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_GRACE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Create an API key
///
/// The response contains the key, which is never shown again. The caller must have all of its scopes. Its
/// tier is at most the tenant's: `free` for FREE, `business` for PRO, `enterprise` for ENTERPRISE, or the
/// tier of the tenant's best key if that is higher. A tenant whose tier is `free`, `developer` or
/// `business` can have 2, 10 or 50 valid keys.
#[utoipa::path(
    post,
    path = "/v1/api-keys",
    operation_id = "create_api_key",
    tag = "keys",
    request_body = NewApiKeyRequest,
    responses((status = 201, description = "The key, including its text", body = ApiKeyResponse,
        headers(("Location" = String, description = "Path of the key"))))
)]
pub(in crate::routes) async fn create_api_key(
    State(state): State<ApiState>,
    caller: Authorized<Confirmed<scope::KeysManage>>,
    body: JsonBody,
) -> Result<Response, Problem> {
    let mut errors = FieldErrors::default();
    let request: NewApiKeyRequest = body.members(&mut errors).unwrap_or_default();
    let tier = request.tier.unwrap_or(KeyTier::Free);
    let new = validate_new_key(request, &caller, &mut errors);
    errors.into_body_result()?;
    let mut tx = state.begin(&caller).await?;
    if !caller.is_platform_admin() {
        require_tier_allowed(&mut tx, tier).await?;
        accounts::check_keys(&mut tx).await?;
    }
    let (key, text) = add_api_key(&mut tx, state.keys(), new, None, caller.actor()).await?;
    tx.commit().await?;
    Ok(created_response(key, text.expose()))
}

/// Returns an error unless the tenant's keys may have this tier.
async fn require_tier_allowed(tx: &mut TenantTx, tier: KeyTier) -> Result<(), Problem> {
    let max = accounts::allowance(tx).await?;
    if tier <= max {
        return Ok(());
    }
    let mut errors = FieldErrors::default();
    let detail = format!("must be at most `{max}`, the highest tier of the tenant");
    errors.add("", "/tier", "above_contract", detail);
    errors.into_body_result()
}

fn created_response(key: ApiKey, text: &str) -> Response {
    let location = [(LOCATION, format!("/v1/api-keys/{}", key.id))];
    let response = ApiKeyResponse {
        key: Some(text.to_owned()),
        ..key.into()
    };
    (StatusCode::CREATED, location, Json(response)).into_response()
}

/// List API keys, newest first
///
/// Includes revoked and expired keys.
#[utoipa::path(
    get,
    path = "/v1/api-keys",
    operation_id = "list_api_keys",
    tag = "keys",
    responses((status = 200, description = "A page of keys", body = Page<ApiKeyResponse>))
)]
pub(in crate::routes) async fn list_api_keys(
    State(state): State<ApiState>,
    caller: Authorized<scope::KeysManage>,
    paging: Paging<ApiKeyId>,
) -> Result<Json<Page<ApiKeyResponse>>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let keys = accounts::list_api_keys(&mut tx, paging.after, paging.fetch_limit()).await?;
    tx.commit().await?;
    Ok(paging.page(keys, |key| key.id, ApiKeyResponse::from))
}

/// Get an API key
#[utoipa::path(
    get,
    path = "/v1/api-keys/{id}",
    operation_id = "get_api_key",
    tag = "keys",
    responses((status = 200, description = "The key", body = ApiKeyResponse))
)]
pub(in crate::routes) async fn get_api_key(
    State(state): State<ApiState>,
    caller: Authorized<scope::KeysManage>,
    PathId(id): PathId<ApiKeyId>,
) -> Result<Json<ApiKeyResponse>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let key = find_key(&mut tx, id).await?;
    tx.commit().await?;
    Ok(Json(key.into()))
}

/// Change an API key
#[utoipa::path(
    patch,
    path = "/v1/api-keys/{id}",
    operation_id = "change_api_key",
    tag = "keys",
    request_body = ApiKeyChangeRequest,
    responses(
        (status = 200, description = "The changed key", body = ApiKeyResponse),
        (status = 409, description = "The key was revoked"),
    )
)]
pub(in crate::routes) async fn change_api_key(
    State(state): State<ApiState>,
    caller: Authorized<Confirmed<scope::KeysManage>>,
    PathId(id): PathId<ApiKeyId>,
    body: JsonBody,
) -> Result<Json<ApiKeyResponse>, Problem> {
    let mut errors = FieldErrors::default();
    let request: ApiKeyChangeRequest = body.members(&mut errors).unwrap_or_default();
    if request.name.as_deref().is_some_and(|name| !is_name(name)) {
        errors.add("", "/name", "invalid", "must have 1 to 200 characters");
    }
    let expires_at = request.expires_at.map(|moment| moment.0);
    validate_expiry(expires_at, &mut errors);
    let addresses = request
        .addresses
        .map(|addresses| parse_networks(addresses, &mut errors))
        .map(|networks| networks.iter().map(ToString::to_string).collect());
    errors.into_body_result()?;
    let mut tx = state.begin(&caller).await?;
    let before = find_working_key(&mut tx, &caller, id).await?;
    let change = KeyChange {
        name: request.name,
        addresses,
        expires_at,
        revoke: false,
    };
    let key = apply_change(&mut tx, &caller, &before, change, "key.change").await?;
    tx.commit().await?;
    state.keyring().forget(&key.public_id).await;
    Ok(Json(key.into()))
}

/// Revoke an API key
///
/// The key stops working immediately in this process and everywhere within a second.
#[utoipa::path(
    delete,
    path = "/v1/api-keys/{id}",
    operation_id = "revoke_api_key",
    tag = "keys",
    responses((status = 204, description = "The key was revoked"))
)]
pub(in crate::routes) async fn revoke_api_key(
    State(state): State<ApiState>,
    caller: Authorized<scope::KeysManage>,
    PathId(id): PathId<ApiKeyId>,
) -> Result<StatusCode, Problem> {
    let mut tx = state.begin(&caller).await?;
    let before = find_key(&mut tx, id).await?;
    if before.revoked_at.is_none() {
        let change = KeyChange {
            revoke: true,
            ..KeyChange::default()
        };
        apply_change(&mut tx, &caller, &before, change, "key.revoke").await?;
    }
    tx.commit().await?;
    state.keyring().forget(&before.public_id).await;
    Ok(StatusCode::NO_CONTENT)
}

/// Rotate an API key
///
/// Creates a new key with the same scopes and the same request budget. The old key stays valid for the
/// grace period; the key before it is revoked.
#[utoipa::path(
    post,
    path = "/v1/api-keys/{id}/rotate",
    operation_id = "rotate_api_key",
    tag = "keys",
    request_body = RotateApiKeyRequest,
    responses(
        (status = 201, description = "The new key, including its text", body = ApiKeyResponse,
            headers(("Location" = String, description = "Path of the key"))),
        (status = 409, description = "The key was revoked or already rotated"),
    )
)]
pub(in crate::routes) async fn rotate_api_key(
    State(state): State<ApiState>,
    caller: Authorized<Confirmed<scope::KeysManage>>,
    PathId(id): PathId<ApiKeyId>,
    body: JsonBody,
) -> Result<Response, Problem> {
    let mut errors = FieldErrors::default();
    let request: RotateApiKeyRequest = body.members(&mut errors).unwrap_or_default();
    let grace = request.grace.map_or(DEFAULT_GRACE, Duration::from);
    if grace > MAX_GRACE {
        errors.add(
            "",
            "/grace",
            "out_of_range",
            "must be between `0s` and `7d`",
        );
    }
    errors.into_body_result()?;
    let mut tx = state.begin(&caller).await?;
    let old = find_working_key(&mut tx, &caller, id).await?;
    if accounts::has_successor(&mut tx, id).await? {
        let detail = "key was already rotated; rotate its successor";
        return Err(Problem::new(Code::Conflict, detail));
    }
    // In a chain of rotations, at most two keys are valid at once.
    let mut revoked = None;
    if let Some(before) = old.rotated_from {
        let ends = KeyChange {
            revoke: true,
            ..KeyChange::default()
        };
        let before = accounts::find_api_key(&mut tx, before).await?;
        if let Some(before) = before.filter(|key| key.revoked_at.is_none()) {
            revoked = Some(apply_change(&mut tx, &caller, &before, ends, "key.revoke").await?);
        }
    }
    let new = NewKey {
        tenant: old.tenant_id,
        name: old.name.clone(),
        tier: old.tier,
        scopes: old
            .scopes
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect(),
        // A rotation does not extend the key's lifetime.
        expires_at: old.expires_at,
        addresses: old
            .addresses
            .iter()
            .filter_map(|text| text.parse().ok())
            .collect(),
    };
    let (key, text) = add_api_key(&mut tx, state.keys(), new, Some(old.id), caller.actor()).await?;
    let ends = KeyChange {
        expires_at: Some(clock::now() + grace),
        revoke: grace.is_zero(),
        ..KeyChange::default()
    };
    apply_change(&mut tx, &caller, &old, ends, "key.change").await?;
    tx.commit().await?;
    for key in revoked.iter().chain([&old]) {
        state.keyring().forget(&key.public_id).await;
    }
    Ok(created_response(key, text.expose()))
}

async fn find_key(tx: &mut TenantTx, id: ApiKeyId) -> Result<ApiKey, Problem> {
    let key = accounts::find_api_key(tx, id).await?;
    key.ok_or_else(|| Problem::not_found("API key"))
}

/// Returns the key if it is valid and has no scope that the caller lacks: a caller who changes a key could
/// use it.
async fn find_working_key(
    tx: &mut TenantTx,
    caller: &Caller,
    id: ApiKeyId,
) -> Result<ApiKey, Problem> {
    let key = find_key(tx, id).await?;
    for scope in key.scopes.iter().filter_map(|name| name.parse().ok()) {
        caller.require(scope)?;
    }
    let is_invalid =
        key.revoked_at.is_some() || key.expires_at.is_some_and(|moment| moment <= clock::now());
    if is_invalid {
        let detail = "key was revoked or has expired; create a new one";
        return Err(Problem::new(Code::Conflict, detail));
    }
    Ok(key)
}

async fn apply_change(
    tx: &mut TenantTx,
    caller: &Caller,
    before: &ApiKey,
    change: KeyChange,
    action: &'static str,
) -> Result<ApiKey, Problem> {
    let after = accounts::change_api_key(tx, before.id, change).await?;
    let after = after.ok_or_else(|| Problem::not_found("API key"))?;
    let entry = Entry::new(action, before.id).before(before).after(&after);
    caller.record(tx, &entry).await?;
    Ok(after)
}
