//! Room: what keys have used.
//! Takes: requests that were let through. Gives: their number by key and month, written once a second;
//! when a key was last used, to the minute; what a key enqueued, told to the audit log once a minute.
//! Never: makes a request wait, or forgets a number because it could not be written.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use axum::extract::MatchedPath;
use axum::http::Method;
use axum::http::request::Parts;
use chrono::{DateTime, Datelike, NaiveDate, Utc};
use harkara_shared::audit::{self, Actor, Entry};
use harkara_shared::clock;
use harkara_shared::database::{is_conflict, is_unavailable, query};
use harkara_shared::id::{ApiKeyId, TenantId};
use serde_json::json;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use crate::ApiState;
use crate::auth::Who;

/// How often numbers are written.
const BEAT: Duration = Duration::from_secs(1);

/// How often the audit log is told, and a key's last use written.
const MINUTE: Duration = Duration::from_secs(60);

/// The action under which the audit log is told of requests of this route, if it is told of many at
/// once: keys enqueue more than one would read.
pub(crate) fn operation(parts: &Parts) -> Option<&'static str> {
    if parts.method != Method::POST {
        return None;
    }
    match parts.extensions.get::<MatchedPath>()?.as_str() {
        "/v1/jobs" | "/v1/jobs/batch" => Some("jobs.enqueue"),
        "/v1/events" => Some("events.post"),
        _ => None,
    }
}

/// The first day of the month of a moment.
pub(crate) fn month(moment: DateTime<Utc>) -> NaiveDate {
    let day = moment.date_naive();
    day.with_day(1).unwrap_or(day)
}

/// Adds up what was let through. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct UsageRecorder(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    pool: PgPool,
    counts: Mutex<Counts>,
}

