//! Crash tests: processes are killed, and no job is lost.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use harkara_shared::database::{query_as, query_scalar};
use harkara_shared::id::JobId;
use harkara_test_database::OwnCluster;
use harkara_tests::{Client, Fixture, Platform, Process, Receiver, Reply, until};
use serde_json::{Value, json};
use sqlx::PgPool;

const EVENTS: usize = 1200;
/// Jobs enqueued in one call: requests in the default lane, and some in ordered lanes.
const REQUESTS: usize = 800;
const ORDERED: usize = 80;
const WORKERS: usize = 3;
const SLOTS: usize = 8;

/// Posts the events, 16 at a time, and returns the job of each.
async fn post_events(client: &Client) -> HashMap<String, String> {
    let mut posting = tokio::task::JoinSet::new();
    for lane in 0..16 {
        let client = client.clone();
        posting.spawn(async move {
            let mut jobs = Vec::new();
            for nth in (lane..EVENTS).step_by(16) {
                let event = json!({"type": "order.paid", "data": {"nth": nth}});
                let answer = client.post("/v1/events", &event).await.ok();
                let id = answer["id"].as_str().unwrap().to_owned();
                let job = answer["deliveries"][0]["job_id"]
                    .as_str()
                    .unwrap()
                    .to_owned();
                jobs.push((id, job));
            }
            jobs
        });
    }
    posting.join_all().await.into_iter().flatten().collect()
}

/// Posts requests to the receiver by one call, so that they are stored in parcels of hundreds, and
/// returns the job of each.
async fn post_requests(client: &Client, url: &str) -> HashMap<String, String> {
    let names: Vec<String> = (0..REQUESTS).map(|nth| format!("req_{nth}")).collect();
    let jobs: Vec<Value> = names
        .iter()
        .enumerate()
        .map(|(nth, name)| {
            let mut job = json!({
                "kind": "http.request", "queue": "webhook",
                "payload": {"method": "POST", "url": url, "headers": {"webhook-id": name}},
            });
            if nth < ORDERED {
                job["ordering_key"] = json!(format!("line-{}", nth % 8));
            }
            job
        })
        .collect();
    let answer = client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await
        .ok();
    let ids = answer["ids"].as_array().unwrap().iter();
    names
        .into_iter()
        .zip(ids.map(|id| id.as_str().unwrap().to_owned()))
        .collect()
}

/// The rows of parcels, expanded to one per job.
macro_rules! members {
    () => {
        "(select p.*, coalesce(p.ids[m], p.id * 1024 + p.lo + m - 1) as job_id,
            case when m = any (coalesce(p.acked, '{}')) then 'd' else p.state::text end
                as job_state
          from queue.parcels p cross join generate_series(1, p.n) m
          where m <> all (coalesce(p.gone, '{}')))"
    };
}

async fn unfinished(pool: &PgPool) -> i64 {
    query_scalar("select count(*) from queue.parcels where state in ('s', 'a', 'r')")
        .fetch_one(pool)
        .await
        .unwrap_or(i64::MAX)
}

