//! Forms of the portal: each performs its action, and the audit log records the link.

use reqwest::Method;
use serde_json::json;

use super::{Shop, word};
use crate::users::pages::is_page;

#[tokio::test]
async fn test_event_is_posted_only_to_its_endpoint() {
    let shop = Shop::open().await;
    let page = format!("/endpoints/{}", shop.endpoint);
    let pairs = [("type", "order.tested"), ("data", r#"{"n": 7}"#)];
    shop.done(&page, "test", &pairs, "A test event is being sent")
        .await;
    let entry = shop.assert_audited("endpoint.test", &shop.endpoint).await;
    assert_eq!(entry["after"], json!({"type": "order.tested"}));
    assert_eq!(shop.jobs_of("webhook.deliver").await, 2);

    for (pairs, words) in [
        ([("type", "a..b"), ("data", "{}")], "/type"),
        ([("type", "a.b"), ("data", "[1]")], "must be a JSON object"),
        ([("type", "a.b"), ("data", "{")], "is not valid JSON"),
        ([("type", "a.b"), ("data", r#"{"x":"\u0000"}"#)], "NUL"),
    ] {
        let refused = shop.press(&format!("{page}/test"), &pairs).await;
        is_page(&refused, 422);
        assert!(refused.text.contains(words), "{}", refused.text);
    }
    assert_eq!(shop.jobs_of("webhook.deliver").await, 2);
}

#[tokio::test]
async fn endpoint_is_paused_and_enabled() {
    let shop = Shop::open().await;
    let page = format!("/endpoints/{}", shop.endpoint);
    shop.done(&page, "pause", &[], "The endpoint is paused")
        .await;
    let entry = shop.assert_audited("endpoint.change", &shop.endpoint).await;
    assert_eq!(entry["before"], json!({"status": "active"}));
    assert_eq!(entry["after"], json!({"status": "paused"}));
    assert_eq!(shop.endpoint_now().await["status"], "paused");
    shop.done(&page, "enable", &[], "The endpoint is enabled")
        .await;
    shop.assert_audited("endpoint.enable", &shop.endpoint).await;
    assert_eq!(shop.endpoint_now().await["status"], "active");
}

#[tokio::test]
async fn rotated_secret_is_shown_once_and_used_by_the_endpoint() {
    let shop = Shop::open().await;
    let page = format!("/endpoints/{}", shop.endpoint);
    let secret_path = format!("/v1/webhook-endpoints/{}/secret", shop.endpoint);
    let old = shop.platform.client.get(&secret_path).await.expect(200);
    let shown = shop
        .press(&format!("{page}/rotate"), &[("grace", "1h")])
        .await;
    is_page(&shown, 200);
    let entry = shop.assert_audited("endpoint.rotate", &shop.endpoint).await;
    assert_eq!(entry["after"], json!({"algorithm": "v1", "grace": "1h"}));
    let new = shop.platform.client.get(&secret_path).await.expect(200);
    assert_ne!(old["secret"], new["secret"]);
    assert!(shown.text.contains(&word(&new["secret"])), "{}", shown.text);
    for path in ["", &page] {
        assert!(!shop.get(path).await.text.contains("whsec_"));
    }
    for wrong in ["8d", "", "1500ms"] {
        let refused = shop
            .press(&format!("{page}/rotate"), &[("grace", wrong)])
            .await;
        is_page(&refused, 422);
        assert!(refused.text.contains("/grace"), "{}", refused.text);
    }
    assert_eq!(shop.platform.audit_count("endpoint.rotate").await, 1);
}

#[tokio::test]
async fn missed_deliveries_are_recovered_by_a_job() {
    let shop = Shop::open().await;
    let page = format!("/endpoints/{}", shop.endpoint);
    shop.done(&page, "recover", &[("last", "24h")], "are being sent again")
        .await;
    let entry = shop
        .assert_audited("endpoint.recover", &shop.endpoint)
        .await;
    assert_eq!(entry["after"]["states"], json!(["failed", "skipped"]));
    assert_eq!(shop.jobs_of("webhook.recover").await, 1);
    is_page(
        &shop
            .press(&format!("{page}/recover"), &[("last", "31d")])
            .await,
        422,
    );

    let path = format!("/v1/webhook-endpoints/{}", shop.endpoint);
    let off = json!({"status": "disabled"});
    shop.platform.client.patch(&path, &off).await.expect(200);
    let refused = shop
        .press(&format!("{page}/recover"), &[("last", "1h")])
        .await;
    is_page(&refused, 409);
    assert!(refused.text.contains("enable it first"), "{}", refused.text);
    assert_eq!(shop.jobs_of("webhook.recover").await, 1);
}

#[tokio::test]
async fn delivery_is_redelivered() {
    let shop = Shop::open().await;
    let page = format!("/deliveries/{}", shop.delivery);
    let delivery = shop
        .platform
        .client
        .get(&format!("/v1{page}"))
        .await
        .expect(200);
    let cancel = format!("/v1/jobs/{}/cancel", word(&delivery["job_id"]));
    shop.platform
        .client
        .post(&cancel, &json!({}))
        .await
        .expect(200);
    shop.done(&page, "resend", &[], "is being sent again").await;
    let entry = shop
        .assert_audited("delivery.redeliver", &shop.delivery)
        .await;
    let again = shop
        .platform
        .client
        .get(&format!("/v1{page}"))
        .await
        .expect(200);
    assert_eq!(
        (&again["state"], &again["job_id"]),
        (&json!("pending"), &entry["after"]["job_id"])
    );
    assert_ne!(again["job_id"], delivery["job_id"]);
}

#[tokio::test]
async fn wrong_method_or_media_type_returns_a_page() {
    let shop = Shop::open().await;
    let path = format!("{}/endpoints/{}/test", shop.portal, shop.endpoint);
    let json = ("content-type", "application/json");
    let send = async |method| {
        shop.visitor
            .send(method, &path, &[json], Some("{}".to_owned()))
            .await
    };
    is_page(&send(Method::POST).await, 415);
    let refused = send(Method::PUT).await;
    is_page(&refused, 405);
    assert_eq!(refused.header("allow"), "POST");
}

#[tokio::test]
async fn endpoint_is_added_and_its_secret_shown() {
    let shop = Shop::open().await;
    let pairs = [
        ("url", " http://127.0.0.1:9/added "),
        ("description", "Added"),
        ("event_types", "invoice.*, user.created"),
    ];
    let shown = shop.press("/endpoints", &pairs).await;
    is_page(&shown, 200);
    let list = "/v1/webhook-endpoints?limit=1";
    let list = shop.platform.client.get(list).await.expect(200);
    let added = &list["data"][0];
    let request = json!({
        "url": "http://127.0.0.1:9/added", "description": "Added",
        "event_types": ["invoice.*", "user.created"],
    });
    for (name, value) in request.as_object().unwrap() {
        assert_eq!(&added[name], value, "{name}");
    }
    let id = word(&added["id"]);
    assert_eq!(
        shop.assert_audited("endpoint.create", &id).await["after"],
        request
    );
    let secret = format!("/v1/webhook-endpoints/{id}/secret");
    let secret = shop.platform.client.get(&secret).await.expect(200);
    assert!(shown.text.contains(&word(&secret["secret"])));

    for (name, value) in [("url", "http://10.0.0.1/"), ("event_types", "a..b")] {
        let mut wrong = pairs.to_vec();
        wrong.retain(|(known, _)| *known != name);
        wrong.push((name, value));
        let refused = shop.press("/endpoints", &wrong).await;
        is_page(&refused, 422);
        assert!(
            refused.text.contains(&format!("/{name}")),
            "{}",
            refused.text
        );
    }
    assert_eq!(shop.platform.audit_count("endpoint.create").await, 2);
}

#[tokio::test]
async fn endpoint_quota_applies_to_the_form() {
    let shop = Shop::open().await;
    shop.platform
        .sql("update app.tenants set sla_tier = 'FREE'")
        .await;
    shop.platform
        .sql("update app.api_keys set tier = 'free'")
        .await;
    let add = async || {
        shop.press("/endpoints", &[("url", "http://127.0.0.1:9/")])
            .await
    };
    for _ in 0..4 {
        is_page(&add().await, 200);
    }
    is_page(&add().await, 403);
    assert_eq!(shop.platform.audit_count("endpoint.create").await, 5);
}

#[tokio::test]
async fn endpoint_form_keeps_settings_it_does_not_show() {
    let shop = Shop::open().await;
    let path = format!("/v1/webhook-endpoints/{}", shop.endpoint);
    let set = json!({"headers": {"x-a": "1"}, "rate_per_second": 5});
    let before = shop.platform.client.patch(&path, &set).await.expect(200);
    let page = format!("/endpoints/{}", shop.endpoint);
    let pairs = [
        ("url", "http://127.0.0.1:9/moved"),
        ("description", ""),
        ("event_types", "order.*"),
    ];
    shop.done(&page, "change", &pairs, "The endpoint was changed")
        .await;
    let entry = shop.assert_audited("endpoint.change", &shop.endpoint).await;
    assert_eq!(
        entry["before"],
        json!({"url": "http://127.0.0.1:9/hook", "description": "Orders", "event_types": []})
    );
    assert_eq!(
        entry["after"],
        json!({"url": "http://127.0.0.1:9/moved", "description": null, "event_types": ["order.*"]})
    );
    let after = shop.endpoint_now().await;
    for name in ["url", "description", "event_types"] {
        assert_eq!(after[name], entry["after"][name], "{name}");
    }
    for name in ["headers", "rate_per_second", "status", "retry_schedule"] {
        assert_eq!(after[name], before[name], "{name}");
    }
    let wrong = [("url", "ftp://example.com")];
    let refused = shop.press(&format!("{page}/change"), &wrong).await;
    is_page(&refused, 422);
    assert!(refused.text.contains("/url"), "{}", refused.text);
}
