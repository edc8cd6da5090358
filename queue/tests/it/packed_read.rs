//! Reads of jobs in every storage form: packing is never visible.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, Utc};
use harkara_queue::job::{AttemptOutcome, Job, JobState};
use harkara_queue::read::{self, JobFilter};
use harkara_shared::database::{TenantTx, query, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use serde_json::{Value, json};

use crate::packed::{BLOCK, at, job_id, left, merged, moment, row};
use crate::support::Fixture;

/// The expected result of reading a job.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Expected {
    state: JobState,
    kind: &'static str,
    queue: &'static str,
    created_at: DateTime<Utc>,
    run_at: DateTime<Utc>,
    finished_at: Option<DateTime<Utc>>,
    error_code: Option<&'static str>,
}

impl Expected {
    fn from_job(job: &Job) -> (i64, Self) {
        let word = |text: &str, words: &[&'static str]| {
            words.iter().copied().find(|word| *word == text).unwrap()
        };
        let id = job.id.as_i64();
        assert_eq!(
            job.payload.get(),
            id.to_string(),
            "each job must have its own body"
        );
        let from_job = Self {
            state: job.state,
            kind: word(&job.kind, &["test.job", "test.other"]),
            queue: word(&job.queue, &["default", "other"]),
            created_at: job.created_at,
            run_at: job.run_at,
            finished_at: job.finished_at,
            error_code: job.last_error.as_ref().map(|e| word(&e.code, &["bad"])),
        };
        (id, from_job)
    }

    pub(crate) fn matches(&self, filter: &JobFilter) -> bool {
        filter.state.is_none_or(|state| state == self.state)
            && filter.kind.as_deref().is_none_or(|kind| kind == self.kind)
            && filter
                .queue
                .as_deref()
                .is_none_or(|queue| queue == self.queue)
            && filter.created_after.is_none_or(|at| self.created_at >= at)
            && filter.created_before.is_none_or(|at| self.created_at < at)
            && (filter.error_code.as_deref()).is_none_or(|code| Some(code) == self.error_code)
    }
}

/// Randomly generated rows, and the jobs that reading them must return.
pub(crate) struct Made {
    rng: StdRng,
    pub(crate) rows: Vec<Value>,
    pub(crate) jobs: BTreeMap<i64, Expected>,
}

/// Columns that all rows of a parcel share.
#[derive(Clone, Copy)]
struct Shared {
    kind: i64,
    queue: i64,
    created: i64,
}

impl Made {
    pub(crate) fn new(seed: u64) -> Self {
        let mut made = Self {
            rng: StdRng::seed_from_u64(seed),
            rows: Vec::new(),
            jobs: BTreeMap::new(),
        };
        for block in 3..6 {
            let mut lone = Vec::new();
            for _ in 0..made.rng.random_range(4..9) {
                lone.push(block * BLOCK + made.rng.random_range(0..BLOCK));
            }
            lone.sort_unstable();
            lone.dedup();
            let mut merging = Vec::new();
            for parcel in lone {
                match made.rng.random_range(0..10) {
                    0..3 => made.add_single_parcel(parcel),
                    3..6 => made.packed(parcel),
                    _ => merging.push(parcel),
                }
            }
            while !merging.is_empty() {
                let of = made.rng.random_range(0..=merging.len());
                let group: Vec<i64> = merging.iter().copied().take(of.max(1)).collect();
                // Not only neighbours: the id ranges of rows overlap.
                let (into, rest) = merging
                    .iter()
                    .partition(|parcel| group.contains(parcel) != made.rng.random_bool(0.3));
                merging = rest;
                made.merged(into);
            }
        }
        made
    }

