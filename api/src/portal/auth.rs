//! Authentication of the portal.
//!
//! Reads the link from the path, charges the request to the link's limits and passes a [`PortalSession`] to
//! the handler. Renders problems as pages. Never reveals why a link is rejected, never logs a link, and
//! sets a referrer policy that keeps the address from other sites.

use std::fmt;
use std::sync::Arc;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::header::{CONTENT_TYPE, REFERRER_POLICY};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use harkara_accounts as accounts;
use harkara_accounts::Policies;
use harkara_shared::audit::{self, Actor, ActorKind, Entry};
use harkara_shared::database::TenantTx;
use harkara_shared::id::TenantId;

use super::PortalLink;
use crate::ApiState;
use crate::auth::AnonymousActor;
use crate::pages::message;
use crate::problem::Problem;

/// A visitor who opened a portal link, and the link's tenant.
#[derive(Clone)]
pub(super) struct PortalSession {
    pub(super) tenant: TenantId,
    /// Base path of the portal's pages, which contains the link.
    pub(super) base: Arc<str>,
    actor: Arc<Actor>,
}

impl fmt::Debug for PortalSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortalSession({})", self.actor.id)
    }
}

impl PortalSession {
    /// Begins a transaction of the link's tenant.
    pub(super) async fn begin(&self, state: &ApiState) -> Result<TenantTx, Problem> {
        Ok(TenantTx::begin(state.pool(), self.tenant).await?)
    }

    /// Adds an entry to the tenant's audit log in the transaction that makes the change.
    pub(super) async fn record(&self, tx: &mut TenantTx, entry: &Entry) -> Result<(), Problem> {
        Ok(audit::record(tx, self.tenant, &self.actor, entry).await?)
    }
}

impl<S: Send + Sync> FromRequestParts<S> for PortalSession {
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parts
            .extensions
            .get::<Self>()
            .cloned()
            .ok_or_else(|| Problem::internal("portal page without a portal session"))
    }
}

/// Authenticates a request by its portal link. All rejected links get the same page.
pub(super) async fn authenticate(
    State(state): State<ApiState>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    AnonymousActor(actor): AnonymousActor,
    mut request: Request,
    next: Next,
) -> Response {
    let text = params
        .ok()
        .and_then(|params| token_param(&params))
        .unwrap_or_default();
    let mut response = match state.portal_links().read(&text) {
        Some(link) => {
            let session = PortalSession {
                tenant: link.tenant,
                base: format!("/portal/{text}").into(),
                actor: Arc::new(Actor {
                    kind: ActorKind::Link,
                    id: link.id.to_string(),
                    ..actor
                }),
            };
            request.extensions_mut().insert(session.clone());
            serve(&state, &link, &session, request, next).await
        }
        None => dead_link_page(),
    };
    // The address grants access: no other site may receive it as a referrer.
    let no_referrer = HeaderValue::from_static("no-referrer");
    response.headers_mut().insert(REFERRER_POLICY, no_referrer);
    response
}

fn token_param(params: &RawPathParams) -> Option<String> {
    let mut params = params.iter();
    let (_, text) = params.find(|(name, _)| *name == "token")?;
    Some(text.to_owned())
}

async fn serve(
    state: &ApiState,
    link: &PortalLink,
    session: &PortalSession,
    request: Request,
    next: Next,
) -> Response {
    tracing::Span::current().record("tenant", link.tenant.to_string());
    let subject = format!("link:{}", link.id.as_uuid());
    let limits = Policies::of_portal_links();
    let charge = match state.limits().charge(&subject, &limits).await {
        Ok(charge) => charge,
        Err(error) => return render_problem(Problem::from(error).into_response(), session),
    };
    let response = if charge.allowed() {
        match tenant_allows_portal(state, link.tenant).await {
            Ok(true) => next.run(request).await,
            Ok(false) => return dead_link_page(),
            Err(problem) => problem.into_response(),
        }
    } else {
        charge.problem().into_response()
    };
    let mut response = render_problem(response, session);
    charge.write_headers(response.headers_mut());
    response
}

/// Whether the tenant's status allows using the portal.
async fn tenant_allows_portal(state: &ApiState, tenant: TenantId) -> Result<bool, Problem> {
    let found = accounts::find_tenant(state.pool(), &tenant.to_string()).await?;
    Ok(found.is_some_and(|tenant| tenant.status.may_write() && !tenant.erasing))
}

/// The page for a link that is unknown, expired or of an unusable tenant.
fn dead_link_page() -> Response {
    message(
        StatusCode::NOT_FOUND,
        "This link does not work",
        "It has expired or is incomplete. Ask the person who gave it to you for a new one.",
        &[],
    )
    .unwrap_or_else(IntoResponse::into_response)
}

/// Renders a problem as a page; returns other responses unchanged.
fn render_problem(response: Response, session: &PortalSession) -> Response {
    let problem = response.extensions().get::<Problem>().cloned();
    let Some(problem) = problem.or_else(|| Problem::of_framework(&response)) else {
        return response;
    };
    let status = problem.status();
    let title = match status {
        StatusCode::NOT_FOUND => "Not found",
        StatusCode::CONFLICT => "Not possible at the moment",
        StatusCode::TOO_MANY_REQUESTS => "Too many requests",
        status if status.is_client_error() => "Invalid request",
        _ => "Something went wrong",
    };
    let back = [("Back to the endpoints".to_owned(), session.base.to_string())];
    let mut page =
        message(status, title, problem.detail(), &back).unwrap_or_else(IntoResponse::into_response);
    // `render` logs the problem and sets the headers for clients, such as Retry-After and Allow.
    let mut headers = problem.render("", "").into_parts().0.headers;
    headers.remove(CONTENT_TYPE);
    page.headers_mut().extend(headers);
    page
}
