//! Room: the first tenant and the first keys.
//! Takes: a migrated database. Gives: keys that work, the same in every run on a data directory.
//! Never: stores a key in the database in the clear.

use harkara_api::access::{self, KeyTier, NewKey, NewTenant, Scope, SlaTier};
use harkara_shared::api_key::ApiKeyText;
use harkara_shared::audit::Actor;
use harkara_shared::vault::MasterKeys;
use sqlx::PgPool;

use super::home::{FirstKeys, Home};

/// Slug of the first tenant.
const FIRST_TENANT: &str = "demo";

/// The keys kept in the data directory if they still work, else new ones.
pub(super) async fn first_keys(
    pool: &PgPool,
    master: &MasterKeys,
    home: &Home,
) -> anyhow::Result<FirstKeys> {
    if let Some(kept) = home.first_keys()?
        && works(pool, master, &kept.tenant).await?
        && works(pool, master, &kept.operator).await?
    {
        return Ok(kept);
    }
    let by = Actor::system("harkara up");
    let platform = access::ensure_platform(pool).await?;
    let tenant = match access::find_tenant(pool, FIRST_TENANT).await? {
        Some(tenant) => tenant,
        None => {
            let new = NewTenant {
                slug: FIRST_TENANT.to_owned(),
                name: "Demo".to_owned(),
                sla_tier: SlaTier::Pro,
            };
            access::create_tenant(pool, new, &by).await?
        }
    };
    let everything = Scope::ALL.to_vec();
    let own = everything
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
    let (_, tenant_key) = access::create_key(pool, master, key(tenant.id, own), &by).await?;
    let (_, operator_key) =
        access::create_key(pool, master, key(platform.id, everything), &by).await?;
    let keys = FirstKeys {
        tenant: tenant_key.expose().to_owned(),
        operator: operator_key.expose().to_owned(),
    };
    home.keep_first_keys(&keys)?;
    Ok(keys)
}

async fn works(pool: &PgPool, master: &MasterKeys, text: &str) -> anyhow::Result<bool> {
    let Ok(text) = ApiKeyText::parse(text) else {
        return Ok(false);
    };
    Ok(access::is_working_key(pool, master, &text).await?)
}
