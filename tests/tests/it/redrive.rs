//! Bulk actions: every job is changed once, at the requested rate, despite worker deaths.

use std::collections::HashMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use harkara_shared::database::{query, query_as, query_scalar};
use harkara_tests::{Client, Fixture, Receiver, Reply, until};
use serde_json::{Value, json};
use sqlx::PgPool;

const REDRIVE_TIMEOUT: Duration = Duration::from_secs(300);

/// The allowed relative deviation of a rate.
const TOLERANCE: f64 = 0.05;

/// Writes dead jobs in rows of their own and cancelled jobs in parcels of a hundred, as the engine does.
/// No worker serves their queue.
async fn bury(pool: &PgPool, dead: i64, cancelled: i64) {
    for prepare in [
        "insert into queue.tenants (id) select id from app.tenants where slug = 'acme'
         on conflict do nothing",
        "insert into queue.kinds (name) values ('http.request') on conflict do nothing",
        "insert into queue.queues (name) values ('unserved') on conflict do nothing",
        "insert into queue.lanes (queue, tenant)
         select q.id, t.number from queue.queues q, queue.tenants t, app.tenants a
         where q.name = 'unserved' and t.id = a.id and a.slug = 'acme'",
    ] {
        query(prepare).execute(pool).await.unwrap();
    }
    for (state, rows, n) in [("x", dead, 1), ("c", cancelled / 100, 100)] {
        query(
            "insert into queue.parcels (lane, run_at, queue, tenant, kind, priority, attempt,
                max_attempts, n, state, started_at, finished_at, error_code, error_message, body)
             select l.id, now(), l.queue, l.tenant, k.id, 5, 3, 3, $3::int2, $1::\"char\", now(),
                now(), 'http_503', 'the receiver answered 503',
                array_fill(convert_to('{\"p\":{\"url\":\"http://127.0.0.1:1/\"},\"t\":1000}', 'UTF8'),
                    array[$3::int4])
             from generate_series(1, $2), queue.lanes l
             join queue.queues q on q.id = l.queue and q.name = 'unserved'
             join queue.kinds k on k.name = 'http.request'",
        )
        .bind(state)
        .bind(rows)
        .bind(n)
        .execute(pool)
        .await
        .unwrap();
    }
    query(
        "insert into queue.deltas (tenant, queue, kind, dead)
         select l.tenant, l.queue, k.id, $1::int4 from queue.lanes l
         join queue.queues q on q.id = l.queue and q.name = 'unserved'
         join queue.kinds k on k.name = 'http.request'",
    )
    .bind(i32::try_from(dead).unwrap())
    .execute(pool)
    .await
    .unwrap();
}

/// The times at which batches became ready, by the database's clock, with their number of jobs.
async fn batches(pool: &PgPool) -> Vec<(DateTime<Utc>, f64)> {
    query_as(
        "select p.run_at, sum(p.n - coalesce(cardinality(p.gone), 0))::float8
         from queue.parcels p
         where p.state = 'a' and p.queue = (select id from queue.queues where name = 'unserved')
         group by p.run_at order by p.run_at",
    )
    .fetch_all(pool)
    .await
    .unwrap()
}

/// The periods in which a worker was alive: batches without a long pause between them.
fn lives(batches: &[(DateTime<Utc>, f64)]) -> Vec<&[(DateTime<Utc>, f64)]> {
    batches
        .chunk_by(|one, next| next.0 - one.0 < chrono::Duration::milliseconds(700))
        .collect()
}

/// The highest and the lowest rate in any window of `window` seconds within one period.
fn rates(life: &[(DateTime<Utc>, f64)], window: f64) -> Option<(f64, f64)> {
    let since = |at: DateTime<Utc>| (at - life[0].0).as_seconds_f64();
    let end = since(life.last()?.0);
    let (mut least, mut most) = (f64::MAX, 0_f64);
    for (first, (begin, _)) in life.iter().enumerate() {
        let begin = since(*begin);
        if begin + window > end {
            break;
        }
        let jobs: f64 = life[first..]
            .iter()
            .take_while(|(at, _)| since(*at) < begin + window)
            .map(|(_, jobs)| jobs)
            .sum();
        least = least.min(jobs / window);
        most = most.max(jobs / window);
    }
    (most > 0.0).then_some((least, most))
}

fn number(value: &Value) -> u64 {
    value
        .as_u64()
        .unwrap_or_else(|| panic!("not a number: {value}"))
}

