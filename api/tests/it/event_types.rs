//! Event types: their versions, and validation of events against them.

use std::io::ErrorKind;
use std::net::TcpListener;

use harkara_shared::database::{TenantTx, query, query_scalar};
use harkara_webhooks::check_event_data;
use serde_json::value::to_raw_value;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::support::{Client, Platform};

const SEEDED_TYPES: [&str; 19] = [
    "ai.insight_generated",
    "goal.completed",
    "goal.created",
    "goal.deleted",
    "goal.updated",
    "habit.created",
    "habit.deleted",
    "habit.logged",
    "habit.streak_milestone",
    "payment.failed",
    "payment.succeeded",
    "subscription.cancelled",
    "subscription.created",
    "subscription.updated",
    "team.member_added",
    "team.member_removed",
    "user.created",
    "user.deleted",
    "user.updated",
];

const PLATFORM_TYPES: [&str; 4] = [
    "delivery.exhausted",
    "endpoint.disabled",
    "endpoint.failing",
    "endpoint.recovered",
];

/// All items of a list, read in pages of two.
async fn all(client: &Client, path: &str) -> Vec<Value> {
    let (mut items, mut cursor) = (Vec::new(), String::new());
    loop {
        let page = format!("{path}?limit=2{cursor}");
        let page = client.get(&page).await.expect(200);
        items.extend(page["data"].as_array().unwrap().iter().cloned());
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return items,
        }
    }
}

async fn register(client: &Client, name: &str, schema: Value) -> Value {
    let new = json!({"name": name, "schema": schema});
    client.post("/v1/event-types", &new).await.expect(201)
}

/// A schema of objects with an integer `amount`.
fn amount() -> Value {
    json!({
        "type": "object", "required": ["amount"],
        "properties": {
            "amount": {"type": "integer"},
            "lines": {"type": "array", "items": {"$ref": "#/$defs/line"}},
        },
        "$defs": {"line": {
            "properties": {"a/b": {"type": "string"}}, "additionalProperties": false,
        }},
    })
}

#[tokio::test]
async fn seeded_event_types_exist_and_accept_typical_events() {
    let platform = Platform::start().await;
    let types = all(&platform.client, "/v1/event-types").await;
    let named = |operational: bool| -> Vec<&str> {
        let of = types
            .iter()
            .filter(|shown| shown["operational"] == operational);
        of.map(|shown| shown["name"].as_str().unwrap()).collect()
    };
    assert_eq!(named(false), SEEDED_TYPES);
    assert_eq!(named(true), PLATFORM_TYPES);
    for shown in &types {
        assert_eq!(
            (&shown["version"], &shown["seeded"]),
            (&json!(1), &json!(true))
        );
        let path = format!("/v1/event-types/{}", shown["name"].as_str().unwrap());
        assert_eq!(&platform.client.get(&path).await.expect(200), shown);
        let members = shown["schema"]["properties"].as_object().unwrap();
        let example = shown["example"].as_object().unwrap();
        assert!(example.keys().eq(members.keys()), "{path}");
    }
    for name in SEEDED_TYPES {
        for data in [json!({}), json!({"id": 7, "anything": [null]})] {
            let event = json!({"type": name, "data": data});
            platform.client.post("/v1/events", &event).await.expect(202);
        }
    }
}

