//! `maintenance.usage_reset`: past months are closed, and old counters are deleted.

use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use harkara_kit::Kit;
use harkara_platform::kinds::maintenance_usage_reset::MaintenanceUsageReset;
use harkara_shared::database::{query, query_as, query_scalar};
use serde_json::{Value, json};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

async fn reset(kit: &Kit) -> Value {
    kit.perform::<MaintenanceUsageReset>(json!({}))
        .await
        .done()
        .result
        .unwrap()
}

async fn used(kit: &Kit, month: &str) {
    query(
        "insert into app.usage (tenant_id, key_id, month, requests)
         values ($1, gen_random_uuid(), $2::text::date, 7)",
    )
    .bind(kit.tenant)
    .bind(month)
    .execute(&kit.services.pool)
    .await
    .unwrap();
}

/// The months and the times of their closing.
async fn months(kit: &Kit) -> Vec<(NaiveDate, Option<DateTime<Utc>>)> {
    query_as("select month, closed_at from app.usage order by month")
        .fetch_all(&kit.services.pool)
        .await
        .unwrap()
}

#[tokio::test]
async fn usage_month_is_closed_after_its_end_and_kept_for_two_years() {
    let kit = Kit::start().await;
    kit.set_clock("2031-05-31T23:59:59Z".parse().unwrap()).await;
    for month in ["2029-04-01", "2029-05-01", "2031-04-01", "2031-05-01"] {
        used(&kit, month).await;
    }
    assert_eq!(
        reset(&kit).await,
        json!({"closed": 3, "removed": 1, "counters": 0})
    );
    let first = kit.now();
    kit.advance(Duration::from_secs(1)).await;
    assert_eq!(
        reset(&kit).await,
        json!({"closed": 1, "removed": 1, "counters": 0})
    );
    let month = |text: &str| text.parse::<NaiveDate>().unwrap();
    assert_eq!(
        months(&kit).await,
        [
            (month("2031-04-01"), Some(first)),
            (month("2031-05-01"), Some(kit.now()))
        ]
    );
    let nothing = json!({"closed": 0, "removed": 0, "counters": 0});
    assert_eq!(reset(&kit).await, nothing, "a second run must find nothing");
}

#[tokio::test]
async fn counter_without_information_is_deleted() {
    let kit = Kit::start().await;
    let charge = async |subject: &str, strategy: &str, window: Duration| -> i64 {
        query_scalar(
            "select remaining from app.charge_requests($1, array['p'], array[$2], array[4::int8],
             array[0::int8], array[$3::int8], 1, 0, 0, 0, 0)",
        )
        .bind(subject)
        .bind(strategy)
        .bind(i64::try_from(window.as_micros()).unwrap())
        .fetch_one(&kit.services.pool)
        .await
        .unwrap()
    };
    let (hour, day) = (DAY / 24, DAY);
    assert_eq!(charge("short", "sliding_window", hour).await, 3);
    assert_eq!(charge("long", "sliding_window", day).await, 3);
    assert_eq!(charge("bucket", "token_bucket", hour * 8).await, 0);
    assert_eq!(reset(&kit).await["counters"], 0);
    kit.advance(hour + hour / 60).await;
    assert_eq!(reset(&kit).await["counters"], 1);
    assert_eq!(charge("long", "sliding_window", day).await, 2);
    kit.advance(hour).await;
    assert_eq!(reset(&kit).await["counters"], 1, "the bucket is full");
    assert_eq!(charge("long", "sliding_window", day).await, 1);
    kit.advance(day * 2).await;
    assert_eq!(reset(&kit).await["counters"], 1);
    assert_eq!(charge("long", "sliding_window", day).await, 3);
}

#[tokio::test]
async fn payload_is_refused() {
    let kit = Kit::start().await;
    kit.perform::<MaintenanceUsageReset>(json!({"months": 3}))
        .unchecked()
        .await
        .dead("invalid_payload");
}
