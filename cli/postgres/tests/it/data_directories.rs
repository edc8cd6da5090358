//! Fallback directories for data and socket when the preferred ones cannot be used.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;

use harkara_postgres::{Cluster, Error, Options, Shutdown, discover};

use crate::{directory, installation, is_root, leave_a_mark, options, start};

#[tokio::test]
async fn path_too_long_for_a_socket_uses_a_short_socket_directory() {
    let dir = directory();
    let data = dir.path().join("x".repeat(60)).join("y".repeat(60));
    let mut urls = Vec::new();
    for expected in 1..=2 {
        let cluster = start(&data).await;
        assert_eq!(leave_a_mark(&cluster.url()).await, expected);
        urls.push(cluster.url());
        cluster.stop(Shutdown::Fast).await.unwrap();
    }
    assert_eq!(
        urls.first(),
        urls.last(),
        "the same data must use the same socket"
    );
    assert!(!data.join("run").exists());
    let socket = urls
        .pop()
        .unwrap()
        .split_once("?host=")
        .unwrap()
        .1
        .to_owned();
    assert!(socket.len() < 86, "{socket}");
    let mode = fs::metadata(&socket).unwrap().permissions().mode();
    assert_eq!(mode & 0o777, 0o700);
    fs::remove_dir_all(socket).unwrap();
}

#[tokio::test]
async fn path_with_unusual_characters_works() {
    let dir = directory();
    let data = dir.path().join("a data, \"dir\" ?host=%41 ü");
    let cluster = Cluster::start(Options {
        ephemeral: true,
        ..options(&data)
    })
    .await
    .unwrap();
    assert_eq!(leave_a_mark(&cluster.url()).await, 1);
    let socket = cluster.url().split_once("?host=").unwrap().1.to_owned();
    cluster.stop(Shutdown::Fast).await.unwrap();
    assert!(!data.exists());
    assert!(
        !fs::exists(socket).unwrap(),
        "the socket's directory must be removed too"
    );
}

#[tokio::test]
#[ignore = "needs root: run by .ci/run where it is root"]
async fn root_relocates_unreachable_data_and_finds_it_again() {
    assert!(is_root(), "this test needs root");
    let dir = directory();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    let data = dir.path().join("data");
    let first = start(&data).await;
    let moved = first.data_dir().to_path_buf();
    assert!(!moved.starts_with(dir.path()));
    assert!(
        !data.exists(),
        "nothing may be created in an unusable directory"
    );
    let notice = first.notices().first().unwrap();
    assert!(notice.contains(moved.to_str().unwrap()), "{notice}");
    assert_eq!(leave_a_mark(&first.url()).await, 1);
    first.stop(Shutdown::Fast).await.unwrap();

    let second = Cluster::start(Options {
        ephemeral: true,
        ..options(&data)
    })
    .await
    .unwrap();
    assert_eq!(second.data_dir(), moved);
    assert_eq!(leave_a_mark(&second.url()).await, 2);
    second.stop(Shutdown::Fast).await.unwrap();
    assert!(!moved.exists());
    // Succeeds only if no other data is in it.
    let _ = fs::remove_dir(moved.parent().unwrap());
}

#[tokio::test]
#[ignore = "needs root: run by .ci/run where it is root"]
async fn data_that_became_unreachable_is_not_replaced_by_an_empty_database() {
    assert!(is_root(), "this test needs root");
    let dir = directory();
    start(dir.path()).await.stop(Shutdown::Fast).await.unwrap();
    fs::set_permissions(dir.path(), Permissions::from_mode(0o700)).unwrap();
    let error = Cluster::start(options(dir.path())).await.unwrap_err();
    assert!(matches!(error, Error::DataUnreachable { .. }), "{error}");
}

#[tokio::test]
#[ignore = "needs root: run by .ci/run where it is root"]
async fn root_continues_as_the_owner_of_an_existing_cluster() {
    assert!(is_root(), "this test needs root");
    let dir = directory();
    start(dir.path()).await.stop(Shutdown::Fast).await.unwrap();
    for tree in ["run", &format!("postgres-{}", installation().major())] {
        let tree = dir.path().join(tree);
        let done = std::process::Command::new("chown")
            .args(["-R", "65534:65534"])
            .arg(&tree)
            .status()
            .unwrap();
        assert!(done.success());
    }
    let cluster = start(dir.path()).await;
    assert_eq!(leave_a_mark(&cluster.url()).await, 1);
}

#[tokio::test]
#[ignore = "needs root: run by .ci/run where it is root"]
async fn programs_the_server_account_cannot_run_are_named() {
    assert!(is_root(), "this test needs root");
    let dir = directory();
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).unwrap();
    for name in ["postgres", "initdb"] {
        let program = closed.join(name);
        fs::write(&program, "#!/bin/sh\necho 'postgres (PostgreSQL) 15.0'\n").unwrap();
        fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    }
    fs::set_permissions(&closed, Permissions::from_mode(0o700)).unwrap();
    let installation = discover(Some(&closed)).unwrap();
    let data = dir.path().join("data");
    let error = Cluster::start(Options::new(&data, installation))
        .await
        .unwrap_err();
    assert!(
        matches!(error, Error::ProgramsUnreachable { .. }),
        "{error}"
    );
    let message = error.to_string();
    assert!(message.contains(closed.to_str().unwrap()), "{message}");
}
