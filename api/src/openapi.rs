//! Room: the OpenAPI document, as far as it is the same for all routes.
//! Takes: the document that the routes describe. Gives: it with title, security, request headers,
//! problems, and the routes of health.
//! Never: describes a route's own parameters, bodies or answers.

use utoipa::openapi::path::{
    Operation, OperationBuilder, Parameter, ParameterBuilder, ParameterIn,
};
use utoipa::openapi::response::{Response, ResponseBuilder};
use utoipa::openapi::schema::{ObjectBuilder, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    Components, Content, Header, HttpMethod, InfoBuilder, License, OpenApi, OpenApiBuilder,
    PathItem, Ref, RefOr, Required,
};
use utoipa::{PartialSchema, ToSchema};

use crate::problem::{FaultBody, ProblemBody};

/// Name of the security scheme.
const API_KEY: &str = "api_key";

/// Problems any request may meet.
const ALWAYS: [(&str, &str); 6] = [
    (
        "401",
        "The API key is missing, mistyped, unknown, revoked or expired",
    ),
    ("403", "The API key lacks the scope, which is named"),
    ("404", "There is no such thing, or no such tenant"),
    (
        "429",
        "The caller asks too often: `violated_policies` names what refuses it",
    ),
    ("500", "Something failed on our side"),
    (
        "503",
        "The database cannot be reached, or the request took too long: try again",
    ),
];

/// What answers to a caller that is known tell of its limits.
const RATE_LIMIT: [(&str, &str); 2] = [
    (
        "RateLimit-Policy",
        "The caller's policies: `q` requests in any `w` seconds, or in a month",
    ),
    (
        "RateLimit",
        "How each stands: `r` requests remain, and all of them are back in `t` seconds",
    ),
];

/// Problems a request with a query string may meet.
const QUERY: [(&str, &str); 1] = [("400", "A parameter is wrong or unknown, or the cursor is")];

/// Problems a request with a body may meet.
const BODY: [(&str, &str); 4] = [
    ("400", "The body is not JSON"),
    ("413", "The body is too large"),
    ("415", "The content type is not supported"),
    ("422", "Members of the body are wrong: each is pointed at"),
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
        API key; every error is a problem (RFC 9457) with a stable `code`.";
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
    for item in document.paths.paths.values_mut() {
        let operations = [
            &mut item.get,
            &mut item.put,
            &mut item.post,
            &mut item.patch,
            &mut item.delete,
        ];
        for operation in operations.into_iter().flatten() {
            complete_operation(operation);
        }
    }
    for (path, summary, media_type, may_fail) in HEALTH {
        let id = path.trim_start_matches('/').replace('.', "_");
        let operation = health(&id, summary, media_type, may_fail);
        let item = PathItem::new(HttpMethod::Get, operation);
        document.paths.paths.insert(path.to_owned(), item);
    }
    let components = document.components.get_or_insert_with(Components::new);
    let mut schemas = Vec::new();
    ProblemBody::schemas(&mut schemas);
    FaultBody::schemas(&mut schemas);
    schemas.push((ProblemBody::name().into_owned(), ProblemBody::schema()));
    schemas.push((FaultBody::name().into_owned(), FaultBody::schema()));
    components.schemas.extend(schemas);
    for parameter in request_headers() {
        components
            .parameters
            .insert(parameter.name.clone(), parameter.into());
    }
    let scheme = Http::builder()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("hk_…")
        .description(Some("An API key. What it may do is told by its scopes."))
        .build();
    components
        .security_schemes
        .insert(API_KEY.to_owned(), SecurityScheme::Http(scheme).into());
    document
}

