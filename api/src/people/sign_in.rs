//! Room: how people prove who they are.
//! Takes: what somebody typed, or a link. Gives: a session, or one refusal that tells nothing of what was
//! wrong; that a person who has signed in proved it again.
//! Never: tells by words or time whether somebody is there; takes one code twice; tries without limit.

use harkara_shared::audit::{self, Actor, ActorKind, Entry};
use harkara_shared::clock;
use harkara_shared::database::{TenantTx, query_as, query_scalar};
use harkara_shared::id::{TenantId, UserId};
use serde_json::json;

use super::password::{Verdict, check};
use super::session::{self, Method};
use super::user::{is_email, normal_email};
use super::{Authenticator, Error, Token, find_link, use_link};
use crate::ApiState;
use crate::access;
use crate::problem::{Code, Problem};

/// Accounts of one email that are tried when no tenant is named.
const MOST_ACCOUNTS: i64 = 8;

/// What somebody typed.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) email: String,
    pub(crate) password: String,
    /// Of their authenticator.
    pub(crate) code: Option<String>,
    /// Slug or id.
    pub(crate) tenant: Option<String>,
}

/// What a person proves with who they are.
#[derive(Debug, Clone, sqlx::FromRow)]
pub(crate) struct Account {
    pub(crate) tenant_id: TenantId,
    pub(crate) tenant_slug: String,
    pub(crate) id: UserId,
    pub(crate) email: String,
    pub(crate) password_hash: Option<String>,
    pub(crate) totp_sealed: Option<Vec<u8>>,
    /// Whether a code is asked for.
    pub(crate) has_totp: bool,
    pub(crate) is_disabled: bool,
}

/// The one answer to all that is wrong.
pub(crate) fn failed() -> Problem {
    Problem::new(
        Code::SignInFailed,
        "the email, the password or the code is wrong",
    )
}

/// Signs a person in with their password, and a code where one is asked for.
///
/// # Errors
/// [`failed`]; a problem that asks for a code, or for the tenant; that there were too many attempts.
pub(crate) async fn with_password(
    state: &ApiState,
    actor: &Actor,
    attempt: Attempt,
) -> Result<Token, Problem> {
    let email = normal_email(&attempt.email);
    super::throttle::charge(state, actor.address, &email).await?;
    let accounts = accounts(state, &email, attempt.tenant.as_deref()).await?;
    let passwords = state.passwords();
    if accounts.is_empty() {
        passwords.verify(attempt.password, None).await?;
        refused(state, actor, &email, &[]).await?;
        return Err(failed());
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
            refused(state, actor, &email, &accounts).await?;
            return Err(failed());
        }
        [one] => *one,
        several => {
            let slugs = several
                .iter()
                .map(|(account, _)| account.tenant_slug.as_str());
            return Err(Problem::choose_tenant(slugs));
        }
    };
    let renewed = match verdict {
        Verdict::RightButOld if check(&attempt.password).is_ok() => {
            Some(passwords.hash(attempt.password).await?)
        }
        _ => None,
    };
    let mut tx = TenantTx::begin(state.pool(), account.tenant_id).await?;
    if account.has_totp {
        let Some(code) = &attempt.code else {
            return Err(Problem::new(
                Code::SecondFactor,
                "the code of your authenticator is needed as well",
            ));
        };
        if !take_code(state, &mut tx, account, code, false).await? {
            drop(tx);
            refused(state, actor, &email, std::slice::from_ref(account)).await?;
            return Err(failed());
        }
    }
    if let Some(hash) = renewed {
        let old = account.password_hash.as_deref();
        set_password(&mut tx, account.id, &hash, old).await?;
    }
    let opened = open(&mut tx, actor, account.id, &account.email, Method::Password).await?;
    let Some(session) = opened else {
        return Err(failed());
    };
    tx.commit().await?;
    Ok(session)
}

/// Signs the person of a link in, and uses the link up.
pub(crate) async fn with_link(
    state: &ApiState,
    actor: &Actor,
    token: &Token,
) -> Result<Option<Token>, Problem> {
    let Some(found) = find_link(state.pool(), token).await? else {
        return Ok(None);
    };
    let mut tx = TenantTx::begin(state.pool(), found.tenant_id).await?;
    let Some(user) = use_link(&mut tx, token).await? else {
        return Ok(None);
    };
    let opened = open(&mut tx, actor, user, &found.email, Method::Link).await?;
    let Some(session) = opened else {
        return Ok(None);
    };
    tx.commit().await?;
    Ok(Some(session))
}

