//! Completes the OpenAPI document with everything its operations have in common: title, tags, security schemes,
//! headers, problems, and the health routes.

mod example;
mod finish;
mod headers;
mod signature;

use std::collections::BTreeMap;

use utoipa::openapi::path::{Operation, OperationBuilder, Parameter, ParameterIn};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, Content, HttpMethod, InfoBuilder, License, OpenApi, OpenApiBuilder, PathItem, Ref,
    RefOr,
};
use utoipa::{PartialSchema, ToSchema};

pub(crate) use finish::finished;
pub(crate) use signature::described;
use signature::operations;

use crate::problem::{Code, FieldErrorBody, ProblemBody};

/// Name of the security scheme of programs.
const API_KEY: &str = "api_key";

/// Names of the two security schemes that a user's browser combines.
const SESSION: &str = "session";
const CSRF_TOKEN: &str = "csrf_token";

/// A problem of many operations: its name, its status, and its description.
type Shared = (&'static str, &'static str, &'static str);

/// Problems of every operation.
const ALWAYS: [Shared; 6] = [
    (
        "Unauthorized",
        "401",
        "The API key or session is missing, malformed, unknown, revoked or expired",
    ),
    (
        "Forbidden",
        "403",
        "The caller lacks the named scope; or the key cannot be used from this address; or the tenant's \
         status does not permit the request",
    ),
    (
        "NotFound",
        "404",
        "The resource or tenant does not exist, or belongs to another tenant",
    ),
    (
        "TooManyRequests",
        "429",
        "The caller exceeded the request limits named in `violated_policies`, or the limit named in `limit` \
         is reached",
    ),
    ("Internal", "500", "Internal error"),
    (
        "Unavailable",
        "503",
        "The database is unavailable, or the request timed out; retry",
    ),
];

/// Problems of operations with a query string.
const QUERY: [Shared; 1] = [(
    "InvalidQuery",
    "400",
    "A parameter is invalid or unknown, or the cursor is invalid",
)];

/// Problems of operations with a body.
const BODY: [Shared; 4] = [
    ("MalformedBody", "400", "The body is not JSON"),
    ("BodyTooLarge", "413", "The body is too large"),
    (
        "UnsupportedMediaType",
        "415",
        "The content type is not supported",
    ),
    (
        "Invalid",
        "422",
        "The request body failed validation; `errors` lists each invalid member",
    ),
];

/// Problems of operations with an idempotency key.
const IDEMPOTENCY: [Shared; 4] = [
    (
        "MalformedRequest",
        "400",
        "The body is not JSON, or the header `Idempotency-Key` is malformed",
    ),
    (
        "Conflict",
        "409",
        "A request with this `Idempotency-Key` is in progress, or its response is lost",
    ),
    ("BodyTooLarge", "413", "The body is too large"),
    (
        "InvalidRequest",
        "422",
        "The request body failed validation, and `errors` lists each invalid member; or the \
         `Idempotency-Key` was used for another request",
    ),
];

/// The health routes, which every process of Harkara has.
const HEALTH: [(&str, &str, &str, bool); 4] = [
    (
        "/healthz",
        "Whether the process is alive",
        "text/plain",
        false,
    ),
    (
        "/readyz",
        "Whether the process is ready",
        "text/plain",
        true,
    ),
    ("/metrics", "Metrics for Prometheus", "text/plain", false),
    ("/openapi.json", "This document", "application/json", false),
];

/// The document without any operation.
pub(crate) fn base() -> OpenApi {
    let description = "Durable jobs and webhooks. Every request except those of `health` carries an \
        API key or a user's session; every error is a problem (RFC 9457) with a stable `code`. A \
        POST with an `Idempotency-Key` runs once, however often it is sent.";
    let info = InfoBuilder::new()
        .title("Harkara")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(description))
        .license(Some(License::new(env!("CARGO_PKG_LICENSE"))))
        .build();
    let tags = [
        ("jobs", "Work that runs at least once"),
        ("queues", "Queues, lanes, workers and their limits"),
        ("tenants", "Tenants, their limits and their usage"),
        ("keys", "API keys of applications"),
        ("audit", "The audit log"),
        ("people", "Users, their roles and their sessions"),
        ("webhooks", "Events, webhook endpoints and deliveries"),
        ("health", "Health of the process"),
    ];
    let tags = tags.map(|(name, words)| {
        TagBuilder::new()
            .name(name)
            .description(Some(words))
            .build()
    });
    OpenApiBuilder::new().info(info).tags(Some(tags)).build()
}

