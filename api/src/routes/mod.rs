//! Room: the table of routes.
//! Takes: the state. Gives: the router, and with it the OpenAPI document, from the same list.
//! Never: holds a handler.

mod audit;
mod deliveries;
mod enterprise;
mod event_types;
mod events;
mod jobs;
mod key_limits;
mod keys;
mod limits;
pub(crate) mod page;
mod portal_links;
mod queues;
mod session;
pub mod shown;
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

/// The longest a request may take.
const LIMIT: Duration = Duration::from_secs(30);

/// The API as a router: every route, each answer finished with its headers, each error a
/// problem.
pub fn router(state: ApiState) -> Router {
    // The registry must stand before the first request is counted.
    let _registry = Metrics::global();
    let http = state.http();
    let public = http.public_url.as_ref();
    let is_https = public.is_some_and(|url| url.scheme() == "https");
    let cors = shield::cross_origin(&http.cors_origins);
    let around = observe::Around {
        in_flight: state.in_flight().clone(),
        limit: LIMIT,
        proxies: http.trusted_proxies.clone().into(),
        is_https,
    };
    let health = health_routes(state.readiness().clone());
    let (routes, document) = described();
    let document = Bytes::from(openapi::finished(&document).to_string());
    routes
        .known
        // Only where there is a route: what is not there is not there for anybody.
        .route_layer(middleware::from_fn_with_state(state.clone(), auth::admit))
        .merge(routes.open)
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

/// The routes of resources.
pub(crate) struct Routes {
    /// For whoever is known.
    known: Router<ApiState>,
    /// For everybody.
    open: Router<ApiState>,
}

/// The routes of resources, and the document of all routes.
pub(crate) fn described() -> (Routes, OpenApi) {
    let (open, open_document) = OpenApiRouter::new()
        .routes(routes!(session::create))
        .split_for_parts();
    let (known, mut document) = OpenApiRouter::with_openapi(openapi::base())
        .routes(routes!(jobs::list, jobs::create))
        .routes(routes!(jobs::batch::create_batch))
        .routes(routes!(jobs::bulk::change_all))
        .routes(routes!(jobs::show))
        .routes(routes!(jobs::attempts))
        .routes(routes!(jobs::explain::explain))
        .routes(routes!(jobs::cancel))
        .routes(routes!(jobs::retry))
        .routes(routes!(jobs::reschedule))
        .routes(routes!(queues::list))
        .routes(routes!(queues::change))
        .routes(routes!(queues::pause))
        .routes(routes!(queues::resume))
        .routes(routes!(queues::lanes::list, queues::lanes::change_default))
        .routes(routes!(queues::lanes::change))
        .routes(routes!(workers::list))
        .routes(routes!(stats::show))
        .routes(routes!(tenants::list, tenants::create))
        .routes(routes!(tenants::show, tenants::change))
        .routes(routes!(
            tenants::limits::limits,
            tenants::limits::change_limits
        ))
        .routes(routes!(tenants::export::export))
        .routes(routes!(tenants::erase::erase))
        .routes(routes!(tenants::pause))
        .routes(routes!(tenants::resume))
        .routes(routes!(keys::list, keys::create))
        .routes(routes!(keys::show, keys::change, keys::revoke))
        .routes(routes!(keys::rotate))
        .routes(routes!(key_limits::change))
        .routes(routes!(enterprise::set_up))
        .routes(routes!(enterprise::status))
        .routes(routes!(audit::list))
        .routes(routes!(audit::verify))
        .routes(routes!(usage::show))
        .routes(routes!(events::post))
        .routes(routes!(event_types::list, event_types::create))
        .routes(routes!(event_types::show))
        .routes(routes!(event_types::versions))
        .routes(routes!(webhooks::list, webhooks::create))
        .routes(routes!(webhooks::show, webhooks::change, webhooks::delete))
        .routes(routes!(webhooks::keys::secret))
        .routes(routes!(webhooks::keys::rotate))
        .routes(routes!(webhooks::again::test))
        .routes(routes!(webhooks::again::enable))
        .routes(routes!(webhooks::again::recover))
        .routes(routes!(webhooks::stats::show))
        .routes(routes!(
            webhooks::settings::show,
            webhooks::settings::change
        ))
        .routes(routes!(deliveries::list))
        .routes(routes!(deliveries::show))
        .routes(routes!(deliveries::attempts))
        .routes(routes!(deliveries::redeliver))
        .routes(routes!(portal_links::create))
        .routes(routes!(users::list, users::create))
        .routes(routes!(users::show, users::change, users::delete))
        .routes(routes!(users::link))
        .routes(routes!(users::sign_out))
        .routes(routes!(users::grants::list, users::grants::create))
        .routes(routes!(users::grants::revoke))
        .routes(routes!(users::overrides::list, users::overrides::create))
        .routes(routes!(users::overrides::revoke))
        .routes(routes!(users::roles))
        .routes(routes!(session::show, session::end))
        .routes(routes!(session::list, session::end_all))
        .routes(routes!(session::proof::confirm))
        .routes(routes!(session::proof::change_password))
        .routes(routes!(
            session::proof::create_totp,
            session::proof::delete_totp
        ))
        .routes(routes!(session::proof::confirm_totp))
        .split_for_parts();
    document.merge(open_document);
    (Routes { known, open }, openapi::complete(document))
}
