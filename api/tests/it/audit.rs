//! The audit log: complete, chained, and tamper-evident.

use harkara_accounts::{Scope, ensure_platform};
use harkara_shared::audit::{self, Actor, Anchor, Entry};
use harkara_shared::database::{TenantTx, query, query_scalar};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::Platform;

async fn entries(platform: &Platform, query: &str) -> Vec<Value> {
    let page = platform
        .client
        .get(&format!("/v1/audit-logs?limit=200&{query}"))
        .await;
    page.expect(200)["data"]
        .as_array()
        .expect("entries")
        .clone()
}

#[tokio::test]
async fn audit_entry_records_actor_action_origin_and_reason() {
    let platform = Platform::start().await;
    let body = json!({"url": "http://127.0.0.1:9/", "headers": {"x-token": "a secret"}});
    let headers = [
        ("content-type", "application/json"),
        ("x-request-id", "req-1"),
        ("x-reason", "ticket 42"),
        ("user-agent", "a test"),
    ];
    let made = platform
        .client
        .send(
            Method::POST,
            "/v1/webhook-endpoints",
            &headers,
            Some(body.to_string()),
        )
        .await
        .expect(201);
    let id = made["id"].as_str().unwrap();
    let path = format!("/v1/webhook-endpoints/{id}");
    platform
        .client
        .patch(&path, &json!({"status": "paused"}))
        .await
        .expect(200);
    platform
        .client
        .get(&format!("{path}/secret"))
        .await
        .expect(200);
    platform.client.delete(&path).await.expect(204);
    // Refused requests are not recorded.
    platform
        .client
        .delete(&path)
        .await
        .problem(404, "not_found");

    let entries_of = entries(&platform, &format!("resource={id}")).await;
    let actions: Vec<&str> = entries_of
        .iter()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "endpoint.delete",
            "endpoint.reveal",
            "endpoint.change",
            "endpoint.create"
        ]
    );
    let first = &entries_of[3];
    assert_eq!(first["actor"]["kind"], "key");
    assert_eq!(first["actor"]["address"], "127.0.0.1");
    assert_eq!(first["actor"]["user_agent"], "a test");
    assert_eq!(first["request_id"], "req-1");
    assert_eq!(first["reason"], "ticket 42");
    assert_eq!(first["after"]["headers"], json!({"x-token": "redacted"}));
    let changed = &entries_of[2];
    assert_eq!(changed["before"]["status"], "active");
    assert_eq!(changed["after"]["status"], "paused");
    let text = Value::from(entries_of.clone()).to_string();
    assert!(
        !text.contains("whsec_") && !text.contains("a secret"),
        "{text}"
    );
    let by_action = entries(&platform, "action=endpoint.reveal").await;
    assert_eq!(by_action.len(), 1);
    let actor = first["actor"]["id"].as_str().unwrap();
    assert!(entries(&platform, &format!("actor={actor}")).await.len() >= 4);
    assert!(
        entries(&platform, "until=2020-01-01T00:00:00Z")
            .await
            .is_empty()
    );
}

