//! Crashes of holder, supervisor and server: no server is left running, and no committed row is lost.

use std::fs;
use std::os::unix::fs::{MetadataExt, chown};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use harkara_postgres::{Cluster, Options, Shutdown};
use sqlx::Executor;

use crate::{cluster_of, directory, kill, leave_a_mark, lives, names_in, options, start, until};

/// The variable that names the data directory to the helper process; see [`holder`].
const HOLD_DIRECTORY: &str = "HARKARA_TEST_HOLD";

/// Not a test: a helper process that holds a cluster until it is killed.
#[tokio::test]
#[ignore = "helper process started by other tests"]
async fn holder() {
    let Some(data) = std::env::var_os(HOLD_DIRECTORY) else {
        return;
    };
    let data = Path::new(&data);
    let cluster = Cluster::start(Options {
        ephemeral: data.ends_with("ephemeral"),
        ..options(data)
    })
    .await
    .unwrap();
    leave_a_mark(&cluster.url()).await;
    // With an open session in the middle of a statement.
    let mut session = crate::connect(&cluster.url()).await;
    fs::write(data.join("held"), cluster.postmaster_pid().to_string()).unwrap();
    let _ = session.execute("select pg_sleep(600)").await;
    panic!("the holder outlived its server");
}

fn hold(data: &Path) -> Child {
    fs::create_dir_all(data).unwrap();
    Command::new(std::env::current_exe().unwrap())
        .args(["crash::holder", "--exact", "--ignored", "--nocapture"])
        .env(HOLD_DIRECTORY, data)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

/// The postmaster's process id, once the holder has written it.
fn held(data: &Path, holder: &mut Child) -> u32 {
    let mut pid = None;
    until("the holder is ready", || {
        assert!(holder.try_wait().unwrap().is_none(), "the holder ended");
        pid = fs::read_to_string(data.join("held"))
            .ok()
            .and_then(|text| text.parse().ok());
        pid.is_some()
    });
    pid.unwrap()
}

fn kill_and_reap(holder: &mut Child) {
    holder.kill().unwrap();
    holder.wait().unwrap();
}

#[tokio::test]
async fn killed_holder_shuts_the_server_down_cleanly() {
    let dir = directory();
    let mut holder = hold(dir.path());
    let server = held(dir.path(), &mut holder);
    assert!(lives(server));
    kill_and_reap(&mut holder);
    until("the server is gone", || !lives(server));
    let log = fs::read_to_string(dir.path().join("postgres.log")).unwrap();
    assert!(log.contains("received fast shutdown request"), "{log}");
    assert!(log.contains("database system is shut down"), "{log}");
    let cluster = start(dir.path()).await;
    assert_eq!(leave_a_mark(&cluster.url()).await, 2);
}

#[test]
fn killed_holder_of_an_ephemeral_cluster_leaves_no_directory() {
    let dir = directory();
    let data = dir.path().join("ephemeral");
    let mut holder = hold(&data);
    let server = held(&data, &mut holder);
    kill_and_reap(&mut holder);
    until("the server is gone", || !lives(server));
    until("the directory is gone", || !data.exists());
}

#[tokio::test]
async fn cluster_held_by_another_process_is_refused() {
    let dir = directory();
    let mut holder = hold(dir.path());
    let server = held(dir.path(), &mut holder);
    let error = Cluster::start(options(dir.path())).await.unwrap_err();
    assert!(error.to_string().contains("another Harkara"), "{error}");
    assert!(lives(server));
    kill_and_reap(&mut holder);
    // Immediately: the start waits for the predecessor's shutdown.
    let cluster = start(dir.path()).await;
    assert_eq!(leave_a_mark(&cluster.url()).await, 2);
}

#[tokio::test]
async fn holder_killed_during_startup_leaves_nothing_running() {
    for step in 0..8 {
        let dir = directory();
        let mut holder = hold(dir.path());
        // Not a wait for a condition: the time of the kill, spread over initdb and the server's start.
        std::thread::sleep(Duration::from_millis(step * 150));
        kill_and_reap(&mut holder);
        until("nothing runs on the directory", || {
            processes_on(dir.path()).is_empty()
        });
        let cluster = start(dir.path()).await;
        assert!(leave_a_mark(&cluster.url()).await >= 1);
        cluster.stop(Shutdown::Immediate).await.unwrap();
    }
}

#[test]
fn ephemeral_cluster_holder_killed_at_any_moment_leaves_nothing() {
    for step in 0..8 {
        let dir = directory();
        let data = dir.path().join("ephemeral");
        let mut holder = hold(&data);
        std::thread::sleep(Duration::from_millis(30 + step * 100));
        kill_and_reap(&mut holder);
        until("nothing runs on the directory", || {
            processes_on(dir.path()).is_empty()
        });
        // Killed before it has any data, it can leave the directory created for it, with the files
        // created before its supervisor started: the lock and the socket's directory.
        if data.exists() {
            let left = names_in(&data);
            let harmless = |name: &String| matches!(name.as_str(), "postgres.lock" | "run");
            assert!(left.iter().all(harmless), "{left:?}");
        }
    }
}

#[tokio::test]
async fn start_cancelled_at_any_moment_leaves_nothing_running() {
    for step in 0..4 {
        let dir = directory();
        let start = tokio::spawn(Cluster::start(options(dir.path())));
        tokio::time::sleep(Duration::from_millis(step * 300)).await;
        start.abort();
        drop(start.await);
        until("nothing runs on the directory", || {
            processes_on(dir.path()).is_empty()
        });
    }
}

/// The command lines that name a directory.
fn processes_on(dir: &Path) -> Vec<String> {
    let output = Command::new("ps").args(["-eo", "args"]).output().unwrap();
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| line.contains(dir.to_str().unwrap()))
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn killed_postmaster_is_detected_and_the_next_start_recovers() {
    let dir = directory();
    let mut cluster = start(dir.path()).await;
    assert_eq!(leave_a_mark(&cluster.url()).await, 1);
    // A session that is busy when its postmaster dies holds the shared memory for a while.
    let mut session = crate::connect(&cluster.url()).await;
    let busy = tokio::spawn(async move {
        let _ = session.execute("select pg_sleep(2)").await;
    });
    tokio::task::yield_now().await;
    kill(cluster.postmaster_pid());
    cluster.exited().await;
    assert!(!cluster.is_running());
    cluster.restart().await.unwrap();
    assert_eq!(leave_a_mark(&cluster.url()).await, 2);
    busy.await.unwrap();

    kill(cluster.postmaster_pid());
    drop(cluster);
    let cluster = start(dir.path()).await;
    assert_eq!(leave_a_mark(&cluster.url()).await, 3);
}

#[tokio::test]
async fn immediate_stop_recovers_with_the_same_urls() {
    let dir = directory();
    let mut cluster = start(dir.path()).await;
    let url = cluster.url();
    for expected in 1..=3 {
        assert_eq!(leave_a_mark(&url).await, expected);
        cluster.stop_immediate().await.unwrap();
        assert!(!cluster.is_running());
        cluster.restart().await.unwrap();
        cluster.restart().await.unwrap();
        assert_eq!(cluster.url(), url);
    }
    let log = fs::read_to_string(cluster.log_file()).unwrap();
    assert!(log.contains("automatic recovery in progress"), "{log}");
}

#[tokio::test]
async fn pid_file_naming_an_unrelated_process_is_ignored() {
    let dir = directory();
    let cluster = start(dir.path()).await;
    let pid_file = cluster_of(dir.path()).join("postmaster.pid");
    let text = fs::read_to_string(&pid_file).unwrap();
    cluster.stop(Shutdown::Fast).await.unwrap();
    // As after a container restart, where process ids start over: the stale file names this process.
    let (_, rest) = text.split_once('\n').unwrap();
    fs::write(&pid_file, format!("{}\n{rest}", std::process::id())).unwrap();
    let owner = fs::metadata(cluster_of(dir.path())).unwrap();
    chown(&pid_file, Some(owner.uid()), Some(owner.gid())).unwrap();
    let started = Instant::now();
    let cluster = start(dir.path()).await;
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(leave_a_mark(&cluster.url()).await, 1);
}

#[tokio::test]
async fn server_ends_with_its_holder_after_the_supervisor_is_killed() {
    let dir = directory();
    let cluster = start(dir.path()).await;
    let server = cluster.postmaster_pid();
    let output = Command::new("ps")
        .args(["-o", "ppid=", "-p", &server.to_string()])
        .output()
        .unwrap();
    let shell = String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .unwrap();
    kill(shell);
    until("the loss is detected", || !cluster.is_running());
    assert!(lives(server));
    drop(cluster);
    until("the server is gone", || !lives(server));
}
