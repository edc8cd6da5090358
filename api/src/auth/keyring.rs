//! Parses the header `Authorization` and looks up its API key, with a short cache.
//!
//! Text that cannot be a key never reaches the database, and the text of a key is never stored.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use harkara_accounts::{self as accounts, ApiKeyRow, Policies, Scope};
use harkara_shared::api_key::ApiKeyText;
use harkara_shared::clock;
use harkara_shared::vault::MasterKeys;
use moka::future::Cache;
use sqlx::PgPool;

use crate::problem::{Code, Problem};

/// How long a key is cached. A revoked key must stop working within a second.
const CACHE_TTL: Duration = Duration::from_millis(500);

/// Maximum number of cached keys.
const CACHE_CAPACITY: u64 = 10_000;

/// The API key in the header `Authorization`.
///
/// # Errors
/// A problem of status 401 when the header is missing, repeated or malformed.
pub(super) fn bearer(headers: &HeaderMap) -> Result<ApiKeyText, Problem> {
    let unauthorized = |detail: &str| Problem::new(Code::Unauthorized, detail);
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(only), None) => only,
        (None, _) => {
            return Err(unauthorized(
                "the header `Authorization` with an API key is missing",
            ));
        }
        (Some(_), Some(_)) => return Err(unauthorized("the header `Authorization` is repeated")),
    };
    let text = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim())
        .ok_or_else(|| {
            unauthorized("the header `Authorization` must have the form `Bearer hk_…`")
        })?;
    ApiKeyText::parse(text).map_err(|error| unauthorized(&error.to_string()))
}

/// Looks up API keys and caches them for [`CACHE_TTL`].
#[derive(Debug, Clone)]
pub(crate) struct Keyring {
    pool: PgPool,
    peppers: Arc<[[u8; 32]]>,
    /// By public id. Unknown keys are not cached, so that a new key works at once.
    cache: Cache<String, CachedKey>,
}

/// A key that was not revoked when it was read, with its decoded scopes and policies.
#[derive(Debug, Clone)]
pub(super) struct CachedKey {
    pub(super) row: Arc<ApiKeyRow>,
    pub(super) scopes: Arc<[Scope]>,
    /// Limits of the key's requests: its own, or its tier's.
    pub(super) rate_policies: Policies,
}

/// Why a lookup returned no key.
#[derive(Debug)]
enum NotFound {
    Unknown,
    Database(sqlx::Error),
}

impl Keyring {
    pub(crate) fn new(pool: PgPool, keys: &MasterKeys) -> Self {
        Self {
            pool,
            peppers: keys.derive_all(accounts::PEPPER).into(),
            cache: Cache::builder()
                .max_capacity(CACHE_CAPACITY)
                .time_to_live(CACHE_TTL)
                .build(),
        }
    }

    /// The key with this text, if it is valid now.
    pub(super) async fn find(&self, text: &ApiKeyText) -> Result<CachedKey, Problem> {
        let refused = || {
            Problem::new(
                Code::Unauthorized,
                "the API key is unknown, revoked or expired",
            )
        };
        // Concurrent misses share one query.
        let key = self
            .cache
            .try_get_with_by_ref(text.public_id(), self.look_up(text.public_id()))
            .await
            .map_err(|error| match error.as_ref() {
                NotFound::Unknown => refused(),
                NotFound::Database(error) => Problem::of_database(error),
            })?;
        let is_current = key
            .row
            .expires_at
            .is_none_or(|expires_at| expires_at > clock::now());
        if is_current && text.verify(&key.row.hash, &self.peppers) {
            Ok(key)
        } else {
            Err(refused())
        }
    }

    /// Drops a key from the cache, after it was changed.
    pub(crate) async fn forget(&self, public_id: &str) {
        self.cache.invalidate(public_id).await;
    }

    async fn look_up(&self, public_id: &str) -> Result<CachedKey, NotFound> {
        let row = accounts::find_key_by_public_id(&self.pool, public_id)
            .await
            .map_err(NotFound::Database)?
            .ok_or(NotFound::Unknown)?;
        let scopes = row.scopes().into();
        let rate_policies = row.policies();
        Ok(CachedKey {
            row: Arc::new(row),
            scopes,
            rate_policies,
        })
    }
}
