//! Sessions of users who have signed in.
//!
//! A session's token is returned once and stored as a hash. The user's rights are read with the session for
//! every request.

use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::{SessionId, TenantId, UserId};
use serde::Serialize;
use serde_json::json;
use sqlx::PgPool;
use utoipa::ToSchema;

use super::permission::all_scopes;
use super::{Error, Token};
use crate::scope::Scope;
use crate::tenant::{PLATFORM_SLUG, TenantStatus};

/// Maximum lifetime of a session.
pub const MAX_LIFE: Duration = Duration::from_hours(12);

/// Lifetime of a session without requests.
const IDLE_TIMEOUT: Duration = Duration::from_hours(2);

/// How long a confirmation of the user's identity lasts.
pub const CONFIRMATION_LIFE: Duration = Duration::from_mins(10);

/// How a user signed in: with a password (and a code, if the account requires one), with a one-time link, or at the
/// OpenID Connect provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[schema(as = SignInMethod)]
pub enum Method {
    /// A password, with a code if the account requires one.
    Password,
    /// A one-time link.
    Link,
    /// The OpenID Connect provider.
    Oidc,
}

/// A valid session and its user.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct SessionRow {
    /// The user's tenant.
    pub tenant_id: TenantId,
    /// Slug of the tenant.
    pub tenant_slug: String,
    /// Display name of the tenant.
    pub tenant_name: String,
    /// What the tenant is allowed to do.
    pub tenant_status: TenantStatus,
    /// `ses_…`
    pub id: SessionId,
    /// The user.
    pub user_id: UserId,
    /// How the user signed in.
    pub method: Method,
    /// When the session ends at the latest.
    pub expires_at: DateTime<Utc>,
    /// The user's email.
    pub email: String,
    /// The user's name.
    pub name: String,
    /// When the confirmation of the user's identity ends; `None` without one.
    pub confirmed_until: Option<DateTime<Utc>>,
    /// Names of the roles in force now.
    pub roles: Vec<String>,
    /// Names of the permissions in force now.
    pub permissions: Vec<String>,
}

impl SessionRow {
    /// Whether the user belongs to the built-in tenant.
    #[must_use]
    pub fn is_platform(&self) -> bool {
        self.tenant_slug == PLATFORM_SLUG
    }

    /// The scopes of the user's permissions.
    #[must_use]
    pub fn scopes(&self) -> Vec<Scope> {
        all_scopes(&self.permissions, self.is_platform())
    }
}

/// Finds the session of a token, if it is valid now. Runs one statement, for every request.
///
/// # Errors
/// When the database refuses.
pub async fn find_session(pool: &PgPool, token: &Token) -> Result<Option<SessionRow>, sqlx::Error> {
    query_as(include_str!("../sql/session/find_session.sql"))
        .bind(token.hash().as_slice())
        .bind(IDLE_TIMEOUT.as_secs_f64())
        .bind(CONFIRMATION_LIFE.as_secs_f64())
        .fetch_optional(pool)
        .await
}

/// Creates a session and returns its token; `None` when the user was deleted or disabled in the meantime.
///
/// # Errors
/// When the database refuses.
pub async fn create_session(
    tx: &mut TenantTx,
    actor: &Actor,
    user: UserId,
    method: Method,
) -> Result<Option<Token>, Error> {
    let (tenant, id, token) = (tx.tenant(), SessionId::new(), Token::generate());
    let address = actor.address.map(|address| address.to_string());
    let opened: Option<DateTime<Utc>> =
        query_scalar(include_str!("../sql/session/create_session.sql"))
            .bind(tenant)
            .bind(user)
            .bind(id)
            .bind(token.hash().as_slice())
            .bind(method)
            .bind(MAX_LIFE.as_secs_f64())
            .bind(&address)
            .bind(&actor.user_agent)
            .fetch_optional(&mut **tx)
            .await?;
    if opened.is_none() {
        return Ok(None);
    }
    query(include_str!("../sql/session/record_sign_in.sql"))
        .bind(tenant)
        .bind(user)
        .execute(&mut **tx)
        .await?;
    let entry = Entry::new("session.create", id).after(json!({"user_id": user, "method": method}));
    audit::record(tx, tenant, actor, &entry).await?;
    Ok(Some(token))
}

/// Ends a session, or all sessions of its user. Returns how many ended.
///
/// # Errors
/// When the database refuses.
pub async fn sign_out(
    tx: &mut TenantTx,
    actor: &Actor,
    own: &SessionRow,
    everywhere: bool,
) -> Result<u64, Error> {
    let only = (!everywhere).then_some(own.id);
    let ended = end_matching(tx, own.user_id, only, None).await?;
    let action = if everywhere {
        "session.end_all"
    } else {
        "session.end"
    };
    let entry = Entry::new(action, own.id).after(json!({"ended": ended}));
    audit::record(tx, own.tenant_id, actor, &entry).await?;
    Ok(ended)
}

/// Ends all sessions of a user except `but`. Returns how many ended.
///
/// # Errors
/// When the database refuses.
pub async fn end_sessions(
    tx: &mut TenantTx,
    user: UserId,
    but: Option<SessionId>,
) -> Result<u64, Error> {
    end_matching(tx, user, None, but).await
}

async fn end_matching(
    tx: &mut TenantTx,
    user: UserId,
    only: Option<SessionId>,
    but: Option<SessionId>,
) -> Result<u64, Error> {
    let tenant = tx.tenant();
    let ended = query(include_str!("../sql/session/end_sessions.sql"))
        .bind(tenant)
        .bind(user)
        .bind(only)
        .bind(but)
        .execute(&mut **tx)
        .await?;
    Ok(ended.rows_affected())
}

/// An open session, as its user sees it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct OpenSession {
    /// `ses_…`
    pub id: SessionId,
    /// How the user signed in.
    pub method: Method,
    /// When the user signed in.
    pub created_at: DateTime<Utc>,
    /// When the session was last used, accurate to the minute.
    pub last_seen_at: DateTime<Utc>,
    /// When the session ends.
    pub expires_at: DateTime<Utc>,
    /// IP address of the sign-in.
    pub address: Option<String>,
    /// `User-Agent` of the sign-in.
    pub user_agent: Option<String>,
}

/// Lists a user's open sessions, newest first.
///
/// # Errors
/// When the database refuses.
pub async fn list_sessions(tx: &mut TenantTx, user: UserId) -> Result<Vec<OpenSession>, Error> {
    let tenant = tx.tenant();
    Ok(query_as(include_str!("../sql/session/list_sessions.sql"))
        .bind(tenant)
        .bind(user)
        .bind(IDLE_TIMEOUT.as_secs_f64())
        .fetch_all(&mut **tx)
        .await?)
}

/// Records that the user of a session has confirmed their identity. Returns when the confirmation ends; `None` when the
/// session is over.
///
/// # Errors
/// When the database refuses.
pub async fn confirm_session(
    tx: &mut TenantTx,
    id: SessionId,
) -> Result<Option<DateTime<Utc>>, Error> {
    let tenant = tx.tenant();
    Ok(
        query_scalar(include_str!("../sql/session/confirm_session.sql"))
            .bind(tenant)
            .bind(id)
            .bind(CONFIRMATION_LIFE.as_secs_f64())
            .fetch_optional(&mut **tx)
            .await?,
    )
}
