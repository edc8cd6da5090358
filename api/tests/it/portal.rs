//! The portal: a link gives access to the webhooks of one tenant and nothing else.

mod forms;

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::TimeDelta;
use harkara_accounts::{Scope, Tenant};
use harkara_api::portal::{PortalLink, PortalLinks};
use harkara_shared::clock;
use harkara_shared::database::{TenantTx, query, query_scalar};
use harkara_shared::vault::MasterKeys;
use reqwest::Method;
use serde_json::{Value, json};

use crate::support::{Client, Platform, TestResponse};
use crate::users::pages::{fields, is_page};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// A tenant with an endpoint and a delivery to it.
struct Shop {
    platform: Platform,
    /// The path of a link that is valid for an hour.
    portal: String,
    /// A client without a key.
    visitor: Client,
    endpoint: String,
    delivery: String,
}

impl Shop {
    async fn open() -> Self {
        let platform = Platform::start().await;
        let (endpoint, delivery) = webhook(&platform.client, "http://127.0.0.1:9/hook").await;
        let portal = portal(&platform.client).await;
        let visitor = platform.client.with_key("");
        Self {
            platform,
            portal,
            visitor,
            endpoint,
            delivery,
        }
    }

    async fn get(&self, path: &str) -> TestResponse {
        let response = self.visitor.get(&format!("{}{path}", self.portal)).await;
        assert_eq!(response.header("referrer-policy"), "no-referrer");
        response
    }

    /// Posts a form of the portal and returns the response.
    async fn press(&self, path: &str, pairs: &[(&str, &str)]) -> TestResponse {
        let path = format!("{}{path}", self.portal);
        self.platform.form(&path, &fields(pairs)).await
    }

    /// Posts a form that redirects back to its page, and checks the notice there.
    async fn done(&self, page: &str, action: &str, pairs: &[(&str, &str)], notice: &str) {
        let response = self.press(&format!("{page}/{action}"), pairs).await;
        assert_eq!(response.status, 303, "{}", response.text);
        let back = response.header("location");
        assert_eq!(back, format!("{}{page}?done={action}", self.portal));
        let page = self.visitor.get(back).await;
        is_page(&page, 200);
        assert!(page.text.contains(notice), "{}", page.text);
    }

    /// Asserts that the newest audit entry records this action by a link, and returns it.
    async fn assert_audited(&self, action: &str, resource: &str) -> Value {
        let path = "/v1/audit-logs?limit=1";
        let log = self.platform.client.get(path).await.expect(200);
        let entry = log["data"][0].clone();
        assert_eq!(entry["action"], action);
        assert_eq!(entry["resource"], resource);
        assert_eq!(entry["actor"]["kind"], "link");
        let id = entry["actor"]["id"].as_str().unwrap();
        assert!(id.starts_with("lnk_"), "{id}");
        assert_eq!(entry["actor"]["address"], "127.0.0.1");
        entry
    }

    async fn endpoint_now(&self) -> Value {
        let path = format!("/v1/webhook-endpoints/{}", self.endpoint);
        self.platform.client.get(&path).await.expect(200)
    }

    async fn jobs_of(&self, kind: &str) -> usize {
        let jobs = self.platform.client.get("/v1/jobs").await.expect(200);
        let jobs = jobs["data"].as_array().unwrap().iter();
        jobs.filter(|job| job["kind"] == kind).count()
    }
}

fn word(value: &Value) -> String {
    value.as_str().expect("a word").to_owned()
}

/// Creates an endpoint and a delivery that waits for it.
async fn webhook(client: &Client, url: &str) -> (String, String) {
    let new = json!({"url": url, "description": "Orders"});
    let endpoint = client.post("/v1/webhook-endpoints", &new).await.expect(201);
    let event = json!({"type": "order.paid", "data": {"n": 1}});
    let event = client.post("/v1/events", &event).await.expect(202);
    (word(&endpoint["id"]), word(&event["deliveries"][0]["id"]))
}

/// The path of a new link.
async fn portal(client: &Client) -> String {
    let link = client
        .post("/v1/portal-links", &json!({}))
        .await
        .expect(201);
    let url = word(&link["url"]);
    url.strip_prefix(client.base.as_str())
        .expect("our own address")
        .to_owned()
}

/// The path of a link signed by the platform's key.
fn signed(keys: &MasterKeys, link: &PortalLink) -> String {
    format!("/portal/{}", PortalLinks::new(keys).write(link).unwrap())
}

