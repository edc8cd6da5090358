//! Empty databases, later releases, functions, and databases that are refused.

use std::time::Duration;

use harkara_shared::database::{self, Error, Schema, SchemaError};
use harkara_test_database::TestDatabase;
use semver::Version;
use sqlx::migrate::MigrateError;

use super::{execute, number, with_function, with_migrations};

const FUNCTIONS: &str = "select count(*) from app.schema_functions";

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_migrations_of_an_empty_database_all_succeed() {
    let database = TestDatabase::create_empty().await;
    let pool = database.pool();
    let error = database::check_schema(&pool).await.unwrap_err();
    assert!(
        error.to_string().ends_with("run `harkara migrate`"),
        "{error}"
    );
    let (one, two, three) = tokio::join!(
        database::migrate(&pool),
        database::migrate(&pool),
        database::migrate(&pool),
    );
    one.unwrap();
    two.unwrap();
    three.unwrap();
    database::check_schema(&pool).await.unwrap();
    let versions = "select count(*) from _sqlx_migrations where success";
    let embedded = Schema::embedded();
    assert_eq!(
        usize::try_from(number(&pool, versions).await).unwrap(),
        embedded.migrations().len()
    );
    assert_eq!(
        usize::try_from(number(&pool, FUNCTIONS).await).unwrap(),
        embedded.functions().len()
    );
    // No session of a migration is left, and with it no lock.
    assert_eq!(
        number(&pool, "select count(*) from pg_locks where locktype = 'advisory' and database = (select oid from pg_database where datname = current_database())").await,
        0
    );
}

#[tokio::test]
async fn migrating_again_changes_nothing() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let marks =
        "select coalesce(sum(hashtext(xmin::text || name)), 0)::int8 from app.schema_functions";
    let before = number(&pool, marks).await;
    database::migrate(&pool).await.unwrap();
    assert_eq!(number(&pool, marks).await, before);
}

#[tokio::test]
async fn missing_functions_are_reported_until_migrate_installs_them() {
    let database = TestDatabase::create_empty().await;
    let pool = database.pool();
    // What an interruption between the versioned migrations and the functions leaves behind.
    let embedded = Schema::embedded();
    let versions_only = Schema::new(
        embedded.migrations().to_vec(),
        Vec::new(),
        embedded.release().clone(),
    );
    versions_only.migrate(&pool).await.unwrap();
    for state in [
        "select 1",
        "update app.schema_state
         set functions_release = null, functions_digest = null, functions_history = '{}'",
    ] {
        execute(&pool, state).await;
        let error = database::check_schema(&pool).await.unwrap_err();
        assert!(
            matches!(error, Error::Schema(SchemaError::FunctionsOutdated)),
            "{error}"
        );
        assert!(error.to_string().ends_with("run `harkara migrate`"));
    }
    database::migrate(&pool).await.unwrap();
    database::check_schema(&pool).await.unwrap();
}

/// `queue.state_word` as a later release could have it.
const CHANGED: &str = "create or replace function queue.state_word(p_state \"char\") returns text
    language sql immutable strict as $$ select 'changed' $$";

#[tokio::test]
async fn only_functions_whose_text_changed_are_replaced() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let release = Schema::embedded().release().clone();
    let changed = with_function(release, "queue.state_word", CHANGED);
    changed.migrate(&pool).await.unwrap();
    changed.check(&pool).await.unwrap();
    let replaced = "select count(*) from app.schema_functions f
        where applied_at > (select min(applied_at) from app.schema_functions)
            and name = 'queue.state_word'";
    assert_eq!(number(&pool, replaced).await, 1);
    let others = "select count(distinct applied_at) from app.schema_functions
        where name <> 'queue.state_word'";
    assert_eq!(number(&pool, others).await, 1);
    let result =
        "select count(*) from (select queue.state_word('a') as word) w where word = 'changed'";
    assert_eq!(number(&pool, result).await, 1);
    // A process of the replaced build runs on, and its `migrate` puts its own text back.
    database::check_schema(&pool).await.unwrap();
    database::migrate(&pool).await.unwrap();
    assert_eq!(number(&pool, result).await, 0);
}

#[tokio::test]
async fn an_older_release_keeps_the_functions_of_a_newer_one() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let newer = with_function(Version::new(99, 0, 0), "queue.state_word", CHANGED);
    newer.migrate(&pool).await.unwrap();
    database::check_schema(&pool).await.unwrap();
    database::migrate(&pool).await.unwrap();
    newer.check(&pool).await.unwrap();
    let result =
        "select count(*) from (select queue.state_word('a') as word) w where word = 'changed'";
    assert_eq!(number(&pool, result).await, 1);
}

