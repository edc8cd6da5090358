//! Calls every route and method with ids of another tenant: nothing is found, nothing is disclosed, and
//! nothing changes. A new route is included as soon as the OpenAPI document has it; a route with an unknown
//! path parameter fails the test.

use std::collections::BTreeMap;

use harkara_accounts::{Scope, Tenant};
use reqwest::Method;
use serde_json::{Value, json};
use sqlx::PgPool;

use crate::support::{Client, Platform, TestResponse};
use crate::users::Browser;

/// Data of one tenant: an id for every path parameter, and words that only this tenant can see.
struct Belongings {
    tenant: Tenant,
    ids: BTreeMap<&'static str, String>,
    words: Vec<String>,
    client: Client,
    browser: Browser,
    key: String,
}

impl Belongings {
    /// Creates one resource of every type.
    async fn of(platform: &Platform, tenant: Tenant) -> Self {
        let slug = tenant.slug.clone();
        let key = platform
            .key(&tenant, &crate::users::tenant_scopes(), None)
            .await;
        let client = platform.client.with_key(&key);
        let email = format!("ada@{slug}.example");
        let browser = platform.signed_in_user(&tenant, &email, "admin").await;
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let mut ids = BTreeMap::new();
        let mut words = vec![email, key.clone(), browser.cookie.clone()];

        let job = json!({
            "kind": "http.request", "delay": "1h", "tags": [format!("tag-of-{slug}")],
            "unique_key": format!("unique-of-{slug}"), "ordering_key": format!("order-of-{slug}"),
            "payload": {"url": format!("http://127.0.0.1:9/{slug}")},
        });
        let job = client.post("/v1/jobs", &job).await.expect(201);
        ids.insert("job", text(&job["id"]));
        words.extend(["tag-of-", "unique-of-", "order-of-"].map(|word| format!("{word}{slug}")));

        let endpoint = json!({"url": format!("http://127.0.0.1:9/hook-of-{slug}")});
        let endpoint = client
            .post("/v1/webhook-endpoints", &endpoint)
            .await
            .expect(201);
        ids.insert("endpoint", text(&endpoint["id"]));
        words.push(text(&endpoint["secret"]));
        let event = json!({"type": "a.b", "data": {"of": format!("data-of-{slug}")}});
        let event = client.post("/v1/events", &event).await.expect(202);
        ids.insert("delivery", text(&event["deliveries"][0]["id"]));
        words.push(text(&event["id"]));
        words.push(format!("data-of-{slug}"));
        let own =
            json!({"name": format!("type_of.{slug}"), "description": format!("secret-of-{slug}")});
        let own = client.post("/v1/event-types", &own).await.expect(201);
        ids.insert("event type", text(&own["name"]));
        words.push(format!("secret-of-{slug}"));

        let created = json!({"name": format!("key-of-{slug}"), "scopes": ["jobs:read"]});
        let created = client.post("/v1/api-keys", &created).await.expect(201);
        ids.insert("key", text(&created["id"]));
        words.push(text(&created["key"]));
        words.push(format!("key-of-{slug}"));

        let user = json!({"email": format!("bob@{slug}.example"), "name": "Bob", "role": "viewer"});
        let user = browser.post("/v1/users", &user).await.expect(201);
        let user = text(&user["id"]);
        let grants = browser
            .get(&format!("/v1/users/{user}/grants"))
            .await
            .expect(200);
        ids.insert("grant", text(&grants["data"][0]["id"]));
        let denied = json!({"permission": "jobs:read", "effect": "deny", "reason": "a test"});
        let denied = browser
            .post(&format!("/v1/users/{user}/permissions"), &denied)
            .await
            .expect(201);
        ids.insert("override", text(&denied["id"]));
        ids.insert("user", user);
        words.push(format!("bob@{slug}.example"));

        let lane = json!({"max_running": 3});
        let lane_key = format!("lane-of-{slug}");
        client
            .put(&format!("/v1/queues/http/lanes/{lane_key}"), &lane)
            .await
            .expect(200);
        // A lane of this name in another tenant is its own, so the name can be shown.
        ids.insert("lane", lane_key);
        let limit = json!({"limits": {format!("limit-of-{slug}"): {"max_running": 2}}});
        client
            .put(&format!("/v1/tenants/{}/limits", tenant.id), &limit)
            .await
            .expect(200);
        words.push(format!("limit-of-{slug}"));
        ids.insert("tenant", tenant.id.to_string());
        let visible = ids.iter().filter(|(kind, _)| **kind != "lane");
        words.extend(visible.map(|(_, id)| id.clone()));
        Self {
            tenant,
            ids,
            words,
            client,
            browser,
            key,
        }
    }
}