/// Asserts that the page reports an invalid link.
async fn opens_nothing(shop: &Shop, portal: &str) {
    let whole = shop.visitor.get(portal).await;
    is_page(&whole, 404);
    assert!(whole.text.contains("This link does not work"));
    let endpoint = format!("{portal}/endpoints/{}", shop.endpoint);
    let delivery = format!("{portal}/deliveries/{}", shop.delivery);
    for response in [
        shop.visitor.get(&endpoint).await,
        shop.visitor.get(&delivery).await,
        shop.platform.form(&format!("{endpoint}/pause"), "").await,
        shop.platform
            .form(&format!("{endpoint}/rotate"), "grace=0s")
            .await,
        shop.platform.form(&format!("{delivery}/resend"), "").await,
    ] {
        assert_eq!((response.status, &response.text), (404, &whole.text));
    }
    assert_eq!(shop.endpoint_now().await["status"], "active");
}

#[tokio::test]
async fn portal_link_is_created_with_the_requested_lifetime_and_audited() {
    let platform = Platform::start().await;
    for (body, life) in [
        (json!({}), TimeDelta::hours(1)),
        (json!({"expires_in": "1m"}), TimeDelta::minutes(1)),
        (json!({"expires_in": "24h"}), TimeDelta::hours(24)),
    ] {
        let before = clock::now();
        let link = platform
            .client
            .post("/v1/portal-links", &body)
            .await
            .expect(201);
        let expires: chrono::DateTime<chrono::Utc> = word(&link["expires_at"]).parse().unwrap();
        let (least, most) = (before + life - TimeDelta::seconds(1), clock::now() + life);
        assert!((least..=most).contains(&expires), "{link}");
        let log = platform
            .client
            .get("/v1/audit-logs?limit=1")
            .await
            .expect(200);
        let entry = &log["data"][0];
        assert_eq!(entry["action"], "portal_link.create");
        assert_eq!(entry["resource"], link["id"]);
        assert_eq!(entry["after"]["expires_at"], link["expires_at"]);
        let (_, text) = word(&link["url"])
            .rsplit_once('/')
            .map(|(base, text)| (base.to_owned(), text.to_owned()))
            .unwrap();
        assert!(!log.to_string().contains(&text), "the log holds the link");
    }
    for wrong in ["59s", "25h", "60500ms", "0s"] {
        let body = json!({ "expires_in": wrong });
        let refused = platform.client.post("/v1/portal-links", &body).await;
        let faults = refused.problem(422, "invalid");
        assert_eq!(
            faults,
            [("/expires_in".to_owned(), "out_of_range".to_owned())]
        );
    }
}

#[tokio::test]
async fn user_confirms_identity_before_creating_a_portal_link() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "operator")
        .await;
    ada.post("/v1/portal-links", &json!({})).await.expect(201);
    platform
        .sql("update app.sessions set confirmed_at = now() - interval '601 seconds'")
        .await;
    let refused = ada.post("/v1/portal-links", &json!({})).await;
    refused.problem(403, "confirmation_required");
}

#[tokio::test]
async fn portal_link_opens_only_the_pages_of_its_tenant() {
    let shop = Shop::open().await;
    let other = shop.platform.tenant("other").await;
    let stranger = shop.platform.client_of(&other, Scope::ALL).await;
    let (endpoint, delivery) = webhook(&stranger, "http://127.0.0.1:9/theirs").await;

    let list = shop.get("").await;
    is_page(&list, 200);
    assert!(list.text.contains("http://127.0.0.1:9/hook") && list.text.contains("Orders"));
    assert!(list.text.contains("75 h 35 min 5 s"), "{}", list.text);
    let page = shop.get(&format!("/endpoints/{}", shop.endpoint)).await;
    is_page(&page, 200);
    assert!(
        page.text
            .contains(&format!("{}/deliveries/{}", shop.portal, shop.delivery))
    );
    let page = shop.get(&format!("/deliveries/{}", shop.delivery)).await;
    is_page(&page, 200);
    assert!(page.text.contains("pending") && page.text.contains("No attempts yet."));

    assert!(!list.text.contains("theirs"));
    for path in [
        format!("/endpoints/{endpoint}"),
        format!("/deliveries/{delivery}"),
        "/endpoints/ep_x".to_owned(),
        format!("/endpoints/{delivery}"),
    ] {
        let response = shop.get(&path).await;
        is_page(&response, 404);
        assert!(!response.text.contains("theirs"));
    }
    for (action, body) in [
        ("change", "url=http%3A%2F%2F127.0.0.1%3A9%2F"),
        ("test", "type=a.b"),
        ("enable", ""),
        ("pause", ""),
        ("recover", "last=1h"),
        ("rotate", "grace=0s"),
    ] {
        let path = format!("{}/endpoints/{endpoint}/{action}", shop.portal);
        is_page(&shop.platform.form(&path, body).await, 404);
    }
    let path = format!("{}/deliveries/{delivery}/resend", shop.portal);
    is_page(&shop.platform.form(&path, "").await, 404);
    let theirs = format!("/v1/webhook-endpoints/{endpoint}");
    assert_eq!(stranger.get(&theirs).await.expect(200)["status"], "active");
    assert_eq!(shop.platform.audit_count("endpoint.rotate").await, 0);
    // Unknown resources are reported as everywhere else.
    is_page(&shop.press("", &[]).await, 405);
}

