//! Tests of inspecting waiting jobs.

use crate::odd::{Args, Odd, SECOND, kit};

#[tokio::test]
async fn only_waiting_jobs_are_listed_with_their_payloads() {
    let kit = kit().await;
    kit.refute_enqueued::<Odd>().await;
    let done = kit.enqueue::<Odd>(Args::Succeed).await;
    assert_eq!(kit.drain("odd").await.succeeded, [done]);
    let later = kit.enqueue::<Odd>(Args::Snooze(3)).delay(SECOND).await;
    let now = kit.enqueue::<Odd>(Args::Bury).await;
    let waiting = kit.enqueued::<Odd>().await;
    let ids: Vec<_> = waiting.iter().map(|one| one.id).collect();
    assert_eq!(ids, [later, now]);
    let first = &waiting[0];
    assert_eq!(
        (&first.args, first.queue.as_str(), first.priority, first.due),
        (&Args::Snooze(3), "odd", 5, kit.now() + SECOND)
    );
    let found = kit
        .assert_enqueued::<Odd>(|args| matches!(args, Args::Bury))
        .await;
    assert_eq!(found.id, now);
}

/// The panic message of a task.
async fn describe(of: impl Future<Output = ()> + Send + 'static) -> String {
    let error = tokio::spawn(of).await.unwrap_err();
    *error.into_panic().downcast::<String>().unwrap()
}

#[tokio::test]
async fn assertion_for_a_missing_job_lists_the_waiting_jobs() {
    let kit = std::sync::Arc::new(kit().await);
    let shared_kit = std::sync::Arc::clone(&kit);
    let assertion = async move {
        shared_kit
            .assert_enqueued::<Odd>(|args| *args == Args::Fail)
            .await;
    };
    let message = describe(assertion).await;
    assert!(
        message.ends_with("no matching job of test.odd is waiting; waiting jobs: none"),
        "{message}"
    );
    assert!(
        message.contains("enqueued.rs"),
        "the message must name the caller's line: {message}"
    );

    let id = kit.enqueue::<Odd>(Args::Snooze(3)).delay(SECOND).await;
    let due = (kit.now() + SECOND).to_rfc3339();
    let line = format!(
        "waiting jobs: \n  {id} in `odd`, priority 5, due {due}: {}",
        r#"{"snooze":3}"#
    );
    let shared_kit = std::sync::Arc::clone(&kit);
    let assertion = async move {
        shared_kit
            .assert_enqueued::<Odd>(|args| *args == Args::Fail)
            .await;
    };
    let message = describe(assertion).await;
    assert!(message.ends_with(&line), "{message}");
    let shared_kit = std::sync::Arc::clone(&kit);
    let message = describe(async move { shared_kit.refute_enqueued::<Odd>().await }).await;
    assert!(
        message.ends_with(&format!("expected no waiting job of test.odd; {line}")),
        "{message}"
    );
}
