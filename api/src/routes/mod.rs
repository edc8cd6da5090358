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
use crate::{ApiState, auth, docs, openapi, pages, portal, request_layer, security_headers};

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
    let cors = security_headers::cors_layer(&http.cors_origins);
    let layer_settings = request_layer::Settings {
        in_flight: state.in_flight().clone(),
        limit: REQUEST_TIMEOUT,
        proxies: http.trusted_proxies.clone().into(),
        is_https,
    };
    let health = health_routes(state.readiness().clone());
    let (routes, document) = describe();
    let document = openapi::finished(&document)
        .map(|document| Bytes::from(document.to_string()))
        .map_err(Problem::internal);
    routes
        .authenticated
        // `route_layer`: an unknown path is 404 for every caller, authenticated or not.
        .route_layer(middleware::from_fn_with_state(
            state.clone(),
            auth::authenticate,
        ))
        .merge(routes.public)
        .merge(pages::routes())
        .merge(portal::routes(&state))
        .route(
            "/openapi.json",
            get(async move || document.clone().map(|document| ([JSON], document))),
        )
        .with_state(state)
        .merge(docs::routes())
        .merge(health)
        .fallback(async || Problem::not_found("route"))
        .layer(CatchPanicLayer::custom(request_layer::panic_response))
        .layer(option_layer(cors))
        .layer(middleware::from_fn_with_state(
            layer_settings,
            request_layer::apply,
        ))
        .layer(security_headers::compression_layer())
}

/// Routes of resources.
pub(crate) struct Routes {
    /// Routes that require authentication.
    authenticated: Router<ApiState>,
    /// Routes without authentication.
    public: Router<ApiState>,
}

/// Adds handlers to a router, each described by its attribute and by the types of its signature.
macro_rules! described_routes {
    ($router:expr; $($handler:path),+ $(,)?) => {
        $router$(.routes(openapi::described(routes!($handler), $handler)))+
    };
}

/// Returns the routes of resources and the OpenAPI document of all routes.
pub(crate) fn describe() -> (Routes, OpenApi) {
    let (public, public_document) =
        described_routes!(OpenApiRouter::new(); session::sign_in).split_for_parts();
    let (authenticated, mut document) = described_routes!(
        OpenApiRouter::with_openapi(openapi::base());
        jobs::list_jobs,
        jobs::create_job,
        jobs::batch::create_jobs,
        jobs::bulk::change_jobs,
        jobs::get_job,
        jobs::list_job_attempts,
        jobs::explain::explain_job,
        jobs::cancel_job,
        jobs::retry_job,
        jobs::reschedule_job,
        queues::list_queues,
        queues::limit_queue,
        queues::pause_queue,
        queues::resume_queue,
        queues::lanes::list_lanes,
        queues::lanes::change_default_lane,
        queues::lanes::change_lane,
        workers::list_workers,
        stats::get_stats,
        tenants::list_tenants,
        tenants::create_tenant,
        tenants::get_tenant,
        tenants::change_tenant,
        tenants::limits::get_tenant_limits,
        tenants::limits::change_tenant_limits,
        tenants::export::export_tenant,
        tenants::erase::erase_tenant,
        tenants::pause_tenant,
        tenants::resume_tenant,
        keys::list_api_keys,
        keys::create_api_key,
        keys::get_api_key,
        keys::change_api_key,
        keys::revoke_api_key,
        keys::rotate_api_key,
        keys::limits::set_api_key_limits,
        enterprise::set_up_contract,
        enterprise::get_contract_status,
        audit::list_audit_log,
        audit::verify_audit_log,
        usage::get_usage,
        events::post_event,
        event_types::list_event_types,
        event_types::register_event_type,
        event_types::get_event_type,
        event_types::list_event_type_versions,
        webhooks::list_endpoints,
        webhooks::create_endpoint,
        webhooks::get_endpoint,
        webhooks::change_endpoint,
        webhooks::delete_endpoint,
        webhooks::keys::get_endpoint_secret,
        webhooks::keys::rotate_endpoint_secret,
        webhooks::redelivery::test_endpoint,
        webhooks::redelivery::enable_endpoint,
        webhooks::redelivery::recover_endpoint,
        webhooks::stats::get_endpoint_stats,
        webhooks::settings::get_webhook_settings,
        webhooks::settings::change_webhook_settings,
        deliveries::list_deliveries,
        deliveries::get_delivery,
        deliveries::list_delivery_attempts,
        deliveries::redeliver,
        portal_links::create_portal_link,
        users::list_users,
        users::create_user,
        users::get_user,
        users::change_user,
        users::delete_user,
        users::create_sign_in_link,
        users::sign_user_out,
        users::grants::list_grants,
        users::grants::create_grant,
        users::grants::revoke_grant,
        users::overrides::list_user_permissions,
        users::overrides::create_user_permission,
        users::overrides::revoke_user_permission,
        users::roles::list_roles,
        session::get_session,
        session::sign_out,
        session::list_sessions,
        session::sign_out_everywhere,
        session::proof::confirm_session,
        session::proof::set_password,
        session::proof::create_totp,
        session::proof::delete_totp,
        session::proof::confirm_totp,
    )
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
