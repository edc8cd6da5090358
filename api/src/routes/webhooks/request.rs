//! Requests that create and change webhook endpoints.
//!
//! Validates them into endpoints and changes. Never touches the database.

use std::collections::BTreeMap;
use std::time::Duration;

use harkara_queue::settings::Change;
use harkara_shared::duration::{self, HumanDuration};
use harkara_shared::egress::Egress;
use harkara_shared::signature::WebhookSecret;
use harkara_webhooks::{
    ClientCertificate, EndpointChange, EndpointStatus, NewEndpoint, NewOAuth2, Ordering,
    RetrySchedule,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};

use crate::field_errors::FieldErrors;

/// A webhook endpoint to create.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewEndpoint, example = json!({
    "url": "https://example.com/webhooks",
    "event_types": ["invoice.*"],
    "retry_schedule": "fast"
}))]
pub(in crate::routes) struct NewEndpointRequest {
    /// URL that events are posted to. Must use https and a public address.
    #[schema(value_type = String, required, nullable = false, max_length = 2048)]
    url: Option<String>,
    /// Description of the endpoint.
    #[schema(max_length = 500)]
    description: Option<String>,
    /// Event types to subscribe to, such as `invoice.paid` or `invoice.*`. Default: all types, except the
    /// platform's own events about endpoints and deliveries, which must be listed explicitly.
    #[schema(max_items = 100)]
    event_types: Option<Vec<String>>,
    /// Channels to subscribe to: an event must have one of them. Default: all events.
    #[schema(max_items = 10)]
    channels: Option<Vec<String>>,
    /// Additional headers of each request.
    headers: Option<BTreeMap<String, String>>,
    /// Order of deliveries. `fifo`: events with the same ordering key are delivered one after another, and
    /// a failed delivery blocks the later ones of its key.
    ordering: Option<EndpointOrderingName>,
    /// Delays between attempts of a failed delivery.
    #[schema(schema_with = nullable_schedule_schema)]
    retry_schedule: Option<Value>,
    /// Maximum number of requests started per second.
    #[schema(minimum = 1, maximum = 1000000)]
    rate_per_second: Option<u32>,
    /// Maximum number of requests in flight. Default for endpoints with `fifo` ordering: 32.
    #[schema(minimum = 1, maximum = 1000000)]
    max_in_flight: Option<u32>,
    /// Existing secret to keep using: `whsec_` followed by the base64 encoding of 24 to 64 bytes. Default:
    /// a new secret.
    #[schema(
        pattern = "^whsec_[A-Za-z0-9+/]+={0,2}$",
        example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    )]
    secret: Option<String>,
    /// Client certificate for mutual TLS.
    client_certificate: Option<ClientCertificateRequest>,
    /// OAuth 2 client credentials to obtain an access token with.
    oauth2: Option<OAuth2Request>,
}

/// Changes of an endpoint. Members that are omitted stay unchanged; null removes them.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndpointChange, example = json!({"status": "paused"}))]
pub(in crate::routes) struct EndpointChangeRequest {
    /// URL that events are posted to. Must use https and a public address.
    #[schema(max_length = 2048)]
    url: Option<String>,
    /// Description of the endpoint.
    #[schema(value_type = Option<String>, max_length = 500)]
    #[serde(default)]
    description: Change<String>,
    /// Event types to subscribe to, such as `invoice.paid` or `invoice.*`; all if empty.
    #[schema(max_items = 100)]
    event_types: Option<Vec<String>>,
    /// Channels to subscribe to: an event must have one of them. Default: all events.
    #[schema(max_items = 10)]
    channels: Option<Vec<String>>,
    /// Additional headers of each request. Replaces all previous ones.
    headers: Option<BTreeMap<String, String>>,
    /// Status of the endpoint.
    status: Option<EndpointStatusName>,
    /// Order of deliveries of events posted from now on.
    ordering: Option<EndpointOrderingName>,
    /// Delays between attempts of a failed delivery.
    #[schema(schema_with = nullable_schedule_schema)]
    retry_schedule: Option<Value>,
    /// Maximum number of requests started per second.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    rate_per_second: Change<u32>,
    /// Maximum number of requests in flight.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    max_in_flight: Change<u32>,
    /// Client certificate for mutual TLS.
    #[schema(value_type = Option<ClientCertificateRequest>)]
    #[serde(default)]
    client_certificate: Change<ClientCertificateRequest>,
    /// OAuth 2 client credentials to obtain an access token with.
    #[schema(value_type = Option<OAuth2Request>)]
    #[serde(default)]
    oauth2: Change<OAuth2Request>,
}

