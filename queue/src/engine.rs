//! Room: the engine's handle, which the other rooms of this crate hang their verbs on.
//! Takes: a pool whose login may work across tenants. Gives: [`Engine`], cheap to clone.
//! Never: holds state that another process would need to know.

use std::sync::Arc;
use std::time::Duration;

use harkara_shared::audit::AuditNote;
use sqlx::postgres::PgPoolOptions;
use sqlx::{PgConnection, PgPool};

use crate::enqueue::Quotas;
use crate::fold::Folding;
use crate::names::Names;

/// How long a connection for new names is kept: they come in bursts, at first uses.
const NAMES_IDLE: Duration = Duration::from_secs(30);

/// What the engine's verbs answer with when they cannot do their work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused or is not there.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// A job's parts could not be written as JSON.
    #[error("a job cannot be written: {0}")]
    Encode(#[from] serde_json::Error),
    /// A row holds what no release of Harkara writes.
    #[error("row of job {job}: {reason}")]
    Corrupt {
        /// The row's job id as a number.
        job: i64,
        /// What is wrong with it.
        reason: String,
    },
    /// A unique key changed hands again and again while a job was to take it.
    #[error("the unique key `{0}` is contended: try again")]
    Contended(String),
    /// As many jobs of the tenant wait as may.
    #[error(
        "{waiting} of at most {most} jobs wait already (max_waiting): try again when some have run"
    )]
    DepthQuota {
        /// How many may.
        most: u64,
        /// How many do.
        waiting: u64,
    },
}

/// The queue engine of one database.
#[derive(Debug, Clone)]
pub struct Engine {
    inner: Arc<Inner>,
    /// Goes into the audit log with what is steered.
    note: Option<Arc<AuditNote>>,
}

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    names: Names,
    quotas: Quotas,
    notify: bool,
    folding: Folding,
}

impl Engine {
    /// An engine on `pool`. Without `notify` workers find work by polling alone.
    ///
    /// Names that are met for the first time are made on one or two connections beside the pool: a
    /// caller enqueues on a connection of the pool, and if all were held by callers who wait for
    /// one more, none would ever go on.
    #[must_use]
    pub fn new(pool: PgPool, notify: bool) -> Self {
        let beside = PgPoolOptions::new()
            .max_connections(2)
            .acquire_timeout(pool.options().get_acquire_timeout())
            .idle_timeout(NAMES_IDLE)
            .connect_lazy_with(pool.connect_options().as_ref().clone());
        let names = Names::new(beside);
        Self {
            inner: Arc::new(Inner {
                pool,
                names,
                quotas: Quotas::default(),
                notify,
                folding: Folding::default(),
            }),
            note: None,
        }
    }

    /// This engine for one change of settings, which puts `note` into the audit log in the transaction
    /// that makes it.
    #[must_use]
    pub fn noting(&self, note: AuditNote) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
            note: Some(Arc::new(note)),
        }
    }

    pub(crate) async fn record(&self, connection: &mut PgConnection) -> Result<(), sqlx::Error> {
        match &self.note {
            Some(note) => note.record(connection).await,
            None => Ok(()),
        }
    }

    /// The pool the engine works on.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.inner.pool
    }

    pub(crate) fn names(&self) -> &Names {
        &self.inner.names
    }

    pub(crate) fn folding(&self) -> &Folding {
        &self.inner.folding
    }

    pub(crate) fn quotas(&self) -> &Quotas {
        &self.inner.quotas
    }

    pub(crate) fn notify(&self) -> bool {
        self.inner.notify
    }
}
