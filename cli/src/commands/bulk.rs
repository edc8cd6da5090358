//! `harkara job bulk …`: retries, cancels or deletes all jobs of a tenant that match a filter.
//!
//! Prints how many jobs match and enqueues the job that changes them; no job is changed here.

use anyhow::bail;
use clap::{Args, Subcommand};
use harkara_platform::kinds::retry_redrive::Requested;
use harkara_platform::redrive::{Action, DEFAULT_RATE, MAX_RATE, Redrive};
use harkara_queue::job::Trace;
use harkara_shared::audit::{self, Entry};
use harkara_shared::config::Settings;
use harkara_shared::database::TenantTx;
use serde_json::json;

use super::context::{CommonArgs, cli_actor, open_engine_for_tenant};
use super::job_filter::JobFilterArgs;
use crate::output::say;

/// `harkara job bulk …`
#[derive(Debug, Subcommand)]
pub(crate) enum BulkCommand {
    /// Retry dead and cancelled jobs
    Retry(BulkArgs),
    /// Cancel scheduled, ready and running jobs
    Cancel(BulkArgs),
    /// Delete succeeded, dead and cancelled jobs
    Delete(BulkArgs),
}

/// Which jobs to change, and how fast.
#[derive(Debug, Clone, Args)]
pub(crate) struct BulkArgs {
    /// Id or slug of the tenant
    #[arg(long)]
    tenant: String,
    #[command(flatten)]
    filter: Box<JobFilterArgs>,
    /// Only count the matching jobs
    #[arg(long)]
    dry_run: bool,
    /// Jobs changed per second
    #[arg(long, default_value_t = DEFAULT_RATE, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_RATE)))]
    rate: u32,
    #[command(flatten)]
    common: CommonArgs,
}

pub(super) async fn bulk(command: BulkCommand, settings: &Settings) -> anyhow::Result<()> {
    let (action, args) = match command {
        BulkCommand::Retry(args) => (Action::Retry, args),
        BulkCommand::Cancel(args) => (Action::Cancel, args),
        BulkCommand::Delete(args) => (Action::Delete, args),
    };
    let redrive = Redrive {
        action,
        filter: (*args.filter).into(),
        rate_per_second: args.rate.into(),
    };
    if let Some(error) = redrive.check().first() {
        bail!("{}", error.detail);
    }
    let (engine, tenant) = open_engine_for_tenant(&args.tenant, &args.common, settings).await?;
    let mut tx = TenantTx::begin(engine.pool(), tenant.id).await?;
    let requested = redrive
        .request(&mut tx, &engine, Trace::default(), args.dry_run)
        .await?;
    if let Requested::Counted {
        job: Some(job),
        matched,
    } = requested
    {
        let change = json!({"redrive": redrive, "matched": matched});
        let entry = Entry::new("job.bulk", job).after(change);
        audit::record(&mut tx, tenant.id, &cli_actor(), &entry).await?;
    }
    tx.commit().await?;
    let Requested::Counted { job, matched } = requested else {
        bail!("the filter is too broad to evaluate: narrow it, by state and times first");
    };
    if args.common.json {
        say(&json!({"job_id": job, "matched": matched}).to_string());
    } else if let Some(job) = job {
        say(&format!("{matched} jobs match; job {job} changes them"));
    } else {
        say(&format!("{matched} jobs match"));
    }
    Ok(())
}
