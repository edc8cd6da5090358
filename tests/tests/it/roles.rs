//! Database roles: processes run as a role that owns nothing; owner, engine and application are separate.

use std::time::Duration;

use harkara_shared::database::query;
use harkara_test_database::TestDatabase;
use harkara_tests::{Platform, Receiver, Reply, until};
use serde_json::json;
use sqlx::PgPool;
use url::Url;

const JOB_TIMEOUT: Duration = Duration::from_secs(60);

/// The URL of the database for a login role that has the runtime roles and owns nothing.
async fn as_runtime(database: &TestDatabase) -> (PgPool, String) {
    let superuser = PgPool::connect(&database.superuser_url()).await.unwrap();
    query(
        "do $$ begin
            if not exists (select from pg_roles where rolname = 'harkara_run') then
                create role harkara_run login password 'harkara_run';
                grant harkara_app, harkara_engine to harkara_run;
            end if;
         exception when duplicate_object or unique_violation then null;
         end $$",
    )
    .execute(&superuser)
    .await
    .unwrap();
    let mut url: Url = database.url().parse().unwrap();
    // A socket URL names its user in the query.
    let user = ("user".to_owned(), "harkara_run".to_owned());
    let pairs: Vec<(String, String)> = url.query_pairs().into_owned().collect();
    if pairs.iter().any(|(name, _)| name == "user") {
        let rest = pairs.into_iter().filter(|(name, _)| name != "user");
        let all: Vec<(String, String)> = rest.chain([user]).collect();
        url.query_pairs_mut().clear().extend_pairs(all);
    } else {
        url.set_username("harkara_run").unwrap();
        url.set_password(Some("harkara_run")).unwrap();
    }
    let url = url.to_string();
    (PgPool::connect(&url).await.unwrap(), url)
}

#[tokio::test(flavor = "multi_thread")]
async fn platform_runs_without_owning_its_tables() {
    let database = TestDatabase::create().await;
    let (pool, url) = as_runtime(&database).await;
    let platform = Platform::on(url, pool.clone());
    let (_api, address) = platform.api().await;
    let client = platform.tenant("acme", address).await;
    let (_worker, _) = platform.worker("http=4,webhook=4,maintenance=1", 30, 5);
    let (_scheduler, _) = platform.scheduler();
    let receiver = Receiver::start(|nth| Reply::status(if nth == 0 { 500 } else { 204 })).await;

    // A job that fails once, a delivery, a cancel, a batch, a redrive, lists and statistics.
    let job = json!({
        "kind": "http.request", "unique_key": "one", "tags": ["a"], "ordering_key": "o",
        "backoff": {"base": "100ms", "factor": 1, "max": "1s", "jitter": "none"},
        "payload": {"url": receiver.url},
    });
    let id = client.post("/v1/jobs", &job).await.text("id");
    let endpoint = json!({"url": receiver.url});
    client.post("/v1/webhook-endpoints", &endpoint).await.ok();
    let event = json!({"type": "a.b", "data": {}});
    let event = client.post("/v1/events", &event).await.ok();
    let delivery = event["deliveries"][0]["id"].as_str().unwrap().to_owned();
    for path in [
        format!("/v1/jobs/{id}"),
        format!("/v1/deliveries/{delivery}"),
    ] {
        until("the job has succeeded", JOB_TIMEOUT, || async {
            let thing = client.get(&path).await.ok();
            (thing["state"] == "succeeded").then_some(())
        })
        .await;
    }
    let late = json!({"kind": "http.request", "delay": "1h", "payload": {"url": receiver.url}});
    let late = client.post("/v1/jobs", &late).await.text("id");
    client
        .post(&format!("/v1/jobs/{late}/cancel"), &json!({}))
        .await
        .ok();
    let bulk = json!({"action": "delete", "filter": {"state": "cancelled"}});
    let redrive = client.post("/v1/jobs/bulk", &bulk).await.text("job_id");
    until("the redrive has finished", JOB_TIMEOUT, || async {
        let job = client.get(&format!("/v1/jobs/{redrive}")).await.ok();
        (job["state"] == "succeeded").then_some(())
    })
    .await;
    for path in [
        "/v1/jobs?tag=a",
        "/v1/queues",
        "/v1/workers",
        "/v1/stats",
        "/v1/audit-logs",
        "/v1/api-keys",
        "/v1/deliveries",
    ] {
        client.get(path).await.ok();
    }
    assert_eq!(
        client.get("/v1/audit-logs/verify").await.ok()["intact"],
        true
    );
    until(
        "the schedules have their next slots",
        JOB_TIMEOUT,
        || async {
            let waiting: i64 = harkara_shared::database::query_scalar(
                "select count(*) from app.schedules where next_slot is null",
            )
            .fetch_one(&pool)
            .await
            .unwrap();
            (waiting == 0).then_some(())
        },
    )
    .await;

    // Statements that only the owner can run.
    for sql in [
        "alter table app.audit_log disable trigger all",
        "alter table app.audit_log no force row level security",
        "drop table app.audit_log",
        "truncate app.events",
        "create table app.mine (x int)",
        "update app.audit_log set reason = 'x'",
        "insert into app.roles_of_mine values (1)",
        "create role harkara_other superuser",
    ] {
        let refused = query(sql).execute(&pool).await.unwrap_err();
        let code = refused
            .as_database_error()
            .and_then(|error| error.code())
            .unwrap();
        assert!(
            matches!(code.as_ref(), "42501" | "42P01"),
            "{sql}: {refused}"
        );
    }
}

#[tokio::test]
async fn tenant_role_sees_nothing_without_a_tenant_and_the_engine_role_sees_no_resource() {
    let database = TestDatabase::create().await;
    let (pool, _) = as_runtime(&database).await;
    let tables: Vec<String> = harkara_shared::database::query_scalar(
        "select c.oid::regclass::text from pg_class c
         where c.relkind in ('r', 'p') and c.relnamespace = 'app'::regnamespace
           and has_table_privilege('harkara_app', c.oid, 'select') and c.relrowsecurity",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    assert!(tables.len() >= 8, "{tables:?}");
    let count = "create function pg_temp.seen(of text) returns bigint language plpgsql as
        $$ declare n bigint; begin execute 'select count(*) from ' || of into n; return n; end $$";
    let mut connection = pool.acquire().await.unwrap();
    query(count).execute(&mut *connection).await.unwrap();
    query("set role harkara_app")
        .execute(&mut *connection)
        .await
        .unwrap();
    for table in tables {
        let seen: i64 = harkara_shared::database::query_scalar("select pg_temp.seen($1)")
            .bind(&table)
            .fetch_one(&mut *connection)
            .await
            .unwrap();
        assert_eq!(seen, 0, "{table}");
    }
}
