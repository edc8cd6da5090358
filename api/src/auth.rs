//! Room: who calls.
//! Takes: the headers `Authorization` and `X-Tenant-Id`. Gives: a [`Caller`], or a problem of
//! status 401 or 404; whether the caller may do a thing, or a problem of status 403.
//! Never: asks the database about a text that cannot be a key, or keeps the text of a key.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::header::AUTHORIZATION;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName};
use harkara_shared::api_key::ApiKeyText;
use harkara_shared::clock;
use harkara_shared::id::{ApiKeyId, TenantId};
use harkara_shared::vault::MasterKeys;
use moka::future::Cache;
use sqlx::PgPool;

use crate::ApiState;
use crate::access::{self, FoundKey, PLATFORM_SLUG, Scope};
use crate::problem::{Code, Problem};

/// `X-Tenant-Id`: for which tenant a key of the platform acts.
const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

/// How long a found key is believed: a revoked one must stop working within a second.
const BELIEVED: Duration = Duration::from_millis(500);

/// Keys remembered at once.
const REMEMBERED: u64 = 10_000;

/// Who calls, for which tenant, and what they may do there.
#[derive(Debug, Clone)]
pub(crate) struct Caller {
    /// For whom.
    pub(crate) tenant: TenantId,
    /// By which key.
    pub(crate) key: ApiKeyId,
    /// Whether `tenant` is the built-in one.
    pub(crate) is_platform: bool,
    /// Whether the key belongs to the built-in tenant, whomever it acts for.
    by_platform: bool,
    scopes: Arc<[Scope]>,
}

impl Caller {
    /// Whether the caller may do what concerns more than one tenant, or another.
    pub(crate) fn administers(&self) -> bool {
        self.by_platform && self.scopes.contains(&Scope::PlatformAdmin)
    }

    /// Goes on if the key belongs to the platform.
    ///
    /// # Errors
    /// A problem of status 403.
    pub(crate) fn require_platform(&self) -> Result<(), Problem> {
        if self.by_platform {
            Ok(())
        } else {
            Err(Problem::new(
                Code::PlatformOnly,
                "only a key of the tenant `platform` may do this",
            ))
        }
    }

    /// Goes on if the key belongs to the platform and has its scope.
    ///
    /// # Errors
    /// A problem of status 403.
    pub(crate) fn require_admin(&self) -> Result<(), Problem> {
        self.require_platform()?;
        self.require(Scope::PlatformAdmin)
    }

    /// Goes on if the caller's key has the scope.
    ///
    /// # Errors
    /// A problem of status 403 that names it.
    pub(crate) fn require(&self, scope: Scope) -> Result<(), Problem> {
        if self.scopes.contains(&scope) {
            Ok(())
        } else {
            Err(Problem::new(
                Code::MissingScope,
                format!("the API key lacks the scope `{scope}`"),
            ))
        }
    }
}

impl FromRequestParts<ApiState> for Caller {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &ApiState) -> Result<Self, Problem> {
        let keyring = state.keyring();
        let known = keyring.find(&bearer(&parts.headers)?).await?;
        let is_platform = known.row.tenant_slug == PLATFORM_SLUG;
        let own = Self {
            tenant: known.row.tenant_id,
            key: known.row.id,
            is_platform,
            by_platform: is_platform,
            scopes: Arc::clone(&known.scopes),
        };
        let span = tracing::Span::current();
        span.record("key", own.key.to_string());
        span.record("tenant", own.tenant.to_string());
        let Some(named) = parts.headers.get(TENANT_ID) else {
            return Ok(own);
        };
        // What is no text names no tenant either.
        let named = named.to_str().unwrap_or_default();
        if named == known.row.tenant_slug || named.parse() == Ok(own.tenant) {
            return Ok(own);
        }
        // For anyone else a foreign tenant looks like one that is not there.
        if !(is_platform && own.scopes.contains(&Scope::PlatformAdmin)) {
            return Err(Problem::not_found("thing"));
        }
        let tenant = access::find_tenant(&keyring.pool, named).await?;
        let tenant = tenant.ok_or_else(|| Problem::not_found("tenant"))?;
        span.record("tenant", tenant.id.to_string());
        Ok(Self {
            tenant: tenant.id,
            is_platform: false,
            ..own
        })
    }
}

fn bearer(headers: &HeaderMap) -> Result<ApiKeyText, Problem> {
    let refused = |detail: &str| Problem::new(Code::Unauthorized, detail);
    let mut values = headers.get_all(AUTHORIZATION).iter();
    let value = match (values.next(), values.next()) {
        (Some(only), None) => only,
        (None, _) => {
            return Err(refused(
                "the header Authorization with an API key is missing",
            ));
        }
        (Some(_), Some(_)) => return Err(refused("the header Authorization is given twice")),
    };
    let key = value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim())
        .ok_or_else(|| refused("the header Authorization must read `Bearer hk_…`"))?;
    ApiKeyText::parse(key).map_err(|error| refused(&error.to_string()))
}

/// Finds keys, and believes for a moment what it found.
#[derive(Debug, Clone)]
pub(crate) struct Keyring {
    pool: PgPool,
    peppers: Arc<[[u8; 32]]>,
    /// By public id. Holds keys that were found; an unknown one is looked for each time.
    found: Cache<String, Known>,
}

#[derive(Debug, Clone)]
struct Known {
    row: Arc<FoundKey>,
    scopes: Arc<[Scope]>,
}

/// Why a key was not found.
#[derive(Debug)]
enum NotFound {
    Unknown,
    Database(sqlx::Error),
}

impl Keyring {
    pub(crate) fn new(pool: PgPool, keys: &MasterKeys) -> Self {
        Self {
            pool,
            peppers: keys.derive_all(access::PEPPER).into(),
            found: Cache::builder()
                .max_capacity(REMEMBERED)
                .time_to_live(BELIEVED)
                .build(),
        }
    }

    /// The key of this text, if it is good now.
    async fn find(&self, text: &ApiKeyText) -> Result<Known, Problem> {
        let refused = || {
            Problem::new(
                Code::Unauthorized,
                "the API key is unknown, revoked or expired",
            )
        };
        // Requests that miss at the same time ask the database once.
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
            .is_none_or(|moment| moment > clock::now());
        if is_current && text.verify(&known.row.hash, &self.peppers) {
            Ok(known)
        } else {
            Err(refused())
        }
    }

    async fn look_up(&self, public_id: &str) -> Result<Known, NotFound> {
        let row = access::find_key(&self.pool, public_id)
            .await
            .map_err(NotFound::Database)?
            .ok_or(NotFound::Unknown)?;
        let scopes = row.scopes().into();
        Ok(Known {
            row: Arc::new(row),
            scopes,
        })
    }
}
