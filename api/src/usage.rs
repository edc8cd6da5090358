//! Usage of API keys: requests by key and month, the time of last use, and enqueues for the audit log.
//!
//! Counted in memory and written once a second (audit entries and last use once a minute). Requests never
//! wait for it, and numbers that cannot be written are kept for the next try.

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
use crate::auth::Principal;

/// How often counts are written.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);

/// How often audit entries and a key's last use are written.
const SUMMARY_INTERVAL: Duration = Duration::from_secs(60);

/// The audit action that summarizes requests of this route, if the audit log has one. An entry for each enqueue
/// of a key would be too many to read.
pub(crate) fn summary_action(parts: &Parts) -> Option<&'static str> {
    if parts.method != Method::POST {
        return None;
    }
    match parts.extensions.get::<MatchedPath>()?.as_str() {
        "/v1/jobs" | "/v1/jobs/batch" => Some("jobs.enqueue"),
        "/v1/events" => Some("events.post"),
        _ => None,
    }
}

/// The first day of a time's month.
pub(crate) fn month(time: DateTime<Utc>) -> NaiveDate {
    let day = time.date_naive();
    day.with_day(1).unwrap_or(day)
}

/// Counts requests that passed their limits. Cheap to clone.
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
    /// Times of last use that are not written yet.
    last_used: HashMap<ApiKeyId, DateTime<Utc>>,
    /// When the time of last use of a key was last written.
    last_use_written: HashMap<ApiKeyId, Instant>,
    /// Requests by summary action that are not in the audit log yet.
    actions: HashMap<(TenantId, ApiKeyId, &'static str), ActionSummary>,
}

/// Requests of a key since the last audit entry.
#[derive(Debug, Clone)]
struct ActionSummary {
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

    /// Counts a request that passed its limits, if a key made it.
    pub(crate) fn count_request(&self, principal: Principal) {
        let Principal::Key { id, .. } = principal else {
            return;
        };
        let now = clock::now();
        let mut counts = self.counts();
        *counts.requests.entry((id, month(now))).or_default() += 1;
        let is_due = |written: &Instant| written.elapsed() >= SUMMARY_INTERVAL;
        if counts.last_use_written.get(&id).is_none_or(is_due) {
            counts.last_used.insert(id, now);
        }
    }

    /// Counts a request of a key for the next summary in the audit log. Ignores users, whose actions have entries
    /// of their own.
    pub(crate) fn record_action(
        &self,
        principal: Principal,
        tenant: TenantId,
        actor: &Actor,
        summary_action: &'static str,
    ) {
        let Principal::Key { id, .. } = principal else {
            return;
        };
        let now = clock::now();
        let mut counts = self.counts();
        let summary = counts.actions.entry((tenant, id, summary_action));
        let summary = summary.or_insert_with(|| ActionSummary {
            // A summary of many requests names none of them.
            actor: Actor {
                request_id: None,
                reason: None,
                ..actor.clone()
            },
            requests: 0,
            since: now,
            until: now,
        });
        summary.requests += 1;
        summary.until = now;
    }

    /// Writes the counts. On failure they are kept for the next try; if only the database's response was
    /// lost, they are then counted twice.
    ///
    /// # Errors
    /// When the database fails.
    pub(crate) async fn flush(&self) -> Result<(), sqlx::Error> {
        let requests = std::mem::take(&mut self.counts().requests);
        if let Err(error) = self.write_requests(&requests).await {
            let mut counts = self.counts();
            for (key, count) in requests {
                *counts.requests.entry(key).or_default() += count;
            }
            return Err(error);
        }
        let used = std::mem::take(&mut self.counts().last_used);
        let written = self.write_uses(&used).await;
        let mut counts = self.counts();
        counts
            .last_use_written
            .retain(|_, at| at.elapsed() < SUMMARY_INTERVAL);
        match written {
            Ok(()) => {
                let now = Instant::now();
                counts
                    .last_use_written
                    .extend(used.into_keys().map(|id| (id, now)));
            }
            Err(_) => {
                for (id, time) in used {
                    counts.last_used.entry(id).or_insert(time);
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
        let (keys_and_months, counts): (Vec<_>, Vec<i64>) = requests.iter().unzip();
        let (keys, months): (Vec<ApiKeyId>, Vec<NaiveDate>) =
            keys_and_months.into_iter().copied().unzip();
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
        let (keys, times): (Vec<ApiKeyId>, Vec<DateTime<Utc>>) = used.iter().unzip();
        query(include_str!("sql/touch_keys.sql"))
            .bind(keys)
            .bind(times)
            .execute(&self.0.pool)
            .await?;
        Ok(())
    }

    /// Writes what keys enqueued since the last call to the audit log: one entry for each key and action.
    ///
    /// # Errors
    /// When the database is unavailable; unwritten entries are kept for the next try.
    pub(crate) async fn write_audit(&self) -> Result<(), sqlx::Error> {
        let mut unwritten = std::mem::take(&mut self.counts().actions).into_iter();
        while let Some((key, summary)) = unwritten.next() {
            match self.write_audit_entry(key, &summary).await {
                Ok(()) => {}
                Err(error) if is_unavailable(&error) || is_conflict(&error) => {
                    let mut counts = self.counts();
                    for (key, earlier) in std::iter::once((key, summary)).chain(unwritten) {
                        let now = counts.actions.entry(key);
                        now.and_modify(|later| {
                            later.requests += earlier.requests;
                            later.since = earlier.since;
                        })
                        .or_insert(earlier);
                    }
                    return Err(error);
                }
                // A tenant that no longer exists has no log.
                Err(error) => {
                    tracing::error!(error = %error, "could not write an audit entry; dropped");
                }
            }
        }
        Ok(())
    }

    async fn write_audit_entry(
        &self,
        (tenant, key, action): (TenantId, ApiKeyId, &'static str),
        summary: &ActionSummary,
    ) -> Result<(), sqlx::Error> {
        let entry = Entry::new(action, key).after(json!({
            "requests": summary.requests,
            "since": summary.since,
            "until": summary.until,
        }));
        let mut tx = self.0.pool.begin().await?;
        audit::record(&mut tx, tenant, &summary.actor, &entry).await?;
        tx.commit().await
    }
}

/// Writes counts and returns reserved request tokens once a second, until `stop` is cancelled.
pub(crate) async fn write_periodically(state: ApiState, stop: CancellationToken) {
    let mut audited = Instant::now();
    let mut failed = false;
    while stop
        .run_until_cancelled(tokio::time::sleep(FLUSH_INTERVAL))
        .await
        .is_some()
    {
        state.limits().settle();
        let mut written = state.usage().flush().await;
        if written.is_ok() && audited.elapsed() >= SUMMARY_INTERVAL {
            written = state.usage().write_audit().await;
            audited = Instant::now();
        }
        match written {
            Ok(()) => failed = false,
            // Logged once: every second is another try.
            Err(error) if !failed => {
                failed = true;
                tracing::warn!(error = %error, "could not write usage; retrying every second");
            }
            Err(_) => {}
        }
    }
}

/// Writes the remaining counts at shutdown.
pub(crate) async fn write_remaining(state: &ApiState) {
    state.limits().return_all().await;
    for written in [
        state.usage().flush().await,
        state.usage().write_audit().await,
    ] {
        if let Err(error) = written {
            tracing::warn!(error = %error, "could not write usage at shutdown; lost");
        }
    }
}

#[cfg(test)]
mod tests;