#[tokio::test]
async fn every_change_by_a_key_is_recorded_in_the_tenant_audit_log() {
    let platform = Platform::start().await;
    let client = &platform.client;
    let job = client
        .post("/v1/jobs", &crate::jobs::a_job())
        .await
        .expect(201);
    let job = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    client
        .post(
            &format!("{job}/reschedule"),
            &json!({"run_at": "2030-01-31T12:00:00Z"}),
        )
        .await
        .expect(200);
    client.press(&format!("{job}/cancel")).await.expect(200);
    client.press(&format!("{job}/retry")).await.expect(200);
    let bulk = json!({"action": "cancel", "filter": {"state": "ready"}});
    client.post("/v1/jobs/bulk", &bulk).await.expect(202);
    client
        .put("/v1/queues/http/lanes/a", &json!({"max_running": 1}))
        .await
        .expect(200);
    let limits = format!("/v1/tenants/{}/limits", platform.acme.id);
    client
        .put(&limits, &json!({"limits": {"crm": {"max_running": 2}}}))
        .await
        .expect(200);
    let key = json!({"name": "k", "scopes": ["jobs:read"]});
    let key = client.post("/v1/api-keys", &key).await.expect(201);
    let key = format!("/v1/api-keys/{}", key["id"].as_str().unwrap());
    client
        .patch(&key, &json!({"name": "other"}))
        .await
        .expect(200);
    client
        .post(&format!("{key}/rotate"), &json!({}))
        .await
        .expect(201);
    client.delete(&key).await.expect(204);
    let operator = ensure_platform(&platform.pool).await.unwrap();
    let operator = platform.client_of(&operator, Scope::ALL).await;
    let tenant = format!("/v1/tenants/{}", platform.acme.id);
    operator.press(&format!("{tenant}/pause")).await.expect(200);
    operator
        .press(&format!("{tenant}/resume"))
        .await
        .expect(200);
    operator
        .patch(&tenant, &json!({"sla_tier": "PRO"}))
        .await
        .expect(200);

    let entries_of = entries(&platform, "").await;
    let mut actions: Vec<&str> = entries_of
        .iter()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    actions.reverse();
    assert_eq!(
        actions,
        [
            "tenant.create",
            "key.create",
            "job.reschedule",
            "job.cancel",
            "job.retry",
            "job.bulk",
            "lane.change",
            "tenant.limits",
            "key.create",
            "key.change",
            "key.rotate",
            "key.change",
            "key.revoke",
            "tenant.pause",
            "tenant.resume",
            "tenant.change"
        ]
    );
    // Actions without a tenant are recorded in the log of the actor's tenant.
    operator.press("/v1/queues/http/pause").await.expect(200);
    operator.press("/v1/queues/http/resume").await.expect(200);
    operator
        .put("/v1/queues/http", &json!({"max_running": 9}))
        .await
        .expect(200);
    let page = operator
        .get("/v1/audit-logs?resource=http")
        .await
        .expect(200);
    assert_eq!(page["data"].as_array().unwrap().len(), 3);
    assert_eq!(page["data"][0]["after"], json!({"max_running": 9}));
    let intact = client.get("/v1/audit-logs/verify").await.expect(200);
    assert_eq!(intact["intact"], true, "{intact}");
    assert_eq!(intact["entries"], 16);
}

/// A chain of ten entries, and a superuser connection with triggers off that can break it.
struct Chain {
    platform: Platform,
    superuser: PgPool,
}

impl Chain {
    async fn new() -> Self {
        let platform = Platform::start().await;
        let mut tx = TenantTx::begin(&platform.pool, platform.acme.id)
            .await
            .unwrap();
        for number in 0..8 {
            let entry = Entry::new("test.entry", number).after(json!({"number": number}));
            audit::record(&mut tx, platform.acme.id, &Actor::system("test"), &entry)
                .await
                .unwrap();
        }
        tx.commit().await.unwrap();
        let superuser = PgPool::connect(&platform.database.superuser_url())
            .await
            .unwrap();
        Self {
            platform,
            superuser,
        }
    }

    async fn tamper(&self, sql: &'static str) {
        let mut tx = self.superuser.begin().await.unwrap();
        query("set local session_replication_role = replica")
            .execute(&mut *tx)
            .await
            .unwrap();
        let done = query(sql)
            .bind(self.platform.acme.id)
            .execute(&mut *tx)
            .await
            .unwrap();
        assert!(done.rows_affected() > 0);
        tx.commit().await.unwrap();
    }

    async fn faults(&self) -> Value {
        let check = self
            .platform
            .client
            .get("/v1/audit-logs/verify")
            .await
            .expect(200);
        assert_eq!(check["intact"], check["faults"] == json!([]));
        check["faults"].clone()
    }

