//! Room: the past in numbers.
//! Takes: a tenant's transaction, a time, a step. Gives: what happened in each step, and how long jobs
//! waited and ran. Never: reads jobs, or answers more points than anybody draws.

use std::time::Duration;

use chrono::{DateTime, DurationRound as _, TimeDelta, Utc};
use harkara_shared::database::query_as;
use harkara_shared::id::TenantId;
use sqlx::PgConnection;

use crate::error::Error;

/// Upper bounds of the classes by which waits and runs are counted, in milliseconds; a last class holds
/// what took longer.
pub const BUCKET_BOUNDS_MS: [u32; 18] = [
    1, 2, 5, 10, 20, 50, 100, 200, 500, 1_000, 2_000, 5_000, 10_000, 30_000, 60_000, 300_000,
    900_000, 3_600_000,
];

/// How many classes there are.
pub const BUCKETS: usize = BUCKET_BOUNDS_MS.len() + 1;

/// How long what happened in each minute is known, and in each hour.
pub const MINUTE_STATS_RETENTION: Duration = Duration::from_secs(48 * 60 * 60);
/// See [`MINUTE_STATS_RETENTION`].
pub const HOUR_STATS_RETENTION: Duration = Duration::from_secs(90 * 24 * 60 * 60);

/// Most points of a series.
pub const MAX_POINTS: i64 = 1500;

const MINUTE: i64 = 60;
const HOUR: i64 = 60 * MINUTE;
const DAY: i64 = 24 * HOUR;

/// Which numbers to read.
#[derive(Debug, Clone, Default)]
pub struct StatsFilter {
    /// Of this queue.
    pub queue: Option<String>,
    /// Of this kind.
    pub kind: Option<String>,
}

/// The time a series covers: whole steps, counted from midnight UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatsRange {
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    step: i64,
}

/// Why there is no series of a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StatsRangeError {
    /// The step cannot be counted.
    #[error("must be whole minutes that divide an hour, or whole hours that divide a day")]
    Step,
    /// It ends before it begins.
    #[error("must be before `until`")]
    Empty,
    /// What happened then is not known in that detail.
    #[error("must not be longer ago than {0}")]
    Forgotten(&'static str),
    /// There would be too many points.
    #[error("would make {0} points: at most {MAX_POINTS} are answered")]
    Many(i64),
}

impl StatsRange {
    /// The steps that hold the time from `since` to `until`, as far as it is not in the future.
    ///
    /// # Errors
    /// What is wrong with it.
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
        // What is kept is removed once a day.
        if now - since > TimeDelta::from_std(kept).unwrap_or(TimeDelta::MAX) {
            return Err(StatsRangeError::Forgotten(words));
        }
        let width = TimeDelta::seconds(seconds);
        let from = since
            .duration_trunc(width)
            .map_err(|_| StatsRangeError::Empty)?;
        let last = (until - TimeDelta::nanoseconds(1))
            .duration_trunc(width)
            .map_err(|_| StatsRangeError::Empty)?;
        let span = Self {
            from,
            until: last + width,
            step: seconds,
        };
        let points = span.points();
        if points > MAX_POINTS {
            return Err(StatsRangeError::Many(points));
        }
        Ok(span)
    }

    /// The step that shows a time in a hundred points or somewhat more.
    #[must_use]
    pub fn default_step(time: Duration) -> Duration {
        let steps =
            [1, 5, 15, 60, 6 * 60, 24 * 60].map(|minutes| Duration::from_secs(60 * minutes));
        let fits = |step: &&Duration| time <= **step * 120;
        let longest = Duration::from_secs(24 * 60 * 60);
        steps.iter().find(fits).copied().unwrap_or(longest)
    }

    /// Where it begins.
    #[must_use]
    pub fn from(&self) -> DateTime<Utc> {
        self.from
    }

    /// Where it ends.
    #[must_use]
    pub fn until(&self) -> DateTime<Utc> {
        self.until
    }

    /// How long a step is.
    #[must_use]
    pub fn step(&self) -> Duration {
        Duration::from_secs(u64::try_from(self.step).unwrap_or_default())
    }

    fn points(&self) -> i64 {
        (self.until - self.from).num_seconds() / self.step
    }
}

/// What happened in one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatsPoint {
    /// When the step begins.
    pub at: DateTime<Utc>,
    /// Jobs enqueued.
    pub enqueued: i64,
    /// Runs begun.
    pub started: i64,
    /// Jobs that succeeded.
    pub succeeded: i64,
    /// Runs that failed, and will be made again.
    pub retried: i64,
    /// Jobs that were given up.
    pub died: i64,
    /// Jobs that were cancelled.
    pub cancelled: i64,
    /// How long those that started had been due.
    pub waits: DurationHistogram,
    /// How long those that ended had run.
    pub runs: DurationHistogram,
}

