//! `harkara tenant …`: creates, pauses and resumes tenants.

use clap::{Args, Subcommand};
use harkara_accounts::{self as accounts, NewTenant, SlaTier, TenantChange};
use harkara_shared::config::Settings;
use serde_json::json;

use super::context::{CommonArgs, cli_actor, connect, open_engine_for_tenant};
use super::limit::show_tenant;
use crate::output::say;

/// `harkara tenant …`
#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Create a tenant
    Create(CreateArgs),
    /// Pause a tenant: none of its jobs start
    Pause(TenantArgs),
    /// Resume a tenant
    Resume(TenantArgs),
}

/// Arguments of `harkara tenant create`.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Display name; also the source of the slug unless `--slug` is given
    name: String,
    /// Slug: a-z, 0-9 and `-`
    #[arg(long)]
    slug: Option<String>,
    /// SLA tier: FREE, PRO or ENTERPRISE
    #[arg(long, default_value = "FREE")]
    tier: SlaTier,
    #[command(flatten)]
    common: CommonArgs,
}

/// The tenant that a command changes.
#[derive(Debug, Clone, Args)]
pub(crate) struct TenantArgs {
    /// Id or slug of the tenant
    tenant: String,
    #[command(flatten)]
    common: CommonArgs,
}

pub(crate) async fn tenant(command: TenantCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        TenantCommand::Create(args) => create_tenant(args, settings).await,
        TenantCommand::Pause(args) => set_paused(args, true, settings).await,
        TenantCommand::Resume(args) => set_paused(args, false, settings).await,
    }
}

async fn create_tenant(args: CreateArgs, settings: &Settings) -> anyhow::Result<()> {
    let CreateArgs {
        name,
        slug,
        tier,
        common,
    } = args;
    let pool = connect(&common.target, settings).await?;
    let new = NewTenant {
        slug: slug.unwrap_or_else(|| slug_of(&name)),
        name,
        sla_tier: tier,
    };
    let tenant = accounts::create_tenant(&pool, new, &cli_actor()).await?;
    if common.json {
        say(&json!({
            "id": tenant.id, "slug": tenant.slug, "name": tenant.name,
            "sla_tier": tenant.sla_tier, "created_at": tenant.created_at,
        })
        .to_string());
    } else {
        say(&format!("tenant {} ({})", tenant.id, tenant.slug));
    }
    Ok(())
}

async fn set_paused(args: TenantArgs, paused: bool, settings: &Settings) -> anyhow::Result<()> {
    let TenantArgs { tenant, common } = args;
    let (engine, tenant) = open_engine_for_tenant(&tenant, &common, settings).await?;
    let change = TenantChange {
        paused: Some(paused),
        ..TenantChange::default()
    };
    let action = if paused {
        "tenant.pause"
    } else {
        "tenant.resume"
    };
    accounts::change_tenant(&engine, tenant.id, change, action, &cli_actor()).await?;
    show_tenant(&engine, &tenant, &common).await
}

/// `Acme Trading` becomes `acme-trading`.
fn slug_of(name: &str) -> String {
    let words: Vec<String> = name
        .split(|c: char| !c.is_ascii_alphanumeric())
        .filter(|word| !word.is_empty())
        .map(str::to_ascii_lowercase)
        .collect();
    words.join("-")
}
