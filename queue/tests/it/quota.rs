//! The quota on waiting jobs of a tenant.

use harkara_queue::job::{Enqueued, NewJob, Unique};
use harkara_queue::settings::{Change, TenantChange};
use harkara_queue::{Coalescer, Engine, Error, Quota};
use harkara_shared::id::TenantId;

use crate::support::{Fixture, job, succeeding_handler, until};

async fn set_quota(fixture: &Fixture, tenant: TenantId, most: Change<u32>) {
    let change = TenantChange {
        max_waiting: most,
        ..TenantChange::default()
    };
    fixture.engine.set_tenant(tenant, &change).await.unwrap();
}

async fn submit(
    engine: &Engine,
    fixture: &Fixture,
    jobs: Vec<NewJob>,
) -> Result<Vec<Enqueued>, Error> {
    let mut tx = fixture.tx().await;
    let answers = engine
        .enqueue_all(&mut tx, fixture.tenant, jobs, Quota::Enforce)
        .await?;
    tx.commit().await.unwrap();
    Ok(answers)
}

fn quota_error(error: &Error) -> (u64, u64) {
    match error {
        Error::DepthQuota { limit, waiting } => (*limit, *waiting),
        other => panic!("expected the quota error: {other}"),
    }
}

fn keyed(key: &str) -> NewJob {
    NewJob {
        unique: Some(Unique {
            key: key.to_owned(),
            hold: None,
        }),
        ..job()
    }
}

#[tokio::test]
async fn quota_is_exact_for_single_enqueues() {
    let fixture = Fixture::new().await;
    set_quota(&fixture, fixture.tenant, Change::Set(25)).await;
    let coalescer = Coalescer::new(&fixture.engine);
    for n in 0..25 {
        if n % 2 == 0 {
            coalescer.enqueue(fixture.tenant, job()).await.unwrap();
        } else {
            submit(&fixture.engine, &fixture, vec![job()])
                .await
                .unwrap();
        }
    }
    let error = coalescer.enqueue(fixture.tenant, job()).await.unwrap_err();
    assert_eq!(quota_error(&error), (25, 25));
    let error = submit(&fixture.engine, &fixture, vec![job()])
        .await
        .unwrap_err();
    assert_eq!(quota_error(&error), (25, 25));
    let elsewhere = Engine::new(fixture.pool(), true);
    let error = submit(&elsewhere, &fixture, vec![job()]).await.unwrap_err();
    assert_eq!(
        quota_error(&error),
        (25, 25),
        "every process must report the same count"
    );
    assert_eq!(fixture.jobs("sa").await, 25);

    // Other tenants, and follow-ups of existing jobs, are not refused.
    let other = TenantId::new();
    coalescer.enqueue(other, job()).await.unwrap();
    fixture.enqueue(job()).await;
    assert_eq!(fixture.jobs("sa").await, 27);
    set_quota(&fixture, fixture.tenant, Change::Set(27)).await;
    let one = submit(&fixture.engine, &fixture, vec![job()]).await;
    assert_eq!(one.unwrap().len(), 1, "a raised quota applies immediately");
    set_quota(&fixture, fixture.tenant, Change::Remove).await;
    submit(&fixture.engine, &fixture, vec![job(); 50])
        .await
        .unwrap();
}

#[tokio::test]
async fn batch_that_would_exceed_the_quota_is_refused_as_a_whole() {
    let fixture = Fixture::new().await;
    set_quota(&fixture, fixture.tenant, Change::Set(10)).await;
    submit(&fixture.engine, &fixture, vec![job(); 8])
        .await
        .unwrap();
    let error = submit(&fixture.engine, &fixture, vec![job(); 3])
        .await
        .unwrap_err();
    assert_eq!(quota_error(&error), (10, 8));
    assert_eq!(fixture.jobs("sa").await, 8);
    submit(&fixture.engine, &fixture, vec![job(); 2])
        .await
        .unwrap();
}

