//! Room: the completer: has endings written, in the background and together.
//! Takes: endings of runs. Gives: settlements, again and again until the database answers.
//! Never: holds a handler's place while it waits.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use harkara_shared::database::{is_conflict, is_unavailable};
use harkara_shared::telemetry::metric;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::desk::{Desk, Ended};
use crate::claim::Claimed;
use crate::error::Error;
use crate::job::{AttemptOutcome, JobError};
use crate::settle::{Key, Written};
use crate::verdict::{Ending, Settlement, Verdict, decide};

/// Endings written by one statement.
const BATCH: usize = 4096;

/// How long members of a parcel that have ended wait for the others, so that a row is written once.
const LINGER: Duration = Duration::from_millis(5);

type Settled = (Claimed, Settlement);

/// Writes endings until the desk closes them.
pub(super) async fn run(desk: Arc<Desk>, mut endings: mpsc::UnboundedReceiver<Ended>) {
    let mut arrived = Vec::with_capacity(BATCH);
    let mut lingering = Lingering::default();
    loop {
        let more = match lingering.until() {
            None => endings.recv_many(&mut arrived, BATCH).await > 0,
            Some(until) => tokio::select! {
                biased;
                count = endings.recv_many(&mut arrived, BATCH) => count > 0,
                () = tokio::time::sleep_until(until) => true,
            },
        };
        let now = Instant::now();
        for Ended { job, ending, took } in arrived.drain(..) {
            let settlement = Settlement {
                took,
                ..decide(ending, &job, &mut rand::rng())
            };
            lingering.put((job, settlement), now);
        }
        let ripe = if more {
            lingering.ripe(now)
        } else {
            lingering.all()
        };
        if !ripe.is_empty() {
            settle(&desk, ripe).await;
        }
        if !more {
            return;
        }
    }
}

/// Endings that wait for the other members of their parcels.
#[derive(Default)]
struct Lingering {
    parcels: HashMap<Key, (Instant, Vec<Settled>)>,
}

impl Lingering {
    fn put(&mut self, settled: Settled, now: Instant) {
        self.parcels
            .entry(settled.0.parcel.key())
            .or_insert_with(|| (now, Vec::new()))
            .1
            .push(settled);
    }

    /// What has waited long enough, or has nothing left to wait for.
    fn ripe(&mut self, now: Instant) -> Vec<Settled> {
        let mut ripe = Vec::new();
        self.parcels.retain(|_, (since, endings)| {
            let left = endings
                .first()
                .and_then(|(job, _)| usize::try_from(job.parcel.left()).ok())
                .unwrap_or_default();
            let is_ripe = endings.len() >= left || *since + LINGER <= now;
            if is_ripe {
                ripe.append(endings);
            }
            !is_ripe
        });
        ripe
    }

    fn all(&mut self) -> Vec<Settled> {
        self.parcels
            .drain()
            .flat_map(|(_, (_, endings))| endings)
            .collect()
    }

    fn until(&self) -> Option<Instant> {
        let oldest = self.parcels.values().map(|(since, _)| *since).min();
        oldest.map(|since| since + LINGER)
    }
}

/// Writes a batch; one that the database refuses for what is in it is written job by job, so that a
/// single outcome that cannot be stored holds nobody back.
async fn settle(desk: &Desk, batch: Vec<Settled>) {
    if persist(desk, &batch).await.is_ok() {
        desk.written(batch.iter().map(|(job, _)| job));
        return;
    }
    for settled in batch {
        let alone = [settled];
        let refused = persist(desk, &alone).await;
        let [(job, _)] = alone;
        let Err(refusal) = refused else {
            desk.written(std::iter::once(&job));
            continue;
        };
        tracing::error!(job.id = %job.id, error = %refusal, "an outcome cannot be stored");
        let error = JobError::new(
            "outcome_refused",
            "the database refused the outcome of this run",
        );
        let verdict = Verdict::retry(error, None);
        let settlement = decide(Ending::Verdict(verdict), &job, &mut rand::rng());
        let alone = [(job, settlement)];
        let refused = persist(desk, &alone).await;
        let [(job, _)] = alone;
        match refused {
            Ok(()) => desk.written(std::iter::once(&job)),
            Err(refusal) => {
                tracing::error!(error = %refusal, "not even that: left until this worker's lease ends");
                desk.give_up(&job);
            }
        }
    }
}

/// Writes until the database is there; an error is one that would come again.
async fn persist(desk: &Desk, batch: &[Settled]) -> Result<(), Error> {
    let mut wait = Duration::from_millis(20);
    loop {
        match desk.engine.settle(batch).await {
            Ok(written) => {
                report(desk, batch, &written);
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
        // What runs enqueue is not bounded.
        Error::Encode(_) | Error::Corrupt { .. } | Error::DepthQuota { .. } => false,
    }
}

/// The one log line of each run, and the counts of all; and a look for jobs that are due again soon.
fn report(desk: &Desk, batch: &[Settled], written: &Written) {
    let mut counts: HashMap<(Arc<str>, &'static str), u64> = HashMap::new();
    for (job, settlement) in batch {
        if !written.contains(&job.parcel.key()) {
            metrics::counter!(metric::STALE_OUTCOMES).increment(1);
            tracing::warn!(job.id = %job.id, "the lease of this run was lost: its outcome is not written");
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
            Some(wait) if wait.is_zero() => desk.tell_news(),
            Some(wait) if wait < desk.poll => desk.due.notify_one(),
            _ => {}
        }
    }
    for ((kind, outcome), runs) in counts {
        metrics::counter!(metric::RUNS_FINISHED, "kind" => kind, "outcome" => outcome)
            .increment(runs);
    }
}
