//! Settings of lanes.
//!
//! Lists a tenant's lanes with their state, and changes one. Creates a lane that does not exist, but
//! never a queue. Never reaches a lane of another tenant.

use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::database::{query, query_as, query_scalar};
use harkara_shared::id::TenantId;

use super::error::SettingsError;
use super::limit::{Change, Limit, LimitChange};
use super::limiters::{
    LimitRow, LimiterChange, change_limiters, corrupt_row, decode_duration, decode_number,
    microseconds, weight_column,
};
use crate::engine::Engine;
use crate::error::Error;
use crate::job::{Lane, LimitUse};

/// The settings and state of a tenant's lane in a queue.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LaneSettings {
    /// Internal number, by which lanes are listed.
    pub id: i64,
    /// Its key; empty for the default lane.
    pub key: String,
    /// Whether its jobs run strictly one after another.
    pub ordered: bool,
    /// Its share of starts relative to the tenant's other lanes, 1 to 1000.
    pub weight: u16,
    /// Whether it is paused manually: none of its jobs start.
    pub paused: bool,
    /// Until when none of its jobs start because the receiving side asked for a pause or the breaker is
    /// open.
    pub parked_until: Option<DateTime<Utc>>,
    /// When failures stop the lane.
    pub breaker: Option<Breaker>,
    /// Whether failures have stopped it.
    pub breaker_state: BreakerState,
    /// Failures within the breaker's window; while the breaker is not closed, those that opened it and
    /// those of trial runs. Counted only while `breaker` is set.
    pub failures: u32,
    /// The limit on this lane's jobs.
    pub limit: Limit,
    /// The tenant's limits that its jobs name.
    pub named_limits: Vec<LimitUse>,
}

/// Stops a lane when too many of its runs fail.
///
/// A window begins with a failure and counts runs that succeed and runs with transient failures. A
/// failure opens the breaker when the window holds enough runs and enough of them failed. Then one job
/// is tried after each rest until one succeeds, which closes the breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Breaker {
    /// Fewest runs in a window that can open it, at least 1. With a share of 100, this is the number of
    /// consecutive failures.
    pub failures: u32,
    /// The percentage of these runs that must have failed, 1 to 100. With 100, each success ends the
    /// window.
    pub share: u8,
    /// Length of a window.
    pub window: Duration,
    /// How long it stays open before one job is tried.
    pub rest: Duration,
}

impl Breaker {
    /// The default length of a window.
    pub const DEFAULT_WINDOW: Duration = Duration::from_secs(5 * 60);

    /// A breaker that opens after this many consecutive failures.
    #[must_use]
    pub fn consecutive(failures: u32, rest: Duration) -> Self {
        Self {
            failures,
            share: 100,
            window: Self::DEFAULT_WINDOW,
            rest,
        }
    }
}

/// The state of a breaker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BreakerState {
    /// Jobs run normally.
    Closed,
    /// No job starts.
    Open,
    /// One job runs as a trial.
    HalfOpen,
}

/// A change of a lane's settings.
#[derive(Debug, Clone, Default)]
pub struct LaneChange {
    /// Its share of starts relative to the tenant's other lanes; 1 when removed.
    pub weight: Change<u16>,
    /// Whether none of its jobs start.
    pub paused: Option<bool>,
    /// Whether to end its parking now.
    pub unpark: bool,
    /// When failures stop the lane.
    pub breaker: Change<Breaker>,
    /// The limit on this lane's jobs.
    pub limit: LimitChange,
}

#[derive(sqlx::FromRow)]
struct LaneRow {
    id: i64,
    key: String,
    strict: bool,
    weight: i16,
    paused: bool,
    parked_until: Option<DateTime<Utc>>,
    breaker: String,
    breaker_after: Option<i32>,
    breaker_share: i16,
    breaker_window: i64,
    breaker_rest: Option<i64>,
    failures: i32,
    #[sqlx(flatten)]
    limit: LimitRow,
    named: Vec<String>,
    costs: Vec<i32>,
}

impl TryFrom<LaneRow> for LaneSettings {
    type Error = sqlx::Error;

    fn try_from(row: LaneRow) -> Result<Self, sqlx::Error> {
        let name = format!("lane {}", row.id);
        let breaker = match row.breaker_after.zip(row.breaker_rest) {
            None => None,
            Some((failures, rest)) => Some(Breaker {
                failures: decode_number(&name, "breaker_after", failures)?,
                share: decode_number(&name, "breaker_share", row.breaker_share)?,
                window: decode_duration(&name, "breaker_window", row.breaker_window)?,
                rest: decode_duration(&name, "breaker_rest", rest)?,
            }),
        };
        let limit_use = |(key, cost)| {
            Ok(LimitUse {
                key,
                cost: decode_number(&name, "costs", cost)?,
            })
        };
        Ok(Self {
            id: row.id,
            key: row.key,
            ordered: row.strict,
            weight: decode_number(&name, "weight", row.weight)?,
            paused: row.paused,
            parked_until: row.parked_until,
            breaker,
            breaker_state: match row.breaker.as_str() {
                "c" => BreakerState::Closed,
                "o" => BreakerState::Open,
                "h" => BreakerState::HalfOpen,
                unknown => return Err(corrupt_row(&name, "breaker", unknown)),
            },
            failures: decode_number(&name, "failures", row.failures)?,
            limit: row.limit.decode(&name)?,
            named_limits: row
                .named
                .into_iter()
                .zip(row.costs)
                .map(limit_use)
                .collect::<Result<_, sqlx::Error>>()?,
        })
    }
}

