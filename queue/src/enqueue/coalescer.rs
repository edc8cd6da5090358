//! Coalesces single enqueues of one process into shared transactions.
//!
//! Callers that each have one job get their receipts after the commit that made all jobs of their flush
//! durable. A flush never waits for more jobs: it takes the jobs that arrived during the flush before it.
//!
//! There is one flush at a time: two would divide the callers between them, and their commits would
//! wait for each other anyway, because a transaction that notifies holds a lock until it is on disk.

use std::collections::HashMap;
use std::sync::Arc;

use harkara_shared::batcher::{Batcher, Pending};
use harkara_shared::database::is_unavailable;
use harkara_shared::id::TenantId;

use super::quota_scope::QuotaScope;
use super::receipt::Receipt;
use crate::engine::Engine;
use crate::error::Error;
use crate::job::NewJob;
use crate::quota::Depth;

/// Maximum jobs of one flush.
const MAX_FLUSH_JOBS: usize = 1000;

/// Maximum bytes of payload in one flush.
const MAX_FLUSH_BYTES: usize = 8 * 1024 * 1024;

type TenantJob = (TenantId, NewJob);
type PendingJob = Pending<TenantJob, Result<Receipt, Error>>;

/// Enqueues single jobs of many callers together, each as if in a transaction of its own. Cheap to
/// clone; clones share flushes.
#[derive(Clone)]
pub struct Coalescer {
    engine: Engine,
    batcher: Arc<Batcher<(), TenantJob, Result<Receipt, Error>>>,
}

impl std::fmt::Debug for Coalescer {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Coalescer").finish_non_exhaustive()
    }
}

impl Coalescer {
    /// Returns a coalescer that flushes through `engine`, on at most one connection of its pool.
    #[must_use]
    pub fn new(engine: &Engine) -> Self {
        let batcher = Batcher::new(MAX_FLUSH_JOBS)
            .with_max_weight(MAX_FLUSH_BYTES, |(_, job): &TenantJob| {
                job.payload.get().len()
            });
        Self {
            engine: engine.clone(),
            batcher: Arc::new(batcher),
        }
    }

    /// Enqueues one job durably, within the tenant's bound of waiting jobs. If the returned future is
    /// dropped before it is ready, the job may or may not have been enqueued.
    ///
    /// # Errors
    /// As [`Engine::enqueue_all`] under [`super::receipt::Quota::Enforce`], for this job alone.
    pub async fn enqueue(&self, tenant: TenantId, job: NewJob) -> Result<Receipt, Error> {
        // If a name of this job is just being interned, only this caller waits for it, not the flush.
        self.engine.interner().prepare(tenant, &job).await?;
        let engine = self.engine.clone();
        let flush = move |batch| {
            let engine = engine.clone();
            async move { flush(&engine, batch).await }
        };
        self.batcher
            .call((), (tenant, job), flush)
            .await
            // Happens only when the runtime is shutting down.
            .unwrap_or(Err(Error::Database(sqlx::Error::PoolClosed)))
    }
}

/// Writes a batch. A batch that is refused because of its contents is written job by job, so that a job
/// that cannot be stored holds up no other.
async fn flush(engine: &Engine, mut batch: Vec<PendingJob>) {
    batch.retain(|pending| !pending.is_abandoned());
    let (jobs, replies): (Vec<_>, Vec<_>) = within_quota(engine, batch)
        .await
        .into_iter()
        .map(|pending| (pending.item, pending.reply))
        .unzip();
    match write(engine, &jobs, QuotaScope::Keyed).await {
        Ok(receipts) => {
            for (reply, receipt) in replies.into_iter().zip(receipts) {
                reply.send(Ok(receipt));
            }
        }
        Err(error) if jobs.len() == 1 || is_outage(&error) => {
            let mut error = Some(error);
            for reply in replies {
                let own = error
                    .take()
                    .unwrap_or(Error::Database(sqlx::Error::PoolTimedOut));
                reply.send(Err(own));
            }
        }
        Err(_) => {
            for (job, reply) in jobs.into_iter().zip(replies) {
                // The room reserved for the batch was not used: each job is counted again.
                let alone = std::slice::from_ref(&job);
                reply.send(match write(engine, alone, QuotaScope::All).await {
                    Ok(receipts) => receipts
                        .into_iter()
                        .next()
                        .ok_or_else(|| Error::Contended(job.1.kind)),
                    Err(error) => Err(error),
                });
            }
        }
    }
}

