//! Writes the outcomes of runs in the background, many in one statement.
//!
//! Jobs are stored in parcels: rows of up to 500 jobs. Outcomes of one parcel are written together where
//! possible.
//!
//! Retries until the database accepts them; meanwhile slots stay free for other jobs. An outcome that
//! the database refuses is replaced by a failure of that job.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use harkara_shared::database::{is_conflict, is_unavailable};
use harkara_shared::telemetry::metric;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::worker_state::{FinishedRun, WorkerState};
use crate::claimed::{ClaimedJob, ParcelKey};
use crate::error::Error;
use crate::job::{AttemptOutcome, JobError};
use crate::settle::WrittenParcels;
use crate::verdict::{RunOutcome, Settlement, Verdict, decide};

/// Most outcomes written by one statement.
const MAX_BATCH_OUTCOMES: usize = 4096;

/// How long outcomes wait for those of the other members of their parcel, so that its row is written
/// once.
const PARCEL_LINGER: Duration = Duration::from_millis(5);

/// Pause before the first retry of a failed write; doubled for each further one.
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// Longest pause before a retry.
const MAX_RETRY: Duration = Duration::from_secs(1);

type SettledJob = (ClaimedJob, Settlement);

/// Writes outcomes until their channel is closed.
pub(super) async fn write_outcomes(
    state: Arc<WorkerState>,
    mut finished_runs: mpsc::UnboundedReceiver<FinishedRun>,
) {
    let mut received = Vec::with_capacity(MAX_BATCH_OUTCOMES);
    let mut lingering = LingeringOutcomes::default();
    loop {
        let is_open = match lingering.next_deadline() {
            None => {
                finished_runs
                    .recv_many(&mut received, MAX_BATCH_OUTCOMES)
                    .await
                    > 0
            }
            Some(deadline) => tokio::select! {
                biased;
                count = finished_runs.recv_many(&mut received, MAX_BATCH_OUTCOMES) => count > 0,
                () = tokio::time::sleep_until(deadline) => true,
            },
        };
        let now = Instant::now();
        for finished in received.drain(..) {
            let FinishedRun {
                job,
                outcome,
                run_time,
            } = finished;
            let settlement = Settlement {
                run_time,
                ..decide(outcome, &job, &mut rand::rng())
            };
            lingering.add((job, settlement), now);
        }
        let batch = if is_open {
            lingering.take_complete(now)
        } else {
            lingering.take_all()
        };
        if !batch.is_empty() {
            write_batch(&state, batch).await;
        }
        if !is_open {
            return;
        }
    }
}

/// Outcomes that wait for those of the other members of their parcels.
#[derive(Default)]
struct LingeringOutcomes {
    /// By parcel: when the first outcome arrived, and the outcomes.
    parcels: HashMap<ParcelKey, (Instant, Vec<SettledJob>)>,
}

impl LingeringOutcomes {
    fn add(&mut self, settled: SettledJob, now: Instant) {
        self.parcels
            .entry(settled.0.parcel.key())
            .or_insert_with(|| (now, Vec::new()))
            .1
            .push(settled);
    }

    /// Removes the outcomes of parcels that are complete or have waited long enough.
    fn take_complete(&mut self, now: Instant) -> Vec<SettledJob> {
        let mut complete = Vec::new();
        self.parcels.retain(|_, (since, outcomes)| {
            let unwritten = outcomes
                .first()
                .and_then(|(job, _)| usize::try_from(job.parcel.unwritten()).ok())
                .unwrap_or_default();
            let is_complete = outcomes.len() >= unwritten || *since + PARCEL_LINGER <= now;
            if is_complete {
                complete.append(outcomes);
            }
            !is_complete
        });
        complete
    }

    fn take_all(&mut self) -> Vec<SettledJob> {
        self.parcels
            .drain()
            .flat_map(|(_, (_, outcomes))| outcomes)
            .collect()
    }

    /// When the first parcel has waited long enough.
    fn next_deadline(&self) -> Option<Instant> {
        let oldest = self.parcels.values().map(|(since, _)| *since).min();
        oldest.map(|since| since + PARCEL_LINGER)
    }
}

