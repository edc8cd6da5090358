//! Room: coalescing of single enqueues.
//! Takes: jobs of callers that each have one, in one process. Gives: each its receipt, after the
//! commit that made all jobs of its flush durable.
//! Never: waits for more to come: whatever is there when the flush before it has ended goes out.
//!
//! One flush at a time: two would share the callers between them, and their commits would wait for each
//! other all the same, because a transaction that notifies holds a lock until it is on the disk.

use std::sync::Arc;

use harkara_shared::database::is_unavailable;
use harkara_shared::id::TenantId;
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::Receipt;
use crate::engine::{Engine, Error};
use crate::job::NewJob;

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
            waiting: sender,
            _flushing: Arc::new(AbortOnDropHandle::new(flushing)),
        }
    }

    /// Enqueues one job durably. A caller that does not wait for the answer may have enqueued it all
    /// the same.
    ///
    /// # Errors
    /// As [`Engine::enqueue_all`], for this job alone.
    pub async fn enqueue(&self, tenant: TenantId, job: NewJob) -> Result<Receipt, Error> {
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
async fn flush(engine: &Engine, batch: Vec<Waiting>) {
    let (jobs, answers): (Vec<_>, Vec<_>) = batch
        .into_iter()
        // Whoever has gone away does not want it any more.
        .filter(|waiting| !waiting.answer.is_closed())
        .map(|waiting| ((waiting.tenant, waiting.job), waiting.answer))
        .unzip();
    match write(engine, &jobs).await {
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
                let receipt = match write(engine, std::slice::from_ref(&job)).await {
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

async fn write(engine: &Engine, jobs: &[(TenantId, NewJob)]) -> Result<Vec<Receipt>, Error> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let batch = engine.batch(jobs).await?;
    if batch.is_one_statement() {
        let mut connection = engine.pool().acquire().await?;
        return engine.enter(&mut connection, batch).await;
    }
    let mut tx = engine.pool().begin().await?;
    let receipts = engine.enter(&mut tx, batch).await?;
    tx.commit().await?;
    Ok(receipts)
}

/// Whether the database, rather than a job, is the reason: then nobody's job can be written.
fn is_outage(error: &Error) -> bool {
    matches!(error, Error::Database(error) if is_unavailable(error))
}
