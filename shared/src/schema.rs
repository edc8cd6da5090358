//! `OpenAPI` schemas of the types in this crate that are text in JSON.
//!
//! The pattern of an id or a duration belongs to its type: a member of that type needs no attribute.

use utoipa::openapi::RefOr;
use utoipa::openapi::schema::{ObjectBuilder, Schema, Type};

/// The digits of a `TypeID` after its underscore.
const TYPE_ID_DIGITS: &str = "[0-7][0-9a-hjkmnp-tv-z]{25}";

/// A duration. Every part is optional, but one must be present; see `crate::duration`.
const DURATION: &str = "^([0-9]{1,19}d)?([0-9]{1,19}h)?([0-9]{1,19}m)?([0-9]{1,19}s)?\
    ([0-9]{1,19}ms)?([0-9]{1,19}us)?([0-9]{1,19}ns)?$";

/// The schema of a text with this pattern.
#[must_use]
pub fn text(description: &str, pattern: &str, example: &str) -> ObjectBuilder {
    ObjectBuilder::new()
        .schema_type(Type::String)
        .description(Some(description))
        .pattern(Some(pattern))
        .examples([example])
}

/// The schema of a `TypeID` with this prefix.
#[must_use]
pub fn type_id(prefix: &str) -> RefOr<Schema> {
    let pattern = format!("^{prefix}_{TYPE_ID_DIGITS}$");
    let example = format!("{prefix}_01h455vb4pex5vsknk084sn02q");
    let description = format!("A TypeID with the prefix `{prefix}`.");
    text(&description, &pattern, &example).into()
}

/// The pattern of a `TypeID` with this prefix or a slug.
#[must_use]
pub fn slug_or_type_id(prefix: &str) -> String {
    format!("^([a-z0-9][a-z0-9-]{{0,62}}|{prefix}_{TYPE_ID_DIGITS})$")
}

/// The schema of a job's id as the platform writes it.
#[must_use]
pub fn job_id() -> RefOr<Schema> {
    let pattern = "^job_[0-9a-f][0-9a-hjkmnp-tv-z]{12}$";
    text("A job's id.", pattern, "job_0000000000500").into()
}

/// The schema of a duration.
#[must_use]
pub fn duration() -> RefOr<Schema> {
    let description = "A duration: one or more whole numbers with a unit of `d`, `h`, `m`, `s`, `ms`, \
        `us` or `ns`, coarse units first, as in `90s` or `1h30m`.";
    text(description, DURATION, "5m").min_length(Some(2)).into()
}