/// Asserts the invariants after any crash: every event arrived, every job succeeded, none is running.
async fn assert_all_delivered(pool: &PgPool, receiver: &Receiver, jobs: &HashMap<String, String>) {
    let delivered: HashSet<String> = receiver.deliveries().into_keys().collect();
    let lost: Vec<&String> = jobs.keys().filter(|id| !delivered.contains(*id)).collect();
    assert!(
        lost.is_empty(),
        "{} events never arrived, such as {:?}",
        lost.len(),
        lost.first()
    );
    let states: Vec<(String, i64)> = query_as(concat!(
        "select job_state, count(*) from ",
        members!(),
        " j where kind in (select id from queue.kinds
            where name in ('webhook.deliver', 'http.request'))
         group by 1"
    ))
    .fetch_all(pool)
    .await
    .unwrap();
    let all = i64::try_from(EVENTS + REQUESTS).unwrap();
    assert_eq!(states, [("d".to_owned(), all)]);
    let heads: i64 = query_scalar("select count(*) from queue.lanes where head is not null")
        .fetch_one(pool)
        .await
        .unwrap();
    assert_eq!(heads, 0, "a finished job is still the head of a lane");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_webhook_arrives_although_workers_are_killed_every_second() {
    let Fixture {
        database,
        platform,
        client,
        ..
    } = &Fixture::start().await;
    let pool = database.pool();
    // Slow enough that every kill finds jobs in flight.
    let slow = Reply {
        after: Duration::from_millis(80),
        ..Reply::status(200)
    };
    let receiver = Receiver::start(move |_| slow.clone()).await;
    client
        .post(
            "/v1/webhook-endpoints",
            &json!({"url": receiver.url, "event_types": []}),
        )
        .await
        .ok();

    let queues = format!("webhook={SLOTS}");
    let start = || platform.worker(&queues, 2, 5).0;
    let mut jobs = post_events(client).await;
    jobs.extend(post_requests(client, &receiver.url).await);
    assert_eq!(jobs.len(), EVENTS + REQUESTS);
    let mut workers: Vec<Process> = (0..WORKERS).map(|_| start()).collect();

    // Jobs that a killed worker held, with how often that happened to each.
    let mut held: HashMap<i64, usize> = HashMap::new();
    let mut kills = 0;
    let mut tick = tokio::time::interval(Duration::from_secs(1));
    tick.tick().await;
    while unfinished(&pool).await > 0 {
        tick.tick().await;
        let victim = kills % WORKERS;
        let pid = i32::try_from(workers[victim].pid()).unwrap();
        workers[victim].kill();
        let dead: Vec<i64> = query_scalar(concat!(
            "select p.job_id from ",
            members!(),
            " p join queue.leases l on l.id = p.lease
             join queue.workers w on w.id = l.worker_id
             where p.job_state = 'r' and w.pid = $1"
        ))
        .bind(pid)
        .fetch_all(&pool)
        .await
        .unwrap();
        assert!(
            dead.len() <= 2 * SLOTS,
            "a worker held {} jobs with {SLOTS} slots",
            dead.len()
        );
        for job in dead {
            *held.entry(job).or_default() += 1;
        }
        kills += 1;
        workers[victim] = start();
        assert!(kills < 120, "the jobs do not finish");
    }
    assert_all_delivered(&pool, &receiver, &jobs).await;
    assert!(
        kills >= 3,
        "only {kills} kills: the scenario is too fast to prove anything"
    );

    // A duplicate is a job that a killed worker held, once for each time.
    let mut duplicates = 0;
    for (event, times) in receiver.deliveries() {
        let job: JobId = jobs[&event].parse().unwrap();
        let allowed = held.get(&job.as_i64()).copied().unwrap_or_default();
        assert!(
            times <= 1 + allowed,
            "{event} arrived {times} times, held at {allowed} kills"
        );
        duplicates += times - 1;
    }
    println!(
        "{kills} kills, {} jobs in flight at one, {duplicates} duplicates",
        held.len()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_webhook_arrives_although_postgres_crashes() {
    let mut cluster = OwnCluster::start().await;
    let pool = cluster.pool();
    let platform = Platform::on(cluster.url(), pool.clone());
    let (_api, address) = platform.api().await;
    let client = platform.tenant("acme", address).await;
    let slow = Reply {
        after: Duration::from_millis(40),
        ..Reply::status(200)
    };
    let receiver = Receiver::start(move |_| slow.clone()).await;
    client
        .post(
            "/v1/webhook-endpoints",
            &json!({"url": receiver.url, "event_types": []}),
        )
        .await
        .ok();
    let mut jobs = post_events(&client).await;
    jobs.extend(post_requests(&client, &receiver.url).await);

    let queues = format!("webhook={SLOTS}");
    let _workers: Vec<Process> = (0..WORKERS)
        .map(|_| platform.worker(&queues, 5, 5).0)
        .collect();
    let mut stops = 0;
    for part in [jobs.len() / 4, jobs.len() / 2] {
        until(
            "some webhooks have arrived",
            Duration::from_secs(120),
            || async { (receiver.deliveries().len() >= part).then_some(()) },
        )
        .await;
        cluster.stop_immediate().await;
        stops += 1;
        // During the outage the API reports it with Retry-After.
        let refused = client
            .post("/v1/events", &json!({"type": "a.b", "data": {}}))
            .await;
        assert_eq!(refused.status, 503, "{}", refused.body);
        assert_eq!(refused.body["code"], "database_unavailable");
        assert!(refused.headers.contains_key("retry-after"));
        cluster.start_again().await;
    }
    until("every job has ended", Duration::from_secs(180), || async {
        (unfinished(&pool).await == 0).then_some(())
    })
    .await;
    assert_all_delivered(&pool, &receiver, &jobs).await;

    // In flight at a stop: the claimed jobs of the workers, and the outcomes just handed over for
    // settlement, at most the same number.
    let duplicates: usize = receiver.deliveries().values().map(|times| times - 1).sum();
    let bound = stops * WORKERS * SLOTS * 2;
    assert!(
        duplicates <= bound,
        "{duplicates} duplicates after {stops} stops, bound {bound}"
    );
    println!("{stops} stops, {duplicates} duplicates");
    // The API has recovered by itself.
    let accepted = client
        .post("/v1/events", &json!({"type": "a.b", "data": {}}))
        .await;
    assert_eq!(accepted.status, 202, "{}", accepted.body);
}

#[tokio::test(flavor = "multi_thread")]
async fn job_that_kills_its_worker_each_time_is_dead_after_its_attempts() {
    let Fixture {
        platform, client, ..
    } = &Fixture::start().await;
    // The request never ends by itself; the worker is killed while it waits.
    let endless = Reply {
        after: Duration::from_secs(600),
        ..Reply::status(200)
    };
    let receiver = Receiver::start(move |_| endless.clone()).await;
    let job = json!({
        "kind": "http.request", "max_attempts": 2, "timeout": "1h",
        "payload": {"method": "GET", "url": receiver.url},
    });
    let id = client.post("/v1/jobs", &job).await.text("id");
    for run in 1..=2 {
        let (mut worker, _) = platform.worker("http=2", 1, 1);
        until(
            "the job has reached its receiver",
            Duration::from_secs(60),
            || async { (receiver.hits().len() == run).then_some(()) },
        )
        .await;
        worker.kill();
    }
    let (_worker, _) = platform.worker("http=2", 1, 1);
    let path = format!("/v1/jobs/{id}");
    let job = until("the job is dead", Duration::from_secs(60), || async {
        let job = client.get(&path).await.ok();
        (job["state"] == "dead").then_some(job)
    })
    .await;
    assert_eq!(job["last_error"]["code"], "worker_lost");
    assert_eq!(job["attempt"], 2);
    let attempts = client.get(&format!("{path}/attempts")).await.ok();
    let outcomes: Vec<&Value> = attempts["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|attempt| &attempt["outcome"])
        .collect();
    assert_eq!(outcomes, ["lost", "lost"]);
    assert_eq!(receiver.hits().len(), 2);
}
