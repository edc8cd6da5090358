//! CLI commands for queues, tenants, limits, bulk actions and SQL clients.

use std::time::Duration;

use harkara_test_database::TestDatabase;
use harkara_tests::Process;
use serde_json::{Value, json};

pub(crate) const EXIT_TIMEOUT: Duration = Duration::from_secs(30);

/// A database with the queues `http` and `mail` and the tenant `acme` of the smallest tier.
pub(crate) async fn database_with_tenant() -> TestDatabase {
    let database = TestDatabase::create().await;
    harkara_shared::database::query("insert into queue.queues (name) values ('http'), ('mail')")
        .execute(&database.pool())
        .await
        .unwrap();
    let made = run_json(&database, &["tenant", "create", "Acme", "--tier", "FREE"]).await;
    assert_eq!(made["sla_tier"], "FREE");
    database
}

/// Runs `harkara` and returns its exit code and output.
pub(crate) async fn run(database: &TestDatabase, args: &[&str]) -> (Option<i32>, String) {
    let environment = [("DATABASE_URL", database.url())];
    let mut process = Process::start("harkara", args, &environment);
    (process.ended(EXIT_TIMEOUT).await, process.output())
}

/// Runs `harkara … --json` and returns the printed object.
pub(crate) async fn run_json(database: &TestDatabase, args: &[&str]) -> Value {
    let (code, output) = run(database, &[args, &["--json"]].concat()).await;
    assert_eq!(code, Some(0), "{args:?}: {output}");
    serde_json::from_str(output.trim()).unwrap()
}

/// Removes the statistics from a printed queue, after asserting that they are those of an unused queue.
fn idle(mut queue: Value) -> Value {
    let numbers = queue.as_object_mut().unwrap();
    for name in [
        "ready",
        "scheduled",
        "running",
        "dead",
        "enqueued_per_minute",
        "succeeded_per_minute",
        "failed_per_minute",
    ] {
        assert_eq!(numbers.remove(name), Some(json!(0)), "{name}");
    }
    assert_eq!(numbers.remove("oldest_ready_seconds"), Some(Value::Null));
    queue
}

