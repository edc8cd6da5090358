//! The middleware of every route that requires authentication.
//!
//! Resolves the [`Caller`] of a request, charges the request against the caller's rate limits, and runs the
//! handler with the `Caller` in the request's extensions. No limit is charged and no body is read until the
//! caller is known.
//!
//! A caller is a *principal* (an API key or a signed-in user) that belongs to its *home tenant* and acts for one
//! tenant: the home tenant, unless a platform administrator names another one in `X-Tenant-Id`. The tenant
//! `platform` is the built-in tenant of the operators.

use std::net::IpAddr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::header::USER_AGENT;
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderName, Method};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use harkara_accounts::{self as accounts, PLATFORM_SLUG, TenantStatus};
use harkara_shared::audit::{Actor, ActorKind};
use ipnet::IpNet;

use super::caller::{Caller, Principal};
use super::keyring::{CachedKey, bearer};
use super::signed_in_user;
use crate::ApiState;
use crate::idempotency;
use crate::problem::{Code, Problem};
use crate::request_context::{ClientAddress, RequestId};
use crate::usage;

/// `X-Tenant-Id`: the id or slug of the tenant that a platform administrator acts for.
const TENANT_HEADER: HeaderName = HeaderName::from_static("x-tenant-id");

/// `X-Reason`: the reason for the change, for the audit log.
const REASON_HEADER: HeaderName = HeaderName::from_static("x-reason");

/// Maximum characters of a header value stored in the audit log.
const MAX_HEADER_CHARS: usize = 500;

/// Runs the handler for an authenticated caller, or returns a problem response.
pub(crate) async fn authenticate(
    State(state): State<ApiState>,
    request: Request,
    next: Next,
) -> Response {
    let (mut parts, body) = request.into_parts();
    let caller = match resolve_caller(&state, &mut parts).await {
        Ok(caller) => caller,
        Err(problem) => return problem.into_response(),
    };
    let subject = caller.rate_limit_subject();
    let charge = match state
        .limits()
        .charge(&subject, caller.rate_policies())
        .await
    {
        Ok(charge) => charge,
        Err(error) => return Problem::from(error).into_response(),
    };
    let mut response = if charge.allowed() {
        state.usage().count_request(caller.principal);
        let summary_action = usage::summary_action(&parts);
        let (principal, tenant, actor) = (caller.principal, caller.tenant, caller.actor.clone());
        let request = Request::from_parts(parts, body);
        let response = idempotency::run_idempotent(&state, caller, request, next).await;
        if let Some(summary_action) = summary_action
            && response.status().is_success()
            && !idempotency::is_replay(&response)
        {
            state
                .usage()
                .record_action(principal, tenant, &actor, summary_action);
        }
        response
    } else {
        charge.problem().into_response()
    };
    charge.write_headers(response.headers_mut());
    response
}

/// Authenticates the request, resolves its tenant, and rejects writes to inactive tenants, except by platform
/// administrators and session requests.
async fn resolve_caller(state: &ApiState, parts: &mut Parts) -> Result<Caller, Problem> {
    let from_session = signed_in_user::find_session_caller(state, parts).await?;
    let (authenticated, home_slug) = match from_session {
        Some(found) => found,
        None => {
            let key = state.keyring().find(&bearer(&parts.headers)?).await?;
            tracing::Span::current().record("key", key.row.id.to_string());
            (caller_from_key(&key, parts)?, key.row.tenant_slug.clone())
        }
    };
    tracing::Span::current().record("tenant", authenticated.tenant.to_string());
    let caller = switch_tenant(state, authenticated, &home_slug, parts).await?;
    // Users can always sign out, whatever the status of their tenant.
    let is_exempt =
        caller.is_platform_admin() || signed_in_user::is_session_request(&caller, parts.uri.path());
    if !is_exempt {
        // Only platform administrators act for another tenant than their own.
        check_status(caller.home_status, &parts.method)?;
    }
    Ok(caller)
}

