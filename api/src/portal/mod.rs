//! The webhook portal: pages for everyone who holds a link, to manage one tenant's webhooks.
//!
//! Its pages need no script, and its forms use the same functions as the routes of the API. Never uses a
//! cookie, and never shows another tenant or any secret except one that was just created.

mod actions;
mod auth;
mod link;
mod settings;
mod views;

use axum::routing::{get, post};
use axum::{Router, middleware};

use crate::ApiState;

pub use link::{PortalLink, PortalLinks};

/// Routes of the portal.
pub(crate) fn routes(state: &ApiState) -> Router<ApiState> {
    Router::new()
        .route("/portal/{token}", get(views::list_endpoints))
        .route("/portal/{token}/endpoints/{id}", get(views::show_endpoint))
        .route("/portal/{token}/endpoints", post(settings::add_endpoint))
        .route(
            "/portal/{token}/endpoints/{id}/change",
            post(settings::change_endpoint),
        )
        .route(
            "/portal/{token}/endpoints/{id}/test",
            post(actions::send_test_event),
        )
        .route(
            "/portal/{token}/endpoints/{id}/enable",
            post(actions::enable_endpoint),
        )
        .route(
            "/portal/{token}/endpoints/{id}/pause",
            post(actions::pause_endpoint),
        )
        .route(
            "/portal/{token}/endpoints/{id}/recover",
            post(actions::recover_endpoint),
        )
        .route(
            "/portal/{token}/endpoints/{id}/rotate",
            post(actions::rotate_secret),
        )
        .route("/portal/{token}/deliveries/{id}", get(views::show_delivery))
        .route(
            "/portal/{token}/deliveries/{id}/resend",
            post(actions::resend_delivery),
        )
        .route_layer(middleware::from_fn_with_state(
            state.clone(),
            auth::authenticate,
        ))
}

/// Paths of the portal, which are not part of the OpenAPI document.
#[cfg(test)]
pub(crate) const PATHS: [&str; 11] = [
    "/portal/{token}",
    "/portal/{token}/endpoints/{id}",
    "/portal/{token}/endpoints",
    "/portal/{token}/endpoints/{id}/change",
    "/portal/{token}/endpoints/{id}/test",
    "/portal/{token}/endpoints/{id}/enable",
    "/portal/{token}/endpoints/{id}/pause",
    "/portal/{token}/endpoints/{id}/recover",
    "/portal/{token}/endpoints/{id}/rotate",
    "/portal/{token}/deliveries/{id}",
    "/portal/{token}/deliveries/{id}/resend",
];
