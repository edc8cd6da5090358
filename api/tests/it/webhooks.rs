//! Webhook endpoints, events and deliveries.

use serde_json::{Value, json};

use crate::support::Platform;

const URL: &str = "http://127.0.0.1:9/hook";

fn word(value: &Value) -> &str {
    value.as_str().expect("a word")
}

#[tokio::test]
async fn endpoint_is_created_shown_changed_and_deleted() {
    let platform = Platform::start().await;
    let new = json!({"url": URL, "event_types": ["invoice.*"], "headers": {"x-a": "1"}});
    let created = platform.client.post("/v1/webhook-endpoints", &new).await;
    let mut endpoint = created.expect(201);
    let path = format!("/v1/webhook-endpoints/{}", word(&endpoint["id"]));
    assert_eq!(created.header("location"), path);
    let secret = endpoint.as_object_mut().unwrap().remove("secret").unwrap();
    assert!(word(&secret).starts_with("whsec_"));
    assert_eq!(endpoint["status"], "active");
    assert_eq!(platform.client.get(&path).await.expect(200), endpoint);
    assert_eq!(
        platform
            .client
            .get(&format!("{path}/secret"))
            .await
            .expect(200),
        json!({"secret": secret, "public_key": null})
    );
    let list = platform
        .client
        .get("/v1/webhook-endpoints")
        .await
        .expect(200);
    assert_eq!(list, json!({"data": [endpoint], "next_cursor": null}));

    let change = json!({"status": "paused", "headers": {}});
    let changed = platform.client.patch(&path, &change).await.expect(200);
    assert_eq!(
        (&changed["status"], &changed["headers"]),
        (&json!("paused"), &json!({}))
    );
    assert_eq!(changed["event_types"], json!(["invoice.*"]));
    platform.client.patch(&path, &json!({})).await.expect(200);

    platform.client.delete(&path).await.expect(204);
    for response in [
        platform.client.delete(&path).await,
        platform.client.get(&path).await,
        platform.client.get(&format!("{path}/secret")).await,
        platform.client.patch(&path, &json!({})).await,
        platform.client.get("/v1/webhook-endpoints/ep_x").await,
    ] {
        response.problem(404, "not_found");
    }
}

#[tokio::test]
async fn endpoints_are_listed_in_pages() {
    let platform = Platform::start().await;
    for _ in 0..5 {
        let new = json!({"url": URL});
        platform
            .client
            .post("/v1/webhook-endpoints", &new)
            .await
            .expect(201);
    }
    let (mut ids, mut cursor) = (Vec::new(), String::new());
    loop {
        let path = format!("/v1/webhook-endpoints?limit=2{cursor}");
        let page = platform.client.get(&path).await.expect(200);
        ids.extend(
            page["data"]
                .as_array()
                .unwrap()
                .iter()
                .map(|item| word(&item["id"]).to_owned()),
        );
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => break,
        }
    }
    assert_eq!(ids.len(), 5);
    assert!(ids.windows(2).all(|pair| pair[0] > pair[1]), "{ids:?}");
}

