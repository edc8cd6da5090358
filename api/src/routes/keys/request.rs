//! Requests of API keys.
//!
//! Validates them into new keys and changes. Never touches the database.

use chrono::{DateTime, Utc};
use harkara_accounts::{KeyTier, NewKey, PLATFORM_SLUG, Scope, is_name};
use harkara_shared::clock;
use harkara_shared::duration::HumanDuration;
use ipnet::IpNet;
use serde::Deserialize;
use utoipa::ToSchema;

use crate::auth::Caller;
use crate::field_errors::FieldErrors;
use crate::time::Timestamp;

/// Maximum number of networks of a key.
pub(super) const MAX_ADDRESSES: usize = 100;

/// An API key to create.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewApiKey, example = json!({
    "name": "billing service", "scopes": ["jobs:write", "jobs:read"], "addresses": ["192.0.2.0/24"]
}))]
pub(in crate::routes) struct NewApiKeyRequest {
    /// Display name of the key.
    #[schema(value_type = String, required, nullable = false, min_length = 1, max_length = 200)]
    pub(super) name: Option<String>,
    /// Scopes of the key. The caller must have all of them.
    #[schema(value_type = Vec<Scope>, required, nullable = false, min_items = 1, max_items = 30)]
    pub(super) scopes: Option<Vec<Scope>>,
    /// Tier, which sets the request limits; at most the tenant's. Default `free`.
    pub(super) tier: Option<KeyTier>,
    /// When the key expires.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) expires_at: Option<Timestamp>,
    /// IP addresses or networks that may use the key. Default: all.
    #[schema(max_items = 100)]
    pub(super) addresses: Option<Vec<String>>,
}

/// Changes of an API key. Members that are omitted stay unchanged.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ApiKeyChange, example = json!({"addresses": ["192.0.2.7"]}))]
pub(in crate::routes) struct ApiKeyChangeRequest {
    /// Display name of the key.
    #[schema(min_length = 1, max_length = 200)]
    pub(super) name: Option<String>,
    /// IP addresses or networks that may use the key. An empty list allows all.
    #[schema(max_items = 100)]
    pub(super) addresses: Option<Vec<String>>,
    /// When the key expires. Can only be brought forward.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(super) expires_at: Option<Timestamp>,
}

/// Options of a rotation.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Rotation, example = json!({"grace": "24h"}))]
pub(in crate::routes) struct RotateApiKeyRequest {
    /// How long the old key stays valid, `0s` to `7d`. Default `24h`.
    pub(super) grace: Option<HumanDuration>,
}

pub(super) fn validate_new_key(
    request: NewApiKeyRequest,
    caller: &Caller,
    errors: &mut FieldErrors,
) -> NewKey {
    if request.name.is_none() {
        errors.add("", "/name", "missing", "is required");
    } else if !request.name.as_deref().is_some_and(is_name) {
        errors.add("", "/name", "invalid", "must have 1 to 200 characters");
    }
    let scopes = request.scopes.unwrap_or_default();
    if scopes.is_empty() {
        errors.add("", "/scopes", "missing", "must have at least one item");
    }
    for (index, scope) in scopes.iter().enumerate() {
        let pointer = format!("/scopes/{index}");
        if *scope == Scope::PlatformAdmin && !caller.in_platform_tenant {
            let detail = format!("is reserved for keys of the tenant `{PLATFORM_SLUG}`");
            errors.add("", &pointer, "platform_only", detail);
        } else if !caller.has(*scope) {
            errors.add(
                "",
                &pointer,
                "not_yours",
                "the caller does not have this scope",
            );
        }
    }
    let expires_at = request.expires_at.map(|moment| moment.0);
    validate_expiry(expires_at, errors);
    NewKey {
        tenant: caller.tenant,
        name: request.name.unwrap_or_default(),
        tier: request.tier.unwrap_or(KeyTier::Free),
        scopes,
        expires_at,
        addresses: parse_networks(request.addresses.unwrap_or_default(), errors),
    }
}

pub(super) fn validate_expiry(expires_at: Option<DateTime<Utc>>, errors: &mut FieldErrors) {
    if expires_at.is_some_and(|moment| moment <= clock::now()) {
        errors.add("", "/expires_at", "in_the_past", "must be in the future");
    }
}

/// Parses IP networks; a single address is a network of its own.
pub(super) fn parse_networks(texts: Vec<String>, errors: &mut FieldErrors) -> Vec<IpNet> {
    if texts.len() > MAX_ADDRESSES {
        let detail = format!("must have at most {MAX_ADDRESSES} items");
        errors.add("", "/addresses", "too_many", detail);
        return Vec::new();
    }
    let mut networks = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        let address = || text.parse().map(|address: std::net::IpAddr| address.into());
        match text.parse::<IpNet>().or_else(|_| address()) {
            Ok(network) => networks.push(network.trunc()),
            Err(_) => errors.add(
                "",
                &format!("/addresses/{index}"),
                "invalid",
                "must be an IP address or a network such as 192.0.2.0/24",
            ),
        }
    }
    networks
}
