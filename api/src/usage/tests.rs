//! Usage against a real database.

use harkara_shared::database::{query, query_as};
use harkara_test_database::TestDatabase;

use super::*;

const MAKE_KEY: &str = "with t as (insert into app.tenants (id, slug, name, sla_tier)
   values ($1, $2::uuid::text, 'n', 'FREE') returning id) insert into app.api_keys
   (tenant_id, id, public_id, hash, last4, name, tier, scopes)
   select id, $2, $2::uuid::text, sha256('h'), 'last', 'n', 'free', '{}' from t";

async fn key(pool: &PgPool) -> (TenantId, Principal) {
    let (tenant, id) = (TenantId::new(), ApiKeyId::new());
    let made = query(MAKE_KEY).bind(tenant).bind(id);
    made.execute(pool).await.unwrap();
    (tenant, Principal::Key { id, family: id })
}

async fn written(pool: &PgPool) -> Vec<(NaiveDate, i64)> {
    query_as("select month, requests from app.usage order by requests")
        .fetch_all(pool)
        .await
        .unwrap()
}

fn this_month() -> NaiveDate {
    month(clock::now())
}

#[tokio::test]
async fn counts_of_replicas_are_added() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let [one, two] = [(); 2].map(|()| UsageRecorder::new(pool.clone()));
    let keys = [key(&pool).await.1, key(&pool).await.1];
    for _ in 0..3 {
        one.count_request(keys[0]);
        two.count_request(keys[0]);
        two.count_request(keys[1]);
    }
    let both = tokio::join!(one.flush(), two.flush());
    assert!(both.0.is_ok() && both.1.is_ok());
    assert_eq!(written(&pool).await, [(this_month(), 3), (this_month(), 6)]);
    one.flush().await.unwrap();
    one.count_request(keys[1]);
    one.flush().await.unwrap();
    assert_eq!(written(&pool).await, [(this_month(), 4), (this_month(), 6)]);
}

#[tokio::test]
async fn counts_that_cannot_be_written_are_kept_and_written_later() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let usage = UsageRecorder::new(pool.clone());
    let (tenant, principal) = key(&pool).await;
    let execute = async |sql| query(sql).execute(&pool).await.unwrap();
    execute("alter table app.usage rename to gone").await;
    for _ in 0..3 {
        usage.count_request(principal);
        assert!(usage.flush().await.is_err());
    }
    execute("alter table app.gone rename to usage").await;
    usage.flush().await.unwrap();
    assert_eq!(written(&pool).await, [(this_month(), 3)]);
    let used = query_as::<(Option<DateTime<Utc>>,)>("select last_used_at from app.api_keys");
    assert!(used.fetch_one(&pool).await.unwrap().0.is_some());

    // A deleted key has no usage, and does not prevent that of other keys from being written.
    usage.count_request(principal);
    execute("delete from app.usage").await;
    execute("delete from app.api_keys").await;
    let (_, other) = key(&pool).await;
    usage.count_request(other);
    usage.flush().await.unwrap();
    assert_eq!(written(&pool).await, [(this_month(), 1)]);

    let closed = UsageRecorder::new(pool.clone());
    closed.record_action(principal, tenant, &Actor::system("test"), "jobs.enqueue");
    pool.close().await;
    assert!(closed.write_audit().await.is_err());
    assert_eq!(closed.counts().actions.len(), 1, "it is kept");
}

#[tokio::test]
async fn audit_log_gets_one_entry_for_many_requests() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let usage = UsageRecorder::new(pool.clone());
    let (tenant, principal) = key(&pool).await;
    let actor = Actor {
        request_id: Some("one".to_owned()),
        ..Actor::system("key")
    };
    for _ in 0..5 {
        usage.record_action(principal, tenant, &actor, "jobs.enqueue");
    }
    usage.record_action(principal, tenant, &actor, "events.post");
    usage.write_audit().await.unwrap();
    usage.write_audit().await.unwrap();
    type AuditRow = (String, String, Option<String>, i64);
    let entries: Vec<AuditRow> = query_as(
        "select action, resource, request_id, (after->>'requests')::int8 from app.audit_log
         where tenant_id = $1 order by action desc",
    )
    .bind(tenant)
    .fetch_all(&pool)
    .await
    .unwrap();
    let Principal::Key { id, .. } = principal else {
        panic!("it is a key")
    };
    let entry = |action: &str, requests| (action.to_owned(), id.to_string(), None, requests);
    assert_eq!(entries, [entry("jobs.enqueue", 5), entry("events.post", 1)]);
}
