//! Room: what handlers work with.
//! Takes: pool, queue, keys and clients made at start-up. Gives: them.
//! Never: holds anything that another process would need to know.

use std::sync::{Arc, OnceLock};

use harkara_queue::{Coalescer, Engine};
use harkara_shared::config::HttpSettings;
use harkara_shared::database::TenantTx;
use harkara_shared::egress::Egress;
use harkara_shared::process::Readiness;
use harkara_shared::vault::MasterKeys;
use sqlx::{PgPool, Postgres, Transaction};
use tokio_util::task::TaskTracker;

use crate::auth::{Caller, Keyring};
use crate::cursor::Cursors;
use crate::problem::Problem;

/// Shared by all requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ApiState(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    engine: Engine,
    /// Made by the first request that needs it, on the runtime of that request.
    coalescer: OnceLock<Coalescer>,
    keys: MasterKeys,
    egress: Egress,
    readiness: Readiness,
    keyring: Keyring,
    cursors: Cursors,
    in_flight: TaskTracker,
    http: HttpSettings,
}

impl ApiState {
    /// The state of an API on `pool`, whose login works across tenants.
    #[must_use]
    pub fn new(
        pool: PgPool,
        engine: Engine,
        keys: MasterKeys,
        egress: Egress,
        readiness: Readiness,
        http: HttpSettings,
    ) -> Self {
        Self(Arc::new(Inner {
            keyring: Keyring::new(pool.clone(), &keys),
            cursors: Cursors::new(&keys),
            in_flight: TaskTracker::new(),
            pool,
            engine,
            coalescer: OnceLock::new(),
            keys,
            egress,
            readiness,
            http,
        }))
    }

    /// A transaction of the tenant that the caller acts for. With it the request's idempotency key, if it
    /// bears one, is used up.
    pub(crate) async fn begin(&self, caller: &Caller) -> Result<TenantTx, Problem> {
        let mut tx = TenantTx::begin(&self.0.pool, caller.tenant).await?;
        caller.mark(&mut tx).await?;
        Ok(tx)
    }

    /// A transaction across tenants, for what concerns more than one. It uses up the idempotency key, too.
    pub(crate) async fn begin_across(
        &self,
        caller: &Caller,
    ) -> Result<Transaction<'static, Postgres>, Problem> {
        let mut tx = self.0.pool.begin().await?;
        caller.mark(&mut tx).await?;
        Ok(tx)
    }

    /// How the API is reached, and by whom.
    pub(crate) fn http(&self) -> &HttpSettings {
        &self.0.http
    }

    /// For what is looked up before, or across, tenants.
    pub(crate) fn pool(&self) -> &PgPool {
        &self.0.pool
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Enqueues single jobs of requests that come at the same time together.
    pub(crate) fn coalescer(&self) -> &Coalescer {
        self.0
            .coalescer
            .get_or_init(|| Coalescer::new(&self.0.engine))
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
