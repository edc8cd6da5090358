//! Loads the contexts of deliveries and records their attempts, batched: one transaction for many deliveries of a
//! tenant.
//!
//! All runs of `webhook.deliver` in a process share one [`DeliveryBatcher`]. It never calls an endpoint, but requests
//! access tokens from token servers.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use harkara_queue::Engine;
use harkara_shared::config::QueueConcurrency;
use harkara_shared::database::{TenantTx, is_conflict, is_unavailable, query};
use harkara_shared::egress::Egress;
use harkara_shared::id::{DeliveryId, EndpointId, TenantId};
use harkara_shared::vault::MasterKeys;
use http::HeaderValue;
use sqlx::PgPool;

use crate::attempt::{self, FinishedAttempt};
use crate::batcher::Batcher;
use crate::delivery_context::{Credentials, DeliveryContext, Target, load_contexts};
use crate::delivery_job::QUEUE;
use crate::error::Error;
use crate::health::{self, HealthEffects};
use crate::retry_slots::{RetrySlot, RetrySlots};
use crate::token::{NoToken, Tokens};
use crate::{endpoint, lane, stats};

/// Shared by all runs of `webhook.deliver` in a process. Cheap to clone; clones share the same state.
#[derive(Clone)]
pub struct DeliveryBatcher(Arc<Inner>);

struct Inner {
    resources: Resources,
    load_contexts: Batcher<TenantId, DeliveryId, Option<DeliveryContext>, Error>,
    records: Batcher<TenantId, Arc<FinishedAttempt>, (), Error>,
    tokens: Tokens,
    retry_slots: RetrySlots,
}

/// Dependencies of loading and recording.
#[derive(Clone)]
struct Resources {
    pool: PgPool,
    engine: Engine,
    keys: MasterKeys,
}

impl std::fmt::Debug for DeliveryBatcher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeliveryBatcher").finish_non_exhaustive()
    }
}

impl DeliveryBatcher {
    /// A batcher of a process that runs up to `slots` deliveries at once. Deliveries that have failed more than once
    /// can take half of the slots, and those of one tenant half of these.
    #[must_use]
    pub fn new(pool: PgPool, engine: Engine, keys: MasterKeys, slots: u32) -> Self {
        Self(Arc::new(Inner {
            resources: Resources { pool, engine, keys },
            load_contexts: Batcher::default(),
            records: Batcher::default(),
            tokens: Tokens::default(),
            retry_slots: RetrySlots::new(slots),
        }))
    }

    /// The batcher of a worker that serves these queues.
    #[must_use]
    pub fn of_worker(
        pool: PgPool,
        engine: Engine,
        keys: MasterKeys,
        queues: &[QueueConcurrency],
    ) -> Self {
        let served = queues.iter().find(|served| served.queue == QUEUE);
        let slots = served.map_or(1, |served| served.concurrency);
        Self::new(pool, engine, keys, slots)
    }

    /// Takes a slot for a delivery that has failed more than once; `None` when all are taken. The other slots of the
    /// worker stay free for first attempts.
    #[must_use]
    pub fn take_retry_slot(&self, tenant: TenantId) -> Option<RetrySlot> {
        self.0.retry_slots.take(tenant)
    }

    /// Loads the context of a delivery; `None` when the delivery does not exist.
    ///
    /// # Errors
    /// When the database refuses or a secret cannot be opened.
    pub async fn load_context(
        &self,
        tenant: TenantId,
        id: DeliveryId,
    ) -> Result<Option<DeliveryContext>, Arc<Error>> {
        let resources = self.0.resources.clone();
        let load = move |ids: Vec<DeliveryId>| {
            let resources = resources.clone();
            async move {
                let mut tx = TenantTx::begin(&resources.pool, tenant).await?;
                let contexts = load_contexts(&mut tx, &resources.keys, &ids).await?;
                tx.commit().await?;
                Ok(contexts)
            }
        };
        unwrap_shared(self.0.load_contexts.call(tenant, id, load).await)
    }

