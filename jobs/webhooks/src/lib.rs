//! Webhooks: endpoints, events and their types, deliveries, and the kinds that deliver.
//!
//! Functions take a tenant's transaction. They read and write the domain's own rows and enqueue jobs; they never change a
//! job's state. Only the kind `webhook.deliver` calls an endpoint.

mod attempt;
mod batcher;
mod cleanup;
mod credentials;
mod delivery;
mod delivery_batcher;
mod delivery_context;
mod delivery_job;
mod endpoint;
mod error;
mod event;
mod event_type;
mod health;
pub mod kinds;
pub mod lane;
pub mod message;
mod redelivery;
pub mod response_policy;
mod retry_slots;
mod rules;
mod schedule;
mod schema;
mod secret;
mod services;
mod settings;
mod stats;
mod subscription;
mod token;

pub use attempt::{
    AttemptedEvent, DeliveryAttempt, EndpointAction, FinishedAttempt, MAX_STORED_BODY_BYTES,
    SentRequest, StoredResponse, Trigger, delivery_attempts,
};
pub use cleanup::Cleanup;
pub use credentials::{ClientCertificate, NewOAuth2, OAuth2};
pub use delivery::{
    Delivery, DeliveryFilter, DeliveryPage, DeliveryState, find_delivery, list_deliveries,
};
pub use delivery_batcher::DeliveryBatcher;
pub use delivery_context::{Credentials, DeliveryContext, Target};
pub use endpoint::{
    Endpoint, EndpointChange, EndpointStatus, NewEndpoint, Ordering, change_endpoint,
    create_endpoint, delete_endpoint, find_endpoint, list_endpoints,
};
pub use error::Error;
pub use event::{NewEvent, Posted, PostedDelivery, post_event};
pub use event_type::{
    EventType, NewEventType, check_event_data, find_event_type, forget_current_version,
    list_event_type_versions, list_event_types, register_event_type,
};
pub use redelivery::{
    RecoveryFilter, RedeliverError, recover_deliveries, redeliver, test_endpoint,
};
pub use retry_slots::RetrySlot;
pub use schedule::RetrySchedule;
pub use secret::{DEFAULT_GRACE, MAX_GRACE, current_signing_keys, rotate_signing_key};
pub use services::Services;
pub use settings::{payload_retention, remove_old_payloads, set_payload_retention};
pub use stats::{EndpointHour, EndpointStats, endpoint_stats};
pub use token::NoToken;
