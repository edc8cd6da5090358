//! SQL clients: applications that enqueue in their own transactions.

#![expect(
    clippy::disallowed_types,
    reason = "statements name a role that is made for the test"
)]

use harkara_queue::job::{Enqueued, JobState, Lane, LimitUse, Unique};
use harkara_queue::{Engine, Quota};
use harkara_shared::database::{query, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use serde_json::{Value, json};
use sqlx::postgres::{PgConnectOptions, PgDatabaseError};
use sqlx::{AssertSqlSafe, ConnectOptions, Connection, Executor, PgConnection, Row};

use crate::support::{Fixture, Log, QUEUE, handler, job, until};
use harkara_queue::Verdict;

/// A database with kinds, two tenants and a login role that may enqueue for the first tenant.
pub(crate) struct Sql {
    pub(crate) fixture: Fixture,
    role: String,
    pub(crate) other: TenantId,
}

const PASSWORD: &str = "open sesame";

/// The catalogue of the tests' kinds.
fn kinds() -> Value {
    let shape = json!({"type": "object", "additionalProperties": false, "required": ["n"],
        "properties": {"n": {"type": "integer"}, "note": {"type": ["string", "null"]}}});
    json!([
        {"kind": "test.job", "queue": QUEUE, "max_attempts": 3, "timeout_ms": 60000,
            "backoff": {"base": "1ms", "factor": 2.0, "max": "100ms", "jitter": "none"},
            "platform_only": false, "shape": shape,
            "rules": {"properties": {"n": {"minimum": 0, "x-code": "out_of_range"}}}},
        {"kind": "test.own", "queue": QUEUE, "max_attempts": 3, "timeout_ms": 60000, "backoff": null,
            "platform_only": true, "shape": {}, "rules": true},
    ])
}

impl Drop for Sql {
    fn drop(&mut self) {
        // Roles belong to the cluster, which can outlive this test.
        let url = self.fixture.database.superuser_url();
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

impl Sql {
    pub(crate) async fn new() -> Self {
        let fixture = Fixture::new().await;
        let other = TenantId::new();
        for (id, slug) in [(fixture.tenant, "acme"), (other, "other")] {
            query("insert into app.tenants (id, slug, name, sla_tier) values ($1, $2, $2, 'PRO')")
                .bind(id)
                .bind(slug)
                .execute(&fixture.pool())
                .await
                .unwrap();
        }
        assert!(fixture.engine.publish_catalogue(1, &kinds()).await.unwrap());
        let role = format!("shop_{}", fixture.tenant.as_uuid().simple());
        let mut connection = PgConnection::connect(&fixture.database.superuser_url())
            .await
            .unwrap();
        let sql = format!("create role {role} login password '{PASSWORD}'");
        connection.execute(AssertSqlSafe(sql)).await.unwrap();
        assert!(
            fixture
                .engine
                .grant_client(&role, Some(fixture.tenant))
                .await
                .unwrap()
        );
        Self {
            fixture,
            role,
            other,
        }
    }

    /// A connection of the application.
    pub(crate) async fn connect(&self) -> PgConnection {
        let options: PgConnectOptions = self.fixture.database.url().parse().unwrap();
        let options = options.username(&self.role).password(PASSWORD);
        options.connect().await.unwrap()
    }
}

/// Runs a statement and returns the first column of its first row.
async fn one(connection: &mut PgConnection, sql: &str) -> Result<String, sqlx::Error> {
    let row = connection.fetch_one(AssertSqlSafe(sql.to_owned())).await?;
    row.try_get(0)
}

async fn id(connection: &mut PgConnection, sql: &str) -> JobId {
    one(connection, sql).await.unwrap().parse().unwrap()
}

/// The SQLSTATE, and the pointers with their codes.
fn refusal(error: &sqlx::Error) -> (String, Vec<(String, String)>) {
    let error: &PgDatabaseError = error.as_database_error().unwrap().downcast_ref();
    let detail: Value = serde_json::from_str(error.detail().unwrap_or("[]")).unwrap_or_default();
    let text = |fault: &Value, name: &str| fault[name].as_str().unwrap_or_default().to_owned();
    let mut faults: Vec<(String, String)> = detail
        .as_array()
        .into_iter()
        .flatten()
        .map(|fault| (text(fault, "pointer"), text(fault, "code")))
        .collect();
    faults.sort();
    (error.code().to_owned(), faults)
}

fn faults(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected
        .iter()
        .map(|(pointer, code)| ((*pointer).to_owned(), (*code).to_owned()))
        .collect()
}

/// The columns of a job's row that are equal for equal jobs.
const COMPARABLE_ROW: &str =
    "select jsonb_agg(to_jsonb(p) - 'id' - 'run_at' - 'created_at' - 'body'
        || jsonb_build_object('body', convert_from(p.body[1], 'utf8')::jsonb,
            'due', extract(epoch from p.run_at - p.created_at)) order by p.id)
    from queue.parcels p";

#[tokio::test]
async fn job_enqueued_by_sql_is_stored_like_one_enqueued_by_the_engine() {
    let sql = Sql::new().await;
    let mut job_spec = job();
    job_spec.payload = serde_json::value::to_raw_value(&json!({"n": 7})).unwrap();
    job_spec.timeout = std::time::Duration::from_secs(60);
    sql.fixture.enqueue(job_spec.clone()).await;
    job_spec.unique = Some(Unique {
        key: "k1".to_owned(),
        hold: Some(std::time::Duration::from_secs(90)),
    });
    job_spec.lane = Lane::Ordered("customer-1".to_owned());
    job_spec.limits = vec![LimitUse {
        key: "crm".to_owned(),
        cost: 2,
    }];
    job_spec.tags = vec!["a".to_owned(), "b".to_owned()];
    job_spec.priority = 1;
    job_spec.max_attempts = 9;
    job_spec.delay = std::time::Duration::from_secs(300);
    sql.fixture.enqueue(job_spec).await;
    let rows = async || -> Value {
        let pool = sql.fixture.pool();
        query_scalar(COMPARABLE_ROW).fetch_one(&pool).await.unwrap()
    };
    let labels = "select string_agg(name || value, ',' order by name, value) from queue.labels";
    let count = "select count(*) from queue.deltas where enqueued = 1 and scheduled + ready = 1";
    let by_engine = rows().await;
    let labels_by_engine: String = query_scalar(labels)
        .fetch_one(&sql.fixture.pool())
        .await
        .unwrap();
    assert_eq!(sql.fixture.count(count).await, 2);
    sql.fixture.execute("delete from queue.unique_keys").await;
    sql.fixture.execute("delete from queue.parcels").await;
    sql.fixture.execute("delete from queue.labels").await;

    let mut app = sql.connect().await;
    id(
        &mut app,
        "select id from queue.enqueue('test.job', '{\"n\": 7}')",
    )
    .await;
    id(
        &mut app,
        "select id from queue.enqueue('test.job', '{\"n\": 7}', unique_key => 'k1',
            unique_for => '90 s', ordering_key => 'customer-1', tags => '{a,b}', priority => 1,
            limits => '[{\"key\": \"crm\", \"cost\": 2}]', max_attempts => 9, delay => '5 min')",
    )
    .await;
    assert_eq!(rows().await, by_engine);
    let labels_by_sql: String = query_scalar(labels)
        .fetch_one(&sql.fixture.pool())
        .await
        .unwrap();
    assert_eq!(labels_by_sql, labels_by_engine);
    assert_eq!(sql.fixture.count(count).await, 4);
    let lanes = "select count(*) from queue.lanes";
    assert_eq!(
        sql.fixture.count(lanes).await,
        2,
        "both ways must use the same lanes"
    );
}

#[tokio::test]
async fn rolled_back_enqueue_leaves_nothing_and_committed_jobs_run() {
    let sql = Sql::new().await;
    let runs = Log::new();
    let log_copy = runs.clone();
    let worker = sql.fixture.start_worker(handler(move |run| {
        log_copy.write(run.job.id);
        async { Verdict::done() }
    }));
    let mut app = sql.connect().await;
    app.execute("begin").await.unwrap();
    let enqueue = "select id from queue.enqueue('test.job', '{\"n\": 1}', unique_key => 'k',
        tags => '{red}')";
    let kept = id(&mut app, enqueue).await;
    app.execute("savepoint s").await.unwrap();
    let gone = "select id from queue.enqueue('test.job', '{\"n\": 2}', unique_key => 'l',
        tags => '{red}')";
    id(&mut app, gone).await;
    app.execute("rollback to s").await.unwrap();
    let wrong = one(&mut app, "select id from queue.enqueue('test.jib', '{}')").await;
    assert_eq!(refusal(&wrong.unwrap_err()).0, "HK422");
    app.execute("rollback to s").await.unwrap();
    assert_eq!(runs.len(), 0, "an uncommitted job must not run");
    app.execute("commit").await.unwrap();
    sql.fixture.wait_for_state(kept, JobState::Succeeded).await;
    worker.stop().await;
    assert_eq!(runs.read(), [kept]);
    for (left, many) in [
        ("select count(*) from queue.labels", 2),
        ("select count(*) from queue.unique_keys", 0),
        ("select sum(enqueued) from queue.deltas", 1),
        ("select count(*) from queue.parcels", 1),
    ] {
        assert_eq!(sql.fixture.count(left).await, many, "{left}");
    }
}

