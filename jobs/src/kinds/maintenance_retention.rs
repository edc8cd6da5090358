//! Room: the kind `maintenance.retention`: forgets what is old.
//! Takes: nothing. Gives: how much was removed. Never: touches a job that has not finished.

use std::sync::Arc;
use std::time::Duration;

use harkara_queue::job::JobError;
use harkara_queue::{Error, Run, Verdict};
use serde::Deserialize;

use crate::catalogue::JobKind;
use crate::kinds::database_verdict;
use crate::services::Services;

/// - Changes: removes succeeded and cancelled jobs after 7 days, dead ones and attempts after 30.
/// - Twice: the second finds nothing left to remove.
/// - Calls: nobody.
/// - Dead: the tables grow until the next day's run; look at its error.
#[derive(Debug)]
pub struct Retention;

/// Payload of `maintenance.retention`: none.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Args {}

impl JobKind for Retention {
    const KIND: &'static str = "maintenance.retention";
    const QUEUE: &'static str = "maintenance";
    const MAX_ATTEMPTS: u16 = 5;
    const TIMEOUT: Duration = Duration::from_secs(30 * 60);
    const PLATFORM_ONLY: bool = true;
    type Args = Args;

    async fn run(_: Args, _: Run, services: Arc<Services>) -> Verdict {
        match services
            .engine
            .retain(harkara_queue::Retention::default())
            .await
        {
            Ok(removed) => Verdict::Done {
                result: serde_json::to_value(removed).ok(),
                then: Vec::new(),
            },
            Err(Error::Database(error)) => database_verdict(&error),
            Err(error) => Verdict::Retry {
                error: JobError::new("retention", error.to_string()),
                after: None,
            },
        }
    }
}