#[tokio::test]
async fn one_invalid_function_leaves_all_functions_as_they_were() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let release = Schema::embedded().release().clone();
    for (name, sql, expected) in [
        (
            "queue.broken",
            "create function queue.broken() returns int4 language sql as $$ select 1",
            "function queue.broken could not be installed",
        ),
        (
            "queue.broken",
            "create function queue.broken() returns int4 language sql
                 as $$ select missing from queue.parcels $$",
            "column \"missing\" does not exist",
        ),
        (
            "queue.broken",
            "create function queue.broken() returns int4 language plpgsql
                 as $$ begin retrun 1; end $$",
            "syntax error",
        ),
    ] {
        let broken = with_function(release.clone(), name, sql);
        let error = broken.migrate(&pool).await.unwrap_err();
        assert!(error.to_string().contains(expected), "{error}");
        database::check_schema(&pool).await.unwrap();
        assert_eq!(
            number(
                &pool,
                "select count(*) from pg_proc where proname = 'broken'"
            )
            .await,
            0
        );
    }
}

#[tokio::test]
async fn a_removed_function_stays_until_a_migration_drops_it() {
    let database = TestDatabase::create_empty().await;
    let pool = database.pool();
    let release = Schema::embedded().release().clone();
    let retired = with_function(
        release,
        "queue.retired",
        "create or replace function queue.retired() returns int4 language sql as $$ select 1 $$",
    );
    retired.migrate(&pool).await.unwrap();
    database::migrate(&pool).await.unwrap();
    // A process of the release before still calls it.
    assert_eq!(number(&pool, "select queue.retired()::int8").await, 1);
    let recorded = "select count(*) from app.schema_functions where name = 'queue.retired'";
    assert_eq!(number(&pool, recorded).await, 1);
    let dropped = with_migrations(&[(
        9001,
        "-- oldest-release: 0.1.0\n-- contract: no release calls it\ndrop function if exists queue.retired()",
    )]);
    dropped.migrate(&pool).await.unwrap();
    let left = "select count(*) from pg_proc where proname = 'retired'";
    assert_eq!(number(&pool, left).await, 0);
}

#[tokio::test]
async fn a_database_of_a_pre_release_schema_is_refused_in_one_sentence() {
    let database = TestDatabase::create_empty().await;
    let pool = database.pool();
    execute(
        &pool,
        "create schema app; create table app.tenants (id uuid primary key);
         create table _sqlx_migrations (
             version int8 primary key, description text not null,
             installed_on timestamptz not null default now(), success boolean not null,
             checksum bytea not null, execution_time int8 not null
         );
         insert into _sqlx_migrations (version, description, success, checksum, execution_time)
         select version, 'roles', true, '\\x01', 0 from generate_series(1, 32) version",
    )
    .await;
    let sentence = "this database was created by a pre-release version of Harkara, which cannot be \
                    upgraded: create a new database and run `harkara migrate`";
    let refused = database::migrate(&pool).await.unwrap_err();
    assert_eq!(refused.to_string(), sentence);
    let unfit = database::check_schema(&pool).await.unwrap_err();
    assert_eq!(unfit.to_string(), sentence);
    let tables = "select count(*) from pg_class c join pg_namespace n on n.oid = c.relnamespace
        where n.nspname in ('app', 'queue') and c.relkind = 'r'";
    assert_eq!(number(&pool, tables).await, 1);
}

