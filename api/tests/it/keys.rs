//! API keys: creation, rotation, revocation, address restrictions and quotas.

use std::time::{Duration, Instant};

use harkara_accounts::{KeyTier, NewKey, Scope, SlaTier, create_api_key, ensure_platform};
use harkara_shared::database::query;
use reqwest::Method;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::support::{Client, Platform, listen, tester};

async fn made(client: &Client, body: Value) -> (String, Value) {
    let response = client.post("/v1/api-keys", &body).await.expect(201);
    (
        response["key"].as_str().expect("a key").to_owned(),
        response,
    )
}

fn path(key: &Value) -> String {
    format!("/v1/api-keys/{}", key["id"].as_str().expect("an id"))
}

#[tokio::test]
async fn api_key_is_shown_once_and_limited_to_its_scopes() {
    let platform = Platform::start().await;
    let (text, key) = made(
        &platform.client,
        json!({"name": "reader", "scopes": ["jobs:read"], "tier": "developer"}),
    )
    .await;
    let client = platform.client.with_key(&text);
    client.get("/v1/jobs").await.expect(200);
    client
        .post("/v1/jobs", &crate::jobs::a_job())
        .await
        .problem(403, "missing_scope");
    let shown = platform.client.get(&path(&key)).await.expect(200);
    assert_eq!(shown["key"], Value::Null);
    assert_eq!(shown["scopes"], json!(["jobs:read"]));
    let hint = shown["hint"].as_str().unwrap();
    assert!(hint.starts_with(&text[..11]) && hint.ends_with(&text[text.len() - 4..]));
    let listed = platform
        .client
        .get("/v1/api-keys?limit=1")
        .await
        .expect(200);
    assert_eq!(listed["data"][0]["id"], key["id"]);
    assert!(listed["next_cursor"].is_string());
    let stored: Vec<u8> = harkara_shared::database::query_scalar(
        "select hash from app.api_keys where name = 'reader'",
    )
    .fetch_one(&platform.pool)
    .await
    .unwrap();
    assert_eq!(stored.len(), 32);
}

#[tokio::test]
async fn api_key_cannot_exceed_the_permissions_of_its_creator() {
    let platform = Platform::start().await;
    let maker = platform
        .client_of(&platform.acme, &[Scope::KeysManage, Scope::JobsRead])
        .await;
    let refused = maker
        .post(
            "/v1/api-keys",
            &json!({"name": "x", "scopes": ["jobs:read", "jobs:write", "platform:admin"]}),
        )
        .await;
    assert_eq!(
        refused.problem(422, "invalid"),
        [
            ("/scopes/1".to_owned(), "not_yours".to_owned()),
            ("/scopes/2".to_owned(), "platform_only".to_owned()),
        ]
    );
    // Rotating or changing a stronger key is refused too.
    let (_, better) = made(
        &platform.client,
        json!({"name": "better", "scopes": ["jobs:write"]}),
    )
    .await;
    let rotate = format!("{}/rotate", path(&better));
    maker
        .post(&rotate, &json!({}))
        .await
        .problem(403, "missing_scope");
    let change = json!({"addresses": []});
    maker
        .patch(&path(&better), &change)
        .await
        .problem(403, "missing_scope");
}

#[tokio::test]
async fn every_api_key_error_is_reported_by_pointer() {
    let platform = Platform::start().await;
    let refused = platform
        .client
        .post(
            "/v1/api-keys",
            &json!({
                "name": "", "scopes": [], "tier": "huge", "expires_at": "2020-01-01T00:00:00Z",
                "addresses": ["192.0.2.0/24", "here", "10.0.0.0/33"], "colour": "red"
            }),
        )
        .await;
    let mut faults = refused.problem(422, "invalid");
    faults.sort();
    let expected = [
        ("/addresses/1", "invalid"),
        ("/addresses/2", "invalid"),
        ("/colour", "unknown_field"),
        ("/expires_at", "in_the_past"),
        ("/name", "invalid"),
        ("/scopes", "missing"),
        ("/tier", "invalid"),
    ];
    assert_eq!(
        faults,
        expected.map(|(pointer, code)| (pointer.to_owned(), code.to_owned()))
    );
}