#[tokio::test]
async fn registering_an_event_type_creates_its_next_version() {
    let platform = Platform::start().await;
    let client = &platform.client;
    let new = json!({
        "name": "invoice.paid", "description": "Paid in full", "schema": amount(), "example": {"amount": 1},
    });
    let response = client.post("/v1/event-types", &new).await;
    let first = response.expect(201);
    assert_eq!(response.header("location"), "/v1/event-types/invoice.paid");
    for name in ["name", "description", "schema", "example"] {
        assert_eq!(first[name], new[name], "{name}");
    }
    assert_eq!(
        (&first["version"], &first["seeded"]),
        (&json!(1), &json!(false))
    );

    let second = register(client, "invoice.paid", json!({})).await;
    assert_eq!(second["version"], 2);
    let path = "/v1/event-types/invoice.paid";
    assert_eq!(client.get(path).await.expect(200), second);
    for (version, shown) in [(1, &first), (2, &second)] {
        let path = format!("{path}?version={version}");
        assert_eq!(&client.get(&path).await.expect(200), shown);
    }
    let third = client
        .post("/v1/event-types", &json!({"name": "invoice.paid"}))
        .await;
    let third = third.expect(201);
    assert_eq!(
        (&third["schema"], &third["example"]),
        (&Value::Null, &Value::Null)
    );
    let versions = all(client, "/v1/event-types/invoice.paid/versions").await;
    assert_eq!(versions, [third.clone(), second, first]);
    let types = all(client, "/v1/event-types").await;
    assert_eq!(types.len(), SEEDED_TYPES.len() + PLATFORM_TYPES.len() + 1);
    assert!(types.contains(&third));

    for path in [
        "/v1/event-types/invoice.paid?version=4",
        "/v1/event-types/invoice.unpaid",
        "/v1/event-types/invoice.unpaid/versions",
        "/v1/event-types/user.created?version=2",
        "/v1/event-types/%00",
        "/v1/event-types/%00/versions",
    ] {
        client.get(path).await.problem(404, "not_found");
    }
    for version in ["0", "-1", "x", "2147483648"] {
        let path = format!("{path}?version={version}");
        client.get(&path).await.problem(400, "invalid_query");
    }
    let log = client
        .get("/v1/audit-logs?action=event_type.register")
        .await
        .expect(200);
    let versions: Vec<&Value> = log["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["after"]["version"])
        .collect();
    assert_eq!(versions, [3, 2, 1]);
}

#[tokio::test]
async fn tenant_version_of_a_seeded_event_type_is_version_two() {
    let platform = Platform::start().await;
    let client = &platform.client;
    let own = register(client, "user.created", amount()).await;
    assert_eq!(
        (&own["version"], &own["seeded"]),
        (&json!(2), &json!(false))
    );
    let versions = all(client, "/v1/event-types/user.created/versions").await;
    assert_eq!(versions[0], own);
    assert_eq!(
        (&versions[1]["version"], &versions[1]["seeded"]),
        (&json!(1), &json!(true))
    );
    let types = all(client, "/v1/event-types").await;
    assert_eq!(types.len(), SEEDED_TYPES.len() + PLATFORM_TYPES.len());
    assert!(types.contains(&own));
    let event = json!({"type": "user.created", "data": {}});
    client
        .post("/v1/events", &event)
        .await
        .problem(422, "invalid");
    let event = json!({"type": "user.created", "data": {}, "version": 1});
    client.post("/v1/events", &event).await.expect(202);
}

#[tokio::test]
async fn event_must_satisfy_the_current_or_named_schema_version() {
    let platform = Platform::start().await;
    let client = &platform.client;
    client
        .post(
            "/v1/webhook-endpoints",
            &json!({"url": "https://example.com/"}),
        )
        .await
        .expect(201);
    let event = |data: Value| json!({"type": "invoice.paid", "id": "in-1", "data": data});
    client
        .post("/v1/events", &event(json!({})))
        .await
        .expect(202);
    register(client, "invoice.paid", json!({"type": "object"})).await;
    register(client, "invoice.paid", amount()).await;

    for (data, pointers) in [
        (json!({}), vec!["/data/amount"]),
        (json!("x"), vec!["/data"]),
        (
            json!({"amount": "doce", "lines": 1}),
            vec!["/data/amount", "/data/lines"],
        ),
        (
            json!({"amount": 1, "lines": [{}, {"a/b": 1}, {"x": 0, "y": 0}]}),
            vec!["/data/lines/1/a~1b", "/data/lines/2/x", "/data/lines/2/y"],
        ),
    ] {
        let event = json!({"type": "invoice.paid", "data": data, "id": "in-2"});
        let response = client.post("/v1/events", &event).await;
        let expected: Vec<(String, String)> = pointers
            .iter()
            .map(|pointer| ((*pointer).to_owned(), "schema".to_owned()))
            .collect();
        assert_eq!(
            response.problem(422, "invalid"),
            expected,
            "{}",
            response.text
        );
        // The invalid value is not repeated, because it can be a secret.
        assert!(!response.text.contains("doce"), "{}", response.text);
    }
    assert_eq!(platform.jobs().await, 1);
    let mut older = json!({"type": "invoice.paid", "id": "in-2", "data": {}, "version": 1});
    client.post("/v1/events", &older).await.expect(202);
    older["version"] = json!(3);
    older["id"] = json!("in-3");
    let unknown = client
        .post("/v1/events", &older)
        .await
        .problem(422, "invalid");
    assert_eq!(unknown, [("/version".to_owned(), "unknown".to_owned())]);
    let good = json!({"type": "invoice.paid", "data": {"amount": 1, "lines": [{"a/b": "x"}]}});
    client.post("/v1/events", &good).await.expect(202);
    assert_eq!(platform.jobs().await, 3);

    // A repeated event is the same event, whatever its type requires by now.
    let again = client
        .post("/v1/events", &event(json!({})))
        .await
        .expect(202);
    assert_eq!(again["deliveries"].as_array().unwrap().len(), 1);
    assert_eq!(platform.jobs().await, 3);
}

#[tokio::test]
async fn unregistered_event_type_accepts_any_data_and_has_no_version() {
    let platform = Platform::start().await;
    let client = &platform.client;
    for data in [json!({}), json!([1]), json!("x"), json!(0)] {
        let event = json!({"type": "something.else", "data": data});
        client.post("/v1/events", &event).await.expect(202);
    }
    let event = json!({"type": "something.else", "data": {}, "version": 1});
    let faults = client
        .post("/v1/events", &event)
        .await
        .problem(422, "invalid");
    assert_eq!(faults, [("/version".to_owned(), "unknown".to_owned())]);
    // Once the type is registered, it applies immediately.
    register(client, "something.else", json!({"type": "object"})).await;
    let event = json!({"type": "something.else", "data": 0});
    client
        .post("/v1/events", &event)
        .await
        .problem(422, "invalid");
    register(client, "something.else", json!({"type": "number"})).await;
    client.post("/v1/events", &event).await.expect(202);
}

#[tokio::test]
async fn event_type_registered_by_another_process_applies_after_the_cache_expires() {
    let platform = Platform::start().await;
    let event = json!({"type": "invoice.paid", "data": 0});
    platform.client.post("/v1/events", &event).await.expect(202);
    let mut tx = TenantTx::begin(&platform.pool, platform.acme.id)
        .await
        .unwrap();
    query(
        "insert into app.event_types (tenant_id, name, version, description, schema)
         values ($1, 'invoice.paid', 1, '', '{\"type\": \"object\"}')",
    )
    .bind(platform.acme.id)
    .execute(&mut *tx)
    .await
    .unwrap();
    tx.commit().await.unwrap();
    while platform.client.post("/v1/events", &event).await.status == 202 {}
    platform
        .client
        .post("/v1/events", &event)
        .await
        .problem(422, "invalid");
}

#[tokio::test]
async fn successive_events_read_their_type_from_the_database_once() {
    let platform = Platform::start().await;
    let data = to_raw_value(&json!({"id": 1})).unwrap();
    let mut tx = TenantTx::begin(&platform.pool, platform.acme.id)
        .await
        .unwrap();
    for name in ["user.created", "something.else"] {
        assert!(
            check_event_data(&mut tx, name, None, &data)
                .await
                .unwrap()
                .is_empty()
        );
    }
    // From here on every statement of the transaction fails.
    let failed = query("select 1 / 0").execute(&mut *tx).await;
    assert!(failed.is_err());
    for (name, version) in [
        ("user.created", None),
        ("user.created", Some(1)),
        ("something.else", None),
    ] {
        let faults = check_event_data(&mut tx, name, version, &data)
            .await
            .unwrap();
        assert!(faults.is_empty(), "{faults:?}");
    }
    assert!(
        check_event_data(&mut tx, "user.deleted", None, &data)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn invalid_schema_is_reported_by_pointer_and_fetches_nothing() {
    let platform = Platform::start().await;
    let elsewhere = TcpListener::bind("127.0.0.1:0").unwrap();
    elsewhere.set_nonblocking(true).unwrap();
    let url = format!("http://{}/schema.json", elsewhere.local_addr().unwrap());
    let schema = |schema: Value| json!({"name": "a.b", "schema": schema});
    for (new, pointer, code) in [
        (json!({}), "/name", "missing"),
        (json!({"name": "a..b"}), "/name", "invalid"),
        (
            json!({"name": "a.b", "description": "x".repeat(1001)}),
            "/description",
            "too_long",
        ),
        (json!({"name": "a.b", "kind": 1}), "/kind", "unknown_field"),
        (schema(json!("x")), "/schema", "invalid"),
        (schema(json!({"type": "objet"})), "/schema/type", "invalid"),
        (
            schema(json!({"properties": {"a": {"minimum": "0"}}})),
            "/schema/properties/a/minimum",
            "invalid",
        ),
        (
            schema(json!({"pattern": "(?=x)"})),
            "/schema/pattern",
            "invalid",
        ),
        (schema(json!({"$ref": url})), "/schema/$ref", "unsupported"),
        (
            schema(json!({"$id": url, "$ref": "other.json"})),
            "/schema/$ref",
            "unsupported",
        ),
        (
            schema(json!({"items": {"$id": url, "$ref": "#"}})),
            "/schema/items/$id",
            "unsupported",
        ),
        (
            schema(json!({"items": {"$dynamicRef": url}})),
            "/schema/items/$dynamicRef",
            "unsupported",
        ),
        (
            schema(json!({"$schema": url})),
            "/schema/$schema",
            "invalid",
        ),
        (
            schema(json!({"items": {"$ref": "#/$defs/x"}})),
            "/schema/items/$ref",
            "unknown",
        ),
        (
            schema(json!({"items": {"$ref": "#"}})),
            "/schema/items/$ref",
            "recursive",
        ),
        (
            schema(json!({"description": "x".repeat(64 << 10)})),
            "/schema",
            "too_large",
        ),
        (
            json!({"name": "a.b", "example": "x".repeat(64 << 10)}),
            "/example",
            "too_large",
        ),
        (
            json!({"name": "a.b", "schema": amount(), "example": {"amount": "x"}}),
            "/example/amount",
            "schema",
        ),
    ] {
        let response = platform.client.post("/v1/event-types", &new).await;
        let faults = response.problem(422, "invalid");
        assert_eq!(
            faults,
            [(pointer.to_owned(), code.to_owned())],
            "{}",
            response.text
        );
    }
    let draft = json!({"$schema": "https://json-schema.org/draft/2020-12/schema", "$id": url});
    register(&platform.client, "a.b", draft).await;
    let called = elsewhere.accept().map(drop).map_err(|error| error.kind());
    assert_eq!(called, Err(ErrorKind::WouldBlock));
}

#[tokio::test]
async fn platform_event_types_can_be_neither_registered_nor_posted() {
    let platform = Platform::start().await;
    for name in PLATFORM_TYPES {
        let new = json!({"name": name});
        platform
            .client
            .post("/v1/event-types", &new)
            .await
            .problem(409, "conflict");
        let event = json!({"type": name, "data": {}});
        let faults = platform
            .client
            .post("/v1/events", &event)
            .await
            .problem(422, "invalid");
        assert_eq!(faults, [("/type".to_owned(), "reserved".to_owned())]);
    }
}

#[tokio::test]
async fn event_type_belongs_to_its_tenant() {
    let platform = Platform::start().await;
    let other = platform.tenant("other").await;
    let other = platform.client.with_key(
        &platform
            .key(&other, &crate::users::tenant_scopes(), None)
            .await,
    );
    register(&platform.client, "invoice.paid", amount()).await;
    register(&platform.client, "user.created", amount()).await;
    for path in [
        "/v1/event-types/invoice.paid",
        "/v1/event-types/invoice.paid/versions",
    ] {
        other.get(path).await.problem(404, "not_found");
    }
    let types = all(&other, "/v1/event-types").await;
    assert_eq!(types.len(), SEEDED_TYPES.len() + PLATFORM_TYPES.len());
    assert!(types.iter().all(|shown| shown["seeded"] == true));
    for name in ["invoice.paid", "user.created"] {
        let event = json!({"type": name, "data": {}});
        other.post("/v1/events", &event).await.expect(202);
        platform
            .client
            .post("/v1/events", &event)
            .await
            .problem(422, "invalid");
    }
    assert_eq!(
        register(&other, "invoice.paid", json!({})).await["version"],
        1
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrently_registered_versions_are_all_created() {
    let platform = Platform::start().await;
    let mut calls = JoinSet::new();
    for _ in 0..8 {
        let client = platform.client.clone();
        calls.spawn(async move { register(&client, "invoice.paid", json!({})).await });
    }
    let made = calls.join_all().await;
    let mut versions: Vec<u64> = made
        .iter()
        .map(|made| made["version"].as_u64().unwrap())
        .collect();
    versions.sort_unstable();
    assert_eq!(versions, (1..=8).collect::<Vec<u64>>());
    let stored: i64 = query_scalar("select count(*) from app.event_types")
        .fetch_one(
            &sqlx::PgPool::connect(&platform.database.superuser_url())
                .await
                .unwrap(),
        )
        .await
        .unwrap();
    assert_eq!(stored, 8);
}
