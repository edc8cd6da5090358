//! Retention of packed rows, and of unused lanes and limits.

use harkara_queue::Retention;
use harkara_queue::job::JobState;
use harkara_shared::database::query;
use serde_json::{Value, json};

use crate::packed::{at, left, merged, moment, row};
use crate::support::Fixture;

const LABELS: &str = "select count(*) from queue.labels";
const KEYS: &str = "select count(*) from queue.unique_keys";

fn old(more: Value) -> Value {
    let mut old = json!({"finished_at": moment(-1_000_000), "keyed": true});
    if let (Value::Object(old), Value::Object(more)) = (&mut old, more) {
        old.extend(more);
    }
    old
}

/// Labels and keys, held until the job has finished.
async fn add_labels_and_keys(fixture: &Fixture, jobs: &[i64]) {
    for statement in [
        "insert into queue.labels (tenant, name, value, job_id)
         select number, 'tag', 'red', unnest($1::int8[]) from queue.tenants",
        "insert into queue.unique_keys (tenant, kind, key, job_id, expires_at)
         select number, 1, job::text, job, 'infinity' from queue.tenants, unnest($1::int8[]) job",
    ] {
        query(statement)
            .bind(jobs)
            .execute(&fixture.pool())
            .await
            .unwrap();
    }
}

/// Rows of several jobs that finished long ago: a parcel, a piece, a merged row. The second job of each has
/// left its row and is still waiting.
async fn with_finished_rows(fixture: &Fixture) -> Vec<i64> {
    let gone = || old(json!({"gone": [2]}));
    let jobs = [at(20, 0), at(21, 0), at(23, 0)];
    fixture
        .put(&[
            row(10, 0, 0, 2, "d", gone()),
            left(at(10, 1), "s", json!({})),
            row(10, 3, 2, 3, "d", gone()),
            left(at(10, 3), "s", json!({})),
            merged(&jobs, "d", gone()),
            left(jobs[1], "s", json!({})),
            // In between, and recent.
            row(22, 0, 0, 2, "d", json!({})),
        ])
        .await;
    let all = vec![
        at(10, 0),
        at(10, 1),
        at(10, 2),
        at(10, 3),
        at(10, 4),
        jobs[0],
        jobs[1],
        at(22, 0),
        at(22, 1),
        jobs[2],
    ];
    assert_eq!(fixture.all().await.len(), all.len());
    all
}

#[tokio::test]
async fn packed_rows_are_deleted_whole_and_departed_members_keep_their_data() {
    let fixture = Fixture::new().await;
    let jobs = with_finished_rows(&fixture).await;
    add_labels_and_keys(&fixture, &jobs).await;
    fixture
        .execute("update queue.unique_keys set expires_at = now() - interval '1 s'")
        .await;
    let removed = fixture.engine.retain(Retention::default()).await.unwrap();
    assert_eq!(removed.jobs, 5, "jobs must be counted, not rows");
    let kept = [
        (at(10, 1), JobState::Scheduled),
        (at(10, 3), JobState::Scheduled),
        (at(21, 0), JobState::Scheduled),
        (at(22, 0), JobState::Succeeded),
        (at(22, 1), JobState::Succeeded),
    ];
    assert_eq!(fixture.all().await, kept);
    assert_eq!(fixture.count(LABELS).await, 5);
    let theirs = "select count(*) from queue.labels
        where job_id = any (array[10241, 10243, 21504, 22528, 22529])";
    assert_eq!(fixture.count(theirs).await, 5);
    // Expired keys are deleted anyway: these with their jobs, the others by their time.
    assert_eq!((fixture.count(KEYS).await, removed.unique_keys), (0, 5));
}

#[tokio::test]
async fn packed_row_is_kept_while_a_member_key_is_held() {
    let fixture = Fixture::new().await;
    let jobs = with_finished_rows(&fixture).await;
    add_labels_and_keys(&fixture, &[at(10, 0), at(10, 4), at(23, 0)]).await;
    let removed = fixture.engine.retain(Retention::default()).await.unwrap();
    assert_eq!(removed.jobs, 0);
    assert_eq!(fixture.all().await.len(), jobs.len());
    fixture.execute("delete from queue.unique_keys").await;
    // Held by jobs with rows of their own; the other rows do not matter.
    add_labels_and_keys(&fixture, &[at(10, 1), at(21, 0)]).await;
    let removed = fixture.engine.retain(Retention::default()).await.unwrap();
    assert_eq!(removed.jobs, 5);
    assert_eq!(fixture.count(KEYS).await, 2);
}

