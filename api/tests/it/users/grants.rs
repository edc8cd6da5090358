//! Role grants and overrides: their period and precedence.

use chrono::TimeDelta;
use harkara_shared::clock;
use serde_json::{Value, json};

use super::Browser;
use crate::jobs::a_job;
use crate::support::Platform;

fn id(response: &Value) -> String {
    response["id"].as_str().unwrap().to_owned()
}

fn has(list: &Value, word: &str) -> bool {
    list.as_array().unwrap().contains(&json!(word))
}

async fn permissions(browser: &Browser) -> Value {
    browser.get("/v1/session").await.expect(200)["permissions"].clone()
}

#[tokio::test]
async fn grant_applies_exactly_from_its_start_to_its_end() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    ada.post("/v1/jobs", &a_job())
        .await
        .problem(403, "missing_scope");
    let path = format!("/v1/users/{}/grants", ada.user);
    let later = clock::now() + TimeDelta::hours(1);
    let grant = json!({"role": "operator", "not_before": later, "reason": "from then on"});
    platform.client.post(&path, &grant).await.expect(201);
    ada.post("/v1/jobs", &a_job())
        .await
        .problem(403, "missing_scope");
    platform
        .sql("update app.role_grants set not_before = now() where role = 'operator'")
        .await;
    ada.post("/v1/jobs", &a_job()).await.expect(201);
    platform.sql("update app.role_grants set not_before = now() - interval '1 h', expires_at = now() where role = 'operator'").await;
    ada.post("/v1/jobs", &a_job())
        .await
        .problem(403, "missing_scope");
    ada.get("/v1/jobs").await.expect(200);

    // The same in real time.
    let expires_at = clock::now() + TimeDelta::milliseconds(1500);
    let grant = json!({"role": "operator", "expires_at": expires_at, "reason": "for a moment"});
    let made = platform.client.post(&path, &grant).await.expect(201);
    assert_eq!(made["reason"], "for a moment");
    ada.post("/v1/jobs", &a_job()).await.expect(201);
    while ada.post("/v1/jobs", &a_job()).await.status == 201 {
        assert!(
            clock::now() < expires_at + TimeDelta::milliseconds(200),
            "the grant applies after its end"
        );
    }
    ada.post("/v1/jobs", &a_job())
        .await
        .problem(403, "missing_scope");
}

#[tokio::test]
async fn revoked_grant_is_gone_with_the_next_request() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    let path = format!("/v1/users/{}/grants", ada.user);
    let grant = json!({"role": "operator", "reason": "covers for a colleague"});
    let made = platform.client.post(&path, &grant).await.expect(201);
    ada.post("/v1/jobs", &a_job()).await.expect(201);
    let one = format!("{path}/{}", id(&made));
    platform.client.delete(&one).await.expect(204);
    ada.post("/v1/jobs", &a_job())
        .await
        .problem(403, "missing_scope");
    platform.client.delete(&one).await.problem(404, "not_found");
    let listed = platform.client.get(&path).await.expect(200);
    assert_eq!(listed["data"][0]["role"], "operator");
    assert!(listed["data"][0]["revoked_at"].is_string());
    assert_eq!(listed["data"][1]["role"], "viewer");
    for action in ["grant.create", "grant.revoke"] {
        assert!(platform.audit_count(action).await >= 1, "{action}");
    }
}

#[tokio::test]
async fn roles_include_inherited_permissions() {
    let platform = Platform::start().await;
    let roles = platform.client.get("/v1/roles").await.expect(200);
    let roles: Vec<Value> = roles["data"].as_array().unwrap().clone();
    let names: Vec<&str> = roles
        .iter()
        .map(|role| role["name"].as_str().unwrap())
        .collect();
    assert_eq!(
        names,
        [
            "admin",
            "manager",
            "operator",
            "sales_rep",
            "team_lead",
            "viewer"
        ]
    );
    let of = |name: &str| roles.iter().find(|role| role["name"] == name).unwrap();
    let within = |small: &str, large: &str| {
        let small = of(small)["permissions"].as_array().unwrap();
        small
            .iter()
            .all(|one| of(large)["permissions"].as_array().unwrap().contains(one))
    };
    for (small, large) in [
        ("viewer", "sales_rep"),
        ("sales_rep", "team_lead"),
        ("team_lead", "manager"),
        ("viewer", "operator"),
        ("manager", "admin"),
        ("operator", "admin"),
    ] {
        assert!(
            within(small, large) && !within(large, small),
            "{small} {large}"
        );
    }
    assert!(!within("operator", "manager") && !within("sales_rep", "operator"));
    assert!(!has(&of("viewer")["permissions"], "billing:read"));
    assert!(!has(&of("viewer")["permissions"], "admin:read"));
    assert!(has(&of("manager")["permissions"], "billing:read"));
    assert!(has(&of("operator")["scopes"], "jobs:write"));
    assert!(!has(&of("admin")["scopes"], "platform:admin"));
    assert_eq!(of("admin")["permissions"].as_array().unwrap().len(), 22);

    let acme = platform.acme.clone();
    let lead = platform
        .signed_in_user(&acme, "lead@example.com", "team_lead")
        .await;
    let may = permissions(&lead).await;
    for inherited in ["jobs:read", "messages:manage", "templates:manage"] {
        assert!(has(&may, inherited), "{inherited}");
    }
    assert!(!has(&may, "accounts:manage"));
}

