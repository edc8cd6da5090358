//! Room: the resources of webhooks: endpoints, events and their types, deliveries.
//! Takes: a tenant's transaction. Gives: rows in and out, and the jobs that deliver.
//! Never: calls an endpoint (that is the kind's work) or decides about a job.

mod again;
mod attempt;
mod clerk;
mod delivery;
mod endpoint;
mod envoy;
mod event;
mod event_type;
mod gather;
mod health;
pub mod judge;
pub mod lane;
mod late;
pub mod message;
mod rules;
mod schedule;
mod schema;
mod secret;
mod settings;
mod stats;
mod subscription;
mod token;

use std::sync::Arc;

pub use again::{Missed, Unsent, recover, redeliver, test_endpoint};
pub use attempt::{
    AttemptedEvent, Cause, DeliveryAttempt, FinishedAttempt, KEPT_BODY, KeptAnswer, SentRequest,
    Wish, delivery_attempts,
};
pub use clerk::Clerk;
pub use delivery::{
    Delivery, DeliveryFilter, DeliveryPage, DeliveryState, catch_up, delivery, forget,
    forget_hours, list_deliveries, skip,
};
pub use endpoint::{
    ClientCertificate, Endpoint, EndpointChange, EndpointStatus, NewEndpoint, NewOAuth2, OAuth2,
    Ordering, change_endpoint, create_endpoint, delete_endpoint, endpoint, list_endpoints,
};
pub use envoy::{Credentials, Envoy, Target};
pub use event::{NewEvent, Posted, PostedDelivery, post_event};
pub use event_type::{
    EventType, NewEventType, check_data, event_type, list_event_types, register, registered,
    versions_of,
};
pub use late::LatePlace;
pub use schedule::RetrySchedule;
pub use secret::{LONGEST_GRACE, USUAL_GRACE, current_keys, rotate_key};
pub use settings::{forget_payloads, payload_retention, set_payload_retention};
pub use stats::{EndpointHour, EndpointStats, endpoint_stats};
pub use token::NoToken;

use harkara_queue::settings::SettingsError;
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
    /// The engine does not hold what an endpoint is set to.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// What is asked contradicts what is there.
    #[error("{0}")]
    Conflict(String),
    /// What is asked does not satisfy what the tenant has registered.
    #[error("the event does not satisfy its type")]
    Invalid(Vec<Fault>),
    /// A row holds what no release of Harkara writes.
    #[error("a stored row cannot be read: {0}")]
    Corrupt(String),
    /// Several asked together, and this is what all were told.
    #[error(transparent)]
    Shared(#[from] Arc<Error>),
}

impl Error {
    /// What the database said, if it was the database.
    #[must_use]
    pub fn database(&self) -> Option<&sqlx::Error> {
        match self {
            Self::Database(error) | Self::Queue(harkara_queue::Error::Database(error)) => {
                Some(error)
            }
            Self::Shared(error) => error.database(),
            _ => None,
        }
    }
}
