//! Checks the members of endpoints and events. Pure: it does not touch the database.

use std::collections::{BTreeMap, HashSet};

use harkara_kind::FieldError;
use harkara_kind::http_call::header_errors;
use harkara_shared::egress::{ClientIdentity, Egress};

use crate::credentials::{ClientCertificate, NewOAuth2};
use crate::subscription::is_event_type;

/// Maximum number of event type patterns of an endpoint.
const MAX_PATTERNS: usize = 100;
/// Maximum number of channels of an endpoint, or of an event.
const MAX_CHANNELS: usize = 10;
/// Maximum number of custom headers of an endpoint.
const MAX_HEADERS: usize = 20;
/// Maximum value of an endpoint's rate and concurrency.
const MAX_RATE: u32 = 1_000_000;

pub(super) fn url_errors(pointer: &str, url: &str, egress: &Egress) -> Vec<FieldError> {
    if url.len() > 2048 {
        let detail = "must be at most 2048 bytes long";
        return vec![FieldError::new(pointer, "too_long", detail)];
    }
    match egress.check(url) {
        Ok(()) => Vec::new(),
        Err(error) => vec![FieldError::new(pointer, error.code(), error.to_string())],
    }
}

pub(super) fn type_errors(patterns: &[String]) -> Vec<FieldError> {
    let mut errors = at_most("/event_types", patterns.len(), MAX_PATTERNS);
    for (index, pattern) in patterns.iter().enumerate() {
        let name = pattern.strip_suffix(".*").unwrap_or(pattern);
        if pattern != "*" && !is_event_type(name) {
            errors.push(FieldError::new(
                format!("/event_types/{index}"),
                "invalid",
                "must be an event type such as `invoice.paid`, a pattern such as `invoice.*`, or `*`",
            ));
        }
    }
    errors
}

pub(super) fn channel_errors(channels: &[String]) -> Vec<FieldError> {
    let mut errors = at_most("/channels", channels.len(), MAX_CHANNELS);
    let mut seen = HashSet::new();
    for (index, channel) in channels.iter().enumerate() {
        let pointer = format!("/channels/{index}");
        let fits = (1..=128).contains(&channel.len())
            && channel
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || "_-.:/".contains(c));
        if !fits {
            let detail = "must be 1 to 128 letters, digits and `_-.:/`";
            errors.push(FieldError::new(pointer, "invalid", detail));
        } else if !seen.insert(channel) {
            errors.push(FieldError::new(pointer, "repeated", "duplicate value"));
        }
    }
    errors
}

pub(super) fn endpoint_header_errors(headers: &BTreeMap<String, String>) -> Vec<FieldError> {
    let mut errors = header_errors(headers, &["webhook-", "content-type"]);
    errors.extend(at_most("/headers", headers.len(), MAX_HEADERS));
    errors
}

pub(super) fn description_errors(description: &str) -> Vec<FieldError> {
    if description.chars().count() > 500 || description.contains('\0') {
        let detail = "must be at most 500 characters, none of them NUL";
        return vec![FieldError::new("/description", "too_long", detail)];
    }
    Vec::new()
}

/// Checks a rate or a concurrency.
pub(super) fn limit_errors(name: &str, limit: u32) -> Vec<FieldError> {
    if (1..=MAX_RATE).contains(&limit) {
        return Vec::new();
    }
    let detail = format!("must be between 1 and {MAX_RATE}, got {limit}");
    vec![FieldError::new(format!("/{name}"), "out_of_range", detail)]
}

pub(super) fn certificate_errors(given: &ClientCertificate) -> Vec<FieldError> {
    match ClientIdentity::parse(&given.certificate, &given.private_key) {
        Ok(_) => Vec::new(),
        Err(error) => vec![FieldError::new(
            "/client_certificate",
            "invalid",
            error.to_string(),
        )],
    }
}

pub(super) fn oauth2_errors(given: &NewOAuth2, egress: &Egress) -> Vec<FieldError> {
    let mut errors = url_errors("/oauth2/token_url", &given.token_url, egress);
    let texts = [
        ("client_id", Some(&given.client_id), true),
        ("client_secret", Some(&given.client_secret), true),
        ("scope", given.scope.as_ref(), false),
        ("audience", given.audience.as_ref(), false),
    ];
    for (name, text, is_required) in texts {
        let Some(text) = text else { continue };
        if text.len() > 2048 || text.contains(char::is_control) || is_required && text.is_empty() {
            errors.push(FieldError::new(
                format!("/oauth2/{name}"),
                "invalid",
                "must be 1 to 2048 bytes of text without control characters",
            ));
        }
    }
    errors
}

fn at_most(pointer: &str, count: usize, max: usize) -> Vec<FieldError> {
    if count <= max {
        return Vec::new();
    }
    vec![FieldError::new(
        pointer,
        "too_many",
        format!("must have at most {max} items, got {count}"),
    )]
}
