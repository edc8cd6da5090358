//! Room: queues and limits, steered by hand.
//! Takes: a command. Gives: queues, tenants and limits paused, changed and listed.
//! Never: sets what the API would refuse.

use std::collections::{BTreeMap, HashMap};
use std::str::FromStr;
use std::time::Duration;

use anyhow::{bail, ensure};
use clap::{Args, Subcommand};
use harkara_api::access::{self, Tenant};
use harkara_queue::Engine;
use harkara_queue::read::QueueCounts;
use harkara_queue::settings::{
    Change, Limit, LimitChange, MAX_LIMIT_VALUE, MAX_WAITING_JOBS, QueueSettings, QueueView,
    RATE_PERIODS, TenantChange, TenantSettings, is_key,
};
use harkara_shared::audit::{AuditNote, Entry};
use harkara_shared::config::Settings;
use harkara_shared::duration::HumanDuration;
use harkara_shared::id::TenantId;
use serde_json::{Value, json};

use super::{by_hand, pool};
use crate::Place;
use crate::up::say;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);

/// Queues read at once.
const PAGE: u32 = 1000;

/// `harkara queue …`
#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List queues and what holds for them
    Ls {
        #[command(flatten)]
        how: How,
    },
    /// Have no more of a queue's jobs start
    Pause {
        /// The queue's name
        name: String,
        #[command(flatten)]
        how: How,
    },
    /// Have a queue's jobs go on
    Resume {
        /// The queue's name
        name: String,
        #[command(flatten)]
        how: How,
    },
    /// Limit a queue, for the jobs of all tenants together; what is not named stays
    Set {
        /// The queue's name
        name: String,
        /// Most jobs running at once, or `none`
        #[arg(long)]
        max_running: Option<Number>,
        /// Most jobs starting in a second, or `none`
        #[arg(long)]
        rate_per_second: Option<Number>,
        /// Starts at once after a rest; `none` for a tenth of the rate
        #[arg(long)]
        burst: Option<Number>,
        #[command(flatten)]
        how: How,
    },
}

/// `harkara limit …`
#[derive(Debug, Subcommand)]
pub(crate) enum LimitCommand {
    /// List what holds for a tenant, and for the keys its jobs name
    Ls {
        /// Id or slug of the tenant
        #[arg(long)]
        tenant: String,
        #[command(flatten)]
        how: How,
    },
    /// Limit a tenant, or the jobs of it that name a key; what is not named stays
    Set {
        /// Id or slug of the tenant
        #[arg(long)]
        tenant: String,
        /// The key that jobs name; without it the tenant's own limit is set
        #[arg(long)]
        key: Option<String>,
        /// Most jobs starting in `--per`, or `none`
        #[arg(long)]
        rate: Option<Number>,
        /// The time in which starts are counted, such as 1m; a tenant's own are counted by the minute
        #[arg(long)]
        per: Option<HumanDuration>,
        /// Starts at once after a rest; `none` for a tenth of the rate
        #[arg(long)]
        burst: Option<Number>,
        /// Most jobs running at once, or `none`
        #[arg(long)]
        max_running: Option<Number>,
        /// Most jobs of the tenant that may wait, scheduled and ready together, or `none`
        #[arg(long, conflicts_with = "key")]
        max_waiting: Option<Depth>,
        /// The tenant's share beside others, 1 to 1000
        #[arg(long, conflicts_with = "key", value_parser = clap::value_parser!(u16).range(1..=1000))]
        weight: Option<u16>,
        #[command(flatten)]
        how: How,
    },
    /// Limit a tenant, or the jobs of it that name a key, no more
    Rm {
        /// Id or slug of the tenant
        #[arg(long)]
        tenant: String,
        /// The key that jobs name; without it the tenant's own limit is removed
        #[arg(long)]
        key: Option<String>,
        #[command(flatten)]
        how: How,
    },
}

