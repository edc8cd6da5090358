//! Request limits, exact over all replicas.
//!
//! A request is charged to a subject (an API key, a user, a portal link, an address that signs in) under the
//! subject's policies. Counters live in the database (`app.charge_requests`), in an unlogged table: one
//! statement a charge, and no wait for the disk. Requests of one subject that arrive while its statement runs
//! share the next one. A subject with more than 50 requests a second is *hot*: each call reserves tokens
//! ahead, up to 64 and at most an eighth of the remaining quota; the process spends them for at most 250 ms, never
//! beyond the window they were charged to, and returns the unspent rest. Bucket strategies reserve
//! nothing ahead.
//!
//! Over all replicas, never more than quota and burst pass, and exactly as many once every replica has
//! spent or returned its reserved tokens.

mod charge;
mod local_bucket;
mod rate_estimator;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use harkara_accounts::Policies;
use harkara_shared::database::query_as;
use sqlx::PgPool;

pub use charge::{Charge, Standing};
pub(crate) use charge::{RATELIMIT, RATELIMIT_POLICY};
use local_bucket::{Call, CallResult, ChargeResult, LocalBucket, Step};

/// Maximum time for which tokens reserved ahead can be spent.
const MAX_RESERVATION: Duration = Duration::from_millis(250);

/// How long a subject without requests is kept in memory.
const DROP_IDLE_AFTER: Duration = Duration::from_secs(10);

/// Charges requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RequestLimits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    buckets: Mutex<HashMap<String, Arc<LocalBucket>>>,
}

impl RequestLimits {
    /// Limits with their counters in the database of `pool`, whose role works across tenants.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self(Arc::new(Inner {
            pool,
            buckets: Mutex::default(),
        }))
    }

    /// Charges one request of `subject` under all policies, or under none. A subject has the same
    /// policies everywhere; when they change, a counter continues if name, strategy and window are the
    /// same.
    ///
    /// # Errors
    /// When the database fails; whether the request was charged is then unknown.
    pub async fn charge(&self, subject: &str, policies: &Policies) -> ChargeResult {
        if policies.all().is_empty() {
            return Ok(Charge {
                policies: policies.clone(),
                allowed: true,
                standings: Vec::new(),
            });
        }
        let bucket = self.bucket(subject, policies);
        match bucket.charge(policies, Instant::now()) {
            Step::Decided(charge) => Ok(charge),
            Step::Wait(result, starts_calls) => {
                if starts_calls {
                    // A task of its own: other requests wait for it even if this one is dropped.
                    tokio::spawn(run_calls(self.0.pool.clone(), bucket));
                }
                let dropped = |_| Err(Arc::new(sqlx::Error::WorkerCrashed));
                result.await.unwrap_or_else(dropped)
            }
        }
    }

    /// Returns expired reservations and drops idle subjects. Must be called about once a second.
    pub(crate) fn settle(&self) {
        let now = Instant::now();
        let buckets = {
            let mut buckets = self.buckets();
            if let Some(since) = now.checked_sub(DROP_IDLE_AFTER) {
                // A bucket with another owner is about to be used.
                buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_idle(since));
            }
            buckets.values().cloned().collect::<Vec<_>>()
        };
        for bucket in buckets {
            if bucket.settle(false, now) {
                tokio::spawn(run_calls(self.0.pool.clone(), bucket));
            }
        }
    }

    /// Returns all reservations.
    pub(crate) async fn return_all(&self) {
        let buckets: Vec<_> = self.buckets().values().cloned().collect();
        for bucket in buckets {
            if bucket.settle(true, Instant::now()) {
                run_calls(self.0.pool.clone(), bucket).await;
            }
        }
    }

    fn buckets(&self) -> MutexGuard<'_, HashMap<String, Arc<LocalBucket>>> {
        self.0
            .buckets
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn bucket(&self, subject: &str, policies: &Policies) -> Arc<LocalBucket> {
        let mut buckets = self.buckets();
        if let Some(bucket) = buckets.get(subject) {
            return Arc::clone(bucket);
        }
        let bucket = Arc::new(LocalBucket::new(subject, policies));
        buckets.insert(subject.to_owned(), Arc::clone(&bucket));
        bucket
    }
}

/// Charges at the database until no request of the bucket waits.
async fn run_calls(pool: PgPool, bucket: Arc<LocalBucket>) {
    while let Some(call) = bucket.begin_call(Instant::now()) {
        let started = Instant::now();
        match call_database(&pool, &bucket.subject, &call).await {
            Ok(result) => bucket.end_call(call, result, started, Instant::now()),
            Err(error) => bucket.fail_call(call, error),
        }
    }
}

/// One row of `app.charge_requests`: the state of one policy. Times and durations in microseconds.
#[derive(Debug, sqlx::FromRow)]
struct Row {
    granted: i32,
    remaining: i64,
    reset: i64,
    retry: i64,
    hold: i64,
    moment: i64,
}

async fn call_database(
    pool: &PgPool,
    subject: &str,
    call: &Call,
) -> Result<CallResult, sqlx::Error> {
    let columns = call.policies.columns();
    let rows: Vec<Row> = query_as(include_str!("../sql/charge_requests.sql"))
        .bind(subject)
        .bind(&columns.names)
        .bind(&columns.strategies)
        .bind(&columns.quotas)
        .bind(&columns.bursts)
        .bind(&columns.widths)
        .bind(i32::try_from(call.waiting_requests()).unwrap_or(i32::MAX))
        .bind(call.ahead)
        .bind(micros(MAX_RESERVATION))
        .bind(i32::try_from(call.unspent.count).unwrap_or(i32::MAX))
        .bind(call.unspent.charged_at)
        .fetch_all(pool)
        .await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(CallResult {
        granted: u32::try_from(first.granted).unwrap_or(0),
        hold: duration(first.hold),
        charged_at: first.moment,
        standings: rows.iter().map(Standing::from).collect(),
    })
}

impl From<&Row> for Standing {
    fn from(row: &Row) -> Self {
        Self {
            remaining: u64::try_from(row.remaining).unwrap_or(0),
            reset: duration(row.reset),
            retry: duration(row.retry),
        }
    }
}

fn micros(duration: Duration) -> i64 {
    i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)
}

fn duration(micros: i64) -> Duration {
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}
