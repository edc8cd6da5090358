//! Reauthentication of users: TOTP codes, confirmation, passwords.

use harkara_shared::clock;
use reqwest::Method;
use serde_json::json;
use totp_rs::{Builder, Secret, Totp};

use super::{Browser, PASSWORD};
use crate::support::Platform;

/// A user's authenticator app.
struct Device(Totp);

impl Device {
    fn of(secret: &str) -> Self {
        let secret = Secret::try_from_base32(secret).unwrap();
        Self(Builder::new().with_secret(secret).build().unwrap())
    }

    /// The code this many time steps from now.
    fn code(&self, steps: i64) -> String {
        let now = clock::now().timestamp() + 30 * steps;
        self.0.generate(now.try_into().unwrap()).to_string()
    }
}

/// Enrolls and confirms an authenticator for the user.
async fn enroll_authenticator(browser: &Browser) -> Device {
    let response = browser.change(Method::POST, "/v1/session/totp", None).await;
    let made = response.expect(201);
    assert!(
        made["url"]
            .as_str()
            .unwrap()
            .starts_with("otpauth://totp/Harkara:")
    );
    let device = Device::of(made["secret"].as_str().unwrap());
    let wrong = json!({"code": "000000"});
    browser
        .post("/v1/session/totp/confirm", &wrong)
        .await
        .problem(401, "sign_in_failed");
    let code = json!({"code": device.code(0)});
    browser
        .post("/v1/session/totp/confirm", &code)
        .await
        .expect(204);
    device
}

/// Moves the session's last confirmation into the past.
async fn grow_old(platform: &Platform) {
    platform
        .sql("update app.sessions set confirmed_at = now() - interval '601 seconds'")
        .await;
}

#[tokio::test]
async fn totp_code_is_required_after_enrollment_and_accepted_once() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    let sign_in = async |code: Option<&str>| {
        let body = json!({"email": "ada@example.com", "password": PASSWORD, "code": code});
        platform.sign_in(&body).await
    };
    let made = ada
        .change(Method::POST, "/v1/session/totp", None)
        .await
        .expect(201);
    assert_eq!(made["secret"].as_str().unwrap().len(), 32);
    sign_in(None).await.expect(201);
    // Another secret replaces the unconfirmed one.
    let device = enroll_authenticator(&ada).await;
    ada.change(Method::POST, "/v1/session/totp", None)
        .await
        .problem(409, "conflict");
    sign_in(None).await.problem(401, "code_required");
    for wrong in ["", &device.code(0), &device.code(7)] {
        sign_in(Some(wrong)).await.problem(401, "sign_in_failed");
    }
    let early = device.code(1);
    sign_in(Some(&early)).await.expect(201);
    for taken in [&early, &device.code(0), &device.code(-1)] {
        sign_in(Some(taken)).await.problem(401, "sign_in_failed");
    }

    let user = platform
        .client
        .get(&format!("/v1/users/{}", ada.user))
        .await
        .expect(200);
    assert_eq!(user["has_totp"], true);
    ada.delete("/v1/session/totp").await.expect(204);
    ada.delete("/v1/session/totp")
        .await
        .problem(404, "not_found");
    sign_in(None).await.expect(201);
    for action in ["user.add_totp", "user.remove_totp"] {
        assert_eq!(platform.audit_count(action).await, 1, "{action}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn concurrent_sign_ins_with_one_code_admit_one() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    let device = enroll_authenticator(&ada).await;
    let body = json!({"email": "ada@example.com", "password": PASSWORD, "code": device.code(1)});
    let tries = (0..6).map(|_| platform.sign_in(&body));
    let responses = futures_util::future::join_all(tries).await;
    let signed_in = responses
        .iter()
        .filter(|response| response.status == 201)
        .count();
    assert_eq!(signed_in, 1);
}

#[tokio::test]
async fn secret_is_shown_to_recently_confirmed_users_and_to_keys() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "operator")
        .await;
    let endpoint = json!({"url": "http://127.0.0.1:9/"});
    let endpoint = ada
        .post("/v1/webhook-endpoints", &endpoint)
        .await
        .expect(201);
    let path = format!(
        "/v1/webhook-endpoints/{}/secret",
        endpoint["id"].as_str().unwrap()
    );
    ada.get(&path).await.expect(200);
    grow_old(&platform).await;
    ada.get(&path).await.problem(403, "confirmation_required");
    let session = ada.get("/v1/session").await.expect(200);
    assert!(session["confirmed_until"].is_null());
    platform.client.get(&path).await.expect(200);

    let confirm = "/v1/session/confirm";
    ada.post(confirm, &json!({})).await.problem(422, "invalid");
    ada.post(confirm, &json!({"password": "wrong"}))
        .await
        .problem(401, "sign_in_failed");
    ada.post(confirm, &json!({"code": "123456"}))
        .await
        .problem(401, "sign_in_failed");
    ada.get(&path).await.problem(403, "confirmation_required");
    let response = ada
        .post(confirm, &json!({"password": PASSWORD}))
        .await
        .expect(200);
    assert!(response["confirmed_until"].is_string());
    ada.get(&path).await.expect(200);

    // With an authenticator, only its code confirms.
    let device = enroll_authenticator(&ada).await;
    grow_old(&platform).await;
    ada.delete("/v1/session/totp")
        .await
        .problem(403, "confirmation_required");
    ada.post(confirm, &json!({"password": PASSWORD}))
        .await
        .problem(401, "code_required");
    ada.get(&path).await.problem(403, "confirmation_required");
    ada.post(confirm, &json!({"code": device.code(1)}))
        .await
        .expect(200);
    ada.get(&path).await.expect(200);
    grow_old(&platform).await;
    ada.post(confirm, &json!({"code": device.code(1)}))
        .await
        .problem(401, "sign_in_failed");
}

