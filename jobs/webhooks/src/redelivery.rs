//! Redelivers single deliveries, recovers deliveries that an endpoint missed, and tests endpoints.
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

use crate::attempt::Trigger;
use crate::delivery::DeliveryState;
use crate::delivery::state_from_job;
use crate::delivery_job::delivery_job;
use crate::endpoint::find_endpoint;
use crate::endpoint::{EndpointStatus, Ordering};
use crate::error::Error;
use crate::event::post_test;
use crate::event::{NewEvent, Posted};
use crate::lane;

/// Number of deliveries that one step of a recovery scans.
const STEP_DELIVERIES: i64 = 1000;

/// Why a delivery cannot be redelivered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RedeliverError {
    /// The delivery does not exist.
    NotFound,
    /// Its endpoint was deleted.
    EndpointGone,
    /// Its endpoint is disabled.
    EndpointDisabled,
    /// Its event's payload was removed.
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
    /// Attempts of the endpoint's retry schedule; `None` when the endpoint was deleted, like `status` and `ordering`.
    attempts: Option<i32>,
}

/// Redelivers manually, in a single attempt, whatever the delivery's state. A delivery that waits for its next scheduled
/// attempt is not enqueued again; that attempt runs now. Returns the job.
///
/// # Errors
/// When the database refuses.
pub async fn redeliver(
    tx: &mut TenantTx,
    engine: &Engine,
    id: DeliveryId,
) -> Result<Result<JobId, RedeliverError>, Error> {
    // `find_delivery` reconciles the stored state with the job, so that the next query reads the current one.
    if crate::delivery::find_delivery(tx, id).await?.is_none() {
        return Ok(Err(RedeliverError::NotFound));
    }
    let candidate: Option<Candidate> = query_as(include_str!("sql/redelivery/get_undelivered.sql"))
        .bind(tx.tenant())
        .bind(id)
        .fetch_optional(&mut **tx)
        .await?;
    let Some(candidate) = candidate else {
        return Ok(Err(RedeliverError::NotFound));
    };
    match candidate.status {
        None => return Ok(Err(RedeliverError::EndpointGone)),
        Some(EndpointStatus::Disabled) => return Ok(Err(RedeliverError::EndpointDisabled)),
        Some(_) if !candidate.has_payload => return Ok(Err(RedeliverError::PayloadGone)),
        Some(_) => {}
    }
    if let (DeliveryState::Pending, Some(job)) = (candidate.state, candidate.job_id)
        && is_active(tx, job).await?
    {
        engine.run_now(tx, &[job]).await?;
        return Ok(Ok(job));
    }
    let mut jobs = enqueue(tx, engine, vec![candidate], Trigger::Manual).await?;
    let job = jobs
        .pop()
        .ok_or_else(|| Error::Corrupt(format!("the job of {id}")))?;
    Ok(Ok(job))
}

async fn is_active(tx: &mut TenantTx, job: JobId) -> Result<bool, Error> {
    let jobs = read::jobs(tx, &[job]).await?;
    Ok(jobs.first().is_some_and(|job| {
        matches!(
            job.state,
            JobState::Scheduled | JobState::Ready | JobState::Running
        )
    }))
}

/// The deliveries that a recovery makes: to one endpoint, of events posted from `since` to `until`, in one of `states`.
#[derive(Debug, Clone)]
pub struct RecoveryFilter {
    /// The endpoint.
    pub endpoint: EndpointId,
    /// Start of the time range, inclusive.
    pub since: DateTime<Utc>,
    /// End of the time range, inclusive.
    pub until: DateTime<Utc>,
    /// States to recover.
    pub states: Vec<DeliveryState>,
    /// An id after all deliveries of the time range.
    pub last: DeliveryId,
}

