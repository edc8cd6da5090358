//! Room: the places of one served queue.
//! Takes: how long runs took. Gives: how many more jobs may be claimed, to start and to wait in hand.
//! Never: knows which jobs are held.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use harkara_shared::telemetry::metric;

/// How long jobs that are claimed may wait in hand for a place: what a quiet tenant may have to wait
/// behind a busy one in this worker.
const WINDOW: Duration = Duration::from_millis(20);

/// Most jobs that may wait in hand.
const MOST_AHEAD: u32 = 1024;

/// One served queue.
#[derive(Debug)]
pub(super) struct QueueDesk {
    pub(super) name: String,
    places: u32,
    /// Runs in flight, and how long jobs waited before they were claimed.
    pub(super) in_flight: metrics::Gauge,
    pub(super) waits: metrics::Histogram,
    /// Mean time of a run, in nanoseconds; nothing before the first has ended.
    mean_run: AtomicU64,
}

impl QueueDesk {
    /// A queue of which so many jobs run at once.
    pub(super) fn new(name: &str, places: u32) -> Self {
        Self {
            name: name.to_owned(),
            places,
            in_flight: metrics::gauge!(metric::JOBS_IN_FLIGHT, "queue" => name.to_owned()),
            waits: metrics::histogram!(metric::WAIT_SECONDS, "queue" => name.to_owned()),
            mean_run: AtomicU64::new(0),
        }
    }

    /// Jobs that run at once.
    pub(super) fn places(&self) -> u32 {
        self.places
    }

    /// Jobs of one lane that names a key which may be held at once: a quarter of the places, so that others
    /// have some when none of these ends.
    pub(super) fn of_one_lane(&self) -> u32 {
        (self.places / 4).max(1)
    }

    /// Jobs that may wait for a place and still be begun within the window.
    fn ahead(&self) -> u32 {
        let mean = self.mean_run.load(Ordering::Relaxed);
        if mean == 0 {
            return 0;
        }
        let window = u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX);
        let jobs = window.saturating_mul(u64::from(self.places)) / mean;
        u32::try_from(jobs).unwrap_or(u32::MAX).min(MOST_AHEAD)
    }

    /// Of how many more jobs some may start at once and the others wait in hand for a moment, when so
    /// many are taken.
    pub(super) fn room(&self, taken: u32) -> (u32, u32) {
        let all = self.places + self.ahead();
        let room = all.saturating_sub(taken);
        let idle = self.places.saturating_sub(taken);
        // Claims of a few jobs at a time, while all places are taken, are not worth it.
        if idle > 0 || room >= all / 2 {
            (idle, room - idle)
        } else {
            (0, 0)
        }
    }

    /// No job waits in hand until runs have been short again for a while.
    pub(super) fn expect_long_runs(&self) {
        let none_ahead = u64::try_from(WINDOW.as_nanos()).unwrap_or(u64::MAX);
        let none_ahead = none_ahead.saturating_mul(u64::from(self.places) + 1);
        self.mean_run.fetch_max(none_ahead, Ordering::Relaxed);
    }

    /// Moves the mean a little towards the latest run. Two at once may count as one.
    pub(super) fn note_run(&self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX).max(1);
        let mean = self.mean_run.load(Ordering::Relaxed);
        let next = match mean {
            0 => took,
            mean => mean - mean / 16 + took / 16,
        };
        self.mean_run.store(next.max(1), Ordering::Relaxed);
    }
}
