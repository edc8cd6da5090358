//! Bulk changes: retry, cancel, delete and reschedule many jobs, packed and single.

use std::collections::BTreeMap;
use std::time::Duration;

use harkara_queue::job::JobState;
use harkara_queue::{ChangeOutcome, Error, Retention, Verdict};
use harkara_shared::database::{TenantTx, query, query_as};
use harkara_shared::id::{JobId, TenantId};
use serde_json::json;
use sqlx::PgConnection;

use crate::packed::{at, job_id, left, merged, row};
use crate::support::{Fixture, Log, count_jobs, error, handler, job};

type Changes = Result<Vec<(JobId, ChangeOutcome)>, Error>;

/// Applies a change to jobs in a transaction of the tenant, and returns the result of each.
async fn apply_to_jobs(
    fixture: &Fixture,
    jobs: &[i64],
    act: impl AsyncFnOnce(&mut PgConnection, &[JobId]) -> Changes,
) -> BTreeMap<i64, ChangeOutcome> {
    let jobs: Vec<JobId> = jobs.iter().copied().map(job_id).collect();
    let mut tx = fixture.tx().await;
    let changes = act(&mut tx, &jobs).await.unwrap();
    tx.commit().await.unwrap();
    let found = changes.len();
    let changes: BTreeMap<i64, ChangeOutcome> = changes
        .into_iter()
        .map(|(job, changed)| (job.as_i64(), changed))
        .collect();
    assert_eq!(
        changes.len(),
        found,
        "each job must have exactly one result"
    );
    changes
}

async fn retry_jobs(fixture: &Fixture, jobs: &[i64]) -> BTreeMap<i64, ChangeOutcome> {
    let engine = &fixture.engine;
    apply_to_jobs(fixture, jobs, async |tx, jobs| {
        engine.retry_jobs(tx, jobs).await
    })
    .await
}

async fn cancel_jobs(fixture: &Fixture, jobs: &[i64]) -> BTreeMap<i64, ChangeOutcome> {
    let engine = &fixture.engine;
    apply_to_jobs(fixture, jobs, async |tx, jobs| {
        engine.cancel_jobs(tx, jobs).await
    })
    .await
}

async fn delete_jobs(fixture: &Fixture, jobs: &[i64]) -> BTreeMap<i64, ChangeOutcome> {
    let engine = &fixture.engine;
    apply_to_jobs(fixture, jobs, async |tx, jobs| {
        engine.delete_jobs(tx, jobs).await
    })
    .await
}

/// Counter changes not rolled up yet: scheduled, ready, dead, and the number of cancelled jobs.
async fn deltas(fixture: &Fixture) -> (i64, i64, i64, i64) {
    query_as(
        "select coalesce(sum(scheduled), 0), coalesce(sum(ready), 0), coalesce(sum(dead), 0),
            coalesce(sum(cancelled), 0)
         from queue.deltas",
    )
    .fetch_one(&fixture.pool())
    .await
    .unwrap()
}

/// The numbers of scheduled, ready and dead jobs.
async fn job_counts(fixture: &Fixture) -> (i64, i64, i64) {
    let pool = fixture.pool();
    let count = async |state| count_jobs(&pool, state, None).await.unwrap();
    (count("s").await, count("a").await, count("x").await)
}

/// Asserts that the counters changed by as much as the jobs did.
async fn assert_counted(
    fixture: &Fixture,
    before: (i64, i64, i64),
    deltas_before: (i64, i64, i64, i64),
) {
    let after = job_counts(fixture).await;
    let now = deltas(fixture).await;
    assert_eq!(
        (
            now.0 - deltas_before.0,
            now.1 - deltas_before.1,
            now.2 - deltas_before.2
        ),
        (after.0 - before.0, after.1 - before.1, after.2 - before.2)
    );
}

const COUNT_ROWS: &str = "select count(*) from queue.parcels";