/// Writes a batch. If the database refuses it for its content, writes each outcome by itself, so that
/// one that cannot be stored does not hold up the others.
async fn write_batch(state: &WorkerState, batch: Vec<SettledJob>) {
    if write_until_available(state, &batch).await.is_ok() {
        state.outcomes_written(batch.iter().map(|(job, _)| job));
        return;
    }
    for settled in batch {
        write_single(state, settled).await;
    }
}

/// Writes one outcome; if the database refuses it, writes a failure of the job in its place.
async fn write_single(state: &WorkerState, settled: SettledJob) {
    let single = [settled];
    let result = write_until_available(state, &single).await;
    let [(job, _)] = single;
    let Err(error) = result else {
        state.outcomes_written(std::iter::once(&job));
        return;
    };
    tracing::error!(%error, job.id = %job.id, "database refused the outcome of a run; recording a failure");
    let refused = JobError::new(
        "outcome_refused",
        "the database refused the outcome of this run",
    );
    let outcome = RunOutcome::Verdict(Verdict::retry(refused, None));
    let settlement = decide(outcome, &job, &mut rand::rng());
    let single = [(job, settlement)];
    let result = write_until_available(state, &single).await;
    let [(job, _)] = single;
    match result {
        Ok(()) => state.outcomes_written(std::iter::once(&job)),
        Err(error) => {
            tracing::error!(
                %error, job.id = %job.id, lease.id = job.parcel.lease,
                "could not record outcome; job will be retried when this worker's lease expires"
            );
            state.abandon_outcome(&job);
        }
    }
}

/// Writes outcomes, retrying while the database is unavailable. Returns an error only if another try
/// would fail the same way.
async fn write_until_available(state: &WorkerState, batch: &[SettledJob]) -> Result<(), Error> {
    let mut pause = FIRST_RETRY;
    loop {
        match state.engine.settle(batch).await {
            Ok(written) => {
                report_outcomes(state, batch, &written);
                return Ok(());
            }
            Err(error) if is_retryable(&error) => {
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "settle").increment(1);
                tracing::warn!(%error, "could not write outcomes; will try again");
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(MAX_RETRY);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the same write can succeed later.
fn is_retryable(error: &Error) -> bool {
    match error {
        Error::Database(error) => is_unavailable(error) || is_conflict(error),
        Error::Contended(_) => true,
        // `DepthQuota` does not occur: follow-up jobs are enqueued without a quota.
        Error::Encode(_) | Error::Corrupt { .. } | Error::DepthQuota { .. } => false,
    }
}

/// Logs and counts each run, and wakes the part of the worker that finds jobs that are due again soon.
fn report_outcomes(state: &WorkerState, batch: &[SettledJob], written: &WrittenParcels) {
    let mut counts: HashMap<(Arc<str>, &'static str), u64> = HashMap::new();
    for (job, settlement) in batch {
        if !written.contains(&job.parcel.key()) {
            metrics::counter!(metric::STALE_OUTCOMES).increment(1);
            tracing::warn!(
                job.id = %job.id, lease.id = job.parcel.lease,
                "discarded the outcome of a run whose lease was lost"
            );
            continue;
        }
        let outcome = settlement
            .outcome
            .map_or("put_back", AttemptOutcome::as_str);
        *counts.entry((Arc::clone(&job.kind), outcome)).or_default() += 1;
        match &settlement.error {
            None => {
                tracing::debug!(job.id = %job.id, job.kind = &*job.kind, outcome, "run finished");
            }
            Some(error) => tracing::info!(
                job.id = %job.id, tenant.id = %job.tenant, job.kind = &*job.kind, job.attempt,
                outcome, code = error.code, message = error.message, "run finished"
            ),
        }
        match settlement.wait {
            Some(wait) if wait.is_zero() => state.wake.signal_new_work(),
            Some(wait) if wait < state.poll_interval => state.wake.signal_due_soon(),
            _ => {}
        }
    }
    for ((kind, outcome), runs) in counts {
        metrics::counter!(metric::RUNS_FINISHED, "kind" => kind, "outcome" => outcome)
            .increment(runs);
    }
}
