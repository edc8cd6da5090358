//! Posts events: stores an event and enqueues one delivery for each subscribed endpoint, in one transaction.
//!
//! An event id is stored once; posting it again returns the first result.

use harkara_kind::FieldError;
use harkara_queue::job::{NewJob, Trace};
use harkara_queue::{Engine, Quota};
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::{DeliveryId, EndpointId, EventId, JobId};
use serde_json::value::RawValue;

use crate::attempt::Trigger;
use crate::delivery_job::delivery_job;
use crate::endpoint::{EndpointStatus, Ordering};
use crate::error::Error;
use crate::event_type::check_event_data;
use crate::subscription::{
    is_event_type, is_operational, subscribes_to_channels, subscribes_to_type,
};
use crate::{lane, rules};

/// An event to post.
#[derive(Debug, Clone)]
pub struct NewEvent {
    /// Id given by the application; `None` generates one.
    pub id: Option<String>,
    /// Event type, such as `invoice.paid`.
    pub event_type: String,
    /// Version of the type that the data satisfies; `None` for the current one.
    pub version: Option<u32>,
    /// The data, as JSON.
    pub data: Box<RawValue>,
    /// Channels of the event. An endpoint with channels receives it if they share one.
    pub channels: Vec<String>,
    /// Ordered endpoints receive the events of one key one at a time.
    pub ordering_key: Option<String>,
}

impl NewEvent {
    /// An event of this type, with defaults for the rest.
    #[must_use]
    pub fn new(event_type: &str, data: Box<RawValue>) -> Self {
        Self {
            id: None,
            event_type: event_type.to_owned(),
            version: None,
            data,
            channels: Vec::new(),
            ordering_key: None,
        }
    }

    /// All errors in the event, except those of its data.
    #[must_use]
    pub fn check(&self) -> Vec<FieldError> {
        let mut errors = rules::channel_errors(&self.channels);
        if !is_event_type(&self.event_type) {
            errors.push(FieldError::new(
                "/type",
                "invalid",
                "must be segments of letters, digits and `_` joined by dots, at most 128 characters",
            ));
        } else if is_operational(&self.event_type) {
            errors.push(FieldError::new(
                "/type",
                "reserved",
                "is reserved for operational events",
            ));
        }
        if let Some(id) = &self.id {
            let fits = (1..=64).contains(&id.len())
                && id
                    .chars()
                    .all(|c| c.is_ascii_alphanumeric() || matches!(c, '_' | '-'));
            if !fits {
                // No dots: the signature joins id, timestamp and body with dots.
                errors.push(FieldError::new(
                    "/id",
                    "invalid",
                    "must be 1 to 64 letters, digits, `_` and `-`",
                ));
            }
        }
        if let Some(key) = &self.ordering_key {
            let fits = harkara_queue::settings::is_key(key)
                && key.chars().count() <= lane::MAX_ORDERING_KEY;
            if !fits {
                errors.push(FieldError::new(
                    "/ordering_key",
                    "invalid",
                    format!(
                        "must be 1 to {} characters, none of them a control character",
                        lane::MAX_ORDERING_KEY
                    ),
                ));
            }
        }
        if self.data.get().len() > harkara_queue::job::MAX_PAYLOAD_BYTES {
            errors.push(FieldError::new(
                "/data",
                "too_large",
                "must be at most 256 KiB of JSON",
            ));
        }
        errors
    }
}

/// A posted event.
#[derive(Debug, Clone)]
pub struct Posted {
    /// The event's id.
    pub id: String,
    /// One delivery for each subscribed endpoint.
    pub deliveries: Vec<PostedDelivery>,
}

/// A delivery of a posted event.
#[derive(Debug, Clone, Copy, sqlx::FromRow)]
pub struct PostedDelivery {
    /// `dlv_…`
    pub id: DeliveryId,
    /// The endpoint that receives the event.
    pub endpoint_id: EndpointId,
    /// The job that makes the delivery; `None` if it was skipped.
    pub job_id: Option<JobId>,
}

#[derive(sqlx::FromRow)]
struct Subscriber {
    id: EndpointId,
    event_types: Vec<String>,
    channels: Vec<String>,
    status: EndpointStatus,
    ordering: Ordering,
    attempts: i32,
}

