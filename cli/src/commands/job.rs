//! `harkara job …`: lists, shows, explains, retries and cancels jobs.

use anyhow::bail;
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use harkara_api::representation;
use harkara_queue::job::Job;
use harkara_queue::read::{self, Explanation, JobFilter};
use harkara_queue::{ChangeOutcome, Engine};
use harkara_shared::audit::{self, Entry};
use harkara_shared::config::Settings;
use harkara_shared::database::TenantTx;
use harkara_shared::id::{JobId, TenantId};
use serde_json::{Value, json};

use super::bulk::{BulkCommand, bulk};
use super::context::{CommonArgs, cli_actor, open_engine, require_tenant};
use super::job_filter::{JobFilterArgs, state_name};
use super::reschedule::{RescheduleArgs, reschedule};
use crate::output::say;

/// `harkara job …`
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List jobs, newest first
    Ls {
        #[command(flatten)]
        filter: Box<JobFilterArgs>,
        /// Maximum number of jobs
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// Id or slug of the tenant; without it jobs of all tenants are listed
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        common: CommonArgs,
    },
    /// Show a job with its finished runs
    Show(JobArgs),
    /// Explain why a job is not running
    Explain(JobArgs),
    /// Make a dead or cancelled job ready again
    Retry(JobArgs),
    /// Cancel a job that is scheduled, ready or running
    Cancel(JobArgs),
    /// Retry, cancel or delete all jobs of a tenant that match a filter
    #[command(subcommand)]
    Bulk(BulkCommand),
    /// Move a waiting job to another time
    Reschedule(RescheduleArgs),
}

/// The job that a command is about.
#[derive(Debug, Clone, Args)]
pub(crate) struct JobArgs {
    /// Id of the job
    id: JobId,
    /// Id or slug of the tenant; looked up if omitted
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    common: CommonArgs,
}

pub(crate) async fn job(command: JobCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        JobCommand::Bulk(command) => bulk(command, settings).await,
        JobCommand::Reschedule(args) => reschedule(args, settings).await,
        JobCommand::Ls {
            filter,
            limit,
            tenant,
            common,
        } => {
            let engine = open_engine(&common, settings).await?;
            let tenants = match tenant {
                Some(tenant) => vec![require_tenant(engine.pool(), &tenant).await?.id],
                None => engine.tenants().await?,
            };
            let jobs = newest_jobs(&engine, &tenants, &(*filter).into(), limit).await?;
            print_jobs(jobs, common.json)
        }
        JobCommand::Show(args) => show_job(&args, settings).await,
        JobCommand::Explain(args) => explain_job(&args, settings).await,
        JobCommand::Retry(args) => {
            let (engine, mut tx) = begin(&args, settings).await?;
            let changed = engine.retry(&mut tx, args.id).await?;
            finish(tx, &args, "job.retry", changed, "dead or cancelled").await
        }
        JobCommand::Cancel(args) => {
            let (engine, mut tx) = begin(&args, settings).await?;
            let changed = engine.cancel(&mut tx, args.id).await?;
            let from = "scheduled, ready or running";
            finish(tx, &args, "job.cancel", changed, from).await
        }
    }
}

async fn show_job(args: &JobArgs, settings: &Settings) -> anyhow::Result<()> {
    let (_, mut tx) = begin(args, settings).await?;
    let job = read::job(&mut tx, args.id).await?;
    let runs = read::attempts(&mut tx, args.id).await?;
    let Some((job, runs)) = job.zip(runs) else {
        bail!("job {} not found", args.id);
    };
    let line = job_line(&job);
    let mut document = representation::job(job)?;
    if args.common.json {
        say(&document.to_string());
        return Ok(());
    }
    say(&line);
    if let Value::Object(members) = &mut document {
        members.retain(|_, value| !value.is_null() && *value != json!([]));
        for name in ["id", "kind", "queue", "state"] {
            members.remove(name);
        }
        for (name, value) in members {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            say(&format!("  {name:<13} {text}"));
        }
    }
    for run in runs {
        let error = run.error.map_or_else(String::new, |error| {
            format!(": {} ({})", error.message, error.code)
        });
        let outcome = run.outcome.as_str();
        say(&format!(
            "  run {:<9} {} {outcome}{error}",
            run.number,
            format_second(run.finished_at)
        ));
    }
    Ok(())
}

async fn explain_job(args: &JobArgs, settings: &Settings) -> anyhow::Result<()> {
    let (_, mut tx) = begin(args, settings).await?;
    let Some(explanation) = read::explain(&mut tx, args.id).await? else {
        bail!("job {} not found", args.id);
    };
    if args.common.json {
        say(&representation::explanation(explanation)?.to_string());
    } else {
        print_explanation(args, &explanation);
    }
    Ok(())
}

