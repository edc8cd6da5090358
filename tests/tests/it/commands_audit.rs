//! CLI commands for the audit log: listing and tamper detection.

use harkara_shared::anchors::{self, AnchoredHead, hex};
use harkara_shared::blob::BlobStore;
use harkara_shared::database::query_as;
use harkara_shared::id::TenantId;
use harkara_shared::vault::MasterKeys;
use harkara_test_database::TestDatabase;
use harkara_tests::Process;
use serde_json::{Value, json};
use sqlx::{Connection, Executor, PgConnection};

use crate::commands::{EXIT_TIMEOUT, database_with_tenant, run, run_json};

struct Store {
    directory: tempfile::TempDir,
    key: String,
}

impl Store {
    fn url(&self) -> url::Url {
        url::Url::from_file_path(self.directory.path()).unwrap()
    }

    /// Runs `harkara audit verify --json` with the keys and the store of the processes.
    async fn verify(&self, database: &TestDatabase, tenant: &str) -> (Option<i32>, Value) {
        let environment = [
            ("DATABASE_URL", database.url()),
            ("HARKARA_MASTER_KEY", self.key.clone()),
            ("HARKARA_BLOB_URL", self.url().to_string()),
        ];
        let args = ["audit", "verify", "--tenant", tenant, "--json"];
        let mut process = Process::start("harkara", &args, &environment);
        let code = process.ended(EXIT_TIMEOUT).await;
        let output = process.output();
        let first = output.lines().next().unwrap_or_default();
        (code, serde_json::from_str(first).unwrap())
    }

    /// Writes the same anchor as a job of kind `audit.anchor`.
    async fn anchor(&self, database: &TestDatabase) {
        let heads: Vec<(TenantId, i64, Vec<u8>)> =
            query_as("select tenant_id, seq, hash from app.audit_heads")
                .fetch_all(&database.pool())
                .await
                .unwrap();
        let heads: Vec<AnchoredHead> = heads
            .into_iter()
            .map(|(tenant, seq, hash)| AnchoredHead {
                tenant,
                seq,
                hash: hex(&hash),
            })
            .collect();
        let blobs = BlobStore::open(&self.url()).unwrap();
        let keys = MasterKeys::parse(&self.key).unwrap();
        let at = harkara_shared::clock::now();
        anchors::write_anchors(&blobs, &keys, at, &heads)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn audit_verify_reports_a_changed_log() {
    let database = database_with_tenant().await;
    let store = Store {
        directory: tempfile::tempdir().unwrap(),
        key: MasterKeys::generate(),
    };
    run_json(&database, &["tenant", "create", "Other"]).await;
    run_json(&database, &["tenant", "pause", "acme"]).await;
    run_json(&database, &["tenant", "resume", "acme"]).await;

    let listed = run_json(&database, &["audit", "ls", "--tenant", "acme"]).await;
    let actions: Vec<&str> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    assert_eq!(actions, ["tenant.resume", "tenant.pause", "tenant.create"]);
    let some = [
        "audit",
        "ls",
        "--tenant",
        "acme",
        "--action",
        "tenant.pause",
    ];
    assert_eq!(
        run_json(&database, &some).await["data"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    let (code, text) = run(&database, &some).await;
    assert_eq!(code, Some(0));
    assert!(
        text.contains("tenant.pause") && text.contains("by system harkara, by hand"),
        "{text}"
    );

    let (code, check) = store.verify(&database, "acme").await;
    assert_eq!((code, &check["intact"]), (Some(0), &json!(true)));
    assert_eq!(check["data"][0]["anchored_at"], Value::Null);
    store.anchor(&database).await;
    let (code, check) = store.verify(&database, "acme").await;
    assert_eq!((code, &check["data"][0]["entries"]), (Some(0), &json!(3)));
    assert!(check["data"][0]["anchored_at"].is_string());

    let mut superuser = PgConnection::connect(&database.superuser_url())
        .await
        .unwrap();
    superuser
        .execute(
            "set session_replication_role = replica;
             delete from app.audit_log l using app.tenants t
             where t.id = l.tenant_id and t.slug = 'acme' and l.seq > 2;
             update app.audit_heads h set seq = 2, hash = l.hash
             from app.audit_log l join app.tenants t on t.id = l.tenant_id
             where l.tenant_id = h.tenant_id and t.slug = 'acme' and l.seq = 2",
        )
        .await
        .unwrap();
    let (code, check) = store.verify(&database, "acme").await;
    assert_eq!((code, &check["intact"]), (Some(1), &json!(false)));
    assert_eq!(
        check["data"][0]["faults"],
        json!([{"seq": 3, "fault": "truncated"}])
    );
    let (code, check) = store.verify(&database, "other").await;
    assert_eq!((code, &check["intact"]), (Some(0), &json!(true)));
}