    /// Records an attempt and its effects. Retries while the database is briefly unavailable: the receiver has seen the
    /// request, and without a record it would be made again.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn record(
        &self,
        tenant: TenantId,
        attempt: FinishedAttempt,
    ) -> Result<(), Arc<Error>> {
        let resources = self.0.resources.clone();
        let write = move |attempts: Vec<Arc<FinishedAttempt>>| {
            let resources = resources.clone();
            async move {
                let backoff = ExponentialBuilder::default()
                    .with_min_delay(Duration::from_millis(50))
                    .with_max_delay(Duration::from_secs(1))
                    .with_max_times(6);
                let is_transient = |error: &Error| match error {
                    Error::Database(error) => is_unavailable(error) || is_conflict(error),
                    _ => false,
                };
                let write = || write(&resources, tenant, &attempts);
                write.retry(backoff).when(is_transient).await?;
                Ok(attempts.iter().map(|_| ()).collect())
            }
        };
        unwrap_shared(self.0.records.call(tenant, Arc::new(attempt), write).await)
    }

    /// The `Authorization` header for an endpoint with OAuth 2.0 credentials.
    ///
    /// # Errors
    /// [`NoToken`].
    pub async fn bearer(
        &self,
        egress: &Egress,
        target: &Target,
        credentials: &Credentials,
        timeout: Duration,
    ) -> Result<HeaderValue, NoToken> {
        let tokens = &self.0.tokens;
        tokens.bearer(egress, target, credentials, timeout).await
    }

    /// Discards the access token of an endpoint, which rejected it.
    pub fn forget_token(&self, endpoint: EndpointId) {
        self.0.tokens.forget(endpoint);
    }
}

fn unwrap_shared<T>(result: Result<T, Option<Arc<Error>>>) -> Result<T, Arc<Error>> {
    // `None` when the call panicked or the runtime is shutting down.
    let lost = || Arc::new(Error::Database(sqlx::Error::WorkerCrashed));
    result.map_err(|error| error.unwrap_or_else(lost))
}

/// Records attempts of one tenant in one transaction. A statement records at most one attempt of each delivery.
async fn write(
    resources: &Resources,
    tenant: TenantId,
    attempts: &[Arc<FinishedAttempt>],
) -> Result<(), Error> {
    let mut remaining: Vec<&Arc<FinishedAttempt>> = attempts.iter().collect();
    remaining.sort_by_key(|attempt| attempt.delivery);
    let mut tx = TenantTx::begin(&resources.pool, tenant).await?;
    // Flushed with the outcome of the run, which is committed durably afterwards. Until then a crash repeats the
    // delivery, whether its attempt is recorded or not.
    query("set local synchronous_commit = off")
        .execute(&mut *tx)
        .await?;
    // Rows are locked in one order by all workers: deliveries, hours of statistics, endpoints.
    let mut recorded: Vec<FinishedAttempt> = Vec::with_capacity(attempts.len());
    let mut attempt_numbers: HashMap<DeliveryId, i32> = HashMap::new();
    while !remaining.is_empty() {
        let mut batch: Vec<FinishedAttempt> = Vec::with_capacity(remaining.len());
        remaining.retain(|attempt| {
            let is_new = batch
                .last()
                .is_none_or(|last| last.delivery != attempt.delivery);
            if is_new {
                batch.push(FinishedAttempt::clone(attempt));
            }
            !is_new
        });
        let numbers = attempt::record(&mut tx, &batch).await?;
        batch.retain(|attempt| numbers.contains_key(&attempt.delivery));
        recorded.extend(batch);
        attempt_numbers.extend(numbers);
    }
    stats::add(&mut tx, &recorded).await?;
    let effects = health::apply(&mut tx, &resources.engine, &recorded, &attempt_numbers).await?;
    tx.commit().await?;
    if let Err(error) = apply_to_queue(resources, tenant, &effects).await {
        // Not lost: waiting deliveries check their endpoint when they are due, and rates are applied again every night.
        tracing::warn!(%error, tenant = %tenant, "could not apply endpoint changes to the queue; they will be applied later");
    }
    Ok(())
}

/// Applies the endpoints' changed rates to the queue and runs the waiting jobs of disabled ones, which then skip their
/// deliveries. Called after the commit, because concurrent calls of `record` wait for the locks of its transaction.
async fn apply_to_queue(
    resources: &Resources,
    tenant: TenantId,
    effects: &HealthEffects,
) -> Result<(), Error> {
    for id in &effects.rate_changed {
        let mut tx = TenantTx::begin(&resources.pool, tenant).await?;
        let endpoint = endpoint::find_endpoint(&mut tx, *id).await?;
        tx.commit().await?;
        if let Some(endpoint) = endpoint {
            lane::apply_limits(&resources.engine, tenant, &endpoint).await?;
        }
    }
    for id in &effects.disabled {
        let mut tx = TenantTx::begin(&resources.pool, tenant).await?;
        endpoint::run_now(&mut tx, &resources.engine, *id).await?;
        tx.commit().await?;
    }
    Ok(())
}
