//! Changes limiters, the rows that enforce limits, and decodes their columns.
//!
//! A change is made in one transaction. Running jobs that the changed limiters did not count before are
//! counted afterwards. Never waits for a parcel while it holds a limiter.

use std::fmt::Display;
use std::time::Duration;

use harkara_shared::database::{query, query_as, query_scalar};
use serde_json::{Map, Value};
use sqlx::PgConnection;

use super::error::SettingsError;
use super::limit::{Change, InvalidLimit, Limit, LimitChange, Rate};
use crate::engine::Engine;

/// How often running jobs are counted again because some of their rows were locked.
const MAX_RECOUNTS: usize = 100;

/// Pause between two counts: rows are locked for the length of one statement.
const RECOUNT_INTERVAL: Duration = Duration::from_millis(10);

impl LimitChange {
    fn to_json(self) -> Value {
        let mut members = Map::new();
        let changes = [
            ("count", self.rate),
            ("burst", self.burst),
            ("max_running", self.max_running),
        ];
        for (name, change) in changes {
            match change {
                Change::Keep => continue,
                Change::Remove => members.insert(name.to_owned(), Value::Null),
                Change::Set(number) => members.insert(name.to_owned(), number.into()),
            };
        }
        if let Some(per) = self.per {
            members.insert("period".to_owned(), microseconds(per).into());
        }
        members.into()
    }
}

/// Whole microseconds, the resolution of the database's intervals.
pub(super) fn microseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

/// The columns of a limit.
#[derive(sqlx::FromRow)]
pub(super) struct LimitRow {
    max_running: Option<i32>,
    running: Option<i32>,
    rate_count: Option<i32>,
    rate_period: Option<i64>,
    rate_burst: Option<i32>,
}

impl LimitRow {
    /// The limit; `owner` names its row in an error.
    pub(super) fn decode(self, owner: &str) -> Result<Limit, sqlx::Error> {
        let rate = match (self.rate_count, self.rate_period, self.rate_burst) {
            (Some(count), Some(period), Some(burst)) => Some(Rate {
                count: decode_number(owner, "rate_count", count)?,
                per: decode_duration(owner, "rate_period", period)?,
                burst: decode_number(owner, "rate_burst", burst)?,
            }),
            _ => None,
        };
        let running = self.max_running.and(self.running).unwrap_or(0);
        Ok(Limit {
            rate,
            max_running: self
                .max_running
                .map(|most| decode_number(owner, "max_running", most))
                .transpose()?,
            running: decode_number(owner, "running", running)?,
        })
    }
}

/// Converts a stored number; one out of range is an error that names row, column and value.
pub(super) fn decode_number<T: TryFrom<N>, N: Copy + Display>(
    row: &str,
    column: &str,
    number: N,
) -> Result<T, sqlx::Error> {
    T::try_from(number).map_err(|_| corrupt_row(row, column, number))
}

/// Converts stored microseconds.
pub(super) fn decode_duration(
    row: &str,
    column: &str,
    microseconds: i64,
) -> Result<Duration, sqlx::Error> {
    decode_number(row, column, microseconds).map(Duration::from_micros)
}

/// The error for a stored value that no release writes.
pub(super) fn corrupt_row(row: &str, column: &str, value: impl Display) -> sqlx::Error {
    sqlx::Error::Decode(format!("stored {row} is corrupt: `{column}` is {value}").into())
}

/// The value of a `weight` column after a change; `None` leaves it as it is.
pub(super) fn weight_column(change: Change<u16>) -> Option<i16> {
    match change {
        Change::Keep => None,
        Change::Remove => Some(1),
        // The column's constraint refuses what exceeds 1000.
        Change::Set(weight) => Some(i16::try_from(weight).unwrap_or(i16::MAX)),
    }
}

/// A change of one limiter: the row that enforces a limit and counts against it.
#[derive(Debug, Clone)]
pub(super) struct LimiterChange {
    pub(super) limiter: i64,
    /// The key of the limit, for errors; `None` for the limit of a queue, a tenant or a lane.
    pub(super) key: Option<String>,
    pub(super) change: LimitChange,
}

/// Locks all limiters in the engine's lock order, then changes one after another. Returns the limiters
/// whose running jobs could not all be counted because rows were locked. Returns `None`, with nothing
/// changed, when an unused limiter was removed in the meantime.
pub(super) async fn change_limiters(
    connection: &mut PgConnection,
    changes: &[LimiterChange],
) -> Result<Option<Vec<i64>>, SettingsError> {
    let limiters: Vec<i64> = changes.iter().map(|change| change.limiter).collect();
    let locked = query(include_str!("lock_limiters.sql"))
        .bind(&limiters)
        .fetch_all(&mut *connection)
        .await?;
    if locked.len() < limiters.len() {
        return Ok(None);
    }
    let mut uncounted = Vec::new();
    for LimiterChange {
        limiter,
        key,
        change,
    } in changes
    {
        let (fault, skipped_rows): (Option<String>, i32) = query_as(include_str!("set_limit.sql"))
            .bind(limiter)
            .bind(change.to_json())
            .fetch_one(&mut *connection)
            .await?;
        let problem = match fault.as_deref() {
            None => None,
            Some("burst") => Some(InvalidLimit::BurstWithoutRate),
            Some(_) if change.per.is_some() => Some(InvalidLimit::PerWithoutRate),
            Some(_) => Some(InvalidLimit::PerMissing),
        };
        if let Some(problem) = problem {
            return Err(SettingsError::InvalidLimit {
                key: key.clone(),
                problem,
            });
        }
        if skipped_rows > 0 {
            uncounted.push(*limiter);
        }
    }
    Ok(Some(uncounted))
}

impl Engine {
    /// Counts running jobs at the `uncounted` limiters until none is left out. A claim that started
    /// before the limiter `created` existed holds jobs that no limiter counted, so such claims are waited
    /// for first.
    pub(super) async fn count_running_jobs(
        &self,
        mut uncounted: Vec<i64>,
        created: Option<i64>,
    ) -> Result<(), SettingsError> {
        if let Some(limiter) = created {
            query(include_str!("wait_for_claims.sql"))
                .execute(self.pool())
                .await?;
            uncounted.retain(|other| *other != limiter);
            uncounted.push(limiter);
        }
        for _ in 0..MAX_RECOUNTS {
            let Some(limiter) = uncounted.last() else {
                break;
            };
            let skipped_rows: i32 = query_scalar(include_str!("count_running.sql"))
                .bind(limiter)
                .fetch_one(self.pool())
                .await?;
            if skipped_rows == 0 {
                uncounted.pop();
            } else {
                tokio::time::sleep(RECOUNT_INTERVAL).await;
            }
        }
        Ok(())
    }

    /// Wakes workers when the transaction commits: those of a queue, or of all queues in which a tenant
    /// has lanes.
    pub(super) async fn wake_workers(
        &self,
        connection: &mut PgConnection,
        queue: Option<i32>,
        tenant: Option<i32>,
    ) -> Result<(), sqlx::Error> {
        if self.notify() {
            query(include_str!("wake_workers.sql"))
                .bind(queue)
                .bind(tenant)
                .execute(connection)
                .await?;
        }
        Ok(())
    }
}