#[tokio::test]
async fn an_edited_or_missing_migration_is_refused() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let later = with_migrations(&[(9002, "-- oldest-release: 0.1.0\nselect 1")]);
    later.migrate(&pool).await.unwrap();
    let gap = with_migrations(&[(9003, "-- oldest-release: 0.1.0\nselect 1")]);
    let error = gap.migrate(&pool).await.unwrap_err();
    assert!(
        matches!(error, Error::Migrate(MigrateError::VersionMissing(9002))),
        "{error}"
    );
    let edited = with_migrations(&[(9002, "-- oldest-release: 0.1.0\nselect 2")]);
    let error = edited.migrate(&pool).await.unwrap_err();
    assert!(
        matches!(error, Error::Migrate(MigrateError::VersionMismatch(9002))),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn an_index_is_built_concurrently_while_others_write_and_migrate() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let later = with_migrations(&[(
        9001,
        "-- no-transaction\n-- oldest-release: 0.1.0\n\
         create index concurrently if not exists tenants_created on app.tenants (created_at)",
    )]);
    let mut writer = pool.begin().await.unwrap();
    sqlx::Executor::execute(&mut *writer, "update app.tenants set updated_at = now()")
        .await
        .unwrap();
    let migrations = {
        let (one, two) = (later.clone(), later.clone());
        let (first, second) = (pool.clone(), pool.clone());
        (
            tokio::spawn(async move { one.migrate(&first).await }),
            tokio::spawn(async move { two.migrate(&second).await }),
        )
    };
    tokio::time::sleep(Duration::from_millis(500)).await;
    // The build waits for the writer; others write all the same.
    let update = tokio::time::timeout(
        Duration::from_secs(2),
        sqlx::Executor::execute(&pool, "insert into queue.kinds (name) values ('during')"),
    );
    update.await.unwrap().unwrap();
    writer.commit().await.unwrap();
    migrations.0.await.unwrap().unwrap();
    migrations.1.await.unwrap().unwrap();
    let valid = "select count(*) from pg_index where indisvalid
        and indexrelid = to_regclass('app.tenants_created')";
    assert_eq!(number(&pool, valid).await, 1);
}

#[tokio::test]
async fn an_index_left_unfinished_is_built_again() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    execute(
        &pool,
        "insert into queue.shares (queue, tenant, served) values (1, 1, 5), (2, 1, 5)",
    )
    .await;
    // A unique index over equal values fails at the end and leaves an invalid index behind.
    let unique = with_migrations(&[(
        9001,
        "-- no-transaction\n-- oldest-release: 0.1.0\n\
         create unique index concurrently if not exists shares_served on queue.shares (served)",
    )]);
    unique.migrate(&pool).await.unwrap_err();
    let invalid = "select count(*) from pg_index where not indisvalid
        and indexrelid = to_regclass('queue.shares_served')";
    assert_eq!(number(&pool, invalid).await, 1);
    execute(&pool, "update queue.shares set served = queue").await;
    unique.migrate(&pool).await.unwrap();
    assert_eq!(number(&pool, invalid).await, 0);
    unique.check(&pool).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_gives_way_to_a_locked_table_and_is_tried_again() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let later = with_migrations(&[(
        9001,
        "-- oldest-release: 0.1.0\nalter table app.tenants add column later int4",
    )]);
    let mut reader = pool.begin().await.unwrap();
    sqlx::Executor::execute(&mut *reader, "select count(*) from app.tenants")
        .await
        .unwrap();
    let migrating = tokio::spawn({
        let pool = pool.clone();
        async move { later.migrate(&pool).await }
    });
    // Longer than a migration waits for a lock.
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert!(!migrating.is_finished());
    reader.commit().await.unwrap();
    migrating.await.unwrap().unwrap();
    let added = "select count(*) from pg_attribute
        where attrelid = 'app.tenants'::regclass and attname = 'later'";
    assert_eq!(number(&pool, added).await, 1);
}

#[tokio::test]
async fn an_older_release_installs_missing_functions_on_a_newer_schema() {
    let database = TestDatabase::create_empty().await;
    let pool = database.pool();
    let newer = with_migrations(&[(
        9001,
        "-- oldest-release: 0.1.0\nalter table app.tenants add column note text",
    )]);
    newer.migrate(&pool).await.unwrap();
    // As if the newer `migrate` had been killed before it installed functions.
    execute(
        &pool,
        "drop function queue.state_word;
         delete from app.schema_functions where name = 'queue.state_word';
         update app.schema_state
         set functions_release = null, functions_digest = null, functions_history = '{}'",
    )
    .await;
    database::check_schema(&pool).await.unwrap_err();
    database::migrate(&pool).await.unwrap();
    database::check_schema(&pool).await.unwrap();
}

#[tokio::test]
async fn a_right_that_a_function_no_longer_grants_is_withdrawn() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let granted = "select count(*) from pg_proc
        where oid = to_regproc('queue.state_word')
            and has_function_privilege('harkara_client', oid, 'execute')";
    let release = Schema::embedded().release().clone();
    let grant = concat!(
        "create or replace function queue.state_word(p_state \"char\") returns text ",
        "language sql immutable as $$ select 'granted' $$;",
        "revoke execute on function queue.state_word from public;",
        "grant execute on function queue.state_word to harkara_client",
    );
    with_function(release, "queue.state_word", grant)
        .migrate(&pool)
        .await
        .unwrap();
    assert_eq!(number(&pool, granted).await, 1);
    database::migrate(&pool).await.unwrap();
    assert_eq!(number(&pool, granted).await, 0);
}
