//! Room: people at rest.
//! Takes: a tenant's transaction. Gives: people made, found, changed and removed, each with the entry of
//! the audit log that tells of it.
//! Never: tells or takes a password.

use chrono::{DateTime, Utc};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::database::{TenantTx, query_as, query_scalar};
use harkara_shared::id::UserId;
use serde_json::json;

use super::grant::{NewGrant, grant_role};
use super::reach::Admins;
use super::{Error, session};

/// A person who is wanted, with their first role.
#[derive(Debug, Clone)]
pub struct NewUser {
    /// Where mail reaches them, and what they sign in with.
    pub email: String,
    /// What people call them, 1 to 200 characters.
    pub name: String,
    /// The role they begin with.
    pub role: String,
    /// When they lose it again.
    pub expires_at: Option<DateTime<Utc>>,
    /// Why they get it.
    pub reason: Option<String>,
}

/// A person, and what they may do at this moment.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct User {
    /// Id.
    pub id: UserId,
    /// In lower case.
    pub email: String,
    /// What people call them.
    pub name: String,
    /// Whether they can sign in with a password.
    pub has_password: bool,
    /// Whether they need a code beside it.
    pub has_totp: bool,
    /// Whether they signed in through the provider once.
    pub has_oidc: bool,
    /// When they were made.
    pub created_at: DateTime<Utc>,
    /// When they were last changed.
    pub updated_at: DateTime<Utc>,
    /// When they last signed in.
    pub last_sign_in_at: Option<DateTime<Utc>>,
    /// Since when they cannot sign in.
    pub disabled_at: Option<DateTime<Utc>>,
    /// The roles granted to them that hold now.
    pub roles: Vec<String>,
    /// What they may do now.
    pub permissions: Vec<String>,
}

/// What is to change of a person; what is `None` stays.
#[derive(Debug, Clone, Default)]
pub(crate) struct UserChange {
    pub(crate) email: Option<String>,
    pub(crate) name: Option<String>,
    pub(crate) disabled: Option<bool>,
}

/// An email address as it is stored: in lower case, without spaces around it.
pub(crate) fn normal_email(text: &str) -> String {
    text.trim().to_lowercase()
}

/// Whether a text can be an email address: 3 to 254 characters, an @ between others, nothing invisible.
/// Whether mail arrives is for mail to find out.
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

/// Makes a person and grants them their first role.
///
/// # Errors
/// [`Error::Email`], [`Error::EmailTaken`], [`Error::Name`], those of grants, or when the database
/// refuses.
pub async fn create_user(tx: &mut TenantTx, actor: &Actor, new: NewUser) -> Result<User, Error> {
    let email = normal_email(&new.email);
    if !is_email(&email) {
        return Err(Error::Email);
    }
    if !is_name(&new.name) {
        return Err(Error::Name);
    }
    let tenant = tx.tenant();
    let made: Option<UserId> = query_scalar(include_str!("../sql/create_user.sql"))
        .bind(tenant)
        .bind(UserId::new())
        .bind(&email)
        .bind(&new.name)
        .fetch_optional(&mut **tx)
        .await?;
    let id = made.ok_or_else(|| Error::EmailTaken(email.clone()))?;
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

/// A page of people, newest first.
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

/// The person with this id.
pub(crate) async fn find_user(tx: &mut TenantTx, id: UserId) -> Result<Option<User>, Error> {
    Ok(select(tx, None, Some(id), None, 1).await?.pop())
}

/// The person with this email.
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
    Ok(query_as(include_str!("../sql/list_users.sql"))
        .bind(tenant)
        .bind(before)
        .bind(id)
        .bind(email.map(str::to_owned))
        .bind(i64::from(limit))
        .fetch_all(&mut **tx)
        .await?)
}

/// Changes a person. Who is disabled is signed out at once.
///
/// # Errors
/// As [`create_user`]; [`Error::NoSuchUser`], [`Error::LastAdmin`].
pub(crate) async fn change_user(
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
    let admins = Admins::look(tx, id).await?;
    let before = find_user(tx, id).await?.ok_or(Error::NoSuchUser)?;
    let tenant = tx.tenant();
    let changed: Result<Option<UserId>, sqlx::Error> =
        query_scalar(include_str!("../sql/change_user.sql"))
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
        session::end_all(tx, id, None).await?;
        admins.remain(tx).await?;
    }
    let after = find_user(tx, id).await?.ok_or(Error::NoSuchUser)?;
    let shown = |user: &User| json!({"email": user.email, "name": user.name, "disabled": user.disabled_at.is_some()});
    let entry = Entry::new("user.change", id)
        .before(shown(&before))
        .after(shown(&after));
    audit::record(tx, tenant, actor, &entry).await?;
    Ok(after)
}

/// Removes a person with all that is theirs; what they did stays in the audit log.
///
/// # Errors
/// [`Error::NoSuchUser`], [`Error::LastAdmin`], or when the database refuses.
pub(crate) async fn delete_user(tx: &mut TenantTx, actor: &Actor, id: UserId) -> Result<(), Error> {
    let admins = Admins::look(tx, id).await?;
    let user = find_user(tx, id).await?.ok_or(Error::NoSuchUser)?;
    let tenant = tx.tenant();
    let gone: Option<UserId> = query_scalar(include_str!("../sql/delete_user.sql"))
        .bind(tenant)
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?;
    gone.ok_or(Error::NoSuchUser)?;
    admins.remain(tx).await?;
    let entry = Entry::new("user.delete", id)
        .before(json!({"email": user.email, "name": user.name, "roles": user.roles}));
    audit::record(tx, tenant, actor, &entry).await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_email_has_an_at_between_others_and_nothing_invisible() {
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
