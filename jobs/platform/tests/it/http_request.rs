//! `http.request`: the verdict for every behavior of a receiver.

use std::time::Duration;

use harkara_kit::{Kit, Receiver, Reply};
use harkara_platform::kinds::http_request::HttpRequest;
use harkara_queue::job::{JobState, Lane, Trace};
use serde_json::json;

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn every_status_maps_to_its_verdict() {
    let kit = Kit::start().await;
    for (status, verdict) in [
        (200, "done"),
        (201, "done"),
        (204, "done"),
        (299, "done"),
        (301, "dead"),
        (302, "dead"),
        (304, "dead"),
        (307, "dead"),
        (400, "dead"),
        (401, "dead"),
        (403, "dead"),
        (404, "dead"),
        (408, "retry"),
        (409, "dead"),
        (410, "dead"),
        (418, "retry"),
        (422, "dead"),
        (429, "rate limit"),
        (500, "retry"),
        (501, "retry"),
        (502, "retry"),
        (503, "retry"),
        (504, "retry"),
        (599, "retry"),
    ] {
        let receiver = Receiver::start(move |_| Reply::status(status)).await;
        let args = json!({"url": receiver.url, "retryable_status": ["418"]});
        let performed = kit.perform::<HttpRequest>(args).await;
        let code = format!("http_{status}");
        let wait = match verdict {
            "done" => {
                assert_eq!(performed.done().result.unwrap()["status"], status);
                None
            }
            "retry" => performed.retried(&code).wait,
            "dead" => performed.dead(&code).wait,
            _ => performed.rate_limited(&code).wait,
        };
        // A 429 without Retry-After waits half a minute.
        assert_eq!(wait, (status == 429).then_some(SECOND * 30), "{status}");
        assert_eq!(receiver.hits().len(), 1, "one request per run: {status}");
    }
}

#[tokio::test]
async fn job_defines_which_statuses_are_successes() {
    let kit = Kit::start().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let args = json!({"url": receiver.url, "success_status": ["204", "3xx"]});
    kit.perform::<HttpRequest>(args).await.dead("http_200");
    let receiver = Receiver::start(|_| Reply::status(304)).await;
    let args = json!({"url": receiver.url, "success_status": ["204", "3xx"]});
    let _ = kit.perform::<HttpRequest>(args).await.done();
}

#[tokio::test]
async fn retry_after_is_honored_in_seconds_and_as_a_date_only_for_429_and_503() {
    let kit = Kit::start().await;
    // An HTTP date has no fractions of a second.
    let whole = kit.now().timestamp();
    kit.set_clock(chrono::DateTime::from_timestamp(whole, 0).unwrap())
        .await;
    let date = |seconds: u64| {
        let moment = kit.now() + SECOND * u32::try_from(seconds).unwrap();
        moment.format("%a, %d %b %Y %H:%M:%S GMT").to_string()
    };
    for (retry_after, wait) in [
        ("17".to_owned(), Some(17)),
        ("0".to_owned(), Some(1)),
        (date(90), Some(90)),
        (date(0), Some(1)),
        ("Sun, 06 Nov 1994 08:49:37 GMT".to_owned(), Some(1)),
        ("999999999".to_owned(), Some(24 * 60 * 60)),
        ("soon".to_owned(), None),
    ] {
        for status in [429, 503, 500] {
            let header = retry_after.clone();
            let receiver =
                Receiver::start(move |_| Reply::status(status).header("retry-after", &*header))
                    .await;
            let run = kit
                .perform::<HttpRequest>(json!({"url": receiver.url}))
                .await;
            let failure = match (status, wait) {
                (429, _) | (503, Some(_)) => run.rate_limited(&format!("http_{status}")),
                _ => run.retried(&format!("http_{status}")),
            };
            let expected_wait = match (status, wait) {
                (429, None) => Some(SECOND * 30),
                (429 | 503, wait) => wait.map(Duration::from_secs),
                _ => None,
            };
            assert_eq!(failure.wait, expected_wait, "{status} with {retry_after}");
        }
    }
}

