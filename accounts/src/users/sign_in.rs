//! Signs users in with a password or a link, and verifies authenticator codes.
//!
//! A failed sign-in reports neither by its error nor by its duration whether the account exists. A code is
//! accepted once. The number of attempts is limited by the caller.

use harkara_shared::audit::{self, Actor, ActorKind, Entry};
use harkara_shared::clock;
use harkara_shared::database::{TenantTx, query_as, query_scalar};
use harkara_shared::id::{TenantId, UserId};
use harkara_shared::vault::MasterKeys;
use serde_json::json;
use sqlx::PgPool;

use super::password::{Passwords, Verdict, check};
use super::session::{self, Method};
use super::user::{is_email, normal_email};
use super::{Authenticator, Error, Token, find_link, use_link};
use crate::tenant::{PLATFORM_SLUG, find_tenant};

/// Maximum number of accounts with one email that are tried when no tenant is named.
const MAX_ACCOUNTS: i64 = 8;

/// What a person entered to sign in.
#[derive(Debug, Clone)]
pub struct Attempt {
    /// The email, as entered.
    pub email: String,
    /// The password.
    pub password: String,
    /// Code of the authenticator.
    pub code: Option<String>,
    /// Slug or id of the tenant.
    pub tenant: Option<String>,
}

/// A user's credentials.
#[derive(Debug, Clone, sqlx::FromRow)]
pub struct Account {
    /// The user's tenant.
    pub tenant_id: TenantId,
    /// Slug of the tenant.
    pub tenant_slug: String,
    /// The user.
    pub id: UserId,
    /// The user's email.
    pub email: String,
    /// Hash of the password; `None` without one.
    pub password_hash: Option<String>,
    /// Sealed secret of the authenticator; `None` without one.
    pub totp_sealed: Option<Vec<u8>>,
    /// Whether the authenticator is confirmed, so that a code is required.
    pub has_totp: bool,
    /// Whether the user cannot sign in.
    pub is_disabled: bool,
}

