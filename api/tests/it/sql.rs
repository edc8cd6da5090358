//! The crate's statements against the migrated schema.

use std::path::Path;

use harkara_test_database::TestDatabase;
use sqlx::{Executor, SqlSafeStr};

#[tokio::test]
async fn every_sql_file_can_be_prepared_and_names_its_index() {
    let database = TestDatabase::create().await;
    let pool = database.pool();
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/sql");
    let mut seen = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.display();
        let sql = std::fs::read_to_string(&path).unwrap();
        let comment = sql
            .lines()
            .take_while(|line| line.starts_with("--"))
            .collect::<String>();
        assert!(
            comment.contains("Served by"),
            "{name} does not name its index"
        );
        let sql = sqlx::AssertSqlSafe(sql).into_sql_str();
        let prepared = pool.prepare(sql).await;
        assert!(prepared.is_ok(), "{name}: {:?}", prepared.err());
        seen += 1;
    }
    assert!(seen > 0);
}
