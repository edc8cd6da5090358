//! Sign-in: passwords, links, refusals.

use reqwest::Method;
use serde_json::json;

use super::{Browser, PASSWORD, cookie};
use crate::support::Platform;

#[tokio::test]
async fn user_signs_in_with_email_and_password() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    platform
        .signed_in_user(&acme, "ada@example.com", "operator")
        .await;
    let response = platform
        .sign_in(&json!({"email": " ADA@Example.com ", "password": PASSWORD}))
        .await;
    let session = response.expect(201);
    assert_eq!(session["user"]["email"], "ada@example.com");
    assert_eq!(session["tenant"]["slug"], "acme");
    assert_eq!(session["roles"], json!(["operator"]));
    assert_eq!(session["method"], "password");
    assert!(
        session["confirmed_until"].is_string(),
        "a fresh sign-in must count as confirmed"
    );
    let set = response.header("set-cookie");
    assert!(
        set.starts_with("harkara=") && set.contains("; HttpOnly; SameSite=Lax"),
        "{set}"
    );
    assert!(
        !set.contains("Secure") && !response.text.contains(&cookie(&response)[8..]),
        "{set}"
    );
    let browser = Browser::of(&platform.client, &response).await;
    assert_eq!(browser.csrf, session["csrf_token"]);
    browser.get("/v1/jobs").await.expect(200);
    assert_eq!(platform.audit_count("session.create").await, 2);
}

#[tokio::test]
async fn failed_sign_ins_return_identical_responses() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    platform
        .signed_in_user(&acme, "gone@example.com", "viewer")
        .await;
    platform.visitor(&acme, "link@example.com", "viewer").await;
    platform
        .sql("update app.users set disabled_at = now() where email = 'gone@example.com'")
        .await;
    let mut responses = Vec::new();
    for (email, password, tenant) in [
        ("unknown@example.com", PASSWORD, None),
        ("ada@example.com", "correct horse battery stable", None),
        ("ada@example.com", "", None),
        ("gone@example.com", PASSWORD, None),
        ("link@example.com", PASSWORD, None),
        ("ada@example.com", PASSWORD, Some("platform")),
        ("ada@example.com", PASSWORD, Some("no such tenant")),
    ] {
        let body = json!({"email": email, "password": password, "tenant": tenant});
        let response = platform.sign_in(&body).await;
        assert_eq!(response.problem(401, "sign_in_failed"), []);
        assert!(response.header("set-cookie").is_empty());
        let mut problem = response.json();
        problem["request_id"] = json!(null);
        responses.push(problem.to_string());
    }
    responses.dedup();
    assert_eq!(responses.len(), 1, "{responses:?}");
    assert_eq!(platform.audit_count("session.refused").await, 7);
    for (body, pointer) in [
        (json!({"password": PASSWORD}), "/email"),
        (json!({"email": "ada@example.com"}), "/password"),
        (json!({"email": "a@b", "password": "x", "more": 1}), "/more"),
    ] {
        let faults = platform.sign_in(&body).await.problem(422, "invalid");
        assert_eq!(faults[0].0, pointer);
    }
}

#[tokio::test]
async fn user_of_several_tenants_chooses_one() {
    let platform = Platform::start().await;
    let (acme, other) = (platform.acme.clone(), platform.tenant("other").await);
    platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    platform
        .signed_in_user(&other, "ada@example.com", "viewer")
        .await;
    let mut body = json!({"email": "ada@example.com", "password": PASSWORD});
    let response = platform.sign_in(&body).await;
    response.problem(409, "choose_tenant");
    let slugs: Vec<_> = response.json()["errors"]
        .as_array()
        .unwrap()
        .iter()
        .map(|fault| fault["detail"].clone())
        .collect();
    assert_eq!(slugs, ["acme", "other"]);
    for (tenant, slug) in [("other".to_owned(), "other"), (acme.id.to_string(), "acme")] {
        body["tenant"] = json!(tenant);
        let session = platform.sign_in(&body).await.expect(201);
        assert_eq!(session["tenant"]["slug"], slug);
    }
}

