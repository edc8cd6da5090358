//! Operations on existing endpoints and deliveries.

use serde_json::{Value, json};

use crate::support::Platform;

const URL: &str = "http://127.0.0.1:9/hook";

fn word(value: &Value) -> &str {
    value.as_str().expect("a word")
}

impl Platform {
    /// Creates an endpoint; returns it and its path.
    async fn endpoint(&self, members: Value) -> (Value, String) {
        let mut new = members;
        new["url"] = json!(URL);
        let made = self
            .client
            .post("/v1/webhook-endpoints", &new)
            .await
            .expect(201);
        let path = format!("/v1/webhook-endpoints/{}", word(&made["id"]));
        (made, path)
    }

    async fn event(&self) -> Value {
        let event = json!({"type": "a.b", "data": {"n": 1}});
        self.client.post("/v1/events", &event).await.expect(202)
    }
}

#[tokio::test]
async fn endpoint_keeps_every_requested_setting() {
    let platform = Platform::start().await;
    let (made, path) = platform
        .endpoint(json!({
            "description": "Billing", "channels": ["north"], "ordering": "fifo",
            "retry_schedule": "fast", "rate_per_second": 7, "max_in_flight": 3,
            "secret": "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD",
            "oauth2": {"token_url": URL, "client_id": "me", "client_secret": "hidden", "scope": "s"},
        }))
        .await;
    assert_eq!(made["secret"], "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD");
    assert_eq!(made["retry_schedule"], "fast");
    assert_eq!(made["retry_window"], "21m");
    let oauth2 = json!({"token_url": URL, "client_id": "me", "scope": "s", "audience": null});
    assert_eq!(made["oauth2"], oauth2);
    let shown = platform.client.get(&path).await;
    assert!(!shown.text.contains("hidden"));
    let change = json!({
        "description": null, "ordering": "none", "retry_schedule": ["1s", "90s"],
        "rate_per_second": null, "oauth2": null, "channels": [],
    });
    let now = platform.client.patch(&path, &change).await.expect(200);
    assert_eq!(now["description"], Value::Null);
    assert_eq!(now["retry_schedule"], json!(["1s", "90s"]));
    assert_eq!(
        (&now["rate_per_second"], &now["max_in_flight"]),
        (&Value::Null, &json!(3))
    );
    assert_eq!(now["oauth2"], Value::Null);
}

#[tokio::test]
async fn endpoint_lane_has_its_rate_concurrency_and_breaker() {
    let platform = Platform::start().await;
    let (made, path) = platform
        .endpoint(json!({"rate_per_second": 7, "max_in_flight": 3}))
        .await;
    let lane = async || {
        let lanes = platform
            .client
            .get("/v1/queues/webhook/lanes")
            .await
            .expect(200);
        let found = lanes["data"]
            .as_array()
            .unwrap()
            .iter()
            .find(|lane| lane["key"] == made["id"]);
        found.cloned().unwrap()
    };
    let held = lane().await;
    assert_eq!(held["rate_per_second"], 7);
    assert_eq!(held["max_running"], 3);
    assert_eq!(held["breaker"]["share"], 70);
    let change = json!({"rate_per_second": 9, "max_in_flight": null});
    platform.client.patch(&path, &change).await.expect(200);
    let held = lane().await;
    assert_eq!(held["rate_per_second"], 9);
    assert_eq!(held["max_running"], Value::Null);
}