#[tokio::test]
async fn existing_jobs_are_returned_at_the_quota() {
    let fixture = Fixture::new().await;
    set_quota(&fixture, fixture.tenant, Change::Set(2)).await;
    let first = submit(&fixture.engine, &fixture, vec![keyed("a"), keyed("b")])
        .await
        .unwrap();
    let again = submit(&fixture.engine, &fixture, vec![keyed("b"), keyed("a")])
        .await
        .unwrap();
    assert_eq!(
        again,
        [
            Enqueued::Existing(first[1].id()),
            Enqueued::Existing(first[0].id())
        ]
    );
    let error = submit(&fixture.engine, &fixture, vec![keyed("a"), keyed("c")])
        .await
        .unwrap_err();
    assert_eq!(quota_error(&error), (2, 2));
    let left = "select count(*) from queue.unique_keys";
    until("the key of the refused job is free", async || {
        fixture.count(left).await == 2
    })
    .await;
    let coalescer = Coalescer::new(&fixture.engine);
    let answer = coalescer.enqueue(fixture.tenant, keyed("a")).await.unwrap();
    assert_eq!(answer.job, Enqueued::Existing(first[0].id()));
}

#[tokio::test]
async fn mixed_batch_answers_each_caller_separately() {
    let fixture = Fixture::new().await;
    let free = TenantId::new();
    set_quota(&fixture, fixture.tenant, Change::Set(4)).await;
    let coalescer = Coalescer::new(&fixture.engine);
    let calls = (0..30).map(|n| {
        let coalescer = coalescer.clone();
        let tenant = if n % 3 == 0 { free } else { fixture.tenant };
        let new_job = if n == 1 { keyed("a") } else { job() };
        tokio::spawn(async move { (tenant, coalescer.enqueue(tenant, new_job).await) })
    });
    let calls: Vec<_> = calls.collect();
    let (mut taken, mut bounded) = (0, 0);
    for call in calls {
        match call.await.unwrap() {
            (tenant, Ok(_)) if tenant == free => taken += 1,
            (_, Ok(_)) => bounded += 1,
            (_, Err(error)) => assert_eq!(quota_error(&error).0, 4),
        }
    }
    assert_eq!(taken, 10, "all jobs of the other tenant must be accepted");
    assert_eq!(bounded, 4);
    assert_eq!(fixture.jobs("sa").await, 14);
}

#[tokio::test]
async fn quota_applies_to_enqueues_by_sql() {
    let sql = crate::client::Sql::new().await;
    set_quota(&sql.fixture, sql.fixture.tenant, Change::Set(3)).await;
    let mut app = sql.connect().await;
    let call = |jobs: u32| {
        let job = r#"{"kind": "test.job", "payload": {"n": 1}}"#;
        let jobs = vec![job; usize::try_from(jobs).unwrap()].join(",");
        format!("select id from queue.enqueue_many('[{jobs}]')")
    };
    use sqlx::Executor;
    app.execute(sqlx::AssertSqlSafe(call(2))).await.unwrap();
    let error = app.execute(sqlx::AssertSqlSafe(call(2))).await.unwrap_err();
    let code = error.as_database_error().unwrap().code();
    assert_eq!(code.as_deref(), Some("HK429"));
    assert!(error.to_string().contains("2 of at most 3"), "{error}");
    app.execute(sqlx::AssertSqlSafe(call(1))).await.unwrap();
    let error = submit(&sql.fixture.engine, &sql.fixture, vec![job()])
        .await
        .unwrap_err();
    assert_eq!(quota_error(&error), (3, 3));
}

#[tokio::test]
async fn quota_frees_up_after_jobs_have_run() {
    let fixture = Fixture::new().await;
    set_quota(&fixture, fixture.tenant, Change::Set(3)).await;
    submit(&fixture.engine, &fixture, vec![job(); 3])
        .await
        .unwrap();
    submit(&fixture.engine, &fixture, vec![job()])
        .await
        .unwrap_err();
    let worker = fixture.start_worker(succeeding_handler());
    fixture.wait_until_idle().await;
    submit(&fixture.engine, &fixture, vec![job(); 3])
        .await
        .unwrap();
    worker.stop().await;
}
