//! Room: the completer: has endings written, in the background and together.
//! Takes: endings of runs. Gives: settlements, again and again until the database answers.
//! Never: holds a handler's place while it waits.

use std::sync::Arc;
use std::time::Duration;

use harkara_shared::database::{is_conflict, is_unavailable};
use harkara_shared::telemetry::metric;
use tokio::sync::mpsc;

use super::desk::Desk;
use crate::claim::Claimed;
use crate::engine::Error;
use crate::job::JobError;
use crate::verdict::{Ending, Settlement, Verdict, decide};

/// Endings written by one statement.
const BATCH: usize = 500;

/// Writes endings until the desk closes them.
pub(super) async fn run(desk: Arc<Desk>, mut endings: mpsc::UnboundedReceiver<(Claimed, Ending)>) {
    let mut batch = Vec::with_capacity(BATCH);
    while endings.recv_many(&mut batch, BATCH).await > 0 {
        let settlements: Vec<(Claimed, Settlement)> = batch
            .drain(..)
            .map(|(job, ending)| {
                let settlement = decide(ending, &job, &mut rand::rng());
                (job, settlement)
            })
            .collect();
        let done = settle(&desk, settlements).await;
        desk.written(&done);
    }
}

/// Writes a batch; one that the database refuses for what is in it is written one by one, so that a
/// single outcome that cannot be stored holds nobody back. Answers the tokens of what is done with.
async fn settle(desk: &Desk, batch: Vec<(Claimed, Settlement)>) -> Vec<i64> {
    let mut done: Vec<i64> = batch.iter().map(|(job, _)| job.token).collect();
    if persist(desk, &batch).await.is_ok() {
        return done;
    }
    done.clear();
    for (job, settlement) in batch {
        let token = job.token;
        let alone = [(job, settlement)];
        let Err(refusal) = persist(desk, &alone).await else {
            done.push(token);
            continue;
        };
        let [(job, _)] = alone;
        tracing::error!(job.id = %job.id, error = %refusal, "an outcome cannot be stored");
        let error = JobError::new(
            "outcome_refused",
            "the database refused the outcome of this run",
        );
        let verdict = Verdict::Retry { error, after: None };
        let settlement = decide(Ending::Verdict(verdict), &job, &mut rand::rng());
        match persist(desk, &[(job, settlement)]).await {
            Ok(()) => done.push(token),
            Err(refusal) => {
                tracing::error!(error = %refusal, "not even that: left until this worker's lease ends");
                desk.give_up(token);
            }
        }
    }
    done
}

/// Writes until the database is there; an error is one that would come again.
async fn persist(desk: &Desk, batch: &[(Claimed, Settlement)]) -> Result<(), Error> {
    let mut wait = Duration::from_millis(20);
    loop {
        match desk.engine.settle(batch).await {
            Ok(written) => {
                for (job, settlement) in batch {
                    if written.contains(&(job.parcel, job.token)) {
                        report(job, settlement);
                        if settlement.wait.is_some_and(|wait| wait < desk.poll) {
                            desk.due.notify_one();
                        }
                    } else {
                        metrics::counter!(metric::STALE_OUTCOMES).increment(1);
                        tracing::warn!(job.id = %job.id, "the lease of this run was lost: its outcome is not written");
                    }
                }
                return Ok(());
            }
            Err(error) if is_passing(&error) => {
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "settle").increment(1);
                tracing::warn!(%error, "cannot write outcomes: trying again");
                tokio::time::sleep(wait).await;
                wait = (wait * 2).min(Duration::from_secs(1));
            }
            Err(error) => return Err(error),
        }
    }
}

/// Whether the same write may succeed later.
fn is_passing(error: &Error) -> bool {
    match error {
        Error::Database(error) => is_unavailable(error) || is_conflict(error),
        Error::Contended(_) => true,
        Error::Encode(_) | Error::Corrupt { .. } => false,
    }
}

/// The one log line and the one count of a run.
fn report(job: &Claimed, settlement: &Settlement) {
    let outcome = settlement
        .outcome
        .map_or("put_back", |outcome| outcome.word());
    metrics::counter!(metric::RUNS_FINISHED, "kind" => job.kind.clone(), "outcome" => outcome)
        .increment(1);
    match &settlement.error {
        None => tracing::debug!(job.id = %job.id, job.kind, outcome, "run finished"),
        Some(error) => tracing::info!(
            job.id = %job.id, tenant.id = %job.tenant, job.kind, job.attempt, outcome,
            code = error.code, message = error.message, "run finished"
        ),
    }
}
