//! Room: limits of requests.
//! Takes: who asks (a subject: a key, a person, an address that signs in) and under which policies.
//! Gives: whether the request may go on, and how the policies stand: exact over all replicas.
//! Never: knows what is asked, or who may ask it.
//!
//! The counters stand in the database (`app.charge_requests`), in a table that is not
//! logged: one statement a charge, and no wait for the disk. Requests of one subject that come to a
//! process while its statement is under way share the next one. A subject that comes more than 50 times
//! a second is *hot*: the process takes tokens ahead with each call, up to 64 and at most an eighth of
//! what remains, spends them by itself for at most 250 ms, never beyond the window they were charged to,
//! and gives back what is unspent. Buckets are not taken ahead of.
//!
//! So never more than quota and burst pass, over all replicas, and exactly as many as long as all
//! replicas are asked or have given back what they held.

mod charge;
mod local_bucket;
mod policy;
mod rate_estimator;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use harkara_shared::database::query_as;
use sqlx::PgPool;

pub use charge::{Charge, Standing};
pub(crate) use charge::{RATELIMIT, RATELIMIT_POLICY};
use local_bucket::{Answer, Call, Granted, LocalBucket, Step};
pub use policy::{InvalidPolicy, Policies, Policy, Strategy};

/// Longest that tokens taken ahead may be spent.
const HOLD: Duration = Duration::from_millis(250);

/// How long a subject is remembered that nobody hears of.
const FORGOTTEN: Duration = Duration::from_secs(10);

/// Charges requests. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RequestLimits(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    buckets: Mutex<HashMap<String, Arc<LocalBucket>>>,
}

impl RequestLimits {
    /// Limits whose counters stand in the database of `pool`, whose login works across tenants.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self(Arc::new(Inner {
            pool,
            buckets: Mutex::default(),
        }))
    }

    /// Charges one request of `subject` under all policies, or under none. A subject has the same
    /// policies everywhere; when they change, counters go on as far as name, strategy and window are
    /// the same.
    ///
    /// # Errors
    /// When the database cannot be asked: whether something was charged is then unknown.
    pub async fn charge(&self, subject: &str, policies: &Policies) -> Answer {
        if policies.all().is_empty() {
            return Ok(Charge {
                policies: policies.clone(),
                allowed: true,
                standings: Vec::new(),
            });
        }
        let bucket = self.bucket(subject, policies);
        match bucket.ask(policies, Instant::now()) {
            Step::Known(charge) => Ok(charge),
            Step::Wait(answer, calls) => {
                if calls {
                    // A task of its own: others wait for it when this request is given up.
                    tokio::spawn(make_calls(self.0.pool.clone(), bucket));
                }
                let lost = |_| Err(Arc::new(sqlx::Error::WorkerCrashed));
                answer.await.unwrap_or_else(lost)
            }
        }
    }

    /// Gives back what was taken ahead and is past its time, and forgets subjects nobody hears of. To be
    /// called about once a second.
    pub(crate) fn settle(&self) {
        let now = Instant::now();
        let buckets = {
            let mut buckets = self.buckets();
            if let Some(since) = now.checked_sub(FORGOTTEN) {
                // One that somebody holds is about to be used.
                buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !bucket.is_idle(since));
            }
            buckets.values().cloned().collect::<Vec<_>>()
        };
        for bucket in buckets {
            if bucket.settle(false, now) {
                tokio::spawn(make_calls(self.0.pool.clone(), bucket));
            }
        }
    }

    /// Gives everything back that was taken ahead.
    pub(crate) async fn finish(&self) {
        let buckets: Vec<_> = self.buckets().values().cloned().collect();
        for bucket in buckets {
            if bucket.settle(true, Instant::now()) {
                make_calls(self.0.pool.clone(), bucket).await;
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

/// Asks the database until nobody of the bucket waits.
async fn make_calls(pool: PgPool, bucket: Arc<LocalBucket>) {
    while let Some(call) = bucket.begin(Instant::now()) {
        let started = Instant::now();
        match ask(&pool, &bucket.subject, &call).await {
            Ok(granted) => bucket.end(call, granted, started, Instant::now()),
            Err(error) => bucket.fail(call, error),
        }
    }
}

/// One row of the answer, of one policy. Times in microseconds.
#[derive(Debug, sqlx::FromRow)]
struct Row {
    granted: i32,
    remaining: i64,
    reset: i64,
    retry: i64,
    hold: i64,
    moment: i64,
}

async fn ask(pool: &PgPool, subject: &str, call: &Call) -> Result<Granted, sqlx::Error> {
    let columns = call.policies.columns();
    let rows: Vec<Row> = query_as(include_str!("../sql/charge_requests.sql"))
        .bind(subject)
        .bind(&columns.names)
        .bind(&columns.strategies)
        .bind(&columns.quotas)
        .bind(&columns.bursts)
        .bind(&columns.widths)
        .bind(i32::try_from(call.need()).unwrap_or(i32::MAX))
        .bind(call.ahead)
        .bind(micros(HOLD))
        .bind(i32::try_from(call.owed.count).unwrap_or(i32::MAX))
        .bind(call.owed.moment)
        .fetch_all(pool)
        .await?;
    let first = rows.first().ok_or(sqlx::Error::RowNotFound)?;
    Ok(Granted {
        granted: u32::try_from(first.granted).unwrap_or(0),
        hold: duration(first.hold),
        moment: first.moment,
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
