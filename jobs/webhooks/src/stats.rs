//! Hourly statistics of endpoints.
//!
//! Counts are added up as attempts are recorded, not when they are read.

use std::collections::BTreeMap;

use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use harkara_shared::database::{TenantTx, query, query_as};
use harkara_shared::id::EndpointId;

use crate::attempt::FinishedAttempt;
use crate::error::Error;

/// Upper bounds in milliseconds of the buckets of response times. The last bucket has no bound.
const BOUNDS: [u64; 13] = [
    5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 7_500, 10_000, 15_000,
];

/// Number of buckets.
const BUCKETS: usize = BOUNDS.len() + 1;

/// Statistics of an endpoint's attempts in one hour.
#[derive(Debug, Clone, PartialEq, Eq, sqlx::FromRow)]
pub struct EndpointHour {
    /// Start of the hour.
    pub hour: DateTime<Utc>,
    /// Number of successful attempts.
    pub succeeded: i64,
    /// Number of failed attempts.
    pub failed: i64,
    /// Time of the last success.
    pub last_success_at: Option<DateTime<Utc>>,
    /// See [`Self::last_success_at`].
    pub last_failure_at: Option<DateTime<Utc>>,
    durations: Vec<i64>,
}

/// Statistics of an endpoint's attempts in a range of hours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EndpointStats {
    /// Hours with attempts, oldest first.
    pub hours: Vec<EndpointHour>,
    /// Number of successful attempts in all hours.
    pub succeeded: i64,
    /// See [`Self::succeeded`].
    pub failed: i64,
    /// Time of the last success in the range.
    pub last_success_at: Option<DateTime<Utc>>,
    /// See [`Self::last_success_at`].
    pub last_failure_at: Option<DateTime<Utc>>,
    durations: Vec<i64>,
}

impl EndpointStats {
    fn of(hours: Vec<EndpointHour>) -> Self {
        let mut stats = Self::default();
        for hour in &hours {
            stats.succeeded += hour.succeeded;
            stats.failed += hour.failed;
            stats.last_success_at = stats.last_success_at.max(hour.last_success_at);
            stats.last_failure_at = stats.last_failure_at.max(hour.last_failure_at);
            stats.durations.resize(BUCKETS, 0);
            for (sum, count) in stats.durations.iter_mut().zip(&hour.durations) {
                *sum += count;
            }
        }
        stats.hours = hours;
        stats
    }

    /// Percentile of the response time in milliseconds: the upper bound of its bucket. `None` without responses.
    #[must_use]
    pub fn percentile(&self, percent: u8) -> Option<u64> {
        let total: i64 = self.durations.iter().sum();
        if total == 0 {
            return None;
        }
        let rank = (total * i64::from(percent.min(100)) + 99) / 100;
        let mut seen = 0;
        for (index, count) in self.durations.iter().enumerate() {
            seen += count;
            if seen >= rank {
                // The last bucket has no bound; the bound of the one before is the best lower estimate.
                return BOUNDS.get(index).or(BOUNDS.last()).copied();
            }
        }
        None
    }
}

/// Counts of one endpoint and hour, to be added to the stored ones.
struct Sum {
    succeeded: i64,
    failed: i64,
    last_success_at: Option<DateTime<Utc>>,
    last_failure_at: Option<DateTime<Utc>>,
    durations: [i64; BUCKETS],
}

/// Adds attempts to the hourly statistics of their endpoints.
pub(super) async fn add(tx: &mut TenantTx, attempts: &[FinishedAttempt]) -> Result<(), Error> {
    // Rows are locked in the order of their keys, so that concurrent batches cannot deadlock.
    let mut sums: BTreeMap<(EndpointId, DateTime<Utc>), Sum> = BTreeMap::new();
    for attempt in attempts {
        let hour = attempt.started_at.duration_trunc(TimeDelta::hours(1));
        let hour = hour
            .map_err(|_| Error::Corrupt(format!("time of an attempt of {}", attempt.delivery)))?;
        let sum = sums.entry((attempt.endpoint, hour)).or_insert(Sum {
            succeeded: 0,
            failed: 0,
            last_success_at: None,
            last_failure_at: None,
            durations: [0; BUCKETS],
        });
        let (count, last) = match attempt.is_success() {
            true => (&mut sum.succeeded, &mut sum.last_success_at),
            false => (&mut sum.failed, &mut sum.last_failure_at),
        };
        *count += 1;
        *last = (*last).max(Some(attempt.started_at));
        if attempt.response.is_some() {
            let duration_ms = u64::try_from(attempt.duration.as_millis()).unwrap_or(u64::MAX);
            let bucket = BOUNDS.iter().position(|bound| duration_ms <= *bound);
            if let Some(count) = sum.durations.get_mut(bucket.unwrap_or(BOUNDS.len())) {
                *count += 1;
            }
        }
    }
    let ids: Vec<EndpointId> = sums.keys().map(|(id, _)| *id).collect();
    let hours: Vec<DateTime<Utc>> = sums.keys().map(|(_, hour)| *hour).collect();
    let counts = |value_of: fn(&Sum) -> i64| -> Vec<i64> { sums.values().map(value_of).collect() };
    let times = |value_of: fn(&Sum) -> Option<DateTime<Utc>>| -> Vec<Option<DateTime<Utc>>> {
        sums.values().map(value_of).collect()
    };
    let durations: Vec<i64> = sums.values().flat_map(|sum| sum.durations).collect();
    query(include_str!("sql/stats/add_endpoint_hours.sql"))
        .bind(tx.tenant())
        .bind(ids)
        .bind(hours)
        .bind(counts(|sum| sum.succeeded))
        .bind(counts(|sum| sum.failed))
        .bind(times(|sum| sum.last_success_at))
        .bind(times(|sum| sum.last_failure_at))
        .bind(durations)
        .bind(i32::try_from(BUCKETS).unwrap_or_default())
        .execute(&mut **tx)
        .await?;
    Ok(())
}

/// Reads an endpoint's statistics since a time, by hour, at most 30 days.
///
/// # Errors
/// When the database refuses.
pub async fn endpoint_stats(
    tx: &mut TenantTx,
    id: EndpointId,
    since: DateTime<Utc>,
) -> Result<EndpointStats, Error> {
    let mut hours: Vec<EndpointHour> = query_as(include_str!("sql/stats/get_endpoint_hours.sql"))
        .bind(tx.tenant())
        .bind(id)
        .bind(since)
        .fetch_all(&mut **tx)
        .await?;
    hours.reverse();
    Ok(EndpointStats::of(hours))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentile_is_the_bound_of_its_bucket() {
        let mut stats = EndpointStats {
            durations: vec![0; BUCKETS],
            ..EndpointStats::default()
        };
        assert_eq!(stats.percentile(50), None);
        stats.durations[2] = 98;
        stats.durations[7] = 1;
        stats.durations[BUCKETS - 1] = 1;
        assert_eq!(stats.percentile(50), Some(25));
        assert_eq!(stats.percentile(98), Some(25));
        assert_eq!(stats.percentile(99), Some(1_000));
        assert_eq!(stats.percentile(100), Some(15_000));
    }
}
