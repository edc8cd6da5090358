//! Room: coalescing of single enqueues.
//! Takes: jobs of callers that each have one, in one process. Gives: each its receipt, after the
//! commit that made all jobs of its flush durable.
//! Never: waits for more to come: whatever is there when the flush before it has ended goes out.
//!
//! One flush at a time: two would share the callers between them, and their commits would wait for each
//! other all the same, because a transaction that notifies holds a lock until it is on the disk.

use std::collections::HashMap;
use std::sync::Arc;

use harkara_shared::database::is_unavailable;
use harkara_shared::id::TenantId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::{Bounded, Receipt};
use crate::engine::Engine;
use crate::error::Error;
use crate::job::NewJob;
use crate::quota::Depth;

/// Most jobs of one flush.
const MOST: usize = 1000;

/// Bytes of payload after which a flush is full.
const FULL: usize = 8 * 1024 * 1024;

struct Waiting {
    tenant: TenantId,
    job: NewJob,
    answer: oneshot::Sender<Result<Receipt, Error>>,
}

/// Enqueues single jobs of many callers together, each in a transaction of its own as far as its
/// caller can tell. Cheap to clone; flushing ends with the last clone.
#[derive(Clone)]
pub struct Coalescer {
    engine: Engine,
    waiting: mpsc::UnboundedSender<Waiting>,
    _flushing: Arc<AbortOnDropHandle<()>>,
}

impl std::fmt::Debug for Coalescer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coalescer").finish_non_exhaustive()
    }
}

impl Coalescer {
    /// A coalescer that flushes through `engine`, on at most one connection of its pool. To be made
    /// on a Tokio runtime.
    #[must_use]
    pub fn new(engine: &Engine) -> Self {
        let (sender, receiver) = mpsc::unbounded_channel();
        let flushing = tokio::spawn(flush_all(engine.clone(), receiver));
        Self {
            engine: engine.clone(),
            waiting: sender,
            _flushing: Arc::new(AbortOnDropHandle::new(flushing)),
        }
    }

    /// Enqueues one job durably. A caller that does not wait for the answer may have enqueued it all
    /// the same.
    ///
    /// # Errors
    /// As [`Engine::submit_all`], for this job alone.
    pub async fn enqueue(&self, tenant: TenantId, job: NewJob) -> Result<Receipt, Error> {
        // Whoever brings a name that somebody is making just now waits for it alone.
        self.engine.interner().prepare(tenant, &job).await?;
        let (answer, answered) = oneshot::channel();
        let waiting = Waiting {
            tenant,
            job,
            answer,
        };
        // Refused only when the runtime shuts down around us.
        if self.waiting.send(waiting).is_err() {
            return Err(Error::Database(sqlx::Error::PoolClosed));
        }
        answered
            .await
            .unwrap_or(Err(Error::Database(sqlx::Error::PoolClosed)))
    }
}

async fn flush_all(engine: Engine, mut receiver: mpsc::UnboundedReceiver<Waiting>) {
    let mut batch = Vec::with_capacity(MOST);
    while receiver.recv_many(&mut batch, MOST).await > 0 {
        while !batch.is_empty() {
            let mut bytes = 0;
            let fits = batch
                .iter()
                .take_while(|waiting| {
                    bytes += waiting.job.payload.get().len();
                    bytes <= FULL
                })
                .count();
            let rest = batch.split_off(fits.max(1));
            flush(&engine, std::mem::replace(&mut batch, rest)).await;
        }
        // Callers who were just answered may have their next job ready: it goes with the next flush
        // rather than the one after it.
        tokio::task::yield_now().await;
    }
}

