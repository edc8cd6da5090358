//! Enforces the limit on the waiting jobs of a tenant (`max_waiting`).
//!
//! An exact count costs a statement, so most enqueues are allowed on the basis of a count less than a
//! second old and of what this process has added since. Close to the limit every enqueue counts, one
//! transaction of the tenant after another. The limit can still be exceeded by single jobs enqueued by
//! several API processes at the same moment, and by jobs that SQL clients have added and not committed.
//!
//! Never refuses without an exact count, and never counts for tenants without a limit.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use harkara_shared::database::{query, query_as};
use sqlx::PgConnection;

use crate::error::Error;

/// How long a count is used: other processes add jobs too, and the limit may be changed.
const MAX_COUNT_AGE: Duration = Duration::from_secs(1);

/// Most tenants whose counts are kept; when there are more, all are forgotten.
const MAX_KNOWN_TENANTS: usize = 100_000;

/// The latest counts by tenant number.
#[derive(Debug, Default)]
pub(crate) struct Quotas(Mutex<HashMap<i32, KnownDepth>>);

#[derive(Debug, Clone, Copy)]
struct KnownDepth {
    counted_at: Instant,
    limit: Option<i64>,
    /// The counted jobs and those added since.
    waiting: i64,
}

/// A tenant's limit and how many of its jobs are waiting.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Depth {
    /// `None` if the tenant has no limit.
    #[sqlx(rename = "max_waiting")]
    pub(crate) limit: Option<i64>,
    pub(crate) waiting: i64,
}

impl Depth {
    /// How many of `wanted` jobs the limit allows.
    pub(crate) fn room(self, wanted: i64) -> i64 {
        self.limit
            .map_or(wanted, |limit| (limit - self.waiting).clamp(0, wanted))
    }

    /// The error for jobs that the limit does not allow.
    pub(crate) fn refusal(self) -> Error {
        // A refusal implies a limit, and counts are never negative.
        Error::DepthQuota {
            limit: self.limit.unwrap_or(0).unsigned_abs(),
            waiting: self.waiting.unsigned_abs(),
        }
    }
}

impl Quotas {
    fn lock(&self) -> MutexGuard<'_, HashMap<i32, KnownDepth>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the known count allows `wanted` more jobs; adds them to it if so.
    pub(crate) fn allows(&self, tenant: i32, wanted: i64) -> bool {
        let mut depths = self.lock();
        let Some(known) = depths.get_mut(&tenant) else {
            return false;
        };
        if known.counted_at.elapsed() >= MAX_COUNT_AGE {
            return false;
        }
        let Some(limit) = known.limit else {
            return true;
        };
        let waiting = known.waiting.saturating_add(wanted);
        // Within a tenth of the limit only an exact count will do.
        if waiting > limit - limit / 10 - 1 {
            return false;
        }
        known.waiting = waiting;
        true
    }

    /// Counts the waiting jobs of a tenant.
    pub(crate) async fn count(
        &self,
        connection: &mut PgConnection,
        tenant: i32,
    ) -> Result<Depth, sqlx::Error> {
        let counted_at = Instant::now();
        // A tenant without a row has no limit.
        let depth: Depth = query_as(include_str!("quota/depth.sql"))
            .bind(tenant)
            .fetch_optional(connection)
            .await?
            .unwrap_or_default();
        self.remember(tenant, depth, counted_at);
        Ok(depth)
    }

    fn remember(&self, tenant: i32, depth: Depth, counted_at: Instant) {
        let mut depths = self.lock();
        if depths.len() >= MAX_KNOWN_TENANTS {
            depths.clear();
        }
        let known = KnownDepth {
            counted_at,
            limit: depth.limit,
            waiting: depth.waiting,
        };
        depths.insert(tenant, known);
    }

    /// Adds jobs that were allowed after a count.
    pub(crate) fn add(&self, tenant: i32, count: i64) {
        if let Some(known) = self.lock().get_mut(&tenant) {
            known.waiting = known.waiting.saturating_add(count);
        }
    }

    /// Fails unless the limit allows all of `wanted` jobs in addition to `pending` ones, which are
    /// allowed and not inserted yet.
    pub(crate) async fn require(
        &self,
        connection: &mut PgConnection,
        tenant: i32,
        wanted: i64,
        pending: i64,
    ) -> Result<(), Error> {
        if wanted == 0 || self.allows(tenant, wanted) {
            return Ok(());
        }
        // Serializes the tenant's transactions, so that none counts while another is about to commit
        // jobs.
        query(include_str!("quota/lock_depth.sql"))
            .bind(tenant)
            .execute(&mut *connection)
            .await?;
        let mut depth = self.count(connection, tenant).await?;
        self.add(tenant, pending);
        depth.waiting += pending;
        if depth.room(wanted) < wanted {
            return Err(depth.refusal());
        }
        self.add(tenant, wanted);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known(limit: Option<i64>, waiting: i64, age: Duration) -> Quotas {
        let quotas = Quotas::default();
        let at = Instant::now().checked_sub(age).unwrap();
        quotas.remember(1, Depth { limit, waiting }, at);
        quotas
    }

    #[test]
    fn known_count_allows_only_jobs_well_below_the_limit() {
        let quotas = known(Some(100), 0, Duration::ZERO);
        assert!(quotas.allows(1, 80));
        assert!(quotas.allows(1, 9), "89 is below nine tenths");
        assert!(!quotas.allows(1, 1), "90 is not");
        assert!(!quotas.allows(2, 1), "another tenant has not been counted");
        assert!(!known(Some(1), 0, Duration::ZERO).allows(1, 1));
    }

    #[test]
    fn known_count_and_limit_expire_after_a_second() {
        assert!(known(None, 0, Duration::ZERO).allows(1, 1 << 40));
        assert!(!known(None, 0, MAX_COUNT_AGE).allows(1, 1));
        assert!(!known(Some(100), 0, MAX_COUNT_AGE).allows(1, 1));
    }

    #[test]
    fn room_ends_at_the_limit() {
        let depth = |waiting| Depth {
            limit: Some(10),
            waiting,
        };
        assert_eq!(depth(4).room(3), 3);
        assert_eq!(depth(8).room(3), 2);
        assert_eq!(depth(12).room(3), 0, "the limit may have been lowered");
        assert_eq!(Depth::default().room(3), 3);
    }
}
