//! Room: permissions allowed or denied to single people, whatever their roles say.
//! Takes: a tenant's transaction. Gives: overrides made, listed and taken back, each with its entry in the
//! audit log.
//! Never: asks whether who makes one may do so.

use chrono::{DateTime, Utc};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::{TenantTx, query_as};
use harkara_shared::id::UserId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::reach::Admins;
use super::{Error, OverrideId, find_user, grant, link};

/// What an override does. A denial wins over every allowance and role.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub(crate) enum Effect {
    Allow,
    Deny,
}

/// An override that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct NewOverride {
    pub(crate) permission: String,
    pub(crate) effect: Effect,
    /// From when on; now when `None`.
    pub(crate) not_before: Option<DateTime<Utc>>,
    /// Until when; for good when `None`.
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) reason: Option<String>,
}

/// A permission allowed or denied to a person.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Override {
    pub(crate) id: OverrideId,
    pub(crate) permission: String,
    pub(crate) effect: Effect,
    pub(crate) not_before: DateTime<Utc>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) granted_by: String,
    pub(crate) reason: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
}

/// Allows or denies a permission.
///
/// # Errors
/// [`Error::Times`], [`Error::Reason`], [`Error::NoSuchUser`], [`Error::NoSuchPermission`],
/// [`Error::LastAdmin`], or when the database refuses.
pub(crate) async fn add_override(
    tx: &mut TenantTx,
    actor: &Actor,
    user: UserId,
    new: NewOverride,
) -> Result<Override, Error> {
    grant::check(new.not_before, new.expires_at, new.reason.as_deref())?;
    let admins = Admins::look(tx, user).await?;
    let tenant = tx.tenant();
    let made: Option<Override> = query_as(include_str!("../sql/create_override.sql"))
        .bind(tenant)
        .bind(user)
        .bind(OverrideId::new())
        .bind(&new.permission)
        .bind(new.effect)
        .bind(new.not_before)
        .bind(new.expires_at)
        .bind(&actor.id)
        .bind(&new.reason)
        .fetch_optional(&mut **tx)
        .await?;
    let Some(made) = made else {
        return Err(match find_user(tx, user).await? {
            Some(_) => Error::NoSuchPermission(new.permission),
            None => Error::NoSuchUser,
        });
    };
    match made.effect {
        Effect::Allow => link::end_others(tx, user, Some(&actor.id)).await?,
        Effect::Deny => admins.remain(tx).await?,
    }
    let entry = Entry::new("permission.create", made.id).after(shown(user, &made));
    audit::record(tx, tenant, actor, &entry).await?;
    Ok(made)
}

/// All that a person was allowed or denied, newest first.
pub(crate) async fn list_overrides(
    tx: &mut TenantTx,
    user: UserId,
) -> Result<Vec<Override>, Error> {
    let tenant = tx.tenant();
    Ok(query_as(include_str!("../sql/list_overrides.sql"))
        .bind(tenant)
        .bind(user)
        .fetch_all(&mut **tx)
        .await?)
}

/// Takes an override back; `None` when there is none that holds or will.
///
/// # Errors
/// [`Error::LastAdmin`], or when the database refuses.
pub(crate) async fn revoke_override(
    tx: &mut TenantTx,
    actor: &Actor,
    user: UserId,
    id: OverrideId,
) -> Result<Option<Override>, Error> {
    let admins = Admins::look(tx, user).await?;
    let tenant = tx.tenant();
    let revoked: Option<Override> = query_as(include_str!("../sql/revoke_override.sql"))
        .bind(tenant)
        .bind(user)
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?;
    if let Some(revoked) = &revoked {
        admins.remain(tx).await?;
        let entry = Entry::new("permission.revoke", revoked.id).before(shown(user, revoked));
        audit::record(tx, tenant, actor, &entry).await?;
    }
    Ok(revoked)
}

fn shown(user: UserId, one: &Override) -> serde_json::Value {
    json!({
        "user_id": user, "permission": one.permission, "effect": one.effect,
        "not_before": one.not_before, "expires_at": one.expires_at, "reason": one.reason,
    })
}
