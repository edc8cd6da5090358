//! Plans of the engine's statements: each can be prepared against the migrated schema, and the hot ones
//! use an index regardless of table size.

#![expect(
    clippy::disallowed_types,
    reason = "statements are read from the files the engine includes, and explained"
)]

use std::fs;
use std::path::{Path, PathBuf};

use harkara_shared::database::query_scalar;
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection, Executor, PgConnection, Row, SqlSafeStr};

use crate::packed::row;
use crate::support::Fixture;

fn source_directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// Modules whose statements run only on the engine's own connections, never in a transaction of a tenant.
const ENGINE_MODULES: [&str; 8] = [
    "claim",
    "counters",
    "fair_share_store",
    "lease",
    "maintenance",
    "rollup",
    "settle",
    "workers",
];

/// The texts of the statements by their paths below `src`.
fn statements() -> Vec<(String, String)> {
    fn collect(directory: &Path, found: &mut Vec<(String, String)>) {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, found);
            } else if path.extension().is_some_and(|extension| extension == "sql") {
                let name = path.strip_prefix(source_directory()).unwrap();
                let name = name.to_str().unwrap().to_owned();
                found.push((name, fs::read_to_string(path).unwrap()));
            }
        }
    }
    let mut statements = Vec::new();
    collect(&source_directory(), &mut statements);
    statements.sort();
    statements
}

/// The module directory and the file name of a statement.
fn module_and_file(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// All Rust source of the crate.
fn rust(directory: &Path) -> String {
    let mut text = String::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            text += &rust(&path);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            text += &fs::read_to_string(path).unwrap();
        }
    }
    text
}

