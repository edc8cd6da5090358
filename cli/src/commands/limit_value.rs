//! Values of limits on the command line, and how limits are printed.

use std::str::FromStr;

use harkara_queue::settings::{Change, Limit};
use harkara_shared::duration::HumanDuration;

/// A number from 1 to `MAX`, or `none` to remove the limit.
#[derive(Debug, Clone, Copy)]
pub(crate) struct NumberOrNone<const MAX: u32>(Change<u32>);

impl<const MAX: u32> FromStr for NumberOrNone<MAX> {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(Self(Change::Remove));
        }
        text.parse()
            .ok()
            .filter(|number| (1..=MAX).contains(number))
            .map(|number| Self(Change::Set(number)))
            .ok_or_else(|| format!("must be `none` or a number from 1 to {MAX}"))
    }
}

/// The change that an optional argument makes; an absent argument changes nothing.
pub(super) fn change<const MAX: u32>(value: Option<NumberOrNone<MAX>>) -> Change<u32> {
    value.map_or(Change::Keep, |value| value.0)
}

/// A limit in words: `100 in 1m with a burst of 10, 3 of 5 running`.
pub(super) fn describe(limit: &Limit) -> String {
    let rate = limit.rate.map(|rate| {
        let per = HumanDuration(rate.per);
        format!("{} in {per} with a burst of {}", rate.count, rate.burst)
    });
    let running = limit
        .max_running
        .map(|max| format!("{} of {max} running", limit.running));
    match (rate, running) {
        (None, None) => "no limit".to_owned(),
        (Some(one), None) | (None, Some(one)) => one,
        (Some(rate), Some(running)) => format!("{rate}, {running}"),
    }
}