/// Adds everything that the described operations have in common.
pub(crate) fn complete(mut document: OpenApi) -> OpenApi {
    let mut shared = BTreeMap::new();
    for item in document.paths.paths.values_mut() {
        for (method, operation) in operations(item) {
            complete_operation(operation, &method, &mut shared);
        }
    }
    for (path, summary, media_type, may_fail) in HEALTH {
        let id = path.trim_start_matches('/').replace('.', "_");
        let operation = health(&id, summary, media_type, may_fail);
        let item = PathItem::new(HttpMethod::Get, operation);
        document.paths.paths.insert(path.to_owned(), item);
    }
    let components = document.components.get_or_insert_with(Components::new);
    components.responses.extend(shared);
    let mut schemas = Vec::new();
    ProblemBody::schemas(&mut schemas);
    FieldErrorBody::schemas(&mut schemas);
    schemas.push((ProblemBody::name().into_owned(), ProblemBody::schema()));
    schemas.push((
        FieldErrorBody::name().into_owned(),
        FieldErrorBody::schema(),
    ));
    components.schemas.extend(schemas);
    for parameter in headers::of_requests() {
        components
            .parameters
            .insert(parameter.name.clone(), parameter.into());
    }
    for (name, scheme) in security_schemes() {
        components
            .security_schemes
            .insert(name.to_owned(), scheme.into());
    }
    document
}

fn security_schemes() -> [(&'static str, SecurityScheme); 3] {
    let key = Http::builder()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("hk_…")
        .description(Some("An API key. Its scopes determine what it may do."))
        .build();
    let session = ApiKeyValue::with_description(
        headers::SESSION_COOKIE,
        "A user's session, created by signing in. The user's roles determine its scopes.",
    );
    let token = ApiKeyValue::with_description(
        headers::CSRF_HEADER,
        "Required together with a session for every request that is not GET.",
    );
    [
        (API_KEY, SecurityScheme::Http(key)),
        (SESSION, SecurityScheme::ApiKey(ApiKey::Cookie(session))),
        (CSRF_TOKEN, SecurityScheme::ApiKey(ApiKey::Header(token))),
    ]
}

fn complete_operation(
    operation: &mut Operation,
    method: &HttpMethod,
    shared: &mut BTreeMap<String, RefOr<Response>>,
) {
    // A route without authentication has an empty requirement. It has no caller, whose keys or tenants could
    // be named.
    let is_open = operation
        .security
        .as_ref()
        .is_some_and(|security| security.contains(&SecurityRequirement::default()));
    let is_post = *method == HttpMethod::Post && !is_open;
    let parameters = operation.parameters.get_or_insert_with(Vec::new);
    let in_query = |parameter: &RefOr<Parameter>| matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query);
    let has_query = parameters.iter().any(in_query);
    for name in headers::names(is_post, is_open) {
        let location = format!("#/components/parameters/{name}");
        parameters.push(RefOr::Ref(Ref::new(location)));
    }
    let mut problems: Vec<Shared> = ALWAYS.to_vec();
    if is_post {
        problems.extend(IDEMPOTENCY);
    }
    if operation.request_body.is_some() {
        problems.extend(BODY);
    } else if has_query {
        problems.extend(QUERY);
    }
    let responses = &mut operation.responses.responses;
    for (name, status, words) in problems {
        let entry = responses.entry(status.to_owned());
        entry.or_insert_with(|| {
            shared.entry(name.to_owned()).or_insert_with(|| {
                let mut response = Response::new(words);
                headers::add_to(&mut response, status, is_post);
                become_problem(status, &mut response);
                response.into()
            });
            RefOr::Ref(Ref::new(format!("#/components/responses/{name}")))
        });
    }
    for (status, response) in responses {
        let RefOr::T(response) = response else {
            continue;
        };
        headers::add_to(response, status, is_post);
        if status.starts_with(['4', '5']) {
            become_problem(status, response);
        }
    }
}