/// Schema of a retry schedule or null, which means the same as omitting it.
fn nullable_schedule_schema() -> Schema {
    schedule_variants()
        .item(ObjectBuilder::new().schema_type(Type::Null))
        .into()
}

/// Schema of a retry schedule: a name or a list of delays.
pub(super) fn schedule_schema() -> Schema {
    schedule_variants().into()
}

fn schedule_variants() -> OneOfBuilder {
    let named = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(["standard", "fast"]));
    let delays = ArrayBuilder::new()
        .items(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .examples([json!("5m")]),
        )
        .max_items(Some(24));
    OneOfBuilder::new()
        .item(named)
        .item(delays)
        .description(Some(
            "`standard` (ten attempts over 75.5 hours), `fast` (delays of 1m, 5m, 15m), or a list of at most 24 \
             delays of `1s` to `7d` in whole seconds; an empty list means a single attempt.",
        ))
}

/// A client certificate and its private key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ClientCertificate)]
pub(in crate::routes) struct ClientCertificateRequest {
    /// Certificate and intermediate certificates, as PEM.
    #[schema(example = "-----BEGIN CERTIFICATE-----\n…")]
    certificate: String,
    /// Private key of the certificate, as PEM. Never shown again.
    #[schema(example = "-----BEGIN PRIVATE KEY-----\n…")]
    private_key: String,
}

/// OAuth 2 client credentials.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewOAuth2)]
pub(in crate::routes) struct OAuth2Request {
    /// URL of the token endpoint.
    #[schema(example = "https://login.example.com/oauth2/token")]
    token_url: String,
    /// Client id.
    #[schema(min_length = 1, max_length = 2048, example = "harkara")]
    client_id: String,
    /// Client secret. Never shown again.
    #[schema(min_length = 1, max_length = 2048)]
    client_secret: String,
    /// Scope to request.
    #[schema(max_length = 2048)]
    scope: Option<String>,
    /// Audience to request.
    #[schema(max_length = 2048)]
    audience: Option<String>,
}

/// Status of an endpoint. Deliveries to a `paused` endpoint wait; deliveries to a `disabled` endpoint are
/// skipped.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EndpointStatus)]
pub(in crate::routes) enum EndpointStatusName {
    Active,
    Paused,
    Disabled,
}

impl From<EndpointStatus> for EndpointStatusName {
    fn from(status: EndpointStatus) -> Self {
        match status {
            EndpointStatus::Active => Self::Active,
            EndpointStatus::Paused => Self::Paused,
            EndpointStatus::Disabled => Self::Disabled,
        }
    }
}

impl From<EndpointStatusName> for EndpointStatus {
    fn from(name: EndpointStatusName) -> Self {
        match name {
            EndpointStatusName::Active => Self::Active,
            EndpointStatusName::Paused => Self::Paused,
            EndpointStatusName::Disabled => Self::Disabled,
        }
    }
}

/// Order of deliveries.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = EndpointOrdering)]
pub(in crate::routes) enum EndpointOrderingName {
    None,
    Fifo,
}

impl From<Ordering> for EndpointOrderingName {
    fn from(ordering: Ordering) -> Self {
        match ordering {
            Ordering::None => Self::None,
            Ordering::Fifo => Self::Fifo,
        }
    }
}

impl From<EndpointOrderingName> for Ordering {
    fn from(name: EndpointOrderingName) -> Self {
        match name {
            EndpointOrderingName::None => Self::None,
            EndpointOrderingName::Fifo => Self::Fifo,
        }
    }
}

impl From<ClientCertificateRequest> for ClientCertificate {
    fn from(given: ClientCertificateRequest) -> Self {
        Self {
            certificate: given.certificate,
            private_key: given.private_key,
        }
    }
}

