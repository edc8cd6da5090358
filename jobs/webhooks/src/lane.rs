//! Lanes of endpoints: applies an endpoint's rate, concurrency and breaker to the queue.
//!
//! An unordered endpoint has one lane, which carries its rate, its concurrency and its breaker. An ordered endpoint has
//! a lane for each ordering key, with one request at a time; rate and concurrency of all its lanes are a shared limit
//! that their jobs name. It needs no breaker: a failing delivery holds up its key.

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

/// Maximum length of an ordering key in characters: the key of a lane has at most 256, which include the endpoint's id.
pub(super) const MAX_ORDERING_KEY: usize = 200;

/// Default number of concurrent requests to an ordered endpoint, over all its keys.
const DEFAULT_IN_FLIGHT: u32 = 32;

/// Opens when seven of ten attempts within five minutes have failed. After half a minute one delivery tests the
/// endpoint.
const BREAKER: Breaker = Breaker {
    failures: 10,
    share: 70,
    window: Duration::from_secs(5 * 60),
    rest: Duration::from_secs(30),
};

/// Assigns a delivery's job to the lane of its endpoint, so that endpoints do not affect each other.
pub(super) fn assign(
    job: &mut NewJob,
    endpoint: EndpointId,
    ordering: Ordering,
    key: Option<&str>,
) {
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

/// Assigns the job of a test to a lane without ordering and with the highest priority, so that it runs before other
/// deliveries.
pub(super) fn assign_test(job: &mut NewJob, endpoint: EndpointId, ordering: Ordering) {
    assign(job, endpoint, ordering, None);
    job.lane = Lane::Named(endpoint.to_string());
    job.priority = 0;
}

fn limit_key(endpoint: EndpointId) -> String {
    format!("webhook/{endpoint}")
}

/// Applies an endpoint's limits to the queue. Called after the endpoint is committed; it is idempotent and repeated
/// every night.
///
/// # Errors
/// When the engine refuses, or the tenant has the maximum number of limits.
pub async fn apply_limits(
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
            (Some(max), _) => Change::Set(max),
            (None, Ordering::Fifo) => Change::Set(DEFAULT_IN_FLIGHT),
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

/// Removes the limits of a deleted endpoint from the queue.
///
/// # Errors
/// When the engine refuses.
pub async fn remove_limits(
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