#[tokio::test]
async fn empty_row_is_deleted_without_being_counted() {
    let fixture = Fixture::new().await;
    let empty = old(json!({"gone": [1, 2, 3], "n": 1, "body": []}));
    fixture
        .put(&[
            row(10, 0, 0, 3, "d", empty),
            left(at(10, 0), "s", json!({})),
        ])
        .await;
    add_labels_and_keys(&fixture, &[at(10, 0)]).await;
    let removed = fixture.engine.retain(Retention::default()).await.unwrap();
    assert_eq!(removed.jobs, 0);
    assert_eq!(fixture.count("select count(*) from queue.parcels").await, 1);
    assert_eq!(
        (fixture.count(LABELS).await, fixture.count(KEYS).await),
        (1, 1)
    );
}

#[tokio::test]
async fn unused_lanes_and_limits_are_deleted() {
    let fixture = Fixture::new().await;
    fixture.put(&[]).await;
    fixture
        .execute(
            "insert into queue.limiters (tenant, key, max_running, running)
             values (1, 'idle', null, 0), (1, 'named', null, 0), (1, 'limits', 5, 0),
                (1, 'held', null, 1), (1, null, null, 0), (1, 'freed', null, 0)",
        )
        .await;
    fixture
        .execute(
            "insert into queue.lanes (queue, tenant, key, limits, named, costs, used_at, paused,
                weight, limiter, breaker_after, breaker_rest, head, parked_until, strict)
             select 1, 1, key, limits, case limits when '' then '{}' else array[limiter] end,
                case limits when '' then '{}' else array[1] end,
                case key when 'used' then now() else now() - interval '25 hours' end,
                key = 'paused', case key when 'heavy' then 2 else 1 end,
                case key when 'set' then 5 end,
                case key when 'breaks' then 3 end, case key when 'breaks' then interval '1 s' end,
                case key when 'begun' then 1 end,
                case key when 'parked' then now() + interval '1 hour'
                    when 'open' then now() - interval '1 s' end,
                key = 'begun'
             from (values ('used', 'named', 2), ('paused', '', 0), ('heavy', '', 0), ('set', '', 0),
                ('breaks', '', 0), ('begun', '', 0), ('parked', '', 0), ('ready', '', 0),
                ('lost', '', 0), ('coming', '', 0), ('running', '', 0),
                -- These are idle.
                ('open', '', 0), ('done', '', 0), ('', 'freed', 6), ('plain', '', 0)
             ) as l(key, limits, limiter)",
        )
        .await;
    let lane = async |key: &str| -> i64 {
        harkara_shared::database::query_scalar("select id from queue.lanes where key = $1")
            .bind(key)
            .fetch_one(&fixture.pool())
            .await
            .unwrap()
    };
    let mut rows = Vec::new();
    for ((key, state), id) in [
        ("ready", "a"),
        ("lost", "a"),
        ("coming", "s"),
        ("running", "r"),
        ("done", "d"),
    ]
    .into_iter()
    .zip(1..)
    {
        let more = json!({"lane": lane(key).await, "lost": key == "lost"});
        rows.push(row(id, 0, 0, 1, state, more));
    }
    fixture.put(&rows).await;
    fixture
        .execute("update queue.limiters set used_at = now() - interval '2 days'")
        .await;
    let lanes = fixture.count("select count(*) from queue.lanes").await;
    let removed = fixture.engine.retain(Retention::default()).await.unwrap();
    assert_eq!((removed.lanes, removed.limits), (4, 2));
    assert_eq!(
        fixture.count("select count(*) from queue.lanes").await,
        lanes - 4
    );
    let idle = "select count(*) from queue.lanes
        where key in ('open', 'done', 'plain') or limits = 'freed'";
    assert_eq!(fixture.count(idle).await, 0);
    let limiters = "select count(*) from queue.limiters where key in ('idle', 'freed')";
    assert_eq!(fixture.count(limiters).await, 0);
    assert_eq!(
        fixture.count("select count(*) from queue.limiters").await,
        4
    );
    let again = fixture.engine.retain(Retention::default()).await.unwrap();
    assert_eq!((again.lanes, again.limits), (0, 0));
}
