//! Cancel, retry and run-now of jobs in a packed row: the other members are unaffected.

use harkara_queue::ChangeOutcome;
use harkara_queue::job::JobState;
use harkara_shared::database::query;
use serde_json::json;
use sqlx::postgres::PgListener;

use crate::cancel::{cancel, change_while_locked, retry};
use crate::packed::{at, job_id, left, merged, moment, row};
use crate::support::{Fixture, with_timeout};

const GONE: &str = "select gone::text from queue.parcels where id = $1 and part = $2";
const STATE: &str = "select state::text from queue.parcels where id = $1 and part = $2";
const CANCELLING: &str = "select cancelling::text from queue.parcels where id = $1 and part = $2";

async fn run_now(fixture: &Fixture, jobs: &[i64]) {
    let mut tx = fixture.tx().await;
    let jobs: Vec<_> = jobs.iter().copied().map(job_id).collect();
    fixture.engine.run_now(&mut tx, &jobs).await.unwrap();
    tx.commit().await.unwrap();
}

async fn holds_key(fixture: &Fixture, job: i64) {
    query(
        "insert into queue.unique_keys (tenant, kind, key, job_id, expires_at)
         select number, 1, $1::bigint::text, $1, 'infinity' from queue.tenants",
    )
    .bind(job)
    .execute(&fixture.pool())
    .await
    .unwrap();
    query(
        "insert into queue.labels (tenant, name, value, job_id)
         select number, 'unique_key', $1::bigint::text, $1 from queue.tenants",
    )
    .bind(job)
    .execute(&fixture.pool())
    .await
    .unwrap();
}

#[tokio::test]
async fn cancelled_waiting_member_leaves_its_parcel() {
    for (state, word) in [("a", JobState::Ready), ("s", JobState::Scheduled)] {
        let fixture = Fixture::new().await;
        let more = json!({"keyed": true, "created_at": moment(1), "run_at": moment(2)});
        // A parcel whose first two jobs were split off.
        fixture.put(&[row(9, 3, 2, 3, state, more)]).await;
        for position in 2..5 {
            holds_key(&fixture, at(9, position)).await;
        }
        let id = job_id(at(9, 3));
        let before = fixture.job(id).await;
        assert_eq!(
            cancel(&fixture, id).await,
            ChangeOutcome::Applied(JobState::Cancelled)
        );
        let after = fixture.job(id).await;
        assert_eq!(
            (after.state, after.attempt, after.created_at, after.run_at),
            (JobState::Cancelled, 0, before.created_at, before.run_at)
        );
        assert!(after.finished_at.is_some());
        assert_eq!(after.payload.get(), before.payload.get());
        assert_eq!(
            cancel(&fixture, id).await,
            ChangeOutcome::Refused(JobState::Cancelled)
        );
        assert_eq!(
            fixture.all().await,
            [
                (at(9, 2), word),
                (at(9, 3), JobState::Cancelled),
                (at(9, 4), word)
            ]
        );
        assert_eq!(fixture.column(9, 3, GONE).await.unwrap(), "{2}");
        let keys = "select count(*) from queue.unique_keys";
        assert_eq!(fixture.count(keys).await, 2, "its key must be released");

        // A retry makes it ready in a row of its own, with its key.
        assert_eq!(
            retry(&fixture, id).await,
            ChangeOutcome::Applied(JobState::Ready)
        );
        assert_eq!(fixture.count(keys).await, 3);
        assert_eq!(
            cancel(&fixture, id).await,
            ChangeOutcome::Applied(JobState::Cancelled)
        );

        // The row is deleted when its last member has left.
        for position in [2, 4] {
            let id = job_id(at(9, position));
            assert_eq!(
                cancel(&fixture, id).await,
                ChangeOutcome::Applied(JobState::Cancelled)
            );
        }
        assert_eq!(
            fixture
                .count(
                    "select count(*) from queue.parcels
                 where part = 3 and state = 'd' and n = 1 and body = '{}' and cardinality(gone) = 3
                   and finished_at is not null",
                )
                .await,
            1
        );
        assert_eq!(fixture.all().await.len(), 3);
        assert_eq!(fixture.count(keys).await, 0);
    }
}

