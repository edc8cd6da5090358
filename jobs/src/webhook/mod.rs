//! Room: the resources of webhooks: endpoints, events and their types, deliveries.
//! Takes: a tenant's transaction. Gives: rows in and out, and the jobs that deliver.
//! Never: calls an endpoint (that is the kind's work) or decides about a job.

mod delivery;
mod endpoint;
mod event;
mod event_type;
mod schema;

pub use delivery::{
    Delivery, DeliveryAttempt, DeliveryFilter, DeliveryState, Envoy, FinishedAttempt, catch_up,
    delivery, delivery_attempts, envoy, forget, list_deliveries, record, skip,
};
pub use endpoint::{
    Endpoint, EndpointChange, EndpointStatus, NewEndpoint, change_endpoint, create_endpoint,
    delete_endpoint, endpoint, endpoint_secret, list_endpoints,
};
pub use event::{NewEvent, Posted, PostedDelivery, post_event};
pub use event_type::{
    EventType, NewEventType, check_data, event_type, list_event_types, register, registered,
    versions_of,
};

use harkara_shared::vault::VaultError;

use crate::fault::Fault;

/// Why a webhook resource cannot be had or changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The database refused or is not there.
    #[error(transparent)]
    Database(#[from] sqlx::Error),
    /// The queue could not take the deliveries.
    #[error(transparent)]
    Queue(#[from] harkara_queue::Error),
    /// A stored secret cannot be opened: the master key it was sealed with is missing.
    #[error("a stored secret cannot be opened: {0}")]
    Vault(#[from] VaultError),
    /// What is asked contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// What is asked does not satisfy what the tenant has registered.
    #[error("the event does not satisfy its type")]
    Invalid(Vec<Fault>),
    /// A row holds what no release of Harkara writes.
    #[error("a stored row cannot be read: {0}")]
    Corrupt(String),
}