#[tokio::test]
async fn dead_and_cancelled_jobs_are_retried_together_in_every_storage_form() {
    let fixture = Fixture::new().await;
    fixture
        .put(&[
            row(4, 0, 0, 1, "x", json!({"attempt": 3, "error_code": "e"})),
            // A whole row, part of a row, the last member of a row.
            row(5, 0, 0, 3, "c", json!({})),
            row(6, 0, 0, 4, "c", json!({})),
            row(7, 0, 0, 3, "c", json!({"gone": [1, 2]})),
            row(8, 0, 0, 2, "a", json!({})),
            row(9, 0, 0, 3, "r", json!({"acked": [2]})),
            left(at(9, 700), "x", json!({})),
        ])
        .await;
    let (before, deltas_before) = (job_counts(&fixture).await, deltas(&fixture).await);
    let ids = [
        at(4, 0),
        at(5, 0),
        at(5, 1),
        at(5, 2),
        at(6, 1),
        at(6, 3),
        at(7, 2),
        at(8, 0),
        at(9, 0),
        at(9, 1),
        at(9, 700),
        at(50, 0),
        at(4, 0),
    ];
    let changes = retry_jobs(&fixture, &ids).await;
    let ready = ChangeOutcome::Applied(JobState::Ready);
    let expected = BTreeMap::from([
        (at(4, 0), ready),
        (at(5, 0), ready),
        (at(5, 1), ready),
        (at(5, 2), ready),
        (at(6, 1), ready),
        (at(6, 3), ready),
        (at(7, 2), ready),
        (at(8, 0), ChangeOutcome::Refused(JobState::Ready)),
        (at(9, 0), ChangeOutcome::Refused(JobState::Running)),
        (at(9, 1), ChangeOutcome::Refused(JobState::Succeeded)),
        (at(9, 700), ready),
    ]);
    assert_eq!(changes, expected);
    assert_counted(&fixture, before, deltas_before).await;
    for (job, _) in changes.iter().filter(|(_, changed)| **changed == ready) {
        let now = fixture.job(job_id(*job)).await;
        assert_eq!((now.state, now.attempt), (JobState::Ready, 0));
        assert_eq!(
            (now.finished_at, now.payload.get()),
            (None, &*job.to_string())
        );
    }
    assert_eq!(fixture.state(job_id(at(6, 0))).await, JobState::Cancelled);
    // A second change finds them in the requested state.
    let again = retry_jobs(&fixture, &[at(4, 0), at(6, 1)]).await;
    assert!(
        again
            .values()
            .all(|changed| *changed == ChangeOutcome::Refused(JobState::Ready))
    );
}

#[tokio::test]
async fn waiting_jobs_are_cancelled_together_and_workers_of_running_jobs_are_notified() {
    let fixture = Fixture::new().await;
    fixture
        .put(&[
            row(5, 0, 0, 3, "a", json!({})),
            row(6, 0, 0, 4, "s", json!({})),
            row(7, 0, 0, 4, "r", json!({"acked": [1], "cancelling": [2]})),
            row(8, 0, 0, 1, "x", json!({})),
        ])
        .await;
    let (before, deltas_before) = (job_counts(&fixture).await, deltas(&fixture).await);
    let ids = [
        at(5, 0),
        at(5, 1),
        at(5, 2),
        at(6, 0),
        at(6, 2),
        at(7, 0),
        at(7, 1),
        at(7, 2),
        at(8, 0),
    ];
    let changes = cancel_jobs(&fixture, &ids).await;
    let cancelled = ChangeOutcome::Applied(JobState::Cancelled);
    let told_to = ChangeOutcome::Applied(JobState::Running);
    let expected = BTreeMap::from([
        (at(5, 0), cancelled),
        (at(5, 1), cancelled),
        (at(5, 2), cancelled),
        (at(6, 0), cancelled),
        (at(6, 2), cancelled),
        (at(7, 0), ChangeOutcome::Refused(JobState::Succeeded)),
        (at(7, 1), told_to),
        (at(7, 2), told_to),
        (at(8, 0), ChangeOutcome::Refused(JobState::Dead)),
    ]);
    assert_eq!(changes, expected);
    assert_counted(&fixture, before, deltas_before).await;
    assert_eq!(deltas(&fixture).await.3, 5);
    let cancelling = "select cancelling::text from queue.parcels where id = $1 and part = $2";
    assert_eq!(fixture.column(7, 0, cancelling).await.unwrap(), "{2,3}");
    // The whole row: no member had to leave it.
    let gone = "select gone::text from queue.parcels where id = $1 and part = $2";
    assert_eq!(fixture.column(5, 0, gone).await, None);
    assert_eq!(fixture.column(6, 0, gone).await.unwrap(), "{1,3}");
}