#[tokio::test]
async fn endpoint_secret_is_rotated_and_a_key_pair_added() {
    let platform = Platform::start().await;
    let (made, path) = platform.endpoint(json!({})).await;
    let rotate = format!("{path}/rotate-secret");
    let rotated = platform
        .client
        .post(&rotate, &json!({"grace": "1h"}))
        .await
        .expect(200);
    assert_ne!(rotated["secret"], made["secret"]);
    assert_eq!(rotated["public_key"], Value::Null);
    let pair = json!({"algorithm": "v1a"});
    let paired = platform.client.post(&rotate, &pair).await.expect(200);
    assert_eq!(paired["secret"], rotated["secret"]);
    assert!(word(&paired["public_key"]).starts_with("whpk_"));
    let shown = platform
        .client
        .get(&format!("{path}/secret"))
        .await
        .expect(200);
    assert_eq!(shown["secret"], rotated["secret"]);
    assert_eq!(shown["public_key"], paired["public_key"]);
    assert_eq!(
        platform.client.get(&path).await.expect(200)["public_key"],
        paired["public_key"]
    );
    for (wrong, pointer) in [
        (json!({"grace": "8d"}), "/grace"),
        (json!({"grace": "1500ms"}), "/grace"),
        (json!({"secret": "whsec_short"}), "/secret"),
        (json!({"algorithm": "v2"}), "/algorithm"),
        (
            json!({"algorithm": "v1a", "secret": made["secret"]}),
            "/secret",
        ),
    ] {
        let response = platform.client.post(&rotate, &wrong).await;
        assert_eq!(response.problem(422, "invalid")[0].0, pointer, "{wrong}");
    }
    for _ in 0..9 {
        platform
            .client
            .post(&rotate, &json!({"grace": "1h"}))
            .await
            .expect(200);
    }
    let one_more = platform.client.post(&rotate, &json!({"grace": "1h"})).await;
    one_more.problem(409, "conflict");
}

#[tokio::test]
async fn event_skips_a_disabled_endpoint_and_recovery_delivers_it() {
    let platform = Platform::start().await;
    let (_, path) = platform.endpoint(json!({})).await;
    platform
        .client
        .patch(&path, &json!({"status": "disabled"}))
        .await
        .expect(200);
    let posted = platform.event().await;
    assert_eq!(posted["deliveries"][0]["job_id"], Value::Null);
    let delivery = format!("/v1/deliveries/{}", word(&posted["deliveries"][0]["id"]));
    let shown = platform.client.get(&delivery).await.expect(200);
    assert_eq!(
        (&shown["state"], &shown["job_id"]),
        (&json!("skipped"), &Value::Null)
    );

    for (query, found) in [
        ("status_code=500", 0),
        ("created_before=2020-01-01T00:00:00Z", 0),
        ("state=skipped&created_after=2020-01-01T00:00:00Z", 1),
    ] {
        let page = platform
            .client
            .get(&format!("/v1/deliveries?{query}"))
            .await
            .expect(200);
        assert_eq!(page["data"].as_array().unwrap().len(), found, "{query}");
    }
    for query in ["status_code=99", "status_code=x", "created_after=soon"] {
        let page = platform
            .client
            .get(&format!("/v1/deliveries?{query}"))
            .await;
        page.problem(400, "invalid_query");
    }

    let recover = format!("{path}/recover");
    let since = json!({"since": shown["created_at"]});
    platform
        .client
        .post(&recover, &since)
        .await
        .problem(409, "conflict");
    let redeliver = format!("{delivery}/redeliver");
    platform
        .client
        .post(&redeliver, &json!({}))
        .await
        .problem(409, "conflict");

    let enabled = platform
        .client
        .post(&format!("{path}/enable"), &json!({}))
        .await
        .expect(200);
    assert_eq!(enabled["status"], "active");
    let started = platform.client.post(&recover, &since).await.expect(202);
    let job = format!("/v1/jobs/{}", word(&started["job_id"]));
    assert_eq!(
        platform.client.get(&job).await.expect(200)["kind"],
        "webhook.recover"
    );
    for (wrong, pointer) in [
        (json!({}), "/since"),
        (json!({"since": "2020-01-01T00:00:00Z"}), "/since"),
        (
            json!({"since": shown["created_at"], "until": "2020-01-01T00:00:00Z"}),
            "/until",
        ),
        (
            json!({"since": shown["created_at"], "states": []}),
            "/states",
        ),
        (
            json!({"since": shown["created_at"], "states": ["pending"]}),
            "/states/0",
        ),
    ] {
        let response = platform.client.post(&recover, &wrong).await;
        assert_eq!(response.problem(422, "invalid")[0].0, pointer, "{wrong}");
    }
}

