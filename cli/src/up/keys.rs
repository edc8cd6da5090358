//! The first tenant and the first API keys.
//!
//! Every run on a data directory shows the same keys. The database stores only their hashes.

use harkara_accounts::{self as accounts, KeyTier, NewKey, NewTenant, Scope, SlaTier};
use harkara_shared::api_key::ApiKeyText;
use harkara_shared::audit::Actor;
use harkara_shared::vault::MasterKeys;
use sqlx::PgPool;

use super::home::{FirstKeys, Home};

/// Slug of the first tenant.
const FIRST_TENANT: &str = "demo";

/// The keys stored in the data directory if they are still valid, else new ones.
pub(super) async fn first_keys(
    pool: &PgPool,
    master: &MasterKeys,
    home: &Home,
) -> anyhow::Result<FirstKeys> {
    if let Some(stored) = home.first_keys()?
        && is_valid(pool, master, &stored.tenant).await?
        && is_valid(pool, master, &stored.operator).await?
    {
        return Ok(stored);
    }
    let actor = Actor::system("harkara up");
    let platform = accounts::ensure_platform(pool).await?;
    let tenant = match accounts::find_tenant(pool, FIRST_TENANT).await? {
        Some(tenant) => tenant,
        None => {
            let new = NewTenant {
                slug: FIRST_TENANT.to_owned(),
                name: "Demo".to_owned(),
                sla_tier: SlaTier::Pro,
            };
            accounts::create_tenant(pool, new, &actor).await?
        }
    };
    let all_scopes = Scope::ALL.to_vec();
    let tenant_scopes = all_scopes
        .iter()
        .copied()
        .filter(|scope| *scope != Scope::PlatformAdmin)
        .collect();
    let key = |tenant, scopes| NewKey {
        tenant,
        name: "first key".to_owned(),
        tier: KeyTier::Enterprise,
        scopes,
        expires_at: None,
        addresses: Vec::new(),
    };
    let (_, tenant_key) =
        accounts::create_api_key(pool, master, key(tenant.id, tenant_scopes), &actor).await?;
    let (_, operator_key) =
        accounts::create_api_key(pool, master, key(platform.id, all_scopes), &actor).await?;
    let keys = FirstKeys {
        tenant: tenant_key.expose().to_owned(),
        operator: operator_key.expose().to_owned(),
    };
    home.store_first_keys(&keys)?;
    Ok(keys)
}

async fn is_valid(pool: &PgPool, master: &MasterKeys, text: &str) -> anyhow::Result<bool> {
    let Ok(text) = ApiKeyText::parse(text) else {
        return Ok(false);
    };
    Ok(accounts::is_working_key(pool, master, &text).await?)
}
