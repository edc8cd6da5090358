//! Room: what handlers work with.
//! Takes: pool, queue, keys and clients made at start-up. Gives: them.
//! Never: holds anything that another process would need to know.

use std::sync::Arc;

use harkara_queue::Engine;
use harkara_shared::database::TenantTx;
use harkara_shared::egress::Egress;
use harkara_shared::id::TenantId;
use harkara_shared::process::Readiness;
use harkara_shared::vault::MasterKeys;
use sqlx::PgPool;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::task::TaskTracker;

use crate::auth::Keyring;
use crate::cursor::Cursors;
use crate::problem::Problem;

/// Shared by all requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ApiState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    engine: Engine,
    keys: MasterKeys,
    egress: Egress,
    readiness: Readiness,
    keyring: Keyring,
    cursors: Cursors,
    in_flight: TaskTracker,
    enqueuers: Arc<Semaphore>,
}

/// Connections that transactions in which jobs are enqueued leave to others.
const LEFT_TO_OTHERS: u32 = 2;

impl ApiState {
    /// The state of an API on `pool`, whose login works across tenants.
    #[must_use]
    pub fn new(
        pool: PgPool,
        engine: Engine,
        keys: MasterKeys,
        egress: Egress,
        readiness: Readiness,
    ) -> Self {
        let enqueuers = pool
            .options()
            .get_max_connections()
            .saturating_sub(LEFT_TO_OTHERS)
            .max(1);
        Self(Arc::new(Inner {
            enqueuers: Arc::new(Semaphore::new(usize::try_from(enqueuers).unwrap_or(1))),
            keyring: Keyring::new(pool.clone(), &keys),
            cursors: Cursors::new(&keys),
            in_flight: TaskTracker::new(),
            pool,
            engine,
            keys,
            egress,
            readiness,
        }))
    }

    /// A transaction of the tenant.
    pub(crate) async fn begin(&self, tenant: TenantId) -> Result<TenantTx, Problem> {
        Ok(TenantTx::begin(&self.0.pool, tenant).await?)
    }

    /// A transaction of the tenant in which jobs are enqueued.
    ///
    /// The engine makes the names it meets for the first time on a connection of its own. If all
    /// connections were held by transactions that wait for one more, none would ever go on.
    pub(crate) async fn begin_enqueue(&self, tenant: TenantId) -> Result<EnqueueTx, Problem> {
        let permit = Arc::clone(&self.0.enqueuers).acquire_owned().await;
        let permit = permit.map_err(Problem::internal)?;
        Ok(EnqueueTx {
            tx: self.begin(tenant).await?,
            _permit: permit,
        })
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    pub(crate) fn keys(&self) -> &MasterKeys {
        &self.0.keys
    }

    pub(crate) fn egress(&self) -> &Egress {
        &self.0.egress
    }

    pub(crate) fn readiness(&self) -> &Readiness {
        &self.0.readiness
    }

    pub(crate) fn keyring(&self) -> &Keyring {
        &self.0.keyring
    }

    pub(crate) fn cursors(&self) -> &Cursors {
        &self.0.cursors
    }

    /// Counts the requests that are being answered.
    pub(crate) fn in_flight(&self) -> &TaskTracker {
        &self.0.in_flight
    }
}

/// A tenant's transaction, counted among those that enqueue as long as it lives.
#[derive(Debug)]
pub(crate) struct EnqueueTx {
    pub(crate) tx: TenantTx,
    _permit: OwnedSemaphorePermit,
}
