//! Limits in requests and responses.
//!
//! Validates the numbers of a body into a change of limits, and renders limits as JSON. Never changes
//! anything.

use std::time::Duration;

use harkara_queue::settings::{Change, Limit, LimitChange, MAX_LIMIT_VALUE, RATE_PERIODS};
use harkara_shared::duration::HumanDuration;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::field_errors::FieldErrors;

/// Maximum weight.
const MAX_WEIGHT: u16 = 1000;

/// Validates numbers against their ranges.
pub(super) struct NumberReader<'a> {
    /// JSON pointer of the object that contains the numbers.
    pub(super) prefix: &'a str,
    pub(super) errors: &'a mut FieldErrors,
}

impl NumberReader<'_> {
    /// Validates a number from 1 to `max`.
    pub(super) fn read(&mut self, name: &str, given: Change<i64>, max: u32) -> Change<u32> {
        let Change::Set(number) = given else {
            return given.map(|_| 0);
        };
        match u32::try_from(number) {
            Ok(number) if (1..=max).contains(&number) => Change::Set(number),
            _ => {
                let detail = format!("must be between 1 and {max}, got {number}");
                let pointer = format!("/{name}");
                self.errors
                    .add(self.prefix, &pointer, "out_of_range", detail);
                Change::Keep
            }
        }
    }

    pub(super) fn weight(&mut self, given: Change<i64>) -> Change<u16> {
        self.read("weight", given, MAX_WEIGHT.into())
            .map(|weight| u16::try_from(weight).unwrap_or(MAX_WEIGHT))
    }

    /// Validates a limit whose rate is counted per `per`.
    pub(super) fn limit(
        &mut self,
        (rate_name, rate): (&str, Change<i64>),
        per: Duration,
        burst: Change<i64>,
        max_running: Change<i64>,
    ) -> LimitChange {
        let rate = self.read(rate_name, rate, MAX_LIMIT_VALUE);
        LimitChange {
            rate,
            per: rate.value().map(|_| per),
            burst: self.read("burst", burst, MAX_LIMIT_VALUE),
            max_running: self.read("max_running", max_running, MAX_LIMIT_VALUE),
        }
    }
}

/// Changes of a named limit. Members that are omitted stay unchanged; null removes them.
#[derive(Debug, Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewLimit)]
pub(super) struct LimitRequest {
    /// Maximum number of starts per `per`. Null removes the rate together with `per` and `burst`.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000, example = 100)]
    #[serde(default)]
    rate: Change<i64>,
    /// Period of the rate, `1s` to `31d`. Required if the limit has no rate yet.
    per: Option<HumanDuration>,
    /// Maximum number of starts at once after idle time. Default: a tenth of the rate, at least 1. Null
    /// restores the default.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000, example = 10)]
    #[serde(default)]
    burst: Change<i64>,
    /// Maximum number of jobs running at once.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 1000000, example = 5)]
    #[serde(default)]
    max_running: Change<i64>,
}

impl LimitRequest {
    pub(super) fn read(self, prefix: &str, errors: &mut FieldErrors) -> LimitChange {
        let per = self.per.map(Duration::from);
        if per.is_some_and(|per| !RATE_PERIODS.contains(&per)) {
            errors.add(
                prefix,
                "/per",
                "out_of_range",
                "must be between `1s` and `31d`",
            );
        }
        let mut numbers = NumberReader { prefix, errors };
        LimitChange {
            rate: numbers.read("rate", self.rate, MAX_LIMIT_VALUE),
            per,
            burst: numbers.read("burst", self.burst, MAX_LIMIT_VALUE),
            max_running: numbers.read("max_running", self.max_running, MAX_LIMIT_VALUE),
        }
    }
}

/// A limit that jobs refer to by its key.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Limit)]
pub(super) struct LimitResponse {
    /// Maximum number of starts per `per`.
    #[schema(required, example = 100)]
    rate: Option<u32>,
    /// Period of the rate.
    #[schema(required)]
    per: Option<HumanDuration>,
    /// Maximum number of starts at once after idle time. At most `rate` + `burst` jobs start in any window
    /// of `per`.
    #[schema(required, example = 10)]
    burst: Option<u32>,
    /// Maximum number of jobs running at once.
    #[schema(required, example = 5)]
    max_running: Option<u32>,
    /// Number of jobs running now; null if `max_running` is null.
    #[schema(required, example = 3)]
    running: Option<u32>,
}

impl From<Limit> for LimitResponse {
    fn from(limit: Limit) -> Self {
        Self {
            rate: limit.rate.map(|rate| rate.count),
            per: limit.rate.map(|rate| rate.per.into()),
            burst: limit.rate.map(|rate| rate.burst),
            max_running: limit.max_running,
            running: limit.max_running.map(|_| limit.running),
        }
    }
}
