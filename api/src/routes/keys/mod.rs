//! Room: routes of API keys.
//! Takes: a caller's request. Gives: keys made, listed, changed, rotated and revoked, each with its entry
//! in the audit log.
//! Never: shows a key's text twice, or lets somebody make a key that may do more than they may.

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

use super::page::{Page, to_read};
use super::queues::PageQuery;
use crate::ApiState;
use crate::access::{
    self, ApiKey, KeyChange, KeyTier, NewKey, PLATFORM_SLUG, Scope, add_key, change_key, is_name,
};
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::cursor::List;
use crate::faults::Faults;
use crate::problem::{Code, Problem};
use crate::query::{PathId, Query};
use crate::time::Moment;

/// How long a rotated key goes on, unless somebody says otherwise, and at the most.
const DEFAULT_GRACE: Duration = Duration::from_secs(24 * 60 * 60);
const MAX_GRACE: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// Networks a key may name.
const MAX_ADDRESSES: usize = 100;

/// A key that is wanted.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewApiKey, example = json!({
    "name": "billing service", "scopes": ["jobs:write", "jobs:read"], "addresses": ["192.0.2.0/24"]
}))]
pub(in crate::routes) struct NewApiKeyRequest {
    /// What people call it.
    #[schema(value_type = String, required, nullable = false, min_length = 1, max_length = 200)]
    name: Option<String>,
    /// What it may do: nothing that the caller may not.
    #[schema(value_type = Vec<Scope>, required, nullable = false, min_items = 1, max_items = 30)]
    scopes: Option<Vec<Scope>>,
    /// Its contract, at most the tenant's; `free` when left out.
    tier: Option<KeyTier>,
    /// When it stops working.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Moment>,
    /// Networks or addresses it may be used from; all when left out or empty.
    #[schema(max_items = 100)]
    addresses: Option<Vec<String>>,
}

/// What is to change of a key. What is left out stays.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ApiKeyChange, example = json!({"addresses": ["192.0.2.7"]}))]
pub(in crate::routes) struct ApiKeyChangeRequest {
    /// What people call it.
    #[schema(min_length = 1, max_length = 200)]
    name: Option<String>,
    /// Networks or addresses it may be used from; all when empty.
    #[schema(max_items = 100)]
    addresses: Option<Vec<String>>,
    /// When it stops working: earlier than before, never later.
    #[schema(value_type = Option<String>, format = DateTime)]
    expires_at: Option<Moment>,
}

/// How a key is rotated.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Rotation, example = json!({"grace": "24h"}))]
pub(in crate::routes) struct RotateApiKeyRequest {
    /// How long the old key goes on, `0s` to `7d`; `24h` when left out.
    #[schema(value_type = Option<String>, example = "24h")]
    grace: Option<HumanDuration>,
}

/// An API key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = ApiKey)]
pub(in crate::routes) struct ApiKeyResponse {
    /// Id.
    #[schema(value_type = String, example = "key_01h455vb4pex5vsknk084sn02q")]
    id: ApiKeyId,
    /// Whose it is.
    #[schema(value_type = String, example = "ten_01h455vb4pex5vsknk084sn02q")]
    tenant_id: TenantId,
    /// What people call it.
    #[schema(example = "billing service")]
    name: String,
    /// What its text begins and ends with.
    #[schema(example = "hk_kyjVWzwZ…Q0dYp")]
    hint: String,
    /// What it may do.
    #[schema(example = json!(["jobs:read", "jobs:write"]))]
    scopes: Vec<String>,
    /// Its contract.
    tier: KeyTier,
    /// Networks it may be used from; all when empty.
    #[schema(example = json!(["192.0.2.0/24"]))]
    addresses: Vec<String>,
    /// Who made it.
    #[schema(required, example = "usr_01h455vb4pex5vsknk084sn02q")]
    created_by: Option<String>,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it stops working.
    #[schema(required)]
    expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    #[schema(required)]
    revoked_at: Option<DateTime<Utc>>,
    /// When it was last used, to the minute.
    #[schema(required)]
    last_used_at: Option<DateTime<Utc>>,
    /// The key that it took the place of.
    #[schema(required, value_type = Option<String>)]
    rotated_from: Option<ApiKeyId>,
    /// The key itself. In the answer that made it only.
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
/// The answer holds the key, which is never shown again. Its scopes are among the caller's, its tier is at
/// most the tenant's (by contract FREE `free`, PRO `business`, ENTERPRISE `enterprise`, or that of its best
/// key), and there are at most 2, 10 or 50 working keys of a tenant up to `free`, `developer` or
/// `business`. A person confirms first that it is they. Needs the scope `keys:manage`.
#[utoipa::path(
    post,
    path = "/v1/api-keys",
    operation_id = "create_api_key",
    tag = "keys",
    request_body = NewApiKeyRequest,
    responses((status = 201, description = "The key, with its text", body = ApiKeyResponse,
        headers(("Location" = String, description = "Path of the key"))))
)]
pub(in crate::routes) async fn create_api_key(
    State(state): State<ApiState>,
    caller: Caller,
    body: JsonBody,
) -> Result<Response, Problem> {
    caller.require(Scope::KeysManage)?;
    caller.require_confirmed()?;
    let mut faults = Faults::default();
    let request: NewApiKeyRequest = body.members(&mut faults).unwrap_or_default();
    let tier = request.tier.unwrap_or(KeyTier::Free);
    let new = validate_new_key(request, &caller, &mut faults);
    faults.none_in_body()?;
    let mut tx = state.begin(&caller).await?;
    if !caller.administers() {
        require_tier_allowed(&mut tx, tier).await?;
        access::check_keys(&mut tx).await?;
    }
    let (key, text) = add_key(&mut tx, state.keys(), new, None, caller.actor()).await?;
    tx.commit().await?;
    Ok(created_response(key, text.expose()))
}

