//! Routes of API keys.
//!
//! Creates, lists, shows, changes, rotates and revokes keys, each change with an entry in the audit log.
//! Never returns a key's text twice and never lets a caller create a key with scopes that the caller lacks.

pub(super) mod limits;

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::LOCATION;
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use harkara_shared::audit::Entry;
use harkara_shared::clock;
use harkara_shared::database::TenantTx;
use harkara_shared::duration::HumanDuration;
use harkara_shared::id::{ApiKeyId, TenantId};
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::ApiState;
use crate::access::{
    self, ApiKey, KeyChange, KeyTier, NewKey, PLATFORM_SLUG, Scope, add_key, change_key, is_name,
};
use crate::auth::{Authorized, Caller, Confirmed, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::paging::{Page, Paging};
use crate::problem::{Code, Problem};
use crate::query::PathId;
use crate::time::Timestamp;

/// How long a rotated key stays valid by default, and the maximum.
const DEFAULT_GRACE: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_GRACE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Maximum number of networks of a key.
const MAX_ADDRESSES: usize = 100;

/// An API key to create.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewApiKey, example = json!({
    "name": "billing service", "scopes": ["jobs:write", "jobs:read"], "addresses": ["192.0.2.0/24"]
}))]
pub(in crate::routes) struct NewApiKeyRequest {
    /// Display name of the key.
    #[schema(value_type = String, required, nullable = false, min_length = 1, max_length = 200)]
    name: Option<String>,
    /// Scopes of the key. The caller must have all of them.
    #[schema(value_type = Vec<Scope>, required, nullable = false, min_items = 1, max_items = 30)]
    scopes: Option<Vec<Scope>>,
    /// Tier, which sets the request limits; at most the tenant's. Default `free`.
    tier: Option<KeyTier>,
    /// When the key expires.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
    /// IP addresses or networks that may use the key. Default: all.
    #[schema(max_items = 100)]
    addresses: Option<Vec<String>>,
}

/// Changes of an API key. Members that are omitted stay unchanged.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ApiKeyChange, example = json!({"addresses": ["192.0.2.7"]}))]
pub(in crate::routes) struct ApiKeyChangeRequest {
    /// Display name of the key.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// IP addresses or networks that may use the key. An empty list allows all.
    #[schema(max_items = 100)]
    addresses: Option<Vec<String>>,
    /// When the key expires. Can only be brought forward.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Timestamp>,
}

/// Options of a rotation.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Rotation, example = json!({"grace": "24h"}))]
pub(in crate::routes) struct RotateApiKeyRequest {
    /// How long the old key stays valid, `0s` to `7d`. Default `24h`.
    grace: Option<HumanDuration>,
}

/// An API key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(in crate::routes) struct ApiKeyResponse {
    /// Id of the API key.
    id: ApiKeyId,
    /// Id of the tenant that owns the key.
    tenant_id: TenantId,
    /// Display name of the key.
    #[schema(example = "billing service")]
    name: String,
    /// The first and last characters of the key, to recognize it by.
    #[schema(example = "hk_kyjVWzwZ…Q0dYp")]
    hint: String,
    /// Scopes of the key.
    #[schema(example = json!(["jobs:read", "jobs:write"]))]
    scopes: Vec<String>,
    /// Tier, which sets the request limits.
    tier: KeyTier,
    /// IP networks that may use the key; all if empty.
    #[schema(example = json!(["192.0.2.0/24"]))]
    addresses: Vec<String>,
    /// Id of the user or API key that created the key.
    #[schema(required, example = "usr_01h455vb4pex5vsknk084sn02q")]
    created_by: Option<String>,
    /// When the request was started.
    created_at: DateTime<Utc>,
    /// When the key expires.
    #[schema(required)]
    expires_at: Option<DateTime<Utc>>,
    /// When the key was revoked.
    #[schema(required)]
    revoked_at: Option<DateTime<Utc>>,
    /// When the key was last used, to the minute.
    #[schema(required)]
    last_used_at: Option<DateTime<Utc>>,
    /// Id of the key that this key replaced by rotation.
    #[schema(required)]
    rotated_from: Option<ApiKeyId>,
    /// The key itself. Only present in the response that created it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "hk_kyjVWzwZ6XO4yxeFVgqAy14zAmvSm6VwOWXV47660Q0dYp")]
    key: Option<String>,
}

impl From<ApiKey> for ApiKeyResponse {
    fn from(key: ApiKey) -> Self {
        Self {
            id: key.id,
            tenant_id: key.tenant_id,
            name: key.name,
            hint: format!("hk_{}…{}", key.public_id, key.last4),
            scopes: key.scopes,
            tier: key.tier,
            addresses: key.addresses,
            created_by: key.created_by,
            created_at: key.created_at,
            expires_at: key.expires_at,
            revoked_at: key.revoked_at,
            last_used_at: key.last_used_at,
            rotated_from: key.rotated_from,
            key: None,
        }
    }
}

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
    let mut faults = FieldErrors::default();
    let request: NewApiKeyRequest = body.members(&mut faults).unwrap_or_default();
    let tier = request.tier.unwrap_or(KeyTier::Free);
    let new = validate_new_key(request, &caller, &mut faults);
    faults.into_body_result()?;
    let mut tx = state.begin(&caller).await?;
    if !caller.administers() {
        require_tier_allowed(&mut tx, tier).await?;
        access::check_keys(&mut tx).await?;
    }
    let (key, text) = add_key(&mut tx, state.keys(), new, None, caller.actor()).await?;
    tx.commit().await?;
    Ok(created_response(key, text.expose()))
}

