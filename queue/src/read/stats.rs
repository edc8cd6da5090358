//! Statistics of the past: what happened to a tenant's jobs in each step of a time range, and how long
//! jobs waited and ran.
//!
//! Reads counters, never jobs. The number of points is bounded.

use std::time::Duration;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use harkara_shared::database::query_as;
use harkara_shared::id::TenantId;
use sqlx::PgConnection;

use crate::error::Error;

/// Upper bounds of the histogram buckets of waits and runs, in milliseconds; one more bucket holds what
/// took longer.
pub const BUCKET_BOUNDS_MS: [u32; 18] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000,
    900_000, 3_600_000,
];

/// Number of histogram buckets.
pub const BUCKETS: usize = BUCKET_BOUNDS_MS.len() + 1;

/// How long statistics of single minutes are kept.
pub const MINUTE_STATS_RETENTION: Duration = Duration::from_secs(48 * 60 * 60);
/// How long statistics of whole hours are kept.
pub const HOUR_STATS_RETENTION: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Most points of one answer.
pub const MAX_POINTS: i64 = 1500;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Which statistics to read.
#[derive(Debug, Clone, Default)]
pub struct StatsFilter {
    /// Only those of this queue.
    pub queue: Option<String>,
    /// Only those of this kind.
    pub kind: Option<String>,
}

/// A time range in whole steps, aligned to midnight UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatsRange {
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    /// Length of a step in seconds.
    step: i64,
}

/// Why statistics of a time range cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatsRangeError {
    /// The length of a step is not supported.
    #[error("must be whole minutes that divide an hour, or whole hours that divide a day")]
    Step,
    /// The range ends before it begins.
    #[error("must be before `until`")]
    Empty,
    /// Statistics are not kept that long in that detail.
    #[error("must not be longer ago than {0}")]
    NotRetained(&'static str),
    /// The range has too many steps.
    #[error("would make {0} points; at most {MAX_POINTS} are returned")]
    TooManyPoints(i64),
}

impl StatsRange {
    /// The steps that cover the time from `since` to `until`, as far as it is not in the future.
    ///
    /// # Errors
    /// [`StatsRangeError`]: `Step` and `TooManyPoints` concern `step`, the others `since`.
    pub fn new(
        since: DateTime<Utc>,
        until: DateTime<Utc>,
        step: Duration,
        now: DateTime<Utc>,
    ) -> Result<Self, StatsRangeError> {
        let whole = step.subsec_nanos() == 0;
        let seconds = i64::try_from(step.as_secs()).unwrap_or(i64::MAX);
        let minutes = seconds >= MINUTE && seconds % MINUTE == 0 && HOUR % seconds == 0;
        let hours = seconds >= HOUR && seconds % HOUR == 0 && DAY % seconds == 0;
        if !whole || !(minutes || hours) {
            return Err(StatsRangeError::Step);
        }
        let until = until.min(now);
        if since >= until {
            return Err(StatsRangeError::Empty);
        }
        let (kept, words) = if seconds < HOUR {
            (
                MINUTE_STATS_RETENTION,
                "48 hours in steps of less than an hour",
            )
        } else {
            (HOUR_STATS_RETENTION, "90 days")
        };
        if now - since > TimeDelta::from_std(kept).unwrap_or(TimeDelta::MAX) {
            return Err(StatsRangeError::NotRetained(words));
        }
        let width = TimeDelta::seconds(seconds);
        let from = since
            .duration_trunc(width)
            .map_err(|_| StatsRangeError::Empty)?;
        let last = (until - TimeDelta::nanoseconds(1))
            .duration_trunc(width)
            .map_err(|_| StatsRangeError::Empty)?;
        let range = Self {
            from,
            until: last + width,
            step: seconds,
        };
        let points = range.points();
        if points > MAX_POINTS {
            return Err(StatsRangeError::TooManyPoints(points));
        }
        Ok(range)
    }

