//! Start-up: all configuration errors at once, and one clear line for a wrong schema.

use std::io::Write;
use std::time::Duration;

use harkara_tests::{Platform, Process, ready};

const EXIT_TIMEOUT: Duration = Duration::from_secs(30);

#[tokio::test]
async fn every_configuration_error_is_reported_at_once_with_exit_code_2() {
    for name in [
        "harkara-api",
        "harkara-worker",
        "harkara-scheduler",
        "harkara",
    ] {
        let mistakes = [
            ("HARKARA_API_ADDR", "nowhere"),
            ("HARKARA_LEASE_SECS", "0"),
            ("HARKARA_WORKER_QUEUES", "webhook=many,UPPER=1"),
            ("HARKARA_EGRESS_ALLOW", "10.0.0.0/99"),
            ("HARKARA_MASTER_KEY", "short"),
            ("HARKARA_LOG_FORMAT", "xml"),
            ("DATABASE_URL", "mysql://secret@localhost"),
        ];
        let environment: Vec<(&str, String)> = mistakes
            .iter()
            .map(|(name, value)| (*name, (*value).to_owned()))
            .collect();
        let mut process = Process::start(name, &[], &environment);
        assert_eq!(
            process.ended(EXIT_TIMEOUT).await,
            Some(2),
            "{name}: {}",
            process.output()
        );
        let output = process.output();
        for (variable, _) in mistakes {
            assert!(
                output.contains(variable),
                "{name} does not report {variable}: {output}"
            );
        }
        assert!(
            !output.contains("secret"),
            "{name} repeats a value that can be secret: {output}"
        );
    }
}

#[tokio::test]
async fn invalid_and_missing_settings_are_reported_together() {
    let environment = [("HARKARA_WORKER_ADDR", "nowhere".to_owned())];
    for (name, arguments) in [("harkara-worker", &[][..]), ("harkara", &["worker"])] {
        let mut process = Process::start(name, arguments, &environment);
        assert_eq!(
            process.ended(EXIT_TIMEOUT).await,
            Some(2),
            "{}",
            process.output()
        );
        for variable in ["HARKARA_WORKER_ADDR", "DATABASE_URL", "HARKARA_MASTER_KEY"] {
            assert!(process.output().contains(variable), "{}", process.output());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn single_binary_runs_every_service() {
    let database = harkara_test_database::TestDatabase::create().await;
    let platform = Platform::on(database.url(), database.pool()).with_single_binary();
    let (_api, _) = platform.api().await;
    let (worker, worker_address) = platform.worker("http=1", 30, 5);
    let (scheduler, scheduler_address) = platform.scheduler();
    ready(&worker, worker_address).await;
    ready(&scheduler, scheduler_address).await;
}

#[tokio::test]
async fn production_requirements_are_reported_at_once() {
    for (name, needed) in [
        ("harkara-api", &["DATABASE_URL", "HARKARA_MASTER_KEY"][..]),
        ("harkara-worker", &["DATABASE_URL", "HARKARA_MASTER_KEY"]),
        ("harkara-scheduler", &["DATABASE_URL"]),
    ] {
        let mut process = Process::start(name, &[], &[]);
        assert_eq!(
            process.ended(EXIT_TIMEOUT).await,
            Some(2),
            "{name}: {}",
            process.output()
        );
        for variable in needed {
            assert!(
                process.output().contains(variable),
                "{name}: {}",
                process.output()
            );
        }
    }
}

#[tokio::test]
async fn environment_overrides_the_configuration_file() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("harkara.toml");
    std::fs::write(
        &path,
        "HARKARA_LEASE_SECS = 0\nHARKARA_LAESE = 3\nHARKARA_NOTIFY = false\n",
    )
    .unwrap();
    let file = ("HARKARA_CONFIG", path.to_str().unwrap().to_owned());
    let mut process = Process::start("harkara-worker", &[], std::slice::from_ref(&file));
    assert_eq!(process.ended(EXIT_TIMEOUT).await, Some(2));
    let output = process.output();
    assert!(output.contains("HARKARA_LEASE_SECS"), "{output}");
    assert!(
        output.contains("HARKARA_LAESE: is not a Harkara setting"),
        "{output}"
    );
    let environment = [file, ("HARKARA_LEASE_SECS", "30".to_owned())];
    let mut process = Process::start("harkara-worker", &[], &environment);
    assert_eq!(process.ended(EXIT_TIMEOUT).await, Some(2));
    assert!(
        !process.output().contains("LEASE_SECS"),
        "{}",
        process.output()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn process_stops_despite_idle_and_half_sent_requests() {
    let database = harkara_test_database::TestDatabase::create().await;
    let platform = Platform::on(database.url(), database.pool());
    let (api, api_address) = platform.api().await;
    let (worker, worker_address) = platform.worker("http=1", 30, 1);
    let (scheduler, scheduler_address) = platform.scheduler();
    for (mut process, address) in [
        (api, api_address),
        (worker, worker_address),
        (scheduler, scheduler_address),
    ] {
        ready(&process, address).await;
        let _silent = std::net::TcpStream::connect(address).unwrap();
        let mut half = std::net::TcpStream::connect(address).unwrap();
        half.write_all(b"GET /healthz HTTP/1.1\r\nHost: x\r\n")
            .unwrap();
        process.signal("TERM");
        let code = process.ended(EXIT_TIMEOUT).await;
        assert_eq!(code, Some(0), "{}", process.output());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn process_works_on_the_schema_of_the_next_release() {
    let database = harkara_test_database::TestDatabase::create().await;
    harkara_shared::database::query(
        "insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         values (9999, 'of a later release', true, '', 0)",
    )
    .execute(&database.pool())
    .await
    .unwrap();
    let platform = Platform::on(database.url(), database.pool());
    let (scheduler, address) = platform.scheduler();
    ready(&scheduler, address).await;
}
