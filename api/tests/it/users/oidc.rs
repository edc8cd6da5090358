//! Sign-in with OpenID Connect, against a mock provider in its own process.

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harkara_shared::config::{HttpSettings, OidcSettings};
use reqwest::Method;
use serde_json::json;
use url::Url;
use url::form_urlencoded::Serializer;

use super::{Browser, cookie};
use crate::support::{Client, Platform, TestResponse, listen_with};

/// A mock provider that authenticates any subject without a password.
struct Provider {
    process: Child,
    url: Url,
}

impl Drop for Provider {
    fn drop(&mut self) {
        self.process.kill().ok();
        self.process.wait().ok();
    }
}

/// The provider's program, which `.ci/run` installs.
fn program() -> PathBuf {
    let workspace = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("..");
    let program = workspace.join("target/receivers/bin/oidc-provider-mock");
    assert!(
        program.exists(),
        "{} is missing: .ci/run installs it",
        program.display()
    );
    program
}

impl Provider {
    async fn start(client: &Client) -> Self {
        let program = program();
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let signed_in_user = |sub: &str, email: &str, verified: bool| {
            json!({"sub": sub, "email": email, "email_verified": verified}).to_string()
        };
        let process = Command::new(program)
            .args(["--port", &port.to_string(), "--require-nonce", "true"])
            .args([
                "--user-claims",
                &signed_in_user("ada", "Ada@example.com", true),
            ])
            .args([
                "--user-claims",
                &signed_in_user("eve", "ada@example.com", false),
            ])
            .args([
                "--user-claims",
                &signed_in_user("two", "two@example.com", true),
            ])
            .args([
                "--user-claims",
                &signed_in_user("new", "new@example.com", true),
            ])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let provider = Self {
            process,
            url: format!("http://127.0.0.1:{port}").parse().unwrap(),
        };
        let at = client.at(provider.url.as_str().trim_end_matches('/'));
        let started = Instant::now();
        while !at.is_reachable("/.well-known/openid-configuration").await {
            assert!(
                started.elapsed() < Duration::from_secs(30),
                "the provider did not start"
            );
        }
        provider
    }
}

/// An API with the provider.
struct Fixture {
    platform: Platform,
    provider: Provider,
    client: Client,
}

impl Fixture {
    async fn start() -> Self {
        let platform = Platform::start().await;
        let provider = Provider::start(&platform.client).await;
        let http = HttpSettings {
            oidc: Some(OidcSettings {
                issuer: provider.url.clone(),
                client_id: "harkara".to_owned(),
                client_secret: "secret".to_owned(),
                name: "Example ID".to_owned(),
            }),
            ..HttpSettings::default()
        };
        let base = listen_with(&platform.pool, &platform.keys, &platform.stop, http).await;
        Self {
            client: platform.client.with_key("").at(&base),
            provider,
            platform,
        }
    }

    /// Begins a sign-in; returns the browser's cookie and the URL to which the provider redirects `sub`.
    async fn go(&self, query: &str, sub: &str) -> (String, String) {
        let response = self.client.get(&format!("/sign-in/oidc{query}")).await;
        assert_eq!(response.status, 303, "{}", response.text);
        let flow = cookie(&response);
        let to: Url = response.header("location").parse().unwrap();
        let parameters: std::collections::HashMap<_, _> = to.query_pairs().into_owned().collect();
        assert_eq!(parameters["code_challenge_method"], "S256");
        assert_eq!(parameters["response_type"], "code");
        assert!(parameters["state"].len() == 43 && parameters["nonce"].len() >= 20);
        assert_eq!(
            parameters["redirect_uri"],
            format!("{}/sign-in/oidc/callback", self.client.base)
        );
        let provider = self
            .client
            .at(self.provider.url.as_str().trim_end_matches('/'));
        let form = Serializer::new(String::new())
            .append_pair("sub", sub)
            .finish();
        let path = format!("{}?{}", to.path(), to.query().unwrap());
        let media = "application/x-www-form-urlencoded";
        let back = provider.post_text(&path, media, form).await;
        assert_eq!(back.status, 302, "{}", back.text);
        let back = back.header("location").replace(&self.client.base, "");
        (flow, back)
    }

    async fn back(&self, flow: &str, path: &str) -> TestResponse {
        self.client
            .send(Method::GET, path, &[("cookie", flow)], None)
            .await
    }

    async fn sign_in(&self, query: &str, sub: &str) -> TestResponse {
        let (flow, back) = self.go(query, sub).await;
        self.back(&flow, &back).await
    }
}

