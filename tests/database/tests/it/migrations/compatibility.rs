//! Which releases a schema permits: at start, in `/readyz` and in `migrate`.

use harkara_shared::database::schema::oldest_release;
use harkara_shared::database::{self, Error, Schema, SchemaError};
use harkara_shared::process::Readiness;
use harkara_test_database::TestDatabase;
use semver::Version;
use tokio_util::sync::CancellationToken;

use super::{execute, number, with_migrations};

#[test]
fn every_migration_declares_the_oldest_release_and_none_lowers_it() {
    let embedded = Schema::embedded();
    let mut before = Version::new(0, 0, 0);
    for migration in embedded.migrations() {
        let declared = oldest_release(migration).unwrap();
        assert!(
            declared >= before && declared <= *embedded.release(),
            "migration {} declares {declared} after {before}",
            migration.version
        );
        before = declared;
    }
}

#[tokio::test]
async fn a_schema_of_a_later_release_is_accepted_while_it_permits_this_one() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let later = with_migrations(&[(9001, "-- oldest-release: 0.0.9\nselect 1")]);
    later.migrate(&pool).await.unwrap();
    database::check_schema(&pool).await.unwrap();
    // A roll-back runs the former release's `migrate`: there is nothing to do.
    database::migrate(&pool).await.unwrap();
    assert_eq!(
        number(&pool, "select max(version) from _sqlx_migrations").await,
        9001
    );
}

#[tokio::test]
async fn a_running_process_stops_being_ready_when_the_schema_requires_a_newer_release() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let readiness = Readiness::for_database(pool.clone(), CancellationToken::new());
    readiness.check().await.unwrap();
    let later = with_migrations(&[
        (9001, "-- oldest-release: 99.0.0\nselect 1"),
        (9002, "-- oldest-release: 0.1.0\nselect 1"),
    ]);
    // A release that ran this migration would be 99 itself.
    let later = Schema::new(
        later.migrations().to_vec(),
        later.functions().to_vec(),
        Version::new(99, 0, 0),
    );
    later.migrate(&pool).await.unwrap();
    let reason = readiness.check().await.unwrap_err();
    let release = Schema::embedded().release();
    assert_eq!(
        reason,
        format!(
            "this process is release {release}, and the database schema requires release 99.0.0 or \
             newer: upgrade this process"
        )
    );
    for refused in [
        database::check_schema(&pool).await,
        database::migrate(&pool).await,
    ] {
        let error = refused.unwrap_err();
        assert_eq!(error.to_string(), reason);
        assert!(matches!(
            error,
            Error::Schema(SchemaError::ReleaseTooOld { .. })
        ));
    }
    later.check(&pool).await.unwrap();
}

#[tokio::test]
async fn a_process_whose_functions_were_never_installed_is_not_ready() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let readiness = Readiness::for_database(pool.clone(), CancellationToken::new());
    execute(
        &pool,
        "update app.schema_state set functions_history = '{}'",
    )
    .await;
    let reason = readiness.check().await.unwrap_err();
    assert!(reason.contains("run `harkara migrate`"), "{reason}");
}

#[tokio::test]
async fn a_recorded_release_that_is_no_version_is_an_error_that_names_it() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    execute(&pool, "update app.schema_state set oldest_release = 'new'").await;
    let error = database::check_schema(&pool).await.unwrap_err();
    assert!(error.to_string().contains("\"new\""), "{error}");
}

#[tokio::test]
async fn a_migration_outside_of_a_transaction_raises_the_oldest_release() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let later = with_migrations(&[(
        9001,
        "-- no-transaction\n-- oldest-release: 99.0.0\n\
         create index concurrently if not exists tenants_created on app.tenants (created_at)",
    )]);
    later.migrate(&pool).await.unwrap();
    let error = database::check_schema(&pool).await.unwrap_err();
    assert!(error.to_string().contains("99.0.0"), "{error}");
}
