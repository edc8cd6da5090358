//! Creates, finds, changes and deletes users.
//!
//! Each change writes an entry to the audit log. Passwords are handled in `password`.

use chrono::{DateTime, Utc};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::{TenantTx, query_as, query_scalar};
use harkara_shared::id::UserId;
use serde_json::json;

use super::effective_permissions::AdminCheck;
use super::grant::{NewGrant, grant_role};
use super::{Error, session};

/// A user to create, with their first role.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// Email, which the user signs in with.
    pub email: String,
    /// Display name, 1 to 200 characters.
    pub name: String,
    /// Name of the first role.
    pub role: String,
    /// When the grant of the role ends; `None` for no end.
    pub expires_at: Option<DateTime<Utc>>,
    /// Reason for the audit log.
    pub reason: Option<String>,
}

/// A user and the rights in force now.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct User {
    /// `usr_…`
    pub id: UserId,
    /// Email, in lower case.
    pub email: String,
    /// Display name.
    pub name: String,
    /// Whether a password is set.
    pub has_password: bool,
    /// Whether signing in with the password requires a code.
    pub has_totp: bool,
    /// Whether the user is bound to an identity of the provider.
    pub has_oidc: bool,
    /// When the user was created.
    pub created_at: DateTime<Utc>,
    /// When the user was last changed.
    pub updated_at: DateTime<Utc>,
    /// When the user last signed in.
    pub last_sign_in_at: Option<DateTime<Utc>>,
    /// When the user was disabled; `None` if active.
    pub disabled_at: Option<DateTime<Utc>>,
    /// Names of the roles in force now.
    pub roles: Vec<String>,
    /// Names of the permissions in force now.
    pub permissions: Vec<String>,
}

/// A change of a user. Members that are `None` keep their value.
#[derive(Debug, Clone, Default)]
pub struct UserChange {
    /// New email.
    pub email: Option<String>,
    /// New display name.
    pub name: Option<String>,
    /// Whether the user cannot sign in.
    pub disabled: Option<bool>,
}

/// Normalizes an email for storage: lower case, trimmed.
#[must_use]
pub fn normal_email(text: &str) -> String {
    text.trim().to_lowercase()
}

/// Whether a text has the form of an email: 3 to 254 characters, an `@` between others, no white space or control
/// characters. Whether mail arrives is not checked.
#[must_use]
pub fn is_email(text: &str) -> bool {
    let parts = text.rsplit_once('@');
    (3..=254).contains(&text.chars().count())
        && !text.chars().any(|c| c.is_whitespace() || c.is_control())
        && parts.is_some_and(|(local, domain)| !local.is_empty() && !domain.is_empty())
}

pub(super) fn is_name(text: &str) -> bool {
    (1..=200).contains(&text.chars().count()) && !text.contains('\0')
}

/// Creates a user and grants the first role.
///
/// # Errors
/// [`Error::Email`], [`Error::EmailTaken`], [`Error::Name`], those of [`grant_role`], or when the database refuses.
pub async fn create_user(tx: &mut TenantTx, actor: &Actor, new: NewUser) -> Result<User, Error> {
    let email = normal_email(&new.email);
    if !is_email(&email) {
        return Err(Error::Email);
    }
    if !is_name(&new.name) {
        return Err(Error::Name);
    }
    let tenant = tx.tenant();
    let created: Option<UserId> = query_scalar(include_str!("../sql/user/create_user.sql"))
        .bind(tenant)
        .bind(UserId::new())
        .bind(&email)
        .bind(&new.name)
        .fetch_optional(&mut **tx)
        .await?;
    let id = created.ok_or_else(|| Error::EmailTaken(email.clone()))?;
    let entry = Entry::new("user.create", id).after(json!({"email": email, "name": new.name}));
    audit::record(tx, tenant, actor, &entry).await?;
    let grant = NewGrant {
        role: new.role,
        not_before: None,
        expires_at: new.expires_at,
        reason: new.reason,
    };
    grant_role(tx, actor, id, grant).await?;
    find_user(tx, id).await?.ok_or(Error::NoSuchUser)
}

/// Lists users, newest first, older than `before`.
///
/// # Errors
/// When the database refuses.
pub async fn list_users(
    tx: &mut TenantTx,
    before: Option<UserId>,
    limit: u32,
) -> Result<Vec<User>, Error> {
    select(tx, before, None, None, limit).await
}