/// Opens a transaction of the job's tenant.
async fn begin(args: &JobArgs, settings: &Settings) -> anyhow::Result<(Engine, TenantTx)> {
    let engine = open_engine(&args.common, settings).await?;
    let tenant = match &args.tenant {
        Some(tenant) => Some(require_tenant(engine.pool(), tenant).await?.id),
        None => engine.tenant_of(args.id).await?,
    };
    let Some(tenant) = tenant else {
        bail!("job {} not found", args.id);
    };
    let tx = TenantTx::begin(engine.pool(), tenant).await?;
    Ok((engine, tx))
}

/// The newest jobs across these tenants. Job ids are assigned in order across tenants.
async fn newest_jobs(
    engine: &Engine,
    tenants: &[TenantId],
    filter: &JobFilter,
    limit: u32,
) -> anyhow::Result<Vec<Job>> {
    let mut newest: Vec<Job> = Vec::new();
    for tenant in tenants {
        let mut tx = TenantTx::begin(engine.pool(), *tenant).await?;
        let mut of_tenant: Vec<Job> = Vec::new();
        let (mut below, mut left) = (None, limit);
        // A selective filter can return a short page that is not the last one.
        while left > 0 {
            let page = read::list(&mut tx, *tenant, filter, below, left).await?;
            left -= u32::try_from(page.jobs.len()).unwrap_or(left).min(left);
            of_tenant.extend(page.jobs);
            below = page.next_before;
            if below.is_none() {
                break;
            }
        }
        newest.append(&mut of_tenant);
        newest.sort_unstable_by_key(|job| std::cmp::Reverse(job.id));
        newest.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
    }
    Ok(newest)
}

fn print_jobs(jobs: Vec<Job>, as_json: bool) -> anyhow::Result<()> {
    if as_json {
        let data: Result<Vec<Value>, _> = jobs.into_iter().map(representation::job).collect();
        say(&json!({ "data": data? }).to_string());
    } else {
        for job in &jobs {
            say(&job_line(job));
        }
    }
    Ok(())
}

/// Records and commits the change, then prints the job's new state.
async fn finish(
    mut tx: TenantTx,
    args: &JobArgs,
    action: &'static str,
    changed: ChangeOutcome,
    from: &str,
) -> anyhow::Result<()> {
    let id = args.id;
    let verb = if action == "job.retry" {
        "retried"
    } else {
        "cancelled"
    };
    match changed {
        ChangeOutcome::Applied(_) => {}
        ChangeOutcome::NotFound => bail!("job {id} not found"),
        ChangeOutcome::KeyTaken(other) => {
            bail!("the job cannot be {verb} while {other} holds its unique key")
        }
        ChangeOutcome::Refused(state) => bail!(
            "the job is {}; only a job that is {from} can be {verb}",
            state_name(state)
        ),
    }
    let job = read::job(&mut tx, id).await?;
    let tenant = tx.tenant();
    audit::record(&mut tx, tenant, &cli_actor(), &Entry::new(action, id)).await?;
    tx.commit().await?;
    let Some(job) = job else {
        bail!("job {id} not found");
    };
    if args.common.json {
        say(&representation::job(job)?.to_string());
    } else {
        say(&job_line(&job));
    }
    Ok(())
}

fn print_explanation(args: &JobArgs, explanation: &Explanation) {
    let runnable = if explanation.runnable {
        " and will start in its turn"
    } else {
        ""
    };
    say(&format!(
        "{} is {}{runnable}",
        args.id,
        state_name(explanation.state)
    ));
    for reason in &explanation.reasons {
        let since = reason
            .since
            .map(|since| format!(", since {}", format_second(since)));
        let until = reason
            .until
            .map(|until| format!(", until {}", format_second(until)));
        say(&format!(
            "  {:<18} {}{}{}",
            reason.code.as_str(),
            reason.detail,
            since.unwrap_or_default(),
            until.unwrap_or_default()
        ));
    }
}

/// `job_… ready http.request in http, attempt 0 of 10, due 2030-01-31T12:00:00Z`.
fn job_line(job: &Job) -> String {
    let error = job
        .last_error
        .as_ref()
        .map_or_else(String::new, |error| format!(", {}", error.code));
    format!(
        "{} {:<9} {} in {}, attempt {} of {}, due {}{error}",
        job.id,
        state_name(job.state),
        job.kind,
        job.queue,
        job.attempt,
        job.max_attempts,
        format_second(job.run_at)
    )
}

fn format_second(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Secs, true)
}