#[tokio::test]
async fn finished_jobs_are_deleted_and_other_members_of_their_rows_stay() {
    let fixture = Fixture::new().await;
    fixture
        .put(&[
            row(4, 0, 0, 1, "x", json!({})),
            row(5, 0, 0, 3, "d", json!({})),
            merged(&[at(6, 0), at(7, 0), at(8, 0)], "d", json!({})),
            row(9, 0, 0, 2, "a", json!({})),
            row(10, 0, 0, 2, "r", json!({"acked": [1]})),
        ])
        .await;
    for job in [at(4, 0), at(5, 1), at(7, 0)] {
        query(
            "insert into queue.labels (tenant, name, value, job_id)
             select number, 'tag', 'x', $1 from queue.tenants",
        )
        .bind(job)
        .execute(&fixture.pool())
        .await
        .unwrap();
        let mut tx = fixture.tx().await;
        let progress = json!({"done": 1});
        fixture
            .engine
            .report_progress(&mut tx, job_id(job), &progress)
            .await
            .unwrap();
        tx.commit().await.unwrap();
        assert_eq!(fixture.job(job_id(job)).await.progress, Some(progress));
    }
    let (before, deltas_before) = (job_counts(&fixture).await, deltas(&fixture).await);
    let ids = [at(4, 0), at(5, 1), at(7, 0), at(9, 0), at(10, 0), at(10, 1)];
    let changes = delete_jobs(&fixture, &ids).await;
    let expected = BTreeMap::from([
        (at(4, 0), ChangeOutcome::Applied(JobState::Dead)),
        (at(5, 1), ChangeOutcome::Applied(JobState::Succeeded)),
        (at(7, 0), ChangeOutcome::Applied(JobState::Succeeded)),
        (at(9, 0), ChangeOutcome::Refused(JobState::Ready)),
        // The member has succeeded, but its row still runs.
        (at(10, 0), ChangeOutcome::Refused(JobState::Running)),
        (at(10, 1), ChangeOutcome::Refused(JobState::Running)),
    ]);
    assert_eq!(changes, expected);
    assert_counted(&fixture, before, deltas_before).await;
    let left: Vec<i64> = fixture
        .all()
        .await
        .into_iter()
        .map(|(job, _)| job)
        .collect();
    let stay = [
        at(5, 0),
        at(5, 2),
        at(6, 0),
        at(8, 0),
        at(9, 0),
        at(9, 1),
        at(10, 0),
        at(10, 1),
    ];
    assert_eq!(left, stay);
    for kept in [
        "select count(*) from queue.labels",
        "select count(*) from queue.progress",
    ] {
        assert_eq!(fixture.count(kept).await, 0, "{kept}");
    }
    let rows = fixture.count(COUNT_ROWS).await;
    delete_jobs(&fixture, &[at(5, 0), at(5, 2), at(6, 0), at(8, 0)]).await;
    assert_eq!(
        fixture.count(COUNT_ROWS).await,
        rows - 2,
        "a row must be deleted with its last job"
    );
}