#[tokio::test]
async fn worker_is_notified_which_of_its_jobs_to_stop() {
    let fixture = Fixture::new().await;
    let jobs = [at(5, 0), at(6, 0), at(8, 0)];
    let acked = json!({"acked": [3], "acked_at": [moment(9)]});
    fixture
        .put(&[merged(&jobs, "r", acked), row(9, 0, 0, 1, "r", json!({}))])
        .await;
    let mut listener = PgListener::connect_with(&fixture.pool()).await.unwrap();
    listener.listen("harkara").await.unwrap();
    for _ in 0..2 {
        let changed = cancel(&fixture, job_id(jobs[1])).await;
        assert_eq!(changed, ChangeOutcome::Applied(JobState::Running));
        let notification = with_timeout("the worker is notified", listener.recv())
            .await
            .unwrap();
        assert_eq!(notification.payload(), format!("c:{}", jobs[1]));
    }
    assert_eq!(fixture.column(5, 0, CANCELLING).await.unwrap(), "{2}");
    cancel(&fixture, job_id(jobs[0])).await;
    assert_eq!(fixture.column(5, 0, CANCELLING).await.unwrap(), "{2,1}");
    let changed = cancel(&fixture, job_id(jobs[2])).await;
    assert_eq!(changed, ChangeOutcome::Refused(JobState::Succeeded));
    let changed = retry(&fixture, job_id(jobs[2])).await;
    assert_eq!(changed, ChangeOutcome::Refused(JobState::Succeeded));
    let changed = cancel(&fixture, job_id(at(9, 0))).await;
    assert_eq!(changed, ChangeOutcome::Applied(JobState::Running));
    assert_eq!(fixture.column(9, 0, CANCELLING).await.unwrap(), "{1}");
}

#[tokio::test]
async fn strict_lane_continues_when_its_head_is_cancelled() {
    let fixture = Fixture::new().await;
    let strict = json!({"strict": true});
    fixture
        .put(&[
            row(5, 0, 0, 1, "s", strict.clone()),
            row(6, 0, 0, 1, "a", strict),
        ])
        .await;
    fixture
        .execute("update queue.lanes set strict = true, head = 5 where id = 1")
        .await;
    let heads = "select count(*) from queue.lanes where head = 5";
    cancel(&fixture, job_id(at(6, 0))).await;
    assert_eq!(
        fixture.count(heads).await,
        1,
        "the cancel of another job must not affect the head"
    );
    assert_eq!(
        cancel(&fixture, job_id(at(5, 0))).await,
        ChangeOutcome::Applied(JobState::Cancelled)
    );
    assert_eq!(fixture.count(heads).await, 0);
}