    /// The step that divides a range of this length into about a hundred points.
    #[must_use]
    pub fn default_step(length: Duration) -> Duration {
        let steps =
            [1, 5, 15, 60, 6 * 60, 24 * 60].map(|minutes| Duration::from_secs(60 * minutes));
        let fits = |step: &&Duration| length <= **step * 120;
        let longest = Duration::from_secs(24 * 60 * 60);
        steps.iter().find(fits).copied().unwrap_or(longest)
    }

    /// Start of the first step.
    #[must_use]
    pub fn from(&self) -> DateTime<Utc> {
        self.from
    }

    /// End of the last step.
    #[must_use]
    pub fn until(&self) -> DateTime<Utc> {
        self.until
    }

    /// Length of a step.
    #[must_use]
    pub fn step(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.step).unwrap_or_default())
    }

    fn points(&self) -> i64 {
        (self.until - self.from).num_seconds() / self.step
    }
}

/// What happened to jobs in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsPoint {
    /// Start of the step.
    pub at: DateTime<Utc>,
    /// Jobs enqueued.
    pub enqueued: i64,
    /// Runs started.
    pub started: i64,
    /// Jobs that succeeded.
    pub succeeded: i64,
    /// Runs that failed and are retried.
    pub retried: i64,
    /// Jobs that failed for good.
    pub died: i64,
    /// Jobs that were cancelled.
    pub cancelled: i64,
    /// How long the jobs of the started runs had been due.
    pub waits: DurationHistogram,
    /// How long the finished runs took.
    pub runs: DurationHistogram,
}

/// A histogram of durations: how many fell into each bucket. See [`BUCKET_BOUNDS_MS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DurationHistogram(pub [i64; BUCKETS]);

impl DurationHistogram {
    /// The histogram of an array column: null without durations, and shorter than [`BUCKETS`] or with
    /// nulls where buckets are empty.
    fn from_column(buckets: Option<Vec<Option<i64>>>) -> Self {
        let mut counts = [0; BUCKETS];
        for (count, bucket) in counts.iter_mut().zip(buckets.unwrap_or_default()) {
            *count = bucket.unwrap_or_default();
        }
        Self(counts)
    }

    /// The number of durations.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.0.iter().sum()
    }

    /// The duration in milliseconds that the fraction `quantile` does not exceed, assuming that the
    /// durations of a bucket are spread evenly over it; `None` without durations. Durations above an hour
    /// count as an hour.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "counts of jobs and buckets are far below 2^52"
    )]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = quantile * count as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (bucket, bound) in self.0.iter().zip(BUCKET_BOUNDS_MS) {
            let (inside, upper) = (*bucket as f64, f64::from(bound));
            if inside > 0.0 && below + inside >= wanted {
                return Some(lower + (upper - lower) * ((wanted - below) / inside));
            }
            below += inside;
            lower = upper;
        }
        Some(lower)
    }
}

#[derive(sqlx::FromRow)]
struct StatsRow {
    at: DateTime<Utc>,
    enqueued: i64,
    started: i64,
    succeeded: i64,
    retried: i64,
    died: i64,
    cancelled: i64,
    waits: Option<Vec<Option<i64>>>,
    runs: Option<Vec<Option<i64>>>,
}

/// What happened to the jobs of `tenant` in each step of `range`, without gaps.
///
/// # Errors
/// When the statement fails.
pub async fn stats(
    connection: &mut PgConnection,
    tenant: TenantId,
    range: StatsRange,
    filter: &StatsFilter,
) -> Result<Vec<StatsPoint>, Error> {
    let rows: Vec<StatsRow> = query_as(include_str!("get_stats.sql"))
        .bind(tenant)
        .bind(range.from)
        .bind(range.until)
        .bind(range.step().as_secs_f64())
        .bind(if range.step < HOUR { "m" } else { "h" })
        .bind(&filter.queue)
        .bind(&filter.kind)
        .fetch_all(connection)
        .await?;
    let mut rows = rows.into_iter().peekable();
    let mut points = Vec::new();
    let mut at = range.from;
    while at < range.until {
        let row = rows.next_if(|row| row.at <= at);
        points.push(row.map_or_else(|| StatsPoint::empty(at), StatsPoint::from));
        at += TimeDelta::seconds(range.step);
    }
    Ok(points)
}

