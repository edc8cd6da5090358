//! Room: jobs and workers, looked at and acted on by hand.
//! Takes: a command. Gives: jobs listed, shown, explained, retried and cancelled; the workers that live.
//! Never: does what the API would refuse, or shows what it would not.

use anyhow::{bail, ensure};
use chrono::{DateTime, SecondsFormat, Utc};
use clap::{Args, Subcommand};
use harkara_api::{access, representation};
use harkara_queue::job::{Job, JobState};
use harkara_queue::read::{self, Explanation, JobFilter};
use harkara_queue::settings::QueueView;
use harkara_queue::{ChangeOutcome, Engine, LiveWorker};
use harkara_shared::audit::{self, Entry};
use harkara_shared::config::Settings;
use harkara_shared::database::TenantTx;
use harkara_shared::id::{JobId, TenantId};
use serde_json::{Value, json};

use super::by_hand;
use super::steer::{How, engine};
use crate::up::say;

/// Workers read at once.
const PAGE: u32 = 1000;

/// `harkara job …`
#[derive(Debug, Subcommand)]
pub(crate) enum JobCommand {
    /// List jobs, newest first
    Ls {
        #[command(flatten)]
        filter: Box<Filter>,
        /// How many
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u32).range(1..=10_000))]
        limit: u32,
        /// Id or slug of the tenant; all tenants without it
        #[arg(long)]
        tenant: Option<String>,
        #[command(flatten)]
        how: How,
    },
    /// Show a job, with all its runs that have ended
    Show {
        #[command(flatten)]
        which: Which,
    },
    /// Tell why a job does not run
    Explain {
        #[command(flatten)]
        which: Which,
    },
    /// Make a dead or cancelled job ready again
    Retry {
        #[command(flatten)]
        which: Which,
    },
    /// Cancel a job that has not finished
    Cancel {
        #[command(flatten)]
        which: Which,
    },
    #[command(flatten)]
    Many(super::bulk::ManyCommand),
}

/// `harkara worker …`
#[derive(Debug, Subcommand)]
pub(crate) enum WorkerCommand {
    /// List the workers that live
    Ls {
        #[command(flatten)]
        how: How,
    },
}

/// A job.
#[derive(Debug, Clone, Args)]
pub(crate) struct Which {
    /// The job's id
    id: JobId,
    /// Id or slug of its tenant; found out without it
    #[arg(long)]
    tenant: Option<String>,
    #[command(flatten)]
    how: How,
}

/// Which jobs to list; what is given must all hold.
#[derive(Debug, Clone, Args)]
pub(crate) struct Filter {
    /// scheduled, ready, running, succeeded, dead or cancelled
    #[arg(long, value_parser = state)]
    state: Option<JobState>,
    /// Of this kind
    #[arg(long)]
    kind: Option<String>,
    /// In this queue
    #[arg(long)]
    queue: Option<String>,
    /// Bearing this tag
    #[arg(long)]
    tag: Option<String>,
    /// Enqueued with this unique key
    #[arg(long)]
    unique_key: Option<String>,
    /// Enqueued with this ordering key
    #[arg(long)]
    ordering_key: Option<String>,
    /// Enqueued at or after this time (RFC 3339)
    #[arg(long)]
    created_after: Option<DateTime<Utc>>,
    /// Enqueued before this time (RFC 3339)
    #[arg(long)]
    created_before: Option<DateTime<Utc>>,
    /// Whose last error has this code
    #[arg(long)]
    error_code: Option<String>,
}

impl From<Filter> for JobFilter {
    fn from(filter: Filter) -> Self {
        Self {
            state: filter.state,
            kind: filter.kind,
            queue: filter.queue,
            tag: filter.tag,
            unique_key: filter.unique_key,
            ordering_key: filter.ordering_key,
            created_after: filter.created_after,
            created_before: filter.created_before,
            error_code: filter.error_code,
        }
    }
}

fn state(text: &str) -> Result<JobState, String> {
    JobState::ALL
        .into_iter()
        .find(|state| word(*state) == text)
        .ok_or_else(|| {
            let words = JobState::ALL.map(word);
            format!("expected one of {}", words.join(", "))
        })
}

fn word(state: JobState) -> &'static str {
    match state {
        JobState::Scheduled => "scheduled",
        JobState::Ready => "ready",
        JobState::Running => "running",
        JobState::Succeeded => "succeeded",
        JobState::Dead => "dead",
        JobState::Cancelled => "cancelled",
    }
}

pub(crate) async fn job(command: JobCommand, settings: &Settings) -> anyhow::Result<()> {
    match command {
        JobCommand::Many(command) => super::bulk::many(command, settings).await,
        JobCommand::Ls {
            filter,
            limit,
            tenant,
            how,
        } => {
            let engine = engine(&how, settings)?;
            let tenants = match tenant {
                Some(tenant) => vec![tenant_named(&engine, &tenant).await?],
                None => engine.tenants().await?,
            };
            let jobs = newest(&engine, &tenants, &(*filter).into(), limit).await?;
            list(jobs, how.json);
            Ok(())
        }
        JobCommand::Show { which } => {
            let (_, mut tx) = found(&which, settings).await?;
            let job = read::job(&mut tx, which.id).await?;
            let runs = read::attempts(&mut tx, which.id).await?;
            let Some((job, runs)) = job.zip(runs) else {
                bail!("there is no job {}", which.id);
            };
            let line = line(&job);
            let mut shown = representation::job(job);
            if which.how.json {
                say(&shown.to_string());
                return Ok(());
            }
            say(&line);
            if let Value::Object(members) = &mut shown {
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
                    second(run.finished_at)
                ));
            }
            Ok(())
        }
        JobCommand::Explain { which } => {
            let (_, mut tx) = found(&which, settings).await?;
            let Some(explanation) = read::explain(&mut tx, which.id).await? else {
                bail!("there is no job {}", which.id);
            };
            if which.how.json {
                say(&representation::explanation(explanation).to_string());
            } else {
                tell(&which, &explanation);
            }
            Ok(())
        }
        JobCommand::Retry { which } => {
            let (engine, mut tx) = found(&which, settings).await?;
            let changed = engine.retry(&mut tx, which.id).await?;
            after(tx, &which, "job.retry", changed, "dead or cancelled").await
        }
        JobCommand::Cancel { which } => {
            let (engine, mut tx) = found(&which, settings).await?;
            let changed = engine.cancel(&mut tx, which.id).await?;
            let from = "scheduled, ready or running";
            after(tx, &which, "job.cancel", changed, from).await
        }
    }
}

