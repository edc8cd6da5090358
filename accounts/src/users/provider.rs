//! Sign-in through an identity provider: the flow's sealed state, and whose account an identity is.
//!
//! The protocol (OpenID Connect) is the API's. No user is created here, and an email counts only if the provider
//! vouches for it.

use std::time::Duration;

use harkara_shared::audit::{self, Actor, ActorKind, Entry};
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::{TenantId, UserId};
use harkara_shared::vault::MasterKeys;
use serde_json::json;
use sqlx::PgPool;

use super::session::Method;
use super::sign_in::{SignInError, open_session, record_refused};
use super::{Error, Token};

/// How long a person may take at the provider.
pub const FLOW_LIFE: Duration = Duration::from_mins(10);

/// A person as the provider knows them.
#[derive(Debug)]
pub struct Identity {
    /// The provider's issuer URL.
    pub issuer: String,
    /// The person's id at the issuer.
    pub subject: String,
    /// Their email, if the provider has verified it.
    pub email: Option<String>,
}

/// How a sign-in that came back from the provider ended.
#[derive(Debug)]
pub enum ProviderSignIn {
    /// A session was opened; its token.
    SignedIn(Token),
    /// The provider knows the person and this platform does not, or the person declined.
    Refused,
    /// Users of several tenants match: their slugs.
    ChooseTenant(Vec<String>),
}

#[derive(Debug, sqlx::FromRow)]
struct Account {
    tenant_id: TenantId,
    tenant_slug: String,
    id: UserId,
    email: String,
    is_bound: bool,
}

/// Keeps a flow, sealed, until the browser comes back with both tokens.
///
/// # Errors
/// When it cannot be sealed, or the database refuses.
pub async fn keep_flow(
    pool: &PgPool,
    keys: &MasterKeys,
    state: &Token,
    browser: &Token,
    flow: &[u8],
) -> Result<(), Error> {
    let hash = state.hash();
    let sealed = keys.seal(flow, &context(&hash))?;
    query(include_str!("../sql/provider/begin_oidc_flow.sql"))
        .bind(hash.as_slice())
        .bind(browser.hash().as_slice())
        .bind(sealed)
        .bind(FLOW_LIFE.as_secs_f64())
        .execute(pool)
        .await?;
    Ok(())
}

/// Takes a flow, once, if it belongs to this browser.
///
/// # Errors
/// When it cannot be opened, or the database refuses.
pub async fn take_flow(
    pool: &PgPool,
    keys: &MasterKeys,
    state: &Token,
    browser: &Token,
) -> Result<Option<Vec<u8>>, Error> {
    let hash = state.hash();
    let sealed: Option<Vec<u8>> = query_scalar(include_str!("../sql/provider/take_oidc_flow.sql"))
        .bind(hash.as_slice())
        .bind(browser.hash().as_slice())
        .fetch_optional(pool)
        .await?;
    Ok(match sealed {
        Some(sealed) => Some(keys.open(&sealed, &context(&hash))?),
        None => None,
    })
}

/// Signs in the user whom an identity belongs to, of `tenant` if one is named. The first time, the user is bound to the
/// identity by their verified email.
///
/// # Errors
/// When the database refuses.
pub async fn with_identity(
    pool: &PgPool,
    actor: &Actor,
    tenant: Option<String>,
    identity: Identity,
) -> Result<ProviderSignIn, SignInError> {
    let accounts: Vec<Account> = query_as(include_str!("../sql/provider/find_oidc_accounts.sql"))
        .bind(identity.issuer.clone())
        .bind(identity.subject.clone())
        .bind(identity.email.clone())
        .bind(tenant)
        .fetch_all(pool)
        .await?;
    let account = match accounts.as_slice() {
        [] => {
            let name = identity.email.as_deref().unwrap_or(&identity.subject);
            record_refused(pool, actor, name, &[]).await?;
            return Ok(ProviderSignIn::Refused);
        }
        [one] => one,
        several => {
            let slugs = several.iter().map(|account| account.tenant_slug.clone());
            return Ok(ProviderSignIn::ChooseTenant(slugs.collect()));
        }
    };
    let mut tx = TenantTx::begin(pool, account.tenant_id).await?;
    let bound: Option<UserId> = query_scalar(include_str!("../sql/provider/bind_oidc.sql"))
        .bind(account.tenant_id)
        .bind(account.id)
        .bind(identity.issuer.clone())
        .bind(identity.subject.clone())
        .fetch_optional(&mut *tx)
        .await?;
    if bound.is_none() {
        return Ok(ProviderSignIn::Refused);
    }
    let opened = open_session(&mut tx, actor, account.id, &account.email, Method::Oidc).await?;
    let Some(session) = opened else {
        return Ok(ProviderSignIn::Refused);
    };
    if !account.is_bound {
        let actor = Actor {
            kind: ActorKind::Person,
            id: account.id.to_string(),
            name: Some(account.email.clone()),
            ..actor.clone()
        };
        let entry = Entry::new("user.bind", account.id)
            .after(json!({"issuer": identity.issuer, "subject": identity.subject}));
        audit::record(&mut tx, account.tenant_id, &actor, &entry).await?;
    }
    tx.commit().await?;
    Ok(ProviderSignIn::SignedIn(session))
}

/// The associated data that a sealed flow is bound to.
fn context(hash: &[u8; 32]) -> String {
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("app.oidc_flows/{hex}")
}
