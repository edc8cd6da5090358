//! Sessions: what they give access to, what ends them, and how they are protected.

use harkara_shared::config::HttpSettings;
use harkara_shared::database::query_scalar;
use reqwest::Method;
use serde_json::json;

use super::{Browser, PASSWORD, tenant_scopes};
use crate::jobs::a_job;
use crate::support::{Platform, listen_with};

#[tokio::test]
async fn session_is_valid_until_it_ends() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let browser = platform
        .signed_in_user(&acme, "ada@example.com", "operator")
        .await;
    browser.get("/v1/session").await.expect(200);
    for (sql, back) in [
        (
            "update app.sessions set expires_at = now()",
            "update app.sessions set expires_at = now() + interval '1 hour'",
        ),
        (
            "update app.sessions set last_seen_at = now() - interval '121 minutes'",
            "update app.sessions set last_seen_at = now() - interval '119 minutes'",
        ),
        (
            "update app.users set disabled_at = now()",
            "update app.users set disabled_at = null",
        ),
    ] {
        platform.sql(sql).await;
        for path in ["/v1/session", "/v1/jobs"] {
            browser.get(path).await.problem(401, "unauthorized");
        }
        assert_eq!(browser.get("/").await.header("location"), "/sign-in");
        platform.sql(back).await;
        browser.get("/v1/session").await.expect(200);
    }
    browser.delete("/v1/session").await.expect(204);
    browser
        .get("/v1/session")
        .await
        .problem(401, "unauthorized");
}

#[tokio::test]
async fn session_last_seen_is_updated_once_a_minute() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let browser = platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    let age = async || -> f64 {
        query_scalar("select extract(epoch from now() - last_seen_at)::float8 from app.sessions")
            .fetch_one(&platform.pool)
            .await
            .unwrap()
    };
    platform
        .sql("update app.sessions set last_seen_at = now() - interval '50 seconds'")
        .await;
    browser.get("/v1/session").await.expect(200);
    assert!(age().await >= 50.0);
    platform
        .sql("update app.sessions set last_seen_at = now() - interval '61 seconds'")
        .await;
    browser.get("/v1/session").await.expect(200);
    assert!(age().await < 50.0);
}

#[tokio::test]
async fn sign_out_everywhere_ends_all_sessions_of_that_user_only() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let one = platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    let bob = platform
        .signed_in_user(&acme, "bob@example.com", "viewer")
        .await;
    let body = json!({"email": "ada@example.com", "password": PASSWORD});
    let two = Browser::of(&platform.client, &platform.sign_in(&body).await).await;
    let three = Browser::of(&platform.client, &platform.sign_in(&body).await).await;
    let listed = one.get("/v1/sessions").await.expect(200);
    let current: Vec<_> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|session| session["current"].as_bool().unwrap())
        .collect();
    assert_eq!(current, [false, false, true]);
    assert_eq!(listed["data"][0]["address"], "127.0.0.1");

    two.delete("/v1/session").await.expect(204);
    two.get("/v1/session").await.problem(401, "unauthorized");
    let response = three.delete("/v1/sessions").await;
    assert_eq!(response.expect(200), json!({"ended": 2}));
    assert!(
        response
            .header("set-cookie")
            .starts_with("harkara=; Path=/; Max-Age=0")
    );
    for browser in [&one, &three] {
        browser
            .get("/v1/session")
            .await
            .problem(401, "unauthorized");
    }
    bob.get("/v1/session").await.expect(200);
    let path = format!("/v1/users/{}/sign-out", bob.user);
    assert_eq!(
        platform.client.press(&path).await.expect(200),
        json!({"ended": 1})
    );
    bob.get("/v1/session").await.problem(401, "unauthorized");
    assert_eq!(platform.audit_count("session.end_all").await, 1);
}

#[tokio::test]
async fn disabled_or_deleted_user_is_signed_out_at_once_and_stays_out() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    let path = format!("/v1/users/{}", ada.user);
    let disabled = platform
        .client
        .patch(&path, &json!({"disabled": true}))
        .await;
    assert!(disabled.expect(200)["disabled_at"].is_string());
    ada.get("/v1/session").await.problem(401, "unauthorized");
    platform
        .client
        .patch(&path, &json!({"disabled": false}))
        .await
        .expect(200);
    ada.get("/v1/session").await.problem(401, "unauthorized");
    let bob = platform
        .signed_in_user(&acme, "bob@example.com", "viewer")
        .await;
    let path = format!("/v1/users/{}", bob.user);
    platform.client.delete(&path).await.expect(204);
    bob.get("/v1/session").await.problem(401, "unauthorized");
    platform.client.get(&path).await.problem(404, "not_found");
    platform
        .client
        .delete(&path)
        .await
        .problem(404, "not_found");
}

