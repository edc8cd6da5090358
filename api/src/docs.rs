//! Room: the page that shows the OpenAPI document.
//! Takes: a path under `/docs`. Gives: Swagger UI, from files that are in the binary.
//! Never: loads anything from another server.

use std::sync::Arc;

use axum::Router;
use axum::extract::Path;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE};
use axum::http::{HeaderValue, StatusCode};
use axum::response::{IntoResponse, Redirect, Response};
use axum::routing::get;
use utoipa_swagger_ui::Config;

use crate::problem::Problem;

/// Where the page is.
pub(crate) const PAGE: &str = "/docs/";

/// Its files change with releases only.
const AN_HOUR: HeaderValue = HeaderValue::from_static("public, max-age=3600");

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
    // No validator is asked on the network, and a key stays in its tab.
    let config = Config::from("/openapi.json")
        .validator_url("none")
        .try_it_out_enabled(true)
        .use_base_layout();
    match utoipa_swagger_ui::serve(name, Arc::new(config)) {
        Ok(Some(file)) => {
            let media = HeaderValue::try_from(file.content_type);
            let media = media.unwrap_or(HeaderValue::from_static("application/octet-stream"));
            let headers = [(CONTENT_TYPE, media), (CACHE_CONTROL, AN_HOUR)];
            (StatusCode::OK, headers, file.bytes.into_owned()).into_response()
        }
        Ok(None) => Problem::not_found("page").into_response(),
        Err(error) => Problem::internal(error).into_response(),
    }
}