/// Finds a user by id.
///
/// # Errors
/// When the database refuses.
pub async fn find_user(tx: &mut TenantTx, id: UserId) -> Result<Option<User>, Error> {
    Ok(select(tx, None, Some(id), None, 1).await?.pop())
}

/// Finds a user by email.
///
/// # Errors
/// When the database refuses.
pub async fn find_user_by_email(tx: &mut TenantTx, email: &str) -> Result<Option<User>, Error> {
    let email = normal_email(email);
    Ok(select(tx, None, None, Some(&email), 1).await?.pop())
}

async fn select(
    tx: &mut TenantTx,
    before: Option<UserId>,
    id: Option<UserId>,
    email: Option<&str>,
    limit: u32,
) -> Result<Vec<User>, Error> {
    let tenant = tx.tenant();
    Ok(query_as(include_str!("../sql/user/list_users.sql"))
        .bind(tenant)
        .bind(before)
        .bind(id)
        .bind(email.map(str::to_owned))
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await?)
}

/// Changes a user. Disabling a user ends their sessions.
///
/// # Errors
/// As [`create_user`]; [`Error::NoSuchUser`], [`Error::LastAdmin`].
pub async fn change_user(
    tx: &mut TenantTx,
    actor: &Actor,
    id: UserId,
    change: UserChange,
) -> Result<User, Error> {
    let email = change.email.as_deref().map(normal_email);
    if email.as_deref().is_some_and(|email| !is_email(email)) {
        return Err(Error::Email);
    }
    if change.name.as_deref().is_some_and(|name| !is_name(name)) {
        return Err(Error::Name);
    }
    let admins = AdminCheck::before(tx, id).await?;
    let before = find_user(tx, id).await?.ok_or(Error::NoSuchUser)?;
    let tenant = tx.tenant();
    let changed: Result<Option<UserId>, sqlx::Error> =
        query_scalar(include_str!("../sql/user/change_user.sql"))
            .bind(tenant)
            .bind(id)
            .bind(&email)
            .bind(&change.name)
            .bind(change.disabled)
            .fetch_optional(&mut **tx)
            .await;
    match changed {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => {
            return Err(Error::EmailTaken(email.unwrap_or_default()));
        }
        changed => changed?.ok_or(Error::NoSuchUser)?,
    };
    if change.disabled == Some(true) {
        session::end_sessions(tx, id, None).await?;
        admins.after(tx).await?;
    }
    let after = find_user(tx, id).await?.ok_or(Error::NoSuchUser)?;
    let audit_value = |user: &User| json!({"email": user.email, "name": user.name, "disabled": user.disabled_at.is_some()});
    let entry = Entry::new("user.change", id)
        .before(audit_value(&before))
        .after(audit_value(&after));
    audit::record(tx, tenant, actor, &entry).await?;
    Ok(after)
}

/// Deletes a user with their grants and sessions. Their entries in the audit log remain.
///
/// # Errors
/// [`Error::NoSuchUser`], [`Error::LastAdmin`], or when the database refuses.
pub async fn delete_user(tx: &mut TenantTx, actor: &Actor, id: UserId) -> Result<(), Error> {
    let admins = AdminCheck::before(tx, id).await?;
    let user = find_user(tx, id).await?.ok_or(Error::NoSuchUser)?;
    let tenant = tx.tenant();
    let deleted: Option<UserId> = query_scalar(include_str!("../sql/user/delete_user.sql"))
        .bind(tenant)
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?;
    deleted.ok_or(Error::NoSuchUser)?;
    admins.after(tx).await?;
    let entry = Entry::new("user.delete", id)
        .before(json!({"email": user.email, "name": user.name, "roles": user.roles}));
    audit::record(tx, tenant, actor, &entry).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn email_requires_an_at_and_no_invisible_characters() {
        let longest = format!("{}@b", "a".repeat(252));
        for text in [
            "a@b",
            "admin@localhost",
            "ada.l+x@mail.example.com",
            "ü@ä",
            longest.as_str(),
        ] {
            assert!(is_email(text), "{text}");
        }
        for text in [
            "",
            "a",
            "@",
            "a@",
            "@b",
            "a b@c",
            "a@b\n",
            "a@\0b",
            &format!("a{longest}"),
        ] {
            assert!(!is_email(text), "{text}");
        }
        assert_eq!(normal_email(" Ada@Example.COM "), "ada@example.com");
    }
}
