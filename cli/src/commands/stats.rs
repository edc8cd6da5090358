//! `harkara stats`: statistics of a tenant's jobs over time.
//!
//! Reads stored statistics; no jobs are counted.

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

use super::context::{CommonArgs, open_engine_for_tenant};
use crate::output::say;

/// `harkara stats`
#[derive(Debug, Args)]
pub(crate) struct StatsCommand {
    /// Id or slug of the tenant
    #[arg(long)]
    tenant: String,
    /// Start of the range, counted back from now, such as 6h
    #[arg(long, default_value = "1h")]
    since: HumanDuration,
    /// Length of a step, such as 5m; by default about a hundred steps
    #[arg(long)]
    step: Option<HumanDuration>,
    /// Only jobs in this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only jobs of this kind
    #[arg(long)]
    kind: Option<String>,
    #[command(flatten)]
    common: CommonArgs,
}

pub(crate) async fn stats(command: StatsCommand, settings: &Settings) -> anyhow::Result<()> {
    let StatsCommand {
        tenant,
        since,
        step,
        queue,
        kind,
        common,
    } = command;
    let (engine, tenant) = open_engine_for_tenant(&tenant, &common, settings).await?;
    let now = clock::now();
    let step: Duration = step.map_or_else(|| StatsRange::default_step(since.0), Duration::from);
    // A span that a timestamp cannot represent is longer than statistics are kept.
    let since = now - since.0.min(2 * HOUR_STATS_RETENTION);
    let span = StatsRange::new(since, now, step, now).context("--since, --step")?;
    let mut tx = TenantTx::begin(engine.pool(), tenant.id).await?;
    let points = read(&mut tx, tenant.id, span, &StatsFilter { queue, kind }).await?;
    tx.commit().await?;
    if common.json {
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
    // Steps without activity are not printed.
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
            quantiles(&point.waits),
            quantiles(&point.runs),
        ));
    }
    Ok(())
}

fn is_quiet(point: &StatsPoint) -> bool {
    point.enqueued + point.started + point.succeeded + point.retried + point.died + point.cancelled
        == 0
}

fn quantiles(durations: &DurationHistogram) -> String {
    match (durations.quantile(0.5), durations.quantile(0.99)) {
        (Some(p50), Some(p99)) => format!("{p50:.0}/{p99:.0}"),
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
