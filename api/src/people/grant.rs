//! Room: roles granted to people.
//! Takes: a tenant's transaction. Gives: grants made, listed and taken back, each with its entry in the
//! audit log.
//! Never: asks whether who grants may do so, or says whether a grant holds: the database's clock does.

use chrono::{DateTime, Utc};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::clock;
use harkara_shared::database::{TenantTx, query_as};
use harkara_shared::id::UserId;
use serde_json::json;

use super::reach::Admins;
use super::{Error, GrantId, find_user, link};

/// A grant that is wanted.
#[derive(Debug, Clone)]
pub(crate) struct NewGrant {
    pub(crate) role: String,
    /// From when on; now when `None`.
    pub(crate) not_before: Option<DateTime<Utc>>,
    /// Until when; for good when `None`.
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) reason: Option<String>,
}

/// A role granted to a person.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Grant {
    pub(crate) id: GrantId,
    pub(crate) role: String,
    pub(crate) not_before: DateTime<Utc>,
    pub(crate) expires_at: Option<DateTime<Utc>>,
    pub(crate) granted_by: String,
    pub(crate) reason: Option<String>,
    pub(crate) created_at: DateTime<Utc>,
    pub(crate) revoked_at: Option<DateTime<Utc>>,
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
pub(crate) async fn grant_role(
    tx: &mut TenantTx,
    actor: &Actor,
    user: UserId,
    new: NewGrant,
) -> Result<Grant, Error> {
    check(new.not_before, new.expires_at, new.reason.as_deref())?;
    let tenant = tx.tenant();
    let made: Option<Grant> = query_as(include_str!("../sql/create_grant.sql"))
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
    let Some(grant) = made else {
        return Err(match find_user(tx, user).await? {
            Some(_) => Error::NoSuchRole(new.role),
            None => Error::NoSuchUser,
        });
    };
    // Who could sign in as the person they were must not become who they are now.
    link::end_others(tx, user, Some(&actor.id)).await?;
    let entry = Entry::new("grant.create", grant.id).after(json!({
        "user_id": user, "role": grant.role, "not_before": grant.not_before,
        "expires_at": grant.expires_at, "reason": grant.reason,
    }));
    audit::record(tx, tenant, actor, &entry).await?;
    Ok(grant)
}

/// All that a person was granted, newest first.
pub(crate) async fn list_grants(tx: &mut TenantTx, user: UserId) -> Result<Vec<Grant>, Error> {
    let tenant = tx.tenant();
    Ok(query_as(include_str!("../sql/list_grants.sql"))
        .bind(tenant)
        .bind(user)
        .fetch_all(&mut **tx)
        .await?)
}

/// Takes a grant back; `None` when there is none that holds or will.
///
/// # Errors
/// [`Error::LastAdmin`], or when the database refuses.
pub(crate) async fn revoke_grant(
    tx: &mut TenantTx,
    actor: &Actor,
    user: UserId,
    grant: GrantId,
) -> Result<Option<Grant>, Error> {
    let admins = Admins::look(tx, user).await?;
    let tenant = tx.tenant();
    let revoked: Option<Grant> = query_as(include_str!("../sql/revoke_grant.sql"))
        .bind(tenant)
        .bind(user)
        .bind(grant)
        .fetch_optional(&mut **tx)
        .await?;
    if let Some(grant) = &revoked {
        admins.remain(tx).await?;
        let entry = Entry::new("grant.revoke", grant.id)
            .before(json!({"user_id": user, "role": grant.role, "expires_at": grant.expires_at}));
        audit::record(tx, tenant, actor, &entry).await?;
    }
    Ok(revoked)
}