#[tokio::test]
async fn every_statement_matches_the_schema_and_is_used() {
    let fixture = Fixture::new().await;
    let mut connection = PgConnection::connect(&fixture.database.url())
        .await
        .unwrap();
    let rust = rust(&source_directory());
    let statements = statements();
    assert!(statements.len() > 20);
    for (name, sql) in statements {
        let (_, file) = module_and_file(&name);
        assert!(
            rust.contains(&format!("/{file}\"")) || rust.contains(&format!("\"{file}\"")),
            "{name} is named by no source file"
        );
        assert!(
            sql.starts_with("-- "),
            "{name} must start with a comment on its purpose"
        );
        let prepared = connection.prepare(AssertSqlSafe(sql).into_sql_str()).await;
        prepared.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
}

/// Tables that no statement may scan sequentially.
pub(crate) const LARGE: [&str; 7] = [
    "parcels",
    "unique_keys",
    "labels",
    "leases",
    "attempts",
    "deltas",
    "history",
];

/// A database after some time of use: long history, a little of everything else.
pub(crate) async fn well_used() -> Fixture {
    let fixture = Fixture::new().await;
    let elsewhere = harkara_shared::id::TenantId::new();
    let one = [row(1 << 40, 0, 0, 1, "a", json!({}))];
    fixture.put(&one).await;
    fixture.put_for(elsewhere, &one).await;
    for filling in [
        "insert into queue.workers (id, host, pid, version, queues)
         select gen_random_uuid(), 'h', 1, '0', '{}' from generate_series(1, 2000)",
        "insert into queue.leases (worker_id, expires_at, closed_at)
         select id, now() - interval '1 day', now() from queue.workers",
        "update queue.leases set closed_at = null, expires_at = now() + interval '30 seconds'
         where id > 1990",
        "insert into queue.parcels (id, lane, run_at, queue, tenant, kind, priority, max_attempts,
            state, keyed, body, lease, token, attempt, started_at, finished_at, created_at)
         select nextval('queue.parcel_id'), 1 + g % 2, at, 1, 1 + g % 2, 1, 5, 3,
            state, g % 10 = 0, array['\\x7b7d'::bytea],
            case when state in ('r', 'd') then 1990 + g % 10 end,
            case when state = 'r' then g end, 1, at,
            case when state = 'd' then at end, at
         from generate_series(1, 60500) g
         cross join lateral (select case
            when g <= 50000 then 'd' when g <= 55000 then 'a' when g <= 60000 then 's' else 'r'
         end::\"char\" as state) s
         cross join lateral (select now() - g * interval '10 seconds'
            + case when state = 's' then interval '30 days' else '0' end as at) t",
        "insert into queue.unique_keys (tenant, kind, key, job_id, expires_at)
         select tenant, kind, id::text, id * 1024, 'infinity' from queue.parcels where keyed",
        // Some rows are parcels, and some are merged.
        "update queue.parcels set n = 3, body = array_fill(body[1], array[3]),
            ids = case when id % 2 = 0 then array[id, id + 1, id + 2] end
         where id % 20 < 2 and state in ('r', 'd')",
        "update queue.parcels set n = 40, body = array_fill(body[1], array[40]), keyed = false
         where id % 20 = 3 and state in ('a', 's')",
        // Some have lost their worker before.
        "update queue.parcels set lost = true, attempt = 1 where id % 10 = 7 and state = 'a'",
        "insert into queue.deltas (xid, tenant, queue, kind, ready, enqueued)
         select '3', 1, 1, 1, 1, 1 from generate_series(1, 20000)",
        "insert into queue.history (tenant, span, at, queue, kind, enqueued)
         select 1 + g % 2, case when g <= 20000 then 'm' else 'h' end::\"char\",
            date_trunc('minute', now()) - g * interval '1 minute', 1, 1, 1
         from generate_series(1, 22000) g",
        "insert into queue.labels (tenant, name, value, job_id)
         select tenant, 'tag', 't' || id % 100, id * 1024 from queue.parcels where id % 3 = 0",
    ] {
        fixture.execute(filling).await;
    }
    let mut superuser = PgConnection::connect(&fixture.database.superuser_url())
        .await
        .unwrap();
    superuser.execute("vacuum analyze").await.unwrap();
    fixture
}

/// Every plan node that scans a large table.
fn scans(plan: &Value, found: &mut Vec<String>) {
    match plan {
        Value::Array(items) => items.iter().for_each(|item| scans(item, found)),
        Value::Object(node) => {
            let text = |name: &str| node.get(name).and_then(Value::as_str).unwrap_or_default();
            let table = text("Relation Name");
            let large = LARGE.contains(&table) || table.starts_with("attempts_");
            if text("Node Type") == "Seq Scan" && large {
                found.push(table.to_owned());
            }
            node.values().for_each(|value| scans(value, found));
        }
        _ => {}
    }
}

/// The generic plan, which PostgreSQL uses for a prepared statement in the long run.
async fn generic_plan(connection: &mut PgConnection, name: &str, sql: &str) -> Value {
    let handle = name.trim_end_matches(".sql").replace('/', "_");
    connection
        .execute(AssertSqlSafe(format!("prepare {handle} as {sql}")))
        .await
        .unwrap_or_else(|error| panic!("{name}: {error}"));
    let parameters: i32 = query_scalar(
        "select cardinality(parameter_types) from pg_prepared_statements where name = $1",
    )
    .bind(&handle)
    .fetch_one(&mut *connection)
    .await
    .unwrap();
    let nulls = vec!["null"; usize::try_from(parameters).unwrap()].join(", ");
    let arguments = if nulls.is_empty() {
        nulls
    } else {
        format!("({nulls})")
    };
    let explain = format!("explain (format json) execute {handle}{arguments}");
    let row = connection.fetch_one(AssertSqlSafe(explain)).await.unwrap();
    row.get::<Value, _>(0)
}

#[tokio::test]
async fn no_statement_scans_a_large_table() {
    let fixture = well_used().await;
    // Engine statements run as the login role, statements of tenant transactions as harkara_app.
    for role in ["harkara_engine", "harkara_app"] {
        let mut connection = PgConnection::connect(&fixture.database.url())
            .await
            .unwrap();
        let settings = format!(
            "set plan_cache_mode = force_generic_plan; set jit = off; set role {role};
             set app.tenant_id = '{}'",
            fixture.tenant.as_uuid()
        );
        connection.execute(AssertSqlSafe(settings)).await.unwrap();
        for (name, sql) in statements() {
            let tenants = [
                "get_",
                "list_",
                "explain_",
                "cancel_",
                "retry_",
                "move_",
                "delete_",
                "insert_",
                "take_",
                "find_",
                "scan_",
                "count_by_",
                "report_",
                "claim_progress",
                "lock_progress",
            ];
            let (module, file) = module_and_file(&name);
            let is_for_tenants = !ENGINE_MODULES.contains(&module)
                && tenants.iter().any(|prefix| file.starts_with(prefix));
            if role == "harkara_app" && !is_for_tenants {
                continue;
            }
            // Run manually only: they count all rows.
            if ["drift.sql", "recount.sql"].contains(&file) {
                continue;
            }
            let plan = generic_plan(&mut connection, &name, &sql).await;
            let mut found = Vec::new();
            scans(&plan, &mut found);
            assert!(
                found.is_empty(),
                "{name} as {role} scans {found:?}:\n{plan:#}"
            );
        }
    }
}