#[tokio::test]
async fn cross_site_page_cannot_sign_a_user_in() {
    let platform = Platform::start().await;
    let body = json!({"email": "a@b", "password": "x"}).to_string();
    for foreign in [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
    ] {
        let headers = [("content-type", "application/json"), foreign];
        let client = platform.client.with_key("");
        let sent = client.send(Method::POST, "/v1/sessions", &headers, Some(body.clone()));
        sent.await.problem(403, "csrf");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn sign_in_link_works_once_and_only_by_post() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let link = platform.link(&acme, "ada@example.com", "viewer").await;
    let anyone = platform.client.with_key("");
    for _ in 0..3 {
        let page = anyone.get(&link).await;
        assert_eq!(page.status, 200);
        assert!(page.text.contains("ada@example.com") && page.header("set-cookie").is_empty());
    }
    let posts = (0..16).map(|_| platform.form(&link, ""));
    let responses = futures_util::future::join_all(posts).await;
    let statuses = |status| {
        responses
            .iter()
            .filter(|response| response.status == status)
            .count()
    };
    assert_eq!((statuses(303), statuses(410)), (1, 15));
    assert_eq!(anyone.get(&link).await.status, 410);
    let sessions = platform.audit_count("session.create").await;
    assert_eq!(sessions, 1);
}

#[tokio::test]
async fn sign_in_link_ends_with_its_lifetime_replacement_or_user() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let old = platform.link(&acme, "a@example.com", "viewer").await;
    platform
        .sql("update app.sign_in_links set expires_at = now()")
        .await;
    assert_eq!(platform.form(&old, "").await.status, 410);

    let users = platform.client.get("/v1/users").await.expect(200);
    let path = format!(
        "/v1/users/{}/sign-in-link",
        users["data"][0]["id"].as_str().unwrap()
    );
    let path_of = |response: serde_json::Value| {
        let url = response["sign_in_url"].as_str().unwrap().to_owned();
        url.strip_prefix(&platform.client.base).unwrap().to_owned()
    };
    let first = path_of(platform.client.press(&path).await.expect(201));
    let second = path_of(platform.client.press(&path).await.expect(201));
    assert_eq!(platform.form(&first, "").await.status, 410);
    platform
        .sql("update app.users set disabled_at = now()")
        .await;
    assert_eq!(platform.form(&second, "").await.status, 410);
    platform.client.press(&path).await.problem(409, "conflict");
    platform
        .sql("update app.users set disabled_at = null")
        .await;
    assert_eq!(platform.form(&second, "").await.status, 303);
    for wrong in [
        "/sign-in/x",
        "/sign-in/AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA",
    ] {
        assert_eq!(platform.form(wrong, "").await.status, 410);
        assert_eq!(platform.client.get(wrong).await.status, 410);
    }
    let stored: i64 = harkara_shared::database::query_scalar(
        "select count(*) from app.sign_in_links where position($1::bytea in token_hash) > 0",
    )
    .bind(second.as_bytes().to_vec())
    .fetch_one(&platform.pool)
    .await
    .unwrap();
    assert_eq!(stored, 0);
}

#[tokio::test]
async fn outdated_password_hash_is_upgraded_at_sign_in() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    // The same password hashed with fewer passes, as an earlier release may have stored it.
    let old = old_hash();
    harkara_shared::database::query("update app.users set password_hash = $1")
        .bind(old.clone())
        .execute(&platform.pool)
        .await
        .unwrap();
    let body = json!({"email": "ada@example.com", "password": PASSWORD});
    platform.sign_in(&body).await.expect(201);
    let kept: String =
        harkara_shared::database::query_scalar("select password_hash from app.users")
            .fetch_one(&platform.pool)
            .await
            .unwrap();
    assert!(
        kept != old && kept.starts_with("$argon2id$v=19$m=19456,t=2,p=1$"),
        "{kept}"
    );
    platform.sign_in(&body).await.expect(201);
}

