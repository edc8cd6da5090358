//! Room: how webhook endpoints are shown.
//! Takes: endpoints. Gives: answers, and what the audit log is audit_value. Never: shows a secret but to who made it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use harkara_jobs::webhook::{Endpoint, OAuth2};
use harkara_shared::duration::HumanDuration;
use harkara_shared::id::EndpointId;
use serde::Serialize;
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::request::{
    EndpointOrderingName, EndpointStatusName, schedule_schema, schedule_value, schedule_window,
};

/// An address that events are delivered to.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Endpoint)]
pub(in crate::routes) struct EndpointResponse {
    /// Id.
    #[schema(value_type = String, example = "ep_01h455vb4pex5vsknk084sn02q")]
    pub(super) id: EndpointId,
    /// Where events are posted.
    #[schema(example = "https://example.com/webhooks")]
    url: String,
    /// What its people call it.
    #[schema(required)]
    description: Option<String>,
    /// Types it takes; none for all.
    #[schema(example = json!(["invoice.*"]))]
    event_types: Vec<String>,
    /// Channels, one of which an event must name; none for all events.
    channels: Vec<String>,
    /// Headers sent along.
    headers: BTreeMap<String, String>,
    /// Whether it is delivered to.
    status: EndpointStatusName,
    /// Why the platform disabled it: `gone` (it answered 410), `asked` (it answered `webhook-delivery:
    /// disable`) or `failing` (five days without a success).
    #[schema(required, example = "gone")]
    disabled_reason: Option<String>,
    /// In which order it gets its events.
    ordering: EndpointOrderingName,
    /// When a delivery that failed is tried again.
    #[schema(schema_with = schedule_schema)]
    retry_schedule: Value,
    /// From the first attempt to the last, if each fails at once.
    #[schema(value_type = String, example = "1260s")]
    retry_window: HumanDuration,
    /// Requests started in a second, at the most.
    #[schema(required)]
    rate_per_second: Option<u32>,
    /// Requests started in a second for now, because it asked for less (429 or 503).
    #[schema(required)]
    slowed_to: Option<u32>,
    /// Requests under way at once, at the most.
    #[schema(required)]
    max_in_flight: Option<u32>,
    /// Since when no attempt has succeeded, if one has failed since.
    #[schema(required)]
    failing_since: Option<DateTime<Utc>>,
    /// Attempts that failed since the last success.
    failures: u32,
    /// What `v1a` signatures are verified with, if it has such a key.
    #[schema(
        required,
        example = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
    )]
    public_key: Option<String>,
    /// The certificates it is shown, as PEM.
    #[schema(required)]
    client_certificate: Option<String>,
    /// How it is asked for a token first; without the secret.
    #[schema(required)]
    oauth2: Option<OAuth2Response>,
    /// When it was made.
    created_at: DateTime<Utc>,
    /// When it was last changed.
    updated_at: DateTime<Utc>,
    /// The secret its messages are signed with. In the answer that made it only.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    pub(super) secret: Option<String>,
}

/// How an endpoint is asked for a token first.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = OAuth2)]
pub(in crate::routes) struct OAuth2Response {
    /// Where.
    #[schema(example = "https://login.example.com/oauth2/token")]
    token_url: String,
    /// Who asks.
    #[schema(example = "harkara")]
    client_id: String,
    /// For what.
    #[schema(required)]
    scope: Option<String>,
    /// For whom.
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
    /// As the audit log tells it: headers may hold secrets of the receiver.
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
