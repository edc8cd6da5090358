//! Schemas of texts that the API's description distinguishes, although all are `String` in the code.
//!
//! Attributes name these types as `value_type`; they hold no data.

use std::borrow::Cow;

use harkara_shared::schema::{slug_or_type_id, text};
use utoipa::openapi::RefOr;
use utoipa::openapi::schema::Schema;
use utoipa::{PartialSchema, ToSchema};

/// A tenant's slug or id.
#[derive(Debug)]
pub(crate) enum TenantRef {}

impl PartialSchema for TenantRef {
    fn schema() -> RefOr<Schema> {
        let example = "ten_01h455vb4pex5vsknk084sn02q";
        text("A tenant's slug or id.", &slug_or_type_id("ten"), example).into()
    }
}

/// An event's id, which the publisher may choose.
#[derive(Debug)]
pub(crate) enum EventId {}

impl PartialSchema for EventId {
    fn schema() -> RefOr<Schema> {
        let description =
            "An event's id: chosen by the publisher, or a TypeID with the prefix `evt`.";
        let example = "evt_01h455vb4pex5vsknk084sn02q";
        text(description, "^[A-Za-z0-9_-]{1,64}$", example).into()
    }
}

impl ToSchema for EventId {
    fn name() -> Cow<'static, str> {
        Cow::Borrowed("EventId")
    }
}
