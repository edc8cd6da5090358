//! Lists: filters, pagination, cursors.

use std::collections::HashSet;

use harkara_accounts::Scope;
use serde_json::{Value, json};

use crate::jobs::{a_job, a_job_with};
use crate::support::{Client, Platform};

fn ids(page: &Value) -> Vec<String> {
    let jobs = page["data"].as_array().expect("data");
    jobs.iter()
        .map(|job| job["id"].as_str().expect("an id").to_owned())
        .collect()
}

/// The ids on all pages of a list, and the number of pages.
async fn walk(client: &Client, path: &str) -> (Vec<String>, usize) {
    let (mut found, mut pages, mut cursor) = (Vec::new(), 0, String::new());
    loop {
        let page = client.get(&format!("{path}{cursor}")).await.expect(200);
        found.extend(ids(&page));
        pages += 1;
        match page["next_cursor"].as_str() {
            Some(next) => cursor = format!("&cursor={next}"),
            None => return (found, pages),
        }
    }
}

#[tokio::test]
async fn paging_over_120_jobs_returns_each_once_newest_first() {
    let platform = Platform::start().await;
    let jobs: Vec<Value> = (0..120)
        .map(|n| a_job_with("tags", json!([if n % 3 == 0 { "third" } else { "other" }])))
        .collect();
    let made = platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await
        .expect(201);
    let mut made: Vec<String> = serde_json::from_value(made["ids"].clone()).unwrap();
    made.reverse();

    for (limit, pages) in [(50, 3), (7, 18), (40, 3), (60, 2), (120, 1), (200, 1)] {
        let (found, seen) = walk(&platform.client, &format!("/v1/jobs?limit={limit}")).await;
        assert_eq!((&found, seen), (&made, pages), "{limit}");
    }
    let (by_default, pages) = walk(&platform.client, "/v1/jobs?").await;
    assert_eq!((by_default.len(), pages), (120, 3));
    let (thirds, pages) = walk(&platform.client, "/v1/jobs?tag=third&limit=15").await;
    assert_eq!((thirds.len(), pages), (40, 3));
    assert_eq!(thirds.iter().collect::<HashSet<_>>().len(), 40);
}

#[tokio::test]
async fn new_jobs_do_not_disturb_paging() {
    let platform = Platform::start().await;
    let jobs = vec![a_job(); 10];
    platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await
        .expect(201);
    let first = platform.client.get("/v1/jobs?limit=5").await.expect(200);
    platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await
        .expect(201);
    let next = first["next_cursor"].as_str().unwrap();
    let second = platform
        .client
        .get(&format!("/v1/jobs?limit=5&cursor={next}"))
        .await
        .expect(200);
    assert_eq!(second["next_cursor"], Value::Null);
    let all: HashSet<String> = ids(&first).into_iter().chain(ids(&second)).collect();
    assert_eq!(all.len(), 10);
}

#[tokio::test]
async fn filters_are_combined_with_and() {
    let platform = Platform::start().await;
    let plain = platform.client.post("/v1/jobs", &a_job()).await.expect(201);
    let mut target = a_job_with("tags", json!(["a b&c", "x"]));
    target["queue"] = json!("other");
    target["unique_key"] = json!("k/1");
    target["delay"] = json!("1h");
    target["ordering_key"] = json!("o 1");
    let target = platform.client.post("/v1/jobs", &target).await.expect(201);
    let created = target["created_at"].as_str().unwrap();
    for (query, matches_plain, matches_target) in [
        ("", true, true),
        ("state=ready", true, false),
        ("state=scheduled", false, true),
        ("state=dead", false, false),
        ("kind=http.request", true, true),
        ("kind=no.such", false, false),
        ("queue=other", false, true),
        ("tag=a+b%26c", false, true),
        ("tag=x&unique_key=k%2F1", false, true),
        ("tag=y&unique_key=k%2F1", false, false),
        ("unique_key=k/1", false, true),
        ("unique_key=k", false, false),
        ("ordering_key=o+1", false, true),
        ("ordering_key=o+1&tag=x&unique_key=k/1", false, true),
        ("ordering_key=o+1&tag=y", false, false),
        ("ordering_key=o", false, false),
        ("error_code=http_500", false, false),
        (&format!("created_after={created}"), false, true),
        (&format!("created_before={created}"), true, false),
        (
            "created_after=2000-01-01T00:00:00%2B01:00&queue=http",
            true,
            false,
        ),
    ] {
        let page = platform
            .client
            .get(&format!("/v1/jobs?{query}"))
            .await
            .expect(200);
        let expected: Vec<String> = [(&target, matches_target), (&plain, matches_plain)]
            .into_iter()
            .filter(|(_, matches)| *matches)
            .map(|(job, _)| job["id"].as_str().unwrap().to_owned())
            .collect();
        assert_eq!(ids(&page), expected, "{query}");
        assert_eq!(page["next_cursor"], Value::Null);
    }
}