#[tokio::test]
async fn retry_after_date_is_counted_from_the_clock() {
    let kit = Kit::start().await;
    let receiver = Receiver::start(|nth| match nth {
        0 => Reply::status(429).header("retry-after", "Fri, 01 Jan 2100 00:00:00 GMT"),
        _ => Reply::status(204),
    })
    .await;
    let eve = "2099-12-31T23:59:00Z".parse().unwrap();
    kit.set_clock(eve).await;
    let id = kit
        .enqueue::<HttpRequest>(json!({"url": receiver.url}))
        .with(|job| job.max_attempts = 1)
        .await;
    assert_eq!(kit.drain("http").await.rate_limited, [id]);
    let job = kit.job(id).await;
    assert_eq!((job.attempt, job.run_at), (0, eve + SECOND * 60));
    kit.advance(SECOND * 60).await;
    assert_eq!(kit.drain("http").await.succeeded, [id]);
}

#[tokio::test]
async fn redirect_is_not_followed() {
    let kit = Kit::start().await;
    let target = Receiver::start(|_| Reply::status(200)).await;
    for status in [301, 302, 303, 307, 308] {
        let to = target.url.clone();
        let receiver =
            Receiver::start(move |_| Reply::status(status).header("location", &*to)).await;
        let args = json!({"url": receiver.url});
        kit.perform::<HttpRequest>(args)
            .await
            .dead(&format!("http_{status}"));
    }
    assert!(target.hits().is_empty());
}

#[tokio::test]
async fn forbidden_addresses_are_refused_permanently() {
    let kit = Kit::start().await;
    for url in [
        "http://169.254.169.254/latest/meta-data",
        "http://10.0.0.1/",
        "http://[::1]/",
        "http://192.168.1.1:8080/",
        "https://user:secret@example.com/",
    ] {
        let failure = kit
            .perform::<HttpRequest>(json!({"url": url}))
            .await
            .dead("egress_refused");
        assert!(!failure.message.contains("secret"), "{}", failure.message);
    }
}

#[tokio::test]
async fn refused_connection_is_a_retryable_failure() {
    let kit = Kit::start().await;
    let listener = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    drop(listener);
    let run = kit.perform::<HttpRequest>(json!({"url": url})).await;
    run.retried("egress_connect");
}

#[tokio::test]
async fn broken_response_is_a_retryable_failure() {
    let kit = Kit::start().await;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", 0))
        .await
        .unwrap();
    let url = format!("http://{}/", listener.local_addr().unwrap());
    tokio::spawn(async move { while listener.accept().await.is_ok() {} });
    let run = kit.perform::<HttpRequest>(json!({"url": url})).await;
    run.retried("egress_io");
}

#[tokio::test]
async fn slow_receiver_times_out_before_the_job() {
    let kit = Kit::start().await;
    let receiver = Receiver::start(|_| Reply {
        after: SECOND * 600,
        ..Reply::status(200)
    })
    .await;
    let run = kit
        .perform::<HttpRequest>(json!({"url": receiver.url}))
        .timeout(Duration::from_millis(200))
        .await;
    // The request timeout is three quarters of such a short job timeout.
    assert_eq!(
        run.retried("egress_timeout").message,
        "timed out after 150ms"
    );
}

#[tokio::test]
async fn beginning_of_a_response_is_kept() {
    let kit = Kit::start().await;
    let answered = async |body: String| {
        let receiver = Receiver::start(move |_| Reply::status(200).body(body.clone())).await;
        let run = kit.perform::<HttpRequest>(json!({"url": receiver.url}));
        let result = run.await.done().result.unwrap();
        result["body"].as_str().unwrap().to_owned()
    };
    assert_eq!(answered("fine".to_owned()).await, "fine");
    assert_eq!(answered(String::new()).await, "");
    assert_eq!(answered("x".repeat(4096)).await.len(), 4096);
    assert_eq!(answered("x".repeat(1 << 20)).await.len(), 4096);
    // Truncated at a character boundary, and without characters that PostgreSQL rejects.
    assert_eq!(answered("ü".repeat(3000)).await.chars().count(), 2048);
    assert_eq!(answered(format!("x{}", "ü".repeat(3000))).await.len(), 4095);
    assert_eq!(answered("a\0b".to_owned()).await, "ab");
}