impl StatsPoint {
    fn empty(at: DateTime<Utc>) -> Self {
        Self {
            at,
            enqueued: 0,
            started: 0,
            succeeded: 0,
            retried: 0,
            died: 0,
            cancelled: 0,
            waits: DurationHistogram::default(),
            runs: DurationHistogram::default(),
        }
    }
}

impl From<StatsRow> for StatsPoint {
    fn from(row: StatsRow) -> Self {
        Self {
            at: row.at,
            enqueued: row.enqueued,
            started: row.started,
            succeeded: row.succeeded,
            retried: row.retried,
            died: row.died,
            cancelled: row.cancelled,
            waits: DurationHistogram::from_column(row.waits),
            runs: DurationHistogram::from_column(row.runs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn range(since: &str, until: &str, minutes: u64) -> Result<StatsRange, StatsRangeError> {
        let now = at("2026-01-10T12:34:56Z");
        StatsRange::new(at(since), at(until), Duration::from_secs(minutes * 60), now)
    }

    #[test]
    fn range_covers_whole_steps_up_to_now() {
        let hours = range("2026-01-09T10:15:00Z", "2027-01-01T00:00:00Z", 360).unwrap();
        assert_eq!(hours.from(), at("2026-01-09T06:00:00Z"));
        assert_eq!(hours.until(), at("2026-01-10T18:00:00Z"));
        assert_eq!(hours.points(), 6);
        let minutes = range("2026-01-10T12:00:00Z", "2026-01-10T12:10:00Z", 5).unwrap();
        assert_eq!(minutes.points(), 2);
        assert_eq!(minutes.until(), at("2026-01-10T12:10:00Z"));
    }

    #[test]
    fn unsupported_ranges_are_refused() {
        let noon = "2026-01-10T12:00:00Z";
        for (since, until, minutes, error) in [
            (noon, "2026-01-10T12:30:00Z", 7, StatsRangeError::Step),
            (noon, "2026-01-10T12:30:00Z", 90, StatsRangeError::Step),
            (
                noon,
                "2026-01-10T12:30:00Z",
                2 * 1440,
                StatsRangeError::Step,
            ),
            (noon, noon, 1, StatsRangeError::Empty),
            (
                "2026-01-10T13:00:00Z",
                "2026-01-10T14:00:00Z",
                1,
                StatsRangeError::Empty,
            ),
            (
                "2026-01-08T12:00:00Z",
                noon,
                30,
                StatsRangeError::NotRetained("48 hours in steps of less than an hour"),
            ),
            (
                "2025-10-01T00:00:00Z",
                noon,
                60,
                StatsRangeError::NotRetained("90 days"),
            ),
            (
                "2026-01-09T10:00:00Z",
                noon,
                1,
                StatsRangeError::TooManyPoints(1560),
            ),
        ] {
            assert_eq!(range(since, until, minutes), Err(error), "{since}");
        }
    }

    #[test]
    fn quantiles_lie_within_their_bucket() {
        let mut durations = DurationHistogram::default();
        assert_eq!(durations.quantile(0.5), None);
        // A hundred from 10 to 20 ms, and a hundred above an hour.
        durations.0[4] = 100;
        durations.0[BUCKETS - 1] = 100;
        assert_eq!(durations.quantile(0.25), Some(15.0));
        assert_eq!(durations.quantile(0.5), Some(20.0));
        assert_eq!(durations.quantile(0.99), Some(3_600_000.0));
    }
}
