//! Enqueues jobs: writes them into parcels (rows of up to 500 jobs) and assigns each job its id.
//!
//! Takes [`NewJob`]s that the caller has checked, and the caller's connection. Never opens or commits
//! the caller's transaction: without its commit there is no job.

mod coalescer;
mod draft;
mod insert;
mod pack;
mod quota_scope;
mod receipt;
mod unique_keys;

use std::collections::HashMap;

use harkara_shared::id::TenantId;
use harkara_shared::telemetry::metric;
use sqlx::PgConnection;

use crate::engine::Engine;
use crate::error::Error;
use crate::job::{Enqueued, NewJob};
pub use coalescer::Coalescer;
use draft::{Draft, Placement, PreparedBatch};
use quota_scope::{NewCount, QuotaScope};
pub use receipt::{Inserted, Quota, Receipt};

impl Engine {
    /// Enqueues one job in the caller's transaction. See [`Engine::enqueue_all`].
    ///
    /// # Errors
    /// As [`Engine::enqueue_all`].
    pub async fn enqueue(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        job: NewJob,
        quota: Quota,
    ) -> Result<Enqueued, Error> {
        let kind = job.kind.clone();
        let answers = self
            .enqueue_all(connection, tenant, vec![job], quota)
            .await?;
        answers.into_iter().next().ok_or(Error::Contended(kind))
    }

    /// Enqueues jobs in the caller's transaction, in their order: all of them, or none if this fails or
    /// the caller rolls back. Returns one entry per job. A job whose unique key is taken, by a stored job
    /// or by an earlier job of the same call, gets the id of the job that holds the key.
    ///
    /// # Errors
    /// When a statement fails; [`Error::Contended`] when the holder of a unique key cannot be
    /// determined; under [`Quota::Enforce`], [`Error::DepthQuota`] when the tenant would exceed its
    /// bound of waiting jobs. The caller then rolls back.
    pub async fn enqueue_all(
        &self,
        connection: &mut PgConnection,
        tenant: TenantId,
        jobs: Vec<NewJob>,
        quota: Quota,
    ) -> Result<Vec<Enqueued>, Error> {
        let jobs: Vec<(TenantId, NewJob)> = jobs.into_iter().map(|job| (tenant, job)).collect();
        let batch = self.prepare_batch(&jobs).await?;
        let scope = match quota {
            Quota::Enforce => QuotaScope::All,
            Quota::Skip => QuotaScope::None,
        };
        let receipts = self.insert_batch(connection, batch, scope).await?;
        Ok(receipts.into_iter().map(|receipt| receipt.job).collect())
    }

    /// Writes prepared jobs, as [`Engine::enqueue_all`] describes; the jobs may belong to several
    /// tenants. Returns one receipt per job, in their order.
    async fn insert_batch(
        &self,
        connection: &mut PgConnection,
        batch: PreparedBatch<'_>,
        scope: QuotaScope,
    ) -> Result<Vec<Receipt>, Error> {
        let PreparedBatch {
            jobs,
            mut drafts,
            parcels,
        } = batch;
        unique_keys::take(connection, &mut drafts).await?;
        for (tenant, NewCount { counted, reserved }) in scope.count_new(&drafts) {
            let quotas = self.quotas();
            quotas
                .require(connection, tenant, counted, reserved)
                .await?;
        }
        let inserted =
            insert::insert_parcels(connection, self.notify(), &mut drafts, parcels).await?;
        insert::insert_labels(connection, jobs, &drafts).await?;
        count_enqueued(jobs, &drafts);
        self.schedule_rollup();
        // An earlier job of the same call precedes the one that repeats its key.
        let mut receipts: Vec<Receipt> = Vec::with_capacity(drafts.len());
        for draft in &drafts {
            let existing = |job| Receipt {
                job: Enqueued::Existing(job),
                inserted: None,
            };
            let receipt = match draft.placement {
                Placement::New { job, parcel } => Some(Receipt {
                    job: Enqueued::New(job),
                    inserted: inserted.get(parcel).cloned(),
                }),
                Placement::Existing(job) => Some(existing(job)),
                Placement::Repeats(earlier) => {
                    receipts.get(earlier).map(|first| existing(first.job.id()))
                }
                Placement::Undecided | Placement::OwnParcel(_) => None,
            };
            receipts.push(receipt.ok_or_else(|| draft.not_placed())?);
        }
        Ok(receipts)
    }
}

/// Adds new jobs to the metric of enqueued jobs, by kind.
fn count_enqueued(jobs: &[(TenantId, NewJob)], drafts: &[Draft]) {
    let mut new: HashMap<&str, u64> = HashMap::new();
    for ((_, job), draft) in jobs.iter().zip(drafts) {
        if matches!(draft.placement, Placement::New { .. }) {
            *new.entry(job.kind.as_str()).or_default() += 1;
        }
    }
    for (kind, jobs) in new {
        metrics::counter!(metric::JOBS_ENQUEUED, "kind" => kind.to_owned()).increment(jobs);
    }
}