/// Why a sign-in failed.
#[derive(Debug, thiserror::Error)]
pub enum SignInError {
    /// The email, the password or the code is wrong. Which of them is not reported.
    #[error("email, password or code is wrong")]
    Refused,
    /// The password is right, and the account also requires a code.
    #[error("code of the authenticator is required")]
    CodeRequired,
    /// Several tenants have a user with this email and password: one of these slugs must be named.
    #[error("users of several tenants match")]
    ChooseTenant(Vec<String>),
    /// Any other error about the user.
    #[error(transparent)]
    User(#[from] Error),
    /// An error about the tenant.
    #[error(transparent)]
    Tenant(#[from] crate::Error),
}

impl From<sqlx::Error> for SignInError {
    fn from(error: sqlx::Error) -> Self {
        Self::User(Error::Database(error))
    }
}

/// Dependencies of a sign-in.
#[derive(Debug, Clone, Copy)]
pub struct SignIn<'a> {
    /// A pool whose login works across tenants.
    pub pool: &'a PgPool,
    /// Opens sealed authenticators.
    pub keys: &'a MasterKeys,
    /// Hashes and verifies passwords.
    pub passwords: &'a Passwords,
}

/// Signs a user in with a password, and a code if the account has an authenticator. The caller limits attempts.
///
/// # Errors
/// [`SignInError`].
pub async fn with_password(
    sign_in: SignIn<'_>,
    actor: &Actor,
    attempt: Attempt,
) -> Result<Token, SignInError> {
    let SignIn {
        pool,
        keys,
        passwords,
    } = sign_in;
    let email = normal_email(&attempt.email);
    let accounts = accounts(pool, &email, attempt.tenant.as_deref()).await?;
    if accounts.is_empty() {
        passwords.verify(attempt.password, None).await?;
        record_refused(pool, actor, &email, &[]).await?;
        return Err(SignInError::Refused);
    }
    let mut matching = Vec::new();
    for account in &accounts {
        let stored = account.password_hash.clone();
        let verdict = passwords.verify(attempt.password.clone(), stored).await?;
        if verdict != Verdict::Wrong && !account.is_disabled {
            matching.push((account, verdict));
        }
    }
    let (account, verdict) = match matching.as_slice() {
        [] => {
            record_refused(pool, actor, &email, &accounts).await?;
            return Err(SignInError::Refused);
        }
        [one] => *one,
        several => {
            let slugs = several
                .iter()
                .map(|(account, _)| account.tenant_slug.clone());
            return Err(SignInError::ChooseTenant(slugs.collect()));
        }
    };
    let renewed = match verdict {
        Verdict::RightButOld if check(&attempt.password).is_ok() => {
            Some(passwords.hash(attempt.password).await?)
        }
        _ => None,
    };
    let mut tx = TenantTx::begin(pool, account.tenant_id).await?;
    if account.has_totp {
        let Some(code) = &attempt.code else {
            return Err(SignInError::CodeRequired);
        };
        if !take_code(keys, &mut tx, account, code, false).await? {
            drop(tx);
            record_refused(pool, actor, &email, std::slice::from_ref(account)).await?;
            return Err(SignInError::Refused);
        }
    }
    if let Some(hash) = renewed {
        let old = account.password_hash.as_deref();
        set_password(&mut tx, account.id, &hash, old).await?;
    }
    let opened = open_session(&mut tx, actor, account.id, &account.email, Method::Password).await?;
    let Some(session) = opened else {
        return Err(SignInError::Refused);
    };
    tx.commit().await?;
    Ok(session)
}

/// Signs in the user of a link and uses the link up. `None` when the link is not valid.
///
/// # Errors
/// When the database refuses.
pub async fn with_link(
    pool: &PgPool,
    actor: &Actor,
    token: &Token,
) -> Result<Option<Token>, Error> {
    let Some(found) = find_link(pool, token).await? else {
        return Ok(None);
    };
    let mut tx = TenantTx::begin(pool, found.tenant_id).await?;
    let Some(user) = use_link(&mut tx, token).await? else {
        return Ok(None);
    };
    let opened = open_session(&mut tx, actor, user, &found.email, Method::Link).await?;
    let Some(session) = opened else {
        return Ok(None);
    };
    tx.commit().await?;
    Ok(Some(session))
}

/// Creates a session with the user as the actor. `None` when the user was deleted or disabled in the meantime.
pub async fn open_session(
    tx: &mut TenantTx,
    from: &Actor,
    user: UserId,
    email: &str,
    method: Method,
) -> Result<Option<Token>, Error> {
    let actor = Actor {
        kind: ActorKind::Person,
        id: user.to_string(),
        name: Some(email.to_owned()),
        ..from.clone()
    };
    session::create_session(tx, &actor, user, method).await
}

/// Reads the credentials of a user.
///
/// # Errors
/// [`Error::NoSuchUser`], or when the database refuses.
pub async fn find_credentials(tx: &mut TenantTx, user: UserId) -> Result<Account, Error> {
    let tenant = tx.tenant();
    let found: Option<Account> = query_as(include_str!("../sql/sign_in/find_credentials.sql"))
        .bind(tenant)
        .bind(user)
        .fetch_optional(&mut **tx)
        .await?;
    found.ok_or(Error::NoSuchUser)
}

/// Whether a code is valid and was not used before. Marks it as used. With `first`, this confirms the authenticator, so
/// that sign-ins require it from now on.
///
/// # Errors
/// When the secret cannot be opened, or the database refuses.
pub async fn take_code(
    keys: &MasterKeys,
    tx: &mut TenantTx,
    account: &Account,
    code: &str,
    first: bool,
) -> Result<bool, Error> {
    let Some(sealed) = &account.totp_sealed else {
        return Ok(false);
    };
    let authenticator = Authenticator::open(keys, account.id, &account.email, sealed)?;
    let Some(step) = authenticator.step(code, clock::now().timestamp()) else {
        return Ok(false);
    };
    let tenant = tx.tenant();
    let taken: Option<UserId> = query_scalar(include_str!("../sql/sign_in/take_totp_step.sql"))
        .bind(tenant)
        .bind(account.id)
        .bind(step)
        .bind(first)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(taken.is_some())
}

/// Stores a new password hash; with `old`, only if that is the stored one. Returns whether it was stored.
///
/// # Errors
/// When the database refuses.
pub async fn set_password(
    tx: &mut TenantTx,
    user: UserId,
    hash: &str,
    old: Option<&str>,
) -> Result<bool, Error> {
    let tenant = tx.tenant();
    let set: Option<UserId> = query_scalar(include_str!("../sql/sign_in/set_password.sql"))
        .bind(tenant)
        .bind(user)
        .bind(hash.to_owned())
        .bind(old.map(str::to_owned))
        .fetch_optional(&mut **tx)
        .await?;
    Ok(set.is_some())
}

/// Stores a new sealed authenticator, unconfirmed. `false` when the user has a confirmed one.
///
/// # Errors
/// When the database refuses.
pub async fn set_authenticator(
    tx: &mut TenantTx,
    user: UserId,
    sealed: Vec<u8>,
) -> Result<bool, Error> {
    let tenant = tx.tenant();
    let set: Option<UserId> = query_scalar(include_str!("../sql/sign_in/set_totp.sql"))
        .bind(tenant)
        .bind(user)
        .bind(sealed)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(set.is_some())
}

/// Removes a user's authenticator. `false` when there is none.
///
/// # Errors
/// When the database refuses.
pub async fn remove_authenticator(tx: &mut TenantTx, user: UserId) -> Result<bool, Error> {
    let tenant = tx.tenant();
    let removed: Option<UserId> = query_scalar(include_str!("../sql/sign_in/remove_totp.sql"))
        .bind(tenant)
        .bind(user)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(removed.is_some())
}

/// Records a refused sign-in in the audit log: of the account's tenant, or of the platform when the email has no account
/// or several.
///
/// # Errors
/// When the database refuses.
pub async fn record_refused(
    pool: &PgPool,
    from: &Actor,
    email: &str,
    accounts: &[Account],
) -> Result<(), SignInError> {
    // Text that is not an email may be a password entered in the wrong field.
    let email = if is_email(email) { email } else { "unknown" };
    let actor = Actor {
        kind: ActorKind::Anonymous,
        id: email.to_owned(),
        ..from.clone()
    };
    // With several accounts, no tenant must learn that another one has a user with this email.
    let only = accounts.first().filter(|_| accounts.len() == 1);
    let mut targets: Vec<(TenantId, String)> = only
        .into_iter()
        .map(|account| (account.tenant_id, account.id.to_string()))
        .collect();
    if targets.is_empty() {
        let platform = find_tenant(pool, PLATFORM_SLUG).await?;
        targets.extend(platform.map(|tenant| (tenant.id, email.to_owned())));
    }
    for (tenant, resource) in targets {
        let mut tx = TenantTx::begin(pool, tenant).await?;
        let entry = Entry::new("session.refused", resource).after(json!({"email": email}));
        audit::record(&mut tx, tenant, &actor, &entry).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn accounts(
    pool: &PgPool,
    email: &str,
    tenant: Option<&str>,
) -> Result<Vec<Account>, SignInError> {
    let slug = match tenant {
        None => None,
        Some(named) => match find_tenant(pool, named).await? {
            Some(tenant) => Some(tenant.slug),
            None => return Ok(Vec::new()),
        },
    };
    let found = query_as(include_str!("../sql/sign_in/find_accounts.sql"))
        .bind(email.to_owned())
        .bind(slug)
        .bind(MAX_ACCOUNTS)
        .fetch_all(pool)
        .await?;
    Ok(found)
}