async fn key(fixture: &Fixture, job: i64, key: &str, until: Option<&'static str>) {
    query(
        "insert into queue.labels (tenant, name, value, job_id)
         select number, 'unique_key', $2, $1 from queue.tenants",
    )
    .bind(job)
    .bind(key)
    .execute(&fixture.pool())
    .await
    .unwrap();
    if let Some(until) = until {
        query(
            "insert into queue.unique_keys (tenant, kind, key, job_id, expires_at)
             select number, 1, $2, $1, $3::timestamptz from queue.tenants",
        )
        .bind(job)
        .bind(key)
        .bind(until)
        .execute(&fixture.pool())
        .await
        .unwrap();
    }
}

#[tokio::test]
async fn older_of_two_dead_jobs_takes_their_key_and_a_held_key_is_not_taken() {
    let fixture = Fixture::new().await;
    let keyed = || json!({"keyed": true});
    let states = ["x", "x", "x", "x", "a"];
    for (id, state) in (4..).zip(states) {
        fixture.put(&[row(id, 0, 0, 1, state, keyed())]).await;
    }
    key(&fixture, at(4, 0), "both", None).await;
    key(&fixture, at(5, 0), "both", None).await;
    key(&fixture, at(6, 0), "other's", None).await;
    key(&fixture, at(7, 0), "own", Some("2999-01-01")).await;
    key(&fixture, at(8, 0), "other's", Some("infinity")).await;
    let changes = retry_jobs(&fixture, &[at(7, 0), at(6, 0), at(5, 0), at(4, 0)]).await;
    let expected = BTreeMap::from([
        (at(4, 0), ChangeOutcome::Applied(JobState::Ready)),
        (at(5, 0), ChangeOutcome::KeyTaken(job_id(at(4, 0)))),
        (at(6, 0), ChangeOutcome::KeyTaken(job_id(at(8, 0)))),
        (at(7, 0), ChangeOutcome::Applied(JobState::Ready)),
    ]);
    assert_eq!(changes, expected);
    let held = "select count(*) from queue.unique_keys where expires_at = 'infinity'";
    assert_eq!(fixture.count(held).await, 2);
    // A cancel releases keys held until the end of the job, but not keys held for a fixed time.
    cancel_jobs(&fixture, &[at(4, 0), at(7, 0)]).await;
    assert_eq!(fixture.count(held).await, 1);
    let deleted = delete_jobs(&fixture, &[at(4, 0), at(7, 0)]).await;
    let expected = BTreeMap::from([
        (at(4, 0), ChangeOutcome::Applied(JobState::Cancelled)),
        (at(7, 0), ChangeOutcome::KeyTaken(job_id(at(7, 0)))),
    ]);
    assert_eq!(deleted, expected);
}

#[tokio::test]
async fn foreign_jobs_cannot_be_changed_in_bulk() {
    let fixture = Fixture::new().await;
    let stranger = TenantId::new();
    fixture.put(&[row(4, 0, 0, 2, "x", json!({}))]).await;
    fixture
        .put_for(stranger, &[row(5, 0, 0, 1, "x", json!({}))])
        .await;
    let mut tx = TenantTx::begin(&fixture.pool(), stranger).await.unwrap();
    let all = [job_id(at(4, 0)), job_id(at(4, 1))];
    let engine = &fixture.engine;
    assert_eq!(engine.retry_jobs(&mut tx, &all).await.unwrap(), []);
    assert_eq!(engine.cancel_jobs(&mut tx, &all).await.unwrap(), []);
    assert_eq!(engine.delete_jobs(&mut tx, &all).await.unwrap(), []);
    let moved = engine.reschedule(&mut tx, all[0], None).await.unwrap();
    assert_eq!(moved, ChangeOutcome::NotFound);
    tx.commit().await.unwrap();
    // Rows of another tenant cannot be reached by their physical position either.
    let mut tx = TenantTx::begin(&fixture.pool(), stranger).await.unwrap();
    let forgotten: i64 = harkara_shared::database::query_scalar(
        "select queue.delete_parcels(array(select ('(0,' || i || ')')::tid from generate_series(1, 9) i))",
    )
    .fetch_one(&mut *tx)
    .await
    .unwrap();
    assert_eq!(forgotten, 1, "only its own row can be deleted");
    drop(tx);
    assert_eq!(fixture.jobs("x").await, 3);
}

