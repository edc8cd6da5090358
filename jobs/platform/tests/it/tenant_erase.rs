//! `tenant.erase`: a canceled tenant is erased completely, without effect on other tenants.

use std::collections::BTreeSet;

use harkara_kind::JobKind as _;
use harkara_kit::{Kit, Receiver, Reply};
use harkara_platform::kinds::http_request::HttpRequest;
use harkara_platform::kinds::tenant_erase::{Args, TenantErase};
use harkara_platform::tenancy::TABLES;
use harkara_queue::job::JobState;
use harkara_queue::{Quota, read};
use harkara_shared::audit;
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::{JobId, TenantId};
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};

/// The number of rows of a tenant in each table of the schema `app`.
const ROWS: &str = "select c.table_name::text, (xpath('/row/rows/text()', query_to_xml(format(
        'select count(*) as rows from app.%I where %I = %L', c.table_name, c.column_name, $1
    ), false, true, '')))[1]::text::int8
    from information_schema.columns c
    join information_schema.tables t using (table_schema, table_name)
    where c.table_schema = 'app' and t.table_type = 'BASE TABLE'
      and (c.column_name = 'tenant_id' or c.table_name = 'tenants' and c.column_name = 'id')
    order by 1";

/// A superuser connection, which bypasses row-level security.
async fn superuser(kit: &Kit) -> PgConnection {
    PgConnection::connect(&kit.database().superuser_url())
        .await
        .unwrap()
}

async fn rows_of(kit: &Kit, tenant: TenantId) -> Vec<(String, i64)> {
    query_as(ROWS)
        .bind(tenant.as_uuid())
        .fetch_all(&mut superuser(kit).await)
        .await
        .unwrap()
}

/// Gives a tenant rows in every table.
async fn seed_all_tables(kit: &Kit, tenant: TenantId) {
    let mut superuser = superuser(kit).await;
    query("select set_config('test.tenant', $1, false)")
        .bind(tenant.as_uuid().to_string())
        .execute(&mut superuser)
        .await
        .unwrap();
    superuser
        .execute(include_str!("seed_all_tables.sql"))
        .await
        .unwrap();
}

async fn cancel(kit: &Kit, tenant: TenantId) {
    query("update app.tenants set status = 'canceled', erasure_asked_at = now() where id = $1")
        .bind(tenant)
        .execute(&kit.services.pool)
        .await
        .unwrap();
}

async fn call(kit: &Kit, tenant: TenantId, url: &str) -> JobId {
    let job = HttpRequest::job(to_raw_value(&json!({"url": url})).unwrap());
    let mut tx = TenantTx::begin(&kit.services.pool, tenant).await.unwrap();
    let engine = &kit.services.engine;
    let id = engine
        .enqueue(&mut tx, tenant, job, Quota::Skip)
        .await
        .unwrap()
        .id();
    tx.commit().await.unwrap();
    id
}

fn args(tenant_id: TenantId) -> Args {
    Args { tenant_id }
}

#[tokio::test]
async fn erasure_list_names_exactly_the_tenant_tables() {
    let kit = Kit::start().await;
    let there = rows_of(&kit, kit.tenant).await;
    let there: BTreeSet<&str> = there
        .iter()
        .map(|(table, _)| table.as_str())
        .filter(|table| *table != "tenants")
        .collect();
    let listed: BTreeSet<&str> = TABLES.iter().map(|table| table.name).collect();
    assert_eq!(listed, there, "jobs/platform/src/tenancy.rs");
    assert_eq!(listed.len(), TABLES.len(), "a table is listed twice");
}

#[tokio::test]
async fn secret_columns_are_excluded_and_exist() {
    let kit = Kit::start().await;
    let columns: Vec<(String, String, String)> = query_as(
        "select table_name::text, column_name::text, data_type::text
         from information_schema.columns where table_schema = 'app'",
    )
    .fetch_all(&mut superuser(&kit).await)
    .await
    .unwrap();
    for table in TABLES {
        let mut own: BTreeSet<&str> = BTreeSet::new();
        for (_, column, kind) in columns.iter().filter(|(of, ..)| of == table.name) {
            own.insert(column);
            let is_secret = kind == "bytea"
                || ["hash", "sealed", "secret", "token", "password"]
                    .iter()
                    .any(|word| column.contains(word));
            assert!(
                !is_secret || table.unexported.contains(&column.as_str()),
                "app.{}.{column} would be shown by an export",
                table.name
            );
        }
        for column in table.unexported {
            assert!(own.contains(column), "{} has no {column}", table.name);
        }
    }
}

