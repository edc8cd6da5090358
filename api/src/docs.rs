//! Serves Swagger UI under `/docs/` from files in the binary. Nothing is loaded from another server.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use utoipa_swagger_ui::Config;

use crate::problem::Problem;

/// Path of the page.
pub(crate) const PAGE: &str = "/docs/";

/// The files change only with a release.
const CACHE_ONE_HOUR: HeaderValue = HeaderValue::from_static("public, max-age=3600");

/// The routes of the page.
pub(crate) fn routes() -> Router {
    Router::new()
        .route("/docs", get(async || Redirect::permanent(PAGE)))
        .route(PAGE, get(async || file("index.html")))
        .route(
            "/docs/{*file}",
            get(async |Path(name): Path<String>| file(&name)),
        )
}

fn file(name: &str) -> Response {
    // No online validator, and an entered key is not persisted by the browser.
    let config = Config::from("/openapi.json")
        .validator_url("none")
        .try_it_out_enabled(true)
        .use_base_layout();
    match utoipa_swagger_ui::serve(name, Arc::new(config)) {
        Ok(Some(file)) => {
            let media = HeaderValue::try_from(file.content_type);
            let media = media.unwrap_or(HeaderValue::from_static("application/octet-stream"));
            let headers = [(CONTENT_TYPE, media), (CACHE_CONTROL, CACHE_ONE_HOUR)];
            (StatusCode::OK, headers, file.bytes.into_owned()).into_response()
        }
        Ok(None) => Problem::not_found("page").into_response(),
        Err(error) => Problem::internal(error).into_response(),
    }
}
