//! Room: events and their fan-out.
//! Takes: an event in a tenant's transaction. Gives: its row, one delivery and one job an endpoint
//! that takes it, all or none. Never: posts the same event id twice.

use harkara_queue::Engine;
use harkara_queue::job::{Lane, Trace};
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::{DeliveryId, EndpointId, EventId, JobId};
use serde_json::value::RawValue;

use super::Error;
use super::endpoint::{is_event_type, takes};
use super::event_type::{check_data, is_operational};
use crate::catalogue::{JobKind, find};
use crate::fault::Fault;
use crate::kinds::webhook_deliver::{Args, WebhookDeliver};

/// An event that happened.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// The application's own id of it, or `None` for a new one.
    pub id: Option<String>,
    /// Type, such as `invoice.paid`.
    pub event_type: String,
    /// Version of the type that the data is of; `None` for the current one.
    pub version: Option<u32>,
    /// What happened, as JSON.
    pub data: Box<RawValue>,
}

impl NewEvent {
    /// Everything wrong with it.
    #[must_use]
    pub fn check(&self) -> Vec<Fault> {
        let mut faults = Vec::new();
        if !is_event_type(&self.event_type) {
            faults.push(Fault::new(
                "/type",
                "invalid",
                "must be segments of letters, digits and `_` joined by dots, at most 128 long",
            ));
        }
        if is_operational(&self.event_type) {
            faults.push(Fault::new(
                "/type",
                "reserved",
                "is told of by the platform itself",
            ));
        }
        if let Some(id) = &self.id {
            let fits = (1..=64).contains(&id.len())
                && id
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
            if !fits {
                // No dot: the signature joins id, timestamp and body with dots.
                faults.push(Fault::new(
                    "/id",
                    "invalid",
                    "must be 1 to 64 letters, digits, `_` and `-`",
                ));
            }
        }
        if self.data.get().len() > harkara_queue::job::MAX_PAYLOAD_BYTES {
            faults.push(Fault::new(
                "/data",
                "too_large",
                "must be at most 256 KiB of JSON",
            ));
        }
        faults
    }
}

/// The answer to a posted event.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The event's id.
    pub id: String,
    /// One delivery for each endpoint that takes it.
    pub deliveries: Vec<PostedDelivery>,
}

/// A delivery made by an event.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct PostedDelivery {
    /// Id.
    pub id: DeliveryId,
    /// Where it goes.
    pub endpoint_id: EndpointId,
    /// The job that delivers it; `None` when it was skipped.
    pub job_id: Option<JobId>,
}

#[derive(sqlx::FromRow)]
struct Taker {
    id: EndpointId,
    event_types: Vec<String>,
}

/// Stores an event and enqueues its deliveries. An event id that was posted before answers what was
/// made then.
///
/// # Errors
/// [`Error::Conflict`] when the id stands for another event, [`Error::Invalid`] when the data does not
/// satisfy the event's type; others when the database refuses. The transaction must then be rolled back.
pub async fn post_event(
    tx: &mut TenantTx,
    engine: &Engine,
    event: NewEvent,
    trace: Trace,
) -> Result<Posted, Error> {
    let id = event.id.unwrap_or_else(|| EventId::new().to_string());
    let is_new: Option<bool> = query_scalar(include_str!("../sql/create_event.sql"))
        .bind(tx.tenant())
        .bind(&id)
        .bind(&event.event_type)
        .bind(event.data.get())
        .fetch_optional(&mut **tx)
        .await?;
    if is_new.is_none() {
        return posted_before(tx, id, &event.event_type, &event.data).await;
    }
    let faults = check_data(tx, &event.event_type, event.version, &event.data).await?;
    if !faults.is_empty() {
        return Err(Error::Invalid(faults));
    }
    let takers: Vec<Taker> = query_as(include_str!("../sql/list_takers.sql"))
        .bind(tx.tenant())
        .fetch_all(&mut **tx)
        .await?;
    let takers: Vec<EndpointId> = takers
        .into_iter()
        .filter(|taker| takes(&taker.event_types, &event.event_type))
        .map(|taker| taker.id)
        .collect();
    let deliveries: Vec<DeliveryId> = takers.iter().map(|_| DeliveryId::new()).collect();
    let mut jobs = Vec::with_capacity(deliveries.len());
    for (delivery_id, endpoint_id) in deliveries.iter().zip(&takers) {
        let payload = serde_json::value::to_raw_value(&Args {
            delivery_id: *delivery_id,
        })
        .map_err(harkara_queue::Error::from)?;
        if let Some(kind) = find(WebhookDeliver::KIND) {
            let mut job = kind.job(payload);
            job.trace = trace.clone();
            // What one endpoint asks for or suffers from is no other's concern.
            job.lane = Lane::Named(endpoint_id.to_string());
            jobs.push(job);
        }
    }
    let tenant = tx.tenant();
    let jobs: Vec<JobId> = engine
        .submit_all(tx, tenant, jobs)
        .await?
        .iter()
        .map(|answer| answer.id())
        .collect();
    if !deliveries.is_empty() {
        query(include_str!("../sql/create_deliveries.sql"))
            .bind(tenant)
            .bind(&id)
            .bind(&deliveries)
            .bind(&takers)
            .bind(&jobs)
            .execute(&mut **tx)
            .await?;
    }
    let deliveries = deliveries
        .into_iter()
        .zip(takers)
        .zip(jobs)
        .map(|((id, endpoint_id), job)| PostedDelivery {
            id,
            endpoint_id,
            job_id: Some(job),
        })
        .collect();
    Ok(Posted { id, deliveries })
}

async fn posted_before(
    tx: &mut TenantTx,
    id: String,
    event_type: &str,
    data: &RawValue,
) -> Result<Posted, Error> {
    let same: bool = query_scalar(include_str!("../sql/is_same_event.sql"))
        .bind(tx.tenant())
        .bind(&id)
        .bind(event_type)
        .bind(data.get())
        .fetch_one(&mut **tx)
        .await?;
    if !same {
        return Err(Error::Conflict(format!(
            "the id `{id}` stands for another event"
        )));
    }
    let deliveries = query_as(include_str!("../sql/list_event_deliveries.sql"))
        .bind(tx.tenant())
        .bind(&id)
        .fetch_all(&mut **tx)
        .await?;
    Ok(Posted { id, deliveries })
}