/// The id for a path parameter of this name.
fn id_for(path: &str, name: &str) -> &'static str {
    match (path, name) {
        (path, "id") if path.starts_with("/v1/jobs/") => "job",
        (path, "id") if path.starts_with("/v1/webhook-endpoints/") => "endpoint",
        (path, "id") if path.starts_with("/v1/deliveries/") => "delivery",
        (path, "id") if path.starts_with("/v1/api-keys/") => "key",
        (path, "id") if path.starts_with("/v1/users/") => "user",
        (path, "id") if path.starts_with("/v1/tenants/") => "tenant",
        (_, "grant_id") => "grant",
        (_, "permission_id") => "override",
        (_, "business_id") => "tenant",
        (path, "name") if path.starts_with("/v1/queues/") => "queue",
        (path, "name") if path.starts_with("/v1/event-types/") => "event type",
        (path, "key") if path.starts_with("/v1/queues/") => "lane",
        (path, name) => panic!("unknown path parameter {{{name}}} of {path}: add it here"),
    }
}

/// A route with ids of one tenant and the example of its body.
struct Route {
    method: Method,
    path: String,
    /// Whether the path names a resource of a tenant.
    is_theirs: bool,
    body: Option<String>,
}

/// All routes of the OpenAPI document, with these ids.
fn routes(document: &Value, of: &Belongings) -> Vec<Route> {
    let mut routes = Vec::new();
    for (template, item) in document["paths"].as_object().expect("paths") {
        if !template.starts_with("/v1/") {
            continue;
        }
        for (method, operation) in item.as_object().expect("an item") {
            let mut path = template.clone();
            let mut is_theirs = false;
            while let Some((before, rest)) = path.split_once('{') {
                let (name, after) = rest.split_once('}').expect("a closed name");
                let value = match id_for(template, name) {
                    "queue" => "http".to_owned(),
                    kind => {
                        is_theirs |= kind != "lane";
                        of.ids[kind].clone()
                    }
                };
                path = format!("{before}{value}{after}");
            }
            routes.push(Route {
                method: method.to_uppercase().parse().expect("a method"),
                path,
                is_theirs,
                body: example(document, operation).map(|body| body.to_string()),
            });
        }
    }
    assert!(routes.len() > 70, "{}", routes.len());
    routes
}

/// The example body of an operation in the OpenAPI document.
fn example(document: &Value, operation: &Value) -> Option<Value> {
    let content = operation["requestBody"]["content"].get("application/json")?;
    if let Some(shown) = content.get("example") {
        return Some(shown.clone());
    }
    let location = content["schema"]["$ref"].as_str()?.trim_start_matches('#');
    let schema = document.pointer(location)?;
    Some(schema.get("example").cloned().unwrap_or_else(|| json!({})))
}

/// The rows of a tenant in all tables, without the times of last use.
async fn state_of(superuser: &PgPool, tenant: &Tenant) -> BTreeMap<String, String> {
    let tables: Vec<(String, String)> = harkara_shared::database::query_as(
        "select c.oid::regclass::text, max(a.attname) from pg_class c
         join pg_attribute a on a.attrelid = c.oid and a.attname in ('tenant', 'tenant_id')
            and not a.attisdropped
         where c.relkind in ('r', 'p') and not c.relispartition
           and c.relnamespace in ('app'::regnamespace, 'queue'::regnamespace)
           -- Counters of changes and requests.
           and c.relname not in ('deltas', 'tallies', 'history', 'usage')
         group by c.oid",
    )
    .fetch_all(superuser)
    .await
    .unwrap();
    let mut state = BTreeMap::new();
    let mut connection = superuser.acquire().await.unwrap();
    harkara_shared::database::query(
        "create or replace function pg_temp.state_text(of text, key text, who uuid) returns text
         language plpgsql as $$
         declare state_text text; number int4;
         begin
            select t.number into number from queue.tenants t where t.id = who;
            execute format(
                'select coalesce(string_agg(md5((to_jsonb(r) - ''last_used_at'' - ''last_seen_at''
                    - ''last_sign_in_at'')::text), '','' order by to_jsonb(r)::text), '''')
                 from %s r where %I = $1', of, key
            ) into state_text using case key when 'tenant' then number else null end;
            return state_text;
         exception when others then
            execute format(
                'select coalesce(string_agg(md5((to_jsonb(r) - ''last_used_at'' - ''last_seen_at''
                    - ''last_sign_in_at'')::text), '','' order by to_jsonb(r)::text), '''')
                 from %s r where %I = $1', of, key
            ) into state_text using who;
            return state_text;
         end $$",
    )
    .execute(&mut *connection)
    .await
    .unwrap();
    for (table, key) in tables {
        let state_text: String =
            harkara_shared::database::query_scalar("select pg_temp.state_text($1, $2, $3)")
                .bind(&table)
                .bind(&key)
                .bind(tenant.id)
                .fetch_one(&mut *connection)
                .await
                .unwrap();
        state.insert(table, state_text);
    }
    assert!(
        state
            .values()
            .filter(|state_text| !state_text.is_empty())
            .count()
            >= 12,
        "{state:?}"
    );
    state
}