#[tokio::test]
async fn request_matches_its_payload() {
    let kit = Kit::start().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let send = async |mut args: serde_json::Value| {
        args["url"] = receiver.url.clone().into();
        let id = kit
            .enqueue::<HttpRequest>(args)
            .with(|job| {
                job.trace = Trace {
                    traceparent: Some("00-1-2-01".to_owned()),
                    request_id: None,
                };
            })
            .await;
        assert_eq!(kit.drain("http").await.succeeded, [id]);
        (receiver.hits().pop().unwrap(), id.to_string())
    };
    let (hit, id) = send(json!({"body": {"b": 1, "a": [true]}})).await;
    assert_eq!((hit.method.as_str(), hit.path.as_str()), ("POST", "/hook"));
    assert_eq!(hit.headers["content-type"], "application/json");
    assert_eq!(hit.headers["idempotency-key"], *id);
    assert_eq!(hit.headers["traceparent"], "00-1-2-01");
    let body: serde_json::Value = serde_json::from_slice(&hit.body).unwrap();
    assert_eq!(body, json!({"b": 1, "a": [true]}));

    let headers = json!({"content-type": "text/csv", "idempotency-key": "mine", "x-a": "1"});
    let (hit, _) = send(json!({"method": "PUT", "headers": headers, "body": "a;b"})).await;
    assert_eq!((hit.method.as_str(), &*hit.body), ("PUT", &b"a;b"[..]));
    assert_eq!(hit.headers["content-type"], "text/csv");
    assert_eq!(hit.headers["idempotency-key"], "mine");
    assert_eq!(hit.headers["x-a"], "1");

    for method in ["GET", "HEAD", "DELETE"] {
        let (hit, _) = send(json!({"method": method})).await;
        assert_eq!((hit.method.as_str(), hit.body.len()), (method, 0));
        assert!(!hit.headers.contains_key("content-type"));
    }
}

#[tokio::test]
async fn failing_receiver_exhausts_the_attempts_with_growing_waits() {
    let kit = Kit::start().await;
    let start = kit.now();
    let receiver = Receiver::start(|_| Reply::status(500)).await;
    let id = kit
        .enqueue::<HttpRequest>(json!({"url": receiver.url}))
        .await;
    let drained = kit.drain("http").until(start + SECOND * 3600 * 5).await;
    assert_eq!((drained.retried.len(), drained.dead), (9, vec![id]));
    let attempts = kit.attempts(id).await;
    for (failures, pair) in (0..).zip(attempts.windows(2)) {
        let wait = (pair[1].started_at - pair[0].started_at).to_std().unwrap();
        let longest = (SECOND * 5 * 2u32.pow(failures)).min(SECOND * 3600);
        // Half of the wait is jitter.
        assert!(
            wait >= longest / 2 && wait <= longest + Duration::from_millis(2),
            "{wait:?} after failure {failures}"
        );
    }
    let keys: std::collections::BTreeSet<String> = receiver
        .hits()
        .iter()
        .map(|hit| hit.headers["idempotency-key"].to_str().unwrap().to_owned())
        .collect();
    assert_eq!(
        keys,
        [id.to_string()].into(),
        "the key must be the same in every attempt"
    );
}

#[tokio::test]
async fn rate_limiting_receiver_parks_only_its_own_lane() {
    let kit = Kit::start().await;
    let receiver = Receiver::start(|nth| match nth {
        0 => Reply::status(429).header("retry-after", "60"),
        _ => Reply::status(200),
    })
    .await;
    let args = json!({"url": receiver.url});
    let to_lane = async |lane: &str| {
        let lane = Lane::Named(lane.to_owned());
        kit.enqueue::<HttpRequest>(&args)
            .with(|job| job.lane = lane)
            .await
    };
    let (first, second) = (to_lane("a").await, to_lane("a").await);
    let other = to_lane("b").await;
    let drained = kit.drain("http").await;
    assert_eq!(
        (drained.rate_limited, drained.succeeded),
        (vec![first], vec![other])
    );
    assert_eq!(kit.job(second).await.state, JobState::Ready);
    kit.advance(SECOND * 60).await;
    let drained = kit.drain("http").await;
    assert_eq!(drained.succeeded.len(), 2);
    assert!(
        [first, second]
            .iter()
            .all(|id| drained.succeeded.contains(id))
    );
}

#[tokio::test]
async fn unsupported_method_of_a_stored_payload_is_not_sent() {
    let kit = Kit::start().await;
    let receiver = Receiver::start(|_| Reply::status(200)).await;
    let args = json!({"url": receiver.url, "method": "BREW"});
    let performed = kit.perform::<HttpRequest>(args).unchecked().await;
    performed.dead("invalid_payload");
    assert!(receiver.hits().is_empty());
}
