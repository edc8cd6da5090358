//! Computes how many more jobs of one queue can be claimed: to start at once in a free slot, or to wait in
//! memory for a slot (*prefetched* jobs).
//!
//! The number of prefetched jobs follows from the mean run time: each should get a slot within a short
//! window. A *keyed lane* holds jobs that share a key, for example calls of the same endpoint. One keyed
//! lane gets only part of the slots.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use harkara_shared::telemetry::metric;

/// How long a prefetched job should wait for a slot at most, and so how long a tenant with few jobs waits in
/// this worker behind a tenant with many.
const PREFETCH_WINDOW: Duration = Duration::from_millis(20);

/// Maximum number of prefetched jobs.
const MAX_PREFETCHED_JOBS: u32 = 1024;

/// One keyed lane can take the slots of its queue divided by this number.
const KEYED_LANE_SLOT_DIVISOR: u32 = 4;

/// The slots of one queue.
#[derive(Debug)]
pub(super) struct QueueSlots {
    /// Name of the queue.
    pub(super) queue: String,
    /// Number of slots: jobs that run at once.
    slots: u32,
    /// Number of jobs that the worker holds, from their claim until their run ends.
    pub(super) in_flight_gauge: metrics::Gauge,
    /// Seconds from a job's due time to its claim.
    pub(super) wait_histogram: metrics::Histogram,
    /// Moving average, in nanoseconds; 0 before the first run has ended.
    mean_run_ns: AtomicU64,
}

impl QueueSlots {
    pub(super) fn new(queue: &str, slots: u32) -> Self {
        Self {
            queue: queue.to_owned(),
            slots,
            in_flight_gauge: metrics::gauge!(metric::JOBS_IN_FLIGHT, "queue" => queue.to_owned()),
            wait_histogram: metrics::histogram!(metric::WAIT_SECONDS, "queue" => queue.to_owned()),
            mean_run_ns: AtomicU64::new(0),
        }
    }

    /// Number of slots.
    pub(super) fn slots(&self) -> u32 {
        self.slots
    }

    /// Maximum jobs of one keyed lane that the worker holds, so that other lanes get slots even if none of
    /// these jobs ends.
    pub(super) fn slots_per_keyed_lane(&self) -> u32 {
        (self.slots / KEYED_LANE_SLOT_DIVISOR).max(1)
    }

    /// Maximum jobs that can be prefetched and still get a slot within the window.
    fn prefetch_limit(&self) -> u32 {
        let mean = self.mean_run_ns.load(Ordering::Relaxed);
        if mean == 0 {
            return 0;
        }
        let jobs = window_ns().saturating_mul(u64::from(self.slots)) / mean;
        u32::try_from(jobs)
            .unwrap_or(u32::MAX)
            .min(MAX_PREFETCHED_JOBS)
    }

    /// Returns how many more jobs can be claimed while `held` jobs are held, as a pair: jobs that can start
    /// at once, and further jobs to prefetch.
    pub(super) fn remaining_for(&self, held: u32) -> (u32, u32) {
        let max_held = self.slots + self.prefetch_limit();
        let remaining = max_held.saturating_sub(held);
        let free_slots = self.slots.saturating_sub(held);
        // While all slots are taken, a claim is worth its cost only if it can get many jobs.
        if free_slots > 0 || remaining >= max_held / 2 {
            (free_slots, remaining - free_slots)
        } else {
            (0, 0)
        }
    }

    /// Stops prefetching: raises the mean run time to a value at which no job would get a slot within the
    /// window. Later short runs lower the mean.
    pub(super) fn expect_long_runs(&self) {
        let no_prefetch = window_ns().saturating_mul(u64::from(self.slots) + 1);
        self.mean_run_ns.fetch_max(no_prefetch, Ordering::Relaxed);
    }

    /// Adds a run to the mean run time. One of two concurrent calls may have no effect.
    pub(super) fn record_run(&self, run_time: Duration) {
        let run_ns = u64::try_from(run_time.as_nanos())
            .unwrap_or(u64::MAX)
            .max(1);
        let mean = self.mean_run_ns.load(Ordering::Relaxed);
        let next = match mean {
            0 => run_ns,
            mean => mean - mean / 16 + run_ns / 16,
        };
        self.mean_run_ns.store(next.max(1), Ordering::Relaxed);
    }
}

fn window_ns() -> u64 {
    u64::try_from(PREFETCH_WINDOW.as_nanos()).unwrap_or(u64::MAX)
}
