//! Routes of a tenant's webhook settings.
//!
//! Shows and sets how long payloads are stored. Never deletes a payload itself.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use harkara_queue::settings::Change;
use harkara_shared::audit::Entry;
use harkara_shared::duration::HumanDuration;
use harkara_webhooks::{payload_retention, set_payload_retention};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::ApiState;
use crate::auth::{Authorized, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::problem::Problem;

/// Range of the payload retention. Events themselves are stored for 30 days.
const PAYLOAD_RETENTION_RANGE: std::ops::RangeInclusive<Duration> =
    Duration::from_secs(3600)..=Duration::from_secs(30 * 86_400);

/// Webhook settings of a tenant.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookSettings)]
pub(in crate::routes) struct WebhookSettingsResponse {
    /// How long payloads of events and responses to them are stored; null for as long as the events
    /// themselves, which is 30 days.
    #[schema(required)]
    payload_retention: Option<HumanDuration>,
}

/// Changes of the webhook settings.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookSettingsChange, example = json!({"payload_retention": "7d"}))]
pub(in crate::routes) struct WebhookSettingsRequest {
    /// How long payloads are stored, `1h` to `30d` in whole seconds. Null for as long as the events
    /// themselves.
    #[schema(value_type = Option<HumanDuration>)]
    #[serde(default)]
    payload_retention: Change<HumanDuration>,
}

/// Get the webhook settings
#[utoipa::path(
    get,
    path = "/v1/webhook-settings",
    operation_id = "get_webhook_settings",
    tag = "webhooks",
    responses((status = 200, description = "The settings", body = WebhookSettingsResponse))
)]
pub(in crate::routes) async fn get_webhook_settings(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksRead>,
) -> Result<Json<WebhookSettingsResponse>, Problem> {
    let mut tx = state.begin(&caller).await?;
    let retention = payload_retention(&mut tx).await?;
    tx.commit().await?;
    Ok(Json(settings_response(retention)))
}

fn settings_response(retention: Option<Duration>) -> WebhookSettingsResponse {
    WebhookSettingsResponse {
        payload_retention: retention.map(HumanDuration),
    }
}

/// Change the webhook settings
///
/// Older payloads are deleted by the nightly run of `maintenance.retention`, except those of events with a
/// pending delivery.
#[utoipa::path(
    put,
    path = "/v1/webhook-settings",
    operation_id = "change_webhook_settings",
    tag = "webhooks",
    request_body = WebhookSettingsRequest,
    responses((status = 200, description = "The changed settings", body = WebhookSettingsResponse))
)]
pub(in crate::routes) async fn change_webhook_settings(
    State(state): State<ApiState>,
    caller: Authorized<scope::WebhooksManage>,
    body: JsonBody,
) -> Result<Json<WebhookSettingsResponse>, Problem> {
    let mut errors = FieldErrors::default();
    let request: WebhookSettingsRequest = body.members(&mut errors).unwrap_or_default();
    let change = request.payload_retention.map(Duration::from);
    if let Change::Set(retention) = change
        && (!PAYLOAD_RETENTION_RANGE.contains(&retention) || retention.subsec_nanos() != 0)
    {
        let detail = "must be between `1h` and `30d`, in whole seconds";
        errors.add("", "/payload_retention", "out_of_range", detail);
    }
    errors.into_body_result()?;
    let mut tx = state.begin(&caller).await?;
    let before = payload_retention(&mut tx).await?;
    let after = match change {
        Change::Keep => before,
        Change::Remove => None,
        Change::Set(retention) => Some(retention),
    };
    set_payload_retention(&mut tx, after).await?;
    let entry = Entry::new("webhook_settings.change", caller.tenant)
        .before(json!(settings_response(before)))
        .after(json!(settings_response(after)));
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    Ok(Json(settings_response(after)))
}