#[tokio::test]
async fn delivery_is_redelivered_on_request() {
    let platform = Platform::start().await;
    platform.endpoint(json!({})).await;
    let posted = platform.event().await;
    let delivery = format!("/v1/deliveries/{}", word(&posted["deliveries"][0]["id"]));
    let again = platform
        .client
        .post(&format!("{delivery}/redeliver"), &json!({}))
        .await;
    assert_eq!(
        again.expect(202)["job_id"],
        posted["deliveries"][0]["job_id"],
        "a waiting delivery cannot be redelivered"
    );
    let missing = "/v1/deliveries/dlv_01h455vb4pex5vsknk084sn02q/redeliver";
    platform
        .client
        .post(missing, &json!({}))
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn test_event_goes_to_one_endpoint() {
    let platform = Platform::start().await;
    let (made, path) = platform.endpoint(json!({"event_types": ["other"]})).await;
    platform.endpoint(json!({})).await;
    let test = format!("{path}/test");
    let posted = platform.client.post(&test, &json!({})).await.expect(202);
    assert_eq!(posted["deliveries"].as_array().unwrap().len(), 1);
    assert_eq!(posted["deliveries"][0]["endpoint_id"], made["id"]);
    for (wrong, pointer) in [
        (json!({"type": "a..b"}), "/type"),
        (json!({"type": "endpoint.failing"}), "/type"),
        (json!({"data": 5}), "/data"),
    ] {
        let response = platform.client.post(&test, &wrong).await;
        assert_eq!(response.problem(422, "invalid")[0].0, pointer, "{wrong}");
    }
}

#[tokio::test]
async fn channels_select_endpoints() {
    let platform = Platform::start().await;
    platform.endpoint(json!({"channels": ["north"]})).await;
    let (all, _) = platform.endpoint(json!({})).await;
    let takers = async |channels: Value| {
        let event = json!({"type": "a.b", "data": {}, "channels": channels});
        let posted = platform.client.post("/v1/events", &event).await.expect(202);
        let made = posted["deliveries"].as_array().unwrap();
        made.iter()
            .map(|made| made["endpoint_id"].clone())
            .collect::<Vec<_>>()
    };
    assert_eq!(takers(json!(["north"])).await.len(), 2);
    assert_eq!(takers(json!(["south"])).await, [all["id"].clone()]);
    assert_eq!(takers(json!([])).await, [all["id"].clone()]);
}

#[tokio::test]
async fn payload_retention_is_set_and_shown() {
    let platform = Platform::start().await;
    let path = "/v1/webhook-settings";
    let shown = platform.client.get(path).await.expect(200);
    assert_eq!(shown, json!({"payload_retention": null}));
    let week = json!({"payload_retention": "7d"});
    assert_eq!(platform.client.put(path, &week).await.expect(200), week);
    assert_eq!(
        platform.client.put(path, &json!({})).await.expect(200),
        week
    );
    for wrong in ["59m", "31d", "3601500ms"] {
        let response = platform
            .client
            .put(path, &json!({"payload_retention": wrong}))
            .await;
        assert_eq!(
            response.problem(422, "invalid")[0].0,
            "/payload_retention",
            "{wrong}"
        );
    }
    let none = json!({"payload_retention": null});
    assert_eq!(platform.client.put(path, &none).await.expect(200), none);
}

#[tokio::test]
async fn endpoint_without_attempts_has_empty_stats() {
    let platform = Platform::start().await;
    let (_, path) = platform.endpoint(json!({})).await;
    let stats = platform
        .client
        .get(&format!("{path}/stats"))
        .await
        .expect(200);
    assert_eq!(
        (&stats["succeeded"], &stats["p99_ms"]),
        (&json!(0), &Value::Null)
    );
    assert_eq!(stats["hours"], json!([]));
    let missing = "/v1/webhook-endpoints/ep_01h455vb4pex5vsknk084sn02q/stats";
    platform.client.get(missing).await.problem(404, "not_found");
}
