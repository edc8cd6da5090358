//! CLI commands for users.

use serde_json::{Value, json};

use crate::commands::{database_with_tenant, run, run_json};

#[tokio::test(flavor = "multi_thread")]
async fn users_are_created_listed_and_given_links() {
    let database = database_with_tenant().await;
    let create = ["user", "create", "Ada@Example.com", "--role", "operator"];
    let ada = run_json(&database, &[&create[..], &["--tenant", "acme"]].concat()).await;
    assert_eq!(ada["email"], "ada@example.com");
    assert_eq!(ada["name"], "Ada");
    assert_eq!(ada["roles"], json!(["operator"]));
    assert!(ada["id"].as_str().unwrap().starts_with("usr_"), "{ada}");
    let url = |answer: &Value| answer["sign_in_url"].as_str().unwrap().to_owned();
    let first = url(&ada);
    let token = first
        .strip_prefix("http://127.0.0.1:8080/sign-in/")
        .unwrap();
    assert_eq!(token.len(), 43);

    let more = [
        "user",
        "create",
        "bob@example.com",
        "--role",
        "viewer",
        "--name",
        "Bob B.",
        "--expires-at",
        "2040-01-31T12:00:00Z",
        "--reason",
        "for a while",
        "--tenant",
        "acme",
    ];
    let bob = run_json(&database, &more).await;
    assert_eq!(bob["name"], "Bob B.");
    let listed = run_json(&database, &["user", "ls", "--tenant", "acme"]).await;
    let emails: Vec<&Value> = listed["data"]
        .as_array()
        .unwrap()
        .iter()
        .map(|user| &user["email"])
        .collect();
    assert_eq!(emails, ["bob@example.com", "ada@example.com"]);
    let (_, lines) = run(&database, &["user", "ls", "--tenant", "acme"]).await;
    assert!(lines.contains("ada@example.com  Ada  operator"), "{lines}");
    let link = ["user", "link", "ADA@example.com", "--tenant", "acme"];
    assert_ne!(url(&run_json(&database, &link).await), first);

    // Without a tenant, the user belongs to the platform.
    let root = run_json(
        &database,
        &["user", "create", "root@example.com", "--role", "admin"],
    )
    .await;
    assert_eq!(root["roles"], json!(["admin"]));
    for (args, words) in [
        (
            &["user", "create", "x", "--role", "viewer"][..],
            "email must have",
        ),
        (
            &["user", "create", "x@y", "--role", "king"],
            "unknown role `king`",
        ),
        (
            &["user", "create", "root@example.com", "--role", "viewer"],
            "is taken",
        ),
        (
            &[
                "user", "create", "x@y", "--role", "viewer", "--tenant", "none",
            ],
            "tenant `none` not found",
        ),
        (
            &[
                "user",
                "create",
                "x@y",
                "--role",
                "viewer",
                "--expires-at",
                "2020-01-01T00:00:00Z",
            ],
            "in the future",
        ),
        (
            &["user", "link", "ada@example.com"],
            "user `ada@example.com` of tenant",
        ),
    ] {
        let (ended, output) = run(&database, args).await;
        assert_eq!(ended, Some(1), "{args:?}: {output}");
        assert!(output.contains(words), "{args:?}: {output}");
    }
}
