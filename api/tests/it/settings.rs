//! Settings of queues, lanes and tenants over HTTP.

mod tenants;

use harkara_accounts::{Scope, ensure_platform};
use harkara_shared::database::query;
use serde_json::{Value, json};

use crate::support::{Client, Platform};

/// A platform with the queue `http`, visible to every tenant, and `mine`, in which only acme has a lane.
async fn platform_and_admin() -> (Platform, Client) {
    let platform = Platform::start().await;
    query("insert into queue.queues (name) values ('http'), ('mine'), ('retention')")
        .execute(&platform.pool)
        .await
        .unwrap();
    let lane = "insert into queue.lanes (queue, tenant)
        select q.id, t.number from queue.queues q, queue.tenants t
        where q.name = 'mine' and t.id = $1";
    query(lane)
        .bind(platform.acme.id)
        .execute(&platform.pool)
        .await
        .unwrap();
    let own = ensure_platform(&platform.pool).await.unwrap();
    let admin = platform.client_of(&own, Scope::ALL).await;
    (platform, admin)
}

fn pairs(faults: &[(&str, &str)]) -> Vec<(String, String)> {
    let owned = |(pointer, code): &(&str, &str)| ((*pointer).to_owned(), (*code).to_owned());
    faults.iter().map(owned).collect()
}

#[tokio::test]
async fn platform_pauses_and_limits_queues() {
    let (_platform, admin) = platform_and_admin().await;
    let quiet = json!({"ready": 0, "scheduled": 0, "running": 0, "dead": 0,
        "oldest_ready_seconds": null, "enqueued_per_minute": 0, "succeeded_per_minute": 0,
        "failed_per_minute": 0});
    let with_counts = |mut queue: Value| {
        let members = quiet.as_object().unwrap().clone();
        queue.as_object_mut().unwrap().extend(members);
        queue
    };
    let free = with_counts(json!({"name": "http", "paused": false, "max_running": null,
        "rate_per_second": null, "burst": null}));
    assert_eq!(admin.get("/v1/queues").await.expect(200)["data"][0], free);
    let paused = admin.press("/v1/queues/http/pause").await.expect(200);
    assert_eq!(paused["paused"], true);
    let resumed = admin.press("/v1/queues/http/resume").await.expect(200);
    assert_eq!(resumed, free);

    let set = async |body: Value| admin.put("/v1/queues/http", &body).await.expect(200);
    let limited = set(json!({"max_running": 8, "rate_per_second": 100})).await;
    assert_eq!(
        limited,
        with_counts(json!({"name": "http", "paused": false, "max_running": 8,
            "rate_per_second": 100, "burst": 10}))
    );
    let limited = set(json!({"burst": 40, "max_running": null})).await;
    assert_eq!(
        (&limited["burst"], &limited["rate_per_second"]),
        (&json!(40), &json!(100))
    );
    assert_eq!(limited["max_running"], Value::Null);
    assert_eq!(set(json!({})).await, limited, "omitted settings must stay");
    assert_eq!(set(json!({"rate_per_second": null})).await, free);

    for (body, fault) in [
        (json!({"max_running": 0}), ("/max_running", "out_of_range")),
        (json!({"max_running": "8"}), ("/max_running", "invalid")),
        (
            json!({"rate_per_second": 1_000_001}),
            ("/rate_per_second", "out_of_range"),
        ),
        (json!({"burst": 3}), ("/burst", "needs_rate")),
        (json!({"paused": true}), ("/paused", "unknown_field")),
    ] {
        let faults = admin
            .put("/v1/queues/http", &body)
            .await
            .problem(422, "invalid");
        assert_eq!(faults, pairs(&[fault]), "{body}");
    }
    for name in ["none", "NONE", "%00", "a%2Fb", "%FF"] {
        let path = format!("/v1/queues/{name}");
        admin.put(&path, &json!({})).await.problem(404, "not_found");
        admin
            .press(&format!("{path}/pause"))
            .await
            .problem(404, "not_found");
        admin
            .get(&format!("{path}/lanes"))
            .await
            .problem(404, "not_found");
    }
}

#[tokio::test]
async fn tenant_sees_its_visible_queues_and_changes_none() {
    let (platform, admin) = platform_and_admin().await;
    let other = platform.tenant("other").await;
    let other = platform.client_of(&other, Scope::ALL).await;
    let names = async |client: &Client, query: &str| -> (Vec<String>, Value) {
        let page = client.get(&format!("/v1/queues{query}")).await.expect(200);
        let names = page["data"].as_array().unwrap().iter();
        let names = names.map(|queue| queue["name"].as_str().unwrap().to_owned());
        (names.collect(), page["next_cursor"].clone())
    };
    assert_eq!(names(&admin, "").await.0, ["http", "mine", "retention"]);
    assert_eq!(names(&platform.client, "").await.0, ["http", "mine"]);
    assert_eq!(names(&other, "").await.0, ["http"]);
    let (first, cursor) = names(&platform.client, "?limit=1").await;
    let next = format!("?limit=1&cursor={}", cursor.as_str().unwrap());
    assert_eq!(
        (first, names(&platform.client, &next).await.0),
        (vec!["http".to_owned()], vec!["mine".to_owned()])
    );
    other
        .get(&format!("/v1/queues{next}"))
        .await
        .problem(400, "invalid_cursor");

    for path in ["/v1/queues/http/pause", "/v1/queues/http/resume"] {
        platform
            .client
            .press(path)
            .await
            .problem(403, "platform_only");
    }
    let refused = platform.client.put("/v1/queues/http", &json!({})).await;
    refused.problem(403, "platform_only");
    // A queue that only acme uses is invisible to other tenants.
    other
        .press("/v1/queues/mine/pause")
        .await
        .problem(404, "not_found");
    other
        .get("/v1/queues/mine/lanes")
        .await
        .problem(404, "not_found");
    let put = other.put("/v1/queues/mine/lanes/a", &json!({})).await;
    put.problem(404, "not_found");
}

