//! Room: sessions.
//! Takes: a person who has proved who they are, or the token that a browser keeps. Gives: a session, whose
//! token is told once; whose it is and what they may do at this very moment.
//! Never: stores the token, or believes for a second request what was found for the first.

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
use crate::access::{PLATFORM_SLUG, Scope, TenantStatus};

/// How long a session lives, however busy it is.
pub(crate) const LIFE: Duration = Duration::from_hours(12);

/// How long a session lives that nobody uses.
const IDLE: Duration = Duration::from_hours(2);

/// How long it counts that a person proved who they are.
pub(crate) const CONFIRMED: Duration = Duration::from_mins(10);

/// How a person signed in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
#[schema(as = SignInMethod)]
pub(crate) enum Method {
    /// A password, with a code where one is asked for.
    Password,
    /// A one-time link.
    Link,
    /// The provider.
    Oidc,
}

/// A session that is good now, and who has it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct SessionFound {
    pub(crate) tenant_id: TenantId,
    pub(crate) tenant_slug: String,
    pub(crate) tenant_name: String,
    pub(crate) tenant_status: TenantStatus,
    pub(crate) id: SessionId,
    pub(crate) user_id: UserId,
    pub(crate) method: Method,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) email: String,
    pub(crate) name: String,
    /// Until when it counts that they proved who they are; `None` when it no longer does.
    pub(crate) confirmed_until: Option<DateTime<Utc>>,
    /// The roles granted to them that hold now.
    pub(crate) roles: Vec<String>,
    /// What they may do now.
    pub(crate) permissions: Vec<String>,
}

impl SessionFound {
    /// Whether the person belongs to the built-in tenant.
    pub(crate) fn is_platform(&self) -> bool {
        self.tenant_slug == PLATFORM_SLUG
    }

    /// What the person may do in the API.
    pub(crate) fn scopes(&self) -> Vec<Scope> {
        all_scopes(&self.permissions, self.is_platform())
    }
}

/// The session of a token, if it is good now. One statement, made for every request.
pub(crate) async fn find(
    pool: &PgPool,
    token: &Token,
) -> Result<Option<SessionFound>, sqlx::Error> {
    query_as(include_str!("../sql/find_session.sql"))
        .bind(token.hash().as_slice())
        .bind(IDLE.as_secs_f64())
        .bind(CONFIRMED.as_secs_f64())
        .fetch_optional(pool)
        .await
}

/// Opens a session and answers its token; `None` when the person is gone or disabled meanwhile.
pub(crate) async fn open(
    tx: &mut TenantTx,
    actor: &Actor,
    user: UserId,
    method: Method,
) -> Result<Option<Token>, Error> {
    let (tenant, id, token) = (tx.tenant(), SessionId::new(), Token::generate());
    let address = actor.address.map(|address| address.to_string());
    let opened: Option<DateTime<Utc>> = query_scalar(include_str!("../sql/create_session.sql"))
        .bind(tenant)
        .bind(user)
        .bind(id)
        .bind(token.hash().as_slice())
        .bind(method)
        .bind(LIFE.as_secs_f64())
        .bind(&address)
        .bind(&actor.user_agent)
        .fetch_optional(&mut **tx)
        .await?;
    if opened.is_none() {
        return Ok(None);
    }
    query(include_str!("../sql/note_sign_in.sql"))
        .bind(tenant)
        .bind(user)
        .execute(&mut **tx)
        .await?;
    let entry = Entry::new("session.create", id).after(json!({"user_id": user, "method": method}));
    audit::record(tx, tenant, actor, &entry).await?;
    Ok(Some(token))
}

/// A person signs out: of this session, or everywhere.
pub(crate) async fn sign_out(
    tx: &mut TenantTx,
    actor: &Actor,
    own: &SessionFound,
    everywhere: bool,
) -> Result<u64, Error> {
    let only = (!everywhere).then_some(own.id);
    let ended = end_some(tx, own.user_id, only, None).await?;
    let action = if everywhere {
        "session.end_all"
    } else {
        "session.end"
    };
    let entry = Entry::new(action, own.id).after(json!({"ended": ended}));
    audit::record(tx, own.tenant_id, actor, &entry).await?;
    Ok(ended)
}

/// Ends all sessions of a person, but for `but`.
pub(crate) async fn end_all(
    tx: &mut TenantTx,
    user: UserId,
    but: Option<SessionId>,
) -> Result<u64, Error> {
    end_some(tx, user, None, but).await
}

async fn end_some(
    tx: &mut TenantTx,
    user: UserId,
    only: Option<SessionId>,
    but: Option<SessionId>,
) -> Result<u64, Error> {
    let tenant = tx.tenant();
    let ended = query(include_str!("../sql/end_sessions.sql"))
        .bind(tenant)
        .bind(user)
        .bind(only)
        .bind(but)
        .execute(&mut **tx)
        .await?;
    Ok(ended.rows_affected())
}

/// An open session, as its person sees it.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct OpenSession {
    pub(crate) id: SessionId,
    pub(crate) method: Method,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) last_seen_at: DateTime<Utc>,
    pub(crate) expires_at: DateTime<Utc>,
    pub(crate) address: Option<String>,
    pub(crate) user_agent: Option<String>,
}

/// A person's open sessions, newest first.
pub(crate) async fn list(tx: &mut TenantTx, user: UserId) -> Result<Vec<OpenSession>, Error> {
    let tenant = tx.tenant();
    Ok(query_as(include_str!("../sql/list_sessions.sql"))
        .bind(tenant)
        .bind(user)
        .bind(IDLE.as_secs_f64())
        .fetch_all(&mut **tx)
        .await?)
}

/// The person of a session has proved again who they are: until when that counts.
pub(crate) async fn confirm(
    tx: &mut TenantTx,
    id: SessionId,
) -> Result<Option<DateTime<Utc>>, Error> {
    let tenant = tx.tenant();
    Ok(query_scalar(include_str!("../sql/confirm_session.sql"))
        .bind(tenant)
        .bind(id)
        .bind(CONFIRMED.as_secs_f64())
        .fetch_optional(&mut **tx)
        .await?)
}
