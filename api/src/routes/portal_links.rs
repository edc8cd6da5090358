//! Room: the route of links to a tenant's portal.
//! Takes: a caller's request. Gives: a link, told once. Never: stores or logs its text.

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
use crate::access::Scope;
use crate::auth::Caller;
use crate::body::JsonBody;
use crate::faults::Faults;
use crate::portal::PortalLink;
use crate::problem::Problem;

/// How long a link lives unless somebody says otherwise, and how long it may.
const DEFAULT_LIFETIME: Duration = Duration::from_mins(60);
const LIFETIME_RANGE: RangeInclusive<Duration> = Duration::from_mins(1)..=Duration::from_hours(24);

/// A link that is wanted.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewPortalLink, example = json!({"expires_in": "1h"}))]
pub(super) struct NewPortalLinkRequest {
    /// How long it works, `1m` to `24h` in whole seconds; `1h` when left out.
    #[schema(value_type = Option<String>, example = "1h")]
    expires_in: Option<HumanDuration>,
}

/// A link to a tenant's portal.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = PortalLink)]
pub(super) struct PortalLinkResponse {
    /// What the audit log calls whoever uses it.
    #[schema(value_type = String, example = "lnk_01h455vb4pex5vsknk084sn02q")]
    id: PortalLinkId,
    /// Where it leads. Whoever knows it may use it.
    #[schema(example = "https://harkara.example.com/portal/AZEr…")]
    url: String,
    /// When it ends.
    expires_at: DateTime<Utc>,
}

/// Make a link to the portal of webhooks
///
/// Whoever has the link sees the tenant's endpoints and deliveries in a browser, without an account, and may
/// add, change, test, pause, enable and recover endpoints, rotate their secrets and send deliveries again. It
/// cannot be taken back: give it a short lifetime. A person confirms first that it is they. Needs the scope `webhooks:manage`.
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
    caller: Caller,
    body: JsonBody,
) -> Result<(StatusCode, Json<PortalLinkResponse>), Problem> {
    caller.require(Scope::WebhooksManage)?;
    caller.require_confirmed()?;
    let mut faults = Faults::default();
    let request: NewPortalLinkRequest = body.members(&mut faults).unwrap_or_default();
    let lifetime = request.expires_in.map_or(DEFAULT_LIFETIME, Duration::from);
    if !LIFETIME_RANGE.contains(&lifetime) || lifetime.subsec_nanos() != 0 {
        let detail = "must be `1m` to `24h`, in whole seconds";
        faults.add("", "/expires_in", "out_of_range", detail);
    }
    faults.none_in_body()?;
    let link = PortalLink::new(caller.tenant, lifetime);
    let text = state.portal_links().write(&link);
    let text = text.ok_or_else(|| Problem::internal("no master key to sign a link with"))?;
    let mut tx = state.begin(&caller).await?;
    let after = json!({"expires_at": link.expires_at});
    let entry = Entry::new("portal_link.create", link.id).after(after);
    caller.record(&mut tx, &entry).await?;
    tx.commit().await?;
    let base = state.base_url();
    let answer = PortalLinkResponse {
        id: link.id,
        url: format!("{}/portal/{text}", base.trim_end_matches('/')),
        expires_at: link.expires_at,
    };
    Ok((StatusCode::CREATED, Json(answer)))
}