#[tokio::test]
async fn invalid_endpoint_is_reported_by_pointer() {
    let platform = Platform::start().await;
    let made = platform
        .client
        .post("/v1/webhook-endpoints", &json!({"url": URL}))
        .await
        .expect(201);
    let path = format!("/v1/webhook-endpoints/{}", word(&made["id"]));
    for (new, pointer) in [
        (json!({"url": "http://10.0.0.1/"}), "/url"),
        (json!({"url": "ftp://example.com"}), "/url"),
        (json!({"url": 5}), "/url"),
        (
            json!({"url": URL, "event_types": ["a..b"]}),
            "/event_types/0",
        ),
        (json!({"url": URL, "event_types": "a"}), "/event_types"),
        (json!({"url": URL, "headers": {"a b": "x"}}), "/headers/a b"),
        (json!({"url": URL, "headers": {"x": 1}}), "/headers/x"),
        (json!({"url": URL, "headers": {"x": "\u{0}"}}), "/headers/x"),
        (json!({"url": URL, "urll": 1}), "/urll"),
        (json!({"url": URL, "channels": ["a b"]}), "/channels/0"),
        (json!({"url": URL, "ordering": "lifo"}), "/ordering"),
        (
            json!({"url": URL, "rate_per_second": 0}),
            "/rate_per_second",
        ),
        (json!({"url": URL, "max_in_flight": -1}), "/max_in_flight"),
        (
            json!({"url": URL, "description": "x".repeat(501)}),
            "/description",
        ),
        (
            json!({"url": URL, "retry_schedule": "slow"}),
            "/retry_schedule",
        ),
        (json!({"url": URL, "retry_schedule": 5}), "/retry_schedule"),
        (
            json!({"url": URL, "retry_schedule": ["1s", "0s"]}),
            "/retry_schedule/1",
        ),
        (
            json!({"url": URL, "retry_schedule": ["soon"]}),
            "/retry_schedule/0",
        ),
        (
            json!({"url": URL, "retry_schedule": vec!["1s"; 25]}),
            "/retry_schedule",
        ),
        (
            json!({"url": URL, "client_certificate": {"certificate": "x", "private_key": "y"}}),
            "/client_certificate",
        ),
        (
            json!({"url": URL, "oauth2": {
                "token_url": "http://10.0.0.1/", "client_id": "a", "client_secret": "b"
            }}),
            "/oauth2/token_url",
        ),
        (
            json!({"url": URL, "oauth2": {
                "token_url": URL, "client_id": "", "client_secret": "b"
            }}),
            "/oauth2/client_id",
        ),
    ] {
        for response in [
            platform.client.post("/v1/webhook-endpoints", &new).await,
            platform.client.patch(&path, &new).await,
        ] {
            let faults = response.problem(422, "invalid");
            assert_eq!(faults.len(), 1, "{}", response.text);
            assert_eq!(faults[0].0, pointer, "{}", response.text);
        }
    }
    let missing = platform
        .client
        .post("/v1/webhook-endpoints", &json!({"event_types": []}))
        .await;
    assert_eq!(
        missing.problem(422, "invalid"),
        [("/url".to_owned(), "missing".to_owned())]
    );
    let status = platform
        .client
        .patch(&path, &json!({"status": "off"}))
        .await;
    assert_eq!(
        status.problem(422, "invalid"),
        [("/status".to_owned(), "invalid".to_owned())]
    );
    let list = platform
        .client
        .get("/v1/webhook-endpoints")
        .await
        .expect(200);
    assert_eq!(list["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn event_creates_a_delivery_for_each_subscribed_endpoint() {
    let platform = Platform::start().await;
    let create = async |types: Value| {
        let new = json!({"url": URL, "event_types": types});
        let endpoint = platform
            .client
            .post("/v1/webhook-endpoints", &new)
            .await
            .expect(201);
        word(&endpoint["id"]).to_owned()
    };
    let all = create(json!([])).await;
    let invoices = create(json!(["invoice.*"])).await;
    let _users = create(json!(["user.created"])).await;

    let event = json!({"type": "invoice.paid", "data": {"n": 1}, "id": "order-1"});
    let posted = platform.client.post("/v1/events", &event).await.expect(202);
    assert_eq!(posted["id"], "order-1");
    let deliveries = posted["deliveries"].as_array().unwrap();
    let mut takers: Vec<&str> = deliveries
        .iter()
        .map(|made| word(&made["endpoint_id"]))
        .collect();
    takers.sort_unstable();
    assert_eq!(takers, [all.as_str(), invoices.as_str()]);
    assert_eq!(platform.jobs().await, 2);
    for made in deliveries {
        let path = format!("/v1/jobs/{}", word(&made["job_id"]));
        let job = platform.client.get(&path).await.expect(200);
        assert_eq!(job["kind"], "webhook.deliver");
        let path = format!("/v1/deliveries/{}", word(&made["id"]));
        let delivery = platform.client.get(&path).await.expect(200);
        for name in ["id", "endpoint_id", "job_id"] {
            assert_eq!(delivery[name], made[name], "{name}");
        }
        assert_eq!(
            (&delivery["state"], &delivery["attempts"]),
            (&json!("pending"), &json!(0))
        );
        let attempts = platform
            .client
            .get(&format!("{path}/attempts"))
            .await
            .expect(200);
        assert_eq!(attempts, json!({"data": []}));
    }
    for (query, count) in [
        ("", 2),
        ("?event_id=order-1", 2),
        ("?event_id=order-2", 0),
        (&format!("?endpoint_id={all}"), 1),
        (&format!("?endpoint_id={all}&state=pending&limit=1"), 1),
        ("?state=failed", 0),
    ] {
        let page = platform
            .client
            .get(&format!("/v1/deliveries{query}"))
            .await
            .expect(200);
        assert_eq!(page["data"].as_array().unwrap().len(), count, "{query}");
    }

    // Repeating an event returns it; another event with its id is a conflict.
    let again = platform.client.post("/v1/events", &event).await.expect(202);
    assert_eq!(again["deliveries"].as_array().unwrap().len(), 2);
    let other = json!({"type": "invoice.paid", "data": {"n": 2}, "id": "order-1"});
    platform
        .client
        .post("/v1/events", &other)
        .await
        .problem(409, "conflict");
    assert_eq!(platform.jobs().await, 2);
}

#[tokio::test]
async fn delivery_whose_job_is_cancelled_is_listed_as_cancelled() {
    let platform = Platform::start().await;
    let endpoint = json!({"url": "https://example.com/hook"});
    platform
        .client
        .post("/v1/webhook-endpoints", &endpoint)
        .await
        .expect(201);
    for _ in 0..3 {
        let event = json!({"type": "a.b", "data": {}});
        platform.client.post("/v1/events", &event).await.expect(202);
    }
    let all = platform.client.get("/v1/deliveries").await.expect(200);
    let (id, job) = (&all["data"][1]["id"], &all["data"][1]["job_id"]);
    let cancel = format!("/v1/jobs/{}/cancel", job.as_str().unwrap());
    platform.client.post(&cancel, &json!({})).await.expect(200);

    let cancelled = platform
        .client
        .get("/v1/deliveries?state=cancelled&limit=1")
        .await
        .expect(200);
    assert_eq!(&cancelled["data"][0]["id"], id);
    assert_eq!(cancelled["data"][0]["state"], "cancelled");
    let pending = platform
        .client
        .get("/v1/deliveries?state=pending")
        .await
        .expect(200);
    assert_eq!(pending["data"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn invalid_event_is_reported_by_pointer() {
    let platform = Platform::start().await;
    for (event, expected) in [
        (json!({}), vec!["/type", "/data"]),
        (json!({"type": "a.b"}), vec!["/data"]),
        (json!({"data": {}}), vec!["/type"]),
        (
            json!({"type": "a..b", "data": {}, "id": "a.b"}),
            vec!["/type", "/id"],
        ),
        (
            json!({"type": "a.b", "data": {"x": "\u{0}"}}),
            vec!["/data/x"],
        ),
        (
            json!({"type": "a.b", "data": "x".repeat(256 * 1024)}),
            vec!["/data"],
        ),
        (
            json!({"type": 1, "data": {}, "channel": []}),
            vec!["/channel", "/type"],
        ),
        (
            json!({"type": "a", "data": {}, "channels": ["ok", "n o", "ok"], "ordering_key": ""}),
            vec!["/channels/1", "/channels/2", "/ordering_key"],
        ),
    ] {
        let response = platform.client.post("/v1/events", &event).await;
        let mut pointers: Vec<String> = response
            .problem(422, "invalid")
            .into_iter()
            .map(|(pointer, _)| pointer)
            .collect();
        pointers.sort();
        let mut expected = expected;
        expected.sort_unstable();
        assert_eq!(pointers, expected, "{}", response.text);
    }
    assert_eq!(platform.jobs().await, 0);
}

#[tokio::test]
async fn unknown_delivery_is_not_found() {
    let platform = Platform::start().await;
    for id in [
        "dlv_01h455vb4pex5vsknk084sn02q",
        "dlv_x",
        "job_0000000000500",
    ] {
        platform
            .client
            .get(&format!("/v1/deliveries/{id}"))
            .await
            .problem(404, "not_found");
        let path = format!("/v1/deliveries/{id}/attempts");
        platform.client.get(&path).await.problem(404, "not_found");
    }
}