/// Stores an event and enqueues its deliveries. Posting an id again returns the first result.
///
/// # Errors
/// [`Error::Conflict`] when the id belongs to a different event; [`Error::Invalid`] when the data does not satisfy the
/// event's type; [`Error::Queue`] when the tenant has the maximum number of waiting jobs; others when the database
/// refuses. The transaction must then be rolled back.
pub async fn post_event(
    tx: &mut TenantTx,
    engine: &Engine,
    event: NewEvent,
    trace: Trace,
) -> Result<Posted, Error> {
    let id = event
        .id
        .clone()
        .unwrap_or_else(|| EventId::new().to_string());
    if !store(tx, &id, &event).await? {
        return find_posted(tx, id, &event).await;
    }
    let errors = check_event_data(tx, &event.event_type, event.version, &event.data).await?;
    if !errors.is_empty() {
        return Err(Error::Invalid(errors));
    }
    let subscribers: Vec<Subscriber> = query_as(include_str!("sql/event/list_subscribers.sql"))
        .bind(tx.tenant())
        .fetch_all(&mut **tx)
        .await?;
    let subscribers = subscribers
        .iter()
        .filter(|subscriber| is_subscribed(subscriber, &event));
    let planned = plan_deliveries(subscribers, &event, &trace)?;
    let (tenant, jobs) = (tx.tenant(), planned_jobs(&planned));
    let ids = engine.enqueue_all(tx, tenant, jobs, Quota::Enforce).await?;
    let ids = ids.iter().map(|enqueued| enqueued.id());
    store_deliveries(tx, id, planned, ids).await
}

/// Posts operational events, each about an endpoint, to the other endpoints that subscribe to them. They do not count
/// towards the quota of waiting jobs.
pub(super) async fn post_operational(
    tx: &mut TenantTx,
    engine: &Engine,
    events: Vec<(EndpointId, NewEvent)>,
) -> Result<(), Error> {
    if events.is_empty() {
        return Ok(());
    }
    let subscribers: Vec<Subscriber> = query_as(include_str!("sql/event/list_subscribers.sql"))
        .bind(tx.tenant())
        .fetch_all(&mut **tx)
        .await?;
    for (about, event) in events {
        let recipients = subscribers
            .iter()
            .filter(|subscriber| subscriber.id != about && is_subscribed(subscriber, &event));
        let planned = plan_deliveries(recipients, &event, &Trace::default())?;
        if planned.is_empty() {
            continue;
        }
        let id = EventId::new().to_string();
        store(tx, &id, &event).await?;
        let (tenant, jobs) = (tx.tenant(), planned_jobs(&planned));
        let ids = engine.enqueue_all(tx, tenant, jobs, Quota::Skip).await?;
        let ids = ids.iter().map(|enqueued| enqueued.id());
        store_deliveries(tx, id, planned, ids).await?;
    }
    Ok(())
}

/// Posts an event to one endpoint only, in a single attempt, to test it.
pub(super) async fn post_test(
    tx: &mut TenantTx,
    engine: &Engine,
    endpoint: EndpointId,
    ordering: Ordering,
    event: &NewEvent,
) -> Result<Posted, Error> {
    let id = EventId::new().to_string();
    store(tx, &id, event).await?;
    let delivery = DeliveryId::new();
    let mut job = delivery_job(delivery, Trigger::Test)?;
    job.max_attempts = 1;
    lane::assign_test(&mut job, endpoint, ordering);
    let plan = PlannedDelivery {
        delivery,
        endpoint,
        job: Some(job),
    };
    let (tenant, jobs) = (tx.tenant(), planned_jobs(std::slice::from_ref(&plan)));
    let ids = engine.enqueue_all(tx, tenant, jobs, Quota::Enforce).await?;
    let ids = ids.iter().map(|enqueued| enqueued.id());
    store_deliveries(tx, id, vec![plan], ids).await
}

fn is_subscribed(subscriber: &Subscriber, event: &NewEvent) -> bool {
    subscribes_to_type(&subscriber.event_types, &event.event_type)
        && subscribes_to_channels(&subscriber.channels, &event.channels)
}

