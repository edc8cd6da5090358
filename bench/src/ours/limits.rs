//! Whether a tenant's limit holds exactly over two workers: the most starts in any window, and the average
//! rate.
//!
//! Never relies on the engine's own counters: each handler records when its job was started by the
//! database's clock, as any user can read it, and when the handler itself began.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use harkara_queue::settings::{LimitChange, Rate, TenantChange};
use harkara_shared::clock;

use super::{CountingHandler, Harkara, Rows};
use crate::table::count;

/// A limit on the starts of a tenant's jobs.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limit {
    /// Starts per period.
    pub(crate) starts: u32,
    /// The period.
    pub(crate) per: Duration,
    /// Starts at the same moment after a pause.
    pub(crate) burst: u32,
}

/// How a limit was kept.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ObservedLimit {
    /// The most starts in any window as long as the limit's.
    pub(crate) most: f64,
    /// The same by the times at which the handlers began, shortly after their jobs were started.
    pub(crate) most_begun: f64,
    /// Average starts per window, without the burst.
    pub(crate) average: f64,
}

impl Harkara {
    /// Runs a limited tenant's jobs on two workers for a time.
    pub(crate) async fn limited(
        &self,
        limit: Limit,
        jobs: usize,
        during: Duration,
    ) -> anyhow::Result<ObservedLimit> {
        self.set_limit(limit).await?;
        self.fill(self.tenant, jobs, Rows::Packed).await?;
        let seen = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&seen);
        let tally = CountingHandler::seeing(move |run| {
            kept.lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push((run.job.started_at, clock::now()));
        });
        let workers = [self.start(&tally)?, self.start(&tally)?];
        tokio::time::sleep(during).await;
        let seen = seen.lock().unwrap_or_else(PoisonError::into_inner).clone();
        for worker in workers {
            worker.end().await?;
        }
        let (mut starts, mut begun): (Vec<_>, Vec<_>) = seen.into_iter().unzip();
        starts.sort();
        begun.sort();
        let took = match (starts.first(), starts.last()) {
            (Some(first), Some(last)) => (*last - *first).to_std()?,
            _ => anyhow::bail!("no job of the limited tenant ran"),
        };
        let beyond = count(starts.len()) - f64::from(limit.burst);
        Ok(ObservedLimit {
            most: count(most_within(&starts, limit.per)),
            most_begun: count(most_within(&begun, limit.per)),
            average: beyond * limit.per.as_secs_f64() / took.as_secs_f64(),
        })
    }

    /// Sets the limit of the benchmark's tenant.
    async fn set_limit(&self, limit: Limit) -> anyhow::Result<()> {
        let change = TenantChange {
            limit: LimitChange::rate(Rate {
                count: limit.starts,
                per: limit.per,
                burst: limit.burst,
            }),
            ..TenantChange::default()
        };
        self.engine.set_tenant(self.tenant, &change).await?;
        Ok(())
    }
}

/// The most of these sorted times that lie within any window of that length.
fn most_within(moments: &[DateTime<Utc>], window: Duration) -> usize {
    let window = TimeDelta::from_std(window).unwrap_or(TimeDelta::MAX);
    let mut first = 0;
    let mut most = 0;
    for (last, moment) in moments.iter().enumerate() {
        while moments
            .get(first)
            .is_some_and(|start| *moment - *start >= window)
        {
            first += 1;
        }
        most = most.max(last + 1 - first);
    }
    most
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_starts_are_found_wherever_the_window_lies() {
        let start = clock::now();
        let at = |millis: &[i64]| -> Vec<DateTime<Utc>> {
            millis
                .iter()
                .map(|millis| start + TimeDelta::milliseconds(*millis))
                .collect()
        };
        let window = Duration::from_millis(100);
        assert_eq!(most_within(&at(&[]), window), 0);
        assert_eq!(most_within(&at(&[0, 100, 200]), window), 1);
        assert_eq!(most_within(&at(&[0, 90, 95, 99, 150, 189, 300]), window), 5);
    }
}
