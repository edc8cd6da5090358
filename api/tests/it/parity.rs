//! `queue.enqueue` applies the rules of `POST /v1/jobs` and returns the same results.

#![expect(
    clippy::disallowed_types,
    reason = "statements name a role that is made for the test"
)]

use chrono::SubsecRound;
use harkara_accounts::{Scope, ensure_platform};
use harkara_jobs::publish::publish;
use harkara_queue::Engine;
use harkara_shared::clock;
use harkara_shared::database::{query_as, query_scalar};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgDatabaseError};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row};

use crate::bad_input::bad_jobs;
use crate::jobs::{a_job, a_job_with};
use crate::support::Platform;

const PASSWORD: &str = "open sesame";

/// A platform, and an application on its database that is allowed to enqueue for the same tenant.
struct Both {
    platform: Platform,
    role: String,
    app: PgConnection,
}

impl Drop for Both {
    fn drop(&mut self) {
        // Roles belong to the cluster, which can outlive this test.
        let url = self.platform.database.superuser_url();
        let sql = format!("drop owned by {0}; drop role {0}", self.role);
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let mut connection = PgConnection::connect(&url).await.unwrap();
                connection.execute(AssertSqlSafe(sql)).await.ok();
            });
        })
        .join()
        .ok();
    }
}

impl Both {
    async fn start() -> Self {
        let platform = Platform::start().await;
        let role = format!("shop_{}", platform.acme.id.as_uuid().simple());
        let url = platform.database.superuser_url();
        let mut connection = PgConnection::connect(&url).await.unwrap();
        let sql = format!("create role {role} login password '{PASSWORD}'");
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
        let engine = Engine::new(platform.pool.clone(), true);
        publish(&engine).await.unwrap();
        let acme = Some(platform.acme.id);
        engine.grant_client(&role, acme).await.unwrap();
        let options: PgConnectOptions = platform.database.url().parse().unwrap();
        let options = options.username(&role).password(PASSWORD);
        let app = options.connect().await.unwrap();
        Self {
            platform,
            role,
            app,
        }
    }

    /// Enqueues one job with `enqueue_many`: pointers begin with `/jobs/0`, as in a batch.
    async fn many(&mut self, job: &Value) -> Result<String, sqlx::Error> {
        let row = query_scalar("select id from queue.enqueue_many($1::jsonb)");
        row.bind(json!([job])).fetch_one(&mut self.app).await
    }

    /// Enqueues one job by named parameters.
    async fn one(&mut self, job: &Value) -> Result<(String, bool, String), sqlx::Error> {
        let quoted = |value: &Value| {
            let text = value
                .as_str()
                .map_or_else(|| value.to_string(), str::to_owned);
            format!("'{}'", text.replace('\'', "''"))
        };
        let members = job.as_object().unwrap().iter();
        let parameters: Vec<String> = members
            .map(|(name, value)| match name.as_str() {
                "tags" => {
                    let tags: Vec<String> = value.as_array().unwrap().iter().map(quoted).collect();
                    format!("tags => array[{}]::text[]", tags.join(","))
                }
                name => format!("{name} => {}", quoted(value)),
            })
            .collect();
        let call = format!("select * from queue.enqueue({})", parameters.join(", "));
        let row = self.app.fetch_one(AssertSqlSafe(call)).await?;
        Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?))
    }
}

/// Pointers and codes of a validation error, in order.
fn field_errors(error: &sqlx::Error) -> Vec<(String, String)> {
    let error: &PgDatabaseError = error.as_database_error().unwrap().downcast_ref();
    assert_eq!(error.code(), "HK422", "{error}");
    let faults: Value = serde_json::from_str(error.detail().unwrap()).unwrap();
    let text = |fault: &Value, name: &str| fault[name].as_str().unwrap().to_owned();
    let mut faults: Vec<_> = faults
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| (text(fault, "pointer"), text(fault, "code")))
        .collect();
    faults.sort();
    faults
}

