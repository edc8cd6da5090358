//! Room: the folding of counters.
//! Takes: word that something was counted. Gives: it added up, about a second later; counters set right,
//! and what is wrong with them. Never: holds up those who count, or does anything while nobody does.
//!
//! Whoever changes jobs appends to `queue.deltas` how many became what, in the same transaction. Any
//! process that did so folds, at most once a second: adds these rows to `queue.tallies` and
//! `queue.history` and removes them. Readers add what is not folded yet, so that they are exact whether
//! anybody folds or not.

use std::sync::{Arc, OnceLock};
use std::time::Duration;

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::telemetry::metric;
use sqlx::PgPool;
use tokio::sync::Notify;
use tokio_util::task::AbortOnDropHandle;

use crate::engine::{Engine, Error};

/// Time between two folds of one process.
const TURN: Duration = Duration::from_secs(1);

/// Most rows of one fold: about half a second of work.
const MOST: i32 = 100_000;

/// When to fold, and the task that does. Ends with the engine.
#[derive(Debug, Default)]
pub(crate) struct Folding {
    counted: Arc<Notify>,
    task: OnceLock<AbortOnDropHandle<()>>,
}

/// A counter that is wrong: of one kind of a tenant's jobs in a queue, all given by their numbers.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct Drift {
    /// Tenant.
    pub tenant: i32,
    /// Queue.
    pub queue: i32,
    /// Kind.
    pub kind: i32,
    /// Scheduled, ready, running or dead.
    pub state: String,
    /// What the counter says.
    pub told: i64,
    /// What is there.
    pub counted: i64,
}

impl Engine {
    /// Says that this process has counted something, or is about to commit it. Costs nothing. To be
    /// called on a Tokio runtime.
    pub(crate) fn counted(&self) {
        let folding = self.folding();
        folding.counted.notify_one();
        folding.task.get_or_init(|| {
            let task = run(self.pool().clone(), Arc::clone(&folding.counted));
            AbortOnDropHandle::new(tokio::spawn(task))
        });
    }

    /// Adds up what was counted since this was last done, by whomever. Processes that change jobs do so
    /// by themselves.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn fold(&self) -> Result<(), Error> {
        Ok(fold(self.pool()).await?)
    }

    /// Counts all jobs that have not finished and sets the counters right; answers how many were
    /// wrong. Others go on meanwhile.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn recount(&self) -> Result<i64, Error> {
        Ok(query_scalar(include_str!("sql/recount.sql"))
            .fetch_one(self.pool())
            .await?)
    }

    /// The counters that are wrong at one moment: none, unless somebody wrote jobs past the engine.
    /// Counts all jobs that have not finished.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn drift(&self) -> Result<Vec<Drift>, Error> {
        Ok(query_as(include_str!("sql/drift.sql"))
            .fetch_all(self.pool())
            .await?)
    }
}

async fn run(pool: PgPool, counted: Arc<Notify>) {
    loop {
        counted.notified().await;
        // The second time for what was committed only after it was told of.
        for _ in 0..2 {
            tokio::time::sleep(TURN).await;
            if let Err(error) = fold(&pool).await {
                metrics::counter!(metric::ENGINE_RETRIES, "statement" => "fold").increment(1);
                tracing::warn!(%error, "cannot add up counters: trying again");
                counted.notify_one();
            }
        }
    }
}

async fn fold(pool: &PgPool) -> Result<(), sqlx::Error> {
    loop {
        let taken: Option<i32> = query_scalar(include_str!("sql/fold.sql"))
            .bind(MOST)
            .fetch_one(pool)
            .await?;
        if taken.is_none_or(|taken| taken < MOST) {
            return Ok(());
        }
    }
}
