//! The OpenAPI document as it is served: adds the payloads of kinds and an example of every response.

use harkara_jobs::catalogue::KINDS;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use super::example;

/// The document as it is served.
///
/// # Errors
/// When the document cannot be represented as JSON.
pub(crate) fn finished(document: &OpenApi) -> Result<Value, serde_json::Error> {
    let mut document = serde_json::to_value(document)?;
    add_payloads(&mut document);
    example::add(&mut document);
    Ok(document)
}

/// Adds the payload schemas of the kinds that every tenant may enqueue.
fn add_payloads(document: &mut Value) {
    let mut names = Vec::new();
    let mut shapes = Map::new();
    for kind in KINDS.iter().filter(|kind| !kind.platform_only) {
        let name = format!("Payload_{}", kind.name);
        let shape = kind.shape();
        if !shape.is_object() || shape.to_string().contains("\"$ref\"") {
            continue;
        }
        names.push(json!({"$ref": format!("#/components/schemas/{name}")}));
        shapes.insert(name, shape);
    }
    let Some(schemas) = document
        .pointer_mut("/components/schemas")
        .and_then(Value::as_object_mut)
    else {
        return;
    };
    schemas.extend(shapes);
    let of_job = schemas
        .get_mut("NewJob")
        .and_then(|schema| schema.pointer_mut("/properties/payload"))
        .and_then(Value::as_object_mut);
    if let Some(payload) = of_job {
        payload.insert("anyOf".to_owned(), names.into());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::describe;

    fn document() -> Value {
        finished(&describe().1).unwrap()
    }

    /// Every operation of a resource, by its id.
    fn operations(document: &Value) -> Vec<(String, Value)> {
        let paths = document["paths"].as_object().unwrap().iter();
        paths
            .filter(|(path, _)| path.starts_with("/v1/"))
            .flat_map(|(_, item)| item.as_object().unwrap().values())
            .map(|operation| {
                let id = operation["operationId"].as_str().unwrap();
                (id.to_owned(), operation.clone())
            })
            .collect()
    }

    #[test]
    fn committed_document_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/openapi.json");
        let text = format!("{:#}\n", document());
        if std::env::var_os("UPDATE_OPENAPI").is_some() {
            std::fs::write(path, &text).unwrap();
        }
        let committed = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            text == committed,
            "docs/openapi.json is stale: run `UPDATE_OPENAPI=1 cargo test -p harkara-api --lib \
             committed_document_is_current` and review the difference"
        );
    }

    #[test]
    fn every_reference_resolves() {
        let document = document();
        let text = document.to_string();
        let mut seen = 0;
        for part in text.split("\"$ref\":\"#").skip(1) {
            let pointer = part.split('"').next().unwrap_or_default();
            assert!(document.pointer(pointer).is_some(), "{pointer}");
            seen += 1;
        }
        assert!(seen > 50, "{seen}");
    }

    #[test]
    fn every_list_has_pages() {
        for (id, operation) in operations(&document()) {
            let response = operation["responses"]["200"].to_string();
            if !response.contains("/Page_") {
                continue;
            }
            let parameters = operation["parameters"].to_string();
            for name in ["limit", "cursor"] {
                assert!(
                    parameters.contains(&format!("\"name\":\"{name}\"")),
                    "{id}: {name}"
                );
            }
        }
    }

    #[test]
    fn every_body_and_response_has_an_example() {
        let document = document();
        for (id, operation) in operations(&document) {
            let body = operation["requestBody"]["content"].as_object();
            for (media, content) in body.into_iter().flatten() {
                let schema = content["schema"]["$ref"].as_str().unwrap_or("#");
                let schema = document.pointer(&schema[1..]).unwrap();
                let has = content.get("example").is_some() || schema.get("example").is_some();
                assert!(has, "{id}: the body as {media} has no example");
            }
            let responses = operation["responses"].as_object().unwrap();
            for (status, response) in responses {
                let shared = response["$ref"].as_str().map(|pointer| &pointer[1..]);
                let response =
                    shared.map_or(response, |pointer| document.pointer(pointer).unwrap());
                let contents = response["content"].as_object().into_iter().flatten();
                for (media, content) in contents {
                    assert!(
                        content.get("example").is_some(),
                        "{id}: {status} as {media}"
                    );
                }
            }
        }
    }

    #[test]
    fn bodies_refuse_unknown_members() {
        let document = document();
        for (id, operation) in operations(&document) {
            let body = operation["requestBody"]["content"].as_object();
            for content in body.into_iter().flatten().map(|(_, content)| content) {
                let schema = content["schema"]["$ref"].as_str().unwrap_or("#");
                let schema = document.pointer(&schema[1..]).unwrap();
                assert_eq!(schema["additionalProperties"], false, "{id}");
            }
        }
    }

    #[test]
    fn ids_and_durations_have_the_patterns_of_their_types() {
        let document = document();
        let schemas = &document["components"]["schemas"];
        for (schema, member, name) in [
            ("Job", "id", "JobId"),
            ("Endpoint", "id", "EndpointId"),
            ("Delivery", "event_id", "EventId"),
        ] {
            let reference = format!("#/components/schemas/{name}");
            assert_eq!(schemas[schema]["properties"][member]["$ref"], reference);
            assert!(schemas[name]["pattern"].is_string(), "{name}");
        }
        let timeout = &schemas["NewJob"]["properties"]["timeout"];
        assert!(timeout.to_string().contains("/HumanDuration"), "{timeout}");
        assert!(schemas["HumanDuration"]["pattern"].is_string());
        let path = &document["paths"]["/v1/tenants/{id}/limits"]["get"]["parameters"][0];
        assert_eq!(path["name"], "id");
        assert!(path["schema"]["pattern"].is_string());
    }

    #[test]
    fn every_operation_states_what_it_requires() {
        for (id, operation) in operations(&document()) {
            let security = operation["security"].as_array().unwrap();
            let description = operation["description"].as_str().unwrap_or_default();
            for requirement in security {
                let scopes = requirement["api_key"].as_array().into_iter().flatten();
                for scope in scopes {
                    let scope = scope.as_str().unwrap();
                    assert!(description.contains(&format!("`{scope}`")), "{id}: {scope}");
                }
            }
            let is_open = security.iter().any(|one| *one == json!({}));
            let is_for_users = security.iter().all(|one| one.get("api_key").is_none());
            assert!(
                is_open || is_for_users || description.contains("Requires the scope"),
                "{id}"
            );
        }
    }
}
