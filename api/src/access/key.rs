//! Room: API keys at rest.
//! Takes: a transaction and the master keys. Gives: new keys, whose text is seen once; keys found,
//! listed, changed, rotated and revoked. Never: stores or logs a key's text.

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

use super::tenant::is_name;
use super::{Error, KeyTier, Scope, TenantStatus};
use crate::limits::Policies;

/// The derived master key that API keys are hashed with.
pub(crate) const PEPPER: &str = "api-key";

/// A key that is wanted.
#[derive(Debug, Clone)]
pub struct NewKey {
    /// Whose it is.
    pub tenant: TenantId,
    /// What people call it, 1 to 200 characters.
    pub name: String,
    /// Its contract.
    pub tier: KeyTier,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it stops working; `None` for never.
    pub expires_at: Option<DateTime<Utc>>,
    /// Networks it may be used from; none for all.
    pub addresses: Vec<IpNet>,
}

/// A key without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, FromRow)]
pub struct ApiKey {
    /// Id.
    pub id: ApiKeyId,
    /// Whose it is.
    pub tenant_id: TenantId,
    /// What people call it.
    pub name: String,
    /// The part of its text that is not secret.
    pub public_id: String,
    /// The last 4 characters of its text.
    pub last4: String,
    /// Its contract.
    pub tier: KeyTier,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Networks it may be used from; none for all.
    pub addresses: Vec<String>,
    /// Who made it, as the audit log names actors.
    pub created_by: Option<String>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// The key that it took the place of.
    pub rotated_from: Option<ApiKeyId>,
}

/// Makes a key in a transaction of its own. Its text is answered here and never again.
///
/// # Errors
/// [`Error::InvalidName`], [`Error::AlreadyExpired`], [`Error::NoSuchTenant`], or when the database
/// refuses.
pub async fn create_key(
    pool: &PgPool,
    keys: &MasterKeys,
    new: NewKey,
    by: &Actor,
) -> Result<(ApiKey, ApiKeyText), Error> {
    let mut tx = pool.begin().await?;
    let made = add_key(&mut tx, keys, new, None, by).await?;
    tx.commit().await?;
    Ok(made)
}

/// Makes a key, in place of another one if `from` names it, with its entry in the audit log.
///
/// # Errors
/// As [`create_key`].
pub(crate) async fn add_key(
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
    let key: Option<ApiKey> = query_as(include_str!("../sql/create_key.sql"))
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

/// A tenant's keys, newest first, before the one with this id.
pub(crate) async fn list_keys(
    connection: &mut PgConnection,
    before: Option<ApiKeyId>,
    limit: u32,
) -> Result<Vec<ApiKey>, sqlx::Error> {
    query_as(include_str!("../sql/list_keys.sql"))
        .bind(before)
        .bind(i64::from(limit))
        .fetch_all(connection)
        .await
}

/// One of a tenant's keys, locked if it is to be changed.
pub(crate) async fn key(
    connection: &mut PgConnection,
    id: ApiKeyId,
) -> Result<Option<ApiKey>, sqlx::Error> {
    query_as(include_str!("../sql/get_key.sql"))
        .bind(id)
        .fetch_optional(connection)
        .await
}

/// Whether a working key has taken the place of this one.
pub(crate) async fn has_successor(
    connection: &mut PgConnection,
    id: ApiKeyId,
) -> Result<bool, sqlx::Error> {
    query_scalar(include_str!("../sql/has_successor.sql"))
        .bind(id)
        .fetch_one(connection)
        .await
}

/// What is to become of a key; what is `None` stays.
#[derive(Debug, Default)]
pub(crate) struct KeyChange {
    pub(crate) name: Option<String>,
    pub(crate) addresses: Option<Vec<String>>,
    /// When it stops working. Never later than it would have.
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) revoke: bool,
}

/// Changes a key.
pub(crate) async fn change_key(
    connection: &mut PgConnection,
    id: ApiKeyId,
    change: KeyChange,
) -> Result<Option<ApiKey>, sqlx::Error> {
    query_as(include_str!("../sql/change_key.sql"))
        .bind(id)
        .bind(change.name)
        .bind(change.addresses)
        .bind(change.expires_at)
        .bind(change.revoke)
        .fetch_optional(connection)
        .await
}

/// What deciding about a request needs of a key that has not been revoked.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct FoundKey {
    pub(crate) id: ApiKeyId,
    pub(crate) tenant_id: TenantId,
    pub(crate) tenant_slug: String,
    pub(crate) hash: Vec<u8>,
    scopes: Vec<String>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) name: String,
    pub(crate) tier: KeyTier,
    pub(crate) addresses: Vec<String>,
    pub(crate) tenant_status: TenantStatus,
    /// The first of the keys that took each other's place.
    pub(crate) family: ApiKeyId,
    limits: Option<Json<Value>>,
}

impl FoundKey {
    /// What the key may do. A scope that only a later release knows is left out.
    pub(crate) fn scopes(&self) -> Vec<Scope> {
        self.scopes
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect()
    }

    /// What limits the key's requests.
    pub(crate) fn policies(&self) -> Policies {
        policies(self.tier, self.limits.as_ref().map(|limits| &limits.0))
    }
}

/// What limits the requests of a key of this tier: limits of its own, if it has some that this release
/// can read.
pub(crate) fn policies(tier: KeyTier, limits: Option<&Value>) -> Policies {
    limits
        .and_then(|limits| Policies::deserialize(limits).ok())
        .unwrap_or_else(|| tier.policies())
}

/// The key with this public id, unless there is none or it has been revoked.
pub(crate) async fn find_key(
    pool: &PgPool,
    public_id: &str,
) -> Result<Option<FoundKey>, sqlx::Error> {
    query_as(include_str!("../sql/find_key.sql"))
        .bind(public_id)
        .fetch_optional(pool)
        .await
}

/// Whether a key's text works now: for tools that keep one and cannot ask the API yet.
///
/// # Errors
/// When the database refuses.
pub async fn is_working_key(
    pool: &PgPool,
    keys: &MasterKeys,
    text: &ApiKeyText,
) -> Result<bool, Error> {
    let found = find_key(pool, text.public_id()).await?;
    Ok(found.is_some_and(|key| {
        text.verify(&key.hash, &keys.derive_all(PEPPER))
            && key
                .expires_at
                .is_none_or(|moment| moment > harkara_shared::clock::now())
    }))
}
