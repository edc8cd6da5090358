//! Tenant isolation: a tenant's transaction reaches no row of another tenant.

use harkara_queue::job::{JobState, NewJob, Unique};
use harkara_queue::read::{self, JobFilter};
use harkara_queue::{ChangeOutcome, Error, Quota, Verdict};
use harkara_shared::database::{TenantTx, query, query_as, query_scalar};
use harkara_shared::id::{JobId, TenantId};

use crate::support::{Fixture, error, handler, job};

/// A job with rows in every table: a lane, a key, labels, an attempt.
async fn rich_job(fixture: &Fixture) -> JobId {
    let worker = fixture.start_worker(handler(async |_| Verdict::Snooze {
        wait: std::time::Duration::from_secs(3600),
        reason: error("later"),
    }));
    let rich = NewJob {
        unique: Some(Unique {
            key: "secret".to_owned(),
            hold: None,
        }),
        tags: vec!["secret".to_owned()],
        ..job()
    };
    let id = fixture.enqueue(rich).await.id();
    crate::support::until("the job was snoozed", async || {
        !fixture.attempts(id).await.is_empty()
    })
    .await;
    worker.stop().await;
    id
}

#[tokio::test]
async fn foreign_job_cannot_be_seen_or_changed() {
    let fixture = Fixture::new().await;
    let id = rich_job(&fixture).await;
    let stranger = TenantId::new();
    fixture.enqueue_for(stranger, vec![job()]).await;

    let mut tx = TenantTx::begin(&fixture.pool(), stranger).await.unwrap();
    assert!(read::job(&mut tx, id).await.unwrap().is_none());
    assert!(read::jobs(&mut tx, &[id]).await.unwrap().is_empty());
    assert!(read::attempts(&mut tx, id).await.unwrap().is_none());
    for asked_for in [fixture.tenant, stranger] {
        for filter in [
            JobFilter::default(),
            JobFilter {
                tag: Some("secret".to_owned()),
                ..JobFilter::default()
            },
            JobFilter {
                unique_key: Some("secret".to_owned()),
                ..JobFilter::default()
            },
        ] {
            let page = read::list(&mut tx, asked_for, &filter, None, 100)
                .await
                .unwrap();
            assert!(
                page.jobs
                    .iter()
                    .all(|job| job.tenant_id == stranger && job.id != id)
            );
        }
    }
    assert_eq!(
        fixture.engine.cancel(&mut tx, id).await.unwrap(),
        ChangeOutcome::NotFound
    );
    assert_eq!(
        fixture.engine.retry(&mut tx, id).await.unwrap(),
        ChangeOutcome::NotFound
    );
    tx.commit().await.unwrap();
    assert_eq!(fixture.state(id).await, JobState::Scheduled);
}

#[tokio::test]
async fn tenant_transaction_cannot_enqueue_for_another_tenant() {
    let fixture = Fixture::new().await;
    let other = TenantId::new();
    fixture.enqueue_for(other, vec![job()]).await;
    let mut tx = fixture.tx().await;
    let refused = fixture
        .engine
        .enqueue(&mut tx, other, job(), Quota::Skip)
        .await
        .unwrap_err();
    let Error::Database(sqlx::Error::Database(refused)) = refused else {
        panic!("{refused}")
    };
    assert_eq!(refused.code().as_deref(), Some("42501"));
    drop(tx);

    // A tenant can write neither the owner of a job, nor what it holds, nor whether it exists.
    for refused in [
        "update queue.parcels set tenant = 1 - tenant",
        "update queue.parcels set body = array['{}'::bytea]",
        "delete from queue.parcels",
        "insert into queue.attempts (job_id, tenant, started_at, finished_at, outcome)
         values (1, 1, now(), now(), 'lost')",
    ] {
        let mut tx = fixture.tx().await;
        let error = query(refused).execute(&mut *tx).await.unwrap_err();
        let code = error.as_database_error().and_then(|error| error.code());
        assert_eq!(code.as_deref(), Some("42501"), "{refused}");
    }
    assert_eq!(fixture.count("select count(*) from queue.parcels").await, 1);
}

#[tokio::test]
async fn tenant_role_sees_no_row_without_a_tenant() {
    let fixture = Fixture::new().await;
    rich_job(&fixture).await;
    fixture
        .execute(
            "create function public.visible(of regclass) returns bigint language plpgsql as $$
             declare seen bigint;
             begin execute format('select count(*) from %s', of) into seen; return seen;
             exception when insufficient_privilege then return 0; end $$",
        )
        .await;
    let tables = "select c.oid::regclass::text, public.visible(c.oid::regclass) from pg_class c
        where c.relkind in ('r', 'p') and c.relnamespace in ('queue'::regnamespace, 'app'::regnamespace)
          and (c.relname = 'tenants' or exists (
              select from pg_attribute a
              where a.attrelid = c.oid and a.attname in ('tenant', 'tenant_id') and not a.attisdropped
          ))";
    let all: Vec<(String, i64)> = query_as(tables).fetch_all(&fixture.pool()).await.unwrap();
    for table in [
        "queue.parcels",
        "queue.attempts",
        "queue.unique_keys",
        "queue.labels",
    ] {
        assert!(
            all.iter().any(|(name, rows)| name == table && *rows > 0),
            "{table} is empty"
        );
    }
    let mut tx = fixture.pool().begin().await.unwrap();
    query("set local role harkara_app")
        .execute(&mut *tx)
        .await
        .unwrap();
    let seen: Vec<(String, i64)> = query_as(tables).fetch_all(&mut *tx).await.unwrap();
    for (table, rows) in seen {
        assert_eq!(rows, 0, "{table}");
    }
}

#[tokio::test]
async fn every_tenant_table_has_row_level_security() {
    let fixture = Fixture::new().await;
    let bare: Vec<String> = query_scalar(
        "select format('%s: enabled %s, forced %s, policies %s', c.oid::regclass,
            c.relrowsecurity, c.relforcerowsecurity,
            (select count(*) from pg_policy p where p.polrelid = c.oid))
         from pg_class c
         where c.relkind in ('r', 'p')
           and c.relnamespace in ('queue'::regnamespace, 'app'::regnamespace)
           and exists (
               select from pg_attribute a
               where a.attrelid = c.oid and a.attname in ('tenant', 'tenant_id')
                 and not a.attisdropped
           )
           and not (
               c.relrowsecurity and c.relforcerowsecurity
               and (c.relispartition or exists (select from pg_policy p where p.polrelid = c.oid))
           )",
    )
    .fetch_all(&fixture.pool())
    .await
    .unwrap();
    assert!(bare.is_empty(), "{bare:#?}");
    let guarded = "select count(*) from pg_class c
        where c.relnamespace in ('queue'::regnamespace, 'app'::regnamespace) and c.relrowsecurity";
    assert!(
        fixture.count(guarded).await > 10,
        "the catalogue query must find the tenant tables"
    );
}

#[tokio::test]
async fn tenant_statement_does_not_outlast_its_request() {
    let fixture = Fixture::new().await;
    let shown = "select current_setting('statement_timeout')";
    let mut tx = fixture.tx().await;
    let limit: String = query_scalar(shown).fetch_one(&mut *tx).await.unwrap();
    assert_eq!(limit, "25s");
    tx.commit().await.unwrap();
    let after: String = query_scalar(shown)
        .fetch_one(&fixture.pool())
        .await
        .unwrap();
    assert_eq!(after, "0", "the timeout must end with the transaction");
}
