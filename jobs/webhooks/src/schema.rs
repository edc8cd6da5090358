//! Validates event data against JSON Schemas that tenants write (draft 2020-12).
//!
//! References to other documents are never fetched, and both schemas and data are bounded in cost.

use std::collections::HashMap;
use std::sync::Arc;

use harkara_kind::FieldError;
use harkara_shared::json::pointer_token;
use jsonschema::error::ValidationErrorKind as Kind;
use jsonschema::{PatternOptions, ValidationError, Validator};
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio::task::{JoinError, spawn_blocking};

/// The supported draft, as `$schema` names it.
const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// Maximum weight of a schema: its number of values, where the values that a reference points to count once for each
/// reference.
const MAX_WEIGHT: usize = 5_000;

/// Weight of a regular expression.
const PATTERN_WEIGHT: usize = 100;

/// Maximum size in bytes of a compiled regular expression.
const MAX_PATTERN_BYTES: usize = 128 << 10;

/// Maximum nesting of a schema, including the values that its references point to.
const MAX_DEPTH: usize = 128;

/// Maximum number of errors reported for one value.
const MAX_REPORTED_ERRORS: usize = 20;

/// Maximum product of the schema's weight and the data's number of values for a light check: one that runs on the calling
/// thread and reports each error. The product bounds the cost of a check and its number of errors.
const MAX_LIGHT_COST: usize = 100_000;

/// Permits for heavy checks, so that few run at the same time: the largest take a second or two.
static HEAVY_CHECKS: Semaphore = Semaphore::const_new(2);

/// Maximum length of an error message in characters: it can list everything that a schema allows.
const MAX_DETAIL_CHARS: usize = 300;

/// A compiled schema.
#[derive(Debug)]
pub(super) struct Schema {
    validator: Validator,
    weight: usize,
}

impl Schema {
    /// Compiles a schema.
    ///
    /// # Errors
    /// The first error in the schema.
    pub(super) fn compile(schema: &Value) -> Result<Self, FieldError> {
        let size = measure(schema)?;
        let mut schema = schema.clone();
        // Nothing can refer to the `$id`, and the library must not resolve references against it.
        if let Some(members) = schema.as_object_mut() {
            members.remove("$id");
        }
        // Of the library's two engines, this one takes linear time for any expression.
        let patterns = PatternOptions::regex()
            .size_limit(MAX_PATTERN_BYTES)
            .dfa_size_limit(MAX_PATTERN_BYTES);
        let validator = jsonschema::draft202012::options()
            .offline()
            .with_pattern_options(patterns)
            .build(&schema)
            .map_err(|error| {
                let detail = format!("is not a valid JSON Schema: {}", masked_message(&error));
                FieldError::new(error.instance_path().as_str(), "invalid", detail)
            })?;
        Ok(Self {
            validator,
            weight: size.weight,
        })
    }

    /// The schema's weight in the cache, in values.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// The errors in `data`, at most [`MAX_REPORTED_ERRORS`]. For a heavy check, a single
    /// error for the whole: finding each could take long.
    pub(super) fn errors(&self, data: &Value) -> Vec<FieldError> {
        if self.validator.is_valid(data) {
            return Vec::new();
        }
        if self.is_heavy(data) {
            let detail = "does not satisfy the schema; both are too large to report where";
            return vec![FieldError::new("", "schema", detail)];
        }
        let errors = self.validator.iter_errors(data);
        errors
            .flat_map(errors_of)
            .take(MAX_REPORTED_ERRORS)
            .collect()
    }

    /// The same as [`Self::errors`], without blocking an async thread for long.
    ///
    /// # Errors
    /// When the check panicked or the runtime is shutting down.
    pub(super) async fn errors_off_thread(
        self: &Arc<Self>,
        data: Value,
    ) -> Result<Vec<FieldError>, JoinError> {
        if !self.is_heavy(&data) {
            return Ok(self.errors(&data));
        }
        // A check continues when its caller stops waiting, so the permit moves into it. The semaphore is never closed.
        let permit = HEAVY_CHECKS.acquire().await.ok();
        let schema = Arc::clone(self);
        spawn_blocking(move || {
            let _permit = permit;
            schema.errors(&data)
        })
        .await
    }

    /// Whether checking `data` is not light, see [`MAX_LIGHT_COST`].
    fn is_heavy(&self, data: &Value) -> bool {
        count_values(data).saturating_mul(self.weight) > MAX_LIGHT_COST
    }
}

/// The number of values in `data`, including itself.
fn count_values(data: &Value) -> usize {
    match data {
        Value::Array(items) => 1 + items.iter().map(count_values).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(count_values).sum::<usize>(),
        _ => 1,
    }
}

