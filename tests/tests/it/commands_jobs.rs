//! CLI commands for jobs and workers.

use harkara_accounts::find_tenant;
use harkara_queue::job::{Lane, NewJob, Trace};
use harkara_queue::{Engine, Quota};
use harkara_shared::backoff::Backoff;
use harkara_shared::database::{TenantTx, query};
use harkara_shared::id::{JobId, WorkerId};
use harkara_test_database::TestDatabase;
use serde_json::{Value, json};

use crate::commands::{database_with_tenant, run, run_json};

fn a_job(queue: &str, tag: &str) -> NewJob {
    NewJob {
        kind: "http.request".to_owned(),
        queue: queue.to_owned(),
        payload: serde_json::value::to_raw_value(&json!({"url": "http://x"})).unwrap(),
        priority: 5,
        run_at: None,
        delay: std::time::Duration::ZERO,
        expires_at: None,
        max_attempts: 3,
        timeout: std::time::Duration::from_secs(30),
        backoff: Backoff::default(),
        unique: None,
        lane: Lane::Default,
        limits: Vec::new(),
        tags: vec![tag.to_owned()],
        trace: Trace::default(),
    }
}

async fn enqueue(database: &TestDatabase, tenant: &str, jobs: Vec<NewJob>) -> Vec<JobId> {
    let pool = database.pool();
    let engine = Engine::new(pool.clone(), false);
    let tenant = find_tenant(&pool, tenant).await.unwrap().unwrap().id;
    let mut tx = TenantTx::begin(&pool, tenant).await.unwrap();
    let jobs = engine
        .enqueue_all(&mut tx, tenant, jobs, Quota::Skip)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    jobs.iter().map(|job| job.id()).collect()
}

fn ids(list: &Value) -> Vec<&str> {
    let jobs = list["data"].as_array().unwrap();
    jobs.iter().map(|job| job["id"].as_str().unwrap()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_listed_shown_explained_cancelled_and_retried() {
    let database = database_with_tenant().await;
    run_json(&database, &["tenant", "create", "Other"]).await;
    let jobs = vec![a_job("http", "red"), a_job("mail", "blue")];
    let own = enqueue(&database, "acme", jobs).await;
    let other = enqueue(&database, "other", vec![a_job("http", "red")]).await;
    let (first, second, third) = (own[0].to_string(), own[1].to_string(), other[0].to_string());

    // Filtered by tenant and by every filter of the API; of all tenants together, newest first.
    let list = async |more: &[&str]| run_json(&database, &[&["job", "ls"], more].concat()).await;
    assert_eq!(ids(&list(&[]).await), [&*third, &*second, &*first]);
    assert_eq!(ids(&list(&["--limit", "1"]).await), [&*third]);
    let acme = ["--tenant", "acme"];
    assert_eq!(ids(&list(&acme).await), [&*second, &*first]);
    for filter in [["--queue", "http"], ["--tag", "red"]] {
        let more = [&acme[..], &filter[..]].concat();
        assert_eq!(ids(&list(&more).await), [&*first], "{filter:?}");
    }
    assert_eq!(
        ids(&list(&["--state", "ready", "--kind", "http.request"]).await).len(),
        3
    );
    for filter in [
        ["--state", "dead"],
        ["--unique-key", "k"],
        ["--ordering-key", "k"],
        ["--error-code", "x"],
        ["--created-after", "2099-01-01T00:00:00Z"],
        ["--created-before", "2000-01-01T00:00:00Z"],
    ] {
        assert_eq!(ids(&list(&filter).await), [""; 0], "{filter:?}");
    }
    let (_, lines) = run(&database, &["job", "ls", "--tenant", "acme"]).await;
    let line = format!("{second} ready     http.request in mail, attempt 0 of 3, due 20");
    assert!(lines.contains(&line), "{lines}");

    let shown = run_json(&database, &["job", "show", &first]).await;
    assert_eq!(
        (&shown["id"], &shown["payload"]),
        (&json!(first), &json!({"url": "http://x"}))
    );
    let (_, lines) = run(&database, &["job", "show", &first, "--tenant", "acme"]).await;
    assert!(
        lines.contains("payload       {\"url\":\"http://x\"}"),
        "{lines}"
    );

    run_json(&database, &["queue", "pause", "http"]).await;
    let explained = run_json(&database, &["job", "explain", &first]).await;
    assert_eq!(
        (&explained["state"], &explained["runnable"]),
        (&json!("ready"), &json!(false))
    );
    let codes = explained["reasons"].as_array().unwrap().iter();
    let codes: Vec<&Value> = codes.map(|reason| &reason["code"]).collect();
    assert_eq!(codes, ["queue_paused", "no_worker"]);
    let (_, lines) = run(&database, &["job", "explain", &first]).await;
    assert!(lines.contains(&format!("{first} is ready\n")), "{lines}");
    let line = "queue_paused       the queue `http` is paused: none of its jobs start until it is \
        resumed, since 20";
    assert!(lines.contains(line), "{lines}");

    let cancelled = run_json(&database, &["job", "cancel", &third, "--tenant", "other"]).await;
    assert_eq!(cancelled["state"], "cancelled");
    let retried = run_json(&database, &["job", "retry", &third]).await;
    assert_eq!(retried["state"], "ready");

    let unknown_job = JobId::from_i64(1 << 50).to_string();
    for (args, code, words) in [
        (&["job", "show", &unknown_job][..], 1, "not found"),
        (&["job", "explain", "job_x"], 2, "invalid id"),
        (
            &["job", "retry", &first],
            1,
            "the job is ready; only a job that is dead or cancelled",
        ),
        (
            &["job", "explain", &first, "--tenant", "other"],
            1,
            "not found",
        ),
        (
            &["job", "cancel", &first, "--tenant", "none"],
            1,
            "tenant `none` not found",
        ),
        (
            &["job", "ls", "--state", "lost"],
            2,
            "must be one of scheduled, ready",
        ),
    ] {
        let (ended, output) = run(&database, args).await;
        assert_eq!(ended, Some(code), "{args:?}: {output}");
        assert!(output.contains(words), "{args:?}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn live_workers_are_listed() {
    let database = database_with_tenant().await;
    assert_eq!(
        run_json(&database, &["worker", "ls"]).await,
        json!({"data": []})
    );
    let id = WorkerId::new();
    query("insert into queue.workers (id, host, pid, version, queues) values ($1, 'one', 1, '0.1', $2)")
        .bind(id)
        .bind(json!({"http": 8}))
        .execute(&database.pool())
        .await
        .unwrap();
    query(
        "insert into queue.leases (worker_id, expires_at) values ($1, now() + interval '1 hour')",
    )
    .bind(id)
    .execute(&database.pool())
    .await
    .unwrap();
    let workers = run_json(&database, &["worker", "ls"]).await;
    let worker = &workers["data"][0];
    assert_eq!(
        (&worker["id"], &worker["host"]),
        (&json!(id), &json!("one"))
    );
    assert_eq!(
        (&worker["queues"], &worker["running"]),
        (&json!({"http": 8}), &json!(0))
    );
    let (_, lines) = run(&database, &["worker", "ls"]).await;
    assert!(lines.contains("0 running, http=8"), "{lines}");
}
