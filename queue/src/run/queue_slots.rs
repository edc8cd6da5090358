//! Counts the slots of one served queue: how many more jobs can be claimed, to start at once or to wait
//! in memory for a slot.
//!
//! Jobs are prefetched only as far as the mean run time lets them start within a short window. A *keyed
//! lane* holds jobs that share a key, for example those that call the same endpoint; one such lane gets
//! only part of the slots.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use harkara_shared::telemetry::metric;

/// How long a prefetched job may wait for a slot: the longest time that a tenant with few jobs waits in
/// this worker behind one with many.
const PREFETCH_WINDOW: Duration = Duration::from_millis(20);

/// Most jobs that wait for a slot.
const MAX_PREFETCHED_JOBS: u32 = 1024;

/// Share of the slots that one keyed lane can take: one in this many.
const KEYED_LANE_SLOT_DIVISOR: u32 = 4;

/// The slots of one served queue.
#[derive(Debug)]
pub(super) struct QueueSlots {
    /// Name of the queue.
    pub(super) queue: String,
    /// Number of slots: jobs that run at once.
    slots: u32,
    /// Number of jobs that the worker holds.
    pub(super) in_flight_gauge: metrics::Gauge,
    /// Seconds from due to claimed.
    pub(super) wait_histogram: metrics::Histogram,
    /// Moving mean of run times, in nanoseconds; 0 before the first run has ended.
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

    /// Most jobs of one keyed lane that the worker holds. Other lanes keep slots even if none of these
    /// jobs ends.
    pub(super) fn slots_per_keyed_lane(&self) -> u32 {
        (self.slots / KEYED_LANE_SLOT_DIVISOR).max(1)
    }

    /// Jobs that can wait for a slot and still start within the window.
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

    /// How many more jobs can be claimed while `held` are held: (to start at once, to prefetch).
    pub(super) fn free(&self, held: u32) -> (u32, u32) {
        let all = self.slots + self.prefetch_limit();
        let free = all.saturating_sub(held);
        let free_slots = self.slots.saturating_sub(held);
        // While all slots are taken, claims of a few jobs each would not be worth their statement.
        if free_slots > 0 || free >= all / 2 {
            (free_slots, free - free_slots)
        } else {
            (0, 0)
        }
    }

    /// Stops prefetching until runs have been short again for a while.
    pub(super) fn expect_long_runs(&self) {
        let no_prefetch = window_ns().saturating_mul(u64::from(self.slots) + 1);
        self.mean_run_ns.fetch_max(no_prefetch, Ordering::Relaxed);
    }

    /// Moves the mean run time towards the latest run. Of two concurrent calls, one may have no effect.
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