    async fn head(&self) -> Anchor {
        let (seq, hash) = harkara_shared::database::query_as(
            "select seq, hash from app.audit_heads where tenant_id = $1",
        )
        .bind(self.platform.acme.id)
        .fetch_one(&self.superuser)
        .await
        .unwrap();
        Anchor {
            seq,
            hash,
            at: harkara_shared::clock::now(),
        }
    }
}

#[tokio::test]
async fn edited_audit_entry_is_detected() {
    let chain = Chain::new().await;
    assert_eq!(chain.faults().await, json!([]));
    chain
        .tamper(
            "update app.audit_log set actor_id = 'someone else' where tenant_id = $1 and seq = 3",
        )
        .await;
    assert_eq!(
        chain.faults().await,
        json!([{"seq": 3, "fault": "changed"}])
    );
    // An entry with a recomputed hash is detected by the entry after it.
    chain
        .tamper(
            "update app.audit_log l set hash = app.hash_audit_entry(
                (select hash from app.audit_log where tenant_id = $1 and seq = 2), l
             ) where tenant_id = $1 and seq = 3",
        )
        .await;
    assert_eq!(
        chain.faults().await,
        json!([{"seq": 4, "fault": "changed"}])
    );
}

#[tokio::test]
async fn removed_or_inserted_audit_entry_is_detected() {
    let chain = Chain::new().await;
    chain
        .tamper("delete from app.audit_log where tenant_id = $1 and seq = 4")
        .await;
    assert_eq!(
        chain.faults().await,
        json!([{"seq": 5, "fault": "missing"}])
    );
    let chain = Chain::new().await;
    chain
        .tamper(
            "insert into app.audit_log (tenant_id, seq, at, actor_kind, actor_id, action, resource, hash)
             select tenant_id, 11, now(), 'key', 'x', 'x', 'x', hash
             from app.audit_log where tenant_id = $1 and seq = 10",
        )
        .await;
    let faults = chain.faults().await;
    assert_eq!(faults, json!([{"seq": 11, "fault": "changed"}]));
}

#[tokio::test]
async fn truncated_audit_chain_is_detected() {
    let chain = Chain::new().await;
    let anchor = chain.head().await;
    assert_eq!(anchor.seq, 10);
    chain
        .tamper("delete from app.audit_log where tenant_id = $1 and seq > 7")
        .await;
    assert_eq!(
        chain.faults().await,
        json!([{"seq": 8, "fault": "truncated"}])
    );
    // With a matching head, only an external anchor detects it.
    chain
        .tamper(
            "update app.audit_heads h set seq = 7, hash = (
                select hash from app.audit_log where tenant_id = $1 and seq = 7
             ) where tenant_id = $1",
        )
        .await;
    assert_eq!(chain.faults().await, json!([]));
    let check = async |anchor: &Anchor| {
        let tenant = chain.platform.acme.id;
        let mut tx = TenantTx::begin(&chain.platform.pool, tenant).await.unwrap();
        let anchors = std::slice::from_ref(anchor);
        let checked = audit::verify(&mut tx, tenant, anchors).await.unwrap();
        let faults = checked.faults.iter();
        faults
            .map(|link| (link.seq, link.fault.clone()))
            .collect::<Vec<_>>()
    };
    assert_eq!(check(&anchor).await, [(8, "truncated".to_owned())]);
    // A chain rewritten from that entry on differs from its anchor.
    let mut tx = TenantTx::begin(&chain.platform.pool, chain.platform.acme.id)
        .await
        .unwrap();
    for number in 0..5 {
        let entry = Entry::new("test.entry", number);
        audit::record(
            &mut tx,
            chain.platform.acme.id,
            &Actor::system("liar"),
            &entry,
        )
        .await
        .unwrap();
    }
    tx.commit().await.unwrap();
    assert_eq!(chain.faults().await, json!([]));
    assert_eq!(check(&anchor).await, [(10, "rewritten".to_owned())]);
}