fn validate_new_key(request: NewApiKeyRequest, caller: &Caller, faults: &mut Faults) -> NewKey {
    if request.name.is_none() {
        faults.add("", "/name", "missing", "must be there");
    } else if !request.name.as_deref().is_some_and(is_name) {
        faults.add("", "/name", "invalid", "must have 1 to 200 characters");
    }
    let scopes = request.scopes.unwrap_or_default();
    if scopes.is_empty() {
        faults.add("", "/scopes", "missing", "must name at least one scope");
    }
    for (index, scope) in scopes.iter().enumerate() {
        let pointer = format!("/scopes/{index}");
        if *scope == Scope::PlatformAdmin && !caller.is_platform {
            let detail = format!("only keys of the tenant `{PLATFORM_SLUG}` have it");
            faults.add("", &pointer, "platform_only", detail);
        } else if !caller.has(*scope) {
            faults.add("", &pointer, "not_yours", "the caller lacks it, too");
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

fn validate_expiry(expires_at: Option<DateTime<Utc>>, faults: &mut Faults) {
    if expires_at.is_some_and(|moment| moment <= clock::now()) {
        faults.add("", "/expires_at", "in_the_past", "must be in the future");
    }
}

/// Networks, a single address being one of its own.
fn parse_networks(texts: Vec<String>, faults: &mut Faults) -> Vec<IpNet> {
    if texts.len() > MAX_ADDRESSES {
        let detail = format!("at most {MAX_ADDRESSES}");
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
                "must be an address or a network such as 192.0.2.0/24",
            ),
        }
    }
    networks
}

/// Goes on if the tenant's keys may have this tier.
async fn require_tier_allowed(tx: &mut TenantTx, tier: KeyTier) -> Result<(), Problem> {
    let most = access::allowance(tx).await?;
    if tier <= most {
        return Ok(());
    }
    let mut faults = Faults::default();
    let detail = format!("the tenant's keys are `{most}` at most");
    faults.add("", "/tier", "above_contract", detail);
    faults.none_in_body()
}

fn created_response(key: ApiKey, text: &str) -> Response {
    let location = [(LOCATION, format!("/v1/api-keys/{}", key.id))];
    let answer = ApiKeyResponse {
        key: Some(text.to_owned()),
        ..key.into()
    };
    (StatusCode::CREATED, location, Json(answer)).into_response()
}

/// List API keys, newest first
///
/// Those that were revoked or have expired, too. Needs the scope `keys:manage`.
#[utoipa::path(
    get,
    path = "/v1/api-keys",
    operation_id = "list_api_keys",
    tag = "keys",
    params(PageQuery),
    responses((status = 200, description = "A page of keys", body = Page<ApiKeyResponse>))
)]
pub(in crate::routes) async fn list_api_keys(
    State(state): State<ApiState>,
    caller: Caller,
    Query(query): Query<PageQuery>,
) -> Result<Json<Page<ApiKeyResponse>>, Problem> {
    caller.require(Scope::KeysManage)?;
    let list = List::of("/v1/api-keys", caller.tenant, &query);
    let before = state.cursors().before(list, query.cursor.as_deref())?;
    let mut tx = state.begin(&caller).await?;
    let before = before.map(ApiKeyId::from_uuid);
    let keys = access::list_keys(&mut tx, before, to_read(query.limit)).await?;
    tx.commit().await?;
    Ok(Json(Page::of(
        keys,
        query.limit,
        state.cursors(),
        list,
        |key| key.id.as_uuid().into_bytes(),
        ApiKeyResponse::from,
    )))
}

/// Show an API key
///
/// Needs the scope `keys:manage`.
#[utoipa::path(
    get,
    path = "/v1/api-keys/{id}",
    operation_id = "get_api_key",
    tag = "keys",
    params(("id" = String, Path, description = "The key's id",
        example = "key_01h455vb4pex5vsknk084sn02q")),
    responses((status = 200, description = "The key", body = ApiKeyResponse))
)]
pub(in crate::routes) async fn get_api_key(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<ApiKeyId>,
) -> Result<Json<ApiKeyResponse>, Problem> {
    caller.require(Scope::KeysManage)?;
    let mut tx = state.begin(&caller).await?;
    let key = find_key(&mut tx, id).await?;
    tx.commit().await?;
    Ok(Json(key.into()))
}