#[tokio::test]
async fn api_key_works_only_from_its_addresses() {
    let platform = Platform::start().await;
    let body = json!({"name": "here", "scopes": ["jobs:read"], "addresses": ["127.0.0.1"]});
    let (text, key) = made(&platform.client, body).await;
    assert_eq!(key["addresses"], json!(["127.0.0.1/32"]));
    let client = platform.client.with_key(&text);
    client.get("/v1/jobs").await.expect(200);
    let change = json!({"addresses": ["192.0.2.0/24", "2001:db8::/32"]});
    platform
        .client
        .patch(&path(&key), &change)
        .await
        .expect(200);
    // A header that any caller can set is not trusted.
    for forwarded in [None, Some("192.0.2.7")] {
        let headers: Vec<(&str, &str)> = forwarded
            .map(|address| ("x-forwarded-for", address))
            .into_iter()
            .collect();
        let response = client.send(Method::GET, "/v1/jobs", &headers, None).await;
        response.problem(403, "address_not_allowed");
    }
}

#[tokio::test]
async fn revoked_api_key_is_refused_on_both_replicas_within_a_second() {
    let platform = Platform::start().await;
    let stop = CancellationToken::new();
    let other = listen(&platform.pool, &platform.keys, &stop).await;
    let (text, key) = made(
        &platform.client,
        json!({"name": "short", "scopes": ["jobs:read"], "tier": "enterprise"}),
    )
    .await;
    let replicas = [
        platform.client.with_key(&text),
        Client::new(other, text.clone()),
    ];
    for replica in &replicas {
        replica.get("/v1/jobs").await.expect(200);
    }
    platform.client.delete(&path(&key)).await.expect(204);
    let revoked = Instant::now();
    // Immediately on the replica that revoked it, within a second on the other.
    replicas[0]
        .get("/v1/jobs")
        .await
        .problem(401, "unauthorized");
    while replicas[1].get("/v1/jobs").await.status == 200 {
        assert!(revoked.elapsed() < Duration::from_secs(1));
    }
    replicas[1]
        .get("/v1/jobs")
        .await
        .problem(401, "unauthorized");
    // A second revocation is no error, and the key can still be shown.
    platform.client.delete(&path(&key)).await.expect(204);
    let shown = platform.client.get(&path(&key)).await.expect(200);
    assert!(shown["revoked_at"].is_string());
    let rotate = format!("{}/rotate", path(&key));
    platform
        .client
        .post(&rotate, &json!({}))
        .await
        .problem(409, "conflict");
    stop.cancel();
}

#[tokio::test]
async fn rotated_api_key_works_until_its_grace_ends() {
    let platform = Platform::start().await;
    let (old, key) = made(
        &platform.client,
        json!({
            "name": "turns", "scopes": ["jobs:read"], "addresses": ["127.0.0.0/8"],
            "tier": "enterprise"
        }),
    )
    .await;
    let rotate = format!("{}/rotate", path(&key));
    let refused = platform.client.post(&rotate, &json!({"grace": "8d"})).await;
    refused.problem(422, "invalid");
    let new = platform
        .client
        .post(&rotate, &json!({"grace": "1s"}))
        .await
        .expect(201);
    assert_eq!(new["rotated_from"], key["id"]);
    assert_eq!(new["addresses"], json!(["127.0.0.0/8"]));
    let rotated = Instant::now();
    let (old, new) = (
        platform.client.with_key(&old),
        platform.client.with_key(new["key"].as_str().unwrap()),
    );
    new.get("/v1/jobs").await.expect(200);
    while old.get("/v1/jobs").await.status == 200 {
        assert!(rotated.elapsed() < Duration::from_secs(2));
    }
    new.get("/v1/jobs").await.expect(200);
    let kept = platform.client.get(&path(&key)).await.expect(200);
    assert!(kept["expires_at"].is_string());
    // A replaced key cannot be rotated, and at most two keys of a rotation work at once.
    platform
        .client
        .post(&rotate, &json!({}))
        .await
        .problem(409, "conflict");
}