#[tokio::test]
async fn cancel_finds_a_job_that_has_just_moved() {
    let claimed = "with taken as (delete from queue.parcels where id in (5, 6) returning *)
        insert into queue.parcels (tenant, id, lane, run_at, lease, token, queue, kind, priority,
            attempt, max_attempts, n, state, ids, body)
        select tenant, min(id), lane, min(run_at), 1, 7, queue, kind, 5, 1, 3, 2, 'r',
            array_agg(id * 1024 order by id), array_agg(body[1] order by id)
        from taken group by tenant, lane, queue, kind";
    let fixture = Fixture::new().await;
    fixture
        .put(&[
            row(5, 0, 0, 1, "a", json!({})),
            row(6, 0, 0, 1, "a", json!({})),
        ])
        .await;
    for job in [at(6, 0), at(5, 0)] {
        fixture.execute("delete from queue.parcels").await;
        fixture
            .put(&[
                row(5, 0, 0, 1, "a", json!({})),
                row(6, 0, 0, 1, "a", json!({})),
            ])
            .await;
        let changed = change_while_locked(&fixture, claimed, cancel(&fixture, job_id(job))).await;
        assert_eq!(changed, ChangeOutcome::Applied(JobState::Running));
        let cancelling = if job == at(6, 0) { "{2}" } else { "{1}" };
        assert_eq!(fixture.column(5, 0, CANCELLING).await.unwrap(), cancelling);
    }

    // A claim splits the parcel before the job.
    fixture.execute("delete from queue.parcels").await;
    fixture.put(&[row(7, 0, 0, 4, "a", json!({}))]).await;
    let cut = "with behind as (
            insert into queue.parcels (tenant, id, part, lane, run_at, queue, kind, priority,
                max_attempts, lo, n, state, body)
            select tenant, id, 3, lane, run_at, queue, kind, priority, max_attempts, 2, 2, 'a',
                body[3:]
            from queue.parcels where id = 7
        )
        update queue.parcels set n = 2, body = body[:2], state = 'r', token = 7, lease = 1";
    let changed = change_while_locked(&fixture, cut, cancel(&fixture, job_id(at(7, 3)))).await;
    assert_eq!(changed, ChangeOutcome::Applied(JobState::Cancelled));
    assert_eq!(fixture.column(7, 3, GONE).await.unwrap(), "{2}");
    let seen = fixture.job(job_id(at(7, 3))).await;
    assert_eq!(seen.payload.get(), at(7, 3).to_string());

    // A settlement snoozes it in a row of its own.
    fixture.execute("delete from queue.parcels").await;
    fixture.put(&[row(7, 0, 0, 2, "r", json!({}))]).await;
    let put_off = "with leaving as (
            insert into queue.parcels (tenant, id, part, lane, run_at, queue, kind, priority,
                attempt, max_attempts, lo, state, body)
            select tenant, id, -2, lane, now() + interval '1 hour', queue, kind, priority, 1,
                max_attempts, 1, 's', body[2:]
            from queue.parcels where id = 7
        )
        update queue.parcels set gone = array[2]";
    let changed = change_while_locked(&fixture, put_off, cancel(&fixture, job_id(at(7, 1)))).await;
    assert_eq!(changed, ChangeOutcome::Applied(JobState::Cancelled));
    assert_eq!(fixture.column(7, 0, STATE).await.unwrap(), "r");
    assert_eq!(fixture.column(7, 0, CANCELLING).await, None);

    // A stopping worker puts the whole row back.
    fixture.execute("delete from queue.parcels").await;
    fixture
        .put(&[row(7, 0, 0, 2, "r", json!({"gone": [1]}))])
        .await;
    let given_back = "update queue.parcels set state = 'a', token = null, lease = null";
    let changed =
        change_while_locked(&fixture, given_back, cancel(&fixture, job_id(at(7, 1)))).await;
    assert_eq!(changed, ChangeOutcome::Applied(JobState::Cancelled));
    assert_eq!(fixture.column(7, 0, STATE).await.unwrap(), "d");

    // Or retention deletes it.
    fixture.put(&[row(8, 0, 0, 2, "d", json!({}))]).await;
    let removed = "delete from queue.parcels";
    let changed = change_while_locked(&fixture, removed, cancel(&fixture, job_id(at(8, 0)))).await;
    assert_eq!(changed, ChangeOutcome::NotFound);
}

