//! Stores, finds, changes and revokes API keys.
//!
//! A key's text is returned once, when the key is created or rotated. It is never stored or logged: the
//! database holds an HMAC of it.

use chrono::{DateTime, Utc};
use harkara_shared::api_key::{ApiKeyText, NewApiKey};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::{ApiKeyId, TenantId};
use harkara_shared::vault::MasterKeys;
use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use sqlx::types::Json;
use sqlx::{FromRow, PgConnection, PgPool};

use crate::error::Error;
use crate::key_tier::KeyTier;
use crate::request_policy::Policies;
use crate::scope::Scope;
use crate::tenant::{TenantStatus, is_name};

/// Label of the derived master key that API keys are hashed with.
pub const PEPPER: &str = "api-key";

/// An API key to create.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// The tenant that owns it.
    pub tenant: TenantId,
    /// Display name, 1 to 200 characters.
    pub name: String,
    /// Sets its request limits.
    pub tier: KeyTier,
    /// The rights it grants.
    pub scopes: Vec<Scope>,
    /// `None`: it does not expire.
    pub expires_at: Option<DateTime<Utc>>,
    /// Networks it can be used from; empty for all.
    pub addresses: Vec<IpNet>,
}

/// An API key, without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct ApiKey {
    /// `key_…`, which is not part of the key's text.
    pub id: ApiKeyId,
    /// The tenant that owns it.
    pub tenant_id: TenantId,
    /// Display name.
    pub name: String,
    /// The part of its text that is not secret.
    pub public_id: String,
    /// The last 4 characters of its text.
    pub last4: String,
    /// Sets its request limits.
    pub tier: KeyTier,
    /// Names of the scopes it grants.
    pub scopes: Vec<String>,
    /// Networks it can be used from; empty for all.
    pub addresses: Vec<String>,
    /// The actor that created it, as in the audit log.
    pub created_by: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// `None`: it does not expire.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was last used, accurate to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// The key that it replaced.
    pub rotated_from: Option<ApiKeyId>,
}

/// Creates a key in a separate transaction. Its text is returned here and never again.
///
/// # Errors
/// [`Error::InvalidName`], [`Error::AlreadyExpired`], [`Error::NoSuchTenant`], or when the database
/// refuses.
pub async fn create_api_key(
    pool: &PgPool,
    keys: &MasterKeys,
    new: NewKey,
    by: &Actor,
) -> Result<(ApiKey, ApiKeyText), Error> {
    let mut tx = pool.begin().await?;
    let made = add_api_key(&mut tx, keys, new, None, by).await?;
    tx.commit().await?;
    Ok(made)
}

/// Creates a key, as the replacement of `from` if it is set, and its entry in the audit log.
///
/// # Errors
/// As [`create_api_key`].
pub async fn add_api_key(
    connection: &mut PgConnection,
    keys: &MasterKeys,
    new: NewKey,
    from: Option<ApiKeyId>,
    by: &Actor,
) -> Result<(ApiKey, ApiKeyText), Error> {
    if !is_name(&new.name) {
        return Err(Error::InvalidName);
    }
    if new
        .expires_at
        .is_some_and(|moment| moment <= harkara_shared::clock::now())
    {
        return Err(Error::AlreadyExpired);
    }
    let NewApiKey {
        text,
        public_id,
        last4,
    } = NewApiKey::generate();
    let peppers = keys.derive_all(PEPPER);
    let hash = text.hash(peppers.first().ok_or(Error::NoMasterKey)?);
    let mut scopes = new.scopes;
    scopes.sort_unstable();
    scopes.dedup();
    let names: Vec<&str> = scopes.iter().map(|scope| scope.as_str()).collect();
    let addresses: Vec<String> = new.addresses.iter().map(ToString::to_string).collect();
    let key: Option<ApiKey> = query_as(include_str!("sql/api_key/create_key.sql"))
        .bind(new.tenant)
        .bind(ApiKeyId::new())
        .bind(&public_id)
        .bind(hash.as_slice())
        .bind(&last4)
        .bind(&new.name)
        .bind(new.tier)
        .bind(&names)
        .bind(new.expires_at)
        .bind(&addresses)
        .bind(&by.id)
        .bind(from)
        .fetch_optional(&mut *connection)
        .await?;
    let key = key.ok_or(Error::NoSuchTenant)?;
    let action = match from {
        None => "key.create",
        Some(_) => "key.rotate",
    };
    let entry = Entry::new(action, key.id).after(&key);
    audit::record(connection, key.tenant_id, by, &entry).await?;
    Ok((key, text))
}

/// Lists the keys of the transaction's tenant, newest first, older than `before`.
///
/// # Errors
/// When the database refuses.
pub async fn list_api_keys(
    connection: &mut PgConnection,
    before: Option<ApiKeyId>,
    limit: u32,
) -> Result<Vec<ApiKey>, sqlx::Error> {
    query_as(include_str!("sql/api_key/list_keys.sql"))
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await
}

