//! `harkara queue …`: lists, pauses, resumes and limits queues.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::bail;
use clap::Subcommand;
use harkara_queue::Engine;
use harkara_queue::read::QueueCounts;
use harkara_queue::settings::{LimitChange, MAX_LIMIT_VALUE, QueueSettings, QueueView};
use harkara_shared::audit::Entry;
use harkara_shared::config::Settings;
use serde_json::{Value, json};

use super::context::{CommonArgs, engine_with_audit, open_engine};
use super::limit_value::{NumberOrNone, change, describe};
use crate::output::say;

/// Queue rates are counted per second.
const RATE_PERIOD: Duration = Duration::from_secs(1);

/// Queues read per page.
const PAGE_SIZE: u32 = 1000;

/// `harkara queue …`
#[derive(Debug, Subcommand)]
pub(crate) enum QueueCommand {
    /// List queues with their limits and counts
    Ls {
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Pause a queue: none of its jobs start
    Pause {
        /// Name of the queue
        name: String,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Resume a queue
    Resume {
        /// Name of the queue
        name: String,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Set the limits of a queue across all tenants; omitted limits do not change
    Set {
        /// Name of the queue
        name: String,
        /// Maximum number of running jobs, or `none`
        #[arg(long)]
        max_running: Option<NumberOrNone<MAX_LIMIT_VALUE>>,
        /// Maximum number of starts per second, or `none`
        #[arg(long)]
        rate_per_second: Option<NumberOrNone<MAX_LIMIT_VALUE>>,
        /// Starts allowed at once after an idle period; `none` for a tenth of the rate
        #[arg(long)]
        burst: Option<NumberOrNone<MAX_LIMIT_VALUE>>,
        #[command(flatten)]
        common: CommonArgs,
    },
}

pub(crate) async fn queue(command: QueueCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        QueueCommand::Ls { common } => {
            let engine = open_engine(&common, settings).await?;
            list_queues(&engine, &common).await
        }
        QueueCommand::Pause { name, common } => set_paused(&name, true, &common, settings).await,
        QueueCommand::Resume { name, common } => set_paused(&name, false, &common, settings).await,
        QueueCommand::Set {
            name,
            max_running,
            rate_per_second,
            burst,
            common,
        } => {
            let engine = open_engine(&common, settings).await?;
            let rate = change(rate_per_second);
            let change = LimitChange {
                rate,
                per: rate.value().map(|_| RATE_PERIOD),
                burst: change(burst),
                max_running: change(max_running),
            };
            let entry = Entry::new("queue.limit", &name).after(change);
            let engine = engine_with_audit(&engine, None, entry).await?;
            engine.set_queue(&name, &change).await?;
            show_queue(&engine, &name, &common).await
        }
    }
}

async fn set_paused(
    name: &str,
    paused: bool,
    common: &CommonArgs,
    settings: &Settings,
) -> anyhow::Result<()> {
    let engine = open_engine(common, settings).await?;
    let action = if paused {
        "queue.pause"
    } else {
        "queue.resume"
    };
    let engine = engine_with_audit(&engine, None, Entry::new(action, name)).await?;
    engine.pause_queue(name, paused).await?;
    show_queue(&engine, name, common).await
}

async fn list_queues(engine: &Engine, common: &CommonArgs) -> anyhow::Result<()> {
    let mut queues: Vec<QueueSettings> = Vec::new();
    loop {
        let after = queues.last().map_or(0, |queue| queue.id);
        let page = engine.queues(QueueView::All, after, PAGE_SIZE).await?;
        if page.is_empty() {
            break;
        }
        queues.extend(page);
    }
    let counts = counts_by_queue(engine, &queues).await?;
    let counts = |queue: &QueueSettings| counts.get(&queue.id).copied().unwrap_or_default();
    if common.json {
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

/// Counts across all tenants by queue id. A queue without counts has no jobs.
async fn counts_by_queue(
    engine: &Engine,
    queues: &[QueueSettings],
) -> anyhow::Result<HashMap<i32, QueueCounts>> {
    let ids: Vec<i32> = queues.iter().map(|queue| queue.id).collect();
    let counts = engine.queue_counts(&ids, None).await?;
    let by_id = counts.into_iter().map(|counts| (counts.queue, counts));
    Ok(by_id.collect())
}

async fn show_queue(engine: &Engine, name: &str, common: &CommonArgs) -> anyhow::Result<()> {
    let Some(queue) = engine.queue(QueueView::All, name).await? else {
        bail!("queue `{name}` not found");
    };
    let counts = counts_by_queue(engine, std::slice::from_ref(&queue)).await?;
    let counts = counts.get(&queue.id).copied().unwrap_or_default();
    if common.json {
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
        "rate_per_second": queue.limit.rate.map(|rate| rate.count_in(RATE_PERIOD)),
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
        .map_or_else(String::new, |age| format!(" (oldest {age:.1} s)"));
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
        describe(&queue.limit)
    )
}
