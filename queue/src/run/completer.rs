//! Writes the outcomes of runs in the background, many in one statement.
//!
//! Jobs are stored in parcels: rows of up to 500 member jobs. Outcomes of one parcel are written together
//! where possible.
//!
//! A write is retried while the database is unavailable; meanwhile the slots of the ended runs are free for
//! other jobs. An outcome that the database refuses is replaced by a failure of that job.

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

/// Maximum outcomes written by one statement.
const MAX_BATCH_OUTCOMES: usize = 4096;

/// How long an outcome waits for the outcomes of the other members of its parcel, so that the parcel's row is
/// written once.
const PARCEL_LINGER: Duration = Duration::from_millis(5);

/// Pause before the first retry of a failed write. Doubled for each further retry.
const FIRST_RETRY: Duration = Duration::from_millis(20);

/// Maximum pause before a retry.
const MAX_RETRY: Duration = Duration::from_secs(1);

type SettledJob = (ClaimedJob, Settlement);

/// Writes outcomes until their channel is closed.
pub(super) async fn write_outcomes(
    state: Arc<WorkerState>,
    mut finished_runs: mpsc::UnboundedReceiver<FinishedRun>,
) {
    let mut new_runs = Vec::with_capacity(MAX_BATCH_OUTCOMES);
    let mut waiting_outcomes = WaitingOutcomes::default();
    loop {
        let is_open = match waiting_outcomes.next_deadline() {
            None => {
                finished_runs
                    .recv_many(&mut new_runs, MAX_BATCH_OUTCOMES)
                    .await
                    > 0
            }
            Some(deadline) => tokio::select! {
                biased;
                count = finished_runs.recv_many(&mut new_runs, MAX_BATCH_OUTCOMES) => count > 0,
                () = tokio::time::sleep_until(deadline) => true,
            },
        };
        let now = Instant::now();
        for finished in new_runs.drain(..) {
            let FinishedRun {
                job,
                outcome,
                run_time,
            } = finished;
            let settlement = Settlement {
                run_time,
                ..decide(outcome, &job, &mut rand::rng())
            };
            waiting_outcomes.add((job, settlement), now);
        }
        let batch = if is_open {
            waiting_outcomes.take_complete(now)
        } else {
            waiting_outcomes.take_all()
        };
        if !batch.is_empty() {
            write_batch(&state, batch).await;
        }
        if !is_open {
            return;
        }
    }
}

/// Outcomes that wait for the outcomes of the other members of their parcels.
#[derive(Default)]
struct WaitingOutcomes {
    by_parcel: HashMap<ParcelKey, WaitingParcel>,
}

struct WaitingParcel {
    /// When the first outcome arrived.
    first_outcome_at: Instant,
    outcomes: Vec<SettledJob>,
}

impl WaitingOutcomes {
    fn add(&mut self, settled_job: SettledJob, now: Instant) {
        self.by_parcel
            .entry(settled_job.0.parcel.key())
            .or_insert_with(|| WaitingParcel {
                first_outcome_at: now,
                outcomes: Vec::new(),
            })
            .outcomes
            .push(settled_job);
    }

    /// Removes the outcomes of parcels that are complete or have waited long enough.
    fn take_complete(&mut self, now: Instant) -> Vec<SettledJob> {
        let mut complete = Vec::new();
        self.by_parcel.retain(|_, parcel| {
            let outcomes = &mut parcel.outcomes;
            let unwritten = outcomes
                .first()
                .and_then(|(job, _)| usize::try_from(job.parcel.unwritten()).ok())
                .unwrap_or_default();
            let is_complete =
                outcomes.len() >= unwritten || parcel.first_outcome_at + PARCEL_LINGER <= now;
            if is_complete {
                complete.append(outcomes);
            }
            !is_complete
        });
        complete
    }

    fn take_all(&mut self) -> Vec<SettledJob> {
        self.by_parcel
            .drain()
            .flat_map(|(_, parcel)| parcel.outcomes)
            .collect()
    }

    /// When the first parcel has waited long enough.
    fn next_deadline(&self) -> Option<Instant> {
        let first_arrivals = self
            .by_parcel
            .values()
            .map(|parcel| parcel.first_outcome_at);
        first_arrivals
            .min()
            .map(|first_outcome_at| first_outcome_at + PARCEL_LINGER)
    }
}

/// Writes a batch. If the database refuses the batch for its content, writes each outcome separately, so that
/// an outcome that cannot be stored does not delay the others.
async fn write_batch(state: &WorkerState, batch: Vec<SettledJob>) {
    if write_until_available(state, &batch).await.is_ok() {
        state.record_written_outcomes(batch.iter().map(|(job, _)| job));
        return;
    }
    for settled_job in batch {
        write_single(state, settled_job).await;
    }
}

/// Writes one outcome. If the database refuses the outcome, writes a failure of the job instead.
async fn write_single(state: &WorkerState, settled_job: SettledJob) {
    let single = [settled_job];
    let result = write_until_available(state, &single).await;
    let [(job, _)] = single;
    let Err(error) = result else {
        state.record_written_outcomes(std::iter::once(&job));
        return;
    };
    tracing::error!(%error, job.id = %job.id, "database refused the outcome of a run; recording a failure");
    let refusal = JobError::new(
        "outcome_refused",
        "the database refused the outcome of this run",
    );
    let outcome = RunOutcome::Verdict(Verdict::retry(refusal, None));
    let settlement = decide(outcome, &job, &mut rand::rng());
    let single = [(job, settlement)];
    let result = write_until_available(state, &single).await;
    let [(job, _)] = single;
    match result {
        Ok(()) => state.record_written_outcomes(std::iter::once(&job)),
        Err(error) => {
            tracing::error!(
                %error, job.id = %job.id, lease.id = job.parcel.lease,
                "could not record outcome; job will be retried when this worker's lease expires"
            );
            state.abandon_outcome(&job);
        }
    }
}

/// Writes outcomes, retrying while the database is unavailable. Returns an error if the database refuses the
/// outcomes, because a retry would fail the same way.
async fn write_until_available(state: &WorkerState, batch: &[SettledJob]) -> Result<(), Error> {
    let mut pause = FIRST_RETRY;
    loop {
        match state.engine.settle(batch).await {
            Ok(written_parcels) => {
                report_outcomes(state, batch, &written_parcels);
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

/// Logs and counts the runs of a batch. Wakes the dispatcher or the due poller for jobs that are due again
/// soon.
fn report_outcomes(state: &WorkerState, batch: &[SettledJob], written_parcels: &WrittenParcels) {
    let mut run_counts: HashMap<(Arc<str>, &'static str), u64> = HashMap::new();
    for (job, settlement) in batch {
        if !written_parcels.contains(&job.parcel.key()) {
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
        *run_counts
            .entry((Arc::clone(&job.kind), outcome))
            .or_default() += 1;
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
    for ((kind, outcome), runs) in run_counts {
        metrics::counter!(metric::RUNS_FINISHED, "kind" => kind, "outcome" => outcome)
            .increment(runs);
    }
}