/// What is known of a tenant for which there is not room for all its jobs of a batch.
enum Shortage {
    /// Room for this many more jobs, by this count.
    Room(i64, Depth),
    /// The count failed; the error goes to the first job.
    Unknown(Error),
}

/// Returns the jobs for which their tenants' bounds leave room, in order of arrival, and refuses the
/// others. Jobs with a unique key are returned too: whether they are new is not known yet, so
/// [`Engine::insert_batch`] counts them.
async fn within_quota(engine: &Engine, batch: Vec<PendingJob>) -> Vec<PendingJob> {
    let mut wanted: HashMap<TenantId, i64> = HashMap::new();
    for (tenant, job) in batch.iter().map(|pending| &pending.item) {
        if job.unique.is_none() {
            *wanted.entry(*tenant).or_default() += 1;
        }
    }
    let mut shortages = HashMap::new();
    for (tenant, wanted) in wanted {
        if let Some(shortage) = reserve(engine, tenant, wanted).await {
            shortages.insert(tenant, shortage);
        }
    }
    if shortages.is_empty() {
        return batch;
    }
    let mut accepted = Vec::with_capacity(batch.len());
    for pending in batch {
        let (tenant, job) = &pending.item;
        let shortage = shortages.get_mut(tenant).filter(|_| job.unique.is_none());
        let refusal = match shortage {
            None => None,
            Some(Shortage::Room(0, depth)) => Some(depth.refusal()),
            Some(Shortage::Room(left, _)) => {
                *left -= 1;
                None
            }
            Some(Shortage::Unknown(error)) => {
                let next = Error::Database(sqlx::Error::PoolTimedOut);
                Some(std::mem::replace(error, next))
            }
        };
        match refusal {
            None => accepted.push(pending),
            Some(error) => pending.reply.send(Err(error)),
        }
    }
    accepted
}

/// Reserves room for up to `wanted` jobs of a tenant; `None` if there is room for all.
async fn reserve(engine: &Engine, tenant: TenantId, wanted: i64) -> Option<Shortage> {
    let reserved: Result<Option<Shortage>, Error> = async {
        let number = engine.interner().tenant_number(tenant).await?;
        if engine.quotas().allows(number, wanted) {
            return Ok(None);
        }
        let mut connection = engine.pool().acquire().await?;
        let depth = engine.quotas().count(&mut connection, number).await?;
        let room = depth.room(wanted);
        engine.quotas().add(number, room);
        Ok((room < wanted).then_some(Shortage::Room(room, depth)))
    }
    .await;
    reserved.unwrap_or_else(|error| Some(Shortage::Unknown(error)))
}

/// Writes jobs in a transaction of their own.
async fn write(
    engine: &Engine,
    jobs: &[TenantJob],
    scope: QuotaScope,
) -> Result<Vec<Receipt>, Error> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let batch = engine.prepare_batch(jobs).await?;
    if batch.is_one_statement() {
        let mut connection = engine.pool().acquire().await?;
        return engine.insert_batch(&mut connection, batch, scope).await;
    }
    let mut tx = engine.pool().begin().await?;
    let receipts = engine.insert_batch(&mut tx, batch, scope).await?;
    tx.commit().await?;
    Ok(receipts)
}

/// Whether the database, rather than a job, caused the error, so that no job can be written.
fn is_outage(error: &Error) -> bool {
    matches!(error, Error::Database(error) if is_unavailable(error))
}
