//! Routes of the keys that sign an endpoint's messages.
//!
//! Reveals and rotates them. Never stores a key unsealed and never reveals one without an entry in the
//! audit log.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use chrono::{DateTime, Utc};
use harkara_shared::audit::Entry;
use harkara_shared::clock;
use harkara_shared::duration::HumanDuration;
use harkara_shared::id::EndpointId;
use harkara_shared::signature::{Ed25519Key, SigningKey, WebhookSecret};
use harkara_webhooks::{DEFAULT_GRACE, MAX_GRACE, current_signing_keys, rotate_signing_key};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::endpoint_not_found;
use crate::ApiState;
use crate::auth::{Authorized, Confirmed, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::problem::Problem;
use crate::query::PathId;

/// Signing keys of an endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = EndpointSecret)]
pub(in crate::routes) struct EndpointSecretResponse {
    /// Secret that signs the messages (Standard Webhooks, `v1`).
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
    /// Public key to verify `v1a` signatures with; null if the endpoint has no key pair.
    #[schema(
        required,
        example = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
    )]
    public_key: Option<String>,
}

/// Get the secret of a webhook endpoint
#[utoipa::path(
    get,
    path = "/v1/webhook-endpoints/{id}/secret",
    operation_id = "get_endpoint_secret",
    tag = "webhooks",
    responses((status = 200, description = "The secret", body = EndpointSecretResponse))
)]
pub(in crate::routes) async fn get_endpoint_secret(
    State(state): State<ApiState>,
    caller: Authorized<Confirmed<scope::WebhooksManage>>,
    PathId(id): PathId<EndpointId>,
) -> Result<Json<EndpointSecretResponse>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let keys = current_signing_keys(&mut tx, state.keys(), id).await?;
    let response = secret_response(&keys).ok_or_else(endpoint_not_found)?;
    caller
        .record(&mut tx, &Entry::new("endpoint.reveal", id))
        .await?;
    tx.commit().await?;
    Ok(Json(response))
}

fn secret_response(keys: &[SigningKey]) -> Option<EndpointSecretResponse> {
    let secret = keys.iter().find(|key| key.public().is_none())?;
    Some(EndpointSecretResponse {
        secret: secret.expose(),
        public_key: keys.iter().find_map(SigningKey::public),
    })
}

/// Options of a rotation.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = EndpointRotation, example = json!({"grace": "24h"}))]
pub(in crate::routes) struct RotateSecretRequest {
    /// How long messages are also signed with the old key, `0s` to `7d` in whole seconds. Default `24h`.
    grace: Option<HumanDuration>,
    /// Signature scheme of the key to rotate. `v1`: the secret. `v1a`: the key pair, which is created if
    /// the endpoint has none. Default `v1`.
    algorithm: Option<Algorithm>,
    /// New secret to use instead of a generated one: `whsec_` followed by the base64 encoding of 24 to 64
    /// bytes.
    #[schema(
        pattern = "^whsec_[A-Za-z0-9+/]+={0,2}$",
        example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
    )]
    secret: Option<String>,
}

/// Signature scheme: `v1` is HMAC-SHA256, `v1a` is Ed25519.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
#[schema(as = SignatureAlgorithm)]
pub(in crate::routes) enum Algorithm {
    V1,
    V1a,
}

/// New signing key of an endpoint.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RotatedSecret)]
pub(in crate::routes) struct RotatedSecretResponse {
    /// Secret that signs the messages (Standard Webhooks, `v1`).
    #[schema(example = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw")]
    secret: String,
    /// Public key to verify `v1a` signatures with; null if the endpoint has no key pair.
    #[schema(
        required,
        example = "whpk_1SiA4o9hyqTCpIqC5V9HUakiiaeACeqfZTInDBbOir4="
    )]
    public_key: Option<String>,
    /// Until when messages are also signed with the old key.
    old_until: DateTime<Utc>,
}

/// Rotate the secret of a webhook endpoint
///
/// Messages carry the signatures of the new and the old key, the new one's first, until the old key
/// expires. At most ten old keys sign messages.
#[utoipa::path(
    post,
    path = "/v1/webhook-endpoints/{id}/rotate-secret",
    operation_id = "rotate_endpoint_secret",
    tag = "webhooks",
    request_body = RotateSecretRequest,
    responses(
        (status = 200, description = "The new key", body = RotatedSecretResponse),
        (status = 409, description = "The maximum number of old keys is in use"),
    )
)]
pub(in crate::routes) async fn rotate_endpoint_secret(
    State(state): State<ApiState>,
    caller: Authorized<Confirmed<scope::WebhooksManage>>,
    PathId(id): PathId<EndpointId>,
    body: JsonBody,
) -> Result<Json<RotatedSecretResponse>, Problem> {
    let mut errors = FieldErrors::default();
    let request: RotateSecretRequest = body.members(&mut errors).unwrap_or_default();
    let grace = request.grace.map_or(DEFAULT_GRACE, Duration::from);
    if grace > MAX_GRACE || grace.subsec_nanos() != 0 {
        let detail = "must be between `0s` and `7d`, in whole seconds";
        errors.add("", "/grace", "out_of_range", detail);
    }
    let new = match (request.algorithm, request.secret) {
        (Some(Algorithm::V1a), Some(_)) => {
            errors.add("", "/secret", "invalid", "can only be set for `v1`");
            None
        }
        (Some(Algorithm::V1a), None) => Some(SigningKey::from(Ed25519Key::generate())),
        (_, None) => Some(SigningKey::from(WebhookSecret::generate())),
        (_, Some(text)) => match WebhookSecret::parse(&text) {
            Ok(secret) => Some(SigningKey::from(secret)),
            Err(error) => {
                errors.add("", "/secret", "invalid", error.to_string());
                None
            }
        },
    };
    errors.into_body_result()?;
    let new =
        new.ok_or_else(|| Problem::internal("validation returned neither a key nor an error"))?;
    let mut tx = state.begin(&caller).await?;
    if !rotate_signing_key(&mut tx, state.keys(), id, &new, grace).await? {
        return Err(endpoint_not_found());
    }
    let keys = current_signing_keys(&mut tx, state.keys(), id).await?;
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
