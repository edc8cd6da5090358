//! PostgreSQL's programs on a machine that has none: downloaded once, verified, kept.

use std::cell::RefCell;
use std::fs;

use harkara_postgres::{Cache, Cluster, DOWNLOADED_VERSION, Options, Shutdown};
use sqlx::{Executor, Row};

use crate::{connect, directory};

/// Obtains the programs from `cache` and returns what was reported meanwhile.
async fn obtain(cache: &Cache) -> (harkara_postgres::Installation, Vec<String>) {
    let reports = RefCell::new(Vec::new());
    let found = cache
        .installation(|line| reports.borrow_mut().push(line.to_owned()))
        .await
        .unwrap();
    (found, reports.into_inner())
}

#[tokio::test]
#[ignore = "downloads 15 MB, twice"]
async fn downloaded_programs_are_verified_kept_and_replaced_when_damaged() {
    let kept = directory();
    let cache = Cache::new(kept.path().join("cache"));

    let (installation, reports) = obtain(&cache).await;
    let version = DOWNLOADED_VERSION.strip_suffix(".0").unwrap();
    assert_eq!(installation.version(), version);
    assert!(
        reports.iter().any(|line| line.contains("downloading")),
        "{reports:?}"
    );
    let programs = installation.bin().parent().unwrap();
    let checksum = fs::read_to_string(programs.join(".archive-sha256")).unwrap();
    assert_eq!(checksum.len(), 64);

    // The programs run a server, as whatever account the server needs.
    let data = directory();
    let cluster = Cluster::start(Options::new(data.path(), installation.clone()))
        .await
        .unwrap();
    let mut connection = connect(&cluster.url()).await;
    let row = connection.fetch_one("show server_version").await.unwrap();
    assert_eq!(row.get::<String, _>(0), version);
    drop(connection);
    cluster.stop(Shutdown::Fast).await.unwrap();

    let (again, reports) = obtain(&cache).await;
    assert_eq!(again, installation);
    assert_eq!(reports, [""; 0], "nothing is downloaded twice");

    // Programs of unknown origin are replaced from the verified archive, without the network.
    fs::write(programs.join(".archive-sha256"), "0".repeat(64)).unwrap();
    fs::remove_file(programs.join("bin/initdb")).unwrap();
    let (again, reports) = obtain(&cache).await;
    assert!(again.bin().join("initdb").exists());
    assert_eq!(reports, [""; 0], "the kept archive was unpacked again");

    // A damaged archive is refused and fetched again.
    let archive = fs::read_dir(kept.path().join("cache"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| path.extension().is_some_and(|end| end == "jar"))
        .unwrap();
    let mut bytes = fs::read(&archive).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(&archive, &bytes).unwrap();
    fs::remove_file(programs.join(".archive-sha256")).unwrap();
    let (_, reports) = obtain(&cache).await;
    assert!(
        reports.iter().any(|line| line.contains("damaged")),
        "{reports:?}"
    );
    assert!(fs::read_to_string(programs.join(".archive-sha256")).is_ok_and(|sum| sum == checksum));
    bytes[middle] ^= 1;
    assert_eq!(
        fs::read(&archive).unwrap(),
        bytes,
        "the archive is whole again"
    );
}