impl From<OAuth2Request> for NewOAuth2 {
    fn from(given: OAuth2Request) -> Self {
        Self {
            token_url: given.token_url,
            client_id: given.client_id,
            client_secret: given.client_secret,
            scope: given.scope,
            audience: given.audience,
        }
    }
}

impl NewEndpointRequest {
    /// Validates the request and returns the endpoint; what is wrong is added to `errors`.
    pub(in crate::routes) fn read(self, egress: &Egress, errors: &mut FieldErrors) -> NewEndpoint {
        if self.url.is_none() {
            errors.add("", "/url", "missing", "is required");
        }
        let secret = self.secret.as_deref().map(WebhookSecret::parse).transpose();
        let secret = secret.unwrap_or_else(|error| {
            errors.add("", "/secret", "invalid", error.to_string());
            None
        });
        fn set<T, U: From<T>>(given: Option<T>) -> Change<U> {
            given.map_or(Change::Keep, |given| Change::Set(U::from(given)))
        }
        let new = NewEndpoint {
            url: self.url.unwrap_or_default(),
            rest: EndpointChange {
                url: None,
                description: set(self.description),
                event_types: self.event_types,
                channels: self.channels,
                headers: self.headers,
                status: None,
                ordering: self.ordering.map(Ordering::from),
                retry_schedule: read_schedule(self.retry_schedule, errors),
                rate_per_second: set(self.rate_per_second),
                max_in_flight: set(self.max_in_flight),
                client_certificate: set(self.client_certificate),
                oauth2: set(self.oauth2),
            },
            secret,
        };
        errors.extend("", new.check(egress));
        new
    }
}

impl EndpointChangeRequest {
    /// Validates the request and returns the change; what is wrong is added to `errors`.
    pub(in crate::routes) fn read(
        self,
        egress: &Egress,
        errors: &mut FieldErrors,
    ) -> EndpointChange {
        let change = EndpointChange {
            url: self.url,
            description: self.description,
            event_types: self.event_types,
            channels: self.channels,
            headers: self.headers,
            status: self.status.map(EndpointStatus::from),
            ordering: self.ordering.map(Ordering::from),
            retry_schedule: read_schedule(self.retry_schedule, errors),
            rate_per_second: self.rate_per_second,
            max_in_flight: self.max_in_flight,
            client_certificate: self.client_certificate.map(ClientCertificate::from),
            oauth2: self.oauth2.map(NewOAuth2::from),
        };
        errors.extend("", change.check(egress));
        change
    }
}

fn read_schedule(given: Option<Value>, errors: &mut FieldErrors) -> Option<RetrySchedule> {
    let pointer = "/retry_schedule";
    let texts = match given? {
        Value::String(name) => {
            let schedule = RetrySchedule::named(&name);
            if schedule.is_none() {
                let detail = "must be `standard`, `fast` or a list of delays";
                errors.add("", pointer, "unknown", detail);
            }
            return schedule;
        }
        Value::Array(texts) => texts,
        _ => {
            let detail = "must be `standard`, `fast` or a list of delays";
            errors.add("", pointer, "invalid", detail);
            return None;
        }
    };
    let mut delays: Vec<Duration> = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match text.as_str().map(duration::parse) {
            Some(Ok(delay)) => delays.push(delay),
            _ => {
                let pointer = format!("{pointer}/{index}");
                errors.add("", &pointer, "invalid", "must be a duration such as \"5m\"");
                return None;
            }
        }
    }
    match RetrySchedule::of(&delays) {
        Ok(schedule) => Some(schedule),
        Err(Some(index)) => {
            let detail = "must be between `1s` and `7d`, in whole seconds";
            errors.add("", &format!("{pointer}/{index}"), "out_of_range", detail);
            None
        }
        Err(None) => {
            errors.add("", pointer, "too_many", "must have at most 24 items");
            None
        }
    }
}

/// A retry schedule as JSON: its name, or its delays.
pub(super) fn schedule_value(schedule: &RetrySchedule) -> Value {
    match schedule.name() {
        Some(name) => name.into(),
        None => schedule.texts().into(),
    }
}

/// Total time from the first to the last attempt.
pub(super) fn schedule_window(schedule: &RetrySchedule) -> HumanDuration {
    HumanDuration(schedule.window())
}