#[tokio::test]
async fn tenant_controls_its_own_lanes() {
    let (platform, _) = platform_and_admin().await;
    let client = &platform.client;
    let path = "/v1/queues/http/lanes";
    let body = json!({"weight": 3, "paused": true, "max_running": 2, "rate_per_second": 20,
        "breaker": {"failures": 5, "rest": "30s"}});
    let lane = client
        .put(&format!("{path}/customer%2F42?ordered=true"), &body)
        .await
        .expect(200);
    assert_eq!(
        lane,
        json!({"key": "customer/42", "ordered": true, "weight": 3, "paused": true,
            "parked_until": null,
            "breaker": {"failures": 5, "share": 100, "window": "5m", "rest": "30s"},
            "breaker_state": "closed", "failures": 0, "max_running": 2, "running": 0,
            "rate_per_second": 20, "burst": 2, "limits": []})
    );
    let plain = client
        .put(&format!("{path}/customer%2F42"), &json!({"weight": 9}))
        .await
        .expect(200);
    assert_eq!(
        (&plain["ordered"], &plain["weight"]),
        (&json!(false), &json!(9))
    );
    let share = json!({"failures": 10, "share": 70, "window": "10m", "rest": "1m"});
    let by_share = client
        .put(&format!("{path}/customer%2F42"), &json!({"breaker": share}))
        .await
        .expect(200);
    assert_eq!(by_share["breaker"], share);
    let default = client
        .put(path, &json!({"rate_per_second": 5}))
        .await
        .expect(200);
    assert_eq!(
        (&default["key"], &default["burst"]),
        (&json!(""), &json!(1))
    );
    let freed = client
        .put(
            &format!("{path}/customer%2F42?ordered=true"),
            &json!({"weight": null, "paused": false, "max_running": null,
                "rate_per_second": null, "breaker": null, "parked_until": null}),
        )
        .await
        .expect(200);
    assert_eq!(
        (&freed["weight"], &freed["paused"]),
        (&json!(1), &json!(false))
    );
    for name in [
        "max_running",
        "running",
        "rate_per_second",
        "burst",
        "breaker",
    ] {
        assert_eq!(freed[name], Value::Null, "{name}");
    }

    let page = client.get(&format!("{path}?limit=2")).await.expect(200);
    assert_eq!(page["data"][0], freed);
    let cursor = page["next_cursor"].as_str().unwrap();
    let rest = client
        .get(&format!("{path}?limit=2&cursor={cursor}"))
        .await
        .expect(200);
    assert_eq!(rest, json!({"data": [default], "next_cursor": null}));
    let mine = client.get("/v1/queues/mine/lanes").await.expect(200);
    assert_eq!(mine["data"].as_array().unwrap().len(), 1);
    let stranger = platform.tenant("other").await;
    let stranger = platform.client_of(&stranger, Scope::ALL).await;
    assert_eq!(stranger.get(path).await.expect(200)["data"], json!([]));
    let own = stranger
        .put(&format!("{path}/customer%2F42"), &json!({}))
        .await
        .expect(200);
    assert_eq!(own["weight"], 1, "another lane with the same key");

    let faulty = json!({"weight": 1001, "max_running": 0, "parked_until": "2030-01-01T00:00:00Z",
        "breaker": {"rest": "100ms", "window": "25h", "share": 101, "size": 1}, "colour": 1});
    let mut faults = client
        .put(&format!("{path}/a"), &faulty)
        .await
        .problem(422, "invalid");
    faults.sort();
    assert_eq!(
        faults,
        pairs(&[
            ("/breaker/failures", "missing"),
            ("/breaker/rest", "out_of_range"),
            ("/breaker/share", "out_of_range"),
            ("/breaker/size", "unknown_field"),
            ("/breaker/window", "out_of_range"),
            ("/colour", "unknown_field"),
            ("/max_running", "out_of_range"),
            ("/parked_until", "invalid"),
            ("/weight", "out_of_range"),
        ])
    );
    let burst = client.put(&format!("{path}/a"), &json!({"burst": 1})).await;
    assert_eq!(
        burst.problem(422, "invalid"),
        pairs(&[("/burst", "needs_rate")])
    );
    let flag = client
        .put(&format!("{path}/a?ordered=yes"), &json!({}))
        .await;
    assert_eq!(
        flag.problem(400, "invalid_query"),
        pairs(&[("/ordered", "invalid")])
    );
    for key in ["%00", "a%0Ab", "%FF", &"x".repeat(257)] {
        let refused = client.put(&format!("{path}/{key}"), &json!({})).await;
        refused.problem(404, "not_found");
    }
}
