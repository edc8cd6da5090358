//! Room: routes of the keys that an endpoint's messages are signed with.
//! Takes: a caller's request. Gives: keys to who may manage endpoints, and new ones.
//! Never: keeps one unsealed, or tells one without an entry in the audit log.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use harkara_jobs::webhook::{LONGEST_GRACE, USUAL_GRACE, current_keys, rotate_key};
use harkara_shared::audit::Entry;
use harkara_shared::clock;
use harkara_shared::duration::HumanDuration;
use harkara_shared::id::EndpointId;
use harkara_shared::signature::{Ed25519Key, SigningKey, WebhookSecret};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::endpoint_not_found;
use crate::ApiState;
use crate::access::Scope;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::faults::Faults;
use crate::problem::Problem;
use crate::query::PathId;

/// The keys of an endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EndpointSecret)]
pub(in crate::routes) struct EndpointSecretResponse {
    /// The secret its messages are signed with (Standard Webhooks, `v1`).
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
    /// What its `v1a` signatures are verified with, if it has a key pair.
    #[schema(
        required,
        example = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
    )]
    public_key: Option<String>,
}

/// Show the secret of a webhook endpoint
///
/// A person confirms first that it is they (`POST /v1/session/confirm`). Needs the scope `webhooks:manage`.
#[utoipa::path(
    get,
    path = "/v1/webhook-endpoints/{id}/secret",
    operation_id = "get_endpoint_secret",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's id",
        example = "ep_01h455vb4pex5vsknk084sn02q")),
    responses((status = 200, description = "The secret", body = EndpointSecretResponse))
)]
pub(in crate::routes) async fn get_endpoint_secret(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<EndpointSecretResponse>, Problem> {
    caller.require(Scope::WebhooksManage)?;
    caller.require_confirmed()?;
    let mut tx = state.begin(&caller).await?;
    let keys = current_keys(&mut tx, state.keys(), id).await?;
    let answer = secret_response(&keys).ok_or_else(endpoint_not_found)?;
    caller
        .record(&mut tx, &Entry::new("endpoint.reveal", id))
        .await?;
    tx.commit().await?;
    Ok(Json(answer))
}

fn secret_response(keys: &[SigningKey]) -> Option<EndpointSecretResponse> {
    let secret = keys.iter().find(|key| key.public().is_none())?;
    Some(EndpointSecretResponse {
        secret: secret.expose(),
        public_key: keys.iter().find_map(SigningKey::public),
    })
}

/// What becomes of an endpoint's key.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndpointRotation, example = json!({"grace": "24h"}))]
pub(in crate::routes) struct RotateSecretRequest {
    /// How long the old key signs along, `0s` to `7d` in whole seconds; `24h` when left out.
    #[schema(value_type = Option<String>, example = "24h")]
    grace: Option<HumanDuration>,
    /// `v1`, the secret, when left out; `v1a` gives the endpoint a new key pair, or its first.
    algorithm: Option<Algorithm>,
    /// The new secret, if its people bring one: `whsec_` and base64 of 24 to 64 bytes.
    #[schema(
        pattern = "^whsec_[A-Za-z0-9+/]+={0,2}$",
        example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    )]
    secret: Option<String>,
}

/// How messages are signed: HMAC-SHA256 or ed25519.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SignatureAlgorithm)]
pub(in crate::routes) enum Algorithm {
    V1,
    V1a,
}

/// The new key of an endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RotatedSecret)]
pub(in crate::routes) struct RotatedSecretResponse {
    /// The secret its messages are signed with (Standard Webhooks, `v1`).
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
    /// What its `v1a` signatures are verified with, if it has a key pair.
    #[schema(
        required,
        example = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
    )]
    public_key: Option<String>,
    /// Until when the old key signs along.
    old_until: DateTime<Utc>,
}

/// Give a webhook endpoint a new key
///
/// Messages carry the signatures of both, the new one's first, until the old one has ended; at most ten old
/// ones sign along. A person confirms first that it is they. Needs the scope `webhooks:manage`.
#[utoipa::path(
    post,
    path = "/v1/webhook-endpoints/{id}/rotate-secret",
    operation_id = "rotate_endpoint_secret",
    tag = "webhooks",
    params(("id" = String, Path, description = "The endpoint's id",
        example = "ep_01h455vb4pex5vsknk084sn02q")),
    request_body = RotateSecretRequest,
    responses(
        (status = 200, description = "The new key", body = RotatedSecretResponse),
        (status = 409, description = "As many old keys sign along as may"),
    )
)]
pub(in crate::routes) async fn rotate_endpoint_secret(
    State(state): State<ApiState>,
    caller: Caller,
    PathId(id): PathId<EndpointId>,
    body: JsonBody,
) -> Result<Json<RotatedSecretResponse>, Problem> {
    caller.require(Scope::WebhooksManage)?;
    caller.require_confirmed()?;
    let mut faults = Faults::default();
    let request: RotateSecretRequest = body.members(&mut faults).unwrap_or_default();
    let grace = request.grace.map_or(USUAL_GRACE, Duration::from);
    if grace > LONGEST_GRACE || grace.subsec_nanos() != 0 {
        let detail = "must be `0s` to `7d`, in whole seconds";
        faults.add("", "/grace", "out_of_range", detail);
    }
    let new = match (request.algorithm, request.secret) {
        (Some(Algorithm::V1a), Some(_)) => {
            faults.add("", "/secret", "invalid", "is for `v1` only");
            None
        }
        (Some(Algorithm::V1a), None) => Some(SigningKey::from(Ed25519Key::generate())),
        (_, None) => Some(SigningKey::from(WebhookSecret::generate())),
        (_, Some(text)) => match WebhookSecret::parse(&text) {
            Ok(secret) => Some(SigningKey::from(secret)),
            Err(error) => {
                faults.add("", "/secret", "invalid", error.to_string());
                None
            }
        },
    };
    faults.none_in_body()?;
    let new = new.ok_or_else(|| Problem::internal("a body without key or fault"))?;
    let mut tx = state.begin(&caller).await?;
    if !rotate_key(&mut tx, state.keys(), id, &new, grace).await? {
        return Err(endpoint_not_found());
    }
    let keys = current_keys(&mut tx, state.keys(), id).await?;
    let current = secret_response(&keys).ok_or_else(endpoint_not_found)?;
    let after = json!({"algorithm": new.algorithm(), "grace": HumanDuration(grace)});
    let entry = Entry::new("endpoint.rotate", id).after(after);
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    Ok(Json(RotatedSecretResponse {
        secret: current.secret,
        public_key: current.public_key,
        old_until: clock::now() + grace,
    }))
}