#[tokio::test(flavor = "multi_thread")]
async fn queues_are_listed_paused_and_limited() {
    let database = database_with_tenant().await;
    let free = json!({"name": "http", "paused": false, "max_running": null,
        "rate_per_second": null, "burst": null});
    let mut all = run_json(&database, &["queue", "ls"]).await;
    assert_eq!(all["data"][1]["name"], "mail");
    assert_eq!(idle(all["data"][0].take()), free);
    let paused = run_json(&database, &["queue", "pause", "http"]).await;
    assert_eq!(paused["paused"], true);
    let resumed = run_json(&database, &["queue", "resume", "http"]).await;
    assert_eq!(idle(resumed), free);
    let set = [
        "queue",
        "set",
        "http",
        "--max-running",
        "8",
        "--rate-per-second",
        "100",
    ];
    let limited = run_json(&database, &set).await;
    assert_eq!(
        idle(limited),
        json!({"name": "http", "paused": false, "max_running": 8, "rate_per_second": 100,
            "burst": 10})
    );
    let (_, lines) = run(&database, &["queue", "ls"]).await;
    assert!(
        lines.contains("100 in 1s with a burst of 10, 0 of 8 running"),
        "{lines}"
    );
    assert!(lines.contains("no limit"), "{lines}");
    let none = [
        "queue",
        "set",
        "http",
        "--max-running",
        "none",
        "--rate-per-second",
        "none",
    ];
    assert_eq!(idle(run_json(&database, &none).await), free);

    for (args, code, words) in [
        (&["queue", "pause", "none"][..], 1, "queue not found"),
        (
            &["queue", "set", "http", "--max-running", "0"],
            2,
            "from 1 to 1000000",
        ),
        (
            &["queue", "set", "http", "--burst", "5"],
            1,
            "requires a rate",
        ),
    ] {
        let (ended, output) = run(&database, args).await;
        assert_eq!(ended, Some(code), "{args:?}: {output}");
        assert!(output.contains(words), "{args:?}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_paused_and_limited() {
    let database = database_with_tenant().await;
    let contract = run_json(&database, &["limit", "ls", "--tenant", "acme"]).await;
    assert_eq!(
        (&contract["rate_per_minute"], &contract["burst"]),
        (&json!(30), &json!(3))
    );
    let paused = run_json(&database, &["tenant", "pause", "acme"]).await;
    assert_eq!(
        (&paused["paused"], &paused["slug"]),
        (&json!(true), &json!("acme"))
    );
    let resumed = run_json(&database, &["tenant", "resume", "acme"]).await;
    assert_eq!(resumed["paused"], false);

    let set = async |more: &[&str]| {
        let args = [&["limit", "set", "--tenant", "acme"], more].concat();
        run_json(&database, &args).await
    };
    let raised = set(&["--rate", "600", "--max-running", "9", "--weight", "5"]).await;
    assert_eq!(
        (&raised["rate_per_minute"], &raised["burst"]),
        (&json!(600), &json!(60))
    );
    assert_eq!(
        (&raised["max_running"], &raised["weight"]),
        (&json!(9), &json!(5))
    );
    let named = set(&["--key", "crm", "--rate", "5", "--per", "1h", "--burst", "2"]).await;
    let crm = json!({"rate": 5, "per": "1h", "burst": 2, "max_running": null});
    assert_eq!(named["limits"], json!({ "crm": crm }));
    let (_, lines) = run(&database, &["limit", "ls", "--tenant", "acme"]).await;
    assert!(
        lines.contains("weight 5, 600 in 1m with a burst of 60, 0 of 9 running"),
        "{lines}"
    );
    assert!(lines.contains("5 in 1h with a burst of 2"), "{lines}");
    let rm = ["limit", "rm", "--tenant", "acme", "--key", "crm"];
    assert_eq!(run_json(&database, &rm).await["limits"], json!({}));
    assert_eq!(contract["max_waiting"], 100_000);
    let bounded = set(&["--max-waiting", "5000000"]).await;
    assert_eq!(
        (&bounded["max_waiting"], &bounded["waiting"]),
        (&json!(5_000_000), &json!(0))
    );
    let (_, lines) = run(&database, &["limit", "ls", "--tenant", "acme"]).await;
    assert!(lines.contains("0 of 5000000 waiting"), "{lines}");
    let unbounded = set(&["--max-waiting", "none"]).await;
    assert_eq!(unbounded["max_waiting"], Value::Null);
    let freed = run_json(&database, &["limit", "rm", "--tenant", "acme"]).await;
    assert_eq!(freed["rate_per_minute"], Value::Null);

    for (args, code, words) in [
        (
            &["limit", "ls", "--tenant", "none"][..],
            1,
            "tenant `none` not found",
        ),
        (
            &[
                "limit", "set", "--tenant", "acme", "--rate", "5", "--per", "1h",
            ],
            1,
            "by the minute",
        ),
        (
            &[
                "limit", "set", "--tenant", "acme", "--key", "a", "--rate", "5",
            ],
            1,
            "is required with a rate",
        ),
        (
            &[
                "limit", "set", "--tenant", "acme", "--key", "a", "--per", "0s",
            ],
            1,
            "from 1s to 31d",
        ),
        (
            &["limit", "set", "--tenant", "acme", "--weight", "0"],
            2,
            "1..=1000",
        ),
        (
            &["limit", "set", "--tenant", "acme", "--max-waiting", "0"],
            2,
            "from 1 to 1000000000",
        ),
    ] {
        let (ended, output) = run(&database, args).await;
        assert_eq!(ended, Some(code), "{args:?}: {output}");
        assert!(output.contains(words), "{args:?}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn jobs_are_counted_and_redriven_in_bulk_and_one_is_rescheduled() {
    let database = database_with_tenant().await;
    let bulk = ["job", "bulk", "retry", "--tenant", "acme", "--rate", "5"];
    let counted = run_json(&database, &[&bulk[..], &["--dry-run"]].concat()).await;
    assert_eq!(counted, json!({"job_id": null, "matched": 0}));
    let begun = run_json(&database, &bulk).await;
    let job = begun["job_id"].as_str().unwrap();
    let to = ["--run-at", "2030-01-31T12:00:00Z", "--tenant", "acme"];
    let moved = run_json(&database, &[&["job", "reschedule", job], &to[..]].concat()).await;
    assert_eq!(moved, json!({"id": job, "run_at": "2030-01-31T12:00:00Z"}));
    for wrong in [
        &[
            "job", "bulk", "cancel", "--tenant", "acme", "--state", "dead",
        ][..],
        &["job", "bulk", "retry", "--tenant", "acme", "--rate", "0"],
        &["job", "bulk", "retry", "--tenant", "nobody"],
    ] {
        let (code, output) = run(&database, wrong).await;
        assert_ne!(code, Some(0), "{wrong:?}: {output}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn client_roles_are_granted_listed_and_revoked() {
    let database = database_with_tenant().await;
    let role = format!("shop_{}", database.name());
    let as_superuser = async |sql: String| {
        let pool = sqlx::PgPool::connect(&database.superuser_url())
            .await
            .unwrap();
        let text = sqlx::AssertSqlSafe(sql);
        sqlx::Executor::execute(&pool, text).await.unwrap();
        pool.close().await;
    };
    as_superuser(format!("create role {role}")).await;
    let granted = run_json(&database, &["client", "grant", &role, "--tenant", "acme"]).await;
    assert_eq!(
        (&granted["tenant"], &granted["new"]),
        (&json!("acme"), &json!(true))
    );
    let all = run_json(&database, &["client", "grant", &role, "--all-tenants"]).await;
    assert_eq!((&all["tenant"], &all["new"]), (&Value::Null, &json!(true)));
    let listed = run_json(&database, &["client", "ls"]).await;
    let listed = listed["data"].as_array().unwrap();
    let tenants: Vec<&Value> = listed.iter().map(|client| &client["tenant"]).collect();
    assert_eq!(tenants, [&Value::Null, &json!("acme")]);
    assert_eq!(listed[0]["role"], json!(role));
    let one = run_json(&database, &["client", "revoke", &role, "--tenant", "acme"]).await;
    assert_eq!(one["revoked"], 1);
    assert_eq!(
        run_json(&database, &["client", "revoke", &role]).await["revoked"],
        1
    );
    for (args, words) in [
        (
            &["client", "grant", "no_such_role", "--tenant", "acme"][..],
            "no_such_role",
        ),
        (
            &["client", "grant", &role, "--tenant", "none"],
            "tenant `none` not found",
        ),
    ] {
        let (ended, output) = run(&database, args).await;
        assert_eq!(ended, Some(1), "{args:?}: {output}");
        assert!(output.contains(words), "{args:?}: {output}");
    }
    as_superuser(format!("drop owned by {role}; drop role {role}")).await;
}