#[tokio::test]
async fn unique_key_waits_for_the_transaction_that_takes_it() {
    let sql = Sql::new().await;
    let enqueue = "select id || existing::text || state
        from queue.enqueue('test.job', '{\"n\": 1}', unique_key => 'k')";
    let mut watcher = PgConnection::connect(&sql.fixture.database.superuser_url())
        .await
        .unwrap();
    for (end, expected) in [("rollback", "falseready"), ("commit", "trueready")] {
        let mut first = sql.connect().await;
        let mut second = sql.connect().await;
        sql.fixture.execute("delete from queue.unique_keys").await;
        first.execute("begin").await.unwrap();
        let one_id = one(&mut first, enqueue).await.unwrap();
        let asking = tokio::spawn(async move { one(&mut second, enqueue).await });
        until("the second transaction waits", async || {
            let waits = "select count(*)::text from pg_stat_activity
                where datname = current_database() and wait_event_type = 'Lock'";
            one(&mut watcher, waits).await.unwrap() != "0"
        })
        .await;
        first.execute(end).await.unwrap();
        let answer = asking.await.unwrap().unwrap();
        assert!(answer.ends_with(expected), "{end}: {answer}");
        assert_eq!(answer[..17] == one_id[..17], end == "commit");
    }
}

#[tokio::test]
async fn snapshot_that_cannot_see_the_key_holder_fails_with_a_retryable_error() {
    let sql = Sql::new().await;
    let enqueue = "select id from queue.enqueue('test.job', '{\"n\": 1}', unique_key => 'k')";
    let plain = "select id from queue.enqueue('test.job', '{\"n\": 1}')";
    for level in ["repeatable read", "serializable"] {
        sql.fixture.execute("delete from queue.unique_keys").await;
        let mut first = sql.connect().await;
        let begin = format!("begin isolation level {level}");
        first.execute(AssertSqlSafe(begin)).await.unwrap();
        id(&mut first, plain).await;
        let holder = id(&mut sql.connect().await, enqueue).await;
        let error = one(&mut first, enqueue).await.unwrap_err();
        assert_eq!(refusal(&error).0, "40001", "{level}");
        first.execute("rollback").await.unwrap();
        // Applications retry transactions of these isolation levels.
        let begin = format!("begin isolation level {level}");
        first.execute(AssertSqlSafe(begin)).await.unwrap();
        assert_eq!(id(&mut first, enqueue).await, holder);
        first.execute("commit").await.unwrap();
    }
}

