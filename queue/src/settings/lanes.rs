//! Room: settings of lanes.
//! Takes: a tenant, a queue, a lane and what is to change. Gives: it changed; a tenant's lanes and how
//! they stand. Never: makes a queue, or reaches a lane of another tenant.

use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::database::{query, query_as, query_scalar};
use harkara_shared::id::TenantId;

use super::change::{Change, LimitRow, LimiterChange, change_limiters, microseconds, natural};
use super::{Breaker, BreakerState, LaneChange, LaneSettings, SettingsError};
use crate::engine::Engine;
use crate::error::Error;
use crate::job::{Lane, LimitUse};

#[derive(sqlx::FromRow)]
struct Row {
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

impl From<Row> for LaneSettings {
    fn from(row: Row) -> Self {
        let breaker = row.breaker_after.zip(row.breaker_rest);
        Self {
            id: row.id,
            key: row.key,
            ordered: row.strict,
            weight: u16::try_from(row.weight).unwrap_or(1),
            paused: row.paused,
            parked_until: row.parked_until,
            breaker: breaker.map(|(failures, rest)| Breaker {
                failures: natural(failures),
                share: u8::try_from(row.breaker_share).unwrap_or(100),
                window: span(row.breaker_window),
                rest: span(rest),
            }),
            breaker_state: match row.breaker.as_str() {
                "o" => BreakerState::Open,
                "h" => BreakerState::HalfOpen,
                _ => BreakerState::Closed,
            },
            failures: natural(row.failures),
            limit: row.limit.into(),
            named: row
                .named
                .into_iter()
                .zip(row.costs)
                .map(|(key, cost)| LimitUse {
                    key,
                    cost: u16::try_from(cost).unwrap_or(u16::MAX),
                })
                .collect(),
        }
    }
}

impl Engine {
    /// At most `limit` lanes of a tenant in a queue whose number is greater than `after`, by number.
    ///
    /// # Errors
    /// When the database refuses.
    pub async fn lanes(
        &self,
        tenant: TenantId,
        queue: &str,
        after: i64,
        limit: u32,
    ) -> Result<Vec<LaneSettings>, Error> {
        self.read_lanes(tenant, queue, None, after, limit).await
    }

    /// The rows of one lane, which are as many as its jobs name different limits.
    ///
    /// # Errors
    /// When the database refuses.
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
        let rows: Vec<Row> = query_as(include_str!("../sql/show_lanes.sql"))
            .bind(tenant)
            .bind(queue)
            .bind(lane.map(Lane::key))
            .bind(lane.map(is_strict))
            .bind(after)
            .bind(i64::from(limit))
            .fetch_all(self.pool())
            .await?;
        Ok(rows.into_iter().map(LaneSettings::from).collect())
    }

    /// Changes a lane of a tenant, all of it or nothing, and makes it if it is not there.
    ///
    /// # Errors
    /// [`SettingsError::QueueNotFound`], [`SettingsError::InvalidLimit`], or when the database refuses.
    pub async fn set_lane(
        &self,
        tenant: TenantId,
        queue: &str,
        lane: &Lane,
        change: &LaneChange,
    ) -> Result<(), SettingsError> {
        let queue: Option<i32> = query_scalar(include_str!("../sql/find_queue.sql"))
            .bind(queue)
            .fetch_optional(self.pool())
            .await?;
        let queue = queue.ok_or(SettingsError::QueueNotFound)?;
        let number = self.interner().tenant_number(tenant).await?;
        let (key, strict) = (lane.key(), is_strict(lane));
        // In a transaction of its own: a lane that is made and then not changed does no harm.
        query(include_str!("../sql/open_lane.sql"))
            .bind(queue)
            .bind(number)
            .bind(key)
            .bind(strict)
            .execute(self.pool())
            .await?;
        let mut limiters = Vec::new();
        let (limiter, made): (Option<i64>, bool) =
            query_as(include_str!("../sql/limiter_of_lane.sql"))
                .bind(queue)
                .bind(number)
                .bind(key)
                .bind(strict)
                .bind(change.limit.sets_something())
                .fetch_one(self.pool())
                .await?;
        let made = limiter.filter(|_| made && change.limit.counts());
        if let Some(limiter) = limiter.filter(|_| !change.limit.is_empty()) {
            limiters.push(LimiterChange {
                limiter,
                key: None,
                change: change.limit,
            });
        }
        let weight = match change.weight {
            Change::Keep => None,
            Change::Remove => Some(1),
            Change::Set(weight) => i16::try_from(weight).ok(),
        };
        let breaker = change.breaker.value();
        let mut tx = self.pool().begin().await?;
        query(include_str!("../sql/set_lane.sql"))
            .bind(queue)
            .bind(number)
            .bind(key)
            .bind(strict)
            .bind(weight)
            .bind(change.paused)
            .bind(change.unpark)
            .bind(change.breaker != Change::Keep)
            .bind(breaker.map(|breaker| i32::try_from(breaker.failures).unwrap_or(i32::MAX)))
            .bind(breaker.map(|breaker| microseconds(breaker.rest)))
            .bind(breaker.map(|breaker| i16::from(breaker.share)))
            .bind(breaker.map(|breaker| microseconds(breaker.window)))
            .execute(&mut *tx)
            .await?;
        // Such limiters are not removed.
        let unfinished = change_limiters(&mut tx, &limiters)
            .await?
            .unwrap_or_default();
        self.wake(&mut tx, Some(queue), None).await?;
        self.record_audit(&mut tx).await?;
        tx.commit().await?;
        self.after_change(unfinished, made).await
    }
}

fn span(microseconds: i64) -> Duration {
    Duration::from_micros(u64::try_from(microseconds).unwrap_or_default())
}

fn is_strict(lane: &Lane) -> bool {
    matches!(lane, Lane::Ordered(_))
}
