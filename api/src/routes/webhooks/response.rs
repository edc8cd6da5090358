//! Representation of webhook endpoints.
//!
//! For responses and for the audit log. Never contains a secret except in the response that created it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use harkara_shared::duration::HumanDuration;
use harkara_shared::id::EndpointId;
use harkara_webhooks::{Endpoint, OAuth2};
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::request::{
    EndpointOrderingName, EndpointStatusName, schedule_schema, schedule_value, schedule_window,
};

/// A webhook endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub(in crate::routes) struct EndpointResponse {
    /// Id of the endpoint.
    pub(super) id: EndpointId,
    /// URL that events are posted to.
    #[schema(example = "https://example.com/webhooks")]
    url: String,
    /// Description of the endpoint.
    #[schema(required)]
    description: Option<String>,
    /// Event types that the endpoint subscribes to; all if empty.
    #[schema(example = json!(["invoice.*"]))]
    event_types: Vec<String>,
    /// Channels to subscribe to: an event must have one of them. Default: all events.
    channels: Vec<String>,
    /// Additional headers of each request.
    headers: BTreeMap<String, String>,
    /// Status of the endpoint.
    status: EndpointStatusName,
    /// Why the platform disabled the endpoint. `gone`: it responded with 410. `asked`: it responded with
    /// the header `webhook-delivery: disable`. `failing`: no attempt succeeded for five days.
    #[schema(required, example = "gone")]
    disabled_reason: Option<String>,
    /// Order of deliveries.
    ordering: EndpointOrderingName,
    /// Delays between attempts of a failed delivery.
    #[schema(schema_with = schedule_schema)]
    retry_schedule: Value,
    /// Time from the first to the last attempt if every attempt fails immediately.
    retry_window: HumanDuration,
    /// Maximum number of requests started per second.
    #[schema(required)]
    rate_per_second: Option<u32>,
    /// Current limit of requests started per second, lowered because the endpoint responded with 429 or
    /// 503.
    #[schema(required)]
    slowed_to: Option<u32>,
    /// Maximum number of requests in flight.
    #[schema(required)]
    max_in_flight: Option<u32>,
    /// When the first attempt failed since the last success; null if the last attempt succeeded.
    #[schema(required)]
    failing_since: Option<DateTime<Utc>>,
    /// Number of failed attempts since the last success.
    failures: u32,
    /// Public key to verify `v1a` signatures with, if the endpoint has a key pair.
    #[schema(
        required,
        example = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
    )]
    public_key: Option<String>,
    /// Client certificates, as PEM.
    #[schema(required)]
    client_certificate: Option<String>,
    /// OAuth 2 client credentials, without the secret.
    #[schema(required)]
    oauth2: Option<OAuth2Response>,
    /// When the request was started.
    created_at: DateTime<Utc>,
    /// When the endpoint was last changed.
    updated_at: DateTime<Utc>,
    /// Secret that signs the messages. Only present in the response that created the endpoint.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub(super) secret: Option<String>,
}

/// OAuth 2 client credentials, without the secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OAuth2)]
pub(in crate::routes) struct OAuth2Response {
    /// URL of the token endpoint.
    #[schema(example = "https://login.example.com/oauth2/token")]
    token_url: String,
    /// Client id.
    #[schema(example = "harkara")]
    client_id: String,
    /// Scope to request.
    #[schema(required)]
    scope: Option<String>,
    /// Audience to request.
    #[schema(required)]
    audience: Option<String>,
}

impl From<OAuth2> for OAuth2Response {
    fn from(oauth2: OAuth2) -> Self {
        Self {
            token_url: oauth2.token_url,
            client_id: oauth2.client_id,
            scope: oauth2.scope,
            audience: oauth2.audience,
        }
    }
}

impl EndpointResponse {
    /// The endpoint as recorded in the audit log. Header values are redacted, because they may be secrets
    /// of the receiver.
    pub(super) fn audit_value(&self) -> Value {
        let headers: BTreeMap<&str, &str> = self
            .headers
            .keys()
            .map(|name| (name.as_str(), "redacted"))
            .collect();
        json!({
            "url": self.url, "description": self.description, "event_types": self.event_types,
            "channels": self.channels, "headers": headers, "status": self.status,
            "ordering": self.ordering, "retry_schedule": self.retry_schedule,
            "rate_per_second": self.rate_per_second, "max_in_flight": self.max_in_flight,
            "client_certificate": self.client_certificate.is_some(), "oauth2": self.oauth2,
        })
    }
}

impl From<Endpoint> for EndpointResponse {
    fn from(endpoint: Endpoint) -> Self {
        let retry = endpoint.retry_schedule();
        Self {
            id: endpoint.id,
            retry_schedule: schedule_value(&retry),
            retry_window: schedule_window(&retry),
            rate_per_second: endpoint.rate_per_second(),
            slowed_to: endpoint.slowed_to(),
            max_in_flight: endpoint.max_in_flight(),
            failures: endpoint.failures(),
            url: endpoint.url,
            description: endpoint.description,
            event_types: endpoint.event_types,
            channels: endpoint.channels,
            headers: endpoint.headers,
            status: endpoint.status.into(),
            disabled_reason: endpoint.disabled_reason,
            ordering: endpoint.ordering.into(),
            failing_since: endpoint.failing_since,
            public_key: endpoint.public_key,
            client_certificate: endpoint.client_certificate,
            oauth2: endpoint.oauth2.map(OAuth2Response::from),
            created_at: endpoint.created_at,
            updated_at: endpoint.updated_at,
            secret: None,
        }
    }
}