/// Further invalid jobs, each with errors that both interfaces report together.
fn more_bad_jobs() -> Vec<Value> {
    let payload = |member: &str, value: Value| json!({"kind": "http.request", "payload": {"url": "https://example.com", member: value}});
    vec![
        payload("method", json!(7)),
        payload("method", json!("get")),
        payload("url", json!("example.com/path")),
        payload("url", json!("ftp://example.com")),
        payload("url", json!("")),
        payload("headers", json!([])),
        payload("headers", json!({"a": 1})),
        payload(
            "headers",
            json!({"a b": "x", "Host": "x", "x-ok": "a\nb", "": "x"}),
        ),
        payload("headers", json!({"transfer-encoding": "x", "a/b": "x"})),
        payload("success_status", json!([])),
        payload("success_status", json!(["2xx", "6xx", "abc", "99"])),
        payload("retryable_status", json!(["600", "404"])),
        payload("retryable_status", json!([404])),
        payload("success_status", json!("2xx")),
        json!({"kind": "http.request", "payload": {"url": "https://example.com", "method": "BREW",
            "success_status": ["x"]}, "priority": 10, "prioritty": 1, "timeout": 5,
            "max_attempts": "3", "tags": ["a", "a"], "backoff": {"base": "x", "factor": 0}}),
        json!({"kind": "webhook.deliver", "payload": {"delivery_id": "dlv_1"}}),
        json!({"kind": "webhook.deliver", "payload": {"delivery_id": 1}}),
        json!({"kind": "webhook.deliver", "payload": {}}),
        json!({"kind": "maintenance.retention", "payload": {}}),
        json!({}),
        json!(null),
        a_job_with("backoff", json!({"base": "2h"})),
        a_job_with("backoff", json!({"factor": "2", "jitter": 1, "max": 5})),
        a_job_with(
            "limits",
            json!([{"key": 1}, {"cost": "1"}, {"key": "a", "cost": 1.5}]),
        ),
        a_job_with("limits", json!([null])),
        a_job_with("tags", json!("a")),
        a_job_with("tags", json!([null])),
        a_job_with("delay", json!("1m1h")),
        a_job_with("delay", json!("")),
        a_job_with("delay", json!("1.5s")),
        a_job_with("run_at", json!("2030-02-30T00:00:00Z")),
        a_job_with("run_at", json!("2030-01-01 00:00")),
        a_job_with("unique_for", json!("367d")),
        a_job_with("priority", json!(99_999_999_999_i64)),
    ]
}

#[tokio::test]
async fn sql_refuses_what_the_api_refuses_for_the_same_reasons() {
    let mut both = Both::start().await;
    let known = bad_jobs().into_iter().map(|(job, _, _)| job);
    for job in known.chain(more_bad_jobs()) {
        // PostgreSQL itself rejects such text.
        if job.to_string().contains("\\u0000") {
            let error = both.many(&job).await.unwrap_err();
            let code = error.as_database_error().unwrap().code();
            assert_eq!(code.as_deref(), Some("22P05"), "{error}");
            continue;
        }
        let mut shown = job.to_string();
        shown.truncate(300);
        let batch = json!({"jobs": [job]});
        let response = both.platform.client.post("/v1/jobs/batch", &batch).await;
        let mut expected = response.problem(422, "invalid");
        expected.sort();
        let error = both.many(&job).await.expect_err(&shown);
        assert_eq!(field_errors(&error), expected, "{shown}: {error}");
    }
    assert_eq!(both.platform.jobs().await, 0);
}

fn good_jobs() -> Vec<Value> {
    let later = clock::now().trunc_subsecs(6) + chrono::TimeDelta::hours(5);
    let payload = json!({"url": "https://example.com/ä?x=1", "method": "PUT", "body": {"b": [1, 2.5, null]},
        "headers": {"X-One": "a, b", "x_two~": "ü"}, "success_status": ["2xx", "404"],
        "retryable_status": ["409"]});
    vec![
        a_job(),
        json!({"kind": "http.request", "payload": payload}),
        a_job_with("queue", json!("my.queue-1")),
        a_job_with("priority", json!(0)),
        a_job_with("run_at", json!(later)),
        a_job_with("run_at", json!(clock::now() - chrono::TimeDelta::hours(23))),
        a_job_with("tags", json!(["a", "b c", "\"quoted\" 'ü'"])),
        a_job_with("ordering_key", json!("customer 1")),
        a_job_with("limits", json!([{"key": "crm", "cost": 3}, {"key": "a"}])),
        a_job_with("max_attempts", json!(100)),
        a_job_with(
            "backoff",
            json!({"base": "1500ms", "factor": 1.5, "jitter": "none"}),
        ),
        json!({"kind": "webhook.deliver",
            "payload": {"delivery_id": "dlv_01h455vb4pex5vsknk084sn02q"}}),
        json!({"kind": "retry.redrive", "payload": {"action": "retry", "rate_per_second": 5,
            "filter": {"state": "dead", "queue": "none", "created_before": later}}}),
        json!({"kind": "retry.redrive", "payload": {"action": "delete"}}),
    ]
}

