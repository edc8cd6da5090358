//! Export and erasure of all data of a tenant.

use std::collections::{BTreeMap, BTreeSet};

use harkara_accounts::{Scope, Tenant, ensure_platform};
use harkara_shared::database::{query, query_as, query_scalar};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};

use crate::jobs::a_job;
use crate::support::{Client, Platform, TestResponse};

/// Gives a tenant rows in every table.
async fn seed_all_tables(platform: &Platform, tenant: &Tenant) {
    let mut superuser = PgConnection::connect(&platform.database.superuser_url())
        .await
        .unwrap();
    query("select set_config('test.tenant', $1, false)")
        .bind(tenant.id.as_uuid().to_string())
        .execute(&mut superuser)
        .await
        .unwrap();
    let seed = include_str!("../../../jobs/platform/tests/it/seed_all_tables.sql");
    superuser.execute(seed).await.unwrap();
}

async fn admin(platform: &Platform) -> Client {
    let own = ensure_platform(&platform.pool).await.unwrap();
    platform.client_of(&own, Scope::ALL).await
}

/// The rows of an export by table, and the total in its last line.
fn read(response: &TestResponse) -> (BTreeMap<String, Vec<Value>>, u64) {
    assert_eq!(response.status, 200, "{}", response.text);
    assert_eq!(response.header("content-type"), "application/x-ndjson");
    assert!(response.text.ends_with('\n'));
    let mut lines: Vec<Value> = response
        .text
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let end = lines.pop().unwrap();
    assert_eq!(end["end"], true);
    let mut rows: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for mut line in lines {
        assert_eq!(line.as_object().unwrap().len(), 2, "{line}");
        let table = line["table"].as_str().unwrap().to_owned();
        rows.entry(table).or_default().push(line["row"].take());
    }
    (rows, end["rows"].as_u64().unwrap())
}

/// The number of rows of a tenant in each table of the database catalogue.
async fn there(platform: &Platform, tenant: &Tenant) -> Vec<(String, i64)> {
    let mut superuser = PgConnection::connect(&platform.database.superuser_url())
        .await
        .unwrap();
    query_as(
        "select c.table_name::text, (xpath('/row/rows/text()', query_to_xml(format(
            'select count(*) as rows from app.%I where tenant_id = %L', c.table_name, $1
         ), false, true, '')))[1]::text::int8
         from information_schema.columns c
         where c.table_schema = 'app' and c.column_name = 'tenant_id'",
    )
    .bind(tenant.id.as_uuid())
    .fetch_all(&mut superuser)
    .await
    .unwrap()
}

