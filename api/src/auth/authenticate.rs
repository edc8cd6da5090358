//! The middleware of every route that requires a caller.
//!
//! Finds out who calls and for which tenant, charges the caller's request limits, and runs the handler with
//! the [`Caller`] in the request's extensions. Neither charges a limit nor reads a body before the caller is
//! known.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::USER_AGENT;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use harkara_accounts::{self as accounts, FoundKey, PLATFORM_SLUG, Scope, TenantStatus};
use harkara_shared::audit::{Actor, ActorKind};
use ipnet::IpNet;

use super::caller::{Caller, Who};
use super::keyring::{Known, bearer};
use super::person;
use crate::ApiState;
use crate::idempotency;
use crate::problem::{Code, Problem};
use crate::request_context::{ClientAddress, RequestId};
use crate::usage;

/// `X-Tenant-Id`: the tenant that a platform administrator acts for.
const TENANT_ID: HeaderName = HeaderName::from_static("x-tenant-id");

/// `X-Reason`: the reason for the change, for the audit log.
const REASON: HeaderName = HeaderName::from_static("x-reason");

/// Characters of a header that the audit log keeps.
const MAX_HEADER_CHARS: usize = 500;

/// Runs the handler for an authenticated caller, or answers with the problem.
pub(crate) async fn authenticate(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let caller = match caller(&state, &mut parts).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let subject = caller.subject();
    let charge = match state.limits().charge(&subject, caller.policies()).await {
        Ok(charge) => charge,
        Err(error) => return Problem::from(error).into_response(),
    };
    let mut answer = if charge.allowed() {
        let operation = usage::summary_action(&parts);
        state.usage().count(caller.who);
        let (who, tenant, actor) = (caller.who, caller.tenant, caller.actor.clone());
        let request = Request::from_parts(parts, body);
        let answer = idempotency::carry_out(&state, caller, request, next).await;
        if let Some(action) = operation
            && answer.status().is_success()
            && !idempotency::is_replay(&answer)
        {
            state.usage().note(who, tenant, &actor, action);
        }
        answer
    } else {
        charge.problem().into_response()
    };
    charge.write_headers(answer.headers_mut());
    answer
}

/// The caller, acting for the tenant the request names, if that tenant's status permits the method.
async fn caller(state: &ApiState, parts: &mut Parts) -> Result<Caller, Problem> {
    let (own, slug) = match person::found(state, parts).await? {
        Some(found) => found,
        None => {
            let known = state.keyring().find(&bearer(&parts.headers)?).await?;
            tracing::Span::current().record("key", known.row.id.to_string());
            (of_key(&known, parts)?, known.row.tenant_slug.clone())
        }
    };
    tracing::Span::current().record("tenant", own.tenant.to_string());
    let (caller, status) = acting_for(state, own, &slug, parts).await?;
    // Users can always sign out, whatever the status of their tenant.
    if !caller.administers() && !person::manages_own_session(&caller, parts.uri.path()) {
        check_status(status, &parts.method)?;
    }
    Ok(caller)
}

fn of_key(known: &Known, parts: &Parts) -> Result<Caller, Problem> {
    let row: &FoundKey = &known.row;
    let address = address(parts);
    check_address(&row.addresses, address)?;
    let is_platform = row.tenant_slug == PLATFORM_SLUG;
    Ok(Caller {
        tenant: row.tenant_id,
        is_platform,
        who: Who::Key {
            id: row.id,
            tier: row.tier,
        },
        home: row.tenant_id,
        by_platform: is_platform,
        status: row.tenant_status,
        scopes: Arc::clone(&known.scopes),
        budget: row.family.as_uuid(),
        policies: known.policies.clone(),
        actor: Arc::new(Actor {
            kind: ActorKind::Key,
            id: row.id.to_string(),
            name: Some(row.name.clone()),
            ..request_actor(parts)
        }),
        reservation: None,
    })
}

/// The actor of a request as far as the request itself identifies it.
pub(crate) fn request_actor(parts: &Parts) -> Actor {
    let headers = &parts.headers;
    Actor {
        kind: ActorKind::Anonymous,
        id: String::new(),
        name: None,
        address: address(parts),
        user_agent: header_text(headers, &USER_AGENT),
        request_id: parts
            .extensions
            .get::<RequestId>()
            .map(|id| id.as_str().to_owned()),
        reason: header_text(headers, &REASON),
    }
}