#[tokio::test]
async fn all_validation_errors_are_reported_at_once_and_nothing_is_enqueued() {
    let sql = Sql::new().await;
    let mut app = sql.connect().await;
    let error = one(
        &mut app,
        "select id from queue.enqueue('test.job', '{\"n\": -1}', priority => 10,
            tags => '{a,a}', delay => '-1 s', unique_for => '1 s', max_attempts => 0,
            expires_at => now() - interval '1 s', queue => 'No')",
    )
    .await
    .unwrap_err();
    let expected = faults(&[
        ("/delay", "invalid"),
        ("/expires_at", "out_of_range"),
        ("/max_attempts", "out_of_range"),
        ("/payload/n", "out_of_range"),
        ("/priority", "out_of_range"),
        ("/queue", "invalid"),
        ("/tags/1", "duplicate"),
        ("/unique_for", "needs_unique_key"),
    ]);
    assert_eq!(refusal(&error), ("HK422".to_owned(), expected));
    let error = one(
        &mut app,
        "select id from queue.enqueue_many('[{\"kind\": \"test.job\", \"payload\": {\"n\": 1}},
            {\"kind\": \"test.own\", \"payload\": {}},
            {\"kind\": \"test.job\", \"payload\": {\"n\": \"1\", \"m\": 2}, \"oops\": 1}, 4]')",
    )
    .await
    .unwrap_err();
    let expected = faults(&[
        ("/jobs/1/kind", "unknown_kind"),
        ("/jobs/2/oops", "unknown_field"),
        ("/jobs/2/payload/m", "unknown_field"),
        ("/jobs/2/payload/n", "invalid"),
        ("/jobs/3", "invalid"),
    ]);
    assert_eq!(refusal(&error), ("HK422".to_owned(), expected));
    for (jobs, code) in [("'{}'", "invalid"), ("'[]'", "empty"), ("null", "missing")] {
        let call = format!("select id from queue.enqueue_many({jobs})");
        let error = one(&mut app, &call).await.unwrap_err();
        assert_eq!(refusal(&error).1, faults(&[("/jobs", code)]));
    }
    assert_eq!(
        sql.fixture
            .count("select count(*) from queue.parcels")
            .await,
        0
    );
}

#[tokio::test]
async fn packed_jobs_run_once_each() {
    let sql = Sql::new().await;
    let mut app = sql.connect().await;
    let results: Vec<(String, bool)> = sqlx::Executor::fetch_all(
        &mut app,
        "select id, existing from queue.enqueue_many((
            select jsonb_agg(jsonb_build_object('kind', 'test.job', 'payload', jsonb_build_object('n', n))
                || case when n % 100 = 0 then '{\"unique_key\": \"k\"}' else '{}' end::jsonb order by n)
            from generate_series(1, 1000) n))",
    )
    .await
    .unwrap()
    .iter()
    .map(|row| (row.get(0), row.get(1)))
    .collect();
    assert_eq!(results.len(), 1000);
    assert_eq!(results.iter().filter(|(_, existing)| *existing).count(), 9);
    let rows = "select count(*) from queue.parcels";
    assert_eq!(
        sql.fixture.count(rows).await,
        4,
        "990 jobs fit into two or three rows, plus the keyed job"
    );
    let runs = Log::new();
    let log_copy = runs.clone();
    let worker = sql.fixture.start_worker(handler(move |run| {
        let payload: Value = serde_json::from_str(run.job.payload().get()).unwrap();
        log_copy.write((run.job.id.to_string(), payload["n"].as_u64().unwrap()));
        async { Verdict::done() }
    }));
    runs.holds(991).await;
    sql.fixture.wait_until_idle().await;
    worker.stop().await;
    let mut seen = runs.read();
    seen.sort_by_key(|(_, n)| *n);
    let expected: Vec<(String, u64)> = (1..)
        .zip(results)
        .filter(|(_, (_, existing))| !existing)
        .map(|(n, (id, _))| (id, n))
        .collect();
    assert_eq!(seen, expected);
}

