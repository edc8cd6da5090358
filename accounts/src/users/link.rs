//! One-time sign-in links.
//!
//! A link's token is returned once and stored as a hash. A link is used up by exactly one sign-in, and never
//! by a request that only looks at it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::{TenantId, UserId};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use super::{Error, Token};

/// Lifetime of a link unless the caller sets another.
pub const DEFAULT_LIFE: Duration = Duration::from_mins(15);

/// A link that was just created.
#[derive(Debug)]
pub struct SignInLink {
    token: Token,
    /// When it expires.
    pub expires_at: DateTime<Utc>,
}

impl SignInLink {
    /// The link's URL, below the platform's base URL. Contains the token: show it once.
    #[must_use]
    pub fn url(&self, base: &str) -> String {
        format!(
            "{}/sign-in/{}",
            base.trim_end_matches('/'),
            self.token.expose()
        )
    }
}

/// Creates a link for a user. It replaces their unused links.
///
/// # Errors
/// [`Error::NoSuchUser`] when the user does not exist or is disabled, or when the database refuses.
pub async fn create_link(
    tx: &mut TenantTx,
    actor: &Actor,
    user: UserId,
    life: Duration,
) -> Result<SignInLink, Error> {
    let (tenant, token) = (tx.tenant(), Token::generate());
    let created: Option<DateTime<Utc>> =
        query_scalar(include_str!("../sql/link/create_sign_in_link.sql"))
            .bind(tenant)
            .bind(user)
            .bind(Uuid::now_v7())
            .bind(token.hash().as_slice())
            .bind(&actor.id)
            .bind(life.as_secs_f64())
            .fetch_optional(&mut **tx)
            .await?;
    let expires_at = created.ok_or(Error::NoSuchUser)?;
    let entry = Entry::new("sign_in_link.create", user).after(json!({"expires_at": expires_at}));
    audit::record(tx, tenant, actor, &entry).await?;
    Ok(SignInLink { token, expires_at })
}

/// A valid link and its user.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct LinkFound {
    /// The user's tenant.
    pub tenant_id: TenantId,
    /// The user's email.
    pub email: String,
    /// The user's name.
    pub name: String,
}

/// Finds the link of a token, if it is valid now. Does not use it up.
///
/// # Errors
/// When the database refuses.
pub async fn find_link(pool: &PgPool, token: &Token) -> Result<Option<LinkFound>, Error> {
    Ok(query_as(include_str!("../sql/link/find_sign_in_link.sql"))
        .bind(token.hash().as_slice())
        .fetch_optional(pool)
        .await?)
}

/// Uses a link up and returns its user. Of all concurrent callers that commit, exactly one gets the user.
///
/// # Errors
/// When the database refuses.
pub async fn use_link(tx: &mut TenantTx, token: &Token) -> Result<Option<UserId>, Error> {
    let tenant = tx.tenant();
    Ok(
        query_scalar(include_str!("../sql/link/use_sign_in_link.sql"))
            .bind(tenant)
            .bind(token.hash().as_slice())
            .fetch_optional(&mut **tx)
            .await?,
    )
}

/// Revokes the open links of a user, except those that the actor `but` created.
pub(super) async fn end_others(
    tx: &mut TenantTx,
    user: UserId,
    but: Option<&str>,
) -> Result<(), Error> {
    let tenant = tx.tenant();
    query(include_str!("../sql/link/end_sign_in_links.sql"))
        .bind(tenant)
        .bind(user)
        .bind(but.map(str::to_owned))
        .execute(&mut **tx)
        .await?;
    Ok(())
}