#[tokio::test]
async fn tenant_has_at_most_the_keys_and_endpoints_of_its_tier() {
    let platform = Platform::start().await;
    let operator = ensure_platform(&platform.pool).await.unwrap();
    let operator = platform
        .client_of(
            &operator,
            &[Scope::PlatformAdmin, Scope::KeysManage, Scope::JobsRead],
        )
        .await;
    let small = json!({"name": "Small", "slug": "small", "sla_tier": "FREE"});
    let small = operator.post("/v1/tenants", &small).await.expect(201);
    let new = NewKey {
        tenant: small["id"].as_str().unwrap().parse().unwrap(),
        name: "first".to_owned(),
        tier: KeyTier::Free,
        scopes: vec![Scope::KeysManage, Scope::JobsRead, Scope::WebhooksManage],
        expires_at: None,
        addresses: Vec::new(),
    };
    let (_, text) = create_api_key(&platform.pool, &platform.keys, new, &tester())
        .await
        .unwrap();
    let client = platform.client.with_key(text.expose());
    let key = |tier: &str| json!({"name": "k", "scopes": ["jobs:read"], "tier": tier});
    let above = client.post("/v1/api-keys", &key("developer")).await;
    assert_eq!(
        above.problem(422, "invalid"),
        [("/tier".to_owned(), "above_contract".to_owned())]
    );
    // Concurrent requests do not exceed the quota either.
    let tries = (0..6).map(|_| {
        let client = client.clone();
        let body = key("free");
        tokio::spawn(async move { client.post("/v1/api-keys", &body).await.status })
    });
    let mut made = 0;
    for one in tries.collect::<Vec<_>>() {
        match one.await.unwrap() {
            201 => made += 1,
            status => assert_eq!(status, 403),
        }
    }
    assert_eq!(made, 1, "one key already exists");
    client
        .post("/v1/api-keys", &key("free"))
        .await
        .problem(403, "quota");
    let endpoint = json!({"url": "http://127.0.0.1:9/"});
    for _ in 0..5 {
        client
            .post("/v1/webhook-endpoints", &endpoint)
            .await
            .expect(201);
    }
    client
        .post("/v1/webhook-endpoints", &endpoint)
        .await
        .problem(403, "quota");
    // The platform is not limited, and the keys it creates count.
    let headers = [
        ("x-tenant-id", "small"),
        ("content-type", "application/json"),
    ];
    let granted = operator
        .send(
            Method::POST,
            "/v1/api-keys",
            &headers,
            Some(key("developer").to_string()),
        )
        .await;
    granted.expect(201);
    client
        .post("/v1/api-keys", &key("developer"))
        .await
        .expect(201);
    client
        .post("/v1/webhook-endpoints", &endpoint)
        .await
        .expect(201);
}

