//! `harkara job reschedule`: moves a waiting job to another time.

use anyhow::{bail, ensure};
use chrono::{DateTime, Months, TimeDelta, Utc};
use clap::Args;
use harkara_queue::{ChangeOutcome, read};
use harkara_shared::audit::{self, Entry};
use harkara_shared::config::Settings;
use harkara_shared::database::TenantTx;
use harkara_shared::id::JobId;
use serde_json::json;

use super::context::{CommonArgs, cli_actor, open_engine_for_tenant};
use crate::output::say;

/// How far ahead `--run-at` can be; the same bound as in the API.
const MAX_AHEAD: Months = Months::new(120);

/// How far in the past `--run-at` can be; the same bound as in the API.
const MAX_PAST: TimeDelta = TimeDelta::hours(24);

/// Arguments of `harkara job reschedule`.
#[derive(Debug, Args)]
pub(crate) struct RescheduleArgs {
    /// Id of the job
    id: JobId,
    /// When the job is due, in RFC 3339, such as 2030-01-31T12:00:00Z
    #[arg(long)]
    run_at: DateTime<Utc>,
    /// Id or slug of the tenant
    #[arg(long)]
    tenant: String,
    #[command(flatten)]
    common: CommonArgs,
}

pub(super) async fn reschedule(args: RescheduleArgs, settings: &Settings) -> anyhow::Result<()> {
    let RescheduleArgs {
        id,
        run_at,
        tenant,
        common,
    } = args;
    let now = harkara_shared::clock::now();
    ensure!(
        run_at >= now - MAX_PAST,
        "--run-at: must not be more than 24 hours in the past"
    );
    ensure!(
        now.checked_add_months(MAX_AHEAD)
            .is_none_or(|horizon| run_at <= horizon),
        "--run-at: must be at most ten years ahead"
    );
    let (engine, tenant) = open_engine_for_tenant(&tenant, &common, settings).await?;
    let mut tx = TenantTx::begin(engine.pool(), tenant.id).await?;
    match engine.reschedule(&mut tx, id, Some(run_at)).await? {
        ChangeOutcome::Applied(_) => {}
        ChangeOutcome::NotFound => bail!("job {id} of {} not found", tenant.slug),
        ChangeOutcome::Refused(_) | ChangeOutcome::KeyTaken(_) => {
            bail!("{id} is neither scheduled nor ready")
        }
    }
    let job = read::job(&mut tx, id).await?;
    let entry = Entry::new("job.reschedule", id).after(json!({"run_at": run_at}));
    audit::record(&mut tx, tenant.id, &cli_actor(), &entry).await?;
    tx.commit().await?;
    let due = job.map_or(run_at, |job| job.run_at);
    if common.json {
        say(&json!({"id": id, "run_at": due}).to_string());
    } else {
        say(&format!("{id} is due at {}", due.to_rfc3339()));
    }
    Ok(())
}
