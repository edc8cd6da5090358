//! The catalogue of kinds, one line for each.
//!
//! A new kind is one file in `kinds/` of its domain and one line in [`KINDS`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use harkara_platform::kinds as platform;
use harkara_queue::job::JobError;
use harkara_queue::{Handler, Run, Verdict};
use harkara_webhooks::kinds as webhooks;

pub use crate::kind::Kind;
use crate::services::Services;

/// All kinds, in the order of their names.
pub const KINDS: &[Kind] = &[
    Kind::of::<platform::audit_anchor::AuditAnchor>(),
    Kind::of::<platform::http_request::HttpRequest>(),
    Kind::of::<platform::maintenance_access_expiry::MaintenanceAccessExpiry>(),
    Kind::of::<platform::maintenance_retention::Retention>(),
    Kind::of::<platform::maintenance_usage_reset::MaintenanceUsageReset>(),
    Kind::of::<platform::retry_redrive::RetryRedrive>(),
    Kind::of::<platform::tenant_erase::TenantErase>(),
    Kind::of::<webhooks::webhook_deliver::WebhookDeliver>(),
    Kind::of::<webhooks::webhook_recover::WebhookRecover>(),
];

/// Finds a kind by name.
#[must_use]
pub fn find(name: &str) -> Option<&'static Kind> {
    KINDS.iter().find(|kind| kind.name == name)
}

/// The handler of a worker: runs each job with the kind of its name.
#[derive(Debug, Clone)]
pub struct Catalogue(Arc<Services>);

impl Catalogue {
    /// A catalogue whose handlers use `services`.
    #[must_use]
    pub fn new(services: Arc<Services>) -> Self {
        Self(services)
    }
}

impl Handler for Catalogue {
    fn run(&self, run: Run) -> Pin<Box<dyn Future<Output = Verdict> + Send>> {
        match find(&run.job.kind) {
            Some(kind) => kind.run(run, Arc::clone(&self.0)),
            // While a release rolls out, an older worker can claim a job of a newer kind: not a failure.
            None => {
                let reason = JobError::new(
                    "unknown_kind",
                    format!("this worker's release has no kind `{}`", run.job.kind),
                );
                let verdict = Verdict::Snooze {
                    wait: Duration::from_secs(30),
                    reason,
                };
                Box::pin(std::future::ready(verdict))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use harkara_shared::config::Settings;
    use serde_json::value::RawValue;

    use super::*;

    #[test]
    fn kinds_are_unique_and_sorted_by_name() {
        let names: Vec<&str> = KINDS.iter().map(|kind| kind.name).collect();
        let sorted: BTreeSet<&str> = names.iter().copied().collect();
        assert_eq!(names, sorted.into_iter().collect::<Vec<_>>());
    }

    #[test]
    fn every_kind_is_listed_in_the_catalogue() {
        let domains = Path::new(env!("CARGO_MANIFEST_DIR"));
        let mut files = Vec::new();
        for domain in std::fs::read_dir(domains).unwrap() {
            let domain = domain.unwrap().path();
            let Ok(kinds) = std::fs::read_dir(domain.join("src/kinds")) else {
                continue;
            };
            let domain = domain.file_name().unwrap().to_str().unwrap().to_owned();
            files.extend(kinds.map(|kind| (domain.clone(), kind.unwrap().path())));
        }
        assert!(
            files.len() > KINDS.len(),
            "each domain has a `mod.rs` beside the files of its kinds"
        );
        for (domain, path) in files {
            let stem = path.file_stem().unwrap().to_str().unwrap();
            if stem == "mod" {
                continue;
            }
            let name = stem.replacen('_', ".", 1);
            let kind: String = stem
                .split('_')
                .map(|word| {
                    let (first, rest) = word.split_at(1);
                    format!("{}{rest}", first.to_uppercase())
                })
                .collect();
            assert!(
                find(&name).is_some(),
                "KINDS lacks the line\n    Kind::of::<{domain}::{stem}::{kind}>(),"
            );
        }
    }

    #[test]
    fn default_worker_serves_the_queue_of_every_kind() {
        let settings = Settings::read(Default::default(), &[]).unwrap();
        for kind in KINDS {
            let served = settings
                .worker_queues
                .iter()
                .any(|queue| queue.queue == kind.queue);
            assert!(
                served,
                "no worker serves `{}`, the queue of {}",
                kind.queue, kind.name
            );
        }
    }

    #[test]
    fn defaults_of_kinds_are_valid() {
        for kind in KINDS {
            assert!(kind.max_attempts >= 1, "{}", kind.name);
            assert!(!kind.timeout.is_zero(), "{}", kind.name);
            assert_eq!(kind.backoff().validate(), Ok(()), "{}", kind.name);
        }
    }

    #[test]
    fn payload_of_the_wrong_shape_has_a_pointer() {
        let kind = find("http.request").unwrap();
        let errors = |text: &str| kind.check(&RawValue::from_string(text.to_owned()).unwrap());
        assert_eq!(errors(r#"{"url": "https://example.com"}"#), []);
        let wrong_type = errors(r#"{"url": "https://example.com", "headers": {"a": 1}}"#);
        assert_eq!(wrong_type.first().unwrap().pointer, "/headers/a");
        let unknown = errors(r#"{"uri": "https://example.com"}"#);
        let unknown = unknown.first().unwrap();
        assert_eq!(
            (unknown.pointer.as_str(), unknown.code),
            ("/uri", "unknown_field")
        );
    }
}