#[tokio::test]
async fn portal_link_expires() {
    let shop = Shop::open().await;
    let mut link = PortalLink::new(shop.platform.acme.id, HOUR);
    let good = signed(&shop.platform.keys, &link);
    is_page(&shop.visitor.get(&good).await, 200);
    link.expires_at = clock::now();
    opens_nothing(&shop, &signed(&shop.platform.keys, &link)).await;
}

#[tokio::test]
async fn portal_link_with_a_foreign_signature_opens_nothing() {
    let shop = Shop::open().await;
    let link = PortalLink::new(shop.platform.acme.id, HOUR);
    let foreign = MasterKeys::parse(&MasterKeys::generate()).unwrap();
    opens_nothing(&shop, &signed(&foreign, &link)).await;
    let mut swapped = shop.portal.clone();
    let with = if swapped.get(20..=20) == Some("A") {
        "B"
    } else {
        "A"
    };
    swapped.replace_range(20..=20, with);
    let cut = &shop.portal[..shop.portal.len() - 4];
    for forged in [swapped.as_str(), cut, "/portal/x", "/portal/%FF"] {
        opens_nothing(&shop, forged).await;
    }
}

#[tokio::test]
async fn portal_link_of_an_inactive_tenant_opens_nothing() {
    let shop = Shop::open().await;
    for (off, on) in [
        (
            "update app.tenants set status = 'suspended' where slug = 'acme'",
            "update app.tenants set status = 'active'",
        ),
        (
            "update app.tenants set status = 'pending_payment' where slug = 'acme'",
            "update app.tenants set status = 'trialing'",
        ),
        (
            "update app.tenants set erasure_asked_at = now(), status = 'canceled' where slug = 'acme'",
            "select 1",
        ),
    ] {
        shop.platform.sql(off).await;
        opens_nothing(&shop, &shop.portal).await;
        shop.platform.sql(on).await;
    }
    let unknown_tenant = PortalLink::new(harkara_shared::id::TenantId::new(), HOUR);
    opens_nothing(&shop, &signed(&shop.platform.keys, &unknown_tenant)).await;
}

#[tokio::test]
async fn portal_escapes_user_content() {
    const UNSAFE_TEXT: &str = "\"'><script>alert(1)</script>";
    let platform = Platform::start().await;
    let new = json!({
        "url": format!("http://127.0.0.1:9/?{UNSAFE_TEXT}"), "description": UNSAFE_TEXT,
        "headers": {"x-secret": "hunter2"},
    });
    let endpoint = platform
        .client
        .post("/v1/webhook-endpoints", &new)
        .await
        .expect(201);
    let event = json!({"type": "a.b", "data": {"x": UNSAFE_TEXT}});
    let event = platform.client.post("/v1/events", &event).await.expect(202);
    let delivery = word(&event["deliveries"][0]["id"]);
    let id: harkara_shared::id::DeliveryId = delivery.parse().unwrap();
    let mut tx = TenantTx::begin(&platform.pool, platform.acme.id)
        .await
        .unwrap();
    query(
        "insert into app.delivery_attempts (tenant_id, delivery_id, number, started_at, duration_ms, url,
            status_code, response_headers, response_body, error_code, error_message)
         values ($1, $2, 1, now(), 5, $3, 500, jsonb_build_object('x-nasty', $3), $3, 'http_status', $3)",
    )
    .bind(platform.acme.id)
    .bind(id)
    .bind(UNSAFE_TEXT)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    let portal = portal(&platform.client).await;
    let visitor = platform.client.with_key("");
    for (path, shown) in [
        (portal.clone(), 1),
        (format!("{portal}/endpoints/{}", word(&endpoint["id"])), 1),
        (format!("{portal}/deliveries/{delivery}"), 5),
    ] {
        let page = visitor.get(&path).await;
        is_page(&page, 200);
        assert!(
            page.text.matches("script").count() >= shown,
            "{}",
            page.text
        );
        assert!(
            !page.text.contains("'><") && !page.text.contains("hunter2"),
            "{}",
            page.text
        );
    }
}

