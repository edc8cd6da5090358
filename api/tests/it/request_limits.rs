//! Request rate limits across two replicas of the API.

use std::time::Duration;

use harkara_accounts::{KeyTier, NewKey, Scope, create_api_key, ensure_platform};
use harkara_shared::database::{query, query_as, query_scalar};
use reqwest::Method;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Client, Platform, TestResponse, listen, tester};

const JOB: &str = r#"{"kind":"http.request","payload":{"url":"https://example.com/"}}"#;

/// A key of this tier, at two replicas.
async fn replicas(platform: &Platform, tier: KeyTier, limits: Option<Value>) -> [Client; 2] {
    let new = NewKey {
        tenant: platform.acme.id,
        name: "limited".to_owned(),
        tier,
        scopes: vec![Scope::JobsRead, Scope::JobsWrite],
        expires_at: None,
        addresses: Vec::new(),
    };
    let made = create_api_key(&platform.pool, &platform.keys, new, &tester()).await;
    let (key, text) = made.unwrap();
    query("update app.api_keys set limits = $2 where id = $1")
        .bind(key.id)
        .bind(limits)
        .execute(&platform.pool)
        .await
        .unwrap();
    let first = platform.client.with_key(text.expose());
    let base = listen(&platform.pool, &platform.keys, &platform.stop).await;
    let second = Client::new(base, text.expose().to_owned());
    [first, second]
}

fn hourly(strategy: &str, quota: u32) -> Value {
    json!([{"name": "hour", "strategy": strategy, "quota": quota, "window": "1h"}])
}

/// Sends requests from 12 concurrent callers, spread over both replicas; returns how many passed.
async fn send_concurrently(replicas: &[Client; 2], requests: usize) -> usize {
    let mut callers = JoinSet::new();
    for caller in 0..12 {
        let client = replicas[caller % 2].clone();
        callers.spawn(async move {
            let mut passed = 0;
            for _ in 0..requests / 12 {
                let response = client.get("/v1/queues").await;
                if response.status == 200 {
                    passed += 1;
                } else {
                    is_refused(&response, "hour");
                }
            }
            passed
        });
    }
    callers.join_all().await.into_iter().sum()
}

