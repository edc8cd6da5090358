//! Room: the clerk of a process: what all runs of `webhook.deliver` in it share.
//! Takes: deliveries to be made, attempts that were made, one by one. Gives: what a run needs, and the
//! record, each by one transaction for all of a tenant's that were there at the time.
//! Never: makes a request to an endpoint.

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
use crate::retry_slots::{RetrySlot, RetrySlots};
use crate::token::{NoToken, Tokens};
use crate::{endpoint, health, lane, stats};

/// The clerk. Cheap to clone; clones are the same clerk.
#[derive(Clone)]
pub struct DeliveryBatcher(Arc<Inner>);

struct Inner {
    resources: Resources,
    load_contexts: Batcher<TenantId, DeliveryId, Option<DeliveryContext>, Error>,
    records: Batcher<TenantId, Arc<FinishedAttempt>, (), Error>,
    tokens: Tokens,
    late: RetrySlots,
}

/// What the clerk works with.
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
    /// A clerk of a process with so many `places` for deliveries: half of them may be taken by such as have
    /// failed more than once, and half of those by one tenant's.
    #[must_use]
    pub fn new(pool: PgPool, engine: Engine, keys: MasterKeys, places: u32) -> Self {
        Self(Arc::new(Inner {
            resources: Resources { pool, engine, keys },
            load_contexts: Batcher::default(),
            records: Batcher::default(),
            tokens: Tokens::default(),
            late: RetrySlots::new(places),
        }))
    }

    /// The clerk of a worker that serves these queues.
    #[must_use]
    pub fn of_worker(
        pool: PgPool,
        engine: Engine,
        keys: MasterKeys,
        queues: &[QueueConcurrency],
    ) -> Self {
        let served = queues.iter().find(|served| served.queue == QUEUE);
        let places = served.map_or(1, |served| served.concurrency);
        Self::new(pool, engine, keys, places)
    }

    /// A place for a delivery that has failed more than once; `None` when those are taken, so that a place
    /// is left for one that is made for the first time.
    #[must_use]
    pub fn take_retry_slot(&self, tenant: TenantId) -> Option<RetrySlot> {
        self.0.late.take(tenant)
    }

    /// All that is needed to deliver; `None` when there is no such delivery.
    ///
    /// # Errors
    /// When the database refuses or a secret cannot be opened.
    pub async fn context(
        &self,
        tenant: TenantId,
        id: DeliveryId,
    ) -> Result<Option<DeliveryContext>, Arc<Error>> {
        let resources = self.0.resources.clone();
        let load = move |ids: Vec<DeliveryId>| {
            let resources = resources.clone();
            async move {
                let mut tx = TenantTx::begin(&resources.pool, tenant).await?;
                let found = load_contexts(&mut tx, &resources.keys, &ids).await?;
                tx.commit().await?;
                Ok(found)
            }
        };
        told(self.0.load_contexts.ask(tenant, id, load).await)
    }

    /// Records a request that was made, and what follows from it. The receiver has seen it, so a database
    /// that is away for a moment is waited for: giving up has the request made again.
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
                let patience = ExponentialBuilder::default()
                    .with_min_delay(Duration::from_millis(50))
                    .with_max_delay(Duration::from_secs(1))
                    .with_max_times(6);
                let is_passing = |error: &Error| match error {
                    Error::Database(error) => is_unavailable(error) || is_conflict(error),
                    _ => false,
                };
                let write = || write(&resources, tenant, &attempts);
                write.retry(patience).when(is_passing).await?;
                Ok(attempts.iter().map(|_| ()).collect())
            }
        };
        told(self.0.records.ask(tenant, Arc::new(attempt), write).await)
    }

    /// The `Authorization` header that an endpoint wants.
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

    /// Forgets a token that an endpoint does not take.
    pub fn forget_token(&self, endpoint: EndpointId) {
        self.0.tokens.forget(endpoint);
    }
}

fn told<T>(answer: Result<T, Option<Arc<Error>>>) -> Result<T, Arc<Error>> {
    // Nothing is answered when the runtime shuts down, or the work panicked.
    let gone = || Arc::new(Error::Database(sqlx::Error::WorkerCrashed));
    answer.map_err(|error| error.unwrap_or_else(gone))
}

/// Records attempts of one tenant. Two of one delivery do not go into one statement.
async fn write(
    resources: &Resources,
    tenant: TenantId,
    attempts: &[Arc<FinishedAttempt>],
) -> Result<(), Error> {
    let mut left: Vec<&Arc<FinishedAttempt>> = attempts.iter().collect();
    left.sort_by_key(|attempt| attempt.delivery);
    let mut tx = TenantTx::begin(&resources.pool, tenant).await?;
    // Lasting as soon as what follows it in the log is: how the run ended, which is written durably after
    // this. Until then the delivery is made again after a crash, recorded or not.
    query("set local synchronous_commit = off")
        .execute(&mut *tx)
        .await?;
    let (mut paces, mut disabled) = (Vec::new(), Vec::new());
    while !left.is_empty() {
        let mut turn: Vec<FinishedAttempt> = Vec::with_capacity(left.len());
        left.retain(|attempt| {
            let is_new = turn
                .last()
                .is_none_or(|last| last.delivery != attempt.delivery);
            if is_new {
                turn.push(FinishedAttempt::clone(attempt));
            }
            !is_new
        });
        let numbers = attempt::record(&mut tx, &turn).await?;
        turn.retain(|attempt| numbers.contains_key(&attempt.delivery));
        stats::add(&mut tx, &turn).await?;
        let follows = health::note(&mut tx, &resources.engine, &turn, &numbers).await?;
        paces.extend(follows.paces);
        disabled.extend(follows.disabled);
    }
    tx.commit().await?;
    if let Err(error) = follow_up(resources, tenant, &paces, &disabled).await {
        // Neither is lost: what waits finds out when it is due, and paces are set anew every night.
        tracing::warn!(%error, "what follows from deliveries is left for later");
    }
    Ok(())
}

/// Has endpoints called as often as they stand now, and what waits for those that are disabled skipped. After
/// the record, whose locks everybody waits for.
async fn follow_up(
    resources: &Resources,
    tenant: TenantId,
    paces: &[EndpointId],
    disabled: &[EndpointId],
) -> Result<(), Error> {
    for id in paces {
        let mut tx = TenantTx::begin(&resources.pool, tenant).await?;
        let found = endpoint::endpoint(&mut tx, *id).await?;
        tx.commit().await?;
        if let Some(found) = found {
            lane::apply(&resources.engine, tenant, &found).await?;
        }
    }
    for id in disabled {
        let mut tx = TenantTx::begin(&resources.pool, tenant).await?;
        endpoint::run_now(&mut tx, &resources.engine, *id).await?;
        tx.commit().await?;
    }
    Ok(())
}
