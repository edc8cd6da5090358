//! Room: API keys at rest.
//! Takes: a pool and the master keys. Gives: new keys, whose text is seen once; a key's row by its
//! public id. Never: stores or logs a key's text.

use std::str::FromStr;

use chrono::{DateTime, Utc};
use harkara_shared::api_key::{ApiKeyText, NewApiKey};
use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::{ApiKeyId, TenantId};
use harkara_shared::vault::MasterKeys;
use serde::{Deserialize, Serialize};
use sqlx::PgPool;

use super::tenant::is_name;
use super::{Error, Scope};

/// How many requests a key's contract grants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum KeyTier {
    /// 100 an hour, 1 000 a day.
    Free,
    /// 1 000 an hour, 10 000 a day.
    Developer,
    /// 10 000 an hour, 100 000 a day.
    Business,
    /// 100 000 an hour, 1 000 000 a day.
    Enterprise,
}

impl KeyTier {
    /// All tiers, from the smallest.
    pub const ALL: [Self; 4] = [
        Self::Free,
        Self::Developer,
        Self::Business,
        Self::Enterprise,
    ];

    /// The tier's name.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Free => "free",
            Self::Developer => "developer",
            Self::Business => "business",
            Self::Enterprise => "enterprise",
        }
    }
}

impl FromStr for KeyTier {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::ALL
            .into_iter()
            .find(|tier| tier.as_str() == text)
            .ok_or_else(|| {
                format!("`{text}` is not a tier: expected free, developer, business or enterprise")
            })
    }
}

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
}

/// A key without its text.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it stops working.
    pub expires_at: Option<DateTime<Utc>>,
}

/// Makes a key. Its text is answered here and never again.
///
/// # Errors
/// [`Error::InvalidName`], [`Error::AlreadyExpired`], [`Error::NoSuchTenant`], or when the database
/// refuses.
pub async fn create_key(
    pool: &PgPool,
    keys: &MasterKeys,
    new: NewKey,
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
    let id = ApiKeyId::new();
    let created_at: Option<DateTime<Utc>> = query_scalar(include_str!("../sql/create_key.sql"))
        .bind(new.tenant)
        .bind(id)
        .bind(&public_id)
        .bind(hash.as_slice())
        .bind(&last4)
        .bind(&new.name)
        .bind(new.tier)
        .bind(&names)
        .bind(new.expires_at)
        .fetch_optional(pool)
        .await?;
    let key = ApiKey {
        id,
        tenant_id: new.tenant,
        name: new.name,
        public_id,
        last4,
        tier: new.tier,
        scopes,
        created_at: created_at.ok_or(Error::NoSuchTenant)?,
        expires_at: new.expires_at,
    };
    Ok((key, text))
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
}

impl FoundKey {
    /// What the key may do. A scope that only a later release knows is left out.
    pub(crate) fn scopes(&self) -> Vec<Scope> {
        self.scopes
            .iter()
            .filter_map(|name| name.parse().ok())
            .collect()
    }
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