pub(crate) async fn worker(command: WorkerCommand, settings: &Settings) -> anyhow::Result<()> {
    let WorkerCommand::Ls { how } = command;
    let engine = engine(&how, settings)?;
    let mut workers: Vec<LiveWorker> = Vec::new();
    loop {
        let after = workers.last().map(|worker| worker.id);
        let page = engine.workers(QueueView::All, after, PAGE).await?;
        if page.is_empty() {
            break;
        }
        workers.extend(page);
    }
    if how.json {
        let data: Vec<Value> = workers.into_iter().map(representation::worker).collect();
        say(&json!({ "data": data }).to_string());
        return Ok(());
    }
    for worker in workers {
        let queues: Vec<String> = worker
            .queues
            .iter()
            .map(|(queue, places)| format!("{queue}={places}"))
            .collect();
        say(&format!(
            "{} {:<16} {:<8} since {}, seen {}, {} running, {}",
            worker.id,
            worker.host.unwrap_or_default(),
            worker.version,
            second(worker.started_at),
            second(worker.last_seen_at),
            worker.running,
            queues.join(",")
        ));
    }
    Ok(())
}

async fn tenant_named(engine: &Engine, tenant: &str) -> anyhow::Result<TenantId> {
    match access::find_tenant(engine.pool(), tenant).await? {
        Some(tenant) => Ok(tenant.id),
        None => bail!("there is no tenant `{tenant}`"),
    }
}

/// The transaction of the job's tenant.
async fn found(which: &Which, settings: &Settings) -> anyhow::Result<(Engine, TenantTx)> {
    let engine = engine(&which.how, settings)?;
    let tenant = match &which.tenant {
        Some(tenant) => Some(tenant_named(&engine, tenant).await?),
        None => engine.tenant_of(which.id).await?,
    };
    let Some(tenant) = tenant else {
        bail!("there is no job {}", which.id);
    };
    let tx = TenantTx::begin(engine.pool(), tenant).await?;
    Ok((engine, tx))
}

/// The newest jobs of all these tenants together: job ids are given out in one row.
async fn newest(
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
        // Where few jobs match, a page may be short and not the last.
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

fn list(jobs: Vec<Job>, as_json: bool) {
    if as_json {
        let data: Vec<Value> = jobs.into_iter().map(representation::job).collect();
        say(&json!({ "data": data }).to_string());
    } else {
        for job in &jobs {
            say(&line(job));
        }
    }
}

/// Makes the change, if it was one, and shows the job as it is now.
async fn after(
    mut tx: TenantTx,
    which: &Which,
    action: &'static str,
    changed: ChangeOutcome,
    from: &str,
) -> anyhow::Result<()> {
    let id = which.id;
    let verb = if action == "job.retry" {
        "retried"
    } else {
        "cancelled"
    };
    match changed {
        ChangeOutcome::Applied(_) => {}
        ChangeOutcome::NotFound => bail!("there is no job {id}"),
        ChangeOutcome::KeyTaken(other) => {
            bail!("the job cannot be {verb} while {other} holds its unique key")
        }
        ChangeOutcome::Refused(state) => ensure!(
            false,
            "the job is {}; only a job that is {from} can be {verb}",
            word(state)
        ),
    }
    let job = read::job(&mut tx, id).await?;
    let tenant = tx.tenant();
    audit::record(&mut tx, tenant, &by_hand(), &Entry::new(action, id)).await?;
    tx.commit().await?;
    let Some(job) = job else {
        bail!("there is no job {id}");
    };
    if which.how.json {
        say(&representation::job(job).to_string());
    } else {
        say(&line(&job));
    }
    Ok(())
}

fn tell(which: &Which, explanation: &Explanation) {
    let runnable = if explanation.runnable {
        ", and runs in its turn"
    } else {
        ""
    };
    say(&format!(
        "{} is {}{runnable}",
        which.id,
        word(explanation.state)
    ));
    for reason in &explanation.reasons {
        let since = reason
            .since
            .map(|since| format!(", since {}", second(since)));
        let until = reason
            .until
            .map(|until| format!(", until {}", second(until)));
        say(&format!(
            "  {:<18} {}{}{}",
            reason.code.word(),
            reason.detail,
            since.unwrap_or_default(),
            until.unwrap_or_default()
        ));
    }
}

/// `job_… ready http.request in http, attempt 0 of 10, due 2030-01-31T12:00:00Z`.
fn line(job: &Job) -> String {
    let error = job
        .last_error
        .as_ref()
        .map_or_else(String::new, |error| format!(", {}", error.code));
    format!(
        "{} {:<9} {} in {}, attempt {} of {}, due {}{error}",
        job.id,
        word(job.state),
        job.kind,
        job.queue,
        job.attempt,
        job.max_attempts,
        second(job.run_at)
    )
}

fn second(moment: DateTime<Utc>) -> String {
    moment.to_rfc3339_opts(SecondsFormat::Secs, true)
}