/// How to answer, and about which platform.
#[derive(Debug, Clone, Args)]
pub(crate) struct How {
    /// Print one JSON object
    #[arg(long)]
    pub(super) json: bool,
    #[command(flatten)]
    pub(super) place: Place,
}

impl How {
    /// Whether one JSON object is wanted.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// Which platform it is about.
    pub(super) fn place(&self) -> &Place {
        &self.place
    }
}

/// A tenant.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// Id or slug of the tenant
    tenant: String,
    #[command(flatten)]
    how: How,
}

/// A number of 1 to a million, or `none`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Number(Change<u32>);

impl FromStr for Number {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(Change::Remove));
        }
        text.parse()
            .ok()
            .filter(|number| (1..=MAX_LIMIT_VALUE).contains(number))
            .map(|number| Self(Change::Set(number)))
            .ok_or_else(|| format!("expected a number from 1 to {MAX_LIMIT_VALUE}, or none"))
    }
}

/// A number of 1 to a billion, or `none`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Depth(Change<u32>);

impl FromStr for Depth {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(Change::Remove));
        }
        text.parse()
            .ok()
            .filter(|number| (1..=MAX_WAITING_JOBS).contains(number))
            .map(|number| Self(Change::Set(number)))
            .ok_or_else(|| format!("expected a number from 1 to {MAX_WAITING_JOBS}, or none"))
    }
}

fn change(number: Option<Number>) -> Change<u32> {
    number.map(|number| number.0).unwrap_or_default()
}

pub(crate) async fn queue(command: QueueCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        QueueCommand::Ls { how } => {
            let engine = engine(&how, settings)?;
            list_queues(&engine, &how).await
        }
        QueueCommand::Pause { name, how } => {
            let engine = engine(&how, settings)?;
            let engine = noting(&engine, None, Entry::new("queue.pause", &name)).await?;
            engine.pause_queue(&name, true).await?;
            show_queue(&engine, &name, &how).await
        }
        QueueCommand::Resume { name, how } => {
            let engine = engine(&how, settings)?;
            let engine = noting(&engine, None, Entry::new("queue.resume", &name)).await?;
            engine.pause_queue(&name, false).await?;
            show_queue(&engine, &name, &how).await
        }
        QueueCommand::Set {
            name,
            max_running,
            rate_per_second,
            burst,
            how,
        } => {
            let engine = engine(&how, settings)?;
            let rate = change(rate_per_second);
            let change = LimitChange {
                rate,
                per: rate.value().map(|_| SECOND),
                burst: change(burst),
                max_running: change(max_running),
            };
            let entry = Entry::new("queue.limit", &name).after(change);
            let engine = noting(&engine, None, entry).await?;
            engine.set_queue(&name, &change).await?;
            show_queue(&engine, &name, &how).await
        }
    }
}

pub(crate) async fn limit(command: LimitCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        LimitCommand::Ls { tenant, how } => {
            let (engine, tenant) = engine_and_tenant(&tenant, &how, settings).await?;
            show_tenant(&engine, &tenant, &how).await
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
            how,
        } => {
            let per = per.map(Duration::from);
            ensure!(
                per.is_none_or(|per| RATE_PERIODS.contains(&per)),
                "--per: must be from 1s to 31d"
            );
            ensure!(
                key.is_some() || per.is_none_or(|per| per == MINUTE),
                "--per: a tenant's own starts are counted by the minute"
            );
            let rate = change(rate);
            let usual = rate.value().filter(|_| key.is_none()).map(|_| MINUTE);
            let limit = LimitChange {
                rate,
                per: per.or(usual),
                burst: change(burst),
                max_running: change(max_running),
            };
            let own = TenantChange {
                weight: weight.map_or(Change::Keep, Change::Set),
                max_waiting: max_waiting.map(|depth| depth.0).unwrap_or_default(),
                ..TenantChange::default()
            };
            set_limit(&tenant, key, limit, own, &how, settings).await
        }
        LimitCommand::Rm { tenant, key, how } => {
            let removal = LimitChange::removal();
            let own = TenantChange {
                max_waiting: Change::Remove,
                ..TenantChange::default()
            };
            set_limit(&tenant, key, removal, own, &how, settings).await
        }
    }
}

