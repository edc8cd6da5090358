//! `harkara limit …`: lists, sets and removes the limits of tenants and of the keys their jobs name.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use clap::Subcommand;
use harkara_accounts::Tenant;
use harkara_queue::Engine;
use harkara_queue::settings::{
    Change, LimitChange, MAX_LIMIT_VALUE, MAX_WAITING_JOBS, RATE_PERIODS, TenantChange,
    TenantSettings, is_key,
};
use harkara_shared::audit::Entry;
use harkara_shared::config::Settings;
use harkara_shared::duration::HumanDuration;
use serde_json::{Value, json};

use super::context::{CommonArgs, engine_with_audit, open_engine_for_tenant};
use super::limit_value::{NumberOrNone, change, describe};
use crate::output::say;

/// A tenant's own rate is counted per minute.
const TENANT_RATE_PERIOD: Duration = Duration::from_secs(60);

/// `harkara limit …`
#[derive(Debug, Subcommand)]
pub(crate) enum LimitCommand {
    /// List the limits of a tenant and of the keys its jobs name
    Ls {
        /// Id or slug of the tenant
        #[arg(long)]
        tenant: String,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Set the limits of a tenant, or of a key its jobs name; omitted limits do not change
    Set {
        /// Id or slug of the tenant
        #[arg(long)]
        tenant: String,
        /// The key that jobs name; without it the tenant's own limits are set
        #[arg(long)]
        key: Option<String>,
        /// Maximum number of starts in `--per`, or `none`
        #[arg(long)]
        rate: Option<NumberOrNone<MAX_LIMIT_VALUE>>,
        /// The period of the rate, such as 1m; the rate of a tenant is always per minute
        #[arg(long)]
        per: Option<HumanDuration>,
        /// Starts allowed at once after an idle period; `none` for a tenth of the rate
        #[arg(long)]
        burst: Option<NumberOrNone<MAX_LIMIT_VALUE>>,
        /// Maximum number of running jobs, or `none`
        #[arg(long)]
        max_running: Option<NumberOrNone<MAX_LIMIT_VALUE>>,
        /// Maximum number of waiting jobs of the tenant, scheduled and ready together, or `none`
        #[arg(long, conflicts_with = "key")]
        max_waiting: Option<NumberOrNone<MAX_WAITING_JOBS>>,
        /// The tenant's share relative to other tenants, 1 to 1000
        #[arg(long, conflicts_with = "key", value_parser = clap::value_parser!(u16).range(1..=1000))]
        weight: Option<u16>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Remove the limits of a tenant, or of a key its jobs name
    Rm {
        /// Id or slug of the tenant
        #[arg(long)]
        tenant: String,
        /// The key that jobs name; without it the tenant's own limits are removed
        #[arg(long)]
        key: Option<String>,
        #[command(flatten)]
        common: CommonArgs,
    },
}

pub(crate) async fn limit(command: LimitCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        LimitCommand::Ls { tenant, common } => {
            let (engine, tenant) = open_engine_for_tenant(&tenant, &common, settings).await?;
            show_tenant(&engine, &tenant, &common).await
        }
        LimitCommand::Set {
            tenant,
            key,
            rate,
            per,
            burst,
            max_running,
            max_waiting,
            weight,
            common,
        } => {
            let per = per.map(Duration::from);
            ensure!(
                per.is_none_or(|per| RATE_PERIODS.contains(&per)),
                "--per: must be from 1s to 31d"
            );
            ensure!(
                key.is_some() || per.is_none_or(|per| per == TENANT_RATE_PERIOD),
                "--per: the rate of a tenant is counted by the minute"
            );
            let rate = change(rate);
            let default_per = rate
                .value()
                .filter(|_| key.is_none())
                .map(|_| TENANT_RATE_PERIOD);
            let limit = LimitChange {
                rate,
                per: per.or(default_per),
                burst: change(burst),
                max_running: change(max_running),
            };
            let own = TenantChange {
                weight: weight.map_or(Change::Keep, Change::Set),
                max_waiting: change(max_waiting),
                ..TenantChange::default()
            };
            set_limit(&tenant, key, limit, own, &common, settings).await
        }
        LimitCommand::Rm {
            tenant,
            key,
            common,
        } => {
            let removal = LimitChange::removal();
            let own = TenantChange {
                max_waiting: Change::Remove,
                ..TenantChange::default()
            };
            set_limit(&tenant, key, removal, own, &common, settings).await
        }
    }
}

/// Changes the limit of `key`; without a key, the tenant's own limit together with `own`.
async fn set_limit(
    tenant: &str,
    key: Option<String>,
    limit: LimitChange,
    own: TenantChange,
    common: &CommonArgs,
    settings: &Settings,
) -> anyhow::Result<()> {
    ensure!(
        key.as_deref().is_none_or(is_key),
        "--key: must have 1 to 256 characters, without control characters"
    );
    let (engine, tenant) = open_engine_for_tenant(tenant, common, settings).await?;
    let change = match key {
        None => TenantChange { limit, ..own },
        Some(key) => TenantChange {
            limits: BTreeMap::from([(key, limit)]),
            ..TenantChange::default()
        },
    };
    let entry = Entry::new("tenant.limits", tenant.id).after(&change);
    engine_with_audit(&engine, Some(tenant.id), entry)
        .await?
        .set_tenant(tenant.id, &change)
        .await?;
    show_tenant(&engine, &tenant, common).await
}

/// Prints a tenant with its limits.
pub(super) async fn show_tenant(
    engine: &Engine,
    tenant: &Tenant,
    common: &CommonArgs,
) -> anyhow::Result<()> {
    let settings = engine.tenant(tenant.id).await?;
    if common.json {
        say(&tenant_json(tenant, &settings).to_string());
        return Ok(());
    }
    let paused = if settings.paused { "paused, " } else { "" };
    say(&format!(
        "{:<24} {paused}weight {}, {}",
        tenant.slug,
        settings.weight,
        describe(&settings.limit)
    ));
    if let Some(max) = settings.max_waiting {
        say(&format!("  {} of {max} waiting", settings.waiting));
    }
    for (key, limit) in &settings.limits {
        say(&format!("  {key:<22} {}", describe(limit)));
    }
    Ok(())
}

fn tenant_json(tenant: &Tenant, settings: &TenantSettings) -> Value {
    let limit = &settings.limit;
    let limits: serde_json::Map<String, Value> = settings
        .limits
        .iter()
        .map(|(key, limit)| {
            let members = json!({
                "rate": limit.rate.map(|rate| rate.count),
                "per": limit.rate.map(|rate| HumanDuration(rate.per)),
                "burst": limit.rate.map(|rate| rate.burst),
                "max_running": limit.max_running,
            });
            (key.clone(), members)
        })
        .collect();
    json!({
        "tenant_id": tenant.id, "slug": tenant.slug, "sla_tier": tenant.sla_tier,
        "paused": settings.paused, "weight": settings.weight,
        "rate_per_minute": limit.rate.map(|rate| rate.count_in(TENANT_RATE_PERIOD)),
        "burst": limit.rate.map(|rate| rate.burst),
        "max_running": limit.max_running,
        "max_waiting": settings.max_waiting,
        "waiting": settings.max_waiting.map(|_| settings.waiting),
        "limits": limits,
    })
}