#[tokio::test]
async fn export_contains_all_data_of_the_tenant_and_nothing_of_another() {
    let platform = Platform::start().await;
    let other = platform.tenant("other").await;
    let stranger = platform.client_of(&other, Scope::ALL).await;
    let mut posted = Vec::new();
    for client in [&stranger, &platform.client] {
        let endpoint = json!({"url": "http://127.0.0.1:9/", "event_types": ["invoice.*"]});
        let endpoint = client.post("/v1/webhook-endpoints", &endpoint).await;
        posted = vec![endpoint.expect(201)["secret"].clone()];
        for n in 0..3 {
            let event = json!({"type": "invoice.paid", "data": {"n": n}});
            client.post("/v1/events", &event).await.expect(202);
        }
        let jobs: Vec<Value> = (0..250).map(|_| a_job()).collect();
        let batch = client.post("/v1/jobs/batch", &json!({"jobs": jobs})).await;
        posted.extend(batch.expect(201)["ids"].as_array().unwrap().clone());
    }
    for tenant in [&other, &platform.acme] {
        seed_all_tables(&platform, tenant).await;
    }
    query(
        "insert into queue.attempts
            (job_id, tenant, started_at, finished_at, outcome, error_code, error_message)
         select p.id * 1024 + p.lo, p.tenant, now() - interval '1 second', now(), 'retry', 'no', 'no'
         from queue.parcels p where p.n = 1",
    )
    .execute(&platform.pool)
    .await
    .unwrap();

    // Usage of the requests themselves is written a moment later, beside the row that was seeded.
    let usage = "select count(*) from app.usage where tenant_id = $1";
    while query_scalar::<i64>(usage)
        .bind(platform.acme.id)
        .fetch_one(&platform.pool)
        .await
        .unwrap()
        < 2
    {
        tokio::task::yield_now().await;
    }
    let response = platform.client.get("/v1/tenants/acme/export").await;
    assert_eq!(
        response.header("content-disposition"),
        "attachment; filename=\"acme.ndjson\""
    );
    let (rows, total) = read(&response);
    let counted: usize = rows.values().map(Vec::len).sum();
    assert_eq!(total, u64::try_from(counted).unwrap());
    let id = platform.acme.id.as_uuid().to_string();
    for (table, row) in rows
        .iter()
        .flat_map(|(table, rows)| rows.iter().map(move |row| (table, row)))
    {
        match table.as_str() {
            "tenants" => assert_eq!(row["id"], id),
            "jobs" => assert_eq!(row["tenant_id"], platform.acme.id.to_string()),
            "attempts" => assert_eq!(row["outcome"], "retry"),
            _ => assert_eq!(row["tenant_id"], id, "{table}"),
        }
    }
    for (table, count) in there(&platform, &platform.acme).await {
        assert!(
            count > 0,
            "seed_all_tables.sql writes no row of app.{table}"
        );
        let shown = rows.get(&table).map_or(0, Vec::len);
        assert_eq!(i64::try_from(shown).unwrap(), count, "{table}");
    }
    let ids = |table: &str, member: &str| -> BTreeSet<String> {
        let ids = rows[table]
            .iter()
            .map(|row| row[member].as_str().unwrap().to_owned());
        ids.collect()
    };
    let jobs = ids("jobs", "id");
    assert_eq!(
        (rows["jobs"].len(), jobs.len()),
        (253, 253),
        "250 and 3 deliveries"
    );
    assert!(
        posted[1..]
            .iter()
            .all(|id| jobs.contains(id.as_str().unwrap()))
    );
    assert_eq!(rows["attempts"].len(), 3);
    assert!(ids("attempts", "job_id").is_subset(&jobs));
    // Jobs are shown as in every other response, and no secret is included.
    let job = &rows["jobs"][0];
    let shown = platform
        .client
        .get(&format!("/v1/jobs/{}", job["id"].as_str().unwrap()))
        .await;
    assert_eq!(&shown.expect(200), job);
    let secret: String = "secret".bytes().map(|byte| format!("{byte:02x}")).collect();
    let whsec = posted[0].as_str().unwrap();
    assert!(!response.text.contains(&secret) && !response.text.contains(whsec));

    let entries = platform
        .client
        .get("/v1/audit-logs?action=tenant.export")
        .await
        .expect(200);
    assert_eq!(entries["data"][0]["resource"], platform.acme.id.to_string());
    // The platform's admin can export it too, which is recorded in the tenant's log.
    let (theirs, _) = read(&admin(&platform).await.get("/v1/tenants/acme/export").await);
    assert_eq!(theirs["jobs"], rows["jobs"]);
    let entries = platform
        .client
        .get("/v1/audit-logs?action=tenant.export")
        .await
        .expect(200);
    assert_eq!(entries["data"].as_array().unwrap().len(), 2);
    stranger
        .get("/v1/tenants/acme/export")
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn export_shows_one_snapshot_however_long_it_takes() {
    let platform = Platform::start().await;
    seed_all_tables(&platform, &platform.acme).await;
    let mut superuser = PgConnection::connect(&platform.database.superuser_url())
        .await
        .unwrap();
    // More data than fits into the buffers of an unread connection.
    superuser
        .execute(
            "insert into app.events (tenant_id, id, type, data)
             select tenant_id, 'more' || g, 'a.b', repeat('x', 500)
             from app.events, generate_series(1, 60000) g where id = 'e1'",
        )
        .await
        .unwrap();
    let mut response = platform.client.open("/v1/tenants/acme/export").await;
    let mut text = response.chunk().await.unwrap().unwrap().to_vec();
    superuser
        .execute("delete from app.deliveries; delete from app.events")
        .await
        .unwrap();
    while let Some(chunk) = response.chunk().await.unwrap() {
        text.extend_from_slice(&chunk);
    }
    let text = String::from_utf8(text).unwrap();
    let events = text
        .lines()
        .filter(|line| line.starts_with(r#"{"table":"events""#));
    assert_eq!(events.count(), 61_500);
    let end: Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert_eq!(end["rows"], text.lines().count() - 1);
}

#[tokio::test]
async fn canceled_tenant_is_erased_by_a_single_job() {
    let platform = Platform::start().await;
    let admin = admin(&platform).await;
    let path = "/v1/tenants/acme/erase";
    let confirm = json!({"confirm": "acme"});
    platform
        .client
        .post(path, &confirm)
        .await
        .problem(403, "missing_scope");
    let stranger = platform.client_of(&platform.acme, Scope::ALL).await;
    stranger
        .post(path, &confirm)
        .await
        .problem(403, "platform_only");
    admin
        .post("/v1/tenants/unknown/erase", &confirm)
        .await
        .problem(404, "not_found");
    for (body, code) in [
        (json!({"confirm": "other"}), "invalid"),
        (json!({}), "missing"),
    ] {
        let faults = admin.post(path, &body).await.problem(422, "invalid");
        assert_eq!(faults, [("/confirm".to_owned(), code.to_owned())]);
    }
    admin.post(path, &confirm).await.problem(409, "conflict");
    let platform_itself = json!({"confirm": "platform"});
    admin
        .post("/v1/tenants/platform/erase", &platform_itself)
        .await
        .problem(409, "conflict");
    assert_eq!(platform.jobs().await, 0);

    let canceled = json!({"status": "canceled"});
    admin.patch("/v1/tenants/acme", &canceled).await.expect(200);
    let accepted = admin.post(path, &confirm).await;
    let job = accepted.expect(202)["job_id"].clone();
    assert_eq!(
        accepted.header("location"),
        format!("/v1/jobs/{}", job.as_str().unwrap())
    );
    assert_eq!(admin.post(path, &confirm).await.expect(202)["job_id"], job);
    // It cannot be undone, and no data can be added before the erasure.
    let active = json!({"status": "active"});
    let reinstated = admin.patch("/v1/tenants/acme", &active).await;
    reinstated.problem(409, "conflict");
    let headers = [
        ("x-tenant-id", "acme"),
        ("content-type", "application/json"),
    ];
    let added = admin
        .send(
            Method::POST,
            "/v1/jobs",
            &headers,
            Some(a_job().to_string()),
        )
        .await;
    added.problem(409, "conflict");
    let shown = admin.get(accepted.header("location")).await.expect(200);
    assert_eq!(shown["kind"], "tenant.erase");
    assert_eq!(shown["payload"], json!({"tenant_id": platform.acme.id}));
    let entries = admin
        .get("/v1/audit-logs?action=tenant.erase")
        .await
        .expect(200);
    let entry = &entries["data"][1];
    assert_eq!(entry["resource"], platform.acme.id.to_string());
    assert_eq!(entry["after"], json!({"slug": "acme", "job_id": job}));
}
