//! Room: what waits in the queues.
//! Takes: a kind. Gives: its waiting jobs with their payloads as the handler will read them.
//! Never: shows a job that runs or has ended.

use std::fmt::Write;
use std::panic::Location;

use chrono::{DateTime, Utc};
use harkara_jobs::catalogue::JobKind;
use harkara_queue::job::{Job, JobState};
use harkara_queue::read::{self, JobFilter};
use harkara_shared::id::JobId;

use crate::Kit;

/// Most jobs of a kind and state that are looked at.
const MOST: u32 = 10_000;

/// A job that waits.
#[derive(Debug, Clone)]
pub struct Waiting<A> {
    /// Id.
    pub id: JobId,
    /// What its handler will be given.
    pub args: A,
    /// Queue.
    pub queue: String,
    /// 0 (first) to 9.
    pub priority: u8,
    /// When it is due.
    pub due: DateTime<Utc>,
    /// Everything else.
    pub job: Job,
}

impl Kit {
    /// The tenant's jobs of a kind that wait, the ones enqueued first before the others.
    ///
    /// # Panics
    /// When a payload is not one of the kind.
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
                let found = read::list(&mut tx, self.tenant, &filter, below, MOST).await;
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

    /// A job of the kind waits for which `is_wanted` says yes: the first of them.
    ///
    /// # Panics
    /// When there is none, with those that do wait.
    #[track_caller]
    pub fn assert_enqueued<K: JobKind>(
        &self,
        is_wanted: impl Fn(&K::Args) -> bool,
    ) -> impl Future<Output = Waiting<K::Args>> {
        let caller = Location::caller();
        async move {
            let (wanted, others): (Vec<_>, Vec<_>) = self
                .enqueued::<K>()
                .await
                .into_iter()
                .partition(|waiting| is_wanted(&waiting.args));
            match wanted.into_iter().next() {
                Some(waiting) => waiting,
                None => panic!(
                    "{caller}: no such job of {} waits, but {}",
                    K::KIND,
                    list(&others)
                ),
            }
        }
    }

    /// No job of the kind waits.
    ///
    /// # Panics
    /// When some do, with what they are.
    #[track_caller]
    pub fn refute_enqueued<K: JobKind>(&self) -> impl Future<Output = ()> {
        let caller = Location::caller();
        async move {
            let waiting = self.enqueued::<K>().await;
            assert!(
                waiting.is_empty(),
                "{caller}: no job of {} should wait, but {}",
                K::KIND,
                list(&waiting)
            );
        }
    }
}

fn list<A>(waiting: &[Waiting<A>]) -> String {
    let mut text = match waiting.len() {
        0 => "there is none".to_owned(),
        1 => "there is one:".to_owned(),
        many => format!("there are {many}:"),
    };
    for one in waiting {
        let (id, job) = (one.id, &one.job);
        let due = one.due.to_rfc3339();
        write!(
            text,
            "\n  {id} in `{}`, priority {}, due {due}: {}",
            one.queue, one.priority, job.payload
        )
        .expect("room in a string");
    }
    text
}
