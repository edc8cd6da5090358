//! Rules for granting and revoking roles: no more than the granter has, not to oneself, never the last admin.

use reqwest::Method;
use serde_json::{Value, json};

use super::{Browser, PASSWORD};
use crate::support::Platform;

fn grants(browser: &Browser) -> String {
    format!("/v1/users/{}/grants", browser.user)
}

#[tokio::test]
async fn users_are_created_shown_listed_changed_and_removed() {
    let platform = Platform::start().await;
    let body = json!({"email": "Ada@Example.com", "name": "Ada", "role": "operator",
        "expires_at": "2040-01-31T12:00:00Z", "reason": "runs the nights"});
    let response = platform.client.post("/v1/users", &body).await;
    let made = response.expect(201);
    let path = format!("/v1/users/{}", made["id"].as_str().unwrap());
    assert_eq!(response.header("location"), path);
    assert_eq!(made["email"], "ada@example.com");
    let url = made["sign_in_url"].as_str().unwrap();
    assert!(
        url.starts_with(&format!("{}/sign-in/", platform.client.base)),
        "{url}"
    );
    let shown = platform.client.get(&path).await.expect(200);
    assert!(shown.get("sign_in_url").is_none());
    assert_eq!(shown["roles"], json!(["operator"]));
    assert!(
        shown["permissions"]
            .as_array()
            .unwrap()
            .contains(&json!("jobs:manage"))
    );
    let grant = platform
        .client
        .get(&format!("{path}/grants"))
        .await
        .expect(200);
    assert_eq!(grant["data"][0]["expires_at"], "2040-01-31T12:00:00Z");
    assert_eq!(grant["data"][0]["reason"], "runs the nights");

    let change = json!({"email": "Countess@example.com", "name": "Countess"});
    let changed = platform.client.patch(&path, &change).await.expect(200);
    assert_eq!(
        (&changed["email"], &changed["name"]),
        (&json!("countess@example.com"), &json!("Countess"))
    );
    for number in 0..3 {
        let body = json!({"email": format!("{number}@example.com"), "name": "x", "role": "viewer"});
        platform.client.post("/v1/users", &body).await.expect(201);
    }
    let first = platform.client.get("/v1/users?limit=3").await.expect(200);
    let next = format!(
        "/v1/users?limit=3&cursor={}",
        first["next_cursor"].as_str().unwrap()
    );
    let second = platform.client.get(&next).await.expect(200);
    assert_eq!(second["data"][0]["email"], "countess@example.com");
    assert_eq!(second["next_cursor"], Value::Null);
    platform.client.delete(&path).await.expect(204);
    for action in ["user.create", "user.change", "user.delete"] {
        assert!(platform.audit_count(action).await >= 1, "{action}");
    }
}

