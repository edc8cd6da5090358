//! Creates the role and the database `harkara` in the embedded server.
//!
//! Existing ones are not changed.

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection};

use crate::error::Error;

/// Name of the role that Harkara connects as and of the database it owns.
pub(crate) const HARKARA: &str = "harkara";

/// Pairs of a query that finds an object and the statement that creates it. The role is not a superuser,
/// which would bypass row-level security; it creates the further roles of the migrations.
const REQUIRED: [(&str, &str); 2] = [
    (
        "select from pg_roles where rolname = 'harkara'",
        "create role harkara login createrole nosuperuser",
    ),
    (
        "select from pg_database where datname = 'harkara'",
        "create database harkara owner harkara",
    ),
];

/// Creates the role and the database, each unless it exists, so that an interrupted start is completed.
pub(crate) async fn prepare(superuser: &PgConnectOptions) -> Result<(), Error> {
    let mut connection = PgConnection::connect_with(superuser).await?;
    for (find, create) in REQUIRED {
        if connection.fetch_optional(find).await?.is_none() {
            connection.execute(create).await?;
        }
    }
    connection.close().await?;
    Ok(())
}
