//! Room: endpoints that the portal's forms make and change.
//! Takes: a visit and a form with an address, a description and types of events. Gives: the endpoint as it is
//! wanted, with its entry in the audit log.
//! Never: touches what else an endpoint is set to.

use axum::extract::State;
use axum::response::Response;
use harkara_jobs::webhook::{
    self, Endpoint, EndpointChange, NewEndpoint, change_endpoint, create_endpoint, lane,
};
use harkara_queue::settings::Change;
use harkara_shared::audit::Entry;
use harkara_shared::id::EndpointId;
use serde_json::{Value, json};

use super::act::{secret_page, to_endpoint};
use super::door::Visit;
use super::show::{Done, no_endpoint};
use crate::ApiState;
use crate::access::check_endpoints;
use crate::faults::Faults;
use crate::pages::form::Form;
use crate::problem::Problem;
use crate::query::PathPair;

/// What a form wants an endpoint to be: its address, and the rest.
fn wanted(form: &Form) -> (String, EndpointChange) {
    let types = form.text("event_types");
    let types = types.split(|c: char| c == ',' || c.is_whitespace());
    let types = types.filter(|pattern| !pattern.is_empty());
    let rest = EndpointChange {
        description: form
            .given("description")
            .map_or(Change::Remove, Change::Set),
        event_types: Some(types.map(str::to_owned).collect()),
        ..EndpointChange::default()
    };
    (form.text("url").trim().to_owned(), rest)
}

/// What of an endpoint forms may set, as the audit log tells it.
fn told(endpoint: &Endpoint) -> Value {
    json!({
        "url": endpoint.url, "description": endpoint.description,
        "event_types": endpoint.event_types,
    })
}

pub(super) async fn create(
    State(state): State<ApiState>,
    visit: Visit,
    form: Form,
) -> Result<Response, Problem> {
    let (url, rest) = wanted(&form);
    let new = NewEndpoint {
        url,
        rest,
        secret: None,
    };
    let mut faults = Faults::default();
    faults.extend("", new.check(state.egress()));
    faults.none_in_body()?;
    let mut tx = visit.begin(&state).await?;
    check_endpoints(&mut tx).await?;
    let (endpoint, secret) = create_endpoint(&mut tx, state.keys(), new).await?;
    let entry = Entry::new("endpoint.create", endpoint.id).after(told(&endpoint));
    visit.record(&mut tx, &entry).await?;
    tx.commit().await?;
    lane::apply(state.engine(), visit.tenant, &endpoint).await?;
    secret_page(&visit, endpoint.id, &secret.expose(), None)
}

pub(super) async fn change(
    State(state): State<ApiState>,
    visit: Visit,
    PathPair(_, id): PathPair<String, EndpointId>,
    form: Form,
) -> Result<Response, Problem> {
    let (url, rest) = wanted(&form);
    let change = EndpointChange {
        url: Some(url),
        ..rest
    };
    let mut faults = Faults::default();
    faults.extend("", change.check(state.egress()));
    faults.none_in_body()?;
    let mut tx = visit.begin(&state).await?;
    let before = webhook::endpoint(&mut tx, id).await?;
    let before = before.ok_or_else(no_endpoint)?;
    let after = change_endpoint(&mut tx, state.engine(), state.keys(), id, change).await?;
    let after = after.ok_or_else(no_endpoint)?;
    let entry = Entry::new("endpoint.change", id)
        .before(told(&before))
        .after(told(&after));
    visit.record(&mut tx, &entry).await?;
    tx.commit().await?;
    to_endpoint(&visit, id, Done::Change)
}