#[tokio::test]
async fn granted_permissions_cannot_exceed_those_of_the_granter() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let manager = platform
        .signed_in_user(&acme, "manager@example.com", "manager")
        .await;
    let viewer = platform
        .signed_in_user(&acme, "viewer@example.com", "viewer")
        .await;
    let admin = platform
        .signed_in_user(&acme, "admin@example.com", "admin")
        .await;
    viewer.get("/v1/users").await.problem(403, "missing_scope");

    for (role, may) in [
        ("viewer", true),
        ("team_lead", true),
        ("manager", true),
        ("operator", false),
        ("admin", false),
    ] {
        let body = json!({"role": role, "reason": "a test"});
        let response = manager.post(&grants(&viewer), &body).await;
        let email = format!("{role}@new.example.com");
        let new = manager
            .post(
                "/v1/users",
                &json!({"email": email, "name": "x", "role": role}),
            )
            .await;
        if may {
            response.expect(201);
            new.expect(201);
        } else {
            response.problem(403, "escalation");
            new.problem(403, "escalation");
        }
    }
    let overrides = format!("/v1/users/{}/permissions", viewer.user);
    let body = |permission: &str, effect: &str| json!({"permission": permission, "effect": effect, "reason": "a test"});
    manager
        .post(&overrides, &body("jobs:manage", "allow"))
        .await
        .problem(403, "escalation");
    manager
        .post(&overrides, &body("billing:read", "allow"))
        .await
        .expect(201);
    let denied = admin
        .post(&overrides, &body("jobs:manage", "deny"))
        .await
        .expect(201);
    let one = format!("{overrides}/{}", denied["id"].as_str().unwrap());
    manager.delete(&one).await.problem(403, "escalation");

    // A user with more permissions cannot be changed, locked out or impersonated.
    let path = format!("/v1/users/{}", admin.user);
    let refused = [
        manager
            .change(
                Method::PATCH,
                &path,
                Some(&json!({"email": "me@example.com"})),
            )
            .await,
        manager
            .change(Method::PATCH, &path, Some(&json!({"disabled": true})))
            .await,
        manager.delete(&path).await,
        manager
            .change(Method::POST, &format!("{path}/sign-in-link"), None)
            .await,
        manager
            .change(Method::POST, &format!("{path}/sign-out"), None)
            .await,
        manager
            .post(&format!("{path}/permissions"), &body("jobs:read", "deny"))
            .await,
    ];
    for response in refused {
        response.problem(403, "escalation");
    }
    let listed = admin.get(&grants(&admin)).await.expect(200);
    let grant = listed["data"][0]["id"].as_str().unwrap();
    manager
        .delete(&format!("{}/{grant}", grants(&admin)))
        .await
        .problem(403, "escalation");
    // A future grant counts too.
    let later = json!({"role": "operator", "not_before": "2039-01-01T00:00:00Z", "reason": "x"});
    admin.post(&grants(&viewer), &later).await.expect(201);
    let path = format!("/v1/users/{}/sign-in-link", viewer.user);
    manager
        .change(Method::POST, &path, None)
        .await
        .problem(403, "escalation");
    assert_eq!(platform.acme.slug, "acme");
}

#[tokio::test]
async fn sign_in_link_created_before_a_promotion_does_not_work_after_it() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let manager = platform
        .signed_in_user(&acme, "manager@example.com", "manager")
        .await;
    let admin = platform
        .signed_in_user(&acme, "admin@example.com", "admin")
        .await;
    let viewer = platform
        .signed_in_user(&acme, "viewer@example.com", "viewer")
        .await;
    let path = format!("/v1/users/{}/sign-in-link", viewer.user);
    let link = manager.change(Method::POST, &path, None).await.expect(201);
    let link = link["sign_in_url"]
        .as_str()
        .unwrap()
        .replace(&platform.client.base, "");
    let body = json!({"role": "admin", "reason": "promoted"});
    admin.post(&grants(&viewer), &body).await.expect(201);
    assert_eq!(platform.form(&link, "").await.status, 410);
}

#[tokio::test]
async fn user_cannot_widen_their_own_permissions() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "admin")
        .await;
    platform
        .signed_in_user(&acme, "bob@example.com", "admin")
        .await;
    let body = json!({"role": "viewer", "reason": "why not"});
    ada.post(&grants(&ada), &body)
        .await
        .problem(403, "own_grants");
    let overrides = format!("/v1/users/{}/permissions", ada.user);
    let body = |effect: &str| json!({"permission": "jobs:read", "effect": effect, "reason": "x"});
    ada.post(&overrides, &body("allow"))
        .await
        .problem(403, "own_grants");
    let denied = ada.post(&overrides, &body("deny")).await.expect(201);
    let one = format!("{overrides}/{}", denied["id"].as_str().unwrap());
    ada.delete(&one).await.problem(403, "own_grants");
    ada.get("/v1/jobs").await.problem(403, "missing_scope");
    platform.client.delete(&one).await.expect(204);
    ada.get("/v1/jobs").await.expect(200);
}

