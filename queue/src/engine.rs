//! The handle of the queue engine, on which the other modules of this crate define its operations.
//!
//! Holds connections, caches and background state of one process; nothing that another process would
//! need to know.

use std::sync::Arc;
use std::time::Duration;

use harkara_shared::audit::AuditNote;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool};

use crate::interner::Interner;
use crate::quota::Quotas;
use crate::rollup::RollupState;

/// How long an unused connection for interning names is kept: new names come in bursts.
const INTERNING_IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The queue engine of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    /// Recorded in the audit log with each change of settings.
    audit_note: Option<Arc<AuditNote>>,
}

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    interner: Interner,
    quotas: Quotas,
    notify: bool,
    rollup: RollupState,
}

impl Engine {
    /// Returns an engine that works on `pool`, whose login must be able to read and write the rows of
    /// all tenants. Without `notify`, the engine sends no notifications and workers find jobs by
    /// polling alone.
    ///
    /// Names seen for the first time are interned on at most two connections outside the pool: a
    /// caller enqueues on a connection of the pool, and if every connection were held by a caller
    /// that needs a second one, all of them would wait for each other.
    #[must_use]
    pub fn new(pool: PgPool, notify: bool) -> Self {
        let interning_pool = PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(pool.options().get_acquire_timeout())
            .idle_timeout(INTERNING_IDLE_TIMEOUT)
            .connect_lazy_with(pool.connect_options().as_ref().clone());
        let interner = Interner::new(interning_pool);
        Self {
            inner: Arc::new(Inner {
                pool,
                interner,
                quotas: Quotas::default(),
                notify,
                rollup: RollupState::default(),
            }),
            audit_note: None,
        }
    }

    /// Returns this engine for one change of settings, which records `note` in the audit log in the
    /// transaction that makes the change.
    #[must_use]
    pub fn with_audit(&self, note: AuditNote) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            audit_note: Some(Arc::new(note)),
        }
    }

    /// Records the note given to [`Engine::with_audit`], if any, on `connection`.
    pub(crate) async fn record_audit(
        &self,
        connection: &mut PgConnection,
    ) -> Result<(), sqlx::Error> {
        match &self.audit_note {
            Some(note) => note.record(connection).await,
            None => Ok(()),
        }
    }

    /// The pool the engine works on.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.inner.pool
    }

    pub(crate) fn interner(&self) -> &Interner {
        &self.inner.interner
    }

    pub(crate) fn quotas(&self) -> &Quotas {
        &self.inner.quotas
    }

    /// Whether notifications are sent and listened for.
    pub(crate) fn notify(&self) -> bool {
        self.inner.notify
    }

    /// Has the counter deltas that this process has written rolled up soon. Must be called on a Tokio
    /// runtime.
    pub(crate) fn schedule_rollup(&self) {
        self.inner.rollup.schedule(&self.inner.pool);
    }
}