/// Writes a batch; one that is refused for what is in it is written job by job, so that a job that
/// cannot be stored holds nobody back.
async fn flush(engine: &Engine, mut batch: Vec<Waiting>) {
    // Whoever has gone away does not want it any more.
    batch.retain(|waiting| !waiting.answer.is_closed());
    let (jobs, answers): (Vec<_>, Vec<_>) = admit(engine, batch)
        .await
        .into_iter()
        .map(|waiting| ((waiting.tenant, waiting.job), waiting.answer))
        .unzip();
    match write(engine, &jobs, Bounded::Keyed).await {
        Ok(receipts) => {
            for (answer, receipt) in answers.into_iter().zip(receipts) {
                answer.send(Ok(receipt)).ok();
            }
        }
        Err(error) if jobs.len() == 1 || is_outage(&error) => {
            let mut error = Some(error);
            for answer in answers {
                let own = error
                    .take()
                    .unwrap_or(Error::Database(sqlx::Error::PoolTimedOut));
                answer.send(Err(own)).ok();
            }
        }
        Err(_) => {
            for (job, answer) in jobs.into_iter().zip(answers) {
                // Those of the batch that there was room for are not there yet: each is counted anew.
                let alone = std::slice::from_ref(&job);
                let receipt = match write(engine, alone, Bounded::All).await {
                    Ok(receipts) => receipts
                        .into_iter()
                        .next()
                        .ok_or_else(|| Error::Contended(job.1.kind)),
                    Err(error) => Err(error),
                };
                answer.send(receipt).ok();
            }
        }
    }
}

/// Those whom the bounds of their tenants leave room for, first come, first served; the others are
/// answered. A job with a unique key may not be new: it is looked at when that is known.
async fn admit(engine: &Engine, batch: Vec<Waiting>) -> Vec<Waiting> {
    let mut wanted: HashMap<TenantId, i64> = HashMap::new();
    for waiting in &batch {
        if waiting.job.unique.is_none() {
            *wanted.entry(waiting.tenant).or_default() += 1;
        }
    }
    let mut rooms = HashMap::new();
    for (tenant, wanted) in wanted {
        match room(engine, tenant, wanted).await {
            Ok(None) => {}
            found => {
                rooms.insert(tenant, found);
            }
        }
    }
    if rooms.is_empty() {
        return batch;
    }
    let mut admitted = Vec::with_capacity(batch.len());
    for waiting in batch {
        let room = rooms
            .get_mut(&waiting.tenant)
            .filter(|_| waiting.job.unique.is_none());
        let refusal = match room {
            None | Some(Ok(None)) => None,
            Some(Ok(Some((0, depth)))) => Some(depth.refusal()),
            Some(Ok(Some((left, _)))) => {
                *left -= 1;
                None
            }
            Some(Err(error)) => {
                let next = Error::Database(sqlx::Error::PoolTimedOut);
                Some(std::mem::replace(error, next))
            }
        };
        match refusal {
            None => admitted.push(waiting),
            Some(error) => {
                waiting.answer.send(Err(error)).ok();
            }
        }
    }
    admitted
}

/// How many of `wanted` jobs of a tenant there is room for, and what was counted; `None` if for all.
async fn room(
    engine: &Engine,
    tenant: TenantId,
    wanted: i64,
) -> Result<Option<(i64, Depth)>, Error> {
    let number = engine.interner().tenant_number(tenant).await?;
    if engine.quotas().allows(number, wanted) {
        return Ok(None);
    }
    let mut connection = engine.pool().acquire().await?;
    let depth = engine.quotas().count(&mut connection, number).await?;
    let room = depth.room(wanted);
    engine.quotas().add(number, room);
    Ok((room < wanted).then_some((room, depth)))
}

async fn write(
    engine: &Engine,
    jobs: &[(TenantId, NewJob)],
    bounded: Bounded,
) -> Result<Vec<Receipt>, Error> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let batch = engine.batch(jobs).await?;
    if batch.is_one_statement() {
        let mut connection = engine.pool().acquire().await?;
        return engine.enter(&mut connection, batch, bounded).await;
    }
    let mut tx = engine.pool().begin().await?;
    let receipts = engine.enter(&mut tx, batch, bounded).await?;
    tx.commit().await?;
    Ok(receipts)
}

/// Whether the database, rather than a job, is the reason: then nobody's job can be written.
fn is_outage(error: &Error) -> bool {
    matches!(error, Error::Database(error) if is_unavailable(error))
}
