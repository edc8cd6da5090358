//! Access control: keys, scopes, tenants.

mod routes;

use std::time::{Duration, Instant};

use chrono::TimeDelta;
use harkara_accounts::{
    Error, KeyTier, NewKey, NewTenant, Scope, SlaTier, create_api_key, create_tenant,
    ensure_platform, find_tenant,
};
use harkara_shared::clock;
use harkara_shared::database::{query, query_scalar};
use reqwest::Method;
use serde_json::{Value, json};

use crate::jobs::a_job;
use crate::support::{Client, Platform, tester};
use routes::Access;

async fn call(client: &Client, method: &str, path: &str) -> crate::support::TestResponse {
    let is_moved = path.ends_with("/reschedule");
    let has_body = [
        "/v1/jobs",
        "/v1/jobs/batch",
        "/v1/jobs/bulk",
        "/v1/events",
        "/v1/event-types",
        "/v1/portal-links",
        "/v1/tenants",
        "/v1/enterprise/setup",
    ]
    .contains(&path)
        || is_moved
        || path.ends_with("/erase")
        || path.starts_with("/v1/api-keys")
        || method == "PATCH"
        || path.starts_with("/v1/webhook-endpoints")
        || method == "PUT";
    let has_body = has_body || path.starts_with("/v1/users") || path.starts_with("/v1/session");
    let body = (method != "GET" && has_body).then(|| match path {
        _ if is_moved => r#"{"run_at": "2030-01-31T12:00:00Z"}"#.to_owned(),
        _ if path.ends_with("/grants") => r#"{"role": "viewer", "reason": "x"}"#.to_owned(),
        _ if path.ends_with("/permissions") => {
            r#"{"permission": "jobs:read", "effect": "deny", "reason": "x"}"#.to_owned()
        }
        _ => "{}".to_owned(),
    });
    let json = [("content-type", "application/json")];
    client
        .send(method.parse().unwrap(), path, &json, body)
        .await
}

#[tokio::test]
async fn every_route_requires_a_key_with_its_scope() {
    let platform = Platform::start().await;
    let anonymous = platform.client.with_key("");
    for route in routes::all(&platform).await {
        let Access::Scopes(required) = &route.access else {
            continue;
        };
        let (method, path) = (&route.method, &route.path);
        let response = call(&anonymous, method, path).await;
        response.problem(401, "unauthorized");
        assert_eq!(response.header("www-authenticate"), "Bearer");

        let required: Vec<Scope> = required.iter().map(|one| one.parse().unwrap()).collect();
        let others: Vec<Scope> = Scope::ALL
            .iter()
            .copied()
            .filter(|scope| !required.contains(scope))
            .collect();
        let response = call(
            &platform.client_of(&platform.acme, &others).await,
            method,
            path,
        )
        .await;
        response.problem(403, "missing_scope");
        assert!(
            response.text.contains(&format!("`{}`", required[0])),
            "{}",
            response.text
        );

        let platform_only = required == [Scope::PlatformAdmin];
        for one in required {
            let client = platform.client_of(&platform.acme, &[one]).await;
            let response = call(&client, method, path).await;
            // Operations on all tenants require more than a scope.
            let is_refused = platform_only && response.text.contains("platform_only");
            assert!(
                ![401, 403].contains(&response.status) || is_refused,
                "{method} {path}: {}",
                response.text
            );
        }
    }
}

#[tokio::test]
async fn routes_of_users_refuse_keys_and_open_routes_need_none() {
    let platform = Platform::start().await;
    let anonymous = platform.client.with_key("");
    let mut open = Vec::new();
    for route in routes::all(&platform).await {
        let (method, path) = (&route.method, &route.path);
        match route.access {
            Access::Scopes(_) => {}
            Access::Users => {
                assert!(path.starts_with("/v1/session"), "{path}");
                call(&anonymous, method, path)
                    .await
                    .problem(401, "unauthorized");
                call(&platform.client, method, path)
                    .await
                    .problem(403, "person_only");
            }
            Access::Open => {
                let response = call(&anonymous, method, path).await;
                assert_eq!(response.status, 422, "{}", response.text);
                open.push(format!("{method} {path}"));
            }
        }
    }
    assert_eq!(open, ["POST /v1/sessions"]);
}

