//! Harkara's drains: of an empty table, beside a backlog, a history, a held snapshot.
//!
//! Returns jobs per second. Where all jobs are run, the clock stops only when the last outcome is
//! durable.

use std::time::Instant;

use anyhow::ensure;
use harkara_shared::database::query_scalar;

use super::{CountingHandler, Harkara, Rows};
use crate::arena::{Snapshot, vacuum};
use crate::table::rate;

impl Harkara {
    /// Runs all `jobs` jobs of the table; jobs per second from the worker's start to its end.
    pub(crate) async fn drain(&self, jobs: usize) -> anyhow::Result<f64> {
        let tally = CountingHandler::new();
        let from = Instant::now();
        let working = self.start(&tally)?;
        tally.reaches(jobs).await;
        working.end().await?;
        Ok(rate(jobs, from.elapsed()))
    }

    /// Runs the first `jobs` of more jobs; jobs per second until the last of them has run.
    pub(crate) async fn drain_first(&self, jobs: usize) -> anyhow::Result<f64> {
        let tally = CountingHandler::new();
        let from = Instant::now();
        let working = self.start(&tally)?;
        tally.reaches(jobs).await;
        let took = from.elapsed();
        working.end().await?;
        Ok(rate(jobs, took))
    }

    /// Checks that waiting jobs have the expected layout.
    pub(crate) async fn check(&self, jobs: usize, rows: Rows) -> anyhow::Result<()> {
        if rows == Rows::Single {
            let found: i64 = query_scalar("select count(*) from queue.parcels where state = 'a'")
                .fetch_one(self.engine.pool())
                .await?;
            ensure!(
                usize::try_from(found)? == jobs,
                "{found} rows for {jobs} jobs that should be one row each"
            );
        }
        Ok(())
    }

    /// Drains new jobs after `dead` jobs were run. With `held`, a snapshot prevents that their dead row
    /// versions are removed.
    pub(crate) async fn drain_after(
        &self,
        dead: usize,
        jobs: usize,
        rows: Rows,
        held: bool,
    ) -> anyhow::Result<f64> {
        let snapshot = if held {
            Some(Snapshot::take(&self.url).await?)
        } else {
            None
        };
        self.fill(self.tenant, dead, rows).await?;
        self.drain(dead).await?;
        vacuum(&self.url).await?;
        self.fill(self.tenant, jobs, rows).await?;
        let drained = self.drain(jobs).await;
        if let Some(snapshot) = snapshot {
            snapshot.release().await;
        }
        drained
    }
}