#[tokio::test]
async fn client_role_can_only_enqueue_for_its_granted_tenants() {
    let sql = Sql::new().await;
    let mut app = sql.connect().await;
    let call =
        |more: &str| format!("select id from queue.enqueue('test.job', '{{\"n\": 1}}'{more})");
    let id_of_acme = sql.fixture.tenant.to_string();
    let uuid_of_acme = sql.fixture.tenant.as_uuid().to_string();
    for own in ["acme", &id_of_acme, &uuid_of_acme] {
        id(&mut app, &call(&format!(", tenant => '{own}'"))).await;
    }
    for foreign in ["other", "platform", "nobody", &sql.other.to_string()] {
        let error = one(&mut app, &call(&format!(", tenant => '{foreign}'"))).await;
        assert_eq!(refusal(&error.unwrap_err()).0, "HK404", "{foreign}");
    }
    for forbidden in [
        "select count(*)::text from queue.parcels",
        "select count(*)::text from app.tenants",
        "select count(*)::text from queue.clients",
        "select queue.format_job_id(1)",
        "select queue.grant_client('x', null)::text",
        "select queue.count_waiting(1)::text",
        "insert into queue.clients (role) values (session_user) returning role",
        "set role harkara_engine",
    ] {
        let error = app
            .execute(AssertSqlSafe(forbidden.to_owned()))
            .await
            .unwrap_err();
        assert_eq!(refusal(&error).0, "42501", "{forbidden}");
    }
    let open: Vec<String> = query_scalar(
        "select p.proname::text from pg_proc p
         where p.pronamespace in ('queue'::regnamespace, 'app'::regnamespace)
           and has_schema_privilege('harkara_client', p.pronamespace, 'usage')
           and has_function_privilege('harkara_client', p.oid, 'execute')
         order by 1",
    )
    .fetch_all(&sql.fixture.pool())
    .await
    .unwrap();
    assert_eq!(open, ["enqueue", "enqueue_many"]);

    // Granted for all tenants: the call names the tenant.
    sql.fixture
        .engine
        .grant_client(&sql.role, None)
        .await
        .unwrap();
    let error = one(&mut app, &call("")).await.unwrap_err();
    assert_eq!(
        refusal(&error),
        ("HK422".to_owned(), faults(&[("/tenant", "missing")]))
    );
    id(&mut app, &call(", tenant => 'other'")).await;
    let own = call(", tenant => 'platform'").replace("test.job", "test.own");
    id(&mut app, &own).await;
    let clients = sql.fixture.engine.sql_clients().await.unwrap();
    assert_eq!(clients.len(), 2);
    assert_eq!(
        sql.fixture
            .engine
            .revoke_client(&sql.role, None)
            .await
            .unwrap(),
        2
    );
    let error = one(&mut app, &call("")).await.unwrap_err();
    assert_eq!(refusal(&error).0, "HK403");
}

