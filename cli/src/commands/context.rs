//! What the commands share: their common arguments, the database, the master key and the actor that
//! the audit log records.

use anyhow::{Context as _, bail};
use clap::Args;
use harkara_accounts::{self as accounts, Tenant};
use harkara_queue::Engine;
use harkara_shared::audit::{Actor, AuditNote, Entry};
use harkara_shared::config::{ConfigError, ConfigErrors, Settings};
use harkara_shared::database::{self, DatabaseSettings};
use harkara_shared::id::TenantId;
use harkara_shared::vault::MasterKeys;
use sqlx::PgPool;

use crate::target::Target;
use crate::up::Home;

/// Arguments of every command: the output format and the platform.
#[derive(Debug, Clone, Args)]
pub(crate) struct CommonArgs {
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) target: Target,
}

/// The actor that the audit log records for changes made by these commands.
pub(super) fn cli_actor() -> Actor {
    // Stored in audit chains, so this text does not change.
    Actor::system("harkara, by hand")
}

/// A pool on the database of `DATABASE_URL`, else on that of the running platform.
pub(super) fn open_pool(target: &Target, settings: &Settings) -> anyhow::Result<PgPool> {
    let database = match &settings.database {
        Some(database) => database.clone(),
        None => DatabaseSettings::new(running_database(target)?),
    };
    Ok(database::pool(&database, "harkara")?)
}

/// As [`open_pool`], after a check that the schema is one that this release can work on.
pub(super) async fn connect(target: &Target, settings: &Settings) -> anyhow::Result<PgPool> {
    let pool = open_pool(target, settings)?;
    database::check_schema(&pool).await?;
    Ok(pool)
}

fn running_database(target: &Target) -> anyhow::Result<String> {
    let not_running = || {
        ConfigErrors(vec![ConfigError {
            variable: "DATABASE_URL".to_owned(),
            reason: format!(
                "is not set, and no `harkara up` is running on {}",
                target.data_dir.display()
            ),
        }])
    };
    if !target.data_dir.is_dir() {
        return Err(not_running().into());
    }
    Home::open(&target.data_dir)?
        .database_url()?
        .ok_or_else(|| not_running().into())
}

/// The configured master key, else the one in the data directory.
pub(super) fn master_keys(target: &Target, settings: &Settings) -> anyhow::Result<MasterKeys> {
    match &settings.master_keys {
        Some(keys) => Ok(keys.clone()),
        None if settings.database.is_none() => Home::open(&target.data_dir)?.master_keys(),
        None => Err(ConfigErrors(vec![ConfigError {
            variable: "HARKARA_MASTER_KEY".to_owned(),
            reason: "is required with DATABASE_URL and must be the key that the API runs with"
                .to_owned(),
        }])
        .into()),
    }
    .context("the master key")
}

pub(super) async fn open_engine(
    common: &CommonArgs,
    settings: &Settings,
) -> anyhow::Result<Engine> {
    Ok(Engine::new(
        connect(&common.target, settings).await?,
        settings.notify,
    ))
}

/// The engine and the tenant with this id or slug.
pub(super) async fn open_engine_for_tenant(
    tenant: &str,
    common: &CommonArgs,
    settings: &Settings,
) -> anyhow::Result<(Engine, Tenant)> {
    let engine = open_engine(common, settings).await?;
    let tenant = require_tenant(engine.pool(), tenant).await?;
    Ok((engine, tenant))
}

/// The tenant with this id or slug.
pub(super) async fn require_tenant(pool: &PgPool, tenant: &str) -> anyhow::Result<Tenant> {
    match accounts::find_tenant(pool, tenant).await? {
        Some(tenant) => Ok(tenant),
        None => bail!("tenant `{tenant}` not found"),
    }
}

/// The engine with an entry for the audit log of a tenant, or of the platform.
pub(super) async fn engine_with_audit(
    engine: &Engine,
    tenant: Option<TenantId>,
    entry: Entry,
) -> anyhow::Result<Engine> {
    let tenant = match tenant {
        Some(tenant) => tenant,
        None => accounts::ensure_platform(engine.pool()).await?.id,
    };
    Ok(engine.with_audit(AuditNote {
        tenant,
        actor: cli_actor(),
        entry,
    }))
}