#[tokio::test]
#[ignore = "needs oidc-provider-mock: run by .ci/run"]
async fn oidc_user_signs_in_by_verified_email_and_then_by_subject() {
    let fixture = Fixture::start().await;
    let acme = fixture.platform.acme.clone();
    fixture
        .platform
        .link(&acme, "ada@example.com", "viewer")
        .await;
    let page = fixture.client.get("/sign-in").await;
    assert!(
        page.text.contains("Sign in with Example ID"),
        "{}",
        page.text
    );

    // An unverified email does not identify a user.
    assert_eq!(fixture.sign_in("", "eve").await.status, 401);
    let response = fixture.sign_in("", "ada").await;
    assert_eq!(
        (response.status, response.header("location")),
        (303, "/"),
        "{}",
        response.text
    );
    let browser = Browser::of(&fixture.client, &response).await;
    let session = browser.get("/v1/session").await.expect(200);
    assert_eq!(
        (&session["user"]["email"], &session["method"]),
        (&json!("ada@example.com"), &json!("oidc"))
    );

    // From now on the subject identifies the user, whatever the email.
    fixture
        .platform
        .sql("update app.users set email = 'countess@example.com'")
        .await;
    assert_eq!(fixture.sign_in("", "ada").await.status, 303);
    fixture
        .platform
        .sql("update app.users set email = 'new@example.com'")
        .await;
    assert_eq!(
        fixture.sign_in("", "new").await.status,
        401,
        "another subject with the same email must be refused"
    );
    // Signing in creates no user.
    let users = fixture.platform.client.get("/v1/users").await.expect(200);
    assert_eq!(users["data"].as_array().unwrap().len(), 1);
    fixture
        .platform
        .sql("update app.users set disabled_at = now()")
        .await;
    assert_eq!(fixture.sign_in("", "ada").await.status, 401);
    assert_eq!(fixture.platform.audit_count("user.bind").await, 1);
    assert_eq!(fixture.platform.audit_count("session.create").await, 2);
    assert!(fixture.platform.audit_count("session.refused").await >= 3);
}

#[tokio::test]
#[ignore = "needs oidc-provider-mock: run by .ci/run"]
async fn oidc_sign_in_finishes_once_in_the_browser_that_began_it() {
    let fixture = Fixture::start().await;
    let acme = fixture.platform.acme.clone();
    fixture
        .platform
        .link(&acme, "ada@example.com", "viewer")
        .await;
    let (flow, back) = fixture.go("", "ada").await;
    let (other, _) = fixture.go("", "ada").await;
    assert_eq!(fixture.client.get(&back).await.status, 401);
    assert_eq!(fixture.back(&other, &back).await.status, 401);
    let (path, query) = back.split_once('?').unwrap();
    let forged = query.replace("state=", "state=x");
    assert_eq!(
        fixture
            .back(&flow, &format!("{path}?{forged}"))
            .await
            .status,
        401
    );
    assert_eq!(fixture.back(&flow, path).await.status, 401);
    assert_eq!(fixture.back(&flow, &back).await.status, 303);
    assert_eq!(fixture.back(&flow, &back).await.status, 401);
    // The code of another sign-in has another verifier and nonce.
    let (flow, first) = fixture.go("", "ada").await;
    let (_, second) = fixture.go("", "ada").await;
    let code = |text: &str| {
        let url = Url::parse(&format!("http://x{text}")).unwrap();
        let found = url.query_pairs().find(|(name, _)| name == "code").unwrap();
        found.1.into_owned()
    };
    let swapped = first.replace(&code(&first), &code(&second));
    let response = fixture.back(&flow, &swapped).await;
    response.problem(503, "provider_unavailable");
    assert!(response.header("set-cookie").is_empty());
    let (flow, late) = fixture.go("", "ada").await;
    fixture
        .platform
        .sql("update app.oidc_flows set expires_at = now()")
        .await;
    assert_eq!(fixture.back(&flow, &late).await.status, 401);
}

#[tokio::test]
#[ignore = "needs oidc-provider-mock: run by .ci/run"]
async fn oidc_user_of_several_tenants_chooses_one() {
    let fixture = Fixture::start().await;
    let (acme, other) = (
        fixture.platform.acme.clone(),
        fixture.platform.tenant("other").await,
    );
    fixture
        .platform
        .link(&acme, "two@example.com", "viewer")
        .await;
    fixture
        .platform
        .link(&other, "two@example.com", "viewer")
        .await;
    for _ in 0..2 {
        let response = fixture.sign_in("", "two").await;
        assert_eq!(response.status, 409);
        for slug in ["acme", "other"] {
            assert!(
                response
                    .text
                    .contains(&format!("/sign-in/oidc?tenant={slug}")),
                "{}",
                response.text
            );
        }
        let response = fixture.sign_in("?tenant=other", "two").await;
        let browser = Browser::of(&fixture.client, &response).await;
        let session = browser.get("/v1/session").await.expect(200);
        assert_eq!(session["tenant"]["slug"], "other");
    }
    assert_eq!(fixture.sign_in("?tenant=platform", "two").await.status, 401);
}

#[tokio::test]
#[ignore = "needs oidc-provider-mock: run by .ci/run"]
async fn unavailable_oidc_provider_is_reported_and_other_sign_in_works() {
    let mut fixture = Fixture::start().await;
    fixture.provider.process.kill().unwrap();
    fixture.provider.process.wait().unwrap();
    let response = fixture.client.get("/sign-in/oidc").await;
    response.problem(503, "provider_unavailable");
    assert_eq!(fixture.client.get("/sign-in").await.status, 200);
}
