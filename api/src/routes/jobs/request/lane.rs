//! Reads the lane and the limits of a job.
//!
//! Validates the members `ordering_key` and `limits`. Never checks whether a limit exists.

use harkara_queue::job::{Lane, LimitUse, MAX_LIMITS};
use harkara_queue::settings::is_key;
use serde::Deserialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::reader::JobReader;
use crate::json;

/// Maximum cost of a start.
const MAX_LIMIT_COST: u16 = 1000;

/// Rule for the keys of lanes and limits, as shown in errors.
pub(crate) const KEY_RULE: &str = "must have 1 to 256 characters and no control characters";

/// A limit that applies to the job.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewLimitUse)]
pub(crate) struct LimitUseRequest {
    /// Key of the limit. A key without a configured limit is not limited.
    #[schema(value_type = String, required, nullable = false, min_length = 1, max_length = 256,
        example = "crm")]
    key: Option<String>,
    /// Number of starts that each start of the job counts as.
    #[schema(minimum = 1, maximum = 1000, default = 1)]
    cost: Option<i64>,
}

impl JobReader<'_> {
    pub(super) fn ordering_key(&mut self, key: Option<String>) -> Option<Lane> {
        let key = key?;
        if !is_key(&key) {
            self.error("/ordering_key", "invalid_key", KEY_RULE);
        }
        Some(Lane::Ordered(key))
    }

    pub(super) fn limits(&mut self, given: Option<Vec<Box<RawValue>>>) -> Vec<LimitUse> {
        let given = given.unwrap_or_default();
        if given.len() > MAX_LIMITS {
            self.error(
                "/limits",
                "too_many",
                format!("must have at most {MAX_LIMITS} items"),
            );
            return Vec::new();
        }
        let mut limits: Vec<LimitUse> = Vec::with_capacity(given.len());
        for (index, text) in given.iter().enumerate() {
            let pointer = format!("/limits/{index}");
            let prefix = format!("{}{pointer}", self.prefix);
            let Some(request) = json::decode::<LimitUseRequest>(text.get(), &prefix, self.errors)
            else {
                continue;
            };
            let key_pointer = format!("{pointer}/key");
            let key = match request.key {
                None => {
                    self.error(&key_pointer, "missing", "is required");
                    continue;
                }
                Some(key) => key,
            };
            if !is_key(&key) {
                self.error(&key_pointer, "invalid_key", KEY_RULE);
            } else if limits.iter().any(|limit| limit.key == key) {
                self.error(&key_pointer, "duplicate", "duplicate value");
            }
            let cost = request.cost.unwrap_or(1);
            let valid = u16::try_from(cost)
                .ok()
                .filter(|cost| (1..=MAX_LIMIT_COST).contains(cost));
            if valid.is_none() {
                let detail = format!("must be between 1 and {MAX_LIMIT_COST}, got {cost}");
                self.error(&format!("{pointer}/cost"), "out_of_range", detail);
            }
            limits.push(LimitUse {
                key,
                cost: valid.unwrap_or(1),
            });
        }
        limits
    }
}
