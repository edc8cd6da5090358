//! Validates the members of a job, each against its own rule.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use harkara_jobs::catalogue::{self, KINDS, Kind};
use harkara_queue::job::{MAX_PAYLOAD_BYTES, Unique};
use harkara_shared::backoff::{Backoff, Jitter};
use harkara_shared::config::{QUEUE_NAME_RULE, is_queue_name};
use harkara_shared::duration::HumanDuration;
use serde_json::value::RawValue;

use super::{BackoffRequest, EnqueueContext, MAX_RUN_AT_AHEAD, read_run_at};
use crate::field_errors::FieldErrors;
use crate::json;
use crate::time::Timestamp;

/// Maximum number of tags of a job.
pub(super) const MAX_TAGS: usize = 20;

/// Maximum length of a tag in characters.
pub(super) const MAX_TAG_CHARS: usize = 64;

/// Maximum length of a unique key in characters.
pub(super) const MAX_UNIQUE_KEY_CHARS: usize = 256;

/// Validates the members of a job. The value returned for an invalid member is unspecified.
pub(super) struct JobReader<'a> {
    pub(super) prefix: &'a str,
    pub(super) context: &'a EnqueueContext,
    pub(super) errors: &'a mut FieldErrors,
}

impl JobReader<'_> {
    pub(super) fn error(&mut self, pointer: &str, code: &'static str, detail: impl Into<String>) {
        self.errors.add(self.prefix, pointer, code, detail);
    }

    pub(super) fn kind(&mut self, name: Option<&str>) -> Option<&'static Kind> {
        let Some(name) = name else {
            self.error("/kind", "missing", "is required");
            return None;
        };
        let is_open = |kind: &&Kind| self.context.is_platform || !kind.platform_only;
        let found = catalogue::find(name).filter(is_open);
        if found.is_none() {
            let known: Vec<&str> = KINDS.iter().filter(is_open).map(|kind| kind.name).collect();
            let detail = format!("must be the name of a kind: {}", known.join(", "));
            self.error("/kind", "unknown_kind", detail);
        }
        found
    }

    pub(super) fn payload(
        &mut self,
        payload: Option<Box<RawValue>>,
        kind: Option<&Kind>,
    ) -> Option<Box<RawValue>> {
        let Some(payload) = payload else {
            self.error("/payload", "missing", "is required");
            return None;
        };
        if !json::is_object(payload.get()) {
            self.error("/payload", "invalid", "must be an object");
        } else if payload.get().len() > MAX_PAYLOAD_BYTES {
            let found = payload.get().len();
            let detail = format!("must be at most 256 KiB of JSON, got {found} bytes");
            self.error("/payload", "too_large", detail);
        } else if let Some(kind) = kind {
            self.errors
                .extend(&format!("{}/payload", self.prefix), kind.check(&payload));
        }
        Some(payload)
    }

    /// Returns when the job is due, and its delay after the enqueue, which the database's clock adds.
    pub(super) fn due(
        &mut self,
        run_at: Option<Timestamp>,
        delay: Option<HumanDuration>,
    ) -> (Option<DateTime<Utc>>, Duration) {
        let now = self.context.now;
        let horizon = now.checked_add_months(MAX_RUN_AT_AHEAD).unwrap_or(now);
        if run_at.is_some() && delay.is_some() {
            self.error("/delay", "exclusive", "cannot be combined with `run_at`");
        }
        let run_at = read_run_at(run_at, now, self.prefix, self.errors);
        let delay = delay.map(|delay| delay.0).unwrap_or_default();
        if delay > (horizon - now).to_std().unwrap_or_default() {
            self.error("/delay", "out_of_range", "must be at most ten years");
        }
        (run_at, delay)
    }

    /// Returns the time by which the job must have started.
    pub(super) fn expiry(
        &mut self,
        given: Option<Timestamp>,
        run_at: Option<DateTime<Utc>>,
        delay: Duration,
    ) -> Option<DateTime<Utc>> {
        let Timestamp(moment) = given?;
        let now = self.context.now;
        let due = run_at
            .unwrap_or(now)
            .checked_add_signed(TimeDelta::from_std(delay).unwrap_or_default())
            .unwrap_or(now);
        if moment <= now {
            self.error("/expires_at", "out_of_range", "must be in the future");
        } else if moment <= due {
            let detail = "must be later than the job's due time";
            self.error("/expires_at", "out_of_range", detail);
        }
        Some(moment)
    }

    pub(super) fn queue(&mut self, name: Option<String>) -> Option<String> {
        if name.as_deref().is_some_and(|name| !is_queue_name(name)) {
            self.error(
                "/queue",
                "invalid",
                format!("is not a queue name: {QUEUE_NAME_RULE}"),
            );
        }
        name
    }

    pub(super) fn number(
        &mut self,
        pointer: &str,
        given: Option<i64>,
        min: u8,
        max: u8,
    ) -> Option<u8> {
        let given = given?;
        let valid = u8::try_from(given)
            .ok()
            .filter(|number| (min..=max).contains(number));
        if valid.is_none() {
            let detail = format!("must be between {min} and {max}, got {given}");
            self.error(pointer, "out_of_range", detail);
        }
        valid
    }

    pub(super) fn timeout(&mut self, given: Option<HumanDuration>) -> Option<Duration> {
        let (min, max) = (
            Duration::from_millis(100),
            Duration::from_secs(24 * 60 * 60),
        );
        let HumanDuration(timeout) = given?;
        if !(min..=max).contains(&timeout) {
            self.error(
                "/timeout",
                "out_of_range",
                "must be between `100ms` and `24h`",
            );
        }
        Some(timeout)
    }

    pub(super) fn backoff(
        &mut self,
        given: Option<&RawValue>,
        kind: Option<&Kind>,
    ) -> Option<Backoff> {
        let prefix = format!("{}/backoff", self.prefix);
        let request: BackoffRequest = json::decode(given?.get(), &prefix, self.errors)?;
        let default = kind.map_or_else(Backoff::default, Kind::backoff);
        let or = |given: Option<HumanDuration>, default| given.map_or(default, Duration::from);
        let backoff = Backoff {
            base: or(request.base, default.base),
            factor: request.factor.unwrap_or(default.factor),
            max: or(request.max, default.max),
            jitter: request.jitter.map_or(default.jitter, Jitter::from),
        };
        if let Err(breaches) = backoff.validate() {
            for (field, detail) in breaches {
                self.error(&format!("/backoff/{field}"), "out_of_range", detail);
            }
        }
        Some(backoff)
    }

    pub(super) fn unique(
        &mut self,
        key: Option<String>,
        hold: Option<HumanDuration>,
    ) -> Option<Unique> {
        let day = 24 * 60 * 60;
        let (min, max) = (Duration::from_secs(1), Duration::from_secs(366 * day));
        if hold.is_some_and(|hold| !(min..=max).contains(&hold.0)) {
            self.error(
                "/unique_for",
                "out_of_range",
                "must be between `1s` and `366d`",
            );
        }
        let Some(key) = key else {
            if hold.is_some() {
                self.error("/unique_for", "needs_unique_key", "requires `unique_key`");
            }
            return None;
        };
        if !(1..=MAX_UNIQUE_KEY_CHARS).contains(&key.chars().count()) {
            self.error(
                "/unique_key",
                "length",
                format!("must have 1 to {MAX_UNIQUE_KEY_CHARS} characters"),
            );
        }
        Some(Unique {
            key,
            hold: hold.map(Duration::from),
        })
    }

    pub(super) fn tags(&mut self, tags: Option<Vec<String>>) -> Vec<String> {
        let tags = tags.unwrap_or_default();
        if tags.len() > MAX_TAGS {
            self.error(
                "/tags",
                "too_many",
                format!("must have at most {MAX_TAGS} items"),
            );
            return tags;
        }
        let mut seen = HashSet::new();
        for (index, tag) in tags.iter().enumerate() {
            let pointer = format!("/tags/{index}");
            if !(1..=MAX_TAG_CHARS).contains(&tag.chars().count()) {
                self.error(
                    &pointer,
                    "length",
                    format!("must have 1 to {MAX_TAG_CHARS} characters"),
                );
            } else if !seen.insert(tag.as_str()) {
                self.error(&pointer, "duplicate", "duplicate value");
            }
        }
        tags
    }
}