/// The caller of a request with this API key, acting for the key's tenant.
fn caller_from_key(key: &CachedKey, parts: &Parts) -> Result<Caller, Problem> {
    let row = &key.row;
    check_address(&row.allowed_networks, client_address(parts))?;
    let is_platform = row.tenant_slug == PLATFORM_SLUG;
    Ok(Caller {
        tenant: row.tenant_id,
        in_platform_tenant: is_platform,
        principal: Principal::Key {
            id: row.id,
            family: row.family,
        },
        home_tenant: row.tenant_id,
        from_platform: is_platform,
        home_status: row.tenant_status,
        scopes: Arc::clone(&key.scopes),
        rate_policies: key.rate_policies.clone(),
        actor: Arc::new(Actor {
            kind: ActorKind::Key,
            id: row.id.to_string(),
            name: Some(row.name.clone()),
            ..request_actor(parts)
        }),
        idempotency_reservation: None,
    })
}

/// An anonymous actor filled from request metadata; callers add the identity.
pub(crate) fn request_actor(parts: &Parts) -> Actor {
    let headers = &parts.headers;
    Actor {
        kind: ActorKind::Anonymous,
        id: String::new(),
        name: None,
        address: client_address(parts),
        user_agent: header_text(headers, &USER_AGENT),
        request_id: parts
            .extensions
            .get::<RequestId>()
            .map(|id| id.as_str().to_owned()),
        reason: header_text(headers, &REASON_HEADER),
    }
}

/// The value of a header, without NULs, truncated to [`MAX_HEADER_CHARS`]; `None` when nothing remains.
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

fn client_address(parts: &Parts) -> Option<IpAddr> {
    parts
        .extensions
        .get::<ClientAddress>()
        .and_then(|address| address.0)
}

/// Checks that the key can be used from this address. An empty list allows all addresses.
fn check_address(allowed_networks: &[String], address: Option<IpAddr>) -> Result<(), Problem> {
    let contains = |network: &String| {
        // An entry that does not parse allows no address; the list is validated when it is set.
        let network: Option<IpNet> = network.parse().ok();
        matches!((network, address), (Some(network), Some(address)) if network.contains(&address))
    };
    if allowed_networks.is_empty() || allowed_networks.iter().any(contains) {
        Ok(())
    } else {
        Err(Problem::new(
            Code::AddressNotAllowed,
            "the API key cannot be used from this address",
        ))
    }
}

/// Switches the caller to the tenant named in `X-Tenant-Id`, if it is not the caller's own.
async fn switch_tenant(
    state: &ApiState,
    caller: Caller,
    home_slug: &str,
    Parts {
        headers, method, ..
    }: &Parts,
) -> Result<Caller, Problem> {
    let Some(value) = headers.get(TENANT_HEADER) else {
        return Ok(caller);
    };
    // Treat a non-ASCII value as an unknown tenant.
    let requested_tenant = value.to_str().unwrap_or_default();
    if requested_tenant == home_slug || requested_tenant.parse() == Ok(caller.tenant) {
        return Ok(caller);
    }
    // Return 404 so that only platform administrators can tell whether a tenant exists.
    if !caller.is_platform_admin() {
        return Err(Problem::not_found("resource"));
    }
    let tenant = accounts::find_tenant(state.pool(), requested_tenant).await?;
    let tenant = tenant.ok_or_else(|| Problem::not_found("tenant"))?;
    tracing::Span::current().record("tenant", tenant.id.to_string());
    if tenant.erasing && !method.is_safe() {
        return Err(accounts::Error::BeingErased.into());
    }
    Ok(Caller {
        tenant: tenant.id,
        // The requested tenant is not the home tenant, which is `platform`.
        in_platform_tenant: false,
        ..caller
    })
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
        let allowed = |networks: &[&str], address: Option<&str>| {
            let networks: Vec<String> = networks.iter().map(|&text| text.to_owned()).collect();
            check_address(&networks, address.map(|text| text.parse().unwrap())).is_ok()
        };
        assert!(allowed(&[], Some("192.0.2.1")) && allowed(&[], None));
        let networks = ["192.0.2.0/24", "2001:db8::/32", "198.51.100.7/32"];
        for inside in ["192.0.2.255", "2001:db8::1", "198.51.100.7"] {
            assert!(allowed(&networks, Some(inside)), "{inside}");
        }
        for outside in ["192.0.3.0", "2001:db9::1", "198.51.100.8"] {
            assert!(!allowed(&networks, Some(outside)), "{outside}");
        }
        assert!(!allowed(&networks, None));
        assert!(!allowed(&["nonsense"], Some("192.0.2.1")));
    }

    #[test]
    fn only_tenants_of_a_writable_status_may_write() {
        for (status, may_write) in [
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
                assert_eq!(check_status(status, &method).is_ok(), may_write, "{status}");
            }
        }
    }
}
