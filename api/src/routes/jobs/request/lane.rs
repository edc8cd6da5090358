//! Room: where a wanted job waits, and what it passes.
//! Takes: the members `ordering_key` and `limits`. Gives: its lane and its limits, or what is wrong
//! with them. Never: asks whether a limit has been set.

use harkara_queue::job::{Lane, LimitUse, MAX_LIMITS};
use harkara_queue::settings::is_key;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::Reader;
use crate::json;

/// Most starts that one start may count for.
const MAX_LIMIT_COST: u16 = 1000;

/// What a key of a lane or a limit must be.
pub(crate) const KEY_RULE: &str = "must have 1 to 256 characters, none of them a control character";

/// A limit that a job passes.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewLimitUse)]
pub(crate) struct LimitUseRequest {
    /// The limit's key. One that nobody has set lets everything through.
    #[schema(value_type = String, required, nullable = false, min_length = 1, max_length = 256,
        example = "crm")]
    key: Option<String>,
    /// How many starts one start counts for.
    #[schema(minimum = 1, maximum = 1000, default = 1)]
    cost: Option<i64>,
}

impl Reader<'_> {
    pub(super) fn ordering_key(&mut self, key: Option<String>) -> Option<Lane> {
        let key = key?;
        if !is_key(&key) {
            self.fault("/ordering_key", "invalid_key", KEY_RULE);
        }
        Some(Lane::Ordered(key))
    }

    pub(super) fn limits(&mut self, given: Option<Vec<Box<RawValue>>>) -> Vec<LimitUse> {
        let given = given.unwrap_or_default();
        if given.len() > MAX_LIMITS {
            self.fault(
                "/limits",
                "too_many",
                format!("must be at most {MAX_LIMITS}"),
            );
            return Vec::new();
        }
        let mut limits: Vec<LimitUse> = Vec::with_capacity(given.len());
        for (index, text) in given.iter().enumerate() {
            let pointer = format!("/limits/{index}");
            let prefix = format!("{}{pointer}", self.prefix);
            let Some(request) = json::decode::<LimitUseRequest>(text.get(), &prefix, self.faults)
            else {
                continue;
            };
            let key_pointer = format!("{pointer}/key");
            let key = match request.key {
                None => {
                    self.fault(&key_pointer, "missing", "must be there");
                    continue;
                }
                Some(key) => key,
            };
            if !is_key(&key) {
                self.fault(&key_pointer, "invalid_key", KEY_RULE);
            } else if limits.iter().any(|limit| limit.key == key) {
                self.fault(&key_pointer, "duplicate", "stands here twice");
            }
            let cost = request.cost.unwrap_or(1);
            let fits = u16::try_from(cost)
                .ok()
                .filter(|cost| (1..=MAX_LIMIT_COST).contains(cost));
            if fits.is_none() {
                let detail = format!("must be from 1 to {MAX_LIMIT_COST}, not {cost}");
                self.fault(&format!("{pointer}/cost"), "out_of_range", detail);
            }
            limits.push(LimitUse {
                key,
                cost: fits.unwrap_or(1),
            });
        }
        limits
    }
}
