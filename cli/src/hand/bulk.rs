//! Room: many jobs, changed by hand; and one moved to another time.
//! Takes: an action and a filter. Gives: how many jobs match, and the job that works on them.
//! Never: changes a job itself, or more of them than the filter lets through.

use anyhow::{bail, ensure};
use chrono::{DateTime, Months, TimeDelta, Utc};
use clap::{Args, Subcommand};
use harkara_jobs::redrive::{Action, DEFAULT_RATE, MAX_RATE, Redrive, Requested};
use harkara_queue::job::Trace;
use harkara_queue::{ChangeOutcome, read};
use harkara_shared::audit::{self, Entry};
use harkara_shared::config::Settings;
use harkara_shared::database::TenantTx;
use harkara_shared::id::JobId;
use serde_json::json;

use super::by_hand;
use super::steer::{How, engine_and_tenant};
use crate::up::say;

/// `harkara job bulk …` and `harkara job reschedule`
#[derive(Debug, Subcommand)]
pub(crate) enum ManyCommand {
    /// Retry, cancel or delete all jobs of a tenant that match
    #[command(subcommand)]
    Bulk(BulkCommand),
    /// Move a job that waits to another time
    Reschedule {
        /// Id of the job
        id: JobId,
        /// When it is due, in RFC 3339, such as 2030-01-31T12:00:00Z
        #[arg(long)]
        run_at: DateTime<Utc>,
        /// Id or slug of the tenant
        #[arg(long)]
        tenant: String,
        #[command(flatten)]
        how: How,
    },
}

/// What is done.
#[derive(Debug, Subcommand)]
pub(crate) enum BulkCommand {
    /// Make dead and cancelled jobs ready again
    Retry(BulkArgs),
    /// Cancel scheduled, ready and running jobs
    Cancel(BulkArgs),
    /// Remove succeeded, dead and cancelled jobs
    Delete(BulkArgs),
}

/// To which jobs, and how fast. What is given must all hold.
#[derive(Debug, Clone, Args)]
pub(crate) struct BulkArgs {
    /// Id or slug of the tenant
    #[arg(long)]
    tenant: String,
    #[command(flatten)]
    filter: Box<super::job::Filter>,
    /// Only count the jobs that match
    #[arg(long)]
    dry_run: bool,
    /// How many jobs a second
    #[arg(long, default_value_t = DEFAULT_RATE, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RATE)))]
    rate: u32,
    #[command(flatten)]
    how: How,
}

pub(super) async fn many(command: ManyCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        ManyCommand::Bulk(BulkCommand::Retry(args)) => bulk(Action::Retry, args, settings).await,
        ManyCommand::Bulk(BulkCommand::Cancel(args)) => bulk(Action::Cancel, args, settings).await,
        ManyCommand::Bulk(BulkCommand::Delete(args)) => bulk(Action::Delete, args, settings).await,
        ManyCommand::Reschedule {
            id,
            run_at,
            tenant,
            how,
        } => reschedule(id, run_at, &tenant, &how, settings).await,
    }
}

async fn bulk(action: Action, args: BulkArgs, settings: &Settings) -> anyhow::Result<()> {
    let redrive = Redrive {
        action,
        filter: (*args.filter).into(),
        rate_per_second: args.rate.into(),
    };
    if let Some(fault) = redrive.check().first() {
        bail!("{}", fault.detail);
    }
    let (engine, tenant) = engine_and_tenant(&args.tenant, &args.how, settings).await?;
    let mut tx = TenantTx::begin(engine.pool(), tenant.id).await?;
    let requested = redrive
        .request(&mut tx, &engine, Trace::default(), args.dry_run)
        .await?;
    if let Requested::Counted {
        job: Some(job),
        matched,
    } = requested
    {
        let told = json!({"redrive": redrive, "matched": matched});
        let entry = Entry::new("job.bulk", job).after(told);
        audit::record(&mut tx, tenant.id, &by_hand(), &entry).await?;
    }
    tx.commit().await?;
    let Requested::Counted { job, matched } = requested else {
        bail!(
            "too many jobs would have to be looked at: narrow the filter, by state and times first"
        );
    };
    if args.how.is_json() {
        say(&json!({"job_id": job, "matched": matched}).to_string());
    } else if let Some(job) = job {
        say(&format!("{matched} jobs match; {job} works on them"));
    } else {
        say(&format!("{matched} jobs match"));
    }
    Ok(())
}

/// As the API bounds it.
const HORIZON: Months = Months::new(120);
const LATE: TimeDelta = TimeDelta::hours(24);

async fn reschedule(
    id: JobId,
    run_at: DateTime<Utc>,
    tenant: &str,
    how: &How,
    settings: &Settings,
) -> anyhow::Result<()> {
    let now = harkara_shared::clock::now();
    ensure!(
        run_at >= now - LATE,
        "--run-at: may be at most 24 hours ago"
    );
    ensure!(
        now.checked_add_months(HORIZON)
            .is_none_or(|horizon| run_at <= horizon),
        "--run-at: must be at most ten years ahead"
    );
    let (engine, tenant) = engine_and_tenant(tenant, how, settings).await?;
    let mut tx = TenantTx::begin(engine.pool(), tenant.id).await?;
    match engine.reschedule(&mut tx, id, Some(run_at)).await? {
        ChangeOutcome::Applied(_) => {}
        ChangeOutcome::NotFound => bail!("there is no job {id} of {}", tenant.slug),
        ChangeOutcome::Refused(_) | ChangeOutcome::KeyTaken(_) => {
            bail!("{id} is neither scheduled nor ready")
        }
    }
    let job = read::job(&mut tx, id).await?;
    let entry = Entry::new("job.reschedule", id).after(json!({"run_at": run_at}));
    audit::record(&mut tx, tenant.id, &by_hand(), &entry).await?;
    tx.commit().await?;
    let due = job.map_or(run_at, |job| job.run_at);
    if how.is_json() {
        say(&json!({"id": id, "run_at": due}).to_string());
    } else {
        say(&format!("{id} is due at {}", due.to_rfc3339()));
    }
    Ok(())
}