fn become_problem(status: &str, response: &mut Response) {
    let schema = Ref::from_schema_name(ProblemBody::name());
    let mut content = Content::new(Some(RefOr::Ref(schema)));
    content.example = Some(Code::example(status));
    response
        .content
        .insert("application/problem+json".to_owned(), content.into());
}

fn string() -> utoipa::openapi::Object {
    ObjectBuilder::new().schema_type(Type::String).build()
}

fn health(id: &str, summary: &str, media_type: &str, may_fail: bool) -> Operation {
    let response = |description: &str| {
        let schema = match media_type {
            "application/json" => ObjectBuilder::new().schema_type(Type::Object).build(),
            _ => string(),
        };
        ResponseBuilder::new()
            .description(description)
            .content(media_type, Content::new(Some(schema)))
            .build()
    };
    let operation = OperationBuilder::new()
        .operation_id(Some(id))
        .tag("health")
        .summary(Some(summary))
        .response("200", response("Yes"));
    if may_fail {
        operation.response("503", response("No; the body states why"))
    } else {
        operation
    }
    .build()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use harkara_shared::egress::Egress;
    use harkara_shared::process::Readiness;
    use harkara_shared::vault::MasterKeys;
    use tokio_util::sync::CancellationToken;

    use super::*;
    use crate::routes::describe;

    #[tokio::test]
    async fn every_served_route_is_documented() {
        let pool = sqlx::PgPool::connect_lazy("postgres://none@127.0.0.1:1/none").unwrap();
        let keys = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        let readiness = Readiness::for_database(pool.clone(), CancellationToken::new());
        let egress = Egress::new(Vec::new()).unwrap();
        let engine = harkara_queue::Engine::new(pool.clone(), false);
        let router = crate::router(crate::ApiState::new(
            pool,
            engine,
            keys,
            egress,
            readiness,
            Default::default(),
        ));
        // Routers do not list their routes, but they show them, and `/` for the fallback.
        let shown = format!("{router:?}");
        let is_route = |part: &&str| {
            let is_page = part.starts_with("/docs");
            part.starts_with("/") && *part != "/" && !part.contains('*') && !is_page
        };
        let served: BTreeSet<&str> = shown.split('"').filter(is_route).collect();
        let (_, document) = describe();
        let documented: BTreeSet<&str> = document.paths.paths.keys().map(String::as_str).collect();
        let pages = crate::pages::PATHS.iter().chain(&crate::portal::PATHS);
        let pages = pages.copied();
        assert_eq!(served, documented.into_iter().chain(pages).collect());
    }

    #[test]
    fn every_error_response_is_a_problem() {
        let (_, document) = describe();
        let operations = document
            .paths
            .paths
            .iter()
            .filter(|(path, _)| path.starts_with("/v1/"))
            .flat_map(|(_, item)| [&item.get, &item.put, &item.post, &item.patch, &item.delete])
            .flatten();
        let mut seen = BTreeSet::new();
        for operation in operations {
            let id = operation.operation_id.as_deref().unwrap();
            assert!(seen.insert(id), "{id} is taken");
            assert!(operation.security.is_some(), "{id}");
            assert!(operation.summary.is_some(), "{id}");
            for (status, response) in &operation.responses.responses {
                let RefOr::T(response) = response else {
                    continue;
                };
                let is_problem = response.content.contains_key("application/problem+json");
                assert_eq!(is_problem, status.starts_with(['4', '5']), "{id} {status}");
            }
            for status in ["401", "403", "404", "429", "500", "503"] {
                assert!(
                    operation.responses.responses.contains_key(status),
                    "{id} {status}"
                );
            }
        }
        assert!(seen.len() >= 17, "{seen:?}");
    }
}