#[tokio::test]
async fn invalid_key_is_unauthorized() {
    let platform = Platform::start().await;
    let good = platform.key(&platform.acme, &[Scope::JobsRead], None).await;
    let last = if good.ends_with('0') { "1" } else { "0" };
    let mistyped = format!("{}{last}", &good[..good.len() - 1]);
    let stranger = harkara_shared::api_key::NewApiKey::generate()
        .text
        .expose()
        .to_owned();
    // The public id of a valid key with another secret.
    let swapped = with_checksum(&format!("{}{}", &good[..11], &stranger[11..43]));
    for value in [
        "",
        "Bearer",
        "Bearer ",
        "Bearer hk_",
        "Basic dXNlcjpwYXNz",
        &good,
        &format!("Bearer {mistyped}"),
        &format!("Bearer {stranger}"),
        &format!("Bearer {swapped}"),
        &format!("Bearer {good} {good}"),
        "Bearer é",
    ] {
        let headers = [("authorization", value)];
        let response = platform
            .client
            .send(Method::GET, "/v1/jobs", &headers, None)
            .await;
        response.problem(401, "unauthorized");
        assert_eq!(response.header("www-authenticate"), "Bearer");
        assert!(!response.text.contains(&good[3..11]), "{}", response.text);
    }
    let headers = [("authorization", format!("bearer {good}"))];
    let headers = headers
        .each_ref()
        .map(|(name, value)| (*name, value.as_str()));
    platform
        .client
        .send(Method::GET, "/v1/jobs", &headers, None)
        .await
        .expect(200);
}

/// A key with this body and its correct checksum: CRC-32 in six base62 digits.
fn with_checksum(body: &str) -> String {
    const DIGITS: &[u8; 62] = b"0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz";
    let mut crc = u32::MAX;
    for byte in body.bytes() {
        crc ^= u32::from(byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 {
                (crc >> 1) ^ 0xEDB8_8320
            } else {
                crc >> 1
            };
        }
    }
    let mut rest = !crc;
    let mut digits = Vec::new();
    for _ in 0..6 {
        digits.push(char::from(DIGITS[usize::try_from(rest % 62).unwrap()]));
        rest /= 62;
    }
    let sum: String = digits.into_iter().rev().collect();
    let key = format!("{body}{sum}");
    harkara_shared::api_key::ApiKeyText::parse(&key).expect("a well-formed key");
    key
}

#[tokio::test]
async fn revoked_key_stops_within_a_second_and_expired_key_at_once() {
    let platform = Platform::start().await;
    let client = platform.client_of(&platform.acme, &[Scope::JobsRead]).await;
    client.get("/v1/jobs").await.expect(200);
    query("update app.api_keys set revoked_at = now()")
        .execute(&platform.pool)
        .await
        .unwrap();
    let revoked = Instant::now();
    while client.get("/v1/jobs").await.status == 200 {
        assert!(
            revoked.elapsed() < Duration::from_secs(1),
            "the revoked key still works after a second"
        );
    }
    client.get("/v1/jobs").await.problem(401, "unauthorized");

    let expires_at = clock::now() + TimeDelta::milliseconds(300);
    let key = platform
        .key(&platform.acme, &[Scope::JobsRead], Some(expires_at))
        .await;
    let client = platform.client.with_key(&key);
    while client.get("/v1/jobs").await.status == 200 {
        assert!(
            clock::now() < expires_at + TimeDelta::milliseconds(200),
            "the key works after its expiry"
        );
    }
    assert!(clock::now() >= expires_at);
}

#[tokio::test]
async fn new_key_works_at_once_although_it_was_refused_before_it_existed() {
    let platform = Platform::start().await;
    let key = platform.key(&platform.acme, &[Scope::JobsRead], None).await;
    let client = platform.client.with_key(&key);
    // The row is taken out and put back, because the text of a key is known only when its row exists.
    let rows: Value = query_scalar(
        "with taken as (delete from app.api_keys returning *)
         select jsonb_agg(to_jsonb(taken)) from taken",
    )
    .fetch_one(&platform.pool)
    .await
    .unwrap();
    client.get("/v1/jobs").await.problem(401, "unauthorized");
    query(
        "insert into app.api_keys select * from jsonb_populate_recordset(null::app.api_keys, $1)",
    )
    .bind(rows)
    .execute(&platform.pool)
    .await
    .unwrap();
    client.get("/v1/jobs").await.expect(200);
}