async fn set_limit(
    tenant: &str,
    key: Option<String>,
    limit: LimitChange,
    own: TenantChange,
    how: &How,
    settings: &Settings,
) -> anyhow::Result<()> {
    ensure!(
        key.as_deref().is_none_or(is_key),
        "--key: must have 1 to 256 characters, none of them a control character"
    );
    let (engine, tenant) = engine_and_tenant(tenant, how, settings).await?;
    let change = match key {
        None => TenantChange { limit, ..own },
        Some(key) => TenantChange {
            limits: BTreeMap::from([(key, limit)]),
            ..TenantChange::default()
        },
    };
    let note = AuditNote {
        tenant: tenant.id,
        actor: by_hand(),
        entry: Entry::new("tenant.limits", tenant.id).after(&change),
    };
    engine
        .with_audit(note)
        .set_tenant(tenant.id, &change)
        .await?;
    show_tenant(&engine, &tenant, how).await
}

pub(super) async fn pause_tenant(
    which: Which,
    paused: bool,
    settings: &Settings,
) -> anyhow::Result<()> {
    let Which { tenant, how } = which;
    let (engine, tenant) = engine_and_tenant(&tenant, &how, settings).await?;
    let change = access::TenantChange {
        paused: Some(paused),
        ..access::TenantChange::default()
    };
    let action = if paused {
        "tenant.pause"
    } else {
        "tenant.resume"
    };
    access::change_tenant(&engine, tenant.id, change, action, &by_hand()).await?;
    show_tenant(&engine, &tenant, &how).await
}

/// The engine, with an entry for the audit log of a tenant, or of the platform.
pub(super) async fn noting(
    engine: &Engine,
    tenant: Option<TenantId>,
    entry: Entry,
) -> anyhow::Result<Engine> {
    let tenant = match tenant {
        Some(tenant) => tenant,
        None => access::ensure_platform(engine.pool()).await?.id,
    };
    Ok(engine.with_audit(AuditNote {
        tenant,
        actor: by_hand(),
        entry,
    }))
}

pub(super) fn engine(how: &How, settings: &Settings) -> anyhow::Result<Engine> {
    Ok(Engine::new(pool(&how.place, settings)?, settings.notify))
}

pub(super) async fn engine_and_tenant(
    tenant: &str,
    how: &How,
    settings: &Settings,
) -> anyhow::Result<(Engine, Tenant)> {
    let engine = engine(how, settings)?;
    let Some(tenant) = access::find_tenant(engine.pool(), tenant).await? else {
        bail!("there is no tenant `{tenant}`");
    };
    Ok((engine, tenant))
}

async fn list_queues(engine: &Engine, how: &How) -> anyhow::Result<()> {
    let mut queues: Vec<QueueSettings> = Vec::new();
    loop {
        let after = queues.last().map_or(0, |queue| queue.id);
        let page = engine.queues(QueueView::All, after, PAGE).await?;
        if page.is_empty() {
            break;
        }
        queues.extend(page);
    }
    let counts = counts(engine, &queues).await?;
    let counts = |queue: &QueueSettings| counts.get(&queue.id).copied().unwrap_or_default();
    if how.json {
        let data: Vec<Value> = queues
            .iter()
            .map(|queue| queue_json(queue, &counts(queue)))
            .collect();
        say(&json!({ "data": data }).to_string());
    } else {
        for queue in &queues {
            say(&queue_line(queue, &counts(queue)));
        }
    }
    Ok(())
}