/// Asserts that a response discloses nothing of the other tenant, and does not succeed on its resources.
fn check(route: &Route, how: &str, response: &TestResponse, theirs: &Belongings) {
    let Route { method, path, .. } = route;
    for word in &theirs.words {
        // The path that the caller sent is repeated in the problem and is no disclosure.
        let text = response.text.replace(path.as_str(), "");
        assert!(
            !text.contains(word.as_str()),
            "{how} {method} {path} discloses {word}: {text}"
        );
    }
    assert!(
        response.status < 500,
        "{how} {method} {path}: {}",
        response.text
    );
    if route.is_theirs {
        assert!(
            matches!(response.status, 403 | 404),
            "{how} {method} {path}: {} {}",
            response.status,
            response.text
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_route_reaches_data_of_another_tenant() {
    let platform = Platform::start().await;
    let acme = Belongings::of(&platform, platform.acme.clone()).await;
    let other = platform.tenant("other").await;
    let other = Belongings::of(&platform, other).await;
    let superuser = PgPool::connect(&platform.database.superuser_url())
        .await
        .unwrap();
    let document = platform.client.get("/openapi.json").await.expect(200);
    let before = state_of(&superuser, &acme.tenant).await;

    let json_type = ("content-type", "application/json");
    let acme_id = acme.tenant.id.to_string();
    for route in routes(&document, &acme) {
        // Sign-in routes are open: they check credentials, not ids.
        if route.method == Method::POST && route.path == "/v1/sessions" {
            continue;
        }
        // Sign-in and sign-out change the caller's session and affect only the caller.
        let is_own = route.path.starts_with("/v1/session");
        let headers: Vec<(&str, &str)> = route.body.iter().map(|_| json_type).collect();
        let send = async |client: &Client, more: &[(&str, &str)]| {
            let mut all = headers.clone();
            all.extend_from_slice(more);
            client
                .send(route.method.clone(), &route.path, &all, route.body.clone())
                .await
        };
        // With a key of another tenant that has all its scopes.
        check(&route, "key", &send(&other.client, &[]).await, &acme);
        // With that key, acting for the tenant.
        for named in ["acme", acme_id.as_str()] {
            let response = send(&other.client, &[("x-tenant-id", named)]).await;
            response.problem(404, "not_found");
        }
        if is_own {
            continue;
        }
        // With the session of an admin of the other tenant, also acting for the tenant.
        let csrf = ("x-csrf-token", other.browser.csrf.as_str());
        let cookie = ("cookie", other.browser.cookie.as_str());
        let anonymous = other.client.with_key("");
        check(
            &route,
            "session",
            &send(&anonymous, &[cookie, csrf]).await,
            &acme,
        );
        let response = send(&anonymous, &[cookie, csrf, ("x-tenant-id", "acme")]).await;
        response.problem(404, "not_found");
        // With the tenant's own session and the CSRF token of another one.
        if !route.method.is_safe() {
            let cookie = ("cookie", acme.browser.cookie.as_str());
            send(&anonymous, &[cookie, csrf]).await.problem(403, "csrf");
            send(&anonymous, &[cookie]).await.problem(403, "csrf");
        }
        // Without credentials.
        send(&anonymous, &[]).await.problem(401, "unauthorized");
    }

    let after = state_of(&superuser, &acme.tenant).await;
    for (table, state) in &before {
        assert_eq!(after.get(table), Some(state), "{table} was changed");
    }
    // The ids are valid: the tenant's own key can read its own resources.
    for key in [&acme.key, &other.key] {
        let client = platform.client.with_key(key);
        client.get("/v1/audit-logs/verify").await.expect(200);
    }
    let own = format!("/v1/jobs/{}", acme.ids["job"]);
    acme.client.get(&own).await.expect(200);
    acme.browser.get(&own).await.expect(200);
    assert!(Scope::ALL.len() > 20);
}