#[tokio::test]
async fn refusal_of_a_revoked_key_is_not_cached() {
    let platform = Platform::start().await;
    let key = platform.key(&platform.acme, &[Scope::JobsRead], None).await;
    let client = platform.client.with_key(&key);
    query("update app.api_keys set revoked_at = now()")
        .execute(&platform.pool)
        .await
        .unwrap();
    client.get("/v1/jobs").await.problem(401, "unauthorized");
    query("update app.api_keys set revoked_at = null")
        .execute(&platform.pool)
        .await
        .unwrap();
    client.get("/v1/jobs").await.expect(200);
}

#[tokio::test]
async fn tenant_finds_nothing_of_another_tenant() {
    let platform = Platform::start().await;
    let job = platform.client.post("/v1/jobs", &a_job()).await.expect(201);
    let endpoint = platform
        .client
        .post(
            "/v1/webhook-endpoints",
            &json!({"url": "http://127.0.0.1:9/"}),
        )
        .await
        .expect(201);
    let event = json!({"type": "a.b", "data": {}});
    let event = platform.client.post("/v1/events", &event).await.expect(202);
    let word = |value: &Value| value.as_str().expect("an id").to_owned();
    let (job, endpoint) = (word(&job["id"]), word(&endpoint["id"]));
    let delivery = word(&event["deliveries"][0]["id"]);
    let user = json!({"email": "ada@example.com", "name": "Ada", "role": "viewer"});
    let user = word(&platform.client.post("/v1/users", &user).await.expect(201)["id"]);

    let other = platform.tenant("other").await;
    let stranger = platform.client_of(&other, Scope::ALL).await;
    for route in routes::all(&platform).await {
        let (method, path) = (&route.method, &route.path);
        let own = path
            .replace("job_0000000000500", &job)
            .replace("ep_01h455vb4pex5vsknk084sn02q", &endpoint)
            .replace("dlv_01h455vb4pex5vsknk084sn02q", &delivery)
            .replace("usr_01h455vb4pex5vsknk084sn02q", &user)
            .replace(
                "ten_01h455vb4pex5vsknk084sn02q",
                &platform.acme.id.to_string(),
            );
        if own == *path {
            continue;
        }
        let response = call(&stranger, method, &own).await;
        response.problem(404, "not_found");
    }
    for path in [
        "/v1/jobs",
        "/v1/webhook-endpoints",
        "/v1/deliveries",
        "/v1/users",
    ] {
        assert_eq!(
            stranger.get(path).await.expect(200)["data"],
            json!([]),
            "{path}"
        );
    }
    // The refused requests changed nothing.
    let job = platform
        .client
        .get(&format!("/v1/jobs/{job}"))
        .await
        .expect(200);
    assert_eq!(job["state"], "ready");
    platform
        .client
        .get(&format!("/v1/webhook-endpoints/{endpoint}"))
        .await
        .expect(200);
    let user = platform.client.get(&format!("/v1/users/{user}")).await;
    assert_eq!(user.expect(200)["roles"], json!(["viewer"]));
}