#[tokio::test]
async fn canceled_tenant_is_erased_completely_and_the_erasure_is_recorded() {
    let kit = Kit::start().await;
    let (gone, other) = (kit.new_tenant("gone").await, kit.new_tenant("other").await);
    for tenant in [gone, other] {
        seed_all_tables(&kit, tenant).await;
        call(&kit, tenant, "http://127.0.0.1:1/").await;
    }
    let kept = rows_of(&kit, other).await;
    for (table, rows) in rows_of(&kit, gone).await {
        assert!(rows > 0, "seed_all_tables.sql writes no row of app.{table}");
    }
    let head: Vec<u8> = query_scalar("select hash from app.audit_heads where tenant_id = $1")
        .bind(gone)
        .fetch_one(&kit.services.pool)
        .await
        .unwrap();
    cancel(&kit, gone).await;

    let id = kit.enqueue::<TenantErase>(args(gone)).await;
    let drained = kit.drain("maintenance").await;
    assert_eq!(drained.succeeded, [id]);
    let job = kit.job(id).await;
    let result = job.result.unwrap();
    assert_eq!(
        (&result["erased"], &result["slug"]),
        (&json!(true), &json!("gone"))
    );
    assert_eq!(result["counts"]["jobs"], 1);
    assert_eq!(result["counts"]["rows"]["events"], 1500);
    assert_eq!(job.progress.unwrap(), result["counts"]);
    for (table, rows) in rows_of(&kit, gone).await {
        assert_eq!(rows, 0, "app.{table}");
    }
    assert_eq!(rows_of(&kit, other).await, kept);
    let engine = &kit.services.engine;
    assert_eq!(engine.drift().await.unwrap(), []);
    assert!(!engine.tenants().await.unwrap().contains(&gone));

    let mut tx = kit.tx().await;
    let entry: (String, String, String, Value, Value) =
        query_as("select action, actor_kind, resource, before, after from app.audit_log")
            .fetch_one(&mut *tx)
            .await
            .unwrap();
    let hash: String = head.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(
        entry,
        (
            "tenant.erased".to_owned(),
            "system".to_owned(),
            gone.to_string(),
            json!({"slug": "gone", "name": "gone"}),
            json!({"counts": result["counts"], "audit_log": {"seq": 3, "hash": hash}}),
        )
    );
    let checked = audit::verify(&mut tx, kit.tenant, &[]).await.unwrap();
    assert_eq!(checked.faults, []);
    drop(tx);

    let again = kit.perform::<TenantErase>(args(gone)).await.done().result;
    assert_eq!(again.unwrap()["erased"], false);
}

#[tokio::test]
async fn erasure_cancels_running_jobs_and_returns_after_they_end() {
    let kit = Kit::start().await;
    let gone = kit.new_tenant("gone").await;
    let running = call(&kit, gone, "http://127.0.0.1:1/").await;
    kit.crash("http").await;
    cancel(&kit, gone).await;
    let id = kit.enqueue::<TenantErase>(args(gone)).await;
    assert_eq!(kit.drain("maintenance").await.snoozed, [id]);
    let reason = kit.job(id).await.last_error.unwrap();
    assert_eq!(reason.code, "still_running");
    assert!(reason.message.starts_with("1 of its jobs"), "{reason:?}");
    let mut tx = TenantTx::begin(&kit.services.pool, gone).await.unwrap();
    // The tenant's own role finds no row.
    assert!(read::job(&mut tx, running).await.unwrap().is_none());
    drop(tx);
    // The worker is dead: its job is rescued, cancelled and deleted.
    kit.advance(std::time::Duration::from_secs(31)).await;
    assert_eq!(kit.drain("http").await.ran, []);
    assert_eq!(kit.drain("maintenance").await.succeeded, [id]);
    assert_eq!(
        rows_of(&kit, gone)
            .await
            .iter()
            .map(|row| row.1)
            .sum::<i64>(),
        0
    );
}

#[tokio::test]
async fn only_a_canceled_tenant_is_erased() {
    let kit = Kit::start().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let other = kit.new_tenant("other").await;
    let job = call(&kit, other, &receiver.url).await;
    seed_all_tables(&kit, other).await;
    let before = rows_of(&kit, other).await;
    for status in ["active", "suspended", "past_due"] {
        query("update app.tenants set status = $2 where id = $1")
            .bind(other)
            .bind(status)
            .execute(&kit.services.pool)
            .await
            .unwrap();
        kit.perform::<TenantErase>(args(other))
            .await
            .dead("not_canceled");
    }
    // A canceled tenant without a requested erasure is not erased either.
    query("update app.tenants set status = 'canceled' where id = $1")
        .bind(other)
        .execute(&kit.services.pool)
        .await
        .unwrap();
    kit.perform::<TenantErase>(args(other))
        .await
        .dead("not_asked_for");
    query("update app.tenants set status = 'active' where id = $1")
        .bind(other)
        .execute(&kit.services.pool)
        .await
        .unwrap();
    assert_eq!(rows_of(&kit, other).await, before);
    assert_eq!(kit.drain("http").await.succeeded, [job]);
    // Nor is the platform, whatever its status.
    cancel(&kit, kit.tenant).await;
    kit.perform::<TenantErase>(args(kit.tenant))
        .await
        .dead("not_canceled");
    let mut tx = TenantTx::begin(&kit.services.pool, other).await.unwrap();
    let state = read::job(&mut tx, job).await.unwrap().unwrap().state;
    assert_eq!(state, JobState::Succeeded);
    // The database enforces it too.
    let refused = query_scalar::<i64>("select app.erase_rows($1, 'events', 10)")
        .bind(other)
        .fetch_one(&kit.services.pool)
        .await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("only a canceled tenant")
    );
    let whole: Option<String> = query_scalar("select slug from app.erase_tenant($1)")
        .bind(other)
        .fetch_optional(&kit.services.pool)
        .await
        .unwrap();
    assert_eq!(whole, None);
}
