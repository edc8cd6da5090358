//! Room: what Harkara needs inside the embedded server.
//! Takes: the superuser's way in. Gives: the role and the database `harkara`.
//! Never: changes them once they are there, or knows a table.

use sqlx::postgres::PgConnectOptions;
use sqlx::{Connection, Executor, PgConnection};

use crate::error::Error;

/// The role Harkara works as and the database it owns.
pub(crate) const HARKARA: &str = "harkara";

/// What must be there: how to find it, and how to make it. The role is no superuser, because
/// row-level security would not hold for one; it makes the further roles of the migrations.
const NEEDED: [(&str, &str); 2] = [
    (
        "select from pg_roles where rolname = 'harkara'",
        "create role harkara login createrole nosuperuser",
    ),
    (
        "select from pg_database where datname = 'harkara'",
        "create database harkara owner harkara",
    ),
];

/// Makes the role and the database, each unless it is there: an interrupted start goes on here.
pub(crate) async fn prepare(superuser: &PgConnectOptions) -> Result<(), Error> {
    let mut connection = PgConnection::connect_with(superuser).await?;
    for (find, make) in NEEDED {
        if connection.fetch_optional(find).await?.is_none() {
            connection.execute(make).await?;
        }
    }
    connection.close().await?;
    Ok(())
}