#[tokio::test]
async fn manually_retried_job_starts_with_fresh_attempts() {
    let fixture = Fixture::new().await;
    let spent = json!({
        "attempt": 3, "lost": true, "probe": true, "limiters": [1], "error_code": "worker_lost",
    });
    fixture
        .put(&[
            row(5, 0, 0, 3, "d", json!({"gone": [2]})),
            left(at(5, 1), "x", spent),
        ])
        .await;
    assert_eq!(
        retry(&fixture, job_id(at(5, 0))).await,
        ChangeOutcome::Refused(JobState::Succeeded)
    );
    let id = job_id(at(5, 1));
    assert_eq!(
        retry(&fixture, id).await,
        ChangeOutcome::Applied(JobState::Ready)
    );
    let ready = fixture.job(id).await;
    assert_eq!((ready.state, ready.attempt), (JobState::Ready, 0));
    assert_eq!(ready.last_error.unwrap().code, "worker_lost");
    let fresh = "select count(*) from queue.parcels
        where part = -2 and not lost and not probe and limiters is null and finished_at is null";
    assert_eq!(fixture.count(fresh).await, 1);
    assert_eq!(
        retry(&fixture, id).await,
        ChangeOutcome::Refused(JobState::Ready)
    );
}

#[tokio::test]
async fn scheduled_jobs_are_run_now_alone_or_together() {
    let fixture = Fixture::new().await;
    let later = json!({"run_at": fixture.now().await + chrono::Duration::hours(1)});
    fixture
        .put(&[
            row(5, 0, 0, 1, "s", later.clone()),
            row(6, 0, 0, 4, "s", later.clone()),
            row(7, 0, 0, 2, "s", later.clone()),
            row(8, 0, 0, 2, "a", json!({})),
            row(9, 0, 0, 2, "r", json!({})),
        ])
        .await;
    let mut listener = PgListener::connect_with(&fixture.pool()).await.unwrap();
    listener.listen("harkara").await.unwrap();
    let ids = [
        at(5, 0),
        at(6, 1),
        at(6, 3),
        at(7, 0),
        at(7, 1),
        at(8, 0),
        at(9, 0),
        at(40, 0),
    ];
    for _ in 0..2 {
        run_now(&fixture, &ids).await;
    }
    let notification = with_timeout("workers are notified", listener.recv())
        .await
        .unwrap();
    assert_eq!(notification.payload(), "o:1");
    let (ready, waits) = (JobState::Ready, JobState::Scheduled);
    assert_eq!(
        fixture.all().await,
        [
            (at(5, 0), ready),
            (at(6, 0), waits),
            (at(6, 1), ready),
            (at(6, 2), waits),
            (at(6, 3), ready),
            (at(7, 0), ready),
            (at(7, 1), ready),
            (at(8, 0), ready),
            (at(8, 1), ready),
            (at(9, 0), JobState::Running),
            (at(9, 1), JobState::Running),
        ]
    );
    assert_eq!(fixture.column(6, 0, GONE).await.unwrap(), "{2,4}");
    // The whole row: no member had to leave it.
    assert_eq!(fixture.column(7, 0, GONE).await, None);
    let now = fixture.now().await;
    for job in [at(5, 0), at(6, 1), at(7, 1)] {
        let moved_up = fixture.job(job_id(job)).await;
        assert!(moved_up.run_at <= now, "{moved_up:?}");
        assert_eq!(moved_up.payload.get(), job.to_string());
    }
    assert!(fixture.job(job_id(at(6, 2))).await.run_at > now);
}

#[tokio::test]
async fn run_now_reaches_a_job_snoozed_at_the_same_moment() {
    let fixture = Fixture::new().await;
    let put_off = "update queue.parcels
        set state = 's', token = null, run_at = now() + interval '1 hour'";
    for (n, gone) in [(1, None), (2, None), (2, Some([1]))] {
        fixture.execute("delete from queue.parcels").await;
        let more = json!({"gone": gone});
        fixture.put(&[row(7, 0, 0, n, "r", more)]).await;
        let hastening = async {
            run_now(&fixture, &[at(7, n - 1)]).await;
            ChangeOutcome::Applied(fixture.state(job_id(at(7, n - 1))).await)
        };
        let changed = change_while_locked(&fixture, put_off, hastening).await;
        assert_eq!(changed, ChangeOutcome::Applied(JobState::Ready));
    }
}