/// Converts an error of the library; one for each member when an error is about several.
fn errors_of(error: ValidationError<'_>) -> Vec<FieldError> {
    let at = error.instance_path().as_str();
    let member = |name: &str, detail: &str| {
        FieldError::new(format!("{at}{}", pointer_token(name)), "schema", detail)
    };
    match error.kind() {
        Kind::Required { property } => {
            vec![member(property.as_str().unwrap_or_default(), "is required")]
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            let unexpected = unexpected.iter().take(MAX_REPORTED_ERRORS);
            unexpected
                .map(|name| member(name, "is not allowed"))
                .collect()
        }
        _ => vec![FieldError::new(at, "schema", masked_message(&error))],
    }
}

/// The library's message without the invalid value, which can be large or secret.
fn masked_message(error: &ValidationError<'_>) -> String {
    let message = error.masked().to_string();
    match message.char_indices().nth(MAX_DETAIL_CHARS) {
        Some((end, _)) => format!("{}…", message.get(..end).unwrap_or_default()),
        None => message,
    }
}

/// Size of a schema, including the values that its references point to.
#[derive(Debug, Clone, Copy)]
struct Size {
    weight: usize,
    depth: usize,
}

/// Measures a schema. Its weight bounds the cost of checking a single value. A reference must therefore not be recursive,
/// and keywords that check their neighbours a second time count these twice.
fn measure(schema: &Value) -> Result<Size, FieldError> {
    if let Some(draft) = schema.get("$schema") {
        let is_supported = draft.as_str().map(|name| name.trim_end_matches('#')) == Some(DRAFT);
        if !is_supported {
            return Err(FieldError::new(
                "/$schema",
                "invalid",
                format!("must be `{DRAFT}`"),
            ));
        }
    }
    let mut measurer = Measurer {
        root: schema,
        known: HashMap::new(),
    };
    measurer.measure(schema, 0)
}

struct Measurer<'s> {
    root: &'s Value,
    /// Sizes of the values that references point to, by pointer; `None` while a value is being measured.
    known: HashMap<&'s str, Option<Size>>,
}

impl<'s> Measurer<'s> {
    /// The size of a value that is `depth` levels below the root.
    fn measure(&mut self, value: &'s Value, depth: usize) -> Result<Size, FieldError> {
        let mut size = Size {
            weight: 1,
            depth: 1,
        };
        if depth >= MAX_DEPTH {
            let detail = format!(
                "is nested more than {MAX_DEPTH} levels deep, including the values that references point to"
            );
            return Err(FieldError::new("", "too_deep", detail));
        }
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let part = self.measure(item, depth + 1);
                    size.add(part.map_err(|error| error.under(&format!("/{index}")))?)?;
                }
            }
            Value::Object(members) => {
                for (name, member) in members {
                    let part = match (name.as_str(), member) {
                        ("$ref", Value::String(target)) => self.target(target, depth + 1),
                        ("$dynamicRef" | "$recursiveRef", Value::String(_)) => Err(
                            FieldError::new("", "unsupported", "is not supported: use `$ref`"),
                        ),
                        ("$id", Value::String(_)) if depth > 0 => Err(FieldError::new(
                            "",
                            "unsupported",
                            "is supported at the root only",
                        )),
                        _ => self.measure(member, depth + 1),
                    };
                    let mut part = part.map_err(|error| error.under(&pointer_token(name)))?;
                    part.weight += match (name.as_str(), member) {
                        ("pattern", Value::String(_)) => PATTERN_WEIGHT,
                        ("patternProperties", Value::Object(patterns)) => {
                            PATTERN_WEIGHT * patterns.len()
                        }
                        _ => 0,
                    };
                    size.add(part)?;
                }
                let is_checked_again = ["unevaluatedProperties", "unevaluatedItems"]
                    .iter()
                    .any(|name| members.contains_key(*name));
                if is_checked_again {
                    size.add(Size { depth: 0, ..size })?;
                }
            }
            _ => {}
        }
        Ok(size)
    }

    /// The size of the value that a reference points to.
    fn target(&mut self, target: &'s str, depth: usize) -> Result<Size, FieldError> {
        let refused = |code, detail: &str| Err(FieldError::new("", code, detail));
        // Percent-encoding could be read in two ways.
        let pointer = target
            .strip_prefix('#')
            .filter(|pointer| !pointer.contains('%'));
        let Some(pointer) = pointer else {
            return refused(
                "unsupported",
                "must be `#` and a JSON pointer into this schema: other documents are not fetched",
            );
        };
        let Some(value) = self.root.pointer(pointer) else {
            return refused("unknown", "points to nothing in this schema");
        };
        let size = match self.known.get(pointer) {
            Some(None) => return refused("recursive", "is recursive"),
            Some(Some(size)) if depth + size.depth <= MAX_DEPTH => *size,
            _ => {
                self.known.insert(pointer, None);
                // An error in the value is reported at the reference.
                let measured = self.measure(value, depth).map_err(|error| FieldError {
                    pointer: String::new(),
                    ..error
                });
                let size = measured?;
                self.known.insert(pointer, Some(size));
                size
            }
        };
        Ok(size)
    }
}

