//! Start, stop and restart of a cluster, and its state in between.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use harkara_postgres::{Cluster, Error, Options, Shutdown};
use sqlx::{Executor, Row};

use crate::{
    cluster_of, connect, directory, installation, is_root, leave_a_mark, lives, names_in, options,
    start, until,
};

#[tokio::test]
async fn second_start_finds_the_data_of_the_first() {
    let dir = directory();
    for expected in 1..=3 {
        let cluster = start(dir.path()).await;
        assert_eq!(leave_a_mark(&cluster.url()).await, expected);
        assert!(cluster.notices().is_empty(), "{:?}", cluster.notices());
        let pid = cluster.postmaster_pid();
        cluster.stop(Shutdown::Fast).await.unwrap();
        assert!(!lives(pid));
    }
    let mut names = names_in(dir.path());
    names.sort();
    let major = format!("postgres-{}", installation().major());
    assert_eq!(names, [&major, "postgres.lock", "postgres.log", "run"]);
}

#[tokio::test]
async fn server_is_private_and_role_harkara_is_no_superuser() {
    let dir = directory();
    let cluster = start(dir.path()).await;
    let mut connection = connect(&cluster.url()).await;
    let row = connection
        .fetch_one(
            "select current_user::text, rolsuper, rolcreaterole, \
                current_setting('listen_addresses'), current_setting('data_checksums'), \
                datcollate::text, pg_encoding_to_char(encoding)::text, \
                pg_get_userbyid(datdba)::text, current_setting('wal_compression') \
         from pg_roles, pg_database where rolname = current_user and datname = 'harkara'",
        )
        .await
        .unwrap();
    assert_eq!(row.get::<String, _>(0), "harkara");
    assert!(!row.get::<bool, _>(1));
    assert!(row.get::<bool, _>(2));
    assert_eq!(row.get::<String, _>(3), "");
    assert_eq!(row.get::<String, _>(4), "on");
    assert_eq!(row.get::<String, _>(5), "C.UTF-8");
    assert_eq!(row.get::<String, _>(6), "UTF8");
    assert_eq!(row.get::<String, _>(7), "harkara");
    assert!(matches!(row.get::<&str, _>(8), "lz4" | "pglz" | "on"));

    let socket = fs::metadata(dir.path().join("run")).unwrap();
    assert_eq!(socket.permissions().mode() & 0o777, 0o700);
    let owner = fs::metadata(cluster_of(dir.path())).unwrap().uid();
    assert_eq!(socket.uid(), owner);
    assert_ne!(owner, 0, "the server must never run as root");
    assert_eq!(is_root(), owner != rustix::process::geteuid().as_raw());

    let mut superuser = connect(&cluster.superuser_url()).await;
    let row = superuser
        .fetch_one("select rolsuper from pg_roles where rolname = current_user")
        .await
        .unwrap();
    assert!(row.get::<bool, _>(0));
}

#[tokio::test]
async fn caller_settings_override_defaults_but_do_not_open_the_server() {
    let dir = directory();
    let mut options = options(dir.path());
    for (name, value) in [("max_connections", "17"), ("listen_addresses", "*")] {
        options.settings.push((name.to_owned(), value.to_owned()));
    }
    let cluster = Cluster::start(options).await.unwrap();
    let mut connection = connect(&cluster.url()).await;
    let row = connection
        .fetch_one("select current_setting('max_connections'), current_setting('listen_addresses')")
        .await
        .unwrap();
    assert_eq!(row.get::<&str, _>(0), "17");
    assert_eq!(row.get::<&str, _>(1), "");
}

#[tokio::test]
async fn second_start_of_a_running_cluster_is_refused_and_harmless() {
    let dir = directory();
    let cluster = start(dir.path()).await;
    let error = Cluster::start(options(dir.path())).await.unwrap_err();
    assert!(matches!(error, Error::InUse { .. }), "{error}");
    assert!(
        error
            .to_string()
            .contains("another Harkara is running on this data directory"),
        "{error}"
    );
    assert_eq!(leave_a_mark(&cluster.url()).await, 1);
}

