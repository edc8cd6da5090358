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

/// The draft, as `$schema` names it.
const DRAFT: &str = "https://json-schema.org/draft/2020-12/schema";

/// The most that a schema weighs: values, with those that references lead to counted each time.
const MAX_WEIGHT: usize = 5_000;

/// What a regular expression weighs.
const PATTERN_WEIGHT: usize = 100;

/// Bytes of a regular expression that is ready to be used.
const PATTERN_BYTES: usize = 128 << 10;

/// How deep a schema may nest, what its references lead to included.
const MAX_DEPTH: usize = 128;

/// The most faults of one value that are told.
const MAX_FAULTS: usize = 20;

/// The most that weight of the schema times values of the data may be for all mistakes to be looked for, by
/// the thread that asks: so many mistakes there may be.
const LIGHT: usize = 100_000;

/// Checks that are not light and go on at the same time: the largest of them take a second or two.
static AT_ONCE: Semaphore = Semaphore::const_new(2);

/// The longest sentence about a mistake, in characters: it may list all that a schema allows.
const LONGEST_DETAIL: usize = 300;

/// A schema that is ready to be used.
#[derive(Debug)]
pub(super) struct Schema {
    validator: Validator,
    weight: usize,
}

impl Schema {
    /// Makes a schema ready.
    ///
    /// # Errors
    /// With what is wrong with it, and where.
    pub(super) fn compile(schema: &Value) -> Result<Self, FieldError> {
        let size = measure(schema)?;
        let mut schema = schema.clone();
        // Its name is of no use, and must not be taken for another schema's.
        if let Some(members) = schema.as_object_mut() {
            members.remove("$id");
        }
        // Of the two engines this one takes time in proportion to what it reads, whatever the expression.
        let patterns = PatternOptions::regex()
            .size_limit(PATTERN_BYTES)
            .dfa_size_limit(PATTERN_BYTES);
        let validator = jsonschema::draft202012::options()
            .offline()
            .with_pattern_options(patterns)
            .build(&schema)
            .map_err(|error| {
                let detail = format!("is no JSON Schema: {}", told(&error));
                FieldError::new(error.instance_path().as_str(), "invalid", detail)
            })?;
        Ok(Self {
            validator,
            weight: size.weight,
        })
    }

    /// How much room it takes, in values.
    pub(super) fn weight(&self) -> usize {
        self.weight
    }

    /// What is wrong with `data`, at most [`MAX_FAULTS`]; a single fault of the whole when schema and data are
    /// so large that looking for each could take long.
    pub(super) fn faults(&self, data: &Value) -> Vec<FieldError> {
        if self.validator.is_valid(data) {
            return Vec::new();
        }
        if self.is_heavy(data) {
            let detail = "does not satisfy the schema; both are too large to say where";
            return vec![FieldError::new("", "schema", detail)];
        }
        let errors = self.validator.iter_errors(data);
        errors.flat_map(faults_of).take(MAX_FAULTS).collect()
    }

    /// The same, where a thread must not be kept for long.
    ///
    /// # Errors
    /// When the check broke off.
    pub(super) async fn faults_aside(
        self: &Arc<Self>,
        data: Value,
    ) -> Result<Vec<FieldError>, JoinError> {
        if !self.is_heavy(&data) {
            return Ok(self.faults(&data));
        }
        // Whoever gives up waiting for the answer does not end the check: it keeps its turn. Nobody closes
        // the semaphore.
        let turn = AT_ONCE.acquire().await.ok();
        let schema = Arc::clone(self);
        spawn_blocking(move || {
            let _turn = turn;
            schema.faults(&data)
        })
        .await
    }

    fn is_heavy(&self, data: &Value) -> bool {
        values(data).saturating_mul(self.weight) > LIGHT
    }
}

/// How many values there are in one, itself included.
fn values(data: &Value) -> usize {
    match data {
        Value::Array(items) => 1 + items.iter().map(values).sum::<usize>(),
        Value::Object(members) => 1 + members.values().map(values).sum::<usize>(),
        _ => 1,
    }
}

/// A mistake; one for each member where several are not as they should be.
fn faults_of(error: ValidationError<'_>) -> Vec<FieldError> {
    let at = error.instance_path().as_str();
    let of = |name: &str, detail: &str| {
        FieldError::new(format!("{at}{}", pointer_token(name)), "schema", detail)
    };
    match error.kind() {
        Kind::Required { property } => {
            vec![of(property.as_str().unwrap_or_default(), "must be there")]
        }
        Kind::AdditionalProperties { unexpected } | Kind::UnevaluatedProperties { unexpected } => {
            let unexpected = unexpected.iter().take(MAX_FAULTS);
            unexpected
                .map(|name| of(name, "must not be there"))
                .collect()
        }
        _ => vec![FieldError::new(at, "schema", told(&error))],
    }
}

/// What the library says, without the value that is wrong: it may be large, or somebody's secret.
fn told(error: &ValidationError<'_>) -> String {
    let told = error.masked().to_string();
    match told.char_indices().nth(LONGEST_DETAIL) {
        Some((end, _)) => format!("{}…", told.get(..end).unwrap_or_default()),
        None => told,
    }
}

/// How large a schema is with all that its references lead to.
#[derive(Debug, Clone, Copy)]
struct Size {
    weight: usize,
    depth: usize,
}

