//! `maintenance.access_expiry`: expired access is reported once, and old sessions and links are deleted.

use std::time::Duration;

use harkara_kit::Kit;
use harkara_platform::kinds::maintenance_access_expiry::MaintenanceAccessExpiry;
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::{ApiKeyId, GrantId, OverrideId, TenantId, UserId};
use serde_json::{Value, json};

const HOUR: Duration = Duration::from_secs(60 * 60);

async fn expire(kit: &Kit) -> Value {
    let done = kit.perform::<MaintenanceAccessExpiry>(json!({})).await;
    done.done().result.unwrap()
}

async fn execute(tx: &mut TenantTx, sql: &'static str, ids: [sqlx::types::Uuid; 3]) {
    query(sql)
        .bind(ids[0])
        .bind(ids[1])
        .bind(ids[2])
        .execute(&mut **tx)
        .await
        .unwrap();
}

/// Creates access of every kind that expires in an hour, and returns its ids.
async fn for_an_hour(kit: &Kit, tenant: TenantId) -> (ApiKeyId, UserId, GrantId, OverrideId) {
    let mut tx = TenantTx::begin(&kit.services.pool, tenant).await.unwrap();
    let (key, user, grant, permission) = (
        ApiKeyId::new(),
        UserId::new(),
        GrantId::new(),
        OverrideId::new(),
    );
    let own = tenant.as_uuid();
    execute(
        &mut tx,
        "insert into app.api_keys
            (tenant_id, id, public_id, hash, last4, name, tier, scopes, expires_at)
         values ($1, $2, $3::uuid::text, sha256('x'), 'last', 'weekly', 'free', '{}',
            now() + interval '1 hour')",
        [own, key.as_uuid(), key.as_uuid()],
    )
    .await;
    execute(
        &mut tx,
        "insert into app.users (tenant_id, id, email, name)
         values ($1, $2, $3::uuid::text || '@example.com', 'Ada')",
        [own, user.as_uuid(), user.as_uuid()],
    )
    .await;
    execute(
        &mut tx,
        "insert into app.role_grants (tenant_id, id, user_id, role, granted_by, not_before, expires_at)
         values ($1, $2, $3, 'operator', 'test', now(), now() + interval '1 hour')",
        [own, grant.as_uuid(), user.as_uuid()],
    )
    .await;
    execute(
        &mut tx,
        "insert into app.user_permissions
            (tenant_id, id, user_id, permission, effect, granted_by, not_before, expires_at)
         values ($1, $2, $3, 'jobs:read', 'deny', 'test', now(), now() + interval '1 hour')",
        [own, permission.as_uuid(), user.as_uuid()],
    )
    .await;
    tx.commit().await.unwrap();
    (key, user, grant, permission)
}

async fn audit_entries(kit: &Kit, tenant: TenantId) -> Vec<(String, String, String, Value)> {
    let mut tx = TenantTx::begin(&kit.services.pool, tenant).await.unwrap();
    query_as("select action, actor_id, resource, before from app.audit_log order by seq")
        .fetch_all(&mut *tx)
        .await
        .unwrap()
}

#[tokio::test]
async fn expiry_is_reported_once_to_the_owner() {
    let kit = Kit::start().await;
    let other = kit.new_tenant("other").await;
    let (key, user, grant, permission) = for_an_hour(&kit, kit.tenant).await;
    for_an_hour(&kit, other).await;
    // The revocation has its own audit entry already.
    let mut tx = TenantTx::begin(&kit.services.pool, other).await.unwrap();
    for revoke in [
        "update app.api_keys set revoked_at = now()",
        "update app.role_grants set revoked_at = now()",
        "update app.user_permissions set revoked_at = now()",
    ] {
        query(revoke).execute(&mut *tx).await.unwrap();
    }
    tx.commit().await.unwrap();
    let nothing =
        json!({"keys": 0, "grants": 0, "permissions": 0, "sessions": 0, "sign_in_links": 0});
    let names = |result: &Value| -> Vec<(String, Value)> {
        let counts = result.as_object().unwrap().clone();
        counts
            .into_iter()
            .filter(|(_, count)| *count != 0)
            .collect()
    };
    assert_eq!(names(&expire(&kit).await), names(&nothing));
    kit.advance(HOUR).await;
    let once = expire(&kit).await;
    for name in ["keys", "grants", "permissions"] {
        assert_eq!(once[name], 1, "{name}");
    }
    assert_eq!(names(&expire(&kit).await), names(&nothing));

    let at = (kit.now()).format("%Y-%m-%dT%H:%M:%S").to_string();
    let mut entries = audit_entries(&kit, kit.tenant).await;
    for entry in &mut entries {
        assert_eq!(entry.1, "maintenance.access_expiry");
        let expired = entry
            .3
            .as_object_mut()
            .unwrap()
            .remove("expires_at")
            .unwrap();
        assert!(
            expired.as_str().unwrap().starts_with(&at),
            "{expired}, not {at}"
        );
    }
    let entries: Vec<(&str, &str, &Value)> = entries
        .iter()
        .map(|entry| (entry.0.as_str(), entry.2.as_str(), &entry.3))
        .collect();
    assert_eq!(
        entries,
        [
            (
                "key.expire",
                key.to_string().as_str(),
                &json!({"name": "weekly"})
            ),
            (
                "grant.expire",
                grant.to_string().as_str(),
                &json!({"role": "operator", "user_id": user})
            ),
            (
                "permission.expire",
                permission.to_string().as_str(),
                &json!({"permission": "jobs:read", "effect": "deny", "user_id": user})
            ),
        ]
    );
    assert_eq!(audit_entries(&kit, other).await, []);
}