    fn state(&mut self, letters: &'static [&'static str]) -> &'static str {
        letters[self.rng.random_range(0..letters.len())]
    }

    fn shared(&mut self, parcel: i64) -> Shared {
        Shared {
            kind: self.rng.random_range(1..3),
            queue: self.rng.random_range(1..3),
            created: parcel + self.rng.random_range(0..100),
        }
    }

    fn request_stop(
        &mut self,
        job: i64,
        state: &str,
        shared: Shared,
        run: i64,
        finished: Option<i64>,
    ) {
        let expected = Expected {
            state: JobState::from_letter(state).unwrap(),
            kind: ["test.job", "test.other"][usize::try_from(shared.kind - 1).unwrap()],
            queue: ["default", "other"][usize::try_from(shared.queue - 1).unwrap()],
            created_at: moment(shared.created),
            run_at: moment(run),
            finished_at: finished.map(moment),
            error_code: None,
        };
        assert!(
            self.jobs.insert(job, expected).is_none(),
            "{job} was generated twice"
        );
    }

    /// A row of one job, at `part`.
    fn add_single(&mut self, job: i64, part: i64, shared: Shared) {
        let state = self.state(&["s", "a", "r", "d", "x", "c"]);
        let ended = matches!(state, "d" | "x" | "c");
        let (run, finished) = (shared.created + 10, ended.then_some(shared.created + 20));
        let failed = self.rng.random_bool(0.3);
        let more = json!({
            "kind": shared.kind, "queue": shared.queue, "created_at": moment(shared.created),
            "run_at": moment(run), "finished_at": finished.map(moment),
            "error_code": failed.then_some("bad"),
        });
        self.rows
            .push(row(job / 1024, part, job % 1024, 1, state, more));
        self.request_stop(job, state, shared, run, finished);
        if failed && let Some(expected) = self.jobs.get_mut(&job) {
            expected.error_code = Some("bad");
        }
    }

    fn add_single_parcel(&mut self, parcel: i64) {
        let shared = self.shared(parcel);
        self.add_single(at(parcel, 0), 0, shared);
    }

    /// The members of 1 ..= n that have left, and those that are acknowledged.
    fn fates(&mut self, n: i64, state: &str) -> (Vec<i64>, Vec<i64>) {
        let (mut gone, mut acked) = (Vec::new(), Vec::new());
        for i in 1..=n {
            match self.rng.random_range(0..4) {
                0 => gone.push(i),
                1 if matches!(state, "r" | "d") => acked.push(i),
                _ => {}
            }
        }
        (gone, acked)
    }

    /// A parcel of several jobs in one or several pieces; some members have left.
    fn packed(&mut self, parcel: i64) {
        let shared = self.shared(parcel);
        let (mut lo, end) = (0, self.rng.random_range(2..9));
        while lo < end {
            let n = self.rng.random_range(1..=end - lo);
            let part = if lo == 0 { 0 } else { lo + 1 };
            let state = self.state(&["s", "a", "r", "d"]);
            let (gone, acked) = self.fates(n, state);
            let emptied = gone.len() == usize::try_from(n).unwrap();
            let state = if emptied { "d" } else { state };
            let finished = (state == "d").then_some(shared.created + 30);
            let more = json!({
                "kind": shared.kind, "queue": shared.queue,
                "created_at": moment(shared.created), "run_at": moment(shared.created + 5),
                "finished_at": finished.map(moment),
                "gone": (!gone.is_empty()).then_some(&gone),
                "acked": (!acked.is_empty()).then_some(&acked),
                "acked_at": acked.iter().map(|i| moment(shared.created + 6 + i)).collect::<Vec<_>>(),
            });
            let mut written = row(parcel, part, lo, n, state, more);
            if emptied {
                written["n"] = json!(1);
                written["body"] = json!([]);
            }
            self.rows.push(written);
            for i in 1..=n {
                let job = at(parcel, lo + i - 1);
                if gone.contains(&i) {
                    self.add_single(job, -(lo + i - 1) - 1, shared);
                } else if acked.contains(&i) {
                    self.request_stop(
                        job,
                        "d",
                        shared,
                        shared.created + 5,
                        Some(shared.created + 6 + i),
                    );
                } else {
                    self.request_stop(job, state, shared, shared.created + 5, finished);
                }
            }
            lo += n;
        }
    }

    /// One row merged from parcels of one job each.
    fn merged(&mut self, parcels: Vec<i64>) {
        let Some(first) = parcels.first().copied() else {
            return;
        };
        let shared = self.shared(first);
        let n = i64::try_from(parcels.len()).unwrap();
        let state = self.state(&["r", "d"]);
        let (gone, acked) = self.fates(n, state);
        let (started, finished) = (
            shared.created,
            (state == "d").then_some(shared.created + 40),
        );
        let own: Vec<Option<i64>> = parcels
            .iter()
            .map(|parcel| self.rng.random_bool(0.5).then_some(parcel + 3))
            .collect();
        let due: Vec<Option<i64>> = parcels
            .iter()
            .map(|parcel| self.rng.random_bool(0.5).then_some(parcel + 7))
            .collect();
        let more = json!({
            "kind": shared.kind, "queue": shared.queue,
            "created_at": moment(shared.created), "run_at": moment(0),
            "finished_at": finished.map(moment),
            "created": own.iter().map(|at| at.map(moment)).collect::<Vec<_>>(),
            "due": due.iter().map(|at| at.map(moment)).collect::<Vec<_>>(),
            "gone": (!gone.is_empty()).then_some(&gone),
            "acked": (!acked.is_empty()).then_some(&acked),
            "acked_at": acked.iter().map(|i| moment(shared.created + 6 + i)).collect::<Vec<_>>(),
        });
        let jobs: Vec<i64> = parcels.iter().map(|parcel| at(*parcel, 0)).collect();
        let mut written = merged(&jobs, state, more);
        if gone.len() == jobs.len() {
            written["n"] = json!(1);
            written["body"] = json!([]);
            written["state"] = json!("d");
            written["finished_at"] = json!(moment(0));
        }
        self.rows.push(written);
        for ((i, job), (own, due)) in (1..).zip(jobs).zip(own.into_iter().zip(due)) {
            let shared = Shared {
                created: own.unwrap_or(shared.created),
                ..shared
            };
            let run = due.unwrap_or(shared.created);
            if gone.contains(&i) {
                self.add_single(job, -1, shared);
            } else if acked.contains(&i) {
                self.request_stop(job, "d", shared, run, Some(started + 6 + i));
            } else {
                self.request_stop(job, state, shared, run, finished);
            }
        }
    }
}