/// Stores an event. Returns whether it is new.
async fn store(tx: &mut TenantTx, id: &str, event: &NewEvent) -> Result<bool, Error> {
    let is_new: Option<bool> = query_scalar(include_str!("sql/event/create_event.sql"))
        .bind(tx.tenant())
        .bind(id)
        .bind(&event.event_type)
        .bind(event.data.get())
        .bind(&event.channels)
        .bind(&event.ordering_key)
        .bind(
            event
                .version
                .and_then(|version| i32::try_from(version).ok()),
        )
        .fetch_optional(&mut **tx)
        .await?;
    Ok(is_new.is_some())
}

/// A delivery and its job; no job if it is skipped.
struct PlannedDelivery {
    delivery: DeliveryId,
    endpoint: EndpointId,
    job: Option<NewJob>,
}

fn plan_deliveries<'a>(
    subscribers: impl Iterator<Item = &'a Subscriber>,
    event: &NewEvent,
    trace: &Trace,
) -> Result<Vec<PlannedDelivery>, Error> {
    let plan = |subscriber: &Subscriber| {
        let delivery = DeliveryId::new();
        let job = match subscriber.status {
            EndpointStatus::Disabled => None,
            EndpointStatus::Active | EndpointStatus::Paused => {
                let mut job = delivery_job(delivery, Trigger::Event)?;
                job.trace = trace.clone();
                job.max_attempts = u16::try_from(subscriber.attempts)
                    .map_err(|_| Error::Corrupt(format!("the attempts of {}", subscriber.id)))?;
                let key = event.ordering_key.as_deref();
                lane::assign(&mut job, subscriber.id, subscriber.ordering, key);
                Some(job)
            }
        };
        Ok(PlannedDelivery {
            delivery,
            endpoint: subscriber.id,
            job,
        })
    };
    subscribers.map(plan).collect()
}

fn planned_jobs(planned: &[PlannedDelivery]) -> Vec<NewJob> {
    planned.iter().filter_map(|plan| plan.job.clone()).collect()
}

/// Stores the deliveries of an event. `jobs` are the ids of their jobs, in order.
async fn store_deliveries(
    tx: &mut TenantTx,
    id: String,
    planned: Vec<PlannedDelivery>,
    mut jobs: impl Iterator<Item = JobId>,
) -> Result<Posted, Error> {
    let deliveries: Vec<PostedDelivery> = planned
        .into_iter()
        .map(|plan| PostedDelivery {
            id: plan.delivery,
            endpoint_id: plan.endpoint,
            job_id: plan.job.and_then(|_| jobs.next()),
        })
        .collect();
    if !deliveries.is_empty() {
        let ids: Vec<DeliveryId> = deliveries.iter().map(|delivery| delivery.id).collect();
        let endpoints: Vec<EndpointId> = deliveries
            .iter()
            .map(|delivery| delivery.endpoint_id)
            .collect();
        let jobs: Vec<Option<JobId>> = deliveries.iter().map(|delivery| delivery.job_id).collect();
        query(include_str!("sql/event/create_deliveries.sql"))
            .bind(tx.tenant())
            .bind(&id)
            .bind(ids)
            .bind(endpoints)
            .bind(jobs)
            .execute(&mut **tx)
            .await?;
    }
    Ok(Posted { id, deliveries })
}

/// Returns the first result of posting this event.
async fn find_posted(tx: &mut TenantTx, id: String, event: &NewEvent) -> Result<Posted, Error> {
    let is_same: bool = query_scalar(include_str!("sql/event/is_same_event.sql"))
        .bind(tx.tenant())
        .bind(&id)
        .bind(&event.event_type)
        .bind(event.data.get())
        .bind(&event.channels)
        .bind(&event.ordering_key)
        .bind(
            event
                .version
                .and_then(|version| i32::try_from(version).ok()),
        )
        .fetch_one(&mut **tx)
        .await?;
    if !is_same {
        return Err(Error::Conflict(format!(
            "id `{id}` belongs to a different event"
        )));
    }
    let deliveries = query_as(include_str!("sql/event/list_event_deliveries.sql"))
        .bind(tx.tenant())
        .bind(&id)
        .fetch_all(&mut **tx)
        .await?;
    Ok(Posted { id, deliveries })
}
