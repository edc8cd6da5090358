//! Inspects waiting jobs.
//! Lists the waiting jobs of a kind with their decoded payloads.
//! Running and finished jobs are never included.

use std::fmt::Write;
use std::panic::Location;

use chrono::{DateTime, Utc};
use harkara_kind::JobKind;
use harkara_queue::job::{Job, JobState};
use harkara_queue::read::{self, JobFilter};
use harkara_shared::id::JobId;

use crate::Kit;

/// The maximum number of jobs read per kind and state.
const MAX_LISTED_JOBS: u32 = 10_000;

/// A waiting job.
#[derive(Debug, Clone)]
pub struct Waiting<A> {
    /// The job's id.
    pub id: JobId,
    /// The decoded payload.
    pub args: A,
    /// The name of its queue.
    pub queue: String,
    /// The priority, 0 (first) to 9 (last).
    pub priority: u8,
    /// The due time.
    pub due: DateTime<Utc>,
    /// The complete job.
    pub job: Job,
}

impl Kit {
    /// The tenant's waiting jobs of a kind, in the order of their enqueue.
    ///
    /// # Panics
    /// When a payload cannot be decoded.
    pub async fn enqueued<K: JobKind>(&self) -> Vec<Waiting<K::Args>> {
        let mut jobs = Vec::new();
        for state in [JobState::Scheduled, JobState::Ready] {
            let filter = JobFilter {
                state: Some(state),
                kind: Some(K::KIND.to_owned()),
                ..JobFilter::default()
            };
            let mut tx = self.tx().await;
            let mut below = None;
            loop {
                let found = read::list(&mut tx, self.tenant, &filter, below, MAX_LISTED_JOBS).await;
                let page = found.expect("a list of jobs");
                jobs.extend(page.jobs);
                below = page.next_before;
                if below.is_none() {
                    break;
                }
            }
        }
        jobs.sort_by_key(|job| (job.created_at, job.id));
        jobs.into_iter()
            .map(|job| Waiting {
                id: job.id,
                args: serde_json::from_str(job.payload.get()).unwrap_or_else(|error| {
                    panic!("{}: {error} in the payload {}", job.id, job.payload)
                }),
                queue: job.queue.clone(),
                priority: job.priority,
                due: job.run_at,
                job,
            })
            .collect()
    }

    /// Asserts that a job of the kind with a matching payload is waiting, and returns the first.
    ///
    /// # Panics
    /// When none matches, with the list of waiting jobs.
    #[track_caller]
    pub fn assert_enqueued<K: JobKind>(
        &self,
        is_wanted: impl Fn(&K::Args) -> bool,
    ) -> impl Future<Output = Waiting<K::Args>> {
        let caller = Location::caller();
        async move {
            let (expected, others): (Vec<_>, Vec<_>) = self
                .enqueued::<K>()
                .await
                .into_iter()
                .partition(|waiting| is_wanted(&waiting.args));
            match expected.into_iter().next() {
                Some(waiting) => waiting,
                None => panic!(
                    "{caller}: no matching job of {} is waiting; waiting jobs: {}",
                    K::KIND,
                    list(&others)
                ),
            }
        }
    }

    /// Asserts that no job of the kind is waiting.
    ///
    /// # Panics
    /// When some are, with the list of them.
    #[track_caller]
    pub fn refute_enqueued<K: JobKind>(&self) -> impl Future<Output = ()> {
        let caller = Location::caller();
        async move {
            let waiting = self.enqueued::<K>().await;
            assert!(
                waiting.is_empty(),
                "{caller}: expected no waiting job of {}; waiting jobs: {}",
                K::KIND,
                list(&waiting)
            );
        }
    }
}

fn list<A>(waiting: &[Waiting<A>]) -> String {
    if waiting.is_empty() {
        return "none".to_owned();
    }
    let mut text = String::new();
    for one in waiting {
        let (id, job) = (one.id, &one.job);
        let due = one.due.to_rfc3339();
        write!(
            text,
            "\n  {id} in `{}`, priority {}, due {due}: {}",
            one.queue, one.priority, job.payload
        )
        .expect("writing to a string");
    }
    text
}
