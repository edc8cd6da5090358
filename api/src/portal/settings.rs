//! Forms of the portal that add and change endpoints.
//!
//! Set the URL, the description and the event types, with an entry in the audit log. Never change other
//! settings of an endpoint.

use axum::extract::State;
use axum::response::Response;
use harkara_accounts::check_endpoints;
use harkara_queue::settings::Change;
use harkara_shared::audit::Entry;
use harkara_shared::id::EndpointId;
use harkara_webhooks::{self as webhooks, Endpoint, EndpointChange, NewEndpoint, lane};
use serde_json::{Value, json};

use super::actions::{redirect_to_endpoint, secret_page};
use super::auth::PortalSession;
use super::views::{CompletedAction, endpoint_not_found};
use crate::ApiState;
use crate::field_errors::FieldErrors;
use crate::pages::form::Form;
use crate::problem::Problem;
use crate::query::PathPair;

/// Reads the URL and the other settings of an endpoint from a form.
fn read_endpoint(form: &Form) -> (String, EndpointChange) {
    let types = form.text("event_types");
    let types = types.split(|c: char| c == ',' || c.is_whitespace());
    let types = types.filter(|pattern| !pattern.is_empty());
    let rest = EndpointChange {
        description: form
            .optional("description")
            .map_or(Change::Remove, Change::Set),
        event_types: Some(types.map(str::to_owned).collect()),
        ..EndpointChange::default()
    };
    (form.text("url").trim().to_owned(), rest)
}

/// The settings that forms can change, as recorded in the audit log.
fn audit_value(endpoint: &Endpoint) -> Value {
    json!({
        "url": endpoint.url, "description": endpoint.description,
        "event_types": endpoint.event_types,
    })
}

pub(super) async fn add_endpoint(
    State(state): State<ApiState>,
    session: PortalSession,
    form: Form,
) -> Result<Response, Problem> {
    let (url, rest) = read_endpoint(&form);
    let new = NewEndpoint {
        url,
        rest,
        secret: None,
    };
    let mut errors = FieldErrors::default();
    errors.extend("", new.check(state.egress()));
    errors.into_body_result()?;
    let mut tx = session.begin(&state).await?;
    check_endpoints(&mut tx).await?;
    let (endpoint, secret) = webhooks::create_endpoint(&mut tx, state.keys(), new).await?;
    let entry = Entry::new("endpoint.create", endpoint.id).after(audit_value(&endpoint));
    session.record(&mut tx, &entry).await?;
    tx.commit().await?;
    lane::apply_limits(state.engine(), session.tenant, &endpoint).await?;
    secret_page(&session, endpoint.id, &secret.expose(), None)
}

pub(super) async fn change_endpoint(
    State(state): State<ApiState>,
    session: PortalSession,
    PathPair(_, id): PathPair<String, EndpointId>,
    form: Form,
) -> Result<Response, Problem> {
    let (url, rest) = read_endpoint(&form);
    let change = EndpointChange {
        url: Some(url),
        ..rest
    };
    let mut errors = FieldErrors::default();
    errors.extend("", change.check(state.egress()));
    errors.into_body_result()?;
    let mut tx = session.begin(&state).await?;
    let before = webhooks::find_endpoint(&mut tx, id).await?;
    let before = before.ok_or_else(endpoint_not_found)?;
    let after =
        webhooks::change_endpoint(&mut tx, state.engine(), state.keys(), id, change).await?;
    let after = after.ok_or_else(endpoint_not_found)?;
    let entry = Entry::new("endpoint.change", id)
        .before(audit_value(&before))
        .after(audit_value(&after));
    session.record(&mut tx, &entry).await?;
    tx.commit().await?;
    redirect_to_endpoint(&session, id, CompletedAction::Change)
}