#[derive(Debug, Default)]
struct Counts {
    /// Requests that are not written yet.
    requests: HashMap<(ApiKeyId, NaiveDate), i64>,
    /// Last uses that are to be written.
    used: HashMap<ApiKeyId, DateTime<Utc>>,
    /// When the last use of a key was last written.
    touched: HashMap<ApiKeyId, Instant>,
    enqueued: HashMap<(TenantId, ApiKeyId, &'static str), Enqueued>,
}

/// What a key enqueued since the audit log was told.
#[derive(Debug, Clone)]
struct Enqueued {
    actor: Actor,
    requests: i64,
    since: DateTime<Utc>,
    until: DateTime<Utc>,
}

impl UsageRecorder {
    pub(crate) fn new(pool: PgPool) -> Self {
        Self(Arc::new(Inner {
            pool,
            counts: Mutex::default(),
        }))
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.0.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A request was let through.
    pub(crate) fn count(&self, who: Who) {
        let Who::Key { id, .. } = who else {
            return;
        };
        let now = clock::now();
        let mut counts = self.counts();
        *counts.requests.entry((id, month(now))).or_default() += 1;
        let is_due = |written: &Instant| written.elapsed() >= MINUTE;
        if counts.touched.get(&id).is_none_or(is_due) {
            counts.used.insert(id, now);
        }
    }

    /// A key enqueued something.
    pub(crate) fn note(&self, who: Who, tenant: TenantId, actor: &Actor, action: &'static str) {
        let Who::Key { id, .. } = who else {
            return;
        };
        let now = clock::now();
        let mut counts = self.counts();
        let enqueued = counts.enqueued.entry((tenant, id, action));
        let enqueued = enqueued.or_insert_with(|| Enqueued {
            // Of many requests, none is named.
            actor: Actor {
                request_id: None,
                reason: None,
                ..actor.clone()
            },
            requests: 0,
            since: now,
            until: now,
        });
        enqueued.requests += 1;
        enqueued.until = now;
    }

    /// Writes what was counted. What cannot be written is kept for the next time; when the answer of the
    /// database was lost, it may then be counted twice.
    ///
    /// # Errors
    /// When the database refuses.
    pub(crate) async fn flush(&self) -> Result<(), sqlx::Error> {
        let requests = std::mem::take(&mut self.counts().requests);
        if let Err(error) = self.write_requests(&requests).await {
            let mut counts = self.counts();
            for (place, count) in requests {
                *counts.requests.entry(place).or_default() += count;
            }
            return Err(error);
        }
        let used = std::mem::take(&mut self.counts().used);
        let written = self.write_uses(&used).await;
        let mut counts = self.counts();
        counts.touched.retain(|_, at| at.elapsed() < MINUTE);
        match written {
            Ok(()) => {
                let now = Instant::now();
                counts.touched.extend(used.into_keys().map(|id| (id, now)));
            }
            Err(_) => {
                for (id, moment) in used {
                    counts.used.entry(id).or_insert(moment);
                }
            }
        }
        written
    }

    async fn write_requests(
        &self,
        requests: &HashMap<(ApiKeyId, NaiveDate), i64>,
    ) -> Result<(), sqlx::Error> {
        if requests.is_empty() {
            return Ok(());
        }
        let (places, counts): (Vec<_>, Vec<i64>) = requests.iter().unzip();
        let (keys, months): (Vec<ApiKeyId>, Vec<NaiveDate>) = places.into_iter().copied().unzip();
        query(include_str!("sql/add_usage.sql"))
            .bind(keys)
            .bind(months)
            .bind(counts)
            .execute(&self.0.pool)
            .await?;
        Ok(())
    }

    async fn write_uses(&self, used: &HashMap<ApiKeyId, DateTime<Utc>>) -> Result<(), sqlx::Error> {
        if used.is_empty() {
            return Ok(());
        }
        let (keys, moments): (Vec<ApiKeyId>, Vec<DateTime<Utc>>) = used.iter().unzip();
        query(include_str!("sql/touch_keys.sql"))
            .bind(keys)
            .bind(moments)
            .execute(&self.0.pool)
            .await?;
        Ok(())
    }

    /// Tells the audit log what keys enqueued since it was told: one entry a key and action.
    ///
    /// # Errors
    /// When the database cannot be had: what is not told is kept for the next time.
    pub(crate) async fn tell(&self) -> Result<(), sqlx::Error> {
        let mut untold = std::mem::take(&mut self.counts().enqueued).into_iter();
        while let Some((place, enqueued)) = untold.next() {
            match self.tell_of(place, &enqueued).await {
                Ok(()) => {}
                Err(error) if is_unavailable(&error) || is_conflict(&error) => {
                    let mut counts = self.counts();
                    for (place, earlier) in std::iter::once((place, enqueued)).chain(untold) {
                        let now = counts.enqueued.entry(place);
                        now.and_modify(|later| {
                            later.requests += earlier.requests;
                            later.since = earlier.since;
                        })
                        .or_insert(earlier);
                    }
                    return Err(error);
                }
                // A tenant that is gone has no log.
                Err(error) => tracing::error!(error = %error, "the audit log refused an entry"),
            }
        }
        Ok(())
    }

    async fn tell_of(
        &self,
        (tenant, key, action): (TenantId, ApiKeyId, &'static str),
        enqueued: &Enqueued,
    ) -> Result<(), sqlx::Error> {
        let entry = Entry::new(action, key).after(json!({
            "requests": enqueued.requests,
            "since": enqueued.since,
            "until": enqueued.until,
        }));
        let mut tx = self.0.pool.begin().await?;
        audit::record(&mut tx, tenant, &enqueued.actor, &entry).await?;
        tx.commit().await
    }
}

/// Writes what was counted, and gives back what was taken ahead of limits, once a second until it is
/// told to stop.
pub(crate) async fn keep_books(state: ApiState, stop: CancellationToken) {
    let mut told = Instant::now();
    let mut failed = false;
    while stop
        .run_until_cancelled(tokio::time::sleep(BEAT))
        .await
        .is_some()
    {
        state.limits().settle();
        let mut written = state.usage().flush().await;
        if written.is_ok() && told.elapsed() >= MINUTE {
            written = state.usage().tell().await;
            told = Instant::now();
        }
        match written {
            Ok(()) => failed = false,
            // Said once: it is tried again every second.
            Err(error) if !failed => {
                failed = true;
                tracing::warn!(error = %error, "usage is kept until it can be written");
            }
            Err(_) => {}
        }
    }
}

/// Writes all that is left at the end.
pub(crate) async fn close_books(state: &ApiState) {
    state.limits().finish().await;
    for written in [state.usage().flush().await, state.usage().tell().await] {
        if let Err(error) = written {
            tracing::warn!(error = %error, "usage of the last moments is lost");
        }
    }
}

#[cfg(test)]
mod tests;
