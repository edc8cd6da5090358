//! Redelivers single deliveries, recovers what an endpoint missed, and tests endpoints.
//!
//! A pending delivery is never enqueued twice. A delivery that succeeded is made again only when it is named.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use harkara_queue::job::JobState;
use harkara_queue::read;
use harkara_queue::{Engine, Quota};
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::{DeliveryId, EndpointId, JobId};
use serde_json::value::RawValue;

use crate::attempt::Cause;
use crate::delivery::DeliveryState;
use crate::delivery::state_from_job;
use crate::delivery_job::delivery_job;
use crate::endpoint::endpoint;
use crate::endpoint::{EndpointStatus, Ordering};
use crate::error::Error;
use crate::event::post_test;
use crate::event::{NewEvent, Posted};
use crate::lane;

/// Deliveries that one step of a recovery looks at.
const STEP: i64 = 1000;

/// What is asked for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedeliverError {
    /// There is no such delivery.
    NotFound,
    /// Its endpoint was deleted.
    EndpointGone,
    /// Its endpoint is disabled: nothing is sent there.
    EndpointDisabled,
    /// Its event's payload is not kept any more.
    PayloadGone,
}

#[derive(sqlx::FromRow)]
struct Candidate {
    id: DeliveryId,
    endpoint_id: EndpointId,
    state: DeliveryState,
    job_id: Option<JobId>,
    has_payload: bool,
    ordering_key: Option<String>,
    status: Option<EndpointStatus>,
    ordering: Option<Ordering>,
    attempts: Option<i32>,
}

/// Has a delivery made once more, by hand: one attempt, whatever became of it before. One that waits for its
/// next attempt has it now. Answers the job that makes it.
///
/// # Errors
/// When the database refuses.
pub async fn redeliver(
    tx: &mut TenantTx,
    engine: &Engine,
    id: DeliveryId,
) -> Result<Result<JobId, RedeliverError>, Error> {
    // Its state as its job tells it, first.
    if crate::delivery::delivery(tx, id).await?.is_none() {
        return Ok(Err(RedeliverError::NotFound));
    }
    let found: Option<Candidate> = query_as(include_str!("sql/redelivery/get_undelivered.sql"))
        .bind(tx.tenant())
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?;
    let Some(candidate) = found else {
        return Ok(Err(RedeliverError::NotFound));
    };
    match candidate.status {
        None => return Ok(Err(RedeliverError::EndpointGone)),
        Some(EndpointStatus::Disabled) => return Ok(Err(RedeliverError::EndpointDisabled)),
        Some(_) if !candidate.has_payload => return Ok(Err(RedeliverError::PayloadGone)),
        Some(_) => {}
    }
    if let (DeliveryState::Pending, Some(job)) = (candidate.state, candidate.job_id)
        && is_under_way(tx, job).await?
    {
        engine.run_now(tx, &[job]).await?;
        return Ok(Ok(job));
    }
    let mut made = send(tx, engine, vec![candidate], Cause::Manual).await?;
    let made = made
        .pop()
        .ok_or_else(|| Error::Corrupt(format!("the job of {id}")))?;
    Ok(Ok(made))
}

async fn is_under_way(tx: &mut TenantTx, job: JobId) -> Result<bool, Error> {
    let jobs = read::jobs(tx, &[job]).await?;
    Ok(jobs.first().is_some_and(|job| {
        matches!(
            job.state,
            JobState::Scheduled | JobState::Ready | JobState::Running
        )
    }))
}

/// Which deliveries a recovery makes: those of an endpoint whose event was posted from `since` to `until`
/// and that have one of the `states`.
#[derive(Debug, Clone)]
pub struct RecoveryFilter {
    /// Of which endpoint.
    pub endpoint: EndpointId,
    /// From when on.
    pub since: DateTime<Utc>,
    /// Until when.
    pub until: DateTime<Utc>,
    /// What has become of them.
    pub states: Vec<DeliveryState>,
    /// An id behind all of them.
    pub last: DeliveryId,
}