fn complete_operation(operation: &mut Operation) {
    let no_scopes: [&str; 0] = [];
    operation.security = Some(vec![SecurityRequirement::new(API_KEY, no_scopes)]);
    let parameters = operation.parameters.get_or_insert_with(Vec::new);
    let in_query = |parameter: &RefOr<Parameter>| matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Query);
    let has_query = parameters.iter().any(in_query);
    for header in request_headers() {
        let location = format!("#/components/parameters/{}", header.name);
        parameters.push(RefOr::Ref(Ref::new(location)));
    }
    let mut problems: Vec<(&str, &str)> = ALWAYS.to_vec();
    if operation.request_body.is_some() {
        problems.extend(BODY);
    } else if has_query {
        problems.extend(QUERY);
    }
    let responses = &mut operation.responses.responses;
    for (status, words) in problems {
        responses
            .entry(status.to_owned())
            .or_insert_with(|| Response::new(words).into());
    }
    for (status, response) in responses {
        let RefOr::T(response) = response else {
            continue;
        };
        response
            .headers
            .insert("X-Request-Id".to_owned(), header("The request's id").into());
        if status != "401" {
            for (name, words) in RATE_LIMIT {
                response
                    .headers
                    .insert(name.to_owned(), header(words).into());
            }
        }
        if status.starts_with(['4', '5']) {
            become_problem(status, response);
        }
    }
}

fn become_problem(status: &str, response: &mut Response) {
    let schema = Ref::from_schema_name(ProblemBody::name());
    let content = Content::new(Some(RefOr::Ref(schema)));
    response
        .content
        .insert("application/problem+json".to_owned(), content.into());
    let told = match status {
        "401" => Some(("WWW-Authenticate", "`Bearer`")),
        "429" | "503" => Some(("Retry-After", "Seconds to wait before another try")),
        _ => None,
    };
    if let Some((name, words)) = told {
        response
            .headers
            .insert(name.to_owned(), header(words).into());
    }
}

fn header(words: &str) -> Header {
    let mut header = Header::new(string());
    header.description = Some(words.to_owned());
    header
}

fn string() -> utoipa::openapi::Object {
    ObjectBuilder::new().schema_type(Type::String).build()
}

fn request_headers() -> [Parameter; 2] {
    let tenant = "Id or slug of the tenant to act for. Only a key of the tenant `platform` with the \
        scope `platform:admin` may name another tenant than its own.";
    let request = "The caller's name for the request, 1 to 128 visible ASCII characters; one is \
        made up otherwise. It is answered, and its jobs remember it.";
    [("X-Tenant-Id", tenant), ("X-Request-Id", request)].map(|(name, words)| {
        ParameterBuilder::new()
            .name(name)
            .parameter_in(ParameterIn::Header)
            .required(Required::False)
            .description(Some(words))
            .schema(Some(string()))
            .build()
    })
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
    use crate::routes::described;

    #[tokio::test]
    async fn every_route_that_is_served_is_documented() {
        let pool = sqlx::PgPool::connect_lazy("postgres://nobody@127.0.0.1:1/none").unwrap();
        let keys = MasterKeys::parse(&MasterKeys::generate()).unwrap();
        let readiness = Readiness::of_database(pool.clone(), CancellationToken::new());
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
        let is_route = |part: &&str| part.starts_with("/") && *part != "/" && !part.contains('*');
        let served: BTreeSet<&str> = shown.split('"').filter(is_route).collect();
        let (_, document) = described();
        let documented: BTreeSet<&str> = document.paths.paths.keys().map(String::as_str).collect();
        let pages = crate::pages::PATHS.iter().copied();
        assert_eq!(served, documented.into_iter().chain(pages).collect());
    }

    #[test]
    fn every_answer_that_is_an_error_is_a_problem() {
        let (_, document) = described();
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
            for status in ["401", "403", "404", "500", "503"] {
                assert!(
                    operation.responses.responses.contains_key(status),
                    "{id} {status}"
                );
            }
        }
        assert!(seen.len() >= 17, "{seen:?}");
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let (_, document) = described();
        let text = serde_json::to_string(&document).unwrap_or_default();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        let mut seen = 0;
        for part in text.split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().unwrap_or_default();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
            seen += 1;
        }
        assert!(seen > 50, "{seen}");
    }
}
