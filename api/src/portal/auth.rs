//! Room: the door of the portal.
//! Takes: a request to an address with a link in it. Gives: the handler's page, with the [`PortalSession`] put in its
//! hands; a page, too, for what went wrong. The request is charged to the link's limits.
//! Never: tells why a link does not work, logs one, or lets a page tell its address to another.

use std::fmt;
use std::sync::Arc;

use axum::extract::rejection::RawPathParamsRejection;
use axum::extract::{FromRequestParts, RawPathParams, Request, State};
use axum::http::header::{CONTENT_TYPE, REFERRER_POLICY};
use axum::http::request::Parts;
use axum::http::{HeaderValue, StatusCode};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use harkara_shared::audit::{self, Actor, ActorKind, Entry};
use harkara_shared::database::TenantTx;
use harkara_shared::id::TenantId;

use super::PortalLink;
use crate::ApiState;
use crate::access;
use crate::auth::Visitor;
use crate::limits::Policies;
use crate::pages::message;
use crate::problem::Problem;

/// Somebody who came by a link, and for which tenant.
#[derive(Clone)]
pub(super) struct PortalSession {
    pub(super) tenant: TenantId,
    /// Where the portal's pages begin: it holds the link.
    pub(super) base: Arc<str>,
    actor: Arc<Actor>,
}

impl fmt::Debug for PortalSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PortalSession({})", self.actor.id)
    }
}

impl PortalSession {
    /// A transaction of the link's tenant.
    pub(super) async fn begin(&self, state: &ApiState) -> Result<TenantTx, Problem> {
        Ok(TenantTx::begin(state.pool(), self.tenant).await?)
    }

    /// Adds to the tenant's audit log, in the transaction that makes the change.
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
            .ok_or_else(|| Problem::internal("a page of the portal lets everybody in"))
    }
}

/// Lets in whoever comes by a good link, and answers everybody else the same page.
pub(super) async fn authenticate(
    State(state): State<ApiState>,
    params: Result<RawPathParams, RawPathParamsRejection>,
    Visitor(visitor): Visitor,
    mut request: Request,
    next: Next,
) -> Response {
    let text = params
        .ok()
        .and_then(|params| token_param(&params))
        .unwrap_or_default();
    let mut answer = match state.portal_links().read(&text) {
        Some(link) => {
            let session = PortalSession {
                tenant: link.tenant,
                base: format!("/portal/{text}").into(),
                actor: Arc::new(Actor {
                    kind: ActorKind::Link,
                    id: link.id.to_string(),
                    ..visitor
                }),
            };
            request.extensions_mut().insert(session.clone());
            serve(&state, &link, &session, request, next).await
        }
        None => dead_link_page(),
    };
    // The address is a right: nobody is to be told where a reader of these pages came from.
    let nobody = HeaderValue::from_static("no-referrer");
    answer.headers_mut().insert(REFERRER_POLICY, nobody);
    answer
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
    let answer = if charge.allowed() {
        match tenant_allows_portal(state, link.tenant).await {
            Ok(true) => next.run(request).await,
            Ok(false) => return dead_link_page(),
            Err(problem) => problem.into_response(),
        }
    } else {
        charge.problem().into_response()
    };
    let mut answer = render_problem(answer, session);
    charge.write_headers(answer.headers_mut());
    answer
}

/// Whether a tenant may do what its portal is for.
async fn tenant_allows_portal(state: &ApiState, tenant: TenantId) -> Result<bool, Problem> {
    let found = access::find_tenant(state.pool(), &tenant.to_string()).await?;
    Ok(found.is_some_and(|tenant| tenant.status.may_write() && !tenant.erasing))
}

/// What anybody is told whose link opens nothing.
fn dead_link_page() -> Response {
    message(
        StatusCode::NOT_FOUND,
        "This link does not work",
        "It has ended, or it is not whole. Ask whoever gave it to you for another one.",
        &[],
    )
    .unwrap_or_else(IntoResponse::into_response)
}

/// The answer, with its problem as a page if it is one.
fn render_problem(answer: Response, session: &PortalSession) -> Response {
    let problem = answer.extensions().get::<Problem>().cloned();
    let Some(problem) = problem.or_else(|| Problem::of_framework(&answer)) else {
        return answer;
    };
    let status = problem.status();
    let title = match status {
        StatusCode::NOT_FOUND => "There is no such thing",
        StatusCode::CONFLICT => "This cannot be done now",
        StatusCode::TOO_MANY_REQUESTS => "Too much at once",
        status if status.is_client_error() => "This cannot be done so",
        _ => "Something went wrong",
    };
    let back = [("Back to the endpoints".to_owned(), session.base.to_string())];
    let mut page =
        message(status, title, problem.detail(), &back).unwrap_or_else(IntoResponse::into_response);
    // Written out it is logged, and says what a program is to know: when to come back, which methods there are.
    let mut headers = problem.render("", "").into_parts().0.headers;
    headers.remove(CONTENT_TYPE);
    page.headers_mut().extend(headers);
    page
}
