//! The OpenAPI document against the server.

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::support::Platform;

#[tokio::test]
async fn openapi_document_is_3_1_with_keys_and_problems() {
    let platform = Platform::start().await;
    let response = platform.client.with_key("").get("/openapi.json").await;
    assert_eq!(response.header("content-type"), "application/json");
    let document = response.expect(200);
    assert_eq!(document["openapi"], "3.1.0");
    assert_eq!(document["info"]["title"], "Harkara");
    assert_eq!(
        document["components"]["securitySchemes"]["api_key"]["scheme"],
        "bearer"
    );
    for name in [
        "Problem",
        "FieldError",
        "Job",
        "NewJob",
        "Attempt",
        "Endpoint",
        "Delivery",
    ] {
        assert!(
            document["components"]["schemas"][name].is_object(),
            "{name}"
        );
    }
    let problem = &document["components"]["schemas"]["Problem"]["properties"];
    for name in [
        "type",
        "title",
        "status",
        "detail",
        "instance",
        "code",
        "request_id",
        "errors",
    ] {
        assert!(problem[name].is_object(), "{name}");
    }
}

#[tokio::test]
async fn every_path_serves_exactly_its_documented_methods() {
    let platform = Platform::start().await;
    let document = platform.client.get("/openapi.json").await.expect(200);
    for (path, item) in document["paths"].as_object().unwrap() {
        let mut documented: BTreeSet<String> = item
            .as_object()
            .unwrap()
            .keys()
            .map(|method| method.to_uppercase())
            .collect();
        if documented.contains("GET") {
            documented.insert("HEAD".to_owned());
        }
        let method = Method::from_bytes(b"BREW").unwrap();
        let response = platform
            .client
            .send(method, &path.replace("{id}", "x"), &[], None)
            .await;
        response.problem(405, "method_not_allowed");
        let allowed: BTreeSet<String> = response
            .header("allow")
            .split(',')
            .map(|method| method.trim().to_owned())
            .collect();
        assert_eq!(allowed, documented, "{path}");
    }
}

#[tokio::test]
async fn documented_job_schema_matches_the_response() {
    let platform = Platform::start().await;
    let document = platform.client.get("/openapi.json").await.expect(200);
    let job = platform
        .client
        .post("/v1/jobs", &crate::jobs::a_job())
        .await
        .expect(201);
    let names = |object: &Value| -> BTreeSet<String> {
        object.as_object().unwrap().keys().cloned().collect()
    };
    let schema = &document["components"]["schemas"]["Job"];
    assert_eq!(names(&schema["properties"]), names(&job));
    let required: BTreeSet<String> = serde_json::from_value(schema["required"].clone()).unwrap();
    assert_eq!(required, names(&job));
    // The example of a new job is valid.
    let example = &document["components"]["schemas"]["NewJob"]["example"];
    platform.client.post("/v1/jobs", example).await.expect(201);
    let content = &document["paths"]["/v1/jobs/batch"]["post"]["requestBody"]["content"];
    let example = &content["application/json"]["example"];
    platform
        .client
        .post("/v1/jobs/batch", example)
        .await
        .expect(201);
    assert!(content["application/x-ndjson"].is_object());
    for (name, path, status) in [
        ("BulkAction", "/v1/jobs/bulk", 202),
        ("NewEndpoint", "/v1/webhook-endpoints", 201),
        ("NewEvent", "/v1/events", 202),
        ("NewEventType", "/v1/event-types", 201),
    ] {
        let example = &document["components"]["schemas"][name]["example"];
        platform.client.post(path, example).await.expect(status);
    }
}
