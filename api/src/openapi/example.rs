//! Adds an example of every response to the OpenAPI document, assembled from the examples of its members. An
//! example that an operation gives itself is kept.

use serde_json::{Map, Value};

/// Depth to which a schema is followed; recursive schemas would never end.
const MAX_DEPTH: usize = 12;

/// Adds an example to each response without one.
pub(super) fn add(document: &mut Value) {
    let whole = document.clone();
    let paths = document.get_mut("paths").and_then(Value::as_object_mut);
    let responses = paths
        .into_iter()
        .flat_map(Map::values_mut)
        .filter_map(Value::as_object_mut)
        .flat_map(Map::values_mut)
        .filter_map(|operation| operation.get_mut("responses")?.as_object_mut())
        .flat_map(Map::values_mut);
    for response in responses {
        let contents = response.get_mut("content").and_then(Value::as_object_mut);
        for (media, content) in contents.into_iter().flatten() {
            let Some(content) = content.as_object_mut() else {
                continue;
            };
            if content.contains_key("example") || media != "application/json" {
                continue;
            }
            let schema = content.get("schema").unwrap_or(&Value::Null);
            let example = of(schema, &whole, 0);
            content.insert("example".to_owned(), example);
        }
    }
}

/// An example of a schema: its own, or one assembled from its parts.
fn of(schema: &Value, whole: &Value, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    let given = ["example", "const", "default"]
        .iter()
        .find_map(|name| schema.get(*name))
        .or_else(|| schema.get("enum")?.get(0))
        .or_else(|| schema.get("examples")?.get(0));
    if let Some(given) = given {
        return given.clone();
    }
    if let Some(pointer) = schema.get("$ref").and_then(Value::as_str) {
        let there = whole.pointer(pointer.trim_start_matches('#'));
        return there.map_or(Value::Null, |there| of(there, whole, depth + 1));
    }
    for name in ["oneOf", "anyOf"] {
        if let Some(first) = schema.get(name).and_then(|some| some.get(0)) {
            return of(first, whole, depth + 1);
        }
    }
    if let Some(parts) = schema.get("allOf").and_then(Value::as_array) {
        let objects = parts.iter().map(|part| of(part, whole, depth + 1));
        let members = objects.filter_map(|object| object.as_object().cloned());
        return Value::Object(members.flatten().collect());
    }
    match type_of(schema) {
        "object" => {
            let members = schema.get("properties").and_then(Value::as_object);
            let members = members.into_iter().flatten();
            Value::Object(
                members
                    .map(|(name, member)| (name.clone(), of(member, whole, depth + 1)))
                    .collect(),
            )
        }
        "array" => {
            let item = schema.get("items").map(|items| of(items, whole, depth + 1));
            let least = schema.get("minItems").and_then(Value::as_u64);
            let many = usize::try_from(least.unwrap_or(1)).unwrap_or(1);
            Value::Array(item.map_or_else(Vec::new, |item| vec![item; many]))
        }
        "string" => match schema.get("format").and_then(Value::as_str) {
            Some("date-time") => "2030-01-31T12:00:00Z".into(),
            _ => "text".into(),
        },
        "integer" | "number" => schema.get("minimum").cloned().unwrap_or_else(|| 0.into()),
        "boolean" => false.into(),
        _ => Value::Null,
    }
}

/// The type of a schema. A nullable schema without an example is null in the example.
fn type_of(schema: &Value) -> &str {
    match schema.get("type") {
        Some(Value::String(one)) => one,
        Some(Value::Array(some)) if some.iter().any(|one| one == "null") => "null",
        Some(Value::Array(some)) => some.first().and_then(Value::as_str).unwrap_or_default(),
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn example_is_assembled_from_its_members() {
        let whole = json!({"components": {"schemas": {
            "State": {"type": "string", "enum": ["ready", "running"]},
        }}});
        let schema = json!({"type": "object", "properties": {
            "id": {"type": "string", "example": "job_0000000000500"},
            "state": {"$ref": "#/components/schemas/State"},
            "at": {"type": "string", "format": "date-time"},
            "until": {"type": ["string", "null"], "format": "date-time"},
            "error": {"oneOf": [{"$ref": "#/components/schemas/State"}, {"type": "null"}]},
            "counts": {"type": "array", "items": {"type": "integer"}, "minItems": 2},
        }});
        let example = json!({
            "id": "job_0000000000500",
            "state": "ready",
            "at": "2030-01-31T12:00:00Z",
            "until": null,
            "error": "ready",
            "counts": [0, 0],
        });
        assert_eq!(of(&schema, &whole, 0), example);
    }

    #[test]
    fn recursive_schema_has_a_finite_example() {
        let tree = json!({"type": "object", "properties": {"in": {"$ref": "#/tree"}}});
        let whole = json!({"tree": tree});
        assert!(of(&tree, &whole, 0).is_object());
    }
}