#[tokio::test]
async fn last_admin_cannot_be_removed() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "admin")
        .await;
    let listed = ada.get(&grants(&ada)).await.expect(200);
    let grant = format!(
        "{}/{}",
        grants(&ada),
        listed["data"][0]["id"].as_str().unwrap()
    );
    let path = format!("/v1/users/{}", ada.user);
    let denial = json!({"permission": "admin:manage", "effect": "deny", "reason": "x"});
    let refused = async || {
        for response in [
            platform.client.delete(&path).await,
            platform.client.delete(&grant).await,
            platform
                .client
                .patch(&path, &json!({"disabled": true}))
                .await,
            platform
                .client
                .post(&format!("{path}/permissions"), &denial)
                .await,
        ] {
            response.problem(409, "last_admin");
        }
    };
    refused().await;
    ada.get("/v1/session").await.expect(200);
    // An admin who cannot sign in, or becomes one later, does not count.
    let bob = platform
        .signed_in_user(&acme, "bob@example.com", "admin")
        .await;
    platform
        .sql("update app.users set disabled_at = now() where email = 'bob@example.com'")
        .await;
    refused().await;
    platform
        .sql("update app.users set disabled_at = null")
        .await;
    platform.sql("update app.role_grants set not_before = now() + interval '1 h' where user_id = (select id from app.users where email = 'bob@example.com')").await;
    refused().await;
    platform
        .sql("update app.role_grants set not_before = now()")
        .await;
    platform.client.delete(&grant).await.expect(204);
    let own = bob.get(&grants(&bob)).await.expect(200);
    let own = format!(
        "{}/{}",
        grants(&bob),
        own["data"][0]["id"].as_str().unwrap()
    );
    bob.delete(&own).await.problem(409, "last_admin");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn admins_removing_each_other_concurrently_leave_one() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "admin")
        .await;
    let bob = platform
        .signed_in_user(&acme, "bob@example.com", "admin")
        .await;
    let (one, two) = (
        format!("/v1/users/{}", ada.user),
        format!("/v1/users/{}", bob.user),
    );
    let (first, second) = tokio::join!(platform.client.delete(&one), platform.client.delete(&two));
    let mut statuses = [first.status, second.status];
    statuses.sort_unstable();
    assert_eq!(statuses, [204, 409]);
}

#[tokio::test]
async fn tenant_finds_no_user_of_another_tenant() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let other = platform.tenant("other").await;
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "operator")
        .await;
    let stranger = platform
        .signed_in_user(&other, "eve@example.com", "admin")
        .await;
    let path = format!("/v1/users/{}", ada.user);
    let grant = ada_grant(&platform, &ada).await;
    let body = json!({"role": "viewer", "reason": "x"});
    let denial = json!({"permission": "jobs:read", "effect": "deny", "reason": "x"});
    for response in [
        stranger.get(&path).await,
        stranger
            .change(Method::PATCH, &path, Some(&json!({"disabled": true})))
            .await,
        stranger.delete(&path).await,
        stranger
            .change(Method::POST, &format!("{path}/sign-in-link"), None)
            .await,
        stranger
            .change(Method::POST, &format!("{path}/sign-out"), None)
            .await,
        stranger.get(&format!("{path}/grants")).await,
        stranger.post(&format!("{path}/grants"), &body).await,
        stranger.delete(&format!("{path}/grants/{grant}")).await,
        stranger.get(&format!("{path}/permissions")).await,
        stranger.post(&format!("{path}/permissions"), &denial).await,
        stranger
            .delete(&format!(
                "{path}/permissions/prm_01h455vb4pex5vsknk084sn02q"
            ))
            .await,
    ] {
        response.problem(404, "not_found");
    }
    let listed = stranger.get("/v1/users").await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 1);
    ada.get("/v1/session").await.expect(200);
    let body = json!({"email": "ada@example.com", "password": PASSWORD});
    platform.sign_in(&body).await.expect(201);
}

async fn ada_grant(platform: &Platform, ada: &Browser) -> String {
    let listed = platform.client.get(&grants(ada)).await.expect(200);
    listed["data"][0]["id"].as_str().unwrap().to_owned()
}