/// The text of a header, cut to the length that is kept.
fn header_text(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let value = headers.get(name)?;
    let text = String::from_utf8_lossy(value.as_bytes());
    let text: String = text
        .chars()
        .filter(|c| *c != '\0')
        .take(MAX_HEADER_CHARS)
        .collect();
    (!text.is_empty()).then_some(text)
}

fn address(parts: &Parts) -> Option<IpAddr> {
    parts
        .extensions
        .get::<ClientAddress>()
        .and_then(|address| address.0)
}

/// Checks that the key may be used from this address.
fn check_address(allowed: &[String], address: Option<IpAddr>) -> Result<(), Problem> {
    let contains = |network: &String| {
        // An entry that does not parse allows no address; the list is validated when it is set.
        let network: Option<IpNet> = network.parse().ok();
        matches!((network, address), (Some(network), Some(address)) if network.contains(&address))
    };
    if allowed.is_empty() || allowed.iter().any(contains) {
        Ok(())
    } else {
        Err(Problem::new(
            Code::AddressNotAllowed,
            "the API key cannot be used from this address",
        ))
    }
}

/// The caller, acting for the tenant that the request names, and that tenant's status.
async fn acting_for(
    state: &ApiState,
    own: Caller,
    own_slug: &str,
    Parts {
        headers, method, ..
    }: &Parts,
) -> Result<(Caller, TenantStatus), Problem> {
    let status = own.status;
    let Some(named) = headers.get(TENANT_ID) else {
        return Ok((own, status));
    };
    // A header that is not text names no tenant.
    let named = named.to_str().unwrap_or_default();
    if named == own_slug || named.parse() == Ok(own.tenant) {
        return Ok((own, status));
    }
    // To other callers a foreign tenant is indistinguishable from one that does not exist.
    if !(own.is_platform && own.has(Scope::PlatformAdmin)) {
        return Err(Problem::not_found("resource"));
    }
    let tenant = accounts::find_tenant(state.pool(), named).await?;
    let tenant = tenant.ok_or_else(|| Problem::not_found("tenant"))?;
    tracing::Span::current().record("tenant", tenant.id.to_string());
    if tenant.erasing && !method.is_safe() {
        return Err(accounts::Error::BeingErased.into());
    }
    let caller = Caller {
        tenant: tenant.id,
        is_platform: false,
        ..own
    };
    Ok((caller, tenant.status))
}

/// Checks that the status of the tenant permits the method.
fn check_status(status: TenantStatus, method: &Method) -> Result<(), Problem> {
    if method.is_safe() || status.may_write() {
        return Ok(());
    }
    let detail = format!("the tenant is {status}: it can read but not change anything");
    Err(Problem::new(Code::TenantInactive, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn address_is_allowed_by_a_network_that_contains_it() {
        let allowed = |list: &[&str], address: &str| {
            let list: Vec<String> = list.iter().map(|&text| text.to_owned()).collect();
            check_address(&list, address.parse().ok()).is_ok()
        };
        assert!(allowed(&[], "192.0.2.1") && allowed(&[], "none"));
        let list = ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32"];
        for inside in ["192.0.2.255", "2001:db8::1", "198.51.100.7"] {
            assert!(allowed(&list, inside), "{inside}");
        }
        for outside in ["192.0.3.0", "2001:db9::1", "198.51.100.8", "none"] {
            assert!(!allowed(&list, outside), "{outside}");
        }
        assert!(!allowed(&["nonsense"], "192.0.2.1"));
    }

    #[test]
    fn inactive_tenant_can_read_but_not_write() {
        for (status, writes) in [
            (TenantStatus::Active, true),
            (TenantStatus::Trialing, true),
            (TenantStatus::PastDue, true),
            (TenantStatus::PendingPayment, false),
            (TenantStatus::Suspended, false),
            (TenantStatus::Canceled, false),
        ] {
            assert!(check_status(status, &Method::GET).is_ok());
            assert!(check_status(status, &Method::HEAD).is_ok());
            for method in [Method::POST, Method::PUT, Method::PATCH, Method::DELETE] {
                assert_eq!(check_status(status, &method).is_ok(), writes, "{status}");
            }
        }
    }
}
