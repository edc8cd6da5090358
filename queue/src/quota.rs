//! Room: how many jobs of a tenant may wait.
//! Takes: a tenant and how many jobs somebody wants to add. Gives: how many of them there is room for.
//! Never: says no without having counted at that moment; counts for tenants without a bound.
//!
//! Counting is exact and costs a statement, so most additions are allowed by what was counted less than a
//! second ago and what this process has added since. Close to the bound every one is counted, one
//! transaction of the tenant after another. What goes over it all the same: single jobs of several API
//! processes at the same moment, and what was added by SQL and is not committed yet.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use harkara_shared::database::{query, query_as};
use sqlx::PgConnection;

use crate::error::Error;

/// How long a reading counts: other processes add, too, and the bound may be changed.
const FRESH: Duration = Duration::from_secs(1);

/// Bound of the memory: past it all is forgotten, and read anew.
const MOST_KNOWN: usize = 100_000;

/// What is known of each tenant.
#[derive(Debug, Default)]
pub(crate) struct Quotas(Mutex<HashMap<i32, Seen>>);

#[derive(Debug, Clone, Copy)]
struct Seen {
    at: Instant,
    most: Option<i64>,
    /// What was read, and what was added since.
    waiting: i64,
}

/// A bound and how much of it is taken.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, sqlx::FromRow)]
pub(crate) struct Depth {
    #[sqlx(rename = "max_waiting")]
    pub(crate) most: Option<i64>,
    pub(crate) waiting: i64,
}

impl Depth {
    /// How many of `wanted` there is room for.
    pub(crate) fn room(self, wanted: i64) -> i64 {
        self.most
            .map_or(wanted, |most| (most - self.waiting).clamp(0, wanted))
    }

    pub(crate) fn refusal(self) -> Error {
        let number = |count: i64| u64::try_from(count).unwrap_or_default();
        Error::DepthQuota {
            limit: number(self.most.unwrap_or_default()),
            waiting: number(self.waiting),
        }
    }
}

impl Quotas {
    /// Whether what is known allows `wanted` more; they are noted if so.
    pub(crate) fn allows(&self, tenant: i32, wanted: i64) -> bool {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(seen) = known.get_mut(&tenant) else {
            return false;
        };
        if seen.at.elapsed() >= FRESH {
            return false;
        }
        let Some(most) = seen.most else {
            return true;
        };
        let then = seen.waiting.saturating_add(wanted);
        // Within a tenth of the bound nothing is taken for granted.
        if then > most - most / 10 - 1 {
            return false;
        }
        seen.waiting = then;
        true
    }

    /// Counts.
    pub(crate) async fn read(
        &self,
        connection: &mut PgConnection,
        tenant: i32,
    ) -> Result<Depth, sqlx::Error> {
        let at = Instant::now();
        let depth: Depth = query_as(include_str!("quota/depth.sql"))
            .bind(tenant)
            .fetch_optional(connection)
            .await?
            .unwrap_or_default();
        self.note(tenant, depth, at);
        Ok(depth)
    }

    fn note(&self, tenant: i32, depth: Depth, at: Instant) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MOST_KNOWN {
            known.clear();
        }
        let seen = Seen {
            at,
            most: depth.most,
            waiting: depth.waiting,
        };
        known.insert(tenant, seen);
    }

    /// Notes that `count` were allowed after a reading.
    pub(crate) fn add(&self, tenant: i32, count: i64) {
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(seen) = known.get_mut(&tenant) {
            seen.waiting = seen.waiting.saturating_add(count);
        }
    }

    /// Goes on if there is room for all of `wanted` beside others that are allowed and not there yet.
    pub(crate) async fn require(
        &self,
        connection: &mut PgConnection,
        tenant: i32,
        wanted: i64,
        beside: i64,
    ) -> Result<(), Error> {
        if wanted == 0 || self.allows(tenant, wanted) {
            return Ok(());
        }
        // One after another, so far as each is a transaction: nobody counts while another one's jobs are
        // on their way.
        query(include_str!("quota/lock_depth.sql"))
            .bind(tenant)
            .execute(&mut *connection)
            .await?;
        let mut depth = self.read(connection, tenant).await?;
        self.add(tenant, beside);
        depth.waiting += beside;
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

    fn known(most: Option<i64>, waiting: i64, age: Duration) -> Quotas {
        let quotas = Quotas::default();
        let at = Instant::now().checked_sub(age).unwrap();
        quotas.note(1, Depth { most, waiting }, at);
        quotas
    }

    #[test]
    fn what_is_known_allows_only_what_stays_well_below_the_bound() {
        let quotas = known(Some(100), 0, Duration::ZERO);
        assert!(quotas.allows(1, 80));
        assert!(quotas.allows(1, 9), "89 are below nine tenths");
        assert!(!quotas.allows(1, 1), "90 are not");
        assert!(!quotas.allows(2, 1), "nothing is known of another tenant");
        assert!(!known(Some(1), 0, Duration::ZERO).allows(1, 1));
    }

    #[test]
    fn a_reading_is_good_for_a_second_and_its_bound_as_well() {
        assert!(known(None, 0, Duration::ZERO).allows(1, 1 << 40));
        assert!(!known(None, 0, FRESH).allows(1, 1));
        assert!(!known(Some(100), 0, FRESH).allows(1, 1));
    }

    #[test]
    fn there_is_room_up_to_the_bound_and_none_beyond_it() {
        let depth = |waiting| Depth {
            most: Some(10),
            waiting,
        };
        assert_eq!(depth(4).room(3), 3);
        assert_eq!(depth(8).room(3), 2);
        assert_eq!(depth(12).room(3), 0, "it may have been lowered");
        assert_eq!(Depth::default().room(3), 3);
    }
}
