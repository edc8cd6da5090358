//! Room: what callers give of webhook endpoints.
//! Takes: bodies of requests. Gives: endpoints and changes that the rules were asked about.
//! Never: touches the database.

use std::collections::BTreeMap;
use std::time::Duration;

use harkara_jobs::webhook::{
    ClientCertificate, EndpointChange, EndpointStatus, NewEndpoint, NewOAuth2, Ordering,
    RetrySchedule,
};
use harkara_queue::settings::Change;
use harkara_shared::duration::{self, HumanDuration};
use harkara_shared::egress::Egress;
use harkara_shared::signature::WebhookSecret;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;
use utoipa::openapi::schema::{ArrayBuilder, ObjectBuilder, OneOfBuilder, Schema, Type};

use crate::faults::Faults;

/// An endpoint that is wanted.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewEndpoint, example = json!({
    "url": "https://example.com/webhooks",
    "event_types": ["invoice.*"],
    "retry_schedule": "fast"
}))]
pub(in crate::routes) struct NewEndpointRequest {
    /// Where events are posted: an https URL at a public address.
    #[schema(value_type = String, required, nullable = false, max_length = 2048)]
    url: Option<String>,
    /// What its people call it.
    #[schema(max_length = 500)]
    description: Option<String>,
    /// Types it takes, such as `invoice.paid` or `invoice.*`; none for all. What the platform tells of
    /// endpoints and deliveries goes only to endpoints that name it.
    #[schema(max_items = 100)]
    event_types: Option<Vec<String>>,
    /// Channels, one of which an event must name; none for all events.
    #[schema(max_items = 10)]
    channels: Option<Vec<String>>,
    /// Headers sent along.
    headers: Option<BTreeMap<String, String>>,
    /// `fifo`: one event after another for each ordering key, and one that fails holds up those of its key.
    ordering: Option<EndpointOrderingName>,
    /// When a delivery that failed is tried again.
    #[schema(schema_with = nullable_schedule_schema)]
    retry_schedule: Option<Value>,
    /// Requests started in a second, at the most.
    #[schema(minimum = 1, maximum = 1000000)]
    rate_per_second: Option<u32>,
    /// Requests under way at once, at the most; for an endpoint that wants order 32 unless said.
    #[schema(minimum = 1, maximum = 1000000)]
    max_in_flight: Option<u32>,
    /// The secret it has already, `whsec_` and base64 of 24 to 64 bytes; a new one when left out.
    #[schema(
        pattern = "^whsec_[A-Za-z0-9+/]+={0,2}$",
        example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    )]
    secret: Option<String>,
    /// The certificate it is shown (mutual TLS).
    client_certificate: Option<ClientCertificateRequest>,
    /// How it is asked for a token first.
    oauth2: Option<OAuth2Request>,
}

/// A change of an endpoint; what is left out stays, and null takes away.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndpointChange, example = json!({"status": "paused"}))]
pub(in crate::routes) struct EndpointChangeRequest {
    /// Where events are posted: an https URL at a public address.
    #[schema(max_length = 2048)]
    url: Option<String>,
    /// What its people call it.
    #[schema(value_type = Option<String>, max_length = 500)]
    #[serde(default)]
    description: Change<String>,
    /// Types it takes, such as `invoice.paid` or `invoice.*`; none for all.
    #[schema(max_items = 100)]
    event_types: Option<Vec<String>>,
    /// Channels, one of which an event must name; none for all events.
    #[schema(max_items = 10)]
    channels: Option<Vec<String>>,
    /// Headers sent along, in place of all old ones.
    headers: Option<BTreeMap<String, String>>,
    /// Whether it is delivered to.
    status: Option<EndpointStatusName>,
    /// Order of the events that are posted from now on.
    ordering: Option<EndpointOrderingName>,
    /// When a delivery that failed is tried again.
    #[schema(schema_with = nullable_schedule_schema)]
    retry_schedule: Option<Value>,
    /// Requests started in a second, at the most.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    rate_per_second: Change<u32>,
    /// Requests under way at once, at the most.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000)]
    #[serde(default)]
    max_in_flight: Change<u32>,
    /// The certificate it is shown (mutual TLS).
    #[schema(value_type = Option<ClientCertificateRequest>)]
    #[serde(default)]
    client_certificate: Change<ClientCertificateRequest>,
    /// How it is asked for a token first.
    #[schema(value_type = Option<OAuth2Request>)]
    #[serde(default)]
    oauth2: Change<OAuth2Request>,
}

/// The same, or null, which is as if it were left out.
fn nullable_schedule_schema() -> Schema {
    schedule_variants()
        .item(ObjectBuilder::new().schema_type(Type::Null))
        .into()
}

/// A name of a schedule, or the waits themselves.
pub(super) fn schedule_schema() -> Schema {
    schedule_variants().into()
}

