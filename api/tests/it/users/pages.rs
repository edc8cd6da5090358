//! HTML pages: they work without scripts and resist cross-site requests.

use reqwest::Method;
use url::form_urlencoded::Serializer;

use super::{Browser, PASSWORD, cookie};
use crate::support::{Platform, TestResponse};

pub(crate) fn fields(pairs: &[(&str, &str)]) -> String {
    Serializer::new(String::new()).extend_pairs(pairs).finish()
}

/// Asserts the headers that every page must have.
pub(crate) fn is_page(response: &TestResponse, status: u16) {
    assert_eq!(response.status, status, "{}", response.text);
    assert_eq!(response.header("content-type"), "text/html; charset=utf-8");
    let policy = response.header("content-security-policy");
    assert!(
        policy.starts_with("default-src 'none'; style-src 'self'"),
        "{policy}"
    );
    assert!(
        policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"),
        "{policy}"
    );
    assert_eq!(response.header("x-frame-options"), "DENY");
    assert_eq!(response.header("cache-control"), "no-store");
    assert!(
        response.text.starts_with("<!doctype html>"),
        "{}",
        response.text
    );
    for inline in ["<script", "<style", "style=", "onclick", "javascript:"] {
        assert!(
            !response.text.contains(inline),
            "{inline} in {}",
            response.text
        );
    }
}

#[tokio::test]
async fn user_signs_in_by_form_sees_the_account_and_signs_out() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    platform
        .signed_in_user(&acme, "ada@example.com", "operator")
        .await;
    let anyone = platform.client.with_key("");
    let first = anyone.get("/").await;
    assert_eq!((first.status, first.header("location")), (303, "/sign-in"));
    let form = anyone.get("/sign-in").await;
    is_page(&form, 200);
    assert!(form.text.contains("name=\"password\"") && !form.text.contains("/sign-in/oidc"));
    let style = anyone.get("/style.css").await;
    assert_eq!(style.header("content-type"), "text/css; charset=utf-8");

    let wrong = fields(&[("email", "ada@example.com"), ("password", "<b>wrong</b>")]);
    let refused = platform.form("/sign-in", &wrong).await;
    is_page(&refused, 401);
    assert!(refused.text.contains("is wrong") && refused.text.contains("ada@example.com"));
    assert!(!refused.text.contains("wrong</b>") && refused.header("set-cookie").is_empty());
    let nasty = fields(&[("email", "\"><script>x</script>"), ("password", "x")]);
    is_page(&platform.form("/sign-in", &nasty).await, 401);

    let right = fields(&[
        ("email", "Ada@example.com"),
        ("password", PASSWORD),
        ("code", ""),
    ]);
    let response = platform.form("/sign-in", &right).await;
    assert_eq!((response.status, response.header("location")), (303, "/"));
    let browser = Browser::of(&platform.client, &response).await;
    let account = browser.get("/").await;
    is_page(&account, 200);
    for word in [
        "ada@example.com",
        "acme",
        "operator",
        "127.0.0.1",
        &browser.csrf,
    ] {
        assert!(account.text.contains(word), "{word} in {}", account.text);
    }
    assert_eq!(browser.get("/sign-in").await.header("location"), "/");

    let form = [("content-type", "application/x-www-form-urlencoded")];
    for csrf in ["", "AAAA"] {
        let body = Some(fields(&[("csrf", csrf)]));
        let response = browser.send(Method::POST, "/sign-out", &form, body).await;
        response.problem(403, "csrf");
    }
    browser.get("/v1/session").await.expect(200);
    let body = Some(fields(&[("csrf", &browser.csrf), ("everywhere", "yes")]));
    let response = browser.send(Method::POST, "/sign-out", &form, body).await;
    assert_eq!(
        (response.status, response.header("location")),
        (303, "/sign-in")
    );
    assert_eq!(cookie(&response), "harkara=");
    browser
        .get("/v1/session")
        .await
        .problem(401, "unauthorized");
    assert_eq!(platform.audit_count("session.end_all").await, 1);
}

#[tokio::test]
async fn sign_in_form_offers_a_choice_of_tenants() {
    let platform = Platform::start().await;
    let (acme, other) = (platform.acme.clone(), platform.tenant("other").await);
    platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    platform
        .signed_in_user(&other, "ada@example.com", "viewer")
        .await;
    let mut pairs = vec![("email", "ada@example.com"), ("password", PASSWORD)];
    let response = platform.form("/sign-in", &fields(&pairs)).await;
    is_page(&response, 409);
    assert!(
        response
            .text
            .contains("<option>acme</option>\n\n<option>other</option>"),
        "{}",
        response.text
    );
    assert!(!response.text.contains(PASSWORD));
    pairs.push(("tenant", "other"));
    let response = platform.form("/sign-in", &fields(&pairs)).await;
    let session = Browser::of(&platform.client, &response)
        .await
        .get("/v1/session")
        .await;
    assert_eq!(session.expect(200)["tenant"]["slug"], "other");
}

#[tokio::test]
async fn cross_site_form_is_refused() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    let link = platform.link(&acme, "bob@example.com", "viewer").await;
    let body = fields(&[("email", "ada@example.com"), ("password", PASSWORD)]);
    let media = ("content-type", "application/x-www-form-urlencoded");
    let client = platform.client.with_key("");
    for path in ["/sign-in", &link, "/sign-out"] {
        for foreign in [
            ("origin", "https://evil.example"),
            ("origin", "null"),
            ("sec-fetch-site", "cross-site"),
        ] {
            let body = Some(body.clone());
            let response = client
                .send(Method::POST, path, &[media, foreign], body)
                .await;
            response.problem(403, "csrf");
        }
    }
    let own = [
        media,
        ("origin", platform.client.base.as_str()),
        ("sec-fetch-site", "same-origin"),
    ];
    for path in ["/sign-in", &link] {
        let response = client
            .send(Method::POST, path, &own, Some(body.clone()))
            .await;
        assert_eq!(response.status, 303, "{}", response.text);
    }
    client
        .post("/sign-in", &serde_json::json!({}))
        .await
        .problem(415, "unsupported_media_type");
    client.get("/sign-in/oidc").await.problem(404, "not_found");
}

#[tokio::test]
async fn used_sign_in_link_is_reported_as_used() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let link = platform.link(&acme, "ada@example.com", "viewer").await;
    is_page(&platform.client.with_key("").get(&link).await, 200);
    assert_eq!(platform.form(&link, "").await.status, 303);
    is_page(&platform.form(&link, "").await, 410);
}
