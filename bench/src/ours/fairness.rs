//! The effect of one tenant's backlog on other tenants: the waits of quiet tenants, and how even the
//! shares are.
//!
//! No tenant has a weight or a limit.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use harkara_shared::id::TenantId;
use tokio::task::JoinSet;
use tokio::time::{sleep, sleep_until};

use super::latency::number;
use super::{CountingHandler, Harkara, PAYLOAD, Rows, job};
use crate::table::count;

/// Number of quiet tenants.
const QUIET_TENANTS: usize = 500;

/// Jobs per second of all quiet tenants together.
const QUIET_RATE: u32 = 50;

/// Tenants whose shares are compared.
const SHARING_TENANTS: usize = 100;

impl Harkara {
    /// The waits of 500 quiet tenants in milliseconds, beside a tenant whose backlog drains at full speed,
    /// and the jobs per second of that drain.
    pub(crate) async fn quiet(
        &self,
        backlog: usize,
        jobs: usize,
    ) -> anyhow::Result<(Vec<f64>, f64)> {
        let tenants: Vec<TenantId> = (0..QUIET_TENANTS).map(|_| TenantId::new()).collect();
        // Tenants exist before their first job of the measure.
        for tenant in &tenants {
            self.enqueue(*tenant, vec![job(PAYLOAD)?]).await?;
        }
        self.drain(QUIET_TENANTS).await?;
        self.fill(self.tenant, backlog, Rows::Single).await?;

        let starts = Arc::new(Mutex::new(Vec::with_capacity(jobs)));
        let (kept, noisy) = (Arc::clone(&starts), self.tenant);
        let tally = CountingHandler::seeing(move |run| {
            if run.job.tenant != noisy {
                let start = (number(run), Instant::now());
                kept.lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .push(start);
            }
        });
        let working = self.start(&tally)?;
        sleep(Duration::from_millis(500)).await;
        let feeding = tokio::spawn(self.clone().feed(Arc::clone(&tally), backlog));
        let (from, before) = (tokio::time::Instant::now(), tally.ran());
        let mut called = Vec::with_capacity(jobs);
        let mut calling = JoinSet::new();
        for (n, tenant) in tenants.iter().cycle().take(jobs).enumerate() {
            sleep_until(from + Duration::from_secs(1) * u32::try_from(n)? / QUIET_RATE).await;
            called.push(Instant::now());
            let (harkara, tenant) = (self.clone(), *tenant);
            let wanted = job(&format!(r#"{{"n":{n}}}"#))?;
            calling.spawn(async move { harkara.enqueue(tenant, vec![wanted]).await });
        }
        for called in calling.join_all().await {
            called?;
        }
        let drained = count(tally.ran() - before) / from.elapsed().as_secs_f64();
        let waiting_since = Instant::now();
        while starts.lock().unwrap_or_else(PoisonError::into_inner).len() < jobs
            && waiting_since.elapsed() < Duration::from_secs(30)
        {
            sleep(Duration::from_millis(20)).await;
        }
        feeding.abort();
        working.end().await?;
        let starts = starts.lock().unwrap_or_else(PoisonError::into_inner);
        anyhow::ensure!(starts.len() == jobs, "{} of {jobs} ran", starts.len());
        let waits = starts
            .iter()
            .filter_map(|&(n, start)| Some(start.duration_since(*called.get(n?)?)))
            .map(|wait| wait.as_secs_f64() * 1000.0)
            .collect();
        Ok((waits, drained))
    }

    /// Keeps the noisy tenant's backlog from running out, at little cost.
    async fn feed(self, tally: Arc<CountingHandler>, backlog: usize) -> anyhow::Result<()> {
        let mut given = backlog;
        loop {
            if given < tally.ran() + backlog / 4 {
                self.fill(self.tenant, 20_000, Rows::Packed).await?;
                given += 20_000;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Jain's index of the starts of 100 tenants while all have a backlog, the nth tenant's being an nth of
    /// the first one's: 1 if all tenants started equally many, 0.01 if one tenant started all.
    pub(crate) async fn jain(&self, smallest: usize, rows: Rows) -> anyhow::Result<f64> {
        let tenants: Vec<TenantId> = (0..SHARING_TENANTS).map(|_| TenantId::new()).collect();
        for (rank, tenant) in tenants.iter().enumerate() {
            self.fill(*tenant, smallest * SHARING_TENANTS / (rank + 1), rows)
                .await?;
        }
        // Even shares leave every tenant with half of the smallest backlog.
        let window = SHARING_TENANTS * smallest / 2;
        let shares: Arc<HashMap<TenantId, AtomicUsize>> = Arc::new(
            tenants
                .iter()
                .map(|tenant| (*tenant, AtomicUsize::new(0)))
                .collect(),
        );
        let (counting, seen) = (Arc::clone(&shares), AtomicUsize::new(0));
        let tally = CountingHandler::seeing(move |run| {
            if seen.fetch_add(1, Ordering::Relaxed) < window
                && let Some(share) = counting.get(&run.job.tenant)
            {
                share.fetch_add(1, Ordering::Relaxed);
            }
        });
        let working = self.start(&tally)?;
        tally.reaches(window).await;
        working.end().await?;
        let shares: Vec<f64> = shares
            .values()
            .map(|share| count(share.load(Ordering::Relaxed)))
            .collect();
        let (sum, squares) = shares.iter().fold((0.0, 0.0), |(sum, squares), share| {
            (sum + share, squares + share * share)
        });
        Ok(sum * sum / (count(SHARING_TENANTS) * squares))
    }
}