#[tokio::test]
async fn invalid_query_parameter_is_refused_by_name() {
    let platform = Platform::start().await;
    for (query, pointer, code) in [
        ("ordering_kee=a", "/ordering_kee", "unknown_field"),
        ("ordering_key=%00", "/ordering_key", "nul_character"),
        ("stat=ready", "/stat", "unknown_field"),
        ("state=", "/state", "invalid"),
        ("state=READY", "/state", "invalid"),
        ("limit=0", "/limit", "invalid"),
        ("limit=201", "/limit", "invalid"),
        ("limit=1.5", "/limit", "invalid"),
        ("created_after=yesterday", "/created_after", "invalid"),
        ("tag=a&tag=b", "/tag", "duplicate"),
        ("tag=%00", "/tag", "nul_character"),
        ("unique_key=a%00b", "/unique_key", "nul_character"),
    ] {
        let response = platform.client.get(&format!("/v1/jobs?{query}")).await;
        let expected = [(pointer.to_owned(), code.to_owned())];
        assert_eq!(response.problem(400, "invalid_query"), expected, "{query}");
        let detail = response.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(pointer.trim_start_matches('/')), "{detail}");
    }
    let both = platform.client.get("/v1/jobs?stat=ready&limit=0").await;
    assert_eq!(both.problem(400, "invalid_query").len(), 2);
    platform
        .client
        .get("/v1/deliveries?endpoint_id=ep_x")
        .await
        .problem(400, "invalid_query");
    platform
        .client
        .get("/v1/webhook-endpoints?state=x")
        .await
        .problem(400, "invalid_query");
}

#[tokio::test]
async fn cursor_works_only_for_its_own_list() {
    let platform = Platform::start().await;
    let jobs = vec![a_job_with("tags", json!(["t"])); 3];
    platform
        .client
        .post("/v1/jobs/batch", &json!({"jobs": jobs}))
        .await
        .expect(201);
    let page = platform
        .client
        .get("/v1/jobs?tag=t&limit=1")
        .await
        .expect(200);
    let cursor = page["next_cursor"].as_str().unwrap();
    // The page size is not part of the filter.
    let rest = platform
        .client
        .get(&format!("/v1/jobs?cursor={cursor}&limit=9&tag=t"))
        .await;
    assert_eq!(ids(&rest.expect(200)).len(), 2);

    let forged = format!("B{}", &cursor[1..]);
    for query in [
        format!("cursor={cursor}"),
        format!("tag=u&cursor={cursor}"),
        format!("tag=t&state=ready&cursor={cursor}"),
        format!("tag=t&cursor={forged}"),
        format!("tag=t&cursor={cursor}A"),
        "tag=t&cursor=".to_owned(),
        "tag=t&cursor=%3D%3D".to_owned(),
        "tag=t&cursor=job_0000000000500".to_owned(),
    ] {
        let response = platform.client.get(&format!("/v1/jobs?{query}")).await;
        response.problem(400, "invalid_cursor");
    }
    for path in ["/v1/deliveries", "/v1/webhook-endpoints"] {
        let response = platform
            .client
            .get(&format!("{path}?cursor={cursor}"))
            .await;
        response.problem(400, "invalid_cursor");
    }
    let other = platform.tenant("other").await;
    let foreign = platform.client_of(&other, &[Scope::JobsRead]).await;
    let response = foreign
        .get(&format!("/v1/jobs?tag=t&cursor={cursor}"))
        .await;
    response.problem(400, "invalid_cursor");
}