/// Change an API key
///
/// Needs the scope `keys:manage`.
#[utoipa::path(
    patch,
    path = "/v1/api-keys/{id}",
    operation_id = "change_api_key",
    tag = "keys",
    params(("id" = String, Path, description = "The key's id",
        example = "key_01h455vb4pex5vsknk084sn02q")),
    request_body = ApiKeyChangeRequest,
    responses(
        (status = 200, description = "The key as it is now", body = ApiKeyResponse),
        (status = 409, description = "The key was revoked"),
    )
)]
pub(in crate::routes) async fn change_api_key(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<ApiKeyId>,
    body: JsonBody,
) -> Result<Json<ApiKeyResponse>, Problem> {
    caller.require(Scope::KeysManage)?;
    caller.require_confirmed()?;
    let mut faults = Faults::default();
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
    faults.none_in_body()?;
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
/// It stops working at once here and within a second everywhere. Needs the scope `keys:manage`.
#[utoipa::path(
    delete,
    path = "/v1/api-keys/{id}",
    operation_id = "revoke_api_key",
    tag = "keys",
    params(("id" = String, Path, description = "The key's id",
        example = "key_01h455vb4pex5vsknk084sn02q")),
    responses((status = 204, description = "The key no longer works"))
)]
pub(in crate::routes) async fn revoke_api_key(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<ApiKeyId>,
) -> Result<StatusCode, Problem> {
    caller.require(Scope::KeysManage)?;
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
/// Makes a new key that may do what the old one may, and has the same budget of requests; the old one goes
/// on for a while, the one before it no longer. A person confirms first that it is they. Needs the scope
/// `keys:manage`.
#[utoipa::path(
    post,
    path = "/v1/api-keys/{id}/rotate",
    operation_id = "rotate_api_key",
    tag = "keys",
    params(("id" = String, Path, description = "The key's id",
        example = "key_01h455vb4pex5vsknk084sn02q")),
    request_body = RotateApiKeyRequest,
    responses(
        (status = 201, description = "The new key, with its text", body = ApiKeyResponse,
            headers(("Location" = String, description = "Path of the key"))),
        (status = 409, description = "The key was revoked, or another has taken its place"),
    )
)]
pub(in crate::routes) async fn rotate_api_key(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<ApiKeyId>,
    body: JsonBody,
) -> Result<Response, Problem> {
    caller.require(Scope::KeysManage)?;
    caller.require_confirmed()?;
    let mut faults = Faults::default();
    let request: RotateApiKeyRequest = body.members(&mut faults).unwrap_or_default();
    let grace = request.grace.map_or(DEFAULT_GRACE, Duration::from);
    if grace > MAX_GRACE {
        faults.add("", "/grace", "out_of_range", "must be from 0s to 7d");
    }
    faults.none_in_body()?;
    let mut tx = state.begin(&caller).await?;
    let old = find_working_key(&mut tx, &caller, id).await?;
    if access::has_successor(&mut tx, id).await? {
        let detail = "another key has taken its place: rotate that one";
        return Err(Problem::new(Code::Conflict, detail));
    }
    // Of keys that took each other's place, no more than two work at once.
    let mut oldest = None;
    if let Some(before) = old.rotated_from {
        let ends = KeyChange {
            revoke: true,
            ..KeyChange::default()
        };
        let before = access::key(&mut tx, before).await?;
        if let Some(before) = before.filter(|key| key.revoked_at.is_none()) {
            oldest = Some(apply_change(&mut tx, &caller, &before, ends, "key.revoke").await?);
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
        // A rotation does not prolong what was to end.
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
    for ended in oldest.iter().chain([&old]) {
        state.keyring().forget(&ended.public_id).await;
    }
    Ok(created_response(key, text.expose()))
}

async fn find_key(tx: &mut TenantTx, id: ApiKeyId) -> Result<ApiKey, Problem> {
    let key = access::key(tx, id).await?;
    key.ok_or_else(|| Problem::not_found("API key"))
}

/// The key, if it works and may do nothing that the caller may not: who changes a key could use it.
async fn find_working_key(
    tx: &mut TenantTx,
    caller: &Caller,
    id: ApiKeyId,
) -> Result<ApiKey, Problem> {
    let key = find_key(tx, id).await?;
    for scope in key.scopes.iter().filter_map(|name| name.parse().ok()) {
        caller.require(scope)?;
    }
    let has_ended =
        key.revoked_at.is_some() || key.expires_at.is_some_and(|moment| moment <= clock::now());
    if has_ended {
        let detail = "the key was revoked or has expired: make a new one";
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
