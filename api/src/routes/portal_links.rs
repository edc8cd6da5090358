//! Route that creates links to a tenant's portal.
//!
//! Returns a link once. Never stores or logs its text.

use std::ops::RangeInclusive;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use chrono::{DateTime, Utc};
use harkara_shared::audit::Entry;
use harkara_shared::duration::HumanDuration;
use harkara_shared::id::PortalLinkId;
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use crate::ApiState;
use crate::auth::{Authorized, Confirmed, scope};
use crate::body::JsonBody;
use crate::field_errors::FieldErrors;
use crate::portal::PortalLink;
use crate::problem::Problem;

/// How long a link is valid by default, and the range allowed.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(60);
const LIFETIME_RANGE: RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(24);

/// A portal link to create.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewPortalLink, example = json!({"expires_in": "1h"}))]
pub(super) struct NewPortalLinkRequest {
    /// How long the link is valid, `1m` to `24h` in whole seconds. Default `1h`.
    expires_in: Option<HumanDuration>,
}

/// A link to a tenant's portal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PortalLink)]
pub(super) struct PortalLinkResponse {
    /// Id of the link. Identifies its users in the audit log.
    id: PortalLinkId,
    /// URL of the portal. Everyone who knows it can use it.
    #[schema(example = "https://harkara.example.com/portal/AZEr…")]
    url: String,
    /// When the link expires.
    expires_at: DateTime<Utc>,
}

/// Create a link to the webhook portal
///
/// The link gives access to the tenant's endpoints and deliveries in a browser, without an account: to
/// view, add, change, test, pause, enable and recover endpoints, to rotate their secrets and to redeliver.
/// A link cannot be revoked, so keep its lifetime short.
#[utoipa::path(
    post,
    path = "/v1/portal-links",
    operation_id = "create_portal_link",
    tag = "webhooks",
    request_body = NewPortalLinkRequest,
    responses((status = 201, description = "The link", body = PortalLinkResponse))
)]
pub(super) async fn create_portal_link(
    State(state): State<ApiState>,
    caller: Authorized<Confirmed<scope::WebhooksManage>>,
    body: JsonBody,
) -> Result<(StatusCode, Json<PortalLinkResponse>), Problem> {
    let mut errors = FieldErrors::default();
    let request: NewPortalLinkRequest = body.members(&mut errors).unwrap_or_default();
    let lifetime = request.expires_in.map_or(DEFAULT_LIFETIME, Duration::from);
    if !LIFETIME_RANGE.contains(&lifetime) || lifetime.subsec_nanos() != 0 {
        let detail = "must be between `1m` and `24h`, in whole seconds";
        errors.add("", "/expires_in", "out_of_range", detail);
    }
    errors.into_body_result()?;
    let link = PortalLink::new(caller.tenant, lifetime);
    let text = state.portal_links().write(&link);
    let text =
        text.ok_or_else(|| Problem::internal("no master key is configured to sign links"))?;
    let mut tx = state.begin(&caller).await?;
    let after = json!({"expires_at": link.expires_at});
    let entry = Entry::new("portal_link.create", link.id).after(after);
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    let base = state.base_url();
    let response = PortalLinkResponse {
        id: link.id,
        url: format!("{}/portal/{text}", base.trim_end_matches('/')),
        expires_at: link.expires_at,
    };
    Ok((StatusCode::CREATED, Json(response)))
}
