//! Forms of the portal that act on endpoints and deliveries.
//!
//! Each makes one change, records it in the audit log and redirects back to the page. A new secret is template
//! on a page of its own, once. Never does what the API would refuse a caller with the scope
//! `webhooks:manage`.

use harkara_kind::JobKind as _;
use harkara_queue::Quota;
use harkara_webhooks::kinds::webhook_recover::{Args, WebhookRecover, default_states};
use harkara_webhooks::{
    self as webhooks, EndpointChange, EndpointStatus, MAX_GRACE, NewEvent, RedeliverError,
    change_endpoint, redeliver, rotate_signing_key, test_endpoint,
};
use std::time::Duration;

use askama::Template;
use axum::extract::State;
use axum::http::header::LOCATION;
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use chrono::{DateTime, Utc};
use harkara_queue::job::NewJob;
use harkara_shared::audit::Entry;
use harkara_shared::clock;
use harkara_shared::database::TenantTx;
use harkara_shared::duration::HumanDuration;
use harkara_shared::id::{DeliveryId, EndpointId};
use harkara_shared::signature::{SigningKey, WebhookSecret};
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};

use super::auth::PortalSession;
use super::views::{CompletedAction, api_name, delivery_not_found, endpoint_not_found};
use crate::ApiState;
use crate::field_errors::FieldErrors;
use crate::json;
use crate::pages::form::Form;
use crate::pages::page;
use crate::problem::{Code, Problem};
use crate::query::PathPair;
use crate::request_context::TraceContext;

/// How far back a recovery can reach.
const MAX_RECOVERY_AGE: Duration = Duration::from_hours(30 * 24);

#[derive(Template)]
#[template(path = "portal_secret.html")]
struct SecretPage<'a> {
    base: &'a str,
    id: EndpointId,
    secret: &'a str,
    /// Until when messages are also signed with the previous secret, if there was one.
    old_until: Option<DateTime<Utc>>,
}

/// Returns the page that shows a new secret, once.
pub(super) fn secret_page(
    session: &PortalSession,
    id: EndpointId,
    secret: &str,
    old_until: Option<DateTime<Utc>>,
) -> Result<Response, Problem> {
    let template = SecretPage {
        base: &session.base,
        id,
        secret,
        old_until,
    };
    page(StatusCode::OK, &template)
}

/// Redirects to the page of the changed resource.
fn redirect_back(
    session: &PortalSession,
    thing: &str,
    done: CompletedAction,
) -> Result<Response, Problem> {
    let to = format!(
        "{}/{thing}?done={}",
        session.base,
        api_name(done).map_err(Problem::internal)?
    );
    let to = HeaderValue::try_from(to).map_err(Problem::internal)?;
    Ok((StatusCode::SEE_OTHER, [(LOCATION, to)]).into_response())
}

pub(super) fn redirect_to_endpoint(
    session: &PortalSession,
    id: EndpointId,
    done: CompletedAction,
) -> Result<Response, Problem> {
    redirect_back(session, &format!("endpoints/{id}"), done)
}

/// Reads a duration in whole seconds from a form.
fn form_duration(form: &Form, name: &str, max: Duration) -> Result<Duration, Problem> {
    let HumanDuration(duration) = form
        .text(name)
        .parse()
        .map_err(|error| invalid_field(name, "invalid", format!("{error}")))?;
    if duration > max || duration.subsec_nanos() != 0 {
        let max = HumanDuration(max);
        let detail = format!("must be at most {max}, in whole seconds");
        return Err(invalid_field(name, "out_of_range", detail));
    }
    Ok(duration)
}

fn invalid_field(name: &str, code: &'static str, detail: String) -> Problem {
    let mut errors = FieldErrors::default();
    errors.add("", &format!("/{name}"), code, detail);
    errors.problem(Code::Invalid)
}

/// Reads the data of a test event: a JSON object that can be stored.
fn test_data(form: &Form) -> Result<Box<RawValue>, Problem> {
    let text = form.optional("data").unwrap_or_else(|| "{}".to_owned());
    json::check_syntax(&text)
        .map_err(|error| invalid_field("data", "invalid", format!("is not valid JSON: {error}")))?;
    let mut errors = FieldErrors::default();
    json::check_storable(&text, "/data", &mut errors);
    if !json::is_object(&text) {
        errors.add("", "/data", "invalid", "must be a JSON object");
    }
    errors.into_body_result()?;
    RawValue::from_string(text).map_err(Problem::internal)
}

pub(super) async fn send_test_event(
    State(state): State<ApiState>,
    session: PortalSession,
    PathPair(_, id): PathPair<String, EndpointId>,
    form: Form,
) -> Result<Response, Problem> {
    let (event_type, data) = (form.text("type"), test_data(&form)?);
    let mut errors = FieldErrors::default();
    errors.extend("", NewEvent::new(&event_type, data.clone()).check());
    errors.into_body_result()?;
    let mut tx = session.begin(&state).await?;
    let posted = test_endpoint(&mut tx, state.engine(), id, &event_type, data).await?;
    posted.ok_or_else(endpoint_not_found)?;
    let entry = Entry::new("endpoint.test", id).after(json!({"type": event_type}));
    session.record(&mut tx, &entry).await?;
    tx.commit().await?;
    redirect_to_endpoint(&session, id, CompletedAction::Test)
}

