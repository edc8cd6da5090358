//! `migrations/schema.sql` shows the schema as it is.

use std::fs;
use std::path::Path;

use harkara_test_database::TestDatabase;

const HEADER: &str = "\
-- The schema as the migrations make it, for readers. Nothing runs this file, and a test compares it with the
-- database. Regenerate it with:
--   UPDATE_SCHEMA=1 cargo test -p harkara-test-database --test it schema_file
-- The meaning of tables and columns is in 0001_baseline.sql and later migrations, the text of functions in functions/.

";

#[tokio::test]
#[expect(
    clippy::disallowed_methods,
    reason = "a switch of this test, not configuration"
)]
async fn schema_file_is_the_schema_of_a_migrated_database() {
    let database = TestDatabase::create().await;
    let objects: Vec<String> =
        harkara_shared::database::query_scalar(include_str!("dump_schema.sql"))
            .fetch_all(&database.pool())
            .await
            .unwrap();
    let found = format!("{HEADER}{}", objects.join("\n"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations/schema.sql");
    if std::env::var("UPDATE_SCHEMA").is_ok_and(|value| !value.is_empty()) {
        fs::write(&path, &found).unwrap();
    }
    let file = fs::read_to_string(&path).unwrap_or_default();
    let difference = file
        .lines()
        .zip(found.lines())
        .enumerate()
        .find(|(_, (file, found))| file != found);
    assert!(
        file == found,
        "migrations/schema.sql is out of date at {difference:?}: run this test with UPDATE_SCHEMA=1"
    );
}
