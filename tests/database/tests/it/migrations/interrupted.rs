//! A `migrate` that is killed leaves a database that the next one completes.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use harkara_shared::database::{self, DatabaseSettings};
use harkara_test_database::TestDatabase;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use url::Url;

use super::number;

/// Forwards connections to the server of `url` and, like a process that is killed, drops each of them when it has
/// forwarded `messages` further writes of the client. Returns the address to connect to.
async fn proxy(url: &Url, messages: Arc<AtomicUsize>) -> Url {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut address = Url::parse("postgres://localhost").unwrap();
    address.set_host(Some("127.0.0.1")).unwrap();
    address
        .set_port(Some(listener.local_addr().unwrap().port()))
        .unwrap();
    address.set_username(url.username()).unwrap();
    address.set_password(url.password()).unwrap();
    address.set_path(url.path());
    address.set_query(Some("sslmode=disable"));
    let target = url.clone();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            tokio::spawn(forward(client, target.clone(), messages.clone()));
        }
    });
    address
}

async fn forward(client: TcpStream, target: Url, messages: Arc<AtomicUsize>) {
    let socket = target
        .query_pairs()
        .find(|(name, _)| name == "host")
        .map(|(_, directory)| directory.into_owned());
    let port = target.port().unwrap_or(5432);
    if let Some(directory) = socket {
        let port = target
            .query_pairs()
            .find(|(name, _)| name == "port")
            .map_or(port, |(_, port)| port.parse().unwrap());
        let server = UnixStream::connect(format!("{directory}/.s.PGSQL.{port}"))
            .await
            .unwrap();
        pump(client, server, messages).await;
    } else {
        let host = target.host_str().unwrap().to_owned();
        let server = TcpStream::connect((host, port)).await.unwrap();
        pump(client, server, messages).await;
    }
}

async fn pump(
    mut client: TcpStream,
    mut server: impl AsyncReadExt + AsyncWriteExt + Unpin,
    messages: Arc<AtomicUsize>,
) {
    let (mut sent, mut received) = (vec![0; 1 << 20], vec![0; 1 << 16]);
    loop {
        tokio::select! {
            read = client.read(&mut sent) => match read {
                Ok(length) if length > 0 => {
                    let left = messages.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                        left.checked_sub(1)
                    });
                    if left.is_err() || server.write_all(&sent[..length]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
            read = server.read(&mut received) => match read {
                Ok(length) if length > 0 => {
                    if client.write_all(&received[..length]).await.is_err() {
                        return;
                    }
                }
                _ => return,
            },
        }
    }
}

/// Cuts after each of the first writes, which contain the lock, the versioned migrations and the first functions,
/// then after every eighth: one function is like the other.
fn next_cut(cut: usize) -> usize {
    if cut < 30 { cut + 1 } else { cut + 8 }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_killed_between_any_two_statements_is_completed_by_the_next() {
    let whole = TestDatabase::create().await;
    let objects = "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname in ('app', 'queue')";
    let functions =
        "select count(*) from pg_proc where pronamespace::regnamespace::text in ('app', 'queue')";
    let expected = (
        number(&whole.pool(), objects).await,
        number(&whole.pool(), functions).await,
    );
    let mut cut = 1;
    let mut interrupted = 0;
    loop {
        let database = TestDatabase::create_empty().await;
        let url = Url::parse(&database.url()).unwrap();
        let address = proxy(&url, Arc::new(AtomicUsize::new(cut))).await;
        let settings = DatabaseSettings::new(address.as_str());
        let through = database::pool(&settings, "killed").unwrap();
        let killed = database::migrate(&through).await;
        let pool = database.pool();
        let is_complete = database::check_schema(&pool).await;
        if killed.is_err() {
            interrupted += 1;
            if let Err(error) = &is_complete {
                assert!(
                    error.to_string().ends_with("run `harkara migrate`"),
                    "cut {cut}: {error}"
                );
            }
        }
        database::migrate(&pool)
            .await
            .unwrap_or_else(|error| panic!("cut {cut}: {error}"));
        database::check_schema(&pool).await.unwrap();
        let found = (number(&pool, objects).await, number(&pool, functions).await);
        assert_eq!(found, expected, "cut {cut}");
        if killed.is_ok() {
            break;
        }
        cut = next_cut(cut);
    }
    assert!(interrupted > 20, "only {interrupted} interruptions");
}
