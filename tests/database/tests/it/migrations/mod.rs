//! How `migrate` brings a database to the schema of a release, and which releases a schema permits.

mod compatibility;
mod interrupted;
mod lint;
mod lint_rules;
mod schema_file;
mod statements;
mod upgrade;

use std::borrow::Cow;

use harkara_shared::database::Schema;
use harkara_shared::database::schema::Function;
use semver::Version;
use sqlx::migrate::{Migration, MigrationType};
use sqlx::{PgPool, SqlStr};

/// A migration of a later release, as sqlx reads it from a file.
fn migration(version: i64, sql: &'static str) -> Migration {
    Migration::new(
        version,
        Cow::Borrowed("of a later release"),
        MigrationType::Simple,
        SqlStr::from_static(sql),
        sql.starts_with("-- no-transaction"),
    )
}

/// The schema of this release with these migrations after its own.
fn with_migrations(later: &[(i64, &'static str)]) -> Schema {
    let embedded = Schema::embedded();
    let mut migrations = embedded.migrations().to_vec();
    migrations.extend(later.iter().map(|(version, sql)| migration(*version, sql)));
    Schema::new(
        migrations,
        embedded.functions().to_vec(),
        embedded.release().clone(),
    )
}

/// The schema of `release` with its function `name` replaced by `sql`.
fn with_function(release: Version, name: &'static str, sql: &'static str) -> Schema {
    let embedded = Schema::embedded();
    let mut functions = embedded.functions().to_vec();
    functions.retain(|function| function.name != name);
    functions.push(Function {
        name: name.into(),
        sql,
    });
    functions.sort_by(|one, other| one.name.cmp(&other.name));
    Schema::new(embedded.migrations().to_vec(), functions, release)
}

async fn number(pool: &PgPool, sql: &'static str) -> i64 {
    harkara_shared::database::query_scalar(sql)
        .fetch_one(pool)
        .await
        .unwrap()
}

async fn execute(pool: &PgPool, sql: &'static str) {
    sqlx::Executor::execute(pool, sql).await.unwrap();
}