#[tokio::test]
async fn user_without_a_confirmation_method_signs_in_again() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform.visitor(&acme, "ada@example.com", "viewer").await;
    grow_old(&platform).await;
    let body = json!({"password": PASSWORD});
    ada.post("/v1/session/confirm", &body)
        .await
        .problem(409, "conflict");
    let set = ada
        .change(Method::PUT, "/v1/session/password", Some(&body))
        .await;
    set.problem(403, "confirmation_required");
    let totp = ada.change(Method::POST, "/v1/session/totp", None).await;
    totp.problem(403, "confirmation_required");
}

#[tokio::test]
async fn password_change_ends_other_sessions() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    let body = json!({"email": "ada@example.com", "password": PASSWORD});
    let one = Browser::of(&platform.client, &platform.sign_in(&body).await).await;
    let two = Browser::of(&platform.client, &platform.sign_in(&body).await).await;
    let set = async |body: serde_json::Value| {
        one.change(Method::PUT, "/v1/session/password", Some(&body))
            .await
    };
    let new = "an even better battery staple";
    for (body, pointer) in [
        (json!({"password": new}), "/current"),
        (json!({"current": PASSWORD}), "/password"),
        (
            json!({"current": PASSWORD, "password": "short"}),
            "/password",
        ),
        (
            json!({"current": PASSWORD, "password": "x".repeat(129)}),
            "/password",
        ),
    ] {
        let faults = set(body).await.problem(422, "invalid");
        assert_eq!(faults[0].0, pointer);
    }
    set(json!({"current": "wrong", "password": new}))
        .await
        .problem(401, "sign_in_failed");
    two.get("/v1/session").await.expect(200);
    set(json!({"current": PASSWORD, "password": new}))
        .await
        .expect(204);
    one.get("/v1/session").await.expect(200);
    two.get("/v1/session").await.problem(401, "unauthorized");
    platform.sign_in(&body).await.problem(401, "sign_in_failed");
    let body = json!({"email": "ada@example.com", "password": new});
    platform.sign_in(&body).await.expect(201);
    assert_eq!(platform.audit_count("user.set_password").await, 2);
}

