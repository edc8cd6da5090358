//! Permissions allowed or denied to a single user, whatever their roles grant.
//!
//! Each change writes an entry to the audit log. Whether the actor is allowed to make it is checked by the
//! caller.

use chrono::{DateTime, Utc};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::{TenantTx, query_as};
use harkara_shared::id::UserId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::effective_permissions::AdminCheck;
use super::{Error, OverrideId, find_user, grant, link};

/// Effect of an override on a permission: `allow` grants it beside the roles of the user; `deny` removes it, and takes
/// precedence over every role and every `allow`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema, sqlx::Type)]
#[serde(rename_all = "lowercase")]
#[sqlx(type_name = "text", rename_all = "lowercase")]
pub enum Effect {
    /// The user has the permission.
    Allow,
    /// The user lacks the permission.
    Deny,
}

/// An override to create.
#[derive(Debug, Clone)]
pub struct NewOverride {
    /// Name of the permission.
    pub permission: String,
    /// Whether it is allowed or denied.
    pub effect: Effect,
    /// Start; `None` for now.
    pub not_before: Option<DateTime<Utc>>,
    /// End; `None` for no end.
    pub expires_at: Option<DateTime<Utc>>,
    /// Reason for the audit log, 1 to 500 characters.
    pub reason: Option<String>,
}

/// A permission allowed or denied to a user.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Override {
    /// `ovr_…`
    pub id: OverrideId,
    /// Name of the permission.
    pub permission: String,
    /// Whether it is allowed or denied.
    pub effect: Effect,
    /// Start.
    pub not_before: DateTime<Utc>,
    /// End; `None` for no end.
    pub expires_at: Option<DateTime<Utc>>,
    /// Id of the actor that created it, as in the audit log.
    pub granted_by: String,
    /// Reason that the actor gave.
    pub reason: Option<String>,
    /// When it was created.
    pub created_at: DateTime<Utc>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Allows or denies a permission to a user.
///
/// # Errors
/// [`Error::Times`], [`Error::Reason`], [`Error::NoSuchUser`], [`Error::NoSuchPermission`],
/// [`Error::LastAdmin`], or when the database refuses.
pub async fn add_override(
    tx: &mut TenantTx,
    actor: &Actor,
    user: UserId,
    new: NewOverride,
) -> Result<Override, Error> {
    grant::check(new.not_before, new.expires_at, new.reason.as_deref())?;
    let admins = AdminCheck::before(tx, user).await?;
    let tenant = tx.tenant();
    let created: Option<Override> = query_as(include_str!("../sql/override_/create_override.sql"))
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
    let Some(created) = created else {
        return Err(match find_user(tx, user).await? {
            Some(_) => Error::NoSuchPermission(new.permission),
            None => Error::NoSuchUser,
        });
    };
    match created.effect {
        Effect::Allow => link::end_others(tx, user, Some(&actor.id)).await?,
        Effect::Deny => admins.after(tx).await?,
    }
    let entry = Entry::new("permission.create", created.id).after(audit_value(user, &created));
    audit::record(tx, tenant, actor, &entry).await?;
    Ok(created)
}

/// Lists all overrides of a user, newest first.
///
/// # Errors
/// When the database refuses.
pub async fn list_overrides(tx: &mut TenantTx, user: UserId) -> Result<Vec<Override>, Error> {
    let tenant = tx.tenant();
    Ok(
        query_as(include_str!("../sql/override_/list_overrides.sql"))
            .bind(tenant)
            .bind(user)
            .fetch_all(&mut **tx)
            .await?,
    )
}

/// Revokes an override; `None` when the user has no such override, or it has ended.
///
/// # Errors
/// [`Error::LastAdmin`], or when the database refuses.
pub async fn revoke_override(
    tx: &mut TenantTx,
    actor: &Actor,
    user: UserId,
    id: OverrideId,
) -> Result<Option<Override>, Error> {
    let admins = AdminCheck::before(tx, user).await?;
    let tenant = tx.tenant();
    let revoked: Option<Override> = query_as(include_str!("../sql/override_/revoke_override.sql"))
        .bind(tenant)
        .bind(user)
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?;
    if let Some(revoked) = &revoked {
        admins.after(tx).await?;
        let entry = Entry::new("permission.revoke", revoked.id).before(audit_value(user, revoked));
        audit::record(tx, tenant, actor, &entry).await?;
    }
    Ok(revoked)
}

fn audit_value(user: UserId, one: &Override) -> serde_json::Value {
    json!({
        "user_id": user, "permission": one.permission, "effect": one.effect,
        "not_before": one.not_before, "expires_at": one.expires_at, "reason": one.reason,
    })
}