#[tokio::test]
async fn more_than_one_batch_of_expiries_is_reported() {
    let kit = Kit::start().await;
    let mut tx = kit.tx().await;
    query(
        "insert into app.api_keys
            (tenant_id, id, public_id, hash, last4, name, tier, scopes, expires_at)
         select $1, gen_random_uuid(), g::text, sha256('x'), 'last', 'many', 'free', '{}', now()
         from generate_series(1, 450) g",
    )
    .bind(kit.tenant)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(expire(&kit).await["keys"], 450);
    assert_eq!(audit_entries(&kit, kit.tenant).await.len(), 450);
}

#[tokio::test]
async fn sessions_and_links_are_deleted_a_day_after_their_end() {
    let kit = Kit::start().await;
    let (_, user, ..) = for_an_hour(&kit, kit.tenant).await;
    let mut tx = kit.tx().await;
    for (sql, names) in [
        (
            "insert into app.sessions
                (tenant_id, id, user_id, token_hash, method, expires_at, ended_at)
             select $1, gen_random_uuid(), $2, sha256(name::bytea), 'link',
                now() + interval '2 hours' * (name = 'short')::int + interval '30 days' * (name <> 'short')::int,
                case when name = 'ended' then now() end
             from unnest($3::text[]) name",
            ["short", "ended", "long"],
        ),
        (
            "insert into app.sign_in_links
                (tenant_id, id, user_id, token_hash, created_by, expires_at, used_at)
             select $1, gen_random_uuid(), $2, sha256(name::bytea), 'test',
                now() + interval '2 hours' * (name = 'short')::int + interval '30 days' * (name <> 'short')::int,
                case when name = 'ended' then now() end
             from unnest($3::text[]) name",
            ["short", "ended", "long"],
        ),
    ] {
        query(sql)
            .bind(kit.tenant)
            .bind(user)
            .bind(names)
            .execute(&mut *tx)
            .await
            .unwrap();
    }
    tx.commit().await.unwrap();
    let left = async || -> (i64, i64) {
        let mut tx = kit.tx().await;
        let count = async |tx: &mut TenantTx, sql| -> i64 {
            query_scalar(sql).fetch_one(&mut **tx).await.unwrap()
        };
        (
            count(&mut tx, "select count(*) from app.sessions").await,
            count(&mut tx, "select count(*) from app.sign_in_links").await,
        )
    };
    expire(&kit).await;
    assert_eq!(left().await, (3, 3));
    kit.advance(HOUR * 24 + Duration::from_secs(1)).await;
    let result = expire(&kit).await;
    assert_eq!(
        (&result["sessions"], &result["sign_in_links"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(left().await, (2, 2));
    kit.advance(HOUR * 2).await;
    expire(&kit).await;
    assert_eq!(left().await, (1, 1));
}

#[tokio::test]
async fn stored_response_is_deleted_when_its_idempotency_key_expires() {
    let kit = Kit::start().await;
    let mut tx = kit.tx().await;
    query(
        "insert into app.idempotency (
            tenant_id, subject, method, route, key, token, fingerprint, state, locked_until, expires_at
         )
         select $1, 'key', 'POST', '/v1/jobs', hours::text, gen_random_uuid(), sha256('x'), 'running',
            now(), now() + hours * interval '1 hour'
         from generate_series(1, 450) hours",
    )
    .bind(kit.tenant)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    assert_eq!(expire(&kit).await["answers"], 0);
    kit.advance(HOUR).await;
    assert_eq!(expire(&kit).await["answers"], 1);
    kit.advance(HOUR * 448).await;
    assert_eq!(expire(&kit).await["answers"], 448);
}
