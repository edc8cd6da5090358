//! Schedules: one leader, one job per slot.

use std::time::Duration;

use harkara_shared::database::{query, query_as, query_scalar};
use harkara_test_database::TestDatabase;
use harkara_tests::{Fixture, Platform, ready, until};
use serde_json::json;

const SCHEDULE_TIMEOUT: Duration = Duration::from_secs(60);

/// Counts the retention jobs that have succeeded.
const RETENTION_RUNS: &str =
    "select count(*) from queue.parcels p join queue.kinds k on k.id = p.kind
    where k.name = 'maintenance.retention' and p.state = 'd'";

#[tokio::test(flavor = "multi_thread")]
async fn schedules_of_a_read_only_tenant_wait_until_it_can_write() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let statuses = [
        "active",
        "trialing",
        "past_due",
        "pending_payment",
        "suspended",
        "canceled",
    ];
    query(
        "insert into app.tenants (id, slug, name, sla_tier, status)
         select gen_random_uuid(), replace(status, '_', '-'), status, 'PRO', status
         from unnest($1::text[]) status",
    )
    .bind(statuses)
    .execute(&pool)
    .await
    .unwrap();
    // Tenants that cannot write come first.
    query(
        "insert into app.schedules (tenant_id, id, name, cron, kind, payload, next_slot)
         select t.id, gen_random_uuid(), 'yearly', '0 0 1 1 *', 'http.request', '{}',
            now() - interval '1 hour' - array_position($1::text[], t.status) * interval '1 minute'
         from app.tenants t where t.slug <> 'platform'",
    )
    .bind(statuses)
    .execute(&pool)
    .await
    .unwrap();
    let platform = Platform::on(database.url(), pool.clone());
    let (scheduler, address) = platform.scheduler();
    ready(&scheduler, address).await;
    let fired = || async {
        query_scalar::<String>(
            "select t.status from app.schedules s join app.tenants t on t.id = s.tenant_id
             where s.name = 'yearly' and s.last_slot is not null order by 1",
        )
        .fetch_all(&pool)
        .await
        .unwrap()
    };
    let able = ["active", "past_due", "trialing"];
    until(
        "the schedules of the other tenants have fired",
        SCHEDULE_TIMEOUT,
        || async { (fired().await.len() >= able.len()).then_some(()) },
    )
    .await;
    assert_eq!(fired().await, able);
    query("update app.tenants set status = 'active' where status = 'suspended'")
        .execute(&pool)
        .await
        .unwrap();
    until(
        "the fourth schedule has fired",
        SCHEDULE_TIMEOUT,
        || async { (fired().await == ["active", "active", "past_due", "trialing"]).then_some(()) },
    )
    .await;
    let jobs: i64 = query_scalar(
        "select count(*) from queue.parcels p join queue.kinds k on k.id = p.kind
         where k.name = 'http.request'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(jobs, 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn missed_slot_is_emitted_once_by_two_schedulers_and_runs() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let platform = Platform::on(database.url(), pool.clone());
    let (first, first_address) = platform.scheduler();
    let (second, second_address) = platform.scheduler();
    ready(&first, first_address).await;
    ready(&second, second_address).await;
    until(
        "the built-in schedule has its next slot",
        SCHEDULE_TIMEOUT,
        || async {
            query_scalar::<bool>(
                "select next_slot > now() from app.schedules where name = 'retention'",
            )
            .fetch_one(&pool)
            .await
            .unwrap_or(false)
            .then_some(())
        },
    )
    .await;
    // As after an outage of four days.
    query(
        "update app.schedules set next_slot = next_slot - interval '5 days' where name = 'retention'",
    )
        .execute(&pool)
        .await
        .unwrap();
    let (_worker, _) = platform.worker("maintenance=1", 30, 5);
    until("the slot's job has succeeded", SCHEDULE_TIMEOUT, || async {
        query_scalar::<i64>(RETENTION_RUNS)
            .fetch_one(&pool)
            .await
            .is_ok_and(|done| done == 1)
            .then_some(())
    })
    .await;
    let (jobs, later): (i64, bool) = query_as(
        "select (
            select count(*) from queue.parcels p join queue.kinds k on k.id = p.kind
            where k.name = 'maintenance.retention'
         ), next_slot > now() from app.schedules where name = 'retention'",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(
        (jobs, later),
        (1, true),
        "one job for the outage, and an advanced schedule"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_deletes_old_events_and_records_their_delivery_outcomes() {
    let Fixture {
        database,
        platform,
        client,
        ..
    } = &Fixture::start().await;
    let pool = database.pool();
    let endpoint = json!({"url": "http://127.0.0.1:1/unreachable"});
    let _ = client.post("/v1/webhook-endpoints", &endpoint).await.ok();
    let mut posted = Vec::new();
    for id in ["old", "cancelled", "new"] {
        let event = json!({"type": "a.b", "data": {}, "id": id});
        posted.push(client.post("/v1/events", &event).await.ok());
    }
    // Two jobs are cancelled outside of a run, and all events but the last are aged.
    for event in &posted[..2] {
        let job = event["deliveries"][0]["job_id"].as_str().unwrap();
        let answer = client
            .post(&format!("/v1/jobs/{job}/cancel"), &json!({}))
            .await;
        assert_eq!(answer.status, 200);
    }
    let superuser = sqlx::postgres::PgPoolOptions::new()
        .max_connections(1)
        .connect(&database.superuser_url())
        .await
        .unwrap();
    query("update app.events set created_at = now() - interval '31 days' where id = 'old'")
        .execute(&superuser)
        .await
        .unwrap();
    query("update app.deliveries set created_at = now() - interval '2 days'")
        .execute(&superuser)
        .await
        .unwrap();

    let (scheduler, scheduler_address) = platform.scheduler();
    ready(&scheduler, scheduler_address).await;
    query(
        "update app.schedules set next_slot = now() - interval '1 minute' where name = 'retention'",
    )
    .execute(&pool)
    .await
    .unwrap();
    let (_worker, _) = platform.worker("maintenance=1", 30, 5);
    until("the retention has run", SCHEDULE_TIMEOUT, || async {
        query_scalar::<i64>(RETENTION_RUNS)
            .fetch_one(&pool)
            .await
            .is_ok_and(|done| done == 1)
            .then_some(())
    })
    .await;
    let stored: Vec<(String, String)> =
        query_as("select event_id, state from app.deliveries order by event_id")
            .fetch_all(&superuser)
            .await
            .unwrap();
    let outcome = |event: &str, state: &str| (event.to_owned(), state.to_owned());
    assert_eq!(
        stored,
        [outcome("cancelled", "cancelled"), outcome("new", "pending")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn standby_scheduler_takes_over_from_a_killed_leader_in_a_new_term() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let platform = Platform::on(database.url(), pool.clone());
    let (mut leader, address) = platform.scheduler();
    ready(&leader, address).await;
    let term = || async {
        query_as::<(i64, sqlx::types::Uuid)>("select term, holder from app.leaders")
            .fetch_optional(&pool)
            .await
            .unwrap()
    };
    let (first_term, first_holder) = until("a scheduler leads", SCHEDULE_TIMEOUT, term).await;
    let (successor, address) = platform.scheduler();
    ready(&successor, address).await;
    leader.kill();
    // Its lease is expired instead of waiting for it.
    query("update app.leaders set expires_at = now()")
        .execute(&pool)
        .await
        .unwrap();
    let (second_term, second_holder) =
        until("another scheduler leads", SCHEDULE_TIMEOUT, || async {
            term().await.filter(|(_, holder)| *holder != first_holder)
        })
        .await;
    assert!(
        second_term > first_term,
        "{second_holder} must lead in a new term"
    );
}