async fn scan(fixture: &Fixture, tenant: TenantId, filter: &JobFilter, size: u32) -> Vec<i64> {
    let mut tx = TenantTx::begin(&fixture.pool(), tenant).await.unwrap();
    let mut from_job = Vec::new();
    let mut before: Option<JobId> = None;
    loop {
        let page = read::list(&mut tx, tenant, filter, before, size)
            .await
            .unwrap();
        from_job.extend(page.jobs.iter().map(|job| job.id.as_i64()));
        before = page.next_before;
        if before.is_none() {
            return from_job;
        }
    }
}

pub(crate) fn filters() -> Vec<JobFilter> {
    let none = JobFilter::default;
    let mut filters: Vec<JobFilter> = JobState::ALL
        .into_iter()
        .map(|state| JobFilter {
            state: Some(state),
            ..none()
        })
        .collect();
    filters.extend([
        none(),
        JobFilter {
            kind: Some("test.other".to_owned()),
            ..none()
        },
        JobFilter {
            queue: Some("other".to_owned()),
            state: Some(JobState::Succeeded),
            ..none()
        },
        JobFilter {
            created_after: Some(moment(4 * BLOCK + 500)),
            ..none()
        },
        JobFilter {
            created_before: Some(moment(4 * BLOCK + 500)),
            state: Some(JobState::Running),
            ..none()
        },
        JobFilter {
            created_after: Some(moment(3 * BLOCK + 500)),
            created_before: Some(moment(5 * BLOCK + 500)),
            kind: Some("test.job".to_owned()),
            ..none()
        },
        JobFilter {
            error_code: Some("bad".to_owned()),
            ..none()
        },
        JobFilter {
            kind: Some("test.unknown".to_owned()),
            ..none()
        },
    ]);
    filters
}