/// How queues are doing, for all tenants together, by their numbers.
async fn counts(
    engine: &Engine,
    queues: &[QueueSettings],
) -> anyhow::Result<HashMap<i32, QueueCounts>> {
    let numbers: Vec<i32> = queues.iter().map(|queue| queue.id).collect();
    let counts = engine.queue_counts(&numbers, None).await?;
    let by_number = counts.into_iter().map(|counts| (counts.queue, counts));
    Ok(by_number.collect())
}

async fn show_queue(engine: &Engine, name: &str, how: &How) -> anyhow::Result<()> {
    let Some(queue) = engine.queue(QueueView::All, name).await? else {
        bail!("there is no queue `{name}`");
    };
    let counts = counts(engine, std::slice::from_ref(&queue)).await?;
    let counts = counts.get(&queue.id).copied().unwrap_or_default();
    if how.json {
        say(&queue_json(&queue, &counts).to_string());
    } else {
        say(&queue_line(&queue, &counts));
    }
    Ok(())
}

fn queue_json(queue: &QueueSettings, counts: &QueueCounts) -> Value {
    json!({
        "name": queue.name, "paused": queue.paused,
        "max_running": queue.limit.max_running,
        "rate_per_second": queue.limit.rate.map(|rate| rate.count_in(SECOND)),
        "burst": queue.limit.rate.map(|rate| rate.burst),
        "ready": counts.ready, "scheduled": counts.scheduled, "running": counts.running,
        "dead": counts.dead, "oldest_ready_seconds": counts.oldest_ready_seconds,
        "enqueued_per_minute": counts.enqueued, "succeeded_per_minute": counts.succeeded,
        "failed_per_minute": counts.failed,
    })
}

fn queue_line(queue: &QueueSettings, counts: &QueueCounts) -> String {
    let paused = if queue.paused { "paused, " } else { "" };
    let oldest = counts
        .oldest_ready_seconds
        .map(|age| format!(" (oldest {age:.1} s)"))
        .unwrap_or_default();
    let QueueCounts {
        ready,
        scheduled,
        running,
        dead,
        enqueued,
        succeeded,
        failed,
        ..
    } = counts;
    format!(
        "{:<24} {paused}{}; {ready} ready{oldest}, {scheduled} scheduled, {running} running, \
         {dead} dead; last minute {enqueued} enqueued, {succeeded} succeeded, {failed} failed",
        queue.name,
        words(&queue.limit)
    )
}

async fn show_tenant(engine: &Engine, tenant: &Tenant, how: &How) -> anyhow::Result<()> {
    let settings = engine.tenant(tenant.id).await?;
    if how.json {
        say(&tenant_json(tenant, &settings).to_string());
        return Ok(());
    }
    let paused = if settings.paused { "paused, " } else { "" };
    say(&format!(
        "{:<24} {paused}weight {}, {}",
        tenant.slug,
        settings.weight,
        words(&settings.limit)
    ));
    if let Some(most) = settings.max_waiting {
        say(&format!("  {} of {most} jobs wait", settings.waiting));
    }
    for (key, limit) in &settings.limits {
        say(&format!("  {key:<22} {}", words(limit)));
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
        "rate_per_minute": limit.rate.map(|rate| rate.count_in(MINUTE)),
        "burst": limit.rate.map(|rate| rate.burst),
        "max_running": limit.max_running,
        "max_waiting": settings.max_waiting,
        "waiting": settings.max_waiting.map(|_| settings.waiting),
        "limits": limits,
    })
}

/// `100 in 1m with a burst of 10, 3 of 5 running`.
fn words(limit: &Limit) -> String {
    let rate = limit.rate.map(|rate| {
        let per = HumanDuration(rate.per);
        format!("{} in {per} with a burst of {}", rate.count, rate.burst)
    });
    let places = limit
        .max_running
        .map(|most| format!("{} of {most} running", limit.running));
    match (rate, places) {
        (None, None) => "no limit".to_owned(),
        (Some(one), None) | (None, Some(one)) => one,
        (Some(rate), Some(places)) => format!("{rate}, {places}"),
    }
}
