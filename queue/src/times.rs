//! Room: how long jobs waited and ran, in classes.
//! Takes: runs that have ended. Gives: how many there are in each class, by tenant, queue and kind.
//! Never: keeps a time as it was: history holds nothing but counts.

use std::collections::HashMap;
use std::time::Duration;

use crate::claim::Claimed;
use crate::read::stats::{BUCKET_BOUNDS_MS, BUCKETS};
use crate::verdict::Settlement;

/// The class of a time: the first whose bound is not below it.
pub(crate) fn class(time: Duration) -> usize {
    BUCKET_BOUNDS_MS.partition_point(|bound| Duration::from_millis(u64::from(*bound)) < time)
}

/// The times of ended runs as `queue.settle` takes them: [`BUCKETS`] numbers for each of the triples.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Times {
    pub(crate) tenants: Vec<i32>,
    pub(crate) queues: Vec<i32>,
    pub(crate) kinds: Vec<i32>,
    pub(crate) waits: Vec<i32>,
    pub(crate) runs: Vec<i32>,
}

impl Times {
    /// Of those that were begun.
    pub(crate) fn of(endings: &[(Claimed, Settlement)]) -> Self {
        let mut times = Self::default();
        let mut places: HashMap<(i32, i32, i32), usize> = HashMap::new();
        for (job, end) in endings {
            // One that is put back has not run.
            let (Some(took), Some(_)) = (end.took, end.outcome) else {
                continue;
            };
            let key = (job.parcel.tenant, job.parcel.queue, job.parcel.kind);
            let place = *places.entry(key).or_insert_with(|| times.add(key));
            let waited = (job.started_at - job.run_at).to_std().unwrap_or_default();
            count(&mut times.waits, place, class(waited));
            count(&mut times.runs, place, class(took));
        }
        times
    }

    fn add(&mut self, (tenant, queue, kind): (i32, i32, i32)) -> usize {
        self.tenants.push(tenant);
        self.queues.push(queue);
        self.kinds.push(kind);
        self.waits.extend([0; BUCKETS]);
        self.runs.extend([0; BUCKETS]);
        self.tenants.len() - 1
    }
}

fn count(counts: &mut [i32], place: usize, class: usize) {
    if let Some(count) = counts.get_mut(place * BUCKETS + class) {
        *count += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_in_the_first_class_whose_bound_is_not_below_it() {
        let class_of = |ms: f64| class(Duration::from_secs_f64(ms / 1000.0));
        assert_eq!(class_of(0.0), 0);
        assert_eq!(class_of(1.0), 0);
        assert_eq!(class_of(1.1), 1);
        assert_eq!(class_of(50.0), 5);
        assert_eq!(class_of(3_600_000.0), 17);
        assert_eq!(class_of(3_600_001.0), BUCKETS - 1);
    }
}