#[tokio::test]
async fn missing_audit_chain_is_detected() {
    let chain = Chain::new().await;
    chain
        .tamper("delete from app.audit_log where tenant_id = $1")
        .await;
    chain
        .tamper("delete from app.audit_heads where tenant_id = $1")
        .await;
    let faults = chain.faults().await;
    assert_eq!(faults, json!([{"seq": 1, "fault": "missing"}]));
}

#[tokio::test]
async fn no_platform_role_can_change_the_audit_log() {
    let chain = Chain::new().await;
    for sql in [
        "update app.audit_log set actor_id = 'x'",
        "delete from app.audit_log",
        "truncate app.audit_log",
        "insert into app.audit_log (tenant_id, seq, at, actor_kind, actor_id, action, resource, hash)
         select tenant_id, 99, now(), 'key', 'x', 'x', 'x', hash from app.audit_log limit 1",
        "update app.audit_heads set seq = 1",
        "delete from app.audit_heads",
    ] {
        let mut tx = TenantTx::begin(&chain.platform.pool, chain.platform.acme.id).await.unwrap();
        let refused = query(sql).execute(&mut *tx).await.unwrap_err();
        let code = refused.as_database_error().and_then(|error| error.code().map(Into::into));
        assert_eq!(code, Some("42501".to_owned()), "{sql}: {refused}");
    }
    // Neither can the engine's role, whichever action it claims.
    for table in ["app.audit_log", "app.audit_heads"] {
        let mut tx = chain.platform.pool.begin().await.unwrap();
        query("set local role harkara_engine")
            .execute(&mut *tx)
            .await
            .unwrap();
        query("select set_config('app.erasing', $1, true)")
            .bind(chain.platform.acme.id.as_uuid().to_string())
            .execute(&mut *tx)
            .await
            .unwrap();
        let sql = match table {
            "app.audit_log" => "delete from app.audit_log",
            _ => "delete from app.audit_heads",
        };
        let refused = query(sql).execute(&mut *tx).await.unwrap_err();
        let code = refused
            .as_database_error()
            .and_then(|error| error.code().map(Into::into));
        assert_eq!(code, Some("42501".to_owned()), "{table}: {refused}");
    }
    // The owner cannot change it by accident.
    for sql in [
        "update app.audit_log set actor_id = 'x'",
        "truncate app.audit_log",
    ] {
        let before: i64 = query_scalar("select count(*) from app.audit_log where actor_id <> 'x'")
            .fetch_one(&chain.superuser)
            .await
            .unwrap();
        let _ = query(sql).execute(&chain.platform.pool).await;
        let after: i64 = query_scalar("select count(*) from app.audit_log where actor_id <> 'x'")
            .fetch_one(&chain.superuser)
            .await
            .unwrap();
        assert_eq!(before, after, "{sql}");
    }
    // A tenant's transaction can only append to its own chain.
    let other = chain.platform.tenant("other").await;
    let mut tx = TenantTx::begin(&chain.platform.pool, chain.platform.acme.id)
        .await
        .unwrap();
    let entry = Entry::new("x", "x");
    let refused = audit::record(&mut tx, other.id, &Actor::system("x"), &entry)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("another tenant"), "{refused}");
}

#[tokio::test]
async fn concurrent_audit_entries_of_a_tenant_form_one_chain() {
    let platform = Platform::start().await;
    let tenant = platform.acme.id;
    let tasks = (0..8).map(|task| {
        let pool = platform.pool.clone();
        tokio::spawn(async move {
            for number in 0..25 {
                let mut tx = TenantTx::begin(&pool, tenant).await.unwrap();
                let entry = Entry::new("test.entry", format!("{task}/{number}"));
                audit::record(&mut tx, tenant, &Actor::system("test"), &entry)
                    .await
                    .unwrap();
                tx.commit().await.unwrap();
            }
        })
    });
    for task in tasks.collect::<Vec<_>>() {
        task.await.unwrap();
    }
    let check = platform
        .client
        .get("/v1/audit-logs/verify")
        .await
        .expect(200);
    assert_eq!(
        (&check["intact"], &check["entries"]),
        (&json!(true), &json!(202))
    );
}
