//! Queue statistics and their history.

use harkara_accounts::{Scope, ensure_platform};
use harkara_shared::database::query;
use serde_json::json;

use crate::support::Platform;

/// Writes counters: jobs of acme became ready, and one ran a minute ago.
async fn count(platform: &Platform) {
    for statement in [
        "insert into queue.queues (name) values ('http')",
        "insert into queue.kinds (name) values ('http.request')",
        "insert into queue.lanes (queue, tenant)
         select q.id, t.number from queue.queues q, queue.tenants t where t.id = $1",
        "insert into queue.deltas (tenant, queue, kind, ready, dead, enqueued, minute)
         select number, 1, 1, 7, 1, 9, date_trunc('minute', now()) - interval '1 minute'
         from queue.tenants where id = $1",
        "insert into queue.deltas (tenant, queue, kind, started, succeeded, retried, waits, minute)
         select number, 1, 1, 3, 2, 1, array_fill(1, array[19]),
            date_trunc('minute', now()) - interval '1 minute'
         from queue.tenants where id = $1",
    ] {
        let statement = query(statement);
        statement
            .bind(platform.acme.id)
            .execute(&platform.pool)
            .await
            .unwrap();
    }
}

#[tokio::test]
async fn tenant_sees_its_own_stats_and_the_platform_sees_all() {
    let platform = Platform::start().await;
    count(&platform).await;
    let other = platform.tenant("other").await;
    let other = platform.client_of(&other, Scope::ALL).await;
    let own = ensure_platform(&platform.pool).await.unwrap();
    let admin = platform.client_of(&own, Scope::ALL).await;
    for (client, ready) in [(&platform.client, 7), (&other, 0), (&admin, 7)] {
        let queues = client.get("/v1/queues").await.expect(200);
        let queue = &queues["data"][0];
        assert_eq!(queue["ready"], ready);
        assert_eq!(queue["dead"], i64::from(ready > 0));
    }
    let stats = other.get("/v1/stats").await.expect(200);
    let points = stats["data"].as_array().unwrap();
    assert!(points.iter().all(|point| point["enqueued"] == 0));
}

#[tokio::test]
async fn series_has_no_gaps_and_includes_waiting_times() {
    let platform = Platform::start().await;
    count(&platform).await;
    let stats = platform.client.get("/v1/stats?step=1m").await.expect(200);
    let points = stats["data"].as_array().unwrap();
    assert!((60..=61).contains(&points.len()), "{}", points.len());
    assert_eq!(stats["step"], "1m");
    assert_eq!(stats["bounds_ms"].as_array().unwrap().len(), 18);
    let sum = |member: &str| -> i64 {
        points
            .iter()
            .map(|point| point[member].as_i64().unwrap())
            .sum()
    };
    assert_eq!(
        [
            "enqueued",
            "started",
            "succeeded",
            "retried",
            "dead",
            "cancelled"
        ]
        .map(sum),
        [9, 3, 2, 1, 0, 0]
    );
    let point = points.iter().find(|point| point["started"] == 3).unwrap();
    assert_eq!(point["wait"]["buckets"], json!(vec![1; 19]));
    assert_eq!(point["wait"]["p50"], 750.0);
    assert_eq!(point["run"]["p50"], json!(null));
    for (query, member) in [
        ("queue=none", 0),
        ("kind=none", 0),
        ("queue=http&kind=http.request", 9),
    ] {
        let stats = platform
            .client
            .get(&format!("/v1/stats?{query}"))
            .await
            .expect(200);
        let points = stats["data"].as_array().unwrap();
        let sum: i64 = points
            .iter()
            .map(|point| point["enqueued"].as_i64().unwrap())
            .sum();
        assert_eq!(sum, member, "{query}");
    }
}

#[tokio::test]
async fn time_out_of_range_is_reported_by_parameter() {
    let platform = Platform::start().await;
    for (query, pointer, code) in [
        ("step=7m", "/step", "invalid"),
        ("step=1s", "/step", "invalid"),
        ("since=2020-01-01T00:00:00Z", "/since", "out_of_range"),
        ("since=2999-01-01T00:00:00Z", "/since", "out_of_range"),
    ] {
        let response = platform.client.get(&format!("/v1/stats?{query}")).await;
        let faults = response.problem(400, "invalid_query");
        assert_eq!(faults, [(pointer.to_owned(), code.to_owned())], "{query}");
    }
}
