//! Room: the past in numbers, by hand.
//! Takes: a tenant and a time. Gives: what happened to its jobs, step by step.
//! Never: counts jobs.

use std::time::Duration;

use anyhow::Context as _;
use clap::Args;
use harkara_queue::read::stats::{
    DurationHistogram, HOUR_STATS_RETENTION, StatsFilter, StatsPoint, StatsRange, stats as read,
};
use harkara_shared::clock;
use harkara_shared::config::Settings;
use harkara_shared::database::TenantTx;
use harkara_shared::duration::HumanDuration;
use serde_json::{Value, json};

use super::steer::{How, engine_and_tenant};
use crate::up::say;

/// `harkara stats`
#[derive(Debug, Args)]
pub(crate) struct StatsCommand {
    /// Id or slug of the tenant
    #[arg(long)]
    tenant: String,
    /// How far back, such as 6h
    #[arg(long, default_value = "1h")]
    since: HumanDuration,
    /// How long a step is, such as 5m; about a hundred steps without it
    #[arg(long)]
    step: Option<HumanDuration>,
    /// Of jobs in this queue
    #[arg(long)]
    queue: Option<String>,
    /// Of jobs of this kind
    #[arg(long)]
    kind: Option<String>,
    #[command(flatten)]
    how: How,
}

pub(crate) async fn stats(command: StatsCommand, settings: &Settings) -> anyhow::Result<()> {
    let StatsCommand {
        tenant,
        since,
        step,
        queue,
        kind,
        how,
    } = command;
    let (engine, tenant) = engine_and_tenant(&tenant, &how, settings).await?;
    let now = clock::now();
    let step: Duration = step.map_or_else(|| StatsRange::default_step(since.0), Duration::from);
    // A time that is longer than can be told is longer than is kept.
    let since = now - since.0.min(2 * HOUR_STATS_RETENTION);
    let span = StatsRange::new(since, now, step, now).context("--since, --step")?;
    let mut tx = TenantTx::begin(engine.pool(), tenant.id).await?;
    let points = read(&mut tx, tenant.id, span, &StatsFilter { queue, kind }).await?;
    tx.commit().await?;
    if how.json {
        let data: Vec<Value> = points.iter().map(point_json).collect();
        say(&json!({
            "bounds_ms": harkara_queue::read::stats::BUCKET_BOUNDS_MS,
            "since": span.from(), "until": span.until(), "step": HumanDuration(span.step()),
            "data": data,
        })
        .to_string());
        return Ok(());
    }
    say(
        "at                    enqueued  started  succeeded  retried  dead  cancelled  wait p50/p99  run p50/p99 (ms)",
    );
    // Of a quiet time there is nothing to be told.
    for point in points.iter().filter(|point| !is_quiet(point)) {
        say(&format!(
            "{:<20}  {:>8}  {:>7}  {:>9}  {:>7}  {:>4}  {:>9}  {:>12}  {:>11}",
            point.at.format("%Y-%m-%dT%H:%M:%SZ"),
            point.enqueued,
            point.started,
            point.succeeded,
            point.retried,
            point.died,
            point.cancelled,
            words(&point.waits),
            words(&point.runs),
        ));
    }
    Ok(())
}

fn is_quiet(point: &StatsPoint) -> bool {
    point.enqueued + point.started + point.succeeded + point.retried + point.died + point.cancelled
        == 0
}

fn words(durations: &DurationHistogram) -> String {
    match (durations.quantile(0.5), durations.quantile(0.99)) {
        (Some(half), Some(most)) => format!("{half:.0}/{most:.0}"),
        _ => "-".to_owned(),
    }
}

fn point_json(point: &StatsPoint) -> Value {
    let durations = |durations: &DurationHistogram| {
        json!({
            "p50": durations.quantile(0.5), "p95": durations.quantile(0.95),
            "p99": durations.quantile(0.99), "buckets": durations.0.to_vec(),
        })
    };
    json!({
        "at": point.at, "enqueued": point.enqueued, "started": point.started,
        "succeeded": point.succeeded, "retried": point.retried, "dead": point.died,
        "cancelled": point.cancelled, "wait": durations(&point.waits), "run": durations(&point.runs),
    })
}