#[tokio::test]
async fn portal_pages_through_older_deliveries_by_cursor() {
    let shop = Shop::open().await;
    for _ in 0..50 {
        let event = json!({"type": "a.b", "data": {}});
        shop.platform
            .client
            .post("/v1/events", &event)
            .await
            .expect(202);
    }
    let path = format!("/endpoints/{}", shop.endpoint);
    let first = shop.get(&path).await;
    let rows = |page: &TestResponse| page.text.matches("/deliveries/dlv_").count();
    assert_eq!(rows(&first), 50);
    assert!(
        !first.text.contains(&shop.delivery),
        "the oldest delivery must be on the next page"
    );
    let (_, after) = first.text.split_once("?cursor=").expect("older ones");
    let (cursor, _) = after.split_once('"').unwrap();
    let second = shop.get(&format!("{path}?cursor={cursor}")).await;
    assert_eq!(rows(&second), 1);
    assert!(second.text.contains(&shop.delivery));
    assert!(!second.text.contains("?cursor="));
    is_page(&shop.get(&format!("?cursor={cursor}")).await, 400);
}

#[tokio::test]
async fn portal_link_is_limited_to_1_000_requests_an_hour() {
    let shop = Shop::open().await;
    let link = PortalLink::new(shop.platform.acme.id, HOUR);
    let portal = signed(&shop.platform.keys, &link);
    let charged: i32 = query_scalar(
        "select granted from app.charge_requests($1, '{hour}', '{sliding_window}', '{1000}', '{50}',
            '{3600000000}', 1049, 0, 0, 0, 0)",
    )
    .bind(format!("link:{}", link.id.as_uuid()))
    .fetch_one(&shop.platform.pool)
    .await
    .unwrap();
    assert_eq!(charged, 1049);
    let last = shop.visitor.get(&portal).await;
    is_page(&last, 200);
    assert!(
        last.header("ratelimit").starts_with("\"hour\";r=0"),
        "{:?}",
        last.headers
    );
    let refused = shop.visitor.get(&portal).await;
    is_page(&refused, 429);
    assert!(!refused.header("retry-after").is_empty());
    is_page(&shop.get("").await, 200);
}

/// Captures the log lines of the test's thread.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

// Single-threaded runtime: every log line of the server belongs to this test.
#[tokio::test(flavor = "current_thread")]
async fn portal_link_appears_in_no_log_line() {
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::TRACE)
        .with_writer(move || writer.clone())
        .finish();
    let _guard = tracing::subscriber::set_default(log);
    // With a single subscriber, the first thread that reaches a log statement decides for all threads whether
    // it is enabled, so other tests would interfere.
    let _second = tracing::Dispatch::new(tracing_subscriber::registry());
    let shop = Shop::open().await;
    is_page(&shop.get("").await, 200);
    is_page(&shop.get("/endpoints/none").await, 404);
    shop.done(
        &format!("/endpoints/{}", shop.endpoint),
        "pause",
        &[],
        "paused",
    )
    .await;
    let ended = PortalLink {
        expires_at: clock::now(),
        ..PortalLink::new(shop.platform.acme.id, HOUR)
    };
    let ended = signed(&shop.platform.keys, &ended);
    is_page(&shop.visitor.get(&ended).await, 404);
    // A page that fails with a server error is logged without its URL.
    shop.platform
        .sql("alter table app.tenants rename to hidden")
        .await;
    is_page(&shop.get("").await, 500);

    let log = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
    assert!(
        log.contains("/portal/{token}") && log.contains("request failed"),
        "{log}"
    );
    for portal in [&shop.portal, &ended] {
        let text = portal.strip_prefix("/portal/").unwrap();
        let line = log.lines().find(|line| line.contains(text));
        assert_eq!(line, None);
    }
}

#[tokio::test]
async fn portal_link_acts_for_its_own_tenant() {
    let platform = Platform::start().await;
    let own: Tenant = platform.platform().await;
    let admin = platform.client_of(&own, Scope::ALL).await;
    let headers = [
        ("x-tenant-id", "acme"),
        ("content-type", "application/json"),
    ];
    let made = admin
        .send(
            Method::POST,
            "/v1/portal-links",
            &headers,
            Some("{}".to_owned()),
        )
        .await
        .expect(201);
    let (endpoint, _) = webhook(&platform.client, "http://127.0.0.1:9/hook").await;
    let portal = word(&made["url"]).replace(&platform.client.base, "");
    let page = platform.client.with_key("").get(&portal).await;
    is_page(&page, 200);
    assert!(page.text.contains(&endpoint));
}