pub(super) async fn enable_endpoint(
    State(state): State<ApiState>,
    session: PortalSession,
    PathPair(_, id): PathPair<String, EndpointId>,
) -> Result<Response, Problem> {
    let mut tx = session.begin(&state).await?;
    set_status(&state, &mut tx, id, EndpointStatus::Active).await?;
    let entry = Entry::new("endpoint.enable", id);
    session.record(&mut tx, &entry).await?;
    tx.commit().await?;
    redirect_to_endpoint(&session, id, CompletedAction::Enable)
}

pub(super) async fn pause_endpoint(
    State(state): State<ApiState>,
    session: PortalSession,
    PathPair(_, id): PathPair<String, EndpointId>,
) -> Result<Response, Problem> {
    let mut tx = session.begin(&state).await?;
    let before = set_status(&state, &mut tx, id, EndpointStatus::Paused).await?;
    let entry = Entry::new("endpoint.change", id)
        .before(json!({"status": before}))
        .after(json!({"status": EndpointStatus::Paused}));
    session.record(&mut tx, &entry).await?;
    tx.commit().await?;
    redirect_to_endpoint(&session, id, CompletedAction::Pause)
}

/// Sets the status of an endpoint and returns the previous one.
async fn set_status(
    state: &ApiState,
    tx: &mut TenantTx,
    id: EndpointId,
    status: EndpointStatus,
) -> Result<EndpointStatus, Problem> {
    let before = webhooks::find_endpoint(tx, id)
        .await?
        .ok_or_else(endpoint_not_found)?;
    let change = EndpointChange {
        status: Some(status),
        ..EndpointChange::default()
    };
    let changed = change_endpoint(tx, state.engine(), state.keys(), id, change).await?;
    changed.ok_or_else(endpoint_not_found)?;
    Ok(before.status)
}

pub(super) async fn recover_endpoint(
    State(state): State<ApiState>,
    session: PortalSession,
    PathPair(_, id): PathPair<String, EndpointId>,
    TraceContext(trace): TraceContext,
    form: Form,
) -> Result<Response, Problem> {
    let until = clock::now();
    let args = Args {
        endpoint_id: id,
        since: until - form_duration(&form, "last", MAX_RECOVERY_AGE)?,
        until,
        states: default_states(),
    };
    let mut tx = session.begin(&state).await?;
    let endpoint = webhooks::find_endpoint(&mut tx, id).await?;
    if endpoint.ok_or_else(endpoint_not_found)?.status == EndpointStatus::Disabled {
        return Err(endpoint_disabled());
    }
    let payload = to_raw_value(&args).map_err(Problem::internal)?;
    let job = NewJob {
        trace,
        ..WebhookRecover::job(payload)
    };
    state
        .engine()
        .enqueue(&mut tx, session.tenant, job, Quota::Enforce)
        .await?;
    let after = json!({"since": args.since, "until": args.until, "states": args.states});
    let entry = Entry::new("endpoint.recover", id).after(after);
    session.record(&mut tx, &entry).await?;
    tx.commit().await?;
    redirect_to_endpoint(&session, id, CompletedAction::Recover)
}

pub(super) async fn rotate_secret(
    State(state): State<ApiState>,
    session: PortalSession,
    PathPair(_, id): PathPair<String, EndpointId>,
    form: Form,
) -> Result<Response, Problem> {
    let grace = form_duration(&form, "grace", MAX_GRACE)?;
    let new = SigningKey::from(WebhookSecret::generate());
    let mut tx = session.begin(&state).await?;
    if !rotate_signing_key(&mut tx, state.keys(), id, &new, grace).await? {
        return Err(endpoint_not_found());
    }
    let after = json!({"algorithm": new.algorithm(), "grace": HumanDuration(grace)});
    let entry = Entry::new("endpoint.rotate", id).after(after);
    session.record(&mut tx, &entry).await?;
    tx.commit().await?;
    secret_page(&session, id, &new.expose(), Some(clock::now() + grace))
}

pub(super) async fn resend_delivery(
    State(state): State<ApiState>,
    session: PortalSession,
    PathPair(_, id): PathPair<String, DeliveryId>,
) -> Result<Response, Problem> {
    let mut tx = session.begin(&state).await?;
    let job_id = redeliver(&mut tx, state.engine(), id).await?;
    let job_id = job_id.map_err(|error| match error {
        RedeliverError::NotFound => delivery_not_found(),
        RedeliverError::EndpointDisabled => endpoint_disabled(),
        RedeliverError::PayloadGone => conflict("payload of the event is no longer stored"),
        RedeliverError::EndpointGone => conflict("endpoint was deleted"),
    })?;
    let entry = Entry::new("delivery.redeliver", id).after(json!({"job_id": job_id}));
    session.record(&mut tx, &entry).await?;
    tx.commit().await?;
    redirect_back(
        &session,
        &format!("deliveries/{id}"),
        CompletedAction::Resend,
    )
}

fn endpoint_disabled() -> Problem {
    conflict("endpoint is disabled; enable it first")
}

fn conflict(detail: &str) -> Problem {
    Problem::new(Code::Conflict, detail)
}
