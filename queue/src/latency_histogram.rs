//! Counts how long jobs waited and ran, in histograms by tenant, queue and kind.
//!
//! Takes the runs of one settlement. Individual times are not kept.

use std::collections::HashMap;
use std::time::Duration;

use crate::claimed::ClaimedJob;
use crate::read::stats::{BUCKET_BOUNDS_MS, BUCKETS};
use crate::verdict::Settlement;

/// The bucket of a time: the first whose upper bound is at least the time.
pub(crate) fn bucket(time: Duration) -> usize {
    BUCKET_BOUNDS_MS.partition_point(|bound| Duration::from_millis(u64::from(*bound)) < time)
}

/// Histograms in the form that `queue.settle` takes: for each combination of tenant, queue and kind,
/// [`BUCKETS`] consecutive counts in `waits` and in `runs`.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct LatencyHistograms {
    pub(crate) tenants: Vec<i32>,
    pub(crate) queues: Vec<i32>,
    pub(crate) kinds: Vec<i32>,
    pub(crate) waits: Vec<i32>,
    pub(crate) runs: Vec<i32>,
}

impl LatencyHistograms {
    /// Counts the runs that were started and not put back.
    pub(crate) fn of(runs: &[(ClaimedJob, Settlement)]) -> Self {
        let mut histograms = Self::default();
        let mut indexes: HashMap<(i32, i32, i32), usize> = HashMap::new();
        for (job, settlement) in runs {
            // A settlement without an outcome has put the job back.
            let (Some(run_time), Some(_)) = (settlement.run_time, settlement.outcome) else {
                continue;
            };
            let key = (job.parcel.tenant, job.parcel.queue, job.parcel.kind);
            let index = *indexes
                .entry(key)
                .or_insert_with(|| histograms.add_histogram(key));
            // A job that was started early after a manual request has waited no time.
            let wait = (job.started_at - job.run_at).to_std().unwrap_or_default();
            count(&mut histograms.waits, index, bucket(wait));
            count(&mut histograms.runs, index, bucket(run_time));
        }
        histograms
    }

    fn add_histogram(&mut self, (tenant, queue, kind): (i32, i32, i32)) -> usize {
        self.tenants.push(tenant);
        self.queues.push(queue);
        self.kinds.push(kind);
        self.waits.extend([0; BUCKETS]);
        self.runs.extend([0; BUCKETS]);
        self.tenants.len() - 1
    }
}

fn count(counts: &mut [i32], histogram: usize, bucket: usize) {
    if let Some(count) = counts.get_mut(histogram * BUCKETS + bucket) {
        *count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latency_bucket_is_the_first_whose_bound_is_not_below_the_time() {
        let bucket_of = |ms: f64| bucket(Duration::from_secs_f64(ms / 1000.0));
        assert_eq!(bucket_of(0.0), 0);
        assert_eq!(bucket_of(1.0), 0);
        assert_eq!(bucket_of(1.1), 1);
        assert_eq!(bucket_of(50.0), 5);
        assert_eq!(bucket_of(3_600_000.0), 17);
        assert_eq!(bucket_of(3_600_001.0), BUCKETS - 1);
    }
}
