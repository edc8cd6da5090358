//! API keys of requests: parses `Authorization` and looks the key up, with a short cache.
//!
//! A text that cannot be a key never reaches the database, and the text of a key is never stored.

use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::http::header::AUTHORIZATION;
use harkara_accounts::Policies;
use harkara_accounts::{self as accounts, FoundKey, Scope};
use harkara_shared::api_key::ApiKeyText;
use harkara_shared::clock;
use harkara_shared::vault::MasterKeys;
use moka::future::Cache;
use sqlx::PgPool;

use crate::problem::{Code, Problem};

/// How long a key is cached. A revoked key must stop working within a second.
const CACHE_TTL: Duration = Duration::from_millis(500);

/// Most keys in the cache.
const CACHE_CAPACITY: u64 = 10_000;

/// The API key of a request.
///
/// # Errors
/// A problem of status 401 when the header is missing, repeated or malformed.
pub(super) fn bearer(headers: &HeaderMap) -> Result<ApiKeyText, Problem> {
    let refused = |detail: &str| Problem::new(Code::Unauthorized, detail);
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(only), None) => only,
        (None, _) => {
            return Err(refused(
                "the header `Authorization` with an API key is missing",
            ));
        }
        (Some(_), Some(_)) => return Err(refused("the header `Authorization` is repeated")),
    };
    let key = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim())
        .ok_or_else(|| refused("the header `Authorization` must have the form `Bearer hk_…`"))?;
    ApiKeyText::parse(key).map_err(|error| refused(&error.to_string()))
}

/// Looks up API keys and caches them for [`CACHE_TTL`].
#[derive(Debug, Clone)]
pub(crate) struct Keyring {
    pool: PgPool,
    peppers: Arc<[[u8; 32]]>,
    /// By public id. Unknown keys are not cached: a new key works at once.
    found: Cache<String, Known>,
}

/// A valid key.
#[derive(Debug, Clone)]
pub(super) struct Known {
    pub(super) row: Arc<FoundKey>,
    pub(super) scopes: Arc<[Scope]>,
    pub(super) policies: Policies,
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
            found: Cache::builder()
                .max_capacity(CACHE_CAPACITY)
                .time_to_live(CACHE_TTL)
                .build(),
        }
    }

    /// The key with this text, if it is valid now.
    pub(super) async fn find(&self, text: &ApiKeyText) -> Result<Known, Problem> {
        let refused = || {
            Problem::new(
                Code::Unauthorized,
                "the API key is unknown, revoked or expired",
            )
        };
        // Concurrent misses share one query.
        let known = self
            .found
            .try_get_with_by_ref(text.public_id(), self.look_up(text.public_id()))
            .await
            .map_err(|error| match error.as_ref() {
                NotFound::Unknown => refused(),
                NotFound::Database(error) => Problem::of_database(error),
            })?;
        let is_current = known
            .row
            .expires_at
            .is_none_or(|expires_at| expires_at > clock::now());
        if is_current && text.verify(&known.row.hash, &self.peppers) {
            Ok(known)
        } else {
            Err(refused())
        }
    }

    /// Drops a key from the cache, after it was changed.
    pub(crate) async fn forget(&self, public_id: &str) {
        self.found.invalidate(public_id).await;
    }

    async fn look_up(&self, public_id: &str) -> Result<Known, NotFound> {
        let row = accounts::find_key_by_public_id(&self.pool, public_id)
            .await
            .map_err(NotFound::Database)?
            .ok_or(NotFound::Unknown)?;
        let scopes = row.scopes().into();
        let policies = row.policies();
        Ok(Known {
            row: Arc::new(row),
            scopes,
            policies,
        })
    }
}
