//! Lanes of endpoints: applies an endpoint's rate, concurrency and breaker to the queue.
//!
//! An unordered endpoint has one lane, which carries its rate, its concurrency and its breaker. An ordered
//! endpoint has a lane for each ordering key, with one request at a time; the limits that hold for all of
//! them are a limit that their jobs name. It needs no breaker: a failing delivery holds up its key.

use std::collections::BTreeMap;
use std::time::Duration;

use harkara_queue::Engine;
use harkara_queue::job::{Lane, LimitUse, NewJob};
use harkara_queue::settings::{
    Breaker, Change, LaneChange, LimitChange, SettingsError, TenantChange,
};
use harkara_shared::id::{EndpointId, TenantId};

use crate::delivery_job::QUEUE;
use crate::endpoint::{Endpoint, Ordering};

/// Most characters of an event's ordering key: lanes have 256, of which the endpoint's id takes some.
pub(super) const LONGEST_KEY: usize = 200;

/// Requests at once to an endpoint that wants order, over all keys, unless it says otherwise.
const USUAL_IN_FLIGHT: u32 = 32;

/// When an endpoint is left alone: seven of ten attempts within five minutes have failed. After half a
/// minute one delivery tries.
const BREAKER: Breaker = Breaker {
    failures: 10,
    share: 70,
    window: Duration::from_secs(5 * 60),
    rest: Duration::from_secs(30),
};

/// Puts a delivery's job into its lane. What one endpoint asks for or suffers from is no other's concern.
pub(super) fn put(job: &mut NewJob, endpoint: EndpointId, ordering: Ordering, key: Option<&str>) {
    job.lane = match (ordering, key) {
        (Ordering::None, _) => Lane::Named(endpoint.to_string()),
        (Ordering::Fifo, None) => Lane::Ordered(endpoint.to_string()),
        (Ordering::Fifo, Some(key)) => Lane::Ordered(format!("{endpoint}/{key}")),
    };
    if ordering == Ordering::Fifo {
        job.limits = vec![LimitUse {
            key: limit_key(endpoint),
            cost: 1,
        }];
    }
}

/// Puts the job of a test into a lane where nothing that is to come in order, or late, stands before it.
pub(super) fn put_aside(job: &mut NewJob, endpoint: EndpointId, ordering: Ordering) {
    put(job, endpoint, ordering, None);
    job.lane = Lane::Named(endpoint.to_string());
    job.priority = 0;
}

fn limit_key(endpoint: EndpointId) -> String {
    format!("webhook/{endpoint}")
}

/// Has the engine hold what the endpoint is set to. To be called when that has been committed; again does
/// no harm, and is done every night.
///
/// # Errors
/// When the engine refuses, or the tenant has as many limits as it may.
pub async fn apply(
    engine: &Engine,
    tenant: TenantId,
    endpoint: &Endpoint,
) -> Result<(), SettingsError> {
    let rate = match (endpoint.rate_per_second(), endpoint.slowed_to()) {
        (Some(set), Some(slowed)) => Some(set.min(slowed)),
        (set, slowed) => set.or(slowed),
    };
    let limit = LimitChange {
        rate: rate.map_or(Change::Remove, Change::Set),
        per: rate.map(|_| Duration::from_secs(1)),
        burst: Change::Remove,
        max_running: match (endpoint.max_in_flight(), endpoint.ordering) {
            (Some(most), _) => Change::Set(most),
            (None, Ordering::Fifo) => Change::Set(USUAL_IN_FLIGHT),
            (None, Ordering::None) => Change::Remove,
        },
    };
    match endpoint.ordering {
        Ordering::None => {
            let change = LaneChange {
                breaker: Change::Set(BREAKER),
                limit,
                ..LaneChange::default()
            };
            let lane = Lane::Named(endpoint.id.to_string());
            engine.make_queue(QUEUE).await?;
            engine.set_lane(tenant, QUEUE, &lane, &change).await
        }
        Ordering::Fifo => {
            let change = TenantChange {
                limits: BTreeMap::from([(limit_key(endpoint.id), limit)]),
                ..TenantChange::default()
            };
            engine.set_tenant(tenant, &change).await
        }
    }
}

/// Has the engine forget what it held for an endpoint that is gone.
///
/// # Errors
/// When the engine refuses.
pub async fn forget(
    engine: &Engine,
    tenant: TenantId,
    endpoint: EndpointId,
    ordering: Ordering,
) -> Result<(), SettingsError> {
    match ordering {
        Ordering::None => {
            let change = LaneChange {
                breaker: Change::Remove,
                limit: LimitChange::removal(),
                ..LaneChange::default()
            };
            let lane = Lane::Named(endpoint.to_string());
            engine.make_queue(QUEUE).await?;
            engine.set_lane(tenant, QUEUE, &lane, &change).await
        }
        Ordering::Fifo => {
            let change = TenantChange {
                limits: BTreeMap::from([(limit_key(endpoint), LimitChange::removal())]),
                ..TenantChange::default()
            };
            engine.set_tenant(tenant, &change).await
        }
    }
}