#[track_caller]
fn is_refused(response: &TestResponse, policy: &str) {
    assert_eq!(response.problem(429, "rate_limited"), []);
    assert_eq!(response.json()["violated_policies"], json!([policy]));
    let wait: u64 = response.header("retry-after").parse().unwrap();
    assert!(wait >= 1);
    let zero = format!("\"{policy}\";r=0;t=");
    assert!(response.header("ratelimit").contains(&zero), "{response:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn exactly_100_of_300_requests_pass_across_two_replicas() {
    let platform = Platform::start().await;
    let limits = Some(hourly("sliding_window", 100));
    let replicas = replicas(&platform, KeyTier::Free, limits).await;
    assert_eq!(send_concurrently(&replicas, 300).await, 100);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn free_key_has_100_requests_an_hour_and_a_burst_of_ten() {
    let platform = Platform::start().await;
    let replicas = replicas(&platform, KeyTier::Free, None).await;
    assert_eq!(send_concurrently(&replicas, 300).await, 110);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn busy_key_gets_exactly_its_quota() {
    let platform = Platform::start().await;
    let limits = Some(hourly("fixed_window", 1500));
    let replicas = replicas(&platform, KeyTier::Free, limits).await;
    assert_eq!(send_concurrently(&replicas, 4200).await, 1500);
}

#[tokio::test]
async fn every_authenticated_response_has_rate_limit_headers() {
    let platform = Platform::start().await;
    let [client, _] = replicas(&platform, KeyTier::Free, None).await;
    let policy = r#""hour";q=110;w=3600, "day";q=1000;w=86400, "month";q=10000"#;
    let requests = [
        client.get("/v1/queues").await,
        client.get("/v1/stats?step=never").await,
        client.get("/v1/jobs/job_0000000000000").await,
        client.get("/v1/webhook-endpoints").await,
        client.post_text("/v1/jobs", "text/plain", "x").await,
        client.post_text("/v1/jobs", "application/json", "{").await,
    ];
    let statuses = requests.each_ref().map(|response| response.status);
    assert_eq!(statuses, [200, 400, 404, 403, 415, 400]);
    for (used, response) in (1..).zip(&requests) {
        assert_eq!(response.header("ratelimit-policy"), policy);
        let limits: Vec<&str> = response.header("ratelimit").split(", ").collect();
        let left = [110 - used, 1000 - used, 10_000 - used];
        for ((name, left), limit) in ["hour", "day", "month"].into_iter().zip(left).zip(limits) {
            let expected = format!("\"{name}\";r={left};t=");
            assert!(
                limit.starts_with(&expected),
                "{limit} does not start with {expected}"
            );
        }
    }
}

#[tokio::test]
async fn unauthenticated_requests_consume_no_quota() {
    let platform = Platform::start().await;
    let [client, _] = replicas(&platform, KeyTier::Free, None).await;
    let good = client.get("/v1/queues").await;
    assert!(good.header("ratelimit").starts_with("\"hour\";r=109"));
    let strange = |key: &str| client.with_key(key);
    for key in ["", "hk_nonsense", "hk_live_0123456789"] {
        let response = strange(key).get("/v1/queues").await;
        response.problem(401, "unauthorized");
        assert_eq!(response.header("ratelimit"), "");
    }
    client.get("/v1/nowhere").await.problem(404, "not_found");
    // The limits of the key, and the monthly quota of its tenant.
    let subjects: i64 = query_scalar("select count(distinct subject) from app.request_counters")
        .fetch_one(&platform.pool)
        .await
        .unwrap();
    assert_eq!(subjects, 2);
    let good = client.get("/v1/queues").await;
    assert!(good.header("ratelimit").starts_with("\"hour\";r=108"));
}

#[tokio::test]
async fn refused_request_does_nothing() {
    let platform = Platform::start().await;
    let limits = json!([{"name": "few", "strategy": "leaky_bucket", "quota": 1, "burst": 2,
        "window": "1h"}]);
    let [client, _] = replicas(&platform, KeyTier::Free, Some(limits)).await;
    let post = async || client.post_text("/v1/jobs", "application/json", JOB).await;
    post().await.expect(201);
    post().await.expect(201);
    for _ in 0..3 {
        is_refused(&post().await, "few");
    }
    assert_eq!(platform.jobs().await, 2);
}

#[tokio::test]
async fn monthly_quota_is_enforced_and_counts_earlier_usage() {
    let platform = Platform::start().await;
    let [client, other] = replicas(&platform, KeyTier::Free, None).await;
    query(
        "insert into app.usage (tenant_id, key_id, month, requests) select tenant_id, id,
         date_trunc('month', now() at time zone 'utc'), 9998 from app.api_keys where name = 'limited'",
    )
    .execute(&platform.pool)
    .await
    .unwrap();
    client.get("/v1/queues").await.expect(200);
    other.get("/v1/queues").await.expect(200);
    is_refused(&client.get("/v1/queues").await, "month");
    is_refused(&other.get("/v1/queues").await, "month");
}

#[tokio::test]
async fn unreadable_limits_fall_back_to_the_tier() {
    let platform = Platform::start().await;
    let limits = json!([{"name": "hour", "strategy": "of a later release"}]);
    let [client, _] = replicas(&platform, KeyTier::Developer, Some(limits)).await;
    let response = client.get("/v1/queues").await;
    assert!(
        response
            .header("ratelimit-policy")
            .starts_with("\"hour\";q=1050;w=3600")
    );
}

#[tokio::test]
async fn usage_is_shown_by_month_and_key() {
    let platform = Platform::start().await;
    let [client, other] = replicas(&platform, KeyTier::Free, None).await;
    query(
        "insert into app.usage (tenant_id, key_id, month, requests, closed_at)
         select tenant_id, id, date_trunc('month', now() at time zone 'utc') - ago, 70, now()
         from app.api_keys, (values (interval '1 month'), ('13 months')) a (ago)
         where name = 'limited'",
    )
    .execute(&platform.pool)
    .await
    .unwrap();
    client.get("/v1/queues").await.expect(200);
    other
        .post_text("/v1/jobs", "application/json", JOB)
        .await
        .expect(201);
    // Two requests plus those made here to read them; the numbers lag by up to a second.
    let mut requests = 2;
    let shown = loop {
        let shown = client.get("/v1/usage").await.expect(200);
        requests += 1;
        assert!(requests < 100, "{shown}");
        if shown["data"][0]["requests"].as_i64().unwrap() >= 2 {
            break shown;
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    };
    let months = shown["data"].as_array().unwrap();
    assert_eq!(
        months.len(),
        2,
        "usage of thirteen months ago must not be shown: {shown}"
    );
    assert_eq!(months[1]["requests"], 70);
    assert!(months[0].get("closed_at").is_none() && months[1]["closed_at"].is_string());
    let key = &shown["keys"][0];
    assert_eq!(
        (&key["name"], &key["tier"]),
        (&json!("limited"), &json!("free"))
    );
    assert_eq!(key["policies"][2]["quota"], 10_000);
    assert_eq!(
        key["months"][1],
        json!({"month": months[1]["month"], "requests": 70})
    );
    let one = client.get("/v1/usage?months=1").await.expect(200);
    assert_eq!(one["data"].as_array().map(Vec::len), Some(1));
    let wrong = client.get("/v1/usage?months=14").await;
    wrong.problem(400, "invalid_query");

    let stranger = platform.tenant("stranger").await;
    let stranger = platform.client_of(&stranger, &[Scope::TenantAdmin]).await;
    let shown = stranger.get("/v1/usage").await.expect(200);
    assert_eq!(shown["data"][0]["requests"], 0);
    assert_eq!(shown["keys"].as_array().map(Vec::len), Some(1));
    let unscoped = platform
        .client_of(&platform.acme, &[Scope::JobsWrite])
        .await;
    unscoped
        .get("/v1/usage")
        .await
        .problem(403, "missing_scope");
}

#[tokio::test]
async fn pending_usage_is_written_at_shutdown() {
    let platform = Platform::start().await;
    let [client, other] = replicas(&platform, KeyTier::Free, None).await;
    for _ in 0..3 {
        client
            .post_text("/v1/jobs", "application/json", JOB)
            .await
            .expect(201);
        other
            .send(Method::GET, "/v1/queues", &[], None)
            .await
            .expect(200);
    }
    platform.stop.cancel();
    type Counted = (i64, Option<i64>);
    let counted = "select coalesce(max(u.requests), 0)::int8,
        (select sum((after->>'requests')::int8)::int8 from app.audit_log where action = 'jobs.enqueue')
        from app.usage u join app.api_keys k on k.id = u.key_id where k.name = 'limited'";
    for _ in 0..200 {
        let counted: Counted = query_as(counted).fetch_one(&platform.pool).await.unwrap();
        if counted == (6, Some(3)) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("the last numbers were not written");
}

#[tokio::test]
async fn platform_overrides_the_limits_of_a_key() {
    let platform = Platform::start().await;
    let [client, _] = replicas(&platform, KeyTier::Free, None).await;
    let shown = client.get("/v1/usage").await.expect(200);
    let keys = shown["keys"].as_array().unwrap();
    let key = keys.iter().find(|key| key["name"] == "limited").unwrap();
    let id = key["id"].as_str().unwrap();
    let path = format!("/v1/api-keys/{id}/limits");
    let own = ensure_platform(&platform.pool).await.unwrap();
    let admin = platform.client_of(&own, &[Scope::PlatformAdmin]).await;
    let for_acme = [
        ("x-tenant-id", "acme"),
        ("content-type", "application/json"),
    ];
    let put = async |body: Value| {
        let body = Some(body.to_string());
        admin.send(Method::PUT, &path, &for_acme, body).await
    };
    let hour = json!({"name": "hour", "strategy": "fixed_window", "quota": 2, "burst": 0,
        "window": "1h"});
    let set = put(json!({"policies": [hour]})).await.expect(200);
    assert_eq!(set, json!({"own": true, "policies": [hour]}));
    // Other replicas apply it within a second, this one immediately.
    client.get("/v1/queues").await.expect(200);
    client.get("/v1/queues").await.expect(200);
    is_refused(&client.get("/v1/queues").await, "hour");

    for (policies, pointer) in [
        (json!([hour, hour]), "/policies/1/name"),
        (
            json!([{"name": "a", "strategy": "fixed_window", "quota": 2}]),
            "/policies/0/window",
        ),
        (
            json!([{"name": "A", "strategy": "calendar_month", "quota": 2}]),
            "/policies/0/name",
        ),
        (
            json!([{"name": "a", "strategy": "calendar_month", "quota": 0}]),
            "/policies/0/quota",
        ),
        (
            json!([{"name": "a", "strategy": "none", "quota": 2}]),
            "/policies/0/strategy",
        ),
    ] {
        let faults = put(json!({"policies": policies}))
            .await
            .problem(422, "invalid");
        assert_eq!(faults[0].0, pointer, "{policies}");
    }
    let unset = put(json!({"policies": null})).await.expect(200);
    assert_eq!(
        (&unset["own"], unset["policies"].as_array().map(Vec::len)),
        (&json!(false), Some(3))
    );
    client.get("/v1/queues").await.expect(200);
    let logged: i64 =
        query_scalar("select count(*) from app.audit_log where action = 'key.limits'")
            .fetch_one(&platform.pool)
            .await
            .unwrap();
    assert_eq!(logged, 2);
    let own = platform.client.put(&path, &json!({"policies": null})).await;
    own.problem(403, "missing_scope");
}