/// Finds one key of the transaction's tenant.
///
/// # Errors
/// When the database refuses.
pub async fn find_api_key(
    connection: &mut PgConnection,
    id: ApiKeyId,
) -> Result<Option<ApiKey>, sqlx::Error> {
    query_as(include_str!("sql/api_key/get_key.sql"))
        .bind(id)
        .fetch_optional(connection)
        .await
}

/// Whether a working key has replaced this one.
///
/// # Errors
/// When the database refuses.
pub async fn has_successor(
    connection: &mut PgConnection,
    id: ApiKeyId,
) -> Result<bool, sqlx::Error> {
    query_scalar(include_str!("sql/api_key/has_successor.sql"))
        .bind(id)
        .fetch_one(connection)
        .await
}

/// A change of a key. Members that are `None` keep their value.
#[derive(Debug, Default)]
pub struct KeyChange {
    /// New display name.
    pub name: Option<String>,
    /// New networks it can be used from; empty for all.
    pub addresses: Option<Vec<String>>,
    /// New expiry. A later expiry than the current one is ignored.
    pub expires_at: Option<DateTime<Utc>>,
    /// Whether to revoke it.
    pub revoke: bool,
}

/// Changes a key. `None` when the tenant has no such key.
///
/// # Errors
/// When the database refuses.
pub async fn change_api_key(
    connection: &mut PgConnection,
    id: ApiKeyId,
    change: KeyChange,
) -> Result<Option<ApiKey>, sqlx::Error> {
    query_as(include_str!("sql/api_key/change_key.sql"))
        .bind(id)
        .bind(change.name)
        .bind(change.addresses)
        .bind(change.expires_at)
        .bind(change.revoke)
        .fetch_optional(connection)
        .await
}

/// A key whose own limits were changed.
#[derive(Debug, FromRow)]
pub struct ChangedLimits {
    /// The part of its text that is not secret.
    pub public_id: String,
    /// Its tier, whose limits hold when it has none of its own.
    pub tier: KeyTier,
    /// Its own limits before the change.
    #[sqlx(json(nullable))]
    pub before: Option<Value>,
}

/// Sets the request limits of a key; without `limits`, those of its tier apply. Returns `None` when the tenant has no
/// such key.
///
/// # Errors
/// When the database refuses.
pub async fn set_key_limits(
    connection: &mut PgConnection,
    id: ApiKeyId,
    limits: Option<&Value>,
) -> Result<Option<ChangedLimits>, sqlx::Error> {
    query_as(include_str!("sql/api_key/set_key_limits.sql"))
        .bind(id)
        .bind(limits.map(Json))
        .fetch_optional(connection)
        .await
}

/// The row of an API key that is not revoked, with what authentication needs of its tenant.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct ApiKeyRow {
    /// The key.
    pub id: ApiKeyId,
    /// The tenant that owns it.
    pub tenant_id: TenantId,
    /// The tenant's slug.
    pub tenant_slug: String,
    /// HMAC of the key's text.
    pub hash: Vec<u8>,
    scopes: Vec<String>,
    /// `None`: it does not expire.
    pub expires_at: Option<DateTime<Utc>>,
    /// Display name.
    pub name: String,
    /// Sets its request limits, unless it has limits of its own.
    pub tier: KeyTier,
    /// Networks it can be used from; empty for all.
    pub allowed_networks: Vec<String>,
    /// What the tenant is allowed to do.
    pub tenant_status: TenantStatus,
    /// The first key of its chain of rotations, whose request counters they share.
    pub family: ApiKeyId,
    limits: Option<Json<Value>>,
}

impl ApiKeyRow {
    /// The scopes it grants. A scope that only a later release knows is left out.
    pub fn scopes(&self) -> Vec<Scope> {
        self.scopes
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect()
    }

    /// The policies that limit its requests.
    pub fn policies(&self) -> Policies {
        policies(self.tier, self.limits.as_ref().map(|limits| &limits.0))
    }
}

/// The policies that limit the requests of a key: its own, if this release can read them, else its tier's.
pub fn policies(tier: KeyTier, limits: Option<&Value>) -> Policies {
    limits
        .and_then(|limits| Policies::deserialize(limits).ok())
        .unwrap_or_else(|| tier.policies())
}

/// Finds the key with this public id. `None` when there is none or it was revoked.
///
/// # Errors
/// When the database refuses.
pub async fn find_key_by_public_id(
    pool: &PgPool,
    public_id: &str,
) -> Result<Option<ApiKeyRow>, sqlx::Error> {
    query_as(include_str!("sql/api_key/find_key.sql"))
        .bind(public_id)
        .fetch_optional(pool)
        .await
}

/// Whether a key's text is valid now, for tools that store a key and start before the API.
///
/// # Errors
/// When the database refuses.
pub async fn is_working_key(
    pool: &PgPool,
    keys: &MasterKeys,
    text: &ApiKeyText,
) -> Result<bool, Error> {
    let found = find_key_by_public_id(pool, text.public_id()).await?;
    Ok(found.is_some_and(|key| {
        text.verify(&key.hash, &keys.derive_all(PEPPER))
            && key
                .expires_at
                .is_none_or(|moment| moment > harkara_shared::clock::now())
    }))
}