/// How many took how long, by classes: see [`BUCKET_BOUNDS_MS`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DurationHistogram(pub [i64; BUCKETS]);

impl DurationHistogram {
    fn of(classes: Option<Vec<Option<i64>>>) -> Self {
        let mut counts = [0; BUCKETS];
        let classes = classes.unwrap_or_default();
        for (count, class) in counts.iter_mut().zip(classes) {
            *count = class.unwrap_or_default();
        }
        Self(counts)
    }

    /// How many were measured.
    #[must_use]
    pub fn count(&self) -> i64 {
        self.0.iter().sum()
    }

    /// The milliseconds within which the part `quantile` of them ended, taking those of a class to be
    /// spread evenly over it; nothing when there are none. What took longer than an hour counts as an
    /// hour.
    #[must_use]
    #[expect(
        clippy::cast_precision_loss,
        reason = "numbers of jobs and classes are far below 2^52"
    )]
    pub fn quantile(&self, quantile: f64) -> Option<f64> {
        let count = self.count();
        if count == 0 {
            return None;
        }
        let wanted = quantile * count as f64;
        let (mut below, mut lower) = (0.0, 0.0);
        for (class, bound) in self.0.iter().zip(BUCKET_BOUNDS_MS) {
            let (inside, upper) = (*class as f64, f64::from(bound));
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
struct Row {
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

/// What happened to the jobs of `tenant`, step by step, without gaps.
///
/// # Errors
/// When the database refuses.
pub async fn stats(
    connection: &mut PgConnection,
    tenant: TenantId,
    span: StatsRange,
    filter: &StatsFilter,
) -> Result<Vec<StatsPoint>, Error> {
    let rows: Vec<Row> = query_as(include_str!("../sql/get_stats.sql"))
        .bind(tenant)
        .bind(span.from)
        .bind(span.until)
        .bind(span.step().as_secs_f64())
        .bind(if span.step < HOUR { "m" } else { "h" })
        .bind(&filter.queue)
        .bind(&filter.kind)
        .fetch_all(connection)
        .await?;
    let mut rows = rows.into_iter().peekable();
    let mut points = Vec::new();
    let mut at = span.from;
    while at < span.until {
        let row = rows.next_if(|row| row.at <= at);
        points.push(row.map_or_else(|| StatsPoint::nothing(at), StatsPoint::from));
        at += TimeDelta::seconds(span.step);
    }
    Ok(points)
}

impl StatsPoint {
    fn nothing(at: DateTime<Utc>) -> Self {
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

impl From<Row> for StatsPoint {
    fn from(row: Row) -> Self {
        Self {
            at: row.at,
            enqueued: row.enqueued,
            started: row.started,
            succeeded: row.succeeded,
            retried: row.retried,
            died: row.died,
            cancelled: row.cancelled,
            waits: DurationHistogram::of(row.waits),
            runs: DurationHistogram::of(row.runs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn span(since: &str, until: &str, minutes: u64) -> Result<StatsRange, StatsRangeError> {
        let now = at("2026-01-10T12:34:56Z");
        StatsRange::new(at(since), at(until), Duration::from_secs(minutes * 60), now)
    }

    #[test]
    fn a_series_covers_whole_steps_up_to_now() {
        let hours = span("2026-01-09T10:15:00Z", "2027-01-01T00:00:00Z", 360).unwrap();
        assert_eq!(hours.from(), at("2026-01-09T06:00:00Z"));
        assert_eq!(hours.until(), at("2026-01-10T18:00:00Z"));
        assert_eq!(hours.points(), 6);
        let minutes = span("2026-01-10T12:00:00Z", "2026-01-10T12:10:00Z", 5).unwrap();
        assert_eq!(minutes.points(), 2);
        assert_eq!(minutes.until(), at("2026-01-10T12:10:00Z"));
    }

    #[test]
    fn a_time_that_has_no_series_is_refused() {
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
                StatsRangeError::Forgotten("48 hours in steps of less than an hour"),
            ),
            (
                "2025-10-01T00:00:00Z",
                noon,
                60,
                StatsRangeError::Forgotten("90 days"),
            ),
            ("2026-01-09T10:00:00Z", noon, 1, StatsRangeError::Many(1560)),
        ] {
            assert_eq!(span(since, until, minutes), Err(error), "{since}");
        }
    }

    #[test]
    fn quantiles_lie_within_their_class() {
        let mut durations = DurationHistogram::default();
        assert_eq!(durations.quantile(0.5), None);
        // A hundred between 10 and 20 ms, a hundred of more than an hour.
        durations.0[4] = 100;
        durations.0[BUCKETS - 1] = 100;
        assert_eq!(durations.quantile(0.25), Some(15.0));
        assert_eq!(durations.quantile(0.5), Some(20.0));
        assert_eq!(durations.quantile(0.99), Some(3_600_000.0));
    }
}