/// Enqueues the next missed deliveries after `after`, oldest first, on the endpoint's retry schedule. Returns the last
/// delivery scanned and the number enqueued; `None` at the end.
///
/// # Errors
/// When the database refuses.
pub async fn recover_deliveries(
    tx: &mut TenantTx,
    engine: &Engine,
    filter: &RecoveryFilter,
    after: DeliveryId,
) -> Result<Option<(DeliveryId, usize)>, Error> {
    let last: Option<DeliveryId> = query_scalar(include_str!("sql/redelivery/step_deliveries.sql"))
        .bind(tx.tenant())
        .bind(filter.endpoint)
        .bind(after)
        .bind(filter.last)
        .bind(STEP_DELIVERIES)
        .fetch_optional(&mut **tx)
        .await?;
    let Some(last) = last else {
        return Ok(None);
    };
    // Some deliveries that are stored as pending have ended; only their jobs record the outcome.
    let mut states = filter.states.clone();
    states.push(DeliveryState::Pending);
    let candidates: Vec<Candidate> = query_as(include_str!("sql/redelivery/list_undelivered.sql"))
        .bind(tx.tenant())
        .bind(filter.endpoint)
        .bind(after)
        .bind(last)
        .bind(filter.since)
        .bind(filter.until)
        .bind(states)
        .fetch_all(&mut **tx)
        .await?;
    let pending = candidates
        .iter()
        .filter(|candidate| candidate.state == DeliveryState::Pending);
    let jobs: Vec<JobId> = pending.filter_map(|candidate| candidate.job_id).collect();
    let job_states: HashMap<JobId, DeliveryState> = read::jobs(tx, &jobs)
        .await?
        .into_iter()
        .filter_map(|job| Some((job.id, state_from_job(job.state)?)))
        .collect();
    let current_state = |candidate: &Candidate| {
        let from_job = candidate.job_id.and_then(|job| job_states.get(&job));
        *from_job.unwrap_or(&candidate.state)
    };
    let selected: Vec<Candidate> = candidates
        .into_iter()
        .filter(|candidate| {
            candidate.has_payload && filter.states.contains(&current_state(candidate))
        })
        .collect();
    let enqueued = enqueue(tx, engine, selected, Trigger::Recovery).await?;
    Ok(Some((last, enqueued.len())))
}

/// Enqueues deliveries, which become pending.
async fn enqueue(
    tx: &mut TenantTx,
    engine: &Engine,
    selected: Vec<Candidate>,
    trigger: Trigger,
) -> Result<Vec<JobId>, Error> {
    let mut jobs = Vec::with_capacity(selected.len());
    let mut ids = Vec::with_capacity(selected.len());
    for candidate in selected {
        let mut job = delivery_job(candidate.id, trigger)?;
        job.max_attempts = match trigger {
            Trigger::Manual | Trigger::Test => 1,
            Trigger::Event | Trigger::Recovery => match candidate.attempts {
                Some(attempts) => u16::try_from(attempts).map_err(|_| {
                    Error::Corrupt(format!("the attempts of {}", candidate.endpoint_id))
                })?,
                // The endpoint was deleted.
                None => job.max_attempts,
            },
        };
        let key = candidate.ordering_key.as_deref();
        let ordering = candidate.ordering.unwrap_or_default();
        lane::assign(&mut job, candidate.endpoint_id, ordering, key);
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
        .map(|enqueued| enqueued.id())
        .collect();
    query(include_str!("sql/redelivery/restart_deliveries.sql"))
        .bind(tenant)
        .bind(&ids)
        .bind(&jobs)
        .execute(&mut **tx)
        .await?;
    Ok(jobs)
}

/// Posts an event to one endpoint only, in a single attempt, even if the endpoint is disabled or does not subscribe to the
/// type. `None` when the endpoint does not exist.
///
/// # Errors
/// When the database refuses, or the tenant has the maximum number of waiting jobs.
pub async fn test_endpoint(
    tx: &mut TenantTx,
    engine: &Engine,
    id: EndpointId,
    event_type: &str,
    data: Box<RawValue>,
) -> Result<Option<Posted>, Error> {
    let Some(endpoint) = find_endpoint(tx, id).await? else {
        return Ok(None);
    };
    let event = NewEvent::new(event_type, data);
    Ok(Some(
        post_test(tx, engine, id, endpoint.ordering, &event).await?,
    ))
}