#[tokio::test]
async fn denial_overrides_roles_and_allowances() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "operator")
        .await;
    let path = format!("/v1/users/{}/permissions", ada.user);
    let make = async |permission: &str, effect: &str| {
        let body = json!({"permission": permission, "effect": effect, "reason": "a test"});
        id(&platform.client.post(&path, &body).await.expect(201))
    };
    assert!(!has(&permissions(&ada).await, "billing:read"));
    make("billing:read", "allow").await;
    assert!(has(&permissions(&ada).await, "billing:read"));
    let denial = make("jobs:manage", "deny").await;
    make("jobs:manage", "allow").await;
    ada.post("/v1/jobs", &a_job())
        .await
        .problem(403, "missing_scope");
    ada.get("/v1/jobs").await.expect(200);
    platform
        .client
        .delete(&format!("{path}/{denial}"))
        .await
        .expect(204);
    ada.post("/v1/jobs", &a_job()).await.expect(201);

    // Periods apply to overrides too.
    let later = clock::now() + TimeDelta::hours(1);
    let body = json!({"permission": "jobs:read", "effect": "deny", "not_before": later,
        "reason": "a test"});
    platform.client.post(&path, &body).await.expect(201);
    ada.get("/v1/jobs").await.expect(200);
    platform
        .sql("update app.user_permissions set not_before = now() where permission = 'jobs:read'")
        .await;
    ada.get("/v1/jobs").await.problem(403, "missing_scope");
    platform.sql("update app.user_permissions set not_before = now() - interval '1 h', expires_at = now() where permission = 'jobs:read'").await;
    ada.get("/v1/jobs").await.expect(200);
    let listed = platform.client.get(&path).await.expect(200);
    assert_eq!(listed["data"].as_array().unwrap().len(), 4);
    assert_eq!(listed["data"][0]["effect"], "deny");
}

#[tokio::test]
async fn invalid_grant_is_reported_by_pointer() {
    let platform = Platform::start().await;
    let acme = platform.acme.clone();
    let ada = platform
        .signed_in_user(&acme, "ada@example.com", "viewer")
        .await;
    let past = clock::now() - TimeDelta::hours(1);
    let later = clock::now() + TimeDelta::hours(1);
    let grants = format!("/v1/users/{}/grants", ada.user);
    let overrides = format!("/v1/users/{}/permissions", ada.user);
    for (path, body, pointer) in [
        (&grants, json!({"role": "king", "reason": "x"}), "/role"),
        (&grants, json!({"reason": "x"}), "/role"),
        (&grants, json!({"role": "viewer"}), "/reason"),
        (&grants, json!({"role": "viewer", "reason": ""}), "/reason"),
        (
            &grants,
            json!({"role": "viewer", "reason": "x", "expires_at": past}),
            "/expires_at",
        ),
        (
            &grants,
            json!({"role": "viewer", "reason": "x", "not_before": later, "expires_at": later}),
            "/expires_at",
        ),
        (
            &overrides,
            json!({"permission": "jobs:all", "effect": "allow", "reason": "x"}),
            "/permission",
        ),
        (
            &overrides,
            json!({"permission": "jobs:read", "effect": "maybe", "reason": "x"}),
            "/effect",
        ),
        (
            &"/v1/users".to_owned(),
            json!({"email": "x", "name": "x", "role": "viewer"}),
            "/email",
        ),
        (
            &"/v1/users".to_owned(),
            json!({"email": "x@y", "name": "", "role": "viewer"}),
            "/name",
        ),
    ] {
        let faults = platform
            .client
            .post(path, &body)
            .await
            .problem(422, "invalid");
        assert_eq!(faults[0].0, pointer, "{body}");
    }
    let body = json!({"email": "ADA@example.com", "name": "Ada", "role": "viewer"});
    platform
        .client
        .post("/v1/users", &body)
        .await
        .problem(409, "conflict");
    let unknown_user = "/v1/users/usr_01h455vb4pex5vsknk084sn02q/grants";
    let grant = json!({"role": "viewer", "reason": "x"});
    platform
        .client
        .post(unknown_user, &grant)
        .await
        .problem(404, "not_found");
}