impl Size {
    /// Adds the size of a part.
    fn add(&mut self, part: Self) -> Result<(), FieldError> {
        self.weight += part.weight;
        self.depth = self.depth.max(part.depth + 1);
        if self.weight > MAX_WEIGHT {
            let detail = format!(
                "is too complex: at most {MAX_WEIGHT} values, where each reference counts the values it \
                 points to, and a regular expression counts {PATTERN_WEIGHT}"
            );
            return Err(FieldError::new("", "too_complex", detail));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn refused(schema: &Value) -> (String, &'static str) {
        let error = Schema::compile(schema).map(drop).unwrap_err();
        (error.pointer, error.code)
    }

    #[test]
    fn schema_with_multiplying_references_is_refused() {
        // Each definition refers to the next one twice: 2^20 at the end.
        let mut schema = json!({"$ref": "#/$defs/0", "$defs": {"20": {}}});
        for level in 0..20 {
            let next = json!({"$ref": format!("#/$defs/{}", level + 1)});
            schema["$defs"][level.to_string()] = json!({"allOf": [next, next]});
        }
        assert_eq!(refused(&schema).1, "too_complex");
    }

    #[test]
    fn schema_with_nested_unevaluated_keywords_is_refused() {
        let mut schema = json!({});
        for _ in 0..30 {
            schema = json!({"unevaluatedProperties": false, "allOf": [schema]});
        }
        assert_eq!(refused(&schema).1, "too_complex");
    }

    #[test]
    fn schema_with_many_or_large_expressions_is_refused() {
        let patterns: serde_json::Map<String, Value> =
            (0..60).map(|n| (format!("^{n}"), json!(true))).collect();
        let schema = json!({"patternProperties": patterns});
        assert_eq!(refused(&schema).1, "too_complex");
        let large = json!({"pattern": r"^(\p{L}{100}){100}$"});
        assert_eq!(refused(&large), ("/pattern".to_owned(), "invalid"));
    }

    #[test]
    fn schema_nested_too_deep_through_references_is_refused() {
        let mut schema = json!({"$defs": {"9": {}}});
        for level in 0..9 {
            let mut part = json!({"$ref": format!("#/$defs/{}", level + 1)});
            for _ in 0..20 {
                part = json!({"not": part});
            }
            schema["$defs"][level.to_string()] = part;
        }
        assert_eq!(refused(&schema).1, "too_deep");
    }

    #[test]
    fn reference_points_only_into_the_schema() {
        for (target, code) in [
            ("https://example.com/", "unsupported"),
            ("other.json", "unsupported"),
            ("file:///etc/passwd", "unsupported"),
            ("#anchor", "unknown"),
            ("#/$defs/%61", "unsupported"),
            ("#/$defs/b", "unknown"),
            ("#/$defs/a", "recursive"),
        ] {
            let schema = json!({"$defs": {"a": {"items": {"$ref": target}}}});
            let expected = ("/$defs/a/items/$ref".to_owned(), code);
            assert_eq!(refused(&schema), expected, "{target}");
        }
    }

    #[tokio::test]
    async fn errors_are_limited_to_twenty_and_to_one_for_heavy_checks() {
        let schema = Schema::compile(&json!({"items": {"type": "string"}})).unwrap();
        let schema = Arc::new(schema);
        let few: Vec<u32> = (0..100).collect();
        let errors = schema.errors_off_thread(json!(few)).await.unwrap();
        let pointers: Vec<&str> = errors.iter().map(|error| error.pointer.as_str()).collect();
        assert_eq!(pointers.len(), 20);
        assert_eq!((pointers[0], pointers[19]), ("/0", "/19"));
        let many: Vec<u32> = (0..100_000).collect();
        let errors = schema.errors_off_thread(json!(many)).await.unwrap();
        assert_eq!(errors.len(), 1);
        assert_eq!(errors[0].pointer, "");
    }

    #[test]
    fn expression_is_matched_in_linear_time() {
        // A backtracking engine would not finish.
        let schema = Schema::compile(&json!({"pattern": "^(a+)+$"})).unwrap();
        let text = format!("{}!", "a".repeat(50_000));
        assert_eq!(schema.errors(&json!(text)).len(), 1);
    }
}
