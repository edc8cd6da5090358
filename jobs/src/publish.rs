//! Publishes the catalogue of kinds in the database, for applications that enqueue by SQL.
//!
//! A catalogue published by a newer release is never overwritten.

use harkara_queue::{Engine, Error};
use harkara_shared::backoff::Backoff;
use harkara_shared::duration::milliseconds;
use serde_json::{Value, json};

use crate::catalogue::{KINDS, Kind};

/// Version of the published catalogue, raised with every change except of descriptions: while a release rolls out, the
/// newer catalogue wins. A test fails when it must be raised.
pub const VERSION: i32 = 5;

/// Publishes the kinds, and whether workers are woken by notifications. Writes nothing if the same is already published.
/// Returns whether it wrote.
///
/// # Errors
/// When the database refuses.
pub async fn publish(engine: &Engine) -> Result<bool, Error> {
    engine.publish_catalogue(VERSION, &kinds()).await
}

/// The rows of `queue.catalogue`.
fn kinds() -> Value {
    KINDS.iter().map(row).collect()
}

fn row(kind: &Kind) -> Value {
    let backoff = kind.backoff();
    json!({
        "kind": kind.name,
        "queue": kind.queue,
        "max_attempts": kind.max_attempts,
        "timeout_ms": milliseconds(kind.timeout),
        "backoff": (backoff != Backoff::default()).then_some(backoff),
        "platform_only": kind.platform_only,
        "shape": kind.shape(),
        "rules": kind.rules(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Removes the descriptions of members: no application depends on them.
    fn without_descriptions(mut value: Value) -> Value {
        match &mut value {
            Value::Array(items) => {
                for item in items {
                    *item = without_descriptions(item.take());
                }
            }
            Value::Object(members) => {
                // A member of a payload can itself be called `description`: its schema is an object.
                members.retain(|name, member| name != "description" || !member.is_string());
                for member in members.values_mut() {
                    *member = without_descriptions(member.take());
                }
            }
            _ => {}
        }
        value
    }

    #[test]
    fn changed_catalogue_has_a_new_version() {
        let text = without_descriptions(kinds()).to_string();
        // FNV-1a: stable across platforms and releases.
        let digest = text
            .bytes()
            .fold(0xcbf2_9ce4_8422_2325_u64, |digest, byte| {
                (digest ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
            });
        assert_eq!(
            (VERSION, digest),
            (5, 11_687_991_304_928_689_353),
            "the catalogue has changed: raise VERSION, and set both numbers here to the left side"
        );
    }

    #[test]
    fn every_shape_is_readable_by_the_database() {
        for kind in KINDS {
            let shape = kind.shape();
            assert_eq!(shape["type"], "object", "{}", kind.name);
            assert_eq!(shape["additionalProperties"], false, "{}", kind.name);
            let text = shape.to_string();
            assert!(
                !text.contains("allOf"),
                "{}: a member that is inlined and has a comment gets two types: {text}",
                kind.name
            );
            assert!(
                !text.contains("$ref"),
                "{}: mark the member `#[schema(inline)]`, or give its `value_type`: {text}",
                kind.name
            );
        }
    }
}
