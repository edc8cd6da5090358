//! Schedules: one leader, one job a slot.

use std::time::Duration;

use harkara_shared::database::{query, query_as, query_scalar};
use harkara_test_database::TestDatabase;
use harkara_tests::{Platform, ready, until};

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