#[tokio::test]
async fn only_a_platform_admin_acts_for_another_tenant() {
    let platform = Platform::start().await;
    let other = platform.tenant("other").await;
    let own = ensure_platform(&platform.pool).await.unwrap();
    let job = platform.client.post("/v1/jobs", &a_job()).await.expect(201);
    let path = format!("/v1/jobs/{}", job["id"].as_str().unwrap());
    let acme_id = platform.acme.id.to_string();
    let admin = platform
        .client_of(
            &own,
            &[Scope::PlatformAdmin, Scope::JobsRead, Scope::JobsWrite],
        )
        .await;
    let get = async |client: &Client, tenant: &str| {
        client
            .send(Method::GET, &path, &[("x-tenant-id", tenant)], None)
            .await
    };

    for name in ["acme", acme_id.as_str()] {
        assert_eq!(get(&admin, name).await.expect(200)["id"], job["id"]);
        // Naming the own tenant needs no privilege.
        assert_eq!(
            get(&platform.client, name).await.expect(200)["id"],
            job["id"]
        );
    }
    for name in [
        "other",
        "platform",
        "unknown",
        "ACME",
        "",
        "é",
        &other.id.to_string(),
    ] {
        get(&admin, name).await.problem(404, "not_found");
    }
    // A foreign tenant looks nonexistent unless both the scope and the tenant are right.
    let plain = platform.client_of(&own, &[Scope::JobsRead]).await;
    let stranger = platform.client_of(&other, Scope::ALL).await;
    for client in [&plain, &stranger] {
        get(client, "acme").await.problem(404, "not_found");
        let list = [("x-tenant-id", "acme")];
        client
            .send(Method::GET, "/v1/jobs", &list, None)
            .await
            .problem(404, "not_found");
    }
    // The scope to act for other tenants grants no other scope, and no maintenance in their name.
    let bare = platform.client_of(&own, &[Scope::PlatformAdmin]).await;
    get(&bare, "acme").await.problem(403, "missing_scope");
    let headers = [
        ("x-tenant-id", "acme"),
        ("content-type", "application/json"),
    ];
    let made = admin
        .send(
            Method::POST,
            "/v1/jobs",
            &headers,
            Some(a_job().to_string()),
        )
        .await;
    assert_eq!(made.expect(201)["tenant_id"], acme_id);
    let maintenance = json!({"kind": "maintenance.retention", "payload": {}}).to_string();
    let refused = admin
        .send(Method::POST, "/v1/jobs", &headers, Some(maintenance))
        .await;
    refused.problem(422, "invalid");
}

#[tokio::test]
async fn tenants_and_keys_are_created_once_and_validated() {
    let platform = Platform::start().await;
    let pool = &platform.pool;
    let new = |slug: &str, name: &str| NewTenant {
        slug: slug.to_owned(),
        name: name.to_owned(),
        sla_tier: SlaTier::Pro,
    };
    let made = create_tenant(pool, new("made", "Made"), &tester())
        .await
        .unwrap();
    assert_eq!(
        (made.sla_tier, made.status.as_str()),
        (SlaTier::Pro, "active")
    );
    assert_eq!(
        find_tenant(pool, "made").await.unwrap().as_ref(),
        Some(&made)
    );
    assert_eq!(
        find_tenant(pool, &made.id.to_string())
            .await
            .unwrap()
            .as_ref(),
        Some(&made)
    );
    assert_eq!(find_tenant(pool, "Made\0").await.unwrap(), None);
    for (slug, name, expected) in [
        ("made", "Again", "slug `made` is taken"),
        ("platform", "Mine", "slug `platform` is taken"),
        ("No", "No", "`No` cannot be a slug"),
        ("empty", "", "name must have 1 to 200 characters"),
    ] {
        let error = create_tenant(pool, new(slug, name), &tester())
            .await
            .unwrap_err()
            .to_string();
        assert!(error.starts_with(expected), "{error}");
    }
    let first = ensure_platform(pool).await.unwrap();
    assert_eq!(ensure_platform(pool).await.unwrap(), first);

    let key = |tenant, expires_at| NewKey {
        tenant,
        name: "k".to_owned(),
        tier: KeyTier::Free,
        scopes: vec![Scope::JobsWrite, Scope::JobsRead, Scope::JobsWrite],
        expires_at,
        addresses: Vec::new(),
    };
    let (meta, text) = create_api_key(pool, &platform.keys, key(made.id, None), &tester())
        .await
        .unwrap();
    assert_eq!(meta.scopes, ["jobs:read", "jobs:write"]);
    assert!(text.expose().contains(&meta.public_id) && text.expose().ends_with(&meta.last4));
    let unknown_tenant = harkara_shared::id::TenantId::new();
    let error = create_api_key(pool, &platform.keys, key(unknown_tenant, None), &tester())
        .await
        .unwrap_err();
    assert!(matches!(error, Error::NoSuchTenant));
    let error = create_api_key(
        pool,
        &platform.keys,
        key(made.id, Some(clock::now())),
        &tester(),
    )
    .await
    .unwrap_err();
    assert!(matches!(error, Error::AlreadyExpired));
}
