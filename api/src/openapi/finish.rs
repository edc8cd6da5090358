//! Room: the OpenAPI document as it is served.
//! Takes: the document of routes. Gives: it with patterns of ids and durations, the payloads of kinds,
//! and an example of every answer.
//! Never: says of a text more than every route holds of it.

use harkara_jobs::catalogue::KINDS;
use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

use super::example;

/// A tenant's slug or id.
const TENANT: &str = "^([a-z0-9][a-z0-9-]{0,62}|ten_[0-7][0-9a-hjkmnp-tv-z]{25})$";

/// An event's id, which applications may make up.
const EVENT: &str = "^[A-Za-z0-9_-]{1,64}$";

/// A job's id as it is answered.
const JOB: &str = "^job_[0-9a-f][0-9a-hjkmnp-tv-z]{12}$";

/// A duration, whose parts are all optional but may not all be missing.
const DURATION: &str = "^([0-9]{1,19}d)?([0-9]{1,19}h)?([0-9]{1,19}m)?([0-9]{1,19}s)?\
    ([0-9]{1,19}ms)?([0-9]{1,19}us)?([0-9]{1,19}ns)?$";

/// The document as it is served.
pub(crate) fn finished(document: &OpenApi) -> Value {
    // A document that was made of types can always be written.
    let mut document = serde_json::to_value(document).unwrap_or_default();
    add_payloads(&mut document);
    sharpen(&mut document, "");
    example::add(&mut document);
    document
}

/// Says what the payloads of the kinds hold that every tenant may enqueue.
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

/// Adds the pattern of every text whose example shows what it is. `called` is the member's or parameter's
/// name.
fn sharpen(node: &mut Value, called: &str) {
    match node {
        Value::Array(items) => items.iter_mut().for_each(|item| sharpen(item, "")),
        Value::Object(members) => {
            sharpen_parameter(members);
            for (name, value) in rule(members, called) {
                members.insert(name.to_owned(), value);
            }
            for (name, member) in members {
                match (name.as_str(), member) {
                    ("example" | "examples" | "default" | "enum", _) => {}
                    ("properties", Value::Object(properties)) => {
                        for (name, property) in properties {
                            sharpen(property, name);
                        }
                    }
                    (_, member) => sharpen(member, ""),
                }
            }
        }
        _ => {}
    }
}

/// A parameter's name, example and words stand beside its schema.
fn sharpen_parameter(members: &mut Map<String, Value>) {
    if !members.contains_key("in") {
        return;
    }
    let name = members.get("name").and_then(Value::as_str);
    let name = name.unwrap_or_default().to_owned();
    let told =
        ["example", "description"].map(|name| Some((name.to_owned(), members.get(name)?.clone())));
    if let Some(schema) = members.get_mut("schema").and_then(Value::as_object_mut) {
        let mut known = schema.clone();
        known.extend(told.into_iter().flatten());
        for (rule, value) in rule(&known, &name) {
            // A list may be asked for an event by a text that no event can have.
            if value != EVENT {
                schema.insert(rule.to_owned(), value);
            }
        }
    }
}

/// What holds for the texts of a schema, by its example.
fn rule(schema: &Map<String, Value>, called: &str) -> Vec<(&'static str, Value)> {
    let is_text = match schema.get("type") {
        Some(Value::String(one)) => one == "string",
        Some(Value::Array(some)) => some.iter().any(|one| one == "string"),
        _ => false,
    };
    let is_told = ["pattern", "format", "enum"]
        .iter()
        .any(|name| schema.contains_key(*name));
    let example = schema.get("example").and_then(Value::as_str);
    let (Some(example), true, false) = (example, is_text, is_told) else {
        return Vec::new();
    };
    if harkara_shared::duration::parse(example).is_ok() {
        return vec![("pattern", DURATION.into()), ("minLength", 2.into())];
    }
    let words = schema.get("description").and_then(Value::as_str);
    let pattern = pattern(example, words.unwrap_or_default(), called);
    pattern
        .map(|pattern| ("pattern", pattern.into()))
        .into_iter()
        .collect()
}

/// The pattern of an id.
fn pattern(example: &str, words: &str, called: &str) -> Option<String> {
    let is_id = called == "id" || called.ends_with("_id");
    // Of whoever did something the log keeps what they are called by.
    if !is_id || words.contains("name of") {
        return None;
    }
    let (prefix, digits) = example.split_once('_')?;
    match (prefix, digits.len()) {
        ("ten", _) if words.contains("slug") => Some(TENANT.to_owned()),
        ("job", 13) => Some(JOB.to_owned()),
        ("evt", 26) => Some(EVENT.to_owned()),
        (_, 26) if prefix.bytes().all(|byte| byte.is_ascii_lowercase()) => {
            Some(format!("^{prefix}_[0-7][0-9a-hjkmnp-tv-z]{{25}}$"))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routes::describe;

    fn document() -> Value {
        finished(&describe().1)
    }

    /// Every operation of the contract, by its id.
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
    fn every_reference_leads_somewhere() {
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
            let answer = operation["responses"]["200"].to_string();
            if !answer.contains("/Page_") {
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
    fn every_body_and_every_answer_has_an_example() {
        let document = document();
        for (id, operation) in operations(&document) {
            let body = operation["requestBody"]["content"].as_object();
            for (media, content) in body.into_iter().flatten() {
                let schema = content["schema"]["$ref"].as_str().unwrap_or("#");
                let schema = document.pointer(&schema[1..]).unwrap();
                let has = content.get("example").is_some() || schema.get("example").is_some();
                assert!(has, "{id}: the body as {media} has no example");
            }
            let answers = operation["responses"].as_object().unwrap();
            for (status, answer) in answers {
                let shared = answer["$ref"].as_str().map(|pointer| &pointer[1..]);
                let answer = shared.map_or(answer, |pointer| document.pointer(pointer).unwrap());
                let contents = answer["content"].as_object().into_iter().flatten();
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
    fn bodies_refuse_what_they_do_not_know() {
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
    fn ids_and_durations_have_patterns() {
        let document = document();
        let of = |pointer: &str| document.pointer(pointer).and_then(Value::as_str);
        assert_eq!(
            of("/components/schemas/Job/properties/id/pattern"),
            Some(JOB)
        );
        assert_eq!(
            of("/components/schemas/NewJob/properties/timeout/pattern"),
            Some(DURATION)
        );
        assert_eq!(
            of("/components/schemas/Endpoint/properties/id/pattern"),
            Some("^ep_[0-7][0-9a-hjkmnp-tv-z]{25}$")
        );
        let limits = &document["paths"]["/v1/tenants/{id}/limits"]["get"]["parameters"][0];
        assert_eq!(limits["schema"]["pattern"], TENANT);
    }
}
