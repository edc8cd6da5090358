//! `audit.anchor`: heads of grown audit chains are stored outside the database.

use std::time::Duration;

use harkara_kit::Kit;
use harkara_platform::kinds::audit_anchor::AuditAnchor;
use harkara_shared::anchors;
use harkara_shared::audit::{self, Actor, ChainReport, Entry};
use harkara_shared::blob::BlobStore;
use harkara_shared::database::TenantTx;
use harkara_shared::id::TenantId;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A platform with a blob store.
async fn fixture() -> (Kit, tempfile::TempDir) {
    let mut kit = Kit::start().await;
    let directory = tempfile::tempdir().unwrap();
    let url = url::Url::from_file_path(directory.path()).unwrap();
    kit.services.blobs = Some(BlobStore::open(&url).unwrap());
    (kit, directory)
}

async fn act(kit: &Kit, tenant: TenantId, thing: &str) {
    let mut tx = TenantTx::begin(&kit.services.pool, tenant).await.unwrap();
    let entry = Entry::new("thing.do", thing);
    audit::record(&mut tx, tenant, &Actor::system("test"), &entry)
        .await
        .unwrap();
    tx.commit().await.unwrap();
}

async fn anchor(kit: &Kit) -> Value {
    let done = kit.perform::<AuditAnchor>(json!({})).await.done();
    done.result.unwrap()
}

async fn check(kit: &Kit, tenant: TenantId) -> ChainReport {
    let blobs = kit.services.blobs.as_ref().unwrap();
    let anchors = anchors::tenant_anchors(blobs, &kit.services.keys, tenant)
        .await
        .unwrap();
    let mut tx = TenantTx::begin(&kit.services.pool, tenant).await.unwrap();
    audit::verify(&mut tx, tenant, &anchors).await.unwrap()
}

/// Changes the log as a superuser.
async fn tamper(kit: &Kit, sql: &'static str) {
    let mut superuser = PgConnection::connect(&kit.database().superuser_url())
        .await
        .unwrap();
    superuser
        .execute("set session_replication_role = replica")
        .await
        .unwrap();
    superuser.execute(sql).await.unwrap();
}

#[tokio::test]
async fn audit_chain_is_anchored_only_when_it_has_grown() {
    let (kit, _directory) = fixture().await;
    let other = kit.new_tenant("other").await;
    assert_eq!(anchor(&kit).await["anchored"], 0);
    act(&kit, kit.tenant, "it").await;
    act(&kit, other, "it").await;
    let first = anchor(&kit).await;
    assert_eq!(first["anchored"], 2);
    assert_eq!(first["objects"].as_array().unwrap().len(), 1);
    assert_eq!(anchor(&kit).await["anchored"], 0);
    kit.advance(HOUR).await;
    act(&kit, other, "it").await;
    assert_eq!(anchor(&kit).await["anchored"], 1);

    let blobs = kit.services.blobs.as_ref().unwrap();
    let anchors = anchors::tenant_anchors(blobs, &kit.services.keys, other)
        .await
        .unwrap();
    let seqs: Vec<i64> = anchors.iter().map(|anchor| anchor.seq).collect();
    assert_eq!(seqs, [1, 2]);
    assert_eq!(anchors[1].at, kit.now());
    for tenant in [kit.tenant, other] {
        let checked = check(&kit, tenant).await;
        assert_eq!(checked.faults, []);
        assert!(checked.anchored_at.is_some());
    }
}

#[tokio::test]
async fn truncated_or_rewritten_audit_chain_is_detected() {
    let (kit, _directory) = fixture().await;
    let other = kit.new_tenant("other").await;
    for tenant in [kit.tenant, other] {
        for _ in 0..3 {
            act(&kit, tenant, "it").await;
        }
    }
    anchor(&kit).await;
    tamper(
        &kit,
        "delete from app.audit_log where seq > 1;
         update app.audit_heads h set seq = 1, hash = l.hash from app.audit_log l
         where l.tenant_id = h.tenant_id and l.seq = 1",
    )
    .await;
    let checked = check(&kit, kit.tenant).await;
    let faults: Vec<(i64, &str)> = checked
        .faults
        .iter()
        .map(|link| (link.seq, link.fault.as_str()))
        .collect();
    assert_eq!(faults, [(2, "truncated")]);
    // One chain continues after the change; without anchors it looks intact.
    for _ in 0..4 {
        act(&kit, other, "something else").await;
    }
    let result = anchor(&kit).await;
    let mut broken: Vec<TenantId> = serde_json::from_value(result["broken"].clone()).unwrap();
    broken.sort();
    let mut both = vec![kit.tenant, other];
    both.sort();
    assert_eq!(broken, both);
    let checked = check(&kit, other).await;
    let faults: Vec<(i64, &str)> = checked
        .faults
        .iter()
        .map(|link| (link.seq, link.fault.as_str()))
        .collect();
    assert_eq!(faults, [(3, "rewritten")]);
}

#[tokio::test]
async fn anchor_without_a_store_reports_the_reason_and_a_failing_store_is_retried() {
    let mut kit = Kit::start().await;
    act(&kit, kit.tenant, "it").await;
    let result = anchor(&kit).await;
    assert_eq!(result["anchored"], 0);
    assert!(
        result["reason"]
            .as_str()
            .unwrap()
            .contains("HARKARA_BLOB_URL")
    );

    let file = tempfile::NamedTempFile::new().unwrap();
    let url = url::Url::from_file_path(file.path()).unwrap();
    kit.services.blobs = Some(BlobStore::open(&url).unwrap());
    kit.perform::<AuditAnchor>(json!({}))
        .await
        .retried("blob_store");
}