/// Measures a schema. What it weighs bounds what checking a single value costs: so no reference may lead
/// back to where it stands, and keywords that make the check go over their neighbours again count these
/// twice.
fn measure(schema: &Value) -> Result<Size, FieldError> {
    if let Some(draft) = schema.get("$schema") {
        let is_ours = draft.as_str().map(|name| name.trim_end_matches('#')) == Some(DRAFT);
        if !is_ours {
            return Err(FieldError::new(
                "/$schema",
                "invalid",
                format!("must be `{DRAFT}`"),
            ));
        }
    }
    let mut measure = Measure {
        root: schema,
        known: HashMap::new(),
    };
    measure.of(schema, 0)
}

struct Measure<'s> {
    root: &'s Value,
    /// What references lead to, by pointer; `None` while it is being measured.
    known: HashMap<&'s str, Option<Size>>,
}

impl<'s> Measure<'s> {
    /// The size of a value that stands `depth` levels below the root.
    fn of(&mut self, value: &'s Value, depth: usize) -> Result<Size, FieldError> {
        let mut size = Size {
            weight: 1,
            depth: 1,
        };
        if depth >= MAX_DEPTH {
            let detail = format!(
                "is nested more than {MAX_DEPTH} levels deep, counting what references lead to"
            );
            return Err(FieldError::new("", "too_deep", detail));
        }
        match value {
            Value::Array(items) => {
                for (index, item) in items.iter().enumerate() {
                    let part = self.of(item, depth + 1);
                    size.add(part.map_err(|fault| fault.under(&format!("/{index}")))?)?;
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
                        _ => self.of(member, depth + 1),
                    };
                    let mut part = part.map_err(|fault| fault.under(&pointer_token(name)))?;
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

    /// The size of what a reference leads to.
    fn target(&mut self, target: &'s str, depth: usize) -> Result<Size, FieldError> {
        let refused = |code, detail: &str| Err(FieldError::new("", code, detail));
        // What is written with a `%` could be read in two ways.
        let pointer = target
            .strip_prefix('#')
            .filter(|pointer| !pointer.contains('%'));
        let Some(pointer) = pointer else {
            return refused(
                "unsupported",
                "must be `#` and a JSON pointer into this schema: nothing else is fetched",
            );
        };
        let Some(value) = self.root.pointer(pointer) else {
            return refused("unknown", "leads to nothing in this schema");
        };
        let size = match self.known.get(pointer) {
            Some(None) => return refused("recursive", "leads back to where it stands"),
            Some(Some(size)) if depth + size.depth <= MAX_DEPTH => *size,
            _ => {
                self.known.insert(pointer, None);
                // A mistake in there is told of the reference that leads there.
                let measured = self.of(value, depth).map_err(|fault| FieldError {
                    pointer: String::new(),
                    ..fault
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
    /// Adds a part of what is measured.
    fn add(&mut self, part: Self) -> Result<(), FieldError> {
        self.weight += part.weight;
        self.depth = self.depth.max(part.depth + 1);
        if self.weight > MAX_WEIGHT {
            let detail = format!(
                "is too complex: at most {MAX_WEIGHT} values, with what references lead to counted each \
                 time, and a regular expression as {PATTERN_WEIGHT}"
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
        let fault = Schema::compile(schema).map(drop).unwrap_err();
        (fault.pointer, fault.code)
    }

    #[test]
    fn a_schema_whose_references_multiply_is_refused() {
        // Each definition leads twice to the next one: 2^20 at the end.
        let mut schema = json!({"$ref": "#/$defs/0", "$defs": {"20": {}}});
        for level in 0..20 {
            let next = json!({"$ref": format!("#/$defs/{}", level + 1)});
            schema["$defs"][level.to_string()] = json!({"allOf": [next, next]});
        }
        assert_eq!(refused(&schema).1, "too_complex");
    }

    #[test]
    fn a_schema_whose_keywords_go_over_their_neighbours_again_is_refused() {
        let mut schema = json!({});
        for _ in 0..30 {
            schema = json!({"unevaluatedProperties": false, "allOf": [schema]});
        }
        assert_eq!(refused(&schema).1, "too_complex");
    }

    #[test]
    fn a_schema_full_of_expressions_is_refused() {
        let patterns: serde_json::Map<String, Value> =
            (0..60).map(|n| (format!("^{n}"), json!(true))).collect();
        let schema = json!({"patternProperties": patterns});
        assert_eq!(refused(&schema).1, "too_complex");
        let large = json!({"pattern": r"^(\p{L}{100}){100}$"});
        assert_eq!(refused(&large), ("/pattern".to_owned(), "invalid"));
    }

    #[test]
    fn a_schema_that_nests_too_deep_is_refused_though_it_does_so_by_references() {
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
    fn a_reference_leads_nowhere_but_into_the_schema() {
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
    async fn of_many_mistakes_twenty_are_told_and_of_too_many_that_there_are_some() {
        let schema = Schema::compile(&json!({"items": {"type": "string"}})).unwrap();
        let schema = Arc::new(schema);
        let few: Vec<u32> = (0..100).collect();
        let faults = schema.faults_aside(json!(few)).await.unwrap();
        let pointers: Vec<&str> = faults.iter().map(|fault| fault.pointer.as_str()).collect();
        assert_eq!(pointers.len(), 20);
        assert_eq!((pointers[0], pointers[19]), ("/0", "/19"));
        let many: Vec<u32> = (0..100_000).collect();
        let faults = schema.faults_aside(json!(many)).await.unwrap();
        assert_eq!(faults.len(), 1);
        assert_eq!(faults[0].pointer, "");
    }

    #[test]
    fn an_expression_takes_no_longer_than_its_text() {
        // An engine that backtracks does not come back from this.
        let schema = Schema::compile(&json!({"pattern": "^(a+)+$"})).unwrap();
        let text = format!("{}!", "a".repeat(50_000));
        assert_eq!(schema.faults(&json!(text)).len(), 1);
    }
}
