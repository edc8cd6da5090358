//! `harkara key …`: creates API keys.

use anyhow::bail;
use clap::Subcommand;
use harkara_accounts::{self as accounts, KeyTier, NewKey, Scope};
use harkara_shared::config::Settings;
use serde_json::json;

use super::context::{CommonArgs, cli_actor, connect, master_keys, require_tenant};
use crate::output::say;

/// `harkara key …`
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Create an API key; it is shown once
    Create {
        /// Id or slug of the tenant
        #[arg(long)]
        tenant: String,
        /// Tier of the key: free, developer, business or enterprise
        #[arg(long, default_value = "free")]
        tier: KeyTier,
        /// A scope of the key, such as jobs:write; repeat for more
        #[arg(long = "scope", required = true)]
        scopes: Vec<Scope>,
        /// Display name of the key
        #[arg(long, default_value = "created on the command line")]
        name: String,
        #[command(flatten)]
        common: CommonArgs,
    },
}

pub(crate) async fn key(command: KeyCommand, settings: &Settings) -> anyhow::Result<()> {
    let KeyCommand::Create {
        tenant,
        tier,
        scopes,
        name,
        common,
    } = command;
    let pool = connect(&common.target, settings).await?;
    let master = master_keys(&common.target, settings)?;
    let tenant = require_tenant(&pool, &tenant).await?;
    if tenant.slug != accounts::PLATFORM_SLUG && scopes.contains(&Scope::PlatformAdmin) {
        bail!("the scope platform:admin is reserved for keys of the tenant `platform`");
    }
    let new = NewKey {
        tenant: tenant.id,
        name,
        tier,
        scopes,
        expires_at: None,
        addresses: Vec::new(),
    };
    let (key, text) = accounts::create_api_key(&pool, &master, new, &cli_actor()).await?;
    if common.json {
        say(&json!({
            "id": key.id, "key": text.expose(), "tenant_id": tenant.id, "name": key.name,
            "tier": key.tier, "scopes": key.scopes, "created_at": key.created_at,
        })
        .to_string());
    } else {
        say(&format!(
            "key {} of {}, shown only once:\n{}",
            key.id,
            tenant.slug,
            text.expose()
        ));
    }
    Ok(())
}