impl Engine {
    /// A tenant's lanes in a queue, at most `limit`, by internal number, starting after the number
    /// `after`.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn lanes(
        &self,
        tenant: TenantId,
        queue: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<LaneSettings>, Error> {
        self.read_lanes(tenant, queue, None, after, limit).await
    }

    /// The lanes with one key: one for each set of limits that their jobs name.
    ///
    /// # Errors
    /// When the statement fails.
    pub async fn lane(
        &self,
        tenant: TenantId,
        queue: &str,
        lane: &Lane,
    ) -> Result<Vec<LaneSettings>, Error> {
        self.read_lanes(tenant, queue, Some(lane), 0, u32::MAX)
            .await
    }

    async fn read_lanes(
        &self,
        tenant: TenantId,
        queue: &str,
        lane: Option<&Lane>,
        after: i64,
        limit: u32,
    ) -> Result<Vec<LaneSettings>, Error> {
        let rows: Vec<LaneRow> = query_as(include_str!("read_lanes.sql"))
            .bind(tenant)
            .bind(queue)
            .bind(lane.map(Lane::key))
            .bind(lane.map(is_strict))
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await?;
        let lanes = rows.into_iter().map(LaneSettings::try_from);
        Ok(lanes.collect::<Result<_, _>>()?)
    }

    /// Applies the whole change to a lane of a tenant, or none of it. Creates the lane if it does not
    /// exist.
    ///
    /// # Errors
    /// [`SettingsError::QueueNotFound`], [`SettingsError::InvalidLimit`], or when a statement fails.
    pub async fn set_lane(
        &self,
        tenant: TenantId,
        queue: &str,
        lane: &Lane,
        change: &LaneChange,
    ) -> Result<(), SettingsError> {
        let queue: Option<i32> = query_scalar(include_str!("find_queue.sql"))
            .bind(queue)
            .fetch_optional(self.pool())
            .await?;
        let queue = queue.ok_or(SettingsError::QueueNotFound)?;
        let number = self.interner().tenant_number(tenant).await?;
        let (key, strict) = (lane.key(), is_strict(lane));
        // Outside the transaction below: a lane that is created and then not changed does no harm.
        query(include_str!("open_lane.sql"))
            .bind(queue)
            .bind(number)
            .bind(key)
            .bind(strict)
            .execute(self.pool())
            .await?;
        let mut limiters = Vec::new();
        let (limiter, is_new): (Option<i64>, bool) = query_as(include_str!("limiter_of_lane.sql"))
            .bind(queue)
            .bind(number)
            .bind(key)
            .bind(strict)
            .bind(change.limit.needs_limiter())
            .fetch_one(self.pool())
            .await?;
        let new_limiter = limiter.filter(|_| is_new && change.limit.needs_running_count());
        if let Some(limiter) = limiter.filter(|_| !change.limit.is_empty()) {
            limiters.push(LimiterChange {
                limiter,
                key: None,
                change: change.limit,
            });
        }
        let breaker = change.breaker.value();
        let mut tx = self.pool().begin().await?;
        query(include_str!("set_lane.sql"))
            .bind(queue)
            .bind(number)
            .bind(key)
            .bind(strict)
            .bind(weight_column(change.weight))
            .bind(change.paused)
            .bind(change.unpark)
            .bind(change.breaker != Change::Keep)
            .bind(breaker.map(|breaker| i32::try_from(breaker.failures).unwrap_or(i32::MAX)))
            .bind(breaker.map(|breaker| microseconds(breaker.rest)))
            .bind(breaker.map(|breaker| i16::from(breaker.share)))
            .bind(breaker.map(|breaker| microseconds(breaker.window)))
            .execute(&mut *tx)
            .await?;
        // Never `None`: only limiters of keys are removed when unused.
        let uncounted = change_limiters(&mut tx, &limiters)
            .await?
            .unwrap_or_default();
        self.wake_workers(&mut tx, Some(queue), None).await?;
        self.record_audit(&mut tx).await?;
        tx.commit().await?;
        self.count_running_jobs(uncounted, new_limiter).await
    }
}

fn is_strict(lane: &Lane) -> bool {
    matches!(lane, Lane::Ordered(_))
}