#[tokio::test]
async fn api_key_of_an_inactive_tenant_can_read_but_not_change() {
    let platform = Platform::start().await;
    let operator = ensure_platform(&platform.pool).await.unwrap();
    let operator = platform
        .client_of(&operator, &[Scope::PlatformAdmin, Scope::JobsRead])
        .await;
    let tenant = format!("/v1/tenants/{}", platform.acme.id);
    let limits = format!("{tenant}/limits");
    let paused = async || platform.client.get(&limits).await.expect(200)["paused"].clone();
    for (status, writes, runs) in [
        ("suspended", false, false),
        ("pending_payment", false, true),
        ("past_due", true, true),
        ("canceled", false, false),
        ("trialing", true, true),
        ("active", true, true),
    ] {
        let changed = operator
            .patch(&tenant, &json!({"status": status}))
            .await
            .expect(200);
        assert_eq!(changed["status"], status);
        let changed_at = Instant::now();
        loop {
            let response = platform
                .client
                .post("/v1/jobs", &crate::jobs::a_job())
                .await;
            if response.status != 201 {
                response.problem(403, "tenant_inactive");
            }
            // Cached key data is used for half a second.
            if (response.status == 201) == writes {
                break;
            }
            assert!(changed_at.elapsed() < Duration::from_secs(1), "{status}");
        }
        platform.client.get("/v1/jobs").await.expect(200);
        assert_eq!(paused().await, json!(!runs), "{status}");
    }
    // A manual pause survives changes of the billing status.
    operator.press(&format!("{tenant}/pause")).await.expect(200);
    for status in ["suspended", "active"] {
        operator
            .patch(&tenant, &json!({"status": status}))
            .await
            .expect(200);
        assert_eq!(paused().await, json!(true), "{status}");
    }
    operator
        .press(&format!("{tenant}/resume"))
        .await
        .expect(200);
    assert_eq!(paused().await, json!(false));
    // Cached key data with the status `suspended` is used for half a second.
    tokio::time::sleep(Duration::from_millis(600)).await;
    // A tenant cannot change its own status.
    let own = platform
        .client
        .patch(&tenant, &json!({"status": "active"}))
        .await;
    own.problem(403, "platform_only");
    platform
        .client
        .patch(&tenant, &json!({"name": "Acme"}))
        .await
        .expect(200);
}

#[tokio::test]
async fn changed_tier_becomes_the_engine_limit() {
    let platform = Platform::start().await;
    let operator = ensure_platform(&platform.pool).await.unwrap();
    let operator = platform
        .client_of(&operator, &[Scope::PlatformAdmin, Scope::JobsRead])
        .await;
    for (tier, rate) in [("FREE", 30), ("PRO", 300), ("ENTERPRISE", 3000)] {
        let set_up = json!({
            "business_id": "globex", "sla_tier": tier, "webhook_url": "http://127.0.0.1:9/hook"
        });
        let response = operator.post("/v1/enterprise/setup", &set_up).await;
        let is_first = tier == "FREE";
        let response = response.expect(if is_first { 201 } else { 200 });
        assert_eq!(response["webhook_secret"].is_string(), is_first);
        let status = operator
            .get("/v1/enterprise/status/globex")
            .await
            .expect(200);
        assert_eq!(status["rate_limit_per_minute"], rate);
        assert_eq!(status["sla_tier"], tier);
        assert_eq!(status["webhook_url"], "http://127.0.0.1:9/hook");
        assert_eq!(status["usage"]["ready"], 0);
        assert_eq!(status["business_id"], "globex");
    }
    let known: SlaTier = "PRO".parse().unwrap();
    assert_eq!(known.as_str(), "PRO");
    let endpoints = "select count(*) from app.webhook_endpoints";
    let mut tx = platform.pool.begin().await.unwrap();
    query("select set_config('app.tenant_id', (select id::text from app.tenants where slug = 'globex'), true)")
        .execute(&mut *tx)
        .await
        .unwrap();
    let count: i64 = harkara_shared::database::query_scalar(endpoints)
        .fetch_one(&mut *tx)
        .await
        .unwrap();
    assert_eq!(
        count, 1,
        "a repeated setup must change the existing endpoint"
    );
    platform
        .client
        .get("/v1/enterprise/status/globex")
        .await
        .problem(404, "not_found");
    let bad = json!({"business_id": "No Slug", "webhook_url": "ftp://x"});
    let faults = operator
        .post("/v1/enterprise/setup", &bad)
        .await
        .problem(422, "invalid");
    let pointers: Vec<&str> = faults.iter().map(|(pointer, _)| pointer.as_str()).collect();
    assert_eq!(pointers, ["/business_id", "/sla_tier", "/webhook_url"]);
}