#[tokio::test]
async fn waiting_job_is_rescheduled_and_moved_back() {
    let fixture = Fixture::new().await;
    let later = fixture.now().await + chrono::Duration::hours(1);
    fixture
        .put(&[
            row(5, 0, 0, 1, "a", json!({})),
            row(6, 0, 0, 3, "a", json!({})),
            row(7, 0, 0, 1, "r", json!({})),
            row(8, 0, 0, 1, "x", json!({})),
        ])
        .await;
    let move_to = async |job: i64, at| {
        let mut tx = fixture.tx().await;
        let moved = fixture.engine.reschedule(&mut tx, job_id(job), at).await;
        tx.commit().await.unwrap();
        moved.unwrap()
    };
    let (before, deltas_before) = (job_counts(&fixture).await, deltas(&fixture).await);
    for job in [at(5, 0), at(6, 1)] {
        let moved = move_to(job, Some(later)).await;
        assert_eq!(moved, ChangeOutcome::Applied(JobState::Scheduled));
        let there = fixture.job(job_id(job)).await;
        assert_eq!(
            (there.state, there.run_at.timestamp_micros()),
            (JobState::Scheduled, later.timestamp_micros())
        );
        assert_eq!(there.payload.get(), job.to_string());
    }
    assert_counted(&fixture, before, deltas_before).await;
    assert_eq!(fixture.state(job_id(at(6, 0))).await, JobState::Ready);
    assert_eq!(
        move_to(at(6, 1), None).await,
        ChangeOutcome::Applied(JobState::Ready)
    );
    assert!(fixture.job(job_id(at(6, 1))).await.run_at <= fixture.now().await);
    assert_counted(&fixture, before, deltas_before).await;
    assert_eq!(
        move_to(at(7, 0), None).await,
        ChangeOutcome::Refused(JobState::Running)
    );
    assert_eq!(
        move_to(at(8, 0), Some(later)).await,
        ChangeOutcome::Refused(JobState::Dead)
    );
    assert_eq!(move_to(at(99, 0), None).await, ChangeOutcome::NotFound);
}

#[tokio::test]
async fn superseded_run_cannot_report_progress() {
    let fixture = Fixture::new().await;
    let runs = Log::new();
    let log_copy = runs.clone();
    let worker = fixture.start_worker(handler(move |run| {
        let first = log_copy.len() == 0;
        log_copy.write(run.job);
        async move {
            if first {
                return Verdict::retry(error("again"), Some(Duration::ZERO));
            }
            Verdict::done()
        }
    }));
    let id = fixture.enqueue(job()).await.id();
    fixture.wait_for_state(id, JobState::Succeeded).await;
    worker.stop().await;
    let runs = runs.read();
    let engine = &fixture.engine;
    let mut tx = fixture.tx().await;
    assert_eq!(
        engine.claim_progress(&mut tx, &runs[0]).await.unwrap(),
        None
    );
    assert_eq!(
        engine.lock_progress(&mut tx, &runs[0]).await.unwrap(),
        Some(json!(null))
    );
    let progress = json!({"done": 7});
    engine
        .report_progress(&mut tx, id, &progress)
        .await
        .unwrap();
    let taken_over = engine.claim_progress(&mut tx, &runs[1]).await.unwrap();
    assert_eq!(taken_over, Some(progress.clone()));
    assert_eq!(engine.lock_progress(&mut tx, &runs[0]).await.unwrap(), None);
    let held = engine.lock_progress(&mut tx, &runs[1]).await.unwrap();
    assert_eq!(held, Some(progress));
    tx.commit().await.unwrap();

    // Reported progress is deleted with the job.
    fixture
        .execute("update queue.parcels set finished_at = now() - interval '1 year'")
        .await;
    engine.retain(Retention::default()).await.unwrap();
    assert_eq!(
        fixture.count("select count(*) from queue.progress").await,
        0
    );
}