#[tokio::test]
async fn sql_accepts_what_the_api_accepts_with_the_same_result() {
    let mut both = Both::start().await;
    for job in good_jobs() {
        let client = both.platform.client.clone();
        let by_api = client.post("/v1/jobs", &job).await.expect(201);
        let (one, existing, state) = both.one(&job).await.unwrap();
        let many = both.many(&job).await.unwrap();
        assert!(!existing);
        for id in [one, many] {
            let by_sql = client.get(&format!("/v1/jobs/{id}")).await.expect(200);
            assert_eq!(by_sql["state"], state);
            let alike = |shown: &Value| {
                let mut shown = shown.clone();
                let members = shown.as_object_mut().unwrap();
                for own in ["id", "created_at", "trace_id", "request_id"] {
                    members.remove(own);
                }
                if job.get("run_at").is_none() || state == "ready" {
                    members.remove("run_at");
                }
                shown
            };
            assert_eq!(alike(&by_sql), alike(&by_api), "{job}");
        }
    }
    // Columns that no response shows: waits, timeout, lane.
    let pool = both.platform.pool.clone();
    let rows: Vec<(i64, Value)> = query_as(
        "select lane, jsonb_set_lax(
            convert_from(body[1], 'utf8')::jsonb - 'c' - 'b', '{p}', null, true, 'delete_key')
            || jsonb_build_object('n', n, 'keyed', keyed, 'strict', strict, 'state', state)
         from queue.parcels order by id",
    )
    .fetch_all(&pool)
    .await
    .unwrap();
    for alike in rows.chunks(3) {
        assert!(alike.iter().all(|row| row == &alike[0]), "{alike:?}");
    }
}

#[tokio::test]
async fn unique_keys_are_shared_between_http_and_sql() {
    let mut both = Both::start().await;
    let client = both.platform.client.clone();
    let keyed = |key: &str| a_job_with("unique_key", json!(key));
    let by_api = client.post("/v1/jobs", &keyed("a")).await.expect(201);
    let (id, existing, state) = both.one(&keyed("a")).await.unwrap();
    assert_eq!(
        (json!(id), existing, state.as_str()),
        (by_api["id"].clone(), true, "ready")
    );
    let (id, existing, _) = both.one(&keyed("b")).await.unwrap();
    assert!(!existing);
    let again = client.post("/v1/jobs", &keyed("b")).await.expect(200);
    assert_eq!(again["id"], json!(id));
}

#[tokio::test]
async fn waiting_job_quota_applies_to_http_and_sql() {
    let mut both = Both::start().await;
    let own = ensure_platform(&both.platform.pool).await.unwrap();
    let admin = both.platform.client_of(&own, Scope::ALL).await;
    let client = both.platform.client.clone();
    let path = "/v1/tenants/acme/limits";
    let usual = client.get(path).await.expect(200);
    assert_eq!(usual["max_waiting"], 10_000_000, "the quota of its tier");
    for wrong in [json!(0), json!(-1), json!(1_000_000_001)] {
        let response = admin.put(path, &json!({"max_waiting": wrong})).await;
        let expected = [("/max_waiting".to_owned(), "out_of_range".to_owned())];
        assert_eq!(response.problem(422, "invalid"), expected);
    }
    let foreign = client.put(path, &json!({"max_waiting": 5})).await;
    foreign.problem(403, "platform_only");
    admin
        .put(path, &json!({"max_waiting": 3}))
        .await
        .expect(200);
    client.post("/v1/jobs", &a_job()).await.expect(201);
    both.one(&a_job()).await.unwrap();
    let batch = json!({"jobs": [a_job(), a_job()]});
    client
        .post("/v1/jobs/batch", &batch)
        .await
        .problem(429, "depth_quota");
    let keyed = a_job_with("unique_key", json!("a"));
    client.post("/v1/jobs", &keyed).await.expect(201);
    client.post("/v1/jobs", &keyed).await.expect(200);
    let response = client.post("/v1/jobs", &a_job()).await;
    response.problem(429, "depth_quota");
    assert_eq!(response.header("retry-after"), "1");
    let problem: Value = serde_json::from_str(&response.text).unwrap();
    assert_eq!(
        problem["limit"],
        json!({"name": "max_waiting", "max": 3, "waiting": 3})
    );
    let error = both.one(&a_job()).await.unwrap_err();
    let error: &PgDatabaseError = error.as_database_error().unwrap().downcast_ref();
    let hint: Value = serde_json::from_str(error.hint().unwrap()).unwrap();
    assert_eq!((error.code(), &hint["limit"]), ("HK429", &problem["limit"]));
    let shown = client.get(path).await.expect(200);
    assert_eq!(
        (&shown["max_waiting"], &shown["waiting"]),
        (&json!(3), &json!(3))
    );
    admin
        .put(path, &json!({"max_waiting": null}))
        .await
        .expect(200);
    client.post("/v1/jobs", &a_job()).await.expect(201);
}