#[tokio::test]
async fn older_release_does_not_overwrite_a_newer_catalogue() {
    let sql = Sql::new().await;
    let engine = &sql.fixture.engine;
    assert!(
        !engine.publish_catalogue(1, &kinds()).await.unwrap(),
        "an unchanged catalogue must not be published again"
    );
    let mut newer = kinds();
    newer[0]["max_attempts"] = json!(8);
    assert!(engine.publish_catalogue(2, &newer).await.unwrap());
    assert!(!engine.publish_catalogue(1, &kinds()).await.unwrap());
    let attempts = "select max_attempts::int8 from queue.catalogue where kind = 'test.job'";
    assert_eq!(sql.fixture.count(attempts).await, 8);
    let silent = Engine::new(sql.fixture.pool(), false);
    assert!(
        silent.publish_catalogue(2, &newer).await.unwrap(),
        "an unchanged catalogue must wake no process"
    );
}

#[tokio::test]
async fn open_transaction_does_not_block_others_when_the_names_exist() {
    let sql = Sql::new().await;
    let mut app = sql.connect().await;
    app.execute("begin").await.unwrap();
    let call = "select id from queue.enqueue('test.job', '{\"n\": 1}')";
    let waiting = id(&mut app, call).await;
    let fresh = Engine::new(sql.fixture.pool(), true);
    let mut tx = sql.fixture.tx().await;
    let answer = fresh
        .enqueue(&mut tx, sql.fixture.tenant, job(), Quota::Skip)
        .await
        .unwrap();
    tx.commit().await.unwrap();
    let worker = sql
        .fixture
        .start_worker(crate::support::succeeding_handler());
    sql.fixture
        .wait_for_state(answer.id(), JobState::Succeeded)
        .await;
    app.execute("commit").await.unwrap();
    sql.fixture
        .wait_for_state(waiting, JobState::Succeeded)
        .await;
    worker.stop().await;
    assert!(matches!(answer, Enqueued::New(_)));
}