#[tokio::test]
async fn open_session_cannot_bypass_confirmation() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "admin")
        .await;
    let bob = platform
        .signed_in_user(&acme, "bob@example.com", "viewer")
        .await;
    platform
        .sql("update app.sessions set confirmed_at = now() - interval '11 minutes'")
        .await;
    let user = json!({"email": "eve@example.com", "name": "Eve", "role": "admin"});
    let key = json!({"name": "k", "scopes": ["webhooks:manage"]});
    let grant = json!({"role": "admin", "reason": "x"});
    let allowed = json!({"permission": "admin:manage", "effect": "allow", "reason": "x"});
    let (own, other) = (
        format!("/v1/users/{}", ada.user),
        format!("/v1/users/{}", bob.user),
    );
    for (path, body) in [
        ("/v1/users".to_owned(), &user),
        ("/v1/api-keys".to_owned(), &key),
        (format!("{own}/sign-in-link"), &json!({})),
        (format!("{other}/sign-in-link"), &json!({})),
        (format!("{other}/grants"), &grant),
        (format!("{other}/permissions"), &allowed),
    ] {
        let response = ada.post(&path, body).await;
        response.problem(403, "confirmation_required");
    }
    let confirm = json!({ "password": super::PASSWORD });
    ada.post("/v1/session/confirm", &confirm).await.expect(200);
    ada.post("/v1/api-keys", &key).await.expect(201);
    // A user cannot create a link for themselves: it would bypass the confirmation.
    let link = ada.post(&format!("{own}/sign-in-link"), &json!({})).await;
    link.problem(403, "own_grants");
}

#[tokio::test]
async fn idempotent_response_is_repeated_only_while_permissions_hold() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "admin")
        .await;
    let body = json!({"name": "k", "scopes": ["jobs:read"]}).to_string();
    let post = async || {
        let headers = [
            ("x-csrf-token", ada.csrf.as_str()),
            ("content-type", "application/json"),
            ("idempotency-key", "once"),
        ];
        ada.send(
            reqwest::Method::POST,
            "/v1/api-keys",
            &headers,
            Some(body.clone()),
        )
        .await
    };
    let first = post().await.expect(201);
    assert_eq!(post().await.expect(201)["key"], first["key"]);
    platform
        .sql("update app.sessions set confirmed_at = now() - interval '11 minutes'")
        .await;
    post().await.problem(403, "confirmation_required");
    platform
        .sql("update app.sessions set confirmed_at = now()")
        .await;
    post().await.expect(201);
    platform
        .sql("update app.role_grants set role = 'viewer'")
        .await;
    post().await.problem(403, "missing_scope");
}

#[tokio::test]
async fn sign_in_link_does_not_replace_an_authenticator() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "operator")
        .await;
    platform
        .sql("update app.users set totp_sealed = 'x', totp_confirmed_at = now()")
        .await;
    let admin = platform
        .signed_in_user(&acme, "root@example.com", "admin")
        .await;
    let link = admin
        .post(&format!("/v1/users/{}/sign-in-link", ada.user), &json!({}))
        .await
        .expect(201);
    let url = link["sign_in_url"].as_str().unwrap();
    let path = format!("/sign-in/{}", url.rsplit('/').next().unwrap());
    let response = platform.form(&path, "").await;
    let browser = super::Browser::of(&platform.client, &response).await;
    browser.get("/v1/jobs").await.expect(200);
    let removed = browser.delete("/v1/session/totp").await;
    removed.problem(403, "confirmation_required");
    let password = json!({"password": "another long password"});
    let set = browser
        .change(
            reqwest::Method::PUT,
            "/v1/session/password",
            Some(&password),
        )
        .await;
    set.problem(422, "invalid");
}
