//! Room: the OpenAPI document, as far as it is the same for all routes.
//! Takes: the document that the routes describe. Gives: it with title, security, headers, problems, the
//! routes of health, and examples.
//! Never: describes a route's own parameters, bodies or answers.

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

/// Names of the two that a person's browser needs together.
const SESSION: &str = "session";
const CSRF_TOKEN: &str = "csrf_token";

/// A problem that many operations may meet: its name, its status, and when it is met.
type Shared = (&'static str, &'static str, &'static str);

/// Problems any request may meet.
const ALWAYS: [Shared; 6] = [
    (
        "Unauthorized",
        "401",
        "The API key or the session is missing, mistyped, unknown, revoked or expired",
    ),
    (
        "Forbidden",
        "403",
        "The caller lacks a scope, which is named; or the key may not be used from this address; or \
         the tenant's status does not permit it",
    ),
    (
        "NotFound",
        "404",
        "There is no such thing, or no such tenant; what belongs to another tenant looks the same",
    ),
    (
        "TooManyRequests",
        "429",
        "The caller asks too often: `violated_policies` names what refuses it; or a limit is used up that \
         `limit` names",
    ),
    ("Internal", "500", "Something failed on our side"),
    (
        "Unavailable",
        "503",
        "The database cannot be reached, or the request took too long: try again",
    ),
];

/// Problems a request with a query string may meet.
const QUERY: [Shared; 1] = [(
    "InvalidQuery",
    "400",
    "A parameter is wrong or unknown, or the cursor is",
)];

/// Problems a request with a body may meet.
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
        "Members of the body are wrong: each is pointed at",
    ),
];

/// Problems a request may meet that bears an idempotency key.
const IDEMPOTENCY: [Shared; 4] = [
    (
        "MalformedRequest",
        "400",
        "The body is not JSON, or the header Idempotency-Key is malformed",
    ),
    (
        "Conflict",
        "409",
        "A request with this Idempotency-Key is being answered, or its answer is lost",
    ),
    ("BodyTooLarge", "413", "The body is too large"),
    (
        "InvalidRequest",
        "422",
        "Members of the body are wrong: each is pointed at; or the Idempotency-Key was used for \
         another request",
    ),
];

/// The routes every process of Harkara has.
const HEALTH: [(&str, &str, &str, bool); 4] = [
    ("/healthz", "Whether the process lives", "text/plain", false),
    (
        "/readyz",
        "Whether the process can work",
        "text/plain",
        true,
    ),
    ("/metrics", "Metrics for Prometheus", "text/plain", false),
    ("/openapi.json", "This document", "application/json", false),
];

/// The document before any route is described.
pub(crate) fn base() -> OpenApi {
    let description = "Durable jobs and webhooks. Every request but those of `health` carries an \
        API key, or a person's session; every error is a problem (RFC 9457) with a stable `code`. A \
        POST with an `Idempotency-Key` is carried out once, however often it is sent.";
    let info = InfoBuilder::new()
        .title("Harkara")
        .version(env!("CARGO_PKG_VERSION"))
        .description(Some(description))
        .license(Some(License::new(env!("CARGO_PKG_LICENSE"))))
        .build();
    let tags = [
        ("jobs", "Work that is done at least once"),
        ("queues", "Where jobs wait, and how fast they leave"),
        ("tenants", "Who uses the platform, and what of it they may"),
        ("keys", "What applications may do, and by which key"),
        ("audit", "Who did what"),
        ("people", "Who works with it, and how they sign in"),
        ("webhooks", "Events, and who is told of them"),
        ("health", "The process itself"),
    ];
    let tags = tags.map(|(name, words)| {
        TagBuilder::new()
            .name(name)
            .description(Some(words))
            .build()
    });
    OpenApiBuilder::new().info(info).tags(Some(tags)).build()
}

/// Adds to what the routes described all that they have in common.
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
        .description(Some("An API key. What it may do is told by its scopes."))
        .build();
    let session = ApiKeyValue::with_description(
        headers::SESSION_COOKIE,
        "A person's session, made by signing in. What it permits is told by the person's roles.",
    );
    let token = ApiKeyValue::with_description(
        headers::CSRF_HEADER,
        "Goes with a session wherever something is changed.",
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
                headers::tell(&mut response, status, is_post);
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
        headers::tell(response, status, is_post);
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
    let answer = |words: &str| {
        let schema = match media_type {
            "application/json" => ObjectBuilder::new().schema_type(Type::Object).build(),
            _ => string(),
        };
        ResponseBuilder::new()
            .description(words)
            .content(media_type, Content::new(Some(schema)))
            .build()
    };
    let operation = OperationBuilder::new()
        .operation_id(Some(id))
        .tag("health")
        .summary(Some(summary))
        .response("200", answer("Yes"));
    if may_fail {
        operation.response("503", answer("Why not"))
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
    async fn every_route_that_is_served_is_documented() {
        let pool = sqlx::PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
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
    fn every_answer_that_is_an_error_is_a_problem() {
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
