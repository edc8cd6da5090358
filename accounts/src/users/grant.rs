//! Grants of roles to users.
//!
//! Each change writes an entry to the audit log. Whether the actor is allowed to grant a role is checked by
//! the caller; whether a grant is in force is decided by the database's clock.

use chrono::{DateTime, Utc};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::clock;
use harkara_shared::database::{TenantTx, query_as};
use harkara_shared::id::UserId;
use serde_json::json;

use super::effective_permissions::AdminCheck;
use super::{Error, GrantId, find_user, link};

/// A role to grant.
#[derive(Debug, Clone)]
pub struct NewGrant {
    /// Name of the role.
    pub role: String,
    /// Start; `None` for now.
    pub not_before: Option<DateTime<Utc>>,
    /// End; `None` for no end.
    pub expires_at: Option<DateTime<Utc>>,
    /// Reason for the audit log, 1 to 500 characters.
    pub reason: Option<String>,
}

/// A role granted to a user.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Grant {
    /// `grt_…`
    pub id: GrantId,
    /// Name of the role.
    pub role: String,
    /// Start.
    pub not_before: DateTime<Utc>,
    /// End; `None` for no end.
    pub expires_at: Option<DateTime<Utc>>,
    /// Id of the actor that granted it, as in the audit log.
    pub granted_by: String,
    /// Reason that the actor gave.
    pub reason: Option<String>,
    /// When it was granted.
    pub created_at: DateTime<Utc>,
    /// When it was revoked.
    pub revoked_at: Option<DateTime<Utc>>,
}

/// Checks the times and the reason of a grant.
pub(super) fn check(
    not_before: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    reason: Option<&str>,
) -> Result<(), Error> {
    let begins = not_before.map_or_else(clock::now, |from| from.max(clock::now()));
    if expires_at.is_some_and(|until| until <= begins) {
        return Err(Error::Times);
    }
    if reason.is_some_and(|reason| !(1..=500).contains(&reason.chars().count())) {
        return Err(Error::Reason);
    }
    Ok(())
}

/// Grants a role.
///
/// # Errors
/// [`Error::Times`], [`Error::Reason`], [`Error::NoSuchUser`], [`Error::NoSuchRole`], or when the
/// database refuses.
pub async fn grant_role(
    tx: &mut TenantTx,
    actor: &Actor,
    user: UserId,
    new: NewGrant,
) -> Result<Grant, Error> {
    check(new.not_before, new.expires_at, new.reason.as_deref())?;
    let tenant = tx.tenant();
    let created: Option<Grant> = query_as(include_str!("../sql/grant/create_grant.sql"))
        .bind(tenant)
        .bind(user)
        .bind(GrantId::new())
        .bind(&new.role)
        .bind(new.not_before)
        .bind(new.expires_at)
        .bind(&actor.id)
        .bind(&new.reason)
        .fetch_optional(&mut **tx)
        .await?;
    let Some(grant) = created else {
        return Err(match find_user(tx, user).await? {
            Some(_) => Error::NoSuchRole(new.role),
            None => Error::NoSuchUser,
        });
    };
    // An older link would sign its holder in with the rights of that time, not with the new role.
    link::end_others(tx, user, Some(&actor.id)).await?;
    let entry = Entry::new("grant.create", grant.id).after(json!({
        "user_id": user, "role": grant.role, "not_before": grant.not_before,
        "expires_at": grant.expires_at, "reason": grant.reason,
    }));
    audit::record(tx, tenant, actor, &entry).await?;
    Ok(grant)
}

/// Lists all grants of a user, newest first.
///
/// # Errors
/// When the database refuses.
pub async fn list_grants(tx: &mut TenantTx, user: UserId) -> Result<Vec<Grant>, Error> {
    let tenant = tx.tenant();
    Ok(query_as(include_str!("../sql/grant/list_grants.sql"))
        .bind(tenant)
        .bind(user)
        .fetch_all(&mut **tx)
        .await?)
}

/// Revokes a grant; `None` when the user has no such grant, or it has ended.
///
/// # Errors
/// [`Error::LastAdmin`], or when the database refuses.
pub async fn revoke_grant(
    tx: &mut TenantTx,
    actor: &Actor,
    user: UserId,
    grant: GrantId,
) -> Result<Option<Grant>, Error> {
    let admins = AdminCheck::before(tx, user).await?;
    let tenant = tx.tenant();
    let revoked: Option<Grant> = query_as(include_str!("../sql/grant/revoke_grant.sql"))
        .bind(tenant)
        .bind(user)
        .bind(grant)
        .fetch_optional(&mut **tx)
        .await?;
    if let Some(grant) = &revoked {
        admins.after(tx).await?;
        let entry = Entry::new("grant.revoke", grant.id)
            .before(json!({"user_id": user, "role": grant.role, "expires_at": grant.expires_at}));
        audit::record(tx, tenant, actor, &entry).await?;
    }
    Ok(revoked)
}