#[tokio::test]
async fn rotation_grants_neither_more_keys_nor_more_requests() {
    let platform = Platform::start().await;
    let operator = ensure_platform(&platform.pool).await.unwrap();
    let operator = platform.client_of(&operator, &[Scope::PlatformAdmin]).await;
    let tenant = json!({"name": "Small", "slug": "small", "sla_tier": "FREE"});
    let tenant = operator.post("/v1/tenants", &tenant).await.expect(201);
    let new = NewKey {
        tenant: tenant["id"].as_str().unwrap().parse().unwrap(),
        name: "first".to_owned(),
        tier: KeyTier::Free,
        scopes: vec![Scope::KeysManage],
        expires_at: None,
        addresses: Vec::new(),
    };
    let (first, text) = create_api_key(&platform.pool, &platform.keys, new, &tester())
        .await
        .unwrap();
    let mut keys = vec![platform.client.with_key(text.expose())];
    let mut id = first.id.to_string();
    for _ in 0..3 {
        let rotate = format!("/v1/api-keys/{id}/rotate");
        let newest = keys.last().unwrap();
        let response = newest
            .post(&rotate, &json!({"grace": "7d"}))
            .await
            .expect(201);
        id = response["id"].as_str().unwrap().to_owned();
        keys.push(platform.client.with_key(response["key"].as_str().unwrap()));
    }
    // Two keys of the rotation work: the newest and its predecessor.
    let mut working = 0;
    let mut left = String::new();
    for key in &keys {
        let response = key.get("/v1/api-keys").await;
        if response.status == 200 {
            working += 1;
            left = response.header("ratelimit").to_owned();
        } else {
            response.problem(401, "unauthorized");
        }
    }
    assert_eq!(working, 2);
    // They share the budget of the first key: three rotations and two lists have been charged.
    assert!(left.starts_with("\"hour\";r=105"), "{left}");
    // A new key in place of a revoked one grants no new budget either.
    let newest = keys.last().unwrap();
    let second = json!({"name": "second", "scopes": ["keys:manage"]});
    let second = newest.post("/v1/api-keys", &second).await.expect(201);
    newest.delete(&path(&second)).await.expect(204);
    let third = json!({"name": "third", "scopes": ["keys:manage"]});
    newest
        .post("/v1/api-keys", &third)
        .await
        .problem(403, "quota");
}

#[tokio::test]
async fn smaller_contract_lowers_the_tiers_of_the_tenant_keys() {
    let platform = Platform::start().await;
    let operator = ensure_platform(&platform.pool).await.unwrap();
    let operator = platform.client_of(&operator, &[Scope::PlatformAdmin]).await;
    let (_, key) = made(
        &platform.client,
        json!({"name": "large", "scopes": ["jobs:read"], "tier": "enterprise"}),
    )
    .await;
    let tenant = format!("/v1/tenants/{}", platform.acme.id);
    let smaller = json!({"sla_tier": "PRO"});
    operator.patch(&tenant, &smaller).await.expect(200);
    let key = platform.client.get(&path(&key)).await.expect(200);
    assert_eq!(key["tier"], "business");
    let large = json!({"name": "x", "scopes": ["jobs:read"], "tier": "enterprise"});
    let refused = platform.client.post("/v1/api-keys", &large).await;
    assert_eq!(
        refused.problem(422, "invalid"),
        [("/tier".to_owned(), "above_contract".to_owned())]
    );
}

#[tokio::test]
async fn concurrent_contract_setups_create_one_endpoint() {
    let platform = Platform::start().await;
    let operator = ensure_platform(&platform.pool).await.unwrap();
    let operator = platform.client_of(&operator, &[Scope::PlatformAdmin]).await;
    let set_up = json!({
        "business_id": "acme", "sla_tier": "ENTERPRISE", "webhook_url": "http://127.0.0.1:9/hook"
    });
    let tasks: Vec<_> = (0..8)
        .map(|_| {
            let (operator, set_up) = (operator.clone(), set_up.clone());
            tokio::spawn(async move { operator.post("/v1/enterprise/setup", &set_up).await })
        })
        .collect();
    let mut secrets = 0;
    for task in tasks {
        let response = task.await.unwrap().expect(200);
        secrets += usize::from(response["webhook_secret"].is_string());
    }
    assert_eq!(secrets, 1);
    let listed = platform
        .client
        .get("/v1/webhook-endpoints")
        .await
        .expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}