/// Follows a redrive until it has changed this many jobs; asserts that its progress never decreases.
async fn follow(client: &Client, path: &str, seen: &mut (u64, String), done: u64) -> Value {
    let seen = std::sync::Mutex::new(seen);
    until("the redrive progresses", REDRIVE_TIMEOUT, || async {
        let job = client.get(path).await.ok();
        let progress = &job["progress"];
        let now = number(&progress["done"]);
        let cursor = progress["cursor"].as_str().unwrap_or_default().to_owned();
        let mut seen = seen.lock().unwrap();
        assert!(
            now >= seen.0 && cursor >= seen.1,
            "{seen:?}, then {progress}"
        );
        **seen = (now, cursor);
        let is_over = job["state"] == "succeeded";
        (now >= done || is_over).then_some(job)
    })
    .await
}

/// Redrives `dead` and `cancelled` jobs at `rate` a second with the worker killed twice.
async fn redrive(dead: i64, cancelled: i64, rate: u64) -> Vec<Vec<(DateTime<Utc>, f64)>> {
    let Fixture {
        database,
        platform,
        client,
        ..
    } = &Fixture::start().await;
    let pool = database.pool();
    bury(&pool, dead, cancelled).await;
    let all = u64::try_from(dead + cancelled).unwrap();
    let filter = match cancelled {
        0 => json!({"state": "dead"}),
        _ => json!({"queue": "unserved"}),
    };
    let rehearsal = json!({"action": "retry", "filter": filter, "dry_run": true});
    let response = client.post("/v1/jobs/bulk", &rehearsal).await.ok();
    assert_eq!(response, json!({"job_id": null, "matched": all}));
    let request = json!({"action": "retry", "filter": filter, "rate_per_second": rate});
    let response = client.post("/v1/jobs/bulk", &request).await.ok();
    assert_eq!(number(&response["matched"]), all);
    let path = format!("/v1/jobs/{}", response["job_id"].as_str().unwrap());
    let requested_at: DateTime<Utc> = query_scalar("select clock_timestamp()")
        .fetch_one(&pool)
        .await
        .unwrap();
    // Dead after the request, so it is not part of the redrive.
    bury_one_more(&pool).await;

    let mut seen = (0, String::new());
    for part in [all / 3, all * 2 / 3] {
        let (mut worker, _) = platform.worker("maintenance=1", 2, 5);
        follow(client, &path, &mut seen, part).await;
        worker.kill();
    }
    let (_worker, _) = platform.worker("maintenance=1", 2, 5);
    let job = follow(client, &path, &mut seen, u64::MAX).await;
    assert_eq!(
        job["result"],
        json!({"action": "retry", "matched": all, "done": all, "undone": {}})
    );

    // Each job exactly once: the counters include every change, and all jobs are ready.
    let (ready, left): (i64, i64) = query_as(
        "select sum(c.ready)::int8, sum(c.dead)::int8
         from queue.queues q join (
            select queue, ready, dead from queue.deltas
            union all
            select queue, ready, dead from queue.tallies
         ) c on c.queue = q.id
         where q.name = 'unserved'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!((ready, left), (dead + cancelled, 0));
    let states: Vec<(String, i16, i64)> = query_as(
        "select p.state::text, p.attempt, count(*)
         from queue.parcels p cross join generate_series(1, p.n) m
         where m <> all (coalesce(p.gone, '{}'))
           and p.queue = (select id from queue.queues where name = 'unserved')
         group by 1, 2 order by 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let expected = [
        ("a".to_owned(), 0, dead + cancelled),
        ("x".to_owned(), 3, 1),
    ];
    assert_eq!(states, expected);
    let batches = batches(&pool).await;
    assert!(batches.first().unwrap().0 > requested_at);
    let lives: Vec<Vec<_>> = lives(&batches).into_iter().map(<[_]>::to_vec).collect();
    assert!(lives.len() >= 3, "{} lives", lives.len());
    lives
}

async fn bury_one_more(pool: &PgPool) {
    query(
        "insert into queue.parcels (lane, run_at, queue, tenant, kind, priority, attempt,
            max_attempts, state, finished_at, body)
         select lane, now(), queue, tenant, kind, 5, 3, 3, 'x', now(), body
         from queue.parcels where state = 'x' order by id limit 1",
    )
    .execute(pool)
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn redrive_runs_each_job_once_although_the_worker_is_killed_twice() {
    let rate = 2000.0;
    for life in redrive(4000, 2000, 2000).await {
        if let Some((_, most)) = rates(&life, 1.0) {
            assert!(most <= rate * (1.0 + TOLERANCE), "{most} a second");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes two minutes: run by .ci/run"]
async fn redrive_of_200_000_jobs_keeps_its_rate_of_2_000_a_second() {
    let rate = 2000.0;
    for life in redrive(200_000, 0, 2000).await {
        let jobs: f64 = life.iter().map(|(_, jobs)| jobs).sum();
        for window in [1.0, 2.0, 10.0] {
            let Some((least, most)) = rates(&life, window) else {
                continue;
            };
            println!("{jobs} jobs, over {window} s: {least} to {most} a second");
            assert!(most <= rate * (1.0 + TOLERANCE), "{most} a second");
            if window > 1.0 {
                assert!(least >= rate * (1.0 - TOLERANCE), "{least} a second");
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bulk_cancel_handles_jobs_that_run_and_finish_meanwhile() {
    const JOBS: u64 = 600;
    let Fixture {
        database,
        platform,
        client,
        ..
    } = &Fixture::start().await;
    let slow = Reply {
        after: Duration::from_millis(10),
        ..Reply::status(200)
    };
    let receiver = Receiver::start(move |_| slow.clone()).await;
    let jobs: Vec<Value> = (0..JOBS)
        .map(|nth| {
            json!({
                "kind": "http.request", "tags": ["sale"],
                "payload": {"method": "POST", "url": receiver.url,
                    "headers": {"webhook-id": format!("req_{nth}")}},
            })
        })
        .collect();
    client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await
        .ok();
    let request = json!({"action": "cancel", "filter": {"tag": "sale"}, "rate_per_second": 500});
    let response = client.post("/v1/jobs/bulk", &request).await.ok();
    assert_eq!(response["matched"], JOBS);
    let path = format!("/v1/jobs/{}", response["job_id"].as_str().unwrap());
    let (_worker, _) = platform.worker("http=8,maintenance=1", 5, 5);
    let job = until("the bulk cancel has finished", REDRIVE_TIMEOUT, || async {
        let job = client.get(&path).await.ok();
        (job["state"] == "succeeded").then_some(job)
    })
    .await;
    let pool = database.pool();
    until("every job has ended", REDRIVE_TIMEOUT, || async {
        let waiting: i64 =
            query_scalar("select count(*) from queue.parcels where state in ('s', 'a', 'r')")
                .fetch_one(&pool)
                .await
                .unwrap();
        (waiting == 0).then_some(())
    })
    .await;
    let ends: Vec<(String, i64)> = query_as(
        "select case when m = any (p.acked) then 'd' else p.state::text end, count(*)
         from queue.parcels p cross join generate_series(1, p.n) m
         where m <> all (coalesce(p.gone, '{}'))
           and p.kind = (select id from queue.kinds where name = 'http.request')
         group by 1",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    let ends: HashMap<String, u64> = ends
        .into_iter()
        .map(|(state, jobs)| (state, u64::try_from(jobs).unwrap()))
        .collect();
    let count = |state: &str| ends.get(state).copied().unwrap_or_default();
    assert_eq!(
        count("c") + count("d"),
        JOBS,
        "{ends:?}: no job may be lost or counted twice"
    );
    let result = &job["result"];
    let undone = result["undone"].as_object().unwrap();
    let undone: u64 = undone.values().map(number).sum();
    let done = number(&result["done"]);
    // A job that received the cancel can have finished its work by then.
    assert!(
        count("c") <= done && done + undone <= JOBS,
        "{result}, {ends:?}"
    );
    assert!(count("c") > 0, "{ends:?}");
    assert!(
        receiver.deliveries().into_values().all(|times| times == 1),
        "no job may run twice"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn cancelled_redrive_stops_where_it_is() {
    let Fixture {
        database,
        platform,
        client,
        ..
    } = &Fixture::start().await;
    bury(&database.pool(), 1000, 0).await;
    let request = json!({"action": "delete", "filter": {"state": "dead"}, "rate_per_second": 100});
    let response = client.post("/v1/jobs/bulk", &request).await.ok();
    let path = format!("/v1/jobs/{}", response["job_id"].as_str().unwrap());
    let (_worker, _) = platform.worker("maintenance=1", 5, 5);
    let mut seen = (0, String::new());
    follow(client, &path, &mut seen, 20).await;
    client
        .post(&format!("{path}/cancel"), &json!({}))
        .await
        .ok();
    let job = until("the redrive stops", REDRIVE_TIMEOUT, || async {
        let job = client.get(&path).await.ok();
        (job["state"] == "cancelled").then_some(job)
    })
    .await;
    let deleted = number(&job["progress"]["done"]);
    assert!((20..1000).contains(&deleted), "{deleted}");
    let left: i64 = query_scalar("select count(*) from queue.parcels where state = 'x'")
        .fetch_one(&database.pool())
        .await
        .unwrap();
    assert_eq!(left, 1000 - i64::try_from(deleted).unwrap());
}