/// Has the next deliveries behind `after` made that an endpoint missed, on its schedule, oldest first.
/// Answers the last that was looked at, and how many are made; nothing at the end.
///
/// # Errors
/// When the database refuses.
pub async fn recover(
    tx: &mut TenantTx,
    engine: &Engine,
    missed: &RecoveryFilter,
    after: DeliveryId,
) -> Result<Option<(DeliveryId, usize)>, Error> {
    let last: Option<DeliveryId> = query_scalar(include_str!("sql/redelivery/step_deliveries.sql"))
        .bind(tx.tenant())
        .bind(missed.endpoint)
        .bind(after)
        .bind(missed.last)
        .bind(STEP)
        .fetch_optional(&mut **tx)
        .await?;
    let Some(last) = last else {
        return Ok(None);
    };
    // Of one that is said to be on its way, its job may tell otherwise.
    let mut states = missed.states.clone();
    states.push(DeliveryState::Pending);
    let found: Vec<Candidate> = query_as(include_str!("sql/redelivery/list_undelivered.sql"))
        .bind(tx.tenant())
        .bind(missed.endpoint)
        .bind(after)
        .bind(last)
        .bind(missed.since)
        .bind(missed.until)
        .bind(states)
        .fetch_all(&mut **tx)
        .await?;
    // What became of them may be told by their jobs alone.
    let pending = found
        .iter()
        .filter(|candidate| candidate.state == DeliveryState::Pending);
    let jobs: Vec<JobId> = pending.filter_map(|candidate| candidate.job_id).collect();
    let told: HashMap<JobId, DeliveryState> = read::jobs(tx, &jobs)
        .await?
        .into_iter()
        .filter_map(|job| Some((job.id, state_from_job(job.state)?)))
        .collect();
    let state = |candidate: &Candidate| {
        let told = candidate.job_id.and_then(|job| told.get(&job));
        *told.unwrap_or(&candidate.state)
    };
    let wanted: Vec<Candidate> = found
        .into_iter()
        .filter(|candidate| candidate.has_payload && missed.states.contains(&state(candidate)))
        .collect();
    let made = send(tx, engine, wanted, Cause::Recovery).await?;
    Ok(Some((last, made.len())))
}

/// Enqueues deliveries, which are pending from now on.
async fn send(
    tx: &mut TenantTx,
    engine: &Engine,
    wanted: Vec<Candidate>,
    cause: Cause,
) -> Result<Vec<JobId>, Error> {
    let mut jobs = Vec::with_capacity(wanted.len());
    let mut ids = Vec::with_capacity(wanted.len());
    for candidate in wanted {
        let mut job = delivery_job(candidate.id, cause)?;
        job.max_attempts = match cause {
            Cause::Manual | Cause::Test => 1,
            Cause::Event | Cause::Recovery => candidate
                .attempts
                .and_then(|attempts| u16::try_from(attempts).ok())
                .unwrap_or(job.max_attempts),
        };
        let key = candidate.ordering_key.as_deref();
        let ordering = candidate.ordering.unwrap_or_default();
        lane::put(&mut job, candidate.endpoint_id, ordering, key);
        jobs.push(job);
        ids.push(candidate.id);
    }
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let tenant = tx.tenant();
    let jobs: Vec<JobId> = engine
        .enqueue_all(tx, tenant, jobs, Quota::Skip)
        .await?
        .iter()
        .map(|answer| answer.id())
        .collect();
    query(include_str!("sql/redelivery/send_again.sql"))
        .bind(tenant)
        .bind(&ids)
        .bind(&jobs)
        .execute(&mut **tx)
        .await?;
    Ok(jobs)
}

/// Posts an event to one endpoint alone, whatever types it takes and though it may be disabled: one attempt.
/// `None` when there is no such endpoint.
///
/// # Errors
/// When the database refuses, or as many jobs of the tenant wait as may.
pub async fn test_endpoint(
    tx: &mut TenantTx,
    engine: &Engine,
    id: EndpointId,
    event_type: &str,
    data: Box<RawValue>,
) -> Result<Option<Posted>, Error> {
    let Some(found) = endpoint(tx, id).await? else {
        return Ok(None);
    };
    let event = NewEvent::new(event_type, data);
    Ok(Some(
        post_test(tx, engine, id, found.ordering, &event).await?,
    ))
}
