//! Pages of the portal.
//!
//! Show endpoints and deliveries. Never change anything and never show the value of an endpoint's header.

use std::time::Duration;

use askama::Template;
use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use chrono::TimeDelta;
use harkara_shared::clock;
use harkara_shared::id::{DeliveryId, EndpointId};
use harkara_webhooks::{
    self as webhooks, Delivery, DeliveryAttempt, DeliveryFilter, Endpoint, EndpointStats,
    EndpointStatus, delivery_attempts, endpoint_stats, list_deliveries,
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::auth::PortalSession;
use crate::ApiState;
use crate::cursor::ListScope;
use crate::pages::page;
use crate::paging::Paging;
use crate::problem::Problem;
use crate::query::{PathPair, Query};

/// Query parameters of a page.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PageQuery {
    /// Cursor of the page.
    cursor: Option<String>,
    /// The action that redirected to this page.
    done: Option<CompletedAction>,
}

/// A completed action, template as a notice on the page that follows.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum CompletedAction {
    Change,
    Test,
    Enable,
    Pause,
    Recover,
    Resend,
}

impl CompletedAction {
    fn notice(self) -> &'static str {
        match self {
            Self::Change => "The endpoint was changed.",
            Self::Test => "A test event is being sent. It is listed under Deliveries below.",
            Self::Enable => "The endpoint is enabled. Deliveries resume.",
            Self::Pause => "The endpoint is paused. Its deliveries wait.",
            Self::Recover => "Missed deliveries are being sent again.",
            Self::Resend => "The delivery is being sent again.",
        }
    }
}

/// Returns the name of a value in the API, which represents it as a string.
///
/// # Errors
/// When the API represents the value otherwise.
pub(super) fn api_name(value: impl Serialize) -> askama::Result<String> {
    match serde_json::to_value(value) {
        Ok(Value::String(name)) => Ok(name),
        Ok(other) => Err(askama::Error::custom(format!("{other} is not a name"))),
        Err(error) => Err(askama::Error::custom(error)),
    }
}

/// Formats a duration for people: `75 h 35 min 5 s`.
fn format_duration(time: Duration) -> String {
    let seconds = time.as_secs();
    let parts = [
        (seconds / 3600, "h"),
        (seconds / 60 % 60, "min"),
        (seconds % 60, "s"),
    ];
    let nonzero = parts.iter().filter(|(count, _)| *count > 0);
    let texts: Vec<String> = nonzero
        .map(|(count, unit)| format!("{count} {unit}"))
        .collect();
    texts.join(" ")
}

#[derive(Template)]
#[template(path = "portal_endpoints.html")]
struct EndpointsPage<'a> {
    base: &'a str,
    rows: &'a [(Endpoint, EndpointStats)],
    older: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "portal_endpoint.html")]
struct EndpointPage<'a> {
    base: &'a str,
    notice: Option<&'static str>,
    endpoint: &'a Endpoint,
    stats: &'a EndpointStats,
    deliveries: &'a [Delivery],
    older: Option<&'a str>,
}

#[derive(Template)]
#[template(path = "portal_delivery.html")]
struct DeliveryPage<'a> {
    base: &'a str,
    notice: Option<&'static str>,
    delivery: &'a Delivery,
    attempts: &'a [DeliveryAttempt],
}

/// Period of the statistics template.
const STATS_PERIOD: TimeDelta = TimeDelta::hours(24);

pub(super) async fn list_endpoints(
    State(state): State<ApiState>,
    session: PortalSession,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let list = ListScope::new("/portal", session.tenant, &())?;
    let paging = Paging::new(list, query.cursor.as_deref(), state.cursors())?;
    let mut tx = session.begin(&state).await?;
    let found = webhooks::list_endpoints(&mut tx, paging.after, paging.fetch_limit()).await?;
    let Json(found) = paging.page(found, |endpoint: &Endpoint| endpoint.id, |found| found);
    let since = clock::now() - STATS_PERIOD;
    let mut rows = Vec::with_capacity(found.data.len());
    for endpoint in found.data {
        let stats = endpoint_stats(&mut tx, endpoint.id, since).await?;
        rows.push((endpoint, stats));
    }
    tx.commit().await?;
    let template = EndpointsPage {
        base: &session.base,
        rows: &rows,
        older: found.next_cursor.as_deref(),
    };
    page(StatusCode::OK, &template)
}

pub(super) async fn show_endpoint(
    State(state): State<ApiState>,
    session: PortalSession,
    PathPair(_, id): PathPair<String, EndpointId>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let list = ListScope::new("/portal/endpoint", session.tenant, &id)?;
    let paging = Paging::new(list, query.cursor.as_deref(), state.cursors())?;
    let filter = DeliveryFilter {
        endpoint_id: Some(id),
        ..DeliveryFilter::default()
    };
    let mut tx = session.begin(&state).await?;
    let endpoint = webhooks::find_endpoint(&mut tx, id).await?;
    let endpoint = endpoint.ok_or_else(endpoint_not_found)?;
    let stats = endpoint_stats(&mut tx, id, clock::now() - STATS_PERIOD).await?;
    let found = list_deliveries(&mut tx, &filter, paging.after, paging.fetch_limit()).await?;
    tx.commit().await?;
    let Json(found) = paging.page_down_to(
        found.deliveries,
        found.next_before,
        |delivery| delivery.id,
        |delivery| delivery,
    );
    let template = EndpointPage {
        base: &session.base,
        notice: query.done.map(CompletedAction::notice),
        endpoint: &endpoint,
        stats: &stats,
        deliveries: &found.data,
        older: found.next_cursor.as_deref(),
    };
    page(StatusCode::OK, &template)
}

pub(super) async fn show_delivery(
    State(state): State<ApiState>,
    session: PortalSession,
    PathPair(_, id): PathPair<String, DeliveryId>,
    Query(query): Query<PageQuery>,
) -> Result<Response, Problem> {
    let mut tx = session.begin(&state).await?;
    let delivery = webhooks::find_delivery(&mut tx, id).await?;
    let attempts = delivery_attempts(&mut tx, id).await?;
    tx.commit().await?;
    let (Some(delivery), Some(attempts)) = (delivery, attempts) else {
        return Err(delivery_not_found());
    };
    let template = DeliveryPage {
        base: &session.base,
        notice: query.done.map(CompletedAction::notice),
        delivery: &delivery,
        attempts: &attempts,
    };
    page(StatusCode::OK, &template)
}

pub(super) fn endpoint_not_found() -> Problem {
    Problem::not_found("endpoint")
}

pub(super) fn delivery_not_found() -> Problem {
    Problem::not_found("delivery")
}