#[tokio::test]
async fn drop_stops_the_server_and_the_next_start_waits_for_its_end() {
    let dir = directory();
    let first = start(dir.path()).await;
    assert_eq!(leave_a_mark(&first.url()).await, 1);
    let pid = first.postmaster_pid();
    // A session left open must not keep the server from ending.
    let _session = connect(&first.url()).await;
    drop(first);
    let second = start(dir.path()).await;
    assert!(!lives(pid));
    assert_eq!(leave_a_mark(&second.url()).await, 2);
}

#[test]
fn cluster_is_independent_of_the_runtime() {
    let dir = directory();
    let runtime = || tokio::runtime::Runtime::new().unwrap();
    let mut cluster = runtime().block_on(start(dir.path()));
    assert!(cluster.is_running());
    assert_eq!(runtime().block_on(leave_a_mark(&cluster.url())), 1);
    runtime().block_on(cluster.stop_immediate()).unwrap();
    assert!(!cluster.is_running());
    runtime().block_on(cluster.exited());
    runtime().block_on(cluster.restart()).unwrap();
    assert_eq!(runtime().block_on(leave_a_mark(&cluster.url())), 2);
    runtime().block_on(cluster.stop(Shutdown::Fast)).unwrap();
}

#[tokio::test]
async fn ephemeral_cluster_leaves_nothing_after_stop_or_drop() {
    let dir = directory();
    let data = dir.path().join("gone");
    let ephemeral = || Options {
        ephemeral: true,
        ..options(&data)
    };
    let cluster = Cluster::start(ephemeral()).await.unwrap();
    cluster.stop(Shutdown::Immediate).await.unwrap();
    assert!(!data.exists());

    let cluster = Cluster::start(ephemeral()).await.unwrap();
    drop(cluster);
    until("the directory is gone", || !data.exists());
}

#[tokio::test]
async fn half_created_cluster_is_recreated() {
    let dir = directory();
    let half = dir
        .path()
        .join(format!("postgres-{}-new-1", installation().major()));
    fs::create_dir_all(half.join("base")).unwrap();
    fs::write(half.join("PG_VERSION"), "15\n").unwrap();
    let cluster = start(dir.path()).await;
    assert_eq!(leave_a_mark(&cluster.url()).await, 1);
    assert!(!half.exists());
}

#[tokio::test]
async fn data_of_an_unavailable_version_is_refused_and_untouched() {
    let dir = directory();
    let other = dir.path().join("postgres-99");
    fs::create_dir(&other).unwrap();
    fs::write(other.join("PG_VERSION"), "99\n").unwrap();
    if is_root() {
        std::os::unix::fs::chown(&other, Some(65534), None).unwrap();
    }
    let error = Cluster::start(options(dir.path())).await.unwrap_err();
    assert!(
        matches!(error, Error::OtherMajor { data_major: 99, .. }),
        "{error}"
    );
    assert_eq!(names_in(&other), ["PG_VERSION"]);
    assert!(!cluster_of(dir.path()).exists());
}

#[tokio::test]
async fn failed_server_start_shows_the_end_of_its_log() {
    let dir = directory();
    let mut options = options(dir.path());
    options
        .settings
        .push(("max_connections".to_owned(), "none".to_owned()));
    let error = Cluster::start(options).await.unwrap_err();
    assert!(matches!(error, Error::Died { .. }), "{error}");
    assert!(error.to_string().contains("max_connections"), "{error}");
}

#[tokio::test]
async fn failed_initdb_shows_the_reason_and_leaves_nothing() {
    let dir = directory();
    // Programs that exist but do not work.
    let bin = dir.path().join("bin");
    fs::create_dir(&bin).unwrap();
    for (name, script) in [
        ("postgres", "#!/bin/sh\necho 'postgres (PostgreSQL) 15.0'\n"),
        ("initdb", "#!/bin/sh\necho out of paper >&2\nexit 3\n"),
    ] {
        fs::write(bin.join(name), script).unwrap();
        fs::set_permissions(bin.join(name), fs::Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&bin, fs::Permissions::from_mode(0o711)).unwrap();
    let broken = harkara_postgres::discover(Some(Path::new(&bin))).unwrap();
    let data = dir.path().join("data");
    let error = Cluster::start(Options::new(&data, broken))
        .await
        .unwrap_err();
    assert!(matches!(error, Error::Init { .. }), "{error}");
    assert!(error.to_string().contains("out of paper"), "{error}");
    assert!(!names_in(&data).iter().any(|name| name.contains("new")));
}
