//! Room: tools worked by hand.
//! Takes: a command. Gives: one change and one answer, as text or as one JSON object.
//! Never: does what the API would refuse.

mod audit;
mod bulk;
mod client;
mod job;
mod stats;
mod steer;
mod user;

use anyhow::{Context, bail};
use clap::Subcommand;
use harkara_api::access::{self, KeyTier, NewKey, NewTenant, Scope, SlaTier};
use harkara_jobs::publish::publish;
use harkara_queue::Engine;
use harkara_shared::audit::Actor;
use harkara_shared::config::{ConfigError, ConfigErrors, Settings};
use harkara_shared::database::{self, DatabaseSettings};
use harkara_shared::vault::MasterKeys;
use serde_json::json;
use sqlx::PgPool;

pub(crate) use audit::{AuditCommand, audit};
pub(crate) use client::{ClientCommand, client};
pub(crate) use job::{JobCommand, WorkerCommand, job, worker};
pub(crate) use stats::{StatsCommand, stats};
pub(crate) use steer::{LimitCommand, QueueCommand, limit, queue};
pub(crate) use user::{UserCommand, user};

use crate::Place;
use crate::up::{Home, say};

/// `harkara tenant …`
#[derive(Debug, Subcommand)]
pub(crate) enum TenantCommand {
    /// Make a tenant
    Create {
        /// Its name; its slug is made from it unless `--slug` gives one
        name: String,
        /// Its slug: a-z, 0-9 and `-`
        #[arg(long)]
        slug: Option<String>,
        /// Its SLA tier: FREE, PRO or ENTERPRISE
        #[arg(long, default_value = "FREE")]
        tier: SlaTier,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
    /// Have no more jobs of a tenant start
    Pause {
        #[command(flatten)]
        which: steer::Which,
    },
    /// Have a tenant's jobs go on
    Resume {
        #[command(flatten)]
        which: steer::Which,
    },
}

/// `harkara key …`
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make an API key; it is shown once
    Create {
        /// Id or slug of its tenant
        #[arg(long)]
        tenant: String,
        /// Its tier: free, developer, business or enterprise
        #[arg(long, default_value = "free")]
        tier: KeyTier,
        /// What it may do, such as jobs:write; repeat for more
        #[arg(long = "scope", required = true)]
        scopes: Vec<Scope>,
        /// A name to know it by
        #[arg(long, default_value = "made by hand")]
        name: String,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
        #[command(flatten)]
        place: Place,
    },
}

pub(crate) async fn migrate(place: &Place, settings: &Settings) -> anyhow::Result<()> {
    let pool = pool(place, settings)?;
    database::wait_until_reachable(&pool, harkara_shared::process::DATABASE_START_TIMEOUT).await?;
    database::migrate(&pool).await?;
    publish(&Engine::new(pool, settings.notify)).await?;
    say("the schema is up to date");
    Ok(())
}

pub(crate) async fn tenant(command: TenantCommand, settings: &Settings) -> anyhow::Result<()> {
    let (name, slug, tier, json, place) = match command {
        TenantCommand::Create {
            name,
            slug,
            tier,
            json,
            place,
        } => (name, slug, tier, json, place),
        TenantCommand::Pause { which } => return steer::pause_tenant(which, true, settings).await,
        TenantCommand::Resume { which } => {
            return steer::pause_tenant(which, false, settings).await;
        }
    };
    let pool = pool(&place, settings)?;
    let slug = slug.unwrap_or_else(|| slug_of(&name));
    let tenant = access::create_tenant(
        &pool,
        NewTenant {
            slug,
            name,
            sla_tier: tier,
        },
        &by_hand(),
    )
    .await?;
    if json {
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

pub(crate) async fn key(command: KeyCommand, settings: &Settings) -> anyhow::Result<()> {
    let KeyCommand::Create {
        tenant,
        tier,
        scopes,
        name,
        json,
        place,
    } = command;
    let pool = pool(&place, settings)?;
    let master = master_keys(&place, settings)?;
    let Some(tenant) = access::find_tenant(&pool, &tenant).await? else {
        bail!("there is no tenant `{tenant}`");
    };
    if tenant.slug != access::PLATFORM_SLUG && scopes.contains(&Scope::PlatformAdmin) {
        bail!("only keys of the tenant `platform` have the scope platform:admin");
    }
    let new = NewKey {
        tenant: tenant.id,
        name,
        tier,
        scopes,
        expires_at: None,
        addresses: Vec::new(),
    };
    let (key, text) = access::create_key(&pool, &master, new, &by_hand()).await?;
    if json {
        say(&json!({
            "id": key.id, "key": text.expose(), "tenant_id": tenant.id, "name": key.name,
            "tier": key.tier, "scopes": key.scopes, "created_at": key.created_at,
        })
        .to_string());
    } else {
        say(&format!(
            "key {} of {}, shown this once:\n{}",
            key.id,
            tenant.slug,
            text.expose()
        ));
    }
    Ok(())
}

/// Who the audit log says it was.
pub(crate) fn by_hand() -> Actor {
    Actor::system("harkara, by hand")
}

fn pool(place: &Place, settings: &Settings) -> anyhow::Result<PgPool> {
    let database = match &settings.database {
        Some(database) => database.clone(),
        None => {
            let url = running(place)?;
            DatabaseSettings::new(url)
        }
    };
    Ok(database::pool(&database, "harkara")?)
}

fn running(place: &Place) -> anyhow::Result<String> {
    let none = || {
        ConfigErrors(vec![ConfigError {
            variable: "DATABASE_URL".to_owned(),
            reason: format!(
                "is not set, and no `harkara up` runs on {}",
                place.data_dir.display()
            ),
        }])
    };
    if !place.data_dir.is_dir() {
        return Err(none().into());
    }
    Home::open(&place.data_dir)?
        .database_url()?
        .ok_or_else(|| none().into())
}

fn master_keys(place: &Place, settings: &Settings) -> anyhow::Result<MasterKeys> {
    match &settings.master_keys {
        Some(keys) => Ok(keys.clone()),
        None if settings.database.is_none() => Home::open(&place.data_dir)?.master_keys(),
        None => Err(ConfigErrors(vec![ConfigError {
            variable: "HARKARA_MASTER_KEY".to_owned(),
            reason: "is required with DATABASE_URL: it must be the one the API runs with"
                .to_owned(),
        }])
        .into()),
    }
    .context("the master key")
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