fn old_hash() -> String {
    use argon2::password_hash::PasswordHasher as _;
    let params = argon2::Params::new(8192, 1, 1, None).unwrap();
    argon2::Argon2::new(argon2::Algorithm::Argon2id, argon2::Version::V0x13, params)
        .hash_password_with_salt(PASSWORD.as_bytes(), &[1; 16])
        .unwrap()
        .to_string()
}

#[tokio::test]
async fn unknown_user_is_refused_in_the_time_of_a_wrong_password() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    let timed = async |email: &str| {
        let started = std::time::Instant::now();
        let body = json!({"email": email, "password": "not the right password"});
        platform.sign_in(&body).await.problem(401, "sign_in_failed");
        started.elapsed()
    };
    // Alternately, so that other load on the machine slows both down; the fastest of each shows the work.
    let (mut known, mut unknown) = (std::time::Duration::MAX, std::time::Duration::MAX);
    for _ in 0..8 {
        known = known.min(timed("ada@example.com").await);
        unknown = unknown.min(timed("unknown@example.com").await);
    }
    let (longer, shorter) = (known.max(unknown), known.min(unknown));
    assert!(longer < shorter * 2, "{known:?} and {unknown:?}");
}

#[tokio::test]
async fn password_guessing_is_throttled_per_account_from_any_address() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    platform
        .signed_in_user(&acme, "bob@example.com", "viewer")
        .await;
    let body = |email: &str, password: &str| json!({"email": email, "password": password});
    for _ in 0..10 {
        let response = platform.sign_in(&body("ada@example.com", "a guess")).await;
        response.problem(401, "sign_in_failed");
    }
    // The correct password is refused too, and other replicas share the count.
    let base = crate::support::listen(&platform.pool, &platform.keys, &platform.stop).await;
    let replica = platform.client.with_key("").at(&base);
    let right = body("Ada@example.com", PASSWORD);
    for client in [&platform.client.with_key(""), &replica] {
        let response = client.post("/v1/sessions", &right).await;
        response.problem(429, "rate_limited");
        let form = "email=ada%40example.com&password=x";
        let media = "application/x-www-form-urlencoded";
        let page = client.post_text("/sign-in", media, form).await;
        assert_eq!(page.status, 429);
        assert!(page.text.contains("Too many attempts"), "{}", page.text);
    }
    // Unknown users are counted in the same way, and other users are unaffected.
    for _ in 0..10 {
        let response = platform
            .sign_in(&body("unknown@example.com", "a guess"))
            .await;
        response.problem(401, "sign_in_failed");
    }
    let response = platform
        .sign_in(&body("unknown@example.com", "a guess"))
        .await;
    response.problem(429, "rate_limited");
    platform
        .sign_in(&body("bob@example.com", PASSWORD))
        .await
        .expect(201);
    ada.get("/v1/session").await.expect(200);
    // A link still works for a user whose account an attacker has throttled.
    let path = format!("/v1/users/{}/sign-in-link", ada.user);
    let link = platform.client.press(&path).await.expect(201);
    let link = link["sign_in_url"]
        .as_str()
        .unwrap()
        .replace(&platform.client.base, "");
    assert_eq!(platform.form(&link, "").await.status, 303);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn password_guessing_is_throttled_per_address_for_any_account() {
    let platform = Platform::start().await;
    let tries = (0..110).map(|number| {
        let body = json!({"email": format!("{number}@example.com"), "password": "a guess"});
        let platform = &platform;
        async move { platform.sign_in(&body).await.status }
    });
    let statuses = futures_util::future::join_all(tries).await;
    let count = |status| statuses.iter().filter(|one| **one == status).count();
    assert_eq!(
        (count(401) + count(503), count(429)),
        (100, 10),
        "{statuses:?}"
    );
}