/// Opens a session in the person's own name.
pub(super) async fn open(
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
    session::open(tx, &actor, user, method).await
}

/// What the person of a session proves with who they are.
pub(crate) async fn account(tx: &mut TenantTx, user: UserId) -> Result<Account, Error> {
    let tenant = tx.tenant();
    let found: Option<Account> = query_as(include_str!("../sql/find_credentials.sql"))
        .bind(tenant)
        .bind(user)
        .fetch_optional(&mut **tx)
        .await?;
    found.ok_or(Error::NoSuchUser)
}

/// Whether a code is one of the person's authenticator and was not taken before. It is taken by this.
/// With `first`, the authenticator counts from now on.
pub(crate) async fn take_code(
    state: &ApiState,
    tx: &mut TenantTx,
    account: &Account,
    code: &str,
    first: bool,
) -> Result<bool, Error> {
    let Some(sealed) = &account.totp_sealed else {
        return Ok(false);
    };
    let authenticator = Authenticator::open(state.keys(), account.id, &account.email, sealed)?;
    let Some(step) = authenticator.step(code, clock::now().timestamp()) else {
        return Ok(false);
    };
    let tenant = tx.tenant();
    let taken: Option<UserId> = query_scalar(include_str!("../sql/take_totp_step.sql"))
        .bind(tenant)
        .bind(account.id)
        .bind(step)
        .bind(first)
        .fetch_optional(&mut **tx)
        .await?;
    Ok(taken.is_some())
}

/// Keeps a new password; with `old`, only in place of that one.
pub(crate) async fn set_password(
    tx: &mut TenantTx,
    user: UserId,
    hash: &str,
    old: Option<&str>,
) -> Result<bool, Error> {
    let tenant = tx.tenant();
    let set: Option<UserId> = query_scalar(include_str!("../sql/set_password.sql"))
        .bind(tenant)
        .bind(user)
        .bind(hash.to_owned())
        .bind(old.map(str::to_owned))
        .fetch_optional(&mut **tx)
        .await?;
    Ok(set.is_some())
}

/// Notes in the audit log that somebody was refused: in the tenant of whom they would have been, or the
/// platform's when there is none or more than one.
pub(super) async fn refused(
    state: &ApiState,
    from: &Actor,
    email: &str,
    accounts: &[Account],
) -> Result<(), Problem> {
    // What is no address may be a password that was typed in the wrong place.
    let email = if is_email(email) { email } else { "unknown" };
    let actor = Actor {
        kind: ActorKind::Anonymous,
        id: email.to_owned(),
        ..from.clone()
    };
    // Of several of one email, none's tenant is told where another's person is.
    let only = accounts.first().filter(|_| accounts.len() == 1);
    let mut told: Vec<(TenantId, String)> = only
        .into_iter()
        .map(|account| (account.tenant_id, account.id.to_string()))
        .collect();
    if told.is_empty() {
        let platform = access::find_tenant(state.pool(), access::PLATFORM_SLUG).await?;
        told.extend(platform.map(|tenant| (tenant.id, email.to_owned())));
    }
    for (tenant, resource) in told {
        let mut tx = TenantTx::begin(state.pool(), tenant).await?;
        let entry = Entry::new("session.refused", resource).after(json!({"email": email}));
        audit::record(&mut tx, tenant, &actor, &entry).await?;
        tx.commit().await?;
    }
    Ok(())
}

async fn accounts(
    state: &ApiState,
    email: &str,
    tenant: Option<&str>,
) -> Result<Vec<Account>, Problem> {
    let slug = match tenant {
        None => None,
        Some(named) => match access::find_tenant(state.pool(), named).await? {
            Some(tenant) => Some(tenant.slug),
            None => return Ok(Vec::new()),
        },
    };
    let found = query_as(include_str!("../sql/find_accounts.sql"))
        .bind(email.to_owned())
        .bind(slug)
        .bind(MOST_ACCOUNTS)
        .fetch_all(state.pool())
        .await?;
    Ok(found)
}
