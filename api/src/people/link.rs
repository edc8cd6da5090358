//! Room: one-time links to sign in with.
//! Takes: a tenant's transaction and a person, or the token of a link. Gives: a link, whose token is
//! told once; whose link it is; that it was used, to one caller only.
//! Never: stores the token, or uses a link up because somebody looked at it.

use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::{TenantId, UserId};
use serde_json::json;
use sqlx::PgPool;
use uuid::Uuid;

use super::{Error, Token};

/// How long a link lives unless somebody says otherwise.
pub const DEFAULT_LIFE: Duration = Duration::from_mins(15);

/// A link that was just made.
#[derive(Debug)]
pub struct SignInLink {
    token: Token,
    /// Until when it can be used.
    pub expires_at: DateTime<Utc>,
}

impl SignInLink {
    /// Its address, for the one answer that shows it, on a platform that is reached at `base`.
    #[must_use]
    pub fn url(&self, base: &str) -> String {
        format!(
            "{}/sign-in/{}",
            base.trim_end_matches('/'),
            self.token.expose()
        )
    }
}

/// Makes a link for a person, in place of those they have not used.
///
/// # Errors
/// [`Error::NoSuchUser`] also when they are disabled, or when the database refuses.
pub async fn create_link(
    tx: &mut TenantTx,
    actor: &Actor,
    user: UserId,
    life: Duration,
) -> Result<SignInLink, Error> {
    let (tenant, token) = (tx.tenant(), Token::generate());
    let made: Option<DateTime<Utc>> = query_scalar(include_str!("../sql/create_sign_in_link.sql"))
        .bind(tenant)
        .bind(user)
        .bind(Uuid::now_v7())
        .bind(token.hash().as_slice())
        .bind(&actor.id)
        .bind(life.as_secs_f64())
        .fetch_optional(&mut **tx)
        .await?;
    let expires_at = made.ok_or(Error::NoSuchUser)?;
    let entry = Entry::new("sign_in_link.create", user).after(json!({"expires_at": expires_at}));
    audit::record(tx, tenant, actor, &entry).await?;
    Ok(SignInLink { token, expires_at })
}

/// Whose link it is.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct LinkFound {
    pub(crate) tenant_id: TenantId,
    pub(crate) email: String,
    pub(crate) name: String,
}

/// The link of a token, if it can be used now.
pub(crate) async fn find_link(pool: &PgPool, token: &Token) -> Result<Option<LinkFound>, Error> {
    Ok(query_as(include_str!("../sql/find_sign_in_link.sql"))
        .bind(token.hash().as_slice())
        .fetch_optional(pool)
        .await?)
}

/// Uses a link up. Of all who try, with the transaction committed, one is answered the person.
pub(crate) async fn use_link(tx: &mut TenantTx, token: &Token) -> Result<Option<UserId>, Error> {
    let tenant = tx.tenant();
    Ok(query_scalar(include_str!("../sql/use_sign_in_link.sql"))
        .bind(tenant)
        .bind(token.hash().as_slice())
        .fetch_optional(&mut **tx)
        .await?)
}

/// Ends the open links of a person, but for those that `but` made.
pub(super) async fn end_others(
    tx: &mut TenantTx,
    user: UserId,
    but: Option<&str>,
) -> Result<(), Error> {
    let tenant = tx.tenant();
    query(include_str!("../sql/end_sign_in_links.sql"))
        .bind(tenant)
        .bind(user)
        .bind(but.map(str::to_owned))
        .execute(&mut **tx)
        .await?;
    Ok(())
}
