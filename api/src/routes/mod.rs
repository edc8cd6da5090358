//! Table of routes.
//!
//! Builds the router and the OpenAPI document from the same list. Contains no handler.

mod audit;
mod deliveries;
mod enterprise;
mod event_types;
mod events;
mod jobs;
mod keys;
mod limits;
pub(crate) mod page;
mod portal_links;
mod queues;
pub mod representation;
mod session;
mod stats;
mod tenants;
mod usage;
mod users;
mod webhooks;
mod workers;

use std::time::Duration;

use axum::http::header::CONTENT_TYPE;
use axum::http::{HeaderName, HeaderValue};
use axum::routing::get;
use axum::{Router, middleware};
use bytes::Bytes;
use harkara_shared::process::health_routes;
use harkara_shared::telemetry::Metrics;
use tower::util::option_layer;
use tower_http::catch_panic::CatchPanicLayer;
use utoipa::openapi::OpenApi;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::problem::Problem;
use crate::{ApiState, auth, docs, observe, openapi, pages, portal, shield};

const JSON: (HeaderName, HeaderValue) =
    (CONTENT_TYPE, HeaderValue::from_static("application/json"));

/// Maximum duration of a request.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(30);

/// Returns the API's router. Every response gets the common headers, and every error is a problem document.
pub fn router(state: ApiState) -> Router {
    // The registry must exist before the first request is counted.
    let _registry = Metrics::global();
    let http = state.http();
    let public = http.public_url.as_ref();
    let is_https = public.is_some_and(|url| url.scheme() == "https");
    let cors = shield::cross_origin(&http.cors_origins);
    let around = observe::Around {
        in_flight: state.in_flight().clone(),
        limit: REQUEST_TIMEOUT,
        proxies: http.trusted_proxies.clone().into(),
        is_https,
    };
    let health = health_routes(state.readiness().clone());
    let (routes, document) = describe();
    let document = Bytes::from(openapi::finished(&document).to_string());
    routes
        .authenticated
        // `route_layer`: an unknown path is 404 for every caller, authenticated or not.
        .route_layer(middleware::from_fn_with_state(state.clone(), auth::admit))
        .merge(routes.public)
        .merge(pages::routes())
        .merge(portal::routes(&state))
        .route(
            "/openapi.json",
            get(async move || ([JSON], document.clone())),
        )
        .with_state(state)
        .merge(docs::routes())
        .merge(health)
        .fallback(async || Problem::not_found("route"))
        .layer(CatchPanicLayer::custom(observe::caught))
        .layer(option_layer(cors))
        .layer(middleware::from_fn_with_state(around, observe::observe))
        .layer(shield::compression())
}

/// Routes of resources.
pub(crate) struct Routes {
    /// Routes that require authentication.
    authenticated: Router<ApiState>,
    /// Routes without authentication.
    public: Router<ApiState>,
}

/// Returns the routes of resources and the OpenAPI document of all routes.
pub(crate) fn describe() -> (Routes, OpenApi) {
    let (public, public_document) = OpenApiRouter::new()
        .routes(routes!(session::sign_in))
        .split_for_parts();
    let (authenticated, mut document) = OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(jobs::list_jobs, jobs::create_job))
        .routes(routes!(jobs::batch::create_jobs))
        .routes(routes!(jobs::bulk::change_jobs))
        .routes(routes!(jobs::get_job))
        .routes(routes!(jobs::list_job_attempts))
        .routes(routes!(jobs::explain::explain_job))
        .routes(routes!(jobs::cancel_job))
        .routes(routes!(jobs::retry_job))
        .routes(routes!(jobs::reschedule_job))
        .routes(routes!(queues::list_queues))
        .routes(routes!(queues::limit_queue))
        .routes(routes!(queues::pause_queue))
        .routes(routes!(queues::resume_queue))
        .routes(routes!(
            queues::lanes::list_lanes,
            queues::lanes::change_default_lane
        ))
        .routes(routes!(queues::lanes::change_lane))
        .routes(routes!(workers::list_workers))
        .routes(routes!(stats::get_stats))
        .routes(routes!(tenants::list_tenants, tenants::create_tenant))
        .routes(routes!(tenants::get_tenant, tenants::change_tenant))
        .routes(routes!(
            tenants::limits::get_tenant_limits,
            tenants::limits::change_tenant_limits
        ))
        .routes(routes!(tenants::export::export_tenant))
        .routes(routes!(tenants::erase::erase_tenant))
        .routes(routes!(tenants::pause_tenant))
        .routes(routes!(tenants::resume_tenant))
        .routes(routes!(keys::list_api_keys, keys::create_api_key))
        .routes(routes!(
            keys::get_api_key,
            keys::change_api_key,
            keys::revoke_api_key
        ))
        .routes(routes!(keys::rotate_api_key))
        .routes(routes!(keys::limits::set_api_key_limits))
        .routes(routes!(enterprise::set_up_contract))
        .routes(routes!(enterprise::get_contract_status))
        .routes(routes!(audit::list_audit_log))
        .routes(routes!(audit::verify_audit_log))
        .routes(routes!(usage::get_usage))
        .routes(routes!(events::post_event))
        .routes(routes!(
            event_types::list_event_types,
            event_types::register_event_type
        ))
        .routes(routes!(event_types::get_event_type))
        .routes(routes!(event_types::list_event_type_versions))
        .routes(routes!(webhooks::list_endpoints, webhooks::create_endpoint))
        .routes(routes!(
            webhooks::get_endpoint,
            webhooks::change_endpoint,
            webhooks::delete_endpoint
        ))
        .routes(routes!(webhooks::keys::get_endpoint_secret))
        .routes(routes!(webhooks::keys::rotate_endpoint_secret))
        .routes(routes!(webhooks::redelivery::test_endpoint))
        .routes(routes!(webhooks::redelivery::enable_endpoint))
        .routes(routes!(webhooks::redelivery::recover_endpoint))
        .routes(routes!(webhooks::stats::get_endpoint_stats))
        .routes(routes!(
            webhooks::settings::get_webhook_settings,
            webhooks::settings::change_webhook_settings
        ))
        .routes(routes!(deliveries::list_deliveries))
        .routes(routes!(deliveries::get_delivery))
        .routes(routes!(deliveries::list_delivery_attempts))
        .routes(routes!(deliveries::redeliver))
        .routes(routes!(portal_links::create_portal_link))
        .routes(routes!(users::list_users, users::create_user))
        .routes(routes!(
            users::get_user,
            users::change_user,
            users::delete_user
        ))
        .routes(routes!(users::create_sign_in_link))
        .routes(routes!(users::sign_user_out))
        .routes(routes!(
            users::grants::list_grants,
            users::grants::create_grant
        ))
        .routes(routes!(users::grants::revoke_grant))
        .routes(routes!(
            users::overrides::list_user_permissions,
            users::overrides::create_user_permission
        ))
        .routes(routes!(users::overrides::revoke_user_permission))
        .routes(routes!(users::list_roles))
        .routes(routes!(session::get_session, session::sign_out))
        .routes(routes!(
            session::list_sessions,
            session::sign_out_everywhere
        ))
        .routes(routes!(session::proof::confirm_session))
        .routes(routes!(session::proof::set_password))
        .routes(routes!(
            session::proof::create_totp,
            session::proof::delete_totp
        ))
        .routes(routes!(session::proof::confirm_totp))
        .split_for_parts();
    document.merge(public_document);
    (
        Routes {
            authenticated,
            public,
        },
        openapi::complete(document),
    )
}