#[tokio::test]
async fn pages_show_every_job_once_newest_first_in_every_row_layout() {
    let fixture = Fixture::new().await;
    for seed in 0..25 {
        let made = Made::new(seed);
        // In one table, with interleaved ids.
        let tenant = TenantId::new();
        fixture.put_for(tenant, &made.rows).await;
        for (nth, filter) in filters().into_iter().enumerate() {
            let expected: Vec<i64> = made
                .jobs
                .iter()
                .rev()
                .filter(|(_, expected)| expected.matches(&filter))
                .map(|(job, _)| *job)
                .collect();
            for size in [[1, 50], [2, 5], [3, 7]][(nth + usize::try_from(seed).unwrap()) % 3] {
                let from_job = scan(&fixture, tenant, &filter, size).await;
                assert_eq!(
                    from_job, expected,
                    "seed {seed}, pages of {size}, {filter:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn jobs_read_the_same_in_every_storage_form() {
    let fixture = Fixture::new().await;
    for seed in 100..125 {
        let made = Made::new(seed);
        let tenant = TenantId::new();
        fixture.put_for(tenant, &made.rows).await;
        let mut tx = TenantTx::begin(&fixture.pool(), tenant).await.unwrap();
        // Ids on either side are read too, and those around merged rows.
        let ids: BTreeSet<i64> = made
            .jobs
            .keys()
            .flat_map(|job| [job - 1, *job, job + 1, job + 2, job + 1024])
            .collect();
        let ids: Vec<JobId> = ids.into_iter().map(job_id).collect();
        let read = read::jobs(&mut tx, &ids).await.unwrap();
        assert_eq!(read.len(), made.jobs.len(), "seed {seed}");
        let from_job: BTreeMap<i64, Expected> = read.iter().map(Expected::from_job).collect();
        assert_eq!(from_job, made.jobs, "seed {seed}");
        for id in ids.iter().take(40) {
            let one = read::job(&mut tx, *id).await.unwrap();
            let one = one.as_ref().map(Expected::from_job).map(|(_, job)| job);
            assert_eq!(one.as_ref(), made.jobs.get(&id.as_i64()), "seed {seed}");
        }
        let runs = read::attempts(&mut tx, ids[1]).await.unwrap();
        assert_eq!(runs.is_some(), made.jobs.contains_key(&ids[1].as_i64()));
    }
}

#[tokio::test]
async fn impossible_job_ids_are_not_found() {
    let fixture = Fixture::new().await;
    fixture.put(&[row(7, 0, 0, 3, "a", json!({}))]).await;
    let mut tx = fixture.tx().await;
    for id in [
        0,
        -1,
        i64::MIN,
        i64::MAX,
        at(7, 3),
        at(7, 1023),
        at(6, 0),
        at(8, 0),
    ] {
        assert!(
            read::job(&mut tx, job_id(id)).await.unwrap().is_none(),
            "{id}"
        );
        assert!(read::attempts(&mut tx, job_id(id)).await.unwrap().is_none());
    }
    let twice = read::jobs(&mut tx, &[job_id(at(7, 1)), job_id(at(7, 1))]).await;
    assert_eq!(twice.unwrap().len(), 1);
}

#[tokio::test]
async fn pages_are_filtered_by_labels() {
    let fixture = Fixture::new().await;
    let made = Made::new(7);
    fixture.put(&made.rows).await;
    let mut filter = JobFilter {
        tag: Some("red".to_owned()),
        ..JobFilter::default()
    };
    let mut red = Vec::new();
    for (nth, job) in made.jobs.keys().enumerate() {
        if nth % 3 == 0 {
            continue;
        }
        red.push(*job);
        query(
            "insert into queue.labels (tenant, name, value, job_id)
             select number, unnest(array['tag', 'ordering_key']),
                unnest(array['red', case when $2 then 'first' else 'second' end]), $1
             from queue.tenants",
        )
        .bind(job)
        .bind(nth % 2 == 0)
        .execute(&fixture.pool())
        .await
        .unwrap();
    }
    red.reverse();
    for size in [1, 2, 100] {
        assert_eq!(scan(&fixture, fixture.tenant, &filter, size).await, red);
    }
    for state in JobState::ALL {
        let of_state = JobFilter {
            state: Some(state),
            ..filter.clone()
        };
        let expected: Vec<i64> = red
            .iter()
            .copied()
            .filter(|job| made.jobs[job].state == state)
            .collect();
        for size in [1, 3] {
            assert_eq!(
                scan(&fixture, fixture.tenant, &of_state, size).await,
                expected
            );
        }
    }
    filter.ordering_key = Some("first".to_owned());
    let first = scan(&fixture, fixture.tenant, &filter, 4).await;
    assert!(!first.is_empty() && first.len() < red.len());
    filter.unique_key = Some("none".to_owned());
    assert!(scan(&fixture, fixture.tenant, &filter, 4).await.is_empty());
}

#[tokio::test]
async fn successes_are_read_from_the_row_and_failures_from_the_attempt_log() {
    let fixture = Fixture::new().await;
    let jobs = [at(2048, 0), at(2050, 0), at(2051, 0)];
    let more = json!({
        "created_at": moment(0), "created": [moment(0), moment(100), moment(50)],
        "started_at": moment(200), "finished_at": moment(300),
        "acked": [2], "acked_at": [moment(250)], "gone": [3],
    });
    fixture
        .put(&[
            merged(&jobs, "d", more),
            left(
                jobs[2],
                "a",
                json!({"attempt": 1, "created_at": moment(50)}),
            ),
        ])
        .await;
    fixture
        .execute(
            "insert into queue.attempts
                (job_id, tenant, started_at, finished_at, worker_id, outcome, error_code)
             select job, 1, '2026-01-01 00:03:20Z', '2026-01-01 00:04:00Z', null, 'retry', 'bad'
             from unnest(array[2048 * 1024::bigint, 2051 * 1024]) job",
        )
        .await;
    let succeeded = async |job: i64| {
        let mut attempts = fixture.attempts(job_id(job)).await;
        let last = attempts.pop().unwrap();
        assert_eq!(last.outcome, AttemptOutcome::Succeeded);
        assert!(last.worker_id.is_some());
        (
            attempts.len(),
            last.number,
            last.started_at,
            last.finished_at,
        )
    };
    assert_eq!(succeeded(jobs[0]).await, (1, 2, moment(200), moment(300)));
    assert_eq!(succeeded(jobs[1]).await, (0, 1, moment(200), moment(250)));
    let attempts = fixture.attempts(job_id(jobs[2])).await;
    assert_eq!(attempts.len(), 1);
    assert_eq!(attempts[0].outcome, AttemptOutcome::Retry);
    assert_eq!(
        fixture.job(job_id(jobs[1])).await.state,
        JobState::Succeeded
    );
}

/// Rows of queue.parcels that this transaction has fetched.
async fn rows_fetched(tx: &mut TenantTx) -> i64 {
    query_scalar("select pg_stat_get_xact_tuples_fetched('queue.parcels'::regclass)")
        .fetch_one(&mut **tx)
        .await
        .unwrap()
}

#[tokio::test]
async fn single_read_costs_the_same_in_a_large_table() {
    let fixture = Fixture::new().await;
    fixture.put(&[row(1, 0, 0, 1, "a", json!({}))]).await;
    // Packed, single and merged rows, each more than fit into one block.
    fixture
        .execute(
            "insert into queue.parcels (tenant, id, lane, run_at, queue, kind, priority,
                max_attempts, n, state, finished_at, ids, body)
             select 1, g, 1, now(), 1, 1, 5, 3, case when g < 8000 then 100 when g < 16000 then 1
                else 2 end, 'd', now(), case when g >= 16000 then array[g * 1024, (g + 1) * 1024] end,
                array_fill('\\x7b2270223a312c2274223a317d'::bytea, array[100])
             from generate_series(4096::bigint, 23999) g where g < 16000 or g % 2 = 0",
        )
        .await;
    for (around, most) in [(at(6500, 50), 3), (at(12000, 0), 3), (at(20001, 0), 1200)] {
        let mut tx = fixture.tx().await;
        assert!(read::job(&mut tx, job_id(around)).await.unwrap().is_some());
        let cost = rows_fetched(&mut tx).await;
        assert!(cost <= most, "job {around}: {cost} rows");

        let mut tx = fixture.tx().await;
        let filter = JobFilter::default();
        let page = read::list(&mut tx, fixture.tenant, &filter, Some(job_id(around)), 50).await;
        assert_eq!(page.unwrap().jobs.len(), 50);
        let cost = rows_fetched(&mut tx).await;
        assert!(cost <= 1024 + 4 * 51, "page before {around}: {cost} rows");
    }
}