#[tokio::test]
async fn cookie_change_requires_the_csrf_token_and_same_origin() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let browser = platform
        .signed_in_user(&acme, "ada@example.com", "operator")
        .await;
    let other = platform
        .signed_in_user(&acme, "bob@example.com", "operator")
        .await;
    let host = platform.client.base.clone();
    let job = || Some(a_job().to_string());
    let before = platform.jobs().await;
    let csrf = ("x-csrf-token", browser.csrf.as_str());
    let json = ("content-type", "application/json");
    for refused in [
        &[json][..],
        &[json, ("x-csrf-token", "")],
        &[json, ("x-csrf-token", "AAAA")],
        &[json, ("x-csrf-token", other.csrf.as_str())],
        &[json, csrf, ("origin", "https://evil.example")],
        &[json, csrf, ("origin", "null")],
        &[json, csrf, ("sec-fetch-site", "cross-site")],
        &[
            json,
            csrf,
            ("origin", host.as_str()),
            ("sec-fetch-site", "cross-site"),
        ],
    ] {
        let response = browser.send(Method::POST, "/v1/jobs", refused, job()).await;
        response.problem(403, "csrf");
    }
    for method in [Method::PUT, Method::PATCH, Method::DELETE] {
        let path = if method == Method::PUT {
            "/v1/session/password"
        } else {
            "/v1/users/x"
        };
        browser
            .send(method, path, &[json], Some("{}".to_owned()))
            .await
            .problem(403, "csrf");
    }
    assert_eq!(platform.jobs().await, before);
    for taken in [
        &[json, csrf][..],
        &[json, csrf, ("origin", host.as_str())],
        &[
            json,
            csrf,
            ("origin", host.as_str()),
            ("sec-fetch-site", "same-origin"),
        ],
        &[json, csrf, ("sec-fetch-site", "none")],
    ] {
        browser
            .send(Method::POST, "/v1/jobs", taken, job())
            .await
            .expect(201);
    }
    // Reads need neither.
    let read = browser.send(
        Method::GET,
        "/v1/jobs",
        &[("sec-fetch-site", "cross-site")],
        None,
    );
    read.await.expect(200);
}

#[tokio::test]
async fn api_key_takes_precedence_over_a_cookie() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let browser = platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    let key = platform.key(&acme, &tenant_scopes(), None).await;
    let key = format!("Bearer {key}");
    let headers = [
        ("authorization", key.as_str()),
        ("content-type", "application/json"),
    ];
    let job = Some(a_job().to_string());
    browser
        .send(Method::POST, "/v1/jobs", &headers, job)
        .await
        .expect(201);
    let bad = [("authorization", "Bearer hk_x")];
    browser
        .send(Method::GET, "/v1/jobs", &bad, None)
        .await
        .problem(401, "unauthorized");
    let own = [("authorization", key.as_str())];
    for (method, path) in [
        (Method::GET, "/v1/session"),
        (Method::DELETE, "/v1/session"),
        (Method::GET, "/v1/sessions"),
        (Method::DELETE, "/v1/sessions"),
        (Method::POST, "/v1/session/totp"),
        (Method::DELETE, "/v1/session/totp"),
    ] {
        let response = browser.send(method, path, &own, None).await;
        response.problem(403, "person_only");
    }
}

#[tokio::test]
async fn cookie_is_bound_to_its_host_over_tls() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    let http = HttpSettings {
        public_url: Some("https://jobs.example.com".parse().unwrap()),
        ..HttpSettings::default()
    };
    let base = listen_with(&platform.pool, &platform.keys, &platform.stop, http).await;
    let client = crate::support::Client::new(base.clone(), String::new());
    let body = json!({"email": "ada@example.com", "password": PASSWORD});
    let response = client.post("/v1/sessions", &body).await;
    response.expect(201);
    let set = response.header("set-cookie");
    assert!(set.starts_with("__Host-harkara="), "{set}");
    assert!(
        set.ends_with("; Path=/; Max-Age=43200; HttpOnly; SameSite=Lax; Secure"),
        "{set}"
    );
    let browser = Browser::of(&client, &response).await;
    let public = [
        ("origin", "https://jobs.example.com"),
        ("x-csrf-token", browser.csrf.as_str()),
    ];
    let plain = browser.cookie.replace("__Host-", "");
    let plain = [("cookie", plain.as_str())];
    let sent = client.send(Method::GET, "/v1/session", &plain, None).await;
    sent.problem(401, "unauthorized");
    browser
        .send(Method::DELETE, "/v1/session", &public, None)
        .await
        .expect(204);
}

#[tokio::test]
async fn only_platform_users_act_for_other_tenants() {
    let platform = Platform::start().await;
    let (acme, home) = (platform.acme.clone(), platform.platform().await);
    let other = platform.tenant("other").await;
    let stranger = platform
        .signed_in_user(&acme, "ada@example.com", "admin")
        .await;
    let clerk = platform
        .signed_in_user(&home, "clerk@example.com", "operator")
        .await;
    let root = platform
        .signed_in_user(&home, "root@example.com", "admin")
        .await;
    for slug in ["acme".to_owned(), acme.id.to_string()] {
        let named = [("x-tenant-id", slug.as_str())];
        root.send(Method::GET, "/v1/jobs", &named, None)
            .await
            .expect(200);
        clerk
            .send(Method::GET, "/v1/jobs", &named, None)
            .await
            .problem(404, "not_found");
    }
    let named = [("x-tenant-id", other.slug.as_str())];
    let refused = stranger.send(Method::GET, "/v1/jobs", &named, None).await;
    refused.problem(404, "not_found");
    // Personal routes always act in the user's own tenant.
    let named = [("x-tenant-id", "acme")];
    let session = root
        .send(Method::GET, "/v1/session", &named, None)
        .await
        .expect(200);
    assert_eq!(session["tenant"]["slug"], "platform");
    assert!(
        session["scopes"]
            .as_array()
            .unwrap()
            .contains(&json!("platform:admin"))
    );
    let listed = root
        .send(Method::GET, "/v1/sessions", &named, None)
        .await
        .expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn users_of_a_suspended_tenant_can_only_read_and_sign_out() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let browser = platform
        .signed_in_user(&acme, "ada@example.com", "operator")
        .await;
    platform
        .sql("update app.tenants set status = 'suspended' where slug = 'acme'")
        .await;
    browser.get("/v1/jobs").await.expect(200);
    browser
        .post("/v1/jobs", &a_job())
        .await
        .problem(403, "tenant_inactive");
    browser.delete("/v1/session").await.expect(204);
}
