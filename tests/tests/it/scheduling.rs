//! Schedules: one leader, one job a slot.

use std::time::Duration;

use harkara_shared::database::{query, query_as, query_scalar};
use harkara_test_database::TestDatabase;
use harkara_tests::{Platform, Stand, ready, until};
use serde_json::json;

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_missed_slot_is_emitted_once_by_two_schedulers_and_runs() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let platform = Platform::on(database.url(), pool.clone());
    let (first, first_address) = platform.scheduler();
    let (second, second_address) = platform.scheduler();
    ready(&first, first_address).await;
    ready(&second, second_address).await;
    until(
        "the built-in schedule has its next slot",
        PATIENCE,
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
    query("update app.schedules set next_slot = next_slot - interval '5 days'")
        .execute(&pool)
        .await
        .unwrap();
    let (_worker, _) = platform.worker("maintenance=1", 30, 5);
    until("the slot's job has succeeded", PATIENCE, || async {
        query_scalar::<i64>("select count(*) from queue.parcels where state = 'd'")
            .fetch_one(&pool)
            .await
            .is_ok_and(|done| done == 1)
            .then_some(())
    })
    .await;
    let (jobs, later): (i64, bool) = query_as(
        "select (select count(*) from queue.parcels), next_slot > now() from app.schedules",
    )
    .fetch_one(&pool)
    .await
    .unwrap();
    assert_eq!(
        (jobs, later),
        (1, true),
        "one job for the outage, and the row has moved on"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn retention_forgets_old_events_and_notes_what_became_of_their_deliveries() {
    let Stand {
        database,
        platform,
        client,
        ..
    } = &Stand::start().await;
    let pool = database.pool();
    let endpoint = json!({"url": "http://127.0.0.1:1/nobody"});
    let _ = client.post("/v1/webhook-endpoints", &endpoint).await.ok();
    let mut posted = Vec::new();
    for id in ["old", "cancelled", "new"] {
        let event = json!({"type": "a.b", "data": {}, "id": id});
        posted.push(client.post("/v1/events", &event).await.ok());
    }
    // Two jobs are cancelled outside of a run, and all but the last event age.
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
    query("update app.schedules set next_slot = now() - interval '1 minute'")
        .execute(&pool)
        .await
        .unwrap();
    let (_worker, _) = platform.worker("maintenance=1", 30, 5);
    until("the retention has run", PATIENCE, || async {
        query_scalar::<i64>("select count(*) from queue.parcels where state = 'd'")
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
    let told = |event: &str, state: &str| (event.to_owned(), state.to_owned());
    assert_eq!(
        stored,
        [told("cancelled", "cancelled"), told("new", "pending")]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn another_scheduler_takes_over_from_a_killed_leader_in_a_new_term() {
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
    let (first_term, first_holder) = until("somebody leads", PATIENCE, term).await;
    let (successor, address) = platform.scheduler();
    ready(&successor, address).await;
    leader.kill();
    // Its lease is made to end now rather than waited for.
    query("update app.leaders set expires_at = now()")
        .execute(&pool)
        .await
        .unwrap();
    let (second_term, second_holder) = until("another leads", PATIENCE, || async {
        term().await.filter(|(_, holder)| *holder != first_holder)
    })
    .await;
    assert!(
        second_term > first_term,
        "{second_holder} leads in a term of its own"
    );
}