fn validate_new_key(
    request: NewApiKeyRequest,
    caller: &Caller,
    faults: &mut FieldErrors,
) -> NewKey {
    if request.name.is_none() {
        faults.add("", "/name", "missing", "is required");
    } else if !request.name.as_deref().is_some_and(is_name) {
        faults.add("", "/name", "invalid", "must have 1 to 200 characters");
    }
    let scopes = request.scopes.unwrap_or_default();
    if scopes.is_empty() {
        faults.add("", "/scopes", "missing", "must have at least one item");
    }
    for (index, scope) in scopes.iter().enumerate() {
        let pointer = format!("/scopes/{index}");
        if *scope == Scope::PlatformAdmin && !caller.is_platform {
            let detail = format!("is reserved for keys of the tenant `{PLATFORM_SLUG}`");
            faults.add("", &pointer, "platform_only", detail);
        } else if !caller.has(*scope) {
            faults.add(
                "",
                &pointer,
                "not_yours",
                "the caller does not have this scope",
            );
        }
    }
    let expires_at = request.expires_at.map(|moment| moment.0);
    validate_expiry(expires_at, faults);
    NewKey {
        tenant: caller.tenant,
        name: request.name.unwrap_or_default(),
        tier: request.tier.unwrap_or(KeyTier::Free),
        scopes,
        expires_at,
        addresses: parse_networks(request.addresses.unwrap_or_default(), faults),
    }
}

fn validate_expiry(expires_at: Option<DateTime<Utc>>, faults: &mut FieldErrors) {
    if expires_at.is_some_and(|moment| moment <= clock::now()) {
        faults.add("", "/expires_at", "in_the_past", "must be in the future");
    }
}

/// Parses IP networks; a single address is a network of its own.
fn parse_networks(texts: Vec<String>, faults: &mut FieldErrors) -> Vec<IpNet> {
    if texts.len() > MAX_ADDRESSES {
        let detail = format!("must have at most {MAX_ADDRESSES} items");
        faults.add("", "/addresses", "too_many", detail);
        return Vec::new();
    }
    let mut networks = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let address = || text.parse().map(|address: std::net::IpAddr| address.into());
        match text.parse::<IpNet>().or_else(|_| address()) {
            Ok(network) => networks.push(network.trunc()),
            Err(_) => faults.add(
                "",
                &format!("/addresses/{index}"),
                "invalid",
                "must be an IP address or a network such as 192.0.2.0/24",
            ),
        }
    }
    networks
}

/// Returns an error unless the tenant's keys may have this tier.
async fn require_tier_allowed(tx: &mut TenantTx, tier: KeyTier) -> Result<(), Problem> {
    let max = access::allowance(tx).await?;
    if tier <= max {
        return Ok(());
    }
    let mut faults = FieldErrors::default();
    let detail = format!("must be at most `{max}`, the highest tier of the tenant");
    faults.add("", "/tier", "above_contract", detail);
    faults.into_body_result()
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
    let keys = access::list_keys(&mut tx, paging.after, paging.fetch_limit()).await?;
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
    let mut faults = FieldErrors::default();
    let request: ApiKeyChangeRequest = body.members(&mut faults).unwrap_or_default();
    if request.name.as_deref().is_some_and(|name| !is_name(name)) {
        faults.add("", "/name", "invalid", "must have 1 to 200 characters");
    }
    let expires_at = request.expires_at.map(|moment| moment.0);
    validate_expiry(expires_at, &mut faults);
    let addresses = request
        .addresses
        .map(|addresses| parse_networks(addresses, &mut faults))
        .map(|networks| networks.iter().map(ToString::to_string).collect());
    faults.into_body_result()?;
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
    let mut faults = FieldErrors::default();
    let request: RotateApiKeyRequest = body.members(&mut faults).unwrap_or_default();
    let grace = request.grace.map_or(DEFAULT_GRACE, Duration::from);
    if grace > MAX_GRACE {
        faults.add(
            "",
            "/grace",
            "out_of_range",
            "must be between `0s` and `7d`",
        );
    }
    faults.into_body_result()?;
    let mut tx = state.begin(&caller).await?;
    let old = find_working_key(&mut tx, &caller, id).await?;
    if access::has_successor(&mut tx, id).await? {
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
        let before = access::key(&mut tx, before).await?;
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
    let (key, text) = add_key(&mut tx, state.keys(), new, Some(old.id), caller.actor()).await?;
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
    let key = access::key(tx, id).await?;
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
    let after = change_key(tx, before.id, change).await?;
    let after = after.ok_or_else(|| Problem::not_found("API key"))?;
    let entry = Entry::new(action, before.id).before(before).after(&after);
    caller.record(tx, &entry).await?;
    Ok(after)
}
