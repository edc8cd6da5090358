//! Cleanup when a test process ends: nothing is left, or only databases that a later run removes.

use std::io::{self, BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};

use harkara_test_database::{OwnCluster, TestDatabase};
use rustix::process::{Pid, test_kill_process};
use sqlx::{Connection, Executor, PgConnection, Row};

use crate::until;

/// Makes another process of this program act as a test run; `end` or `stay` selects what it does after
/// creating its databases.
const HELPER_MODE: &str = "HARKARA_TEST_PLAY";

/// Not a test: a simulated test run in its own process.
#[tokio::test]
#[ignore = "helper process started by other tests"]
async fn player() {
    let Some(play) = std::env::var_os(HELPER_MODE) else {
        return;
    };
    let database = TestDatabase::create().await;
    let other = TestDatabase::create().await;
    let mut connection = PgConnection::connect(&database.superuser_url())
        .await
        .unwrap();
    let row = connection
        .fetch_one(
            "select coalesce((select setting from pg_settings where name = 'data_directory'), ''), \
                    current_database()::text",
        )
        .await
        .unwrap();
    let (directory, name): (String, String) = (row.get(0), row.get(1));
    writeln!(io::stdout(), "\nplaying {directory} {name}").unwrap();
    if play == "stay" {
        std::future::pending::<()>().await;
    }
    drop(other);
}

/// A running player; killed when dropped.
struct Player {
    process: Child,
    output: BufReader<ChildStdout>,
    cluster: PathBuf,
    database: String,
}

fn play(how: &str, database_url: Option<&str>) -> Player {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command
        .args(["ending::player", "--exact", "--ignored", "--nocapture"])
        .env(HELPER_MODE, how)
        .env_remove("DATABASE_URL")
        .stdout(Stdio::piped());
    if let Some(url) = database_url {
        command.env("DATABASE_URL", url);
    }
    let mut process = command.spawn().unwrap();
    let mut player = Player {
        output: BufReader::new(process.stdout.take().unwrap()),
        process,
        cluster: PathBuf::new(),
        database: String::new(),
    };
    loop {
        let mut line = String::new();
        let read = player.output.read_line(&mut line).unwrap();
        assert_ne!(read, 0, "the player ended");
        if let Some(rest) = line.trim().strip_prefix("playing ") {
            let (cluster, database) = rest.split_once(' ').unwrap();
            player.cluster = cluster.into();
            player.database = database.to_owned();
            return player;
        }
    }
}

impl Drop for Player {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn private_server_ends_with_its_process_killed_or_not() {
    for how in ["end", "stay"] {
        let mut player = play(how, None);
        let cluster = player.cluster.clone();
        let data = cluster.parent().unwrap();
        if how == "end" {
            assert!(player.process.wait().unwrap().success());
        } else {
            let pid_file = std::fs::read_to_string(cluster.join("postmaster.pid")).unwrap();
            let server = Pid::from_raw(pid_file.lines().next().unwrap().parse().unwrap()).unwrap();
            assert!(test_kill_process(server).is_ok());
            drop(player);
            until("the server is gone", async || {
                test_kill_process(server).is_err()
            })
            .await;
        }
        until("the directory is gone", async || !data.exists()).await;
    }
}

/// The databases of test runs on a server.
async fn databases(url: &str) -> Vec<String> {
    let mut connection = PgConnection::connect(url).await.unwrap();
    connection
        .fetch_all("select datname::text from pg_database where datname like 'harkara\\_test%'")
        .await
        .unwrap()
        .iter()
        .map(|row| row.get(0))
        .collect()
}

#[tokio::test]
async fn runs_on_a_shared_server_are_isolated_and_clean_up_after_dead_runs() {
    let server = OwnCluster::start().await;
    // No superuser is needed, only a role that can create databases and roles.
    let mut superuser = PgConnection::connect(&server.superuser_url())
        .await
        .unwrap();
    superuser
        .execute("alter role harkara createdb")
        .await
        .unwrap();
    superuser
        .execute("create database harkara_test_of_someone_else")
        .await
        .unwrap();

    let url = server.url();
    let first = play("stay", Some(&url));
    // Connected through another database of the same server, where the first run's lock is not visible.
    let second = play(
        "stay",
        Some(&server.superuser_url().replace("/harkara?", "/postgres?")),
    );
    // A run that starts and ends while the others are live.
    assert!(play("end", Some(&url)).process.wait().unwrap().success());
    let left = databases(&url).await;
    for name in [&first.database, &second.database] {
        assert!(
            left.contains(name),
            "{name} was dropped although its run is live"
        );
    }

    let of_first = first.database.rsplit_once('_').unwrap().0.to_owned();
    drop(first);
    let third = play("stay", Some(&url));
    until("the dead run's databases are gone", async || {
        !databases(&url)
            .await
            .iter()
            .any(|name| name.starts_with(&of_first))
    })
    .await;
    let left = databases(&url).await;
    assert!(left.contains(&second.database));
    assert!(left.contains(&third.database));
    assert!(
        left.iter()
            .any(|name| name == "harkara_test_of_someone_else")
    );
}