fn schedule_variants() -> OneOfBuilder {
    let named = ObjectBuilder::new()
        .schema_type(Type::String)
        .enum_values(Some(["standard", "fast"]));
    let waits = ArrayBuilder::new()
        .items(
            ObjectBuilder::new()
                .schema_type(Type::String)
                .examples([json!("5m")]),
        )
        .max_items(Some(24));
    OneOfBuilder::new()
        .item(named)
        .item(waits)
        .description(Some(
            "`standard` (ten attempts over 75 hours and a half), `fast` (1m, 5m, 15m), or at most 24 waits \
             of `1s` to `7d` in whole seconds, none for a single attempt.",
        ))
}

/// A certificate to show, and its key.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ClientCertificate)]
pub(in crate::routes) struct ClientCertificateRequest {
    /// The certificate and those between it and its root, as PEM.
    #[schema(example = "-----BEGIN CERTIFICATE-----\n…")]
    certificate: String,
    /// Its private key, as PEM. Never shown again.
    #[schema(example = "-----BEGIN PRIVATE KEY-----\n…")]
    private_key: String,
}

/// How a token is asked for (OAuth 2, client credentials).
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewOAuth2)]
pub(in crate::routes) struct OAuth2Request {
    /// Where.
    #[schema(example = "https://login.example.com/oauth2/token")]
    token_url: String,
    /// Who asks.
    #[schema(min_length = 1, max_length = 2048, example = "harkara")]
    client_id: String,
    /// How they prove it. Never shown again.
    #[schema(min_length = 1, max_length = 2048)]
    client_secret: String,
    /// For what.
    #[schema(max_length = 2048)]
    scope: Option<String>,
    /// For whom.
    #[schema(max_length = 2048)]
    audience: Option<String>,
}

/// Deliveries to a `paused` endpoint wait; those to a `disabled` one are skipped.
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

/// In which order an endpoint gets its events.
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
    /// The endpoint, with all that is wrong with it in `faults`.
    pub(in crate::routes) fn read(self, egress: &Egress, faults: &mut Faults) -> NewEndpoint {
        if self.url.is_none() {
            faults.add("", "/url", "missing", "must be there");
        }
        let secret = self.secret.as_deref().map(WebhookSecret::parse).transpose();
        let secret = secret.unwrap_or_else(|error| {
            faults.add("", "/secret", "invalid", error.to_string());
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
                retry_schedule: read_schedule(self.retry_schedule, faults),
                rate_per_second: set(self.rate_per_second),
                max_in_flight: set(self.max_in_flight),
                client_certificate: set(self.client_certificate),
                oauth2: set(self.oauth2),
            },
            secret,
        };
        faults.extend("", new.check(egress));
        new
    }
}

impl EndpointChangeRequest {
    /// The change, with all that is wrong with it in `faults`.
    pub(in crate::routes) fn read(self, egress: &Egress, faults: &mut Faults) -> EndpointChange {
        let change = EndpointChange {
            url: self.url,
            description: self.description,
            event_types: self.event_types,
            channels: self.channels,
            headers: self.headers,
            status: self.status.map(EndpointStatus::from),
            ordering: self.ordering.map(Ordering::from),
            retry_schedule: read_schedule(self.retry_schedule, faults),
            rate_per_second: self.rate_per_second,
            max_in_flight: self.max_in_flight,
            client_certificate: self.client_certificate.map(ClientCertificate::from),
            oauth2: self.oauth2.map(NewOAuth2::from),
        };
        faults.extend("", change.check(egress));
        change
    }
}

fn read_schedule(given: Option<Value>, faults: &mut Faults) -> Option<RetrySchedule> {
    let pointer = "/retry_schedule";
    let words = match given? {
        Value::String(name) => {
            let schedule = RetrySchedule::named(&name);
            if schedule.is_none() {
                let detail = "must be `standard`, `fast` or a list of waits";
                faults.add("", pointer, "unknown", detail);
            }
            return schedule;
        }
        Value::Array(words) => words,
        _ => {
            let detail = "must be `standard`, `fast` or a list of waits";
            faults.add("", pointer, "invalid", detail);
            return None;
        }
    };
    let mut waits: Vec<Duration> = Vec::with_capacity(words.len());
    for (place, word) in words.iter().enumerate() {
        match word.as_str().map(duration::parse) {
            Some(Ok(wait)) => waits.push(wait),
            _ => {
                let pointer = format!("{pointer}/{place}");
                faults.add("", &pointer, "invalid", "must be a duration such as \"5m\"");
                return None;
            }
        }
    }
    match RetrySchedule::of(&waits) {
        Ok(schedule) => Some(schedule),
        Err(Some(place)) => {
            let detail = "must be `1s` to `7d`, in whole seconds";
            faults.add("", &format!("{pointer}/{place}"), "out_of_range", detail);
            None
        }
        Err(None) => {
            faults.add("", pointer, "too_many", "at most 24");
            None
        }
    }
}

/// How a schedule is answered: its name, or its waits.
pub(super) fn schedule_value(schedule: &RetrySchedule) -> Value {
    match schedule.name() {
        Some(name) => name.into(),
        None => schedule.words().into(),
    }
}

/// How long all attempts take together.
pub(super) fn schedule_window(schedule: &RetrySchedule) -> HumanDuration {
    HumanDuration(schedule.window())
}
