//! Versioned migrations must not lock big tables: the lint rules, tested on examples and applied to the files.

use std::collections::HashSet;
use std::fs;
use std::path::{Path, PathBuf};

use harkara_shared::database::Schema;

use super::lint_rules::{File, violations};

fn functions() -> HashSet<String> {
    Schema::embedded()
        .functions()
        .iter()
        .map(|function| function.name.to_string())
        .collect()
}

/// The violations in migrations with these texts, which follow each other.
fn of(texts: &[&str]) -> Vec<String> {
    let files: Vec<File> = texts
        .iter()
        .enumerate()
        .map(|(place, text)| File {
            name: format!("{place}"),
            text: if text.starts_with("-- no-transaction") {
                text.replacen('\n', "\n-- oldest-release: 0.1.0\n", 1)
            } else {
                format!("-- oldest-release: 0.1.0\n{text}")
            },
        })
        .collect();
    violations(&files, &functions())
}

fn directory() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../migrations")
}

/// The versioned files, oldest first.
fn files() -> Vec<File> {
    let mut files: Vec<File> = fs::read_dir(directory())
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.is_file())
        .map(|path| File {
            name: path.file_name().unwrap().to_str().unwrap().to_owned(),
            text: fs::read_to_string(&path).unwrap(),
        })
        .filter(|file| file.name.starts_with(|first: char| first.is_ascii_digit()))
        .collect();
    files.sort_by(|one, other| one.name.cmp(&other.name));
    files
}

#[test]
fn versioned_migrations_after_the_baseline_stop_nobody() {
    let files = files();
    assert_eq!(files[0].name, "0001_baseline.sql");
    let found = violations(&files[1..], &functions());
    assert!(found.is_empty(), "{found:#?}");
}

#[test]
fn baseline_calls_no_function_that_is_installed_after_it() {
    let baseline = files().remove(0);
    for function in functions() {
        let call = format!("{function}(");
        assert!(
            !baseline
                .text
                .lines()
                .filter(|line| !line.trim_start().starts_with("--"))
                .any(|line| line.contains(&call)),
            "the baseline calls {function}"
        );
    }
}

#[test]
fn every_function_file_creates_or_replaces_the_function_it_is_named_after() {
    for function in Schema::embedded().functions() {
        let create = format!("create or replace function {}(", function.name);
        assert_eq!(
            function.sql.matches(&create).count(),
            1,
            "functions/{}.sql",
            function.name.replace('.', "/")
        );
        assert!(
            function.sql.starts_with("-- "),
            "{} has no comment that describes it",
            function.name
        );
    }
}

#[test]
fn statements_that_lock_a_big_table_are_refused() {
    for (bad, why) in [
        ("create index x on queue.parcels (lane)", "concurrently"),
        (
            "create unique index x on only app.events (id)",
            "concurrently",
        ),
        (
            "create index concurrently x on queue.parcels (lane)",
            "-- no-transaction",
        ),
        ("drop index queue.parcels_due", "concurrently"),
        ("reindex table queue.parcels", "concurrently"),
        (
            "alter table queue.parcels alter column priority type int4",
            "rewrites",
        ),
        (
            "alter table queue.parcels alter priority set data type int4",
            "rewrites",
        ),
        (
            "alter table app.events alter column data set not null",
            "is not null",
        ),
        (
            "alter table app.events add constraint c check (version > 0)",
            "not valid",
        ),
        (
            "alter table app.events add check (version > 0) not valid",
            "name",
        ),
        (
            "alter table app.events add constraint f foreign key (tenant_id) references app.tenants",
            "not valid",
        ),
        (
            "alter table app.events add constraint u unique (id)",
            "using index",
        ),
        ("alter table app.events add primary key (id)", "using index"),
        (
            "alter table app.events add column seen timestamptz default clock_timestamp()",
            "rewrites",
        ),
        (
            "alter table app.events add column seen uuid not null default gen_random_uuid()",
            "rewrites",
        ),
        (
            "alter table app.events add seen uuid default gen_random_uuid()",
            "rewrites",
        ),
        (
            "alter table app.events add column n int4 generated always as (1) stored",
            "rewrites",
        ),
        ("alter table app.events add column n bigserial", "rewrites"),
        (
            "alter table app.events add column n int4 not null",
            "constant default",
        ),
        (
            "alter table app.events add column t uuid references app.tenants",
            "apart",
        ),
        (
            "alter table app.events add column n int4 check (n > 0)",
            "apart",
        ),
        (
            "alter table app.events add column a int4, drop column version",
            "contract",
        ),
        ("alter table app.events drop version", "contract"),
        (
            "alter table app.events rename column data to body",
            "renamed",
        ),
        ("alter table app.events rename to messages", "renamed"),
        (
            "alter type queue.draft rename attribute place to position",
            "renamed",
        ),
        ("alter table app.events set unlogged", "rewrites"),
        ("alter table app.events set tablespace other", "rewrites"),
        (
            "alter table if exists only app.events cluster on events_age",
            "rewrites",
        ),
        ("vacuum full queue.parcels", "cannot run"),
        ("cluster queue.parcels using parcels_due", "rewrites"),
        ("lock table queue.parcels in share mode", "stops others"),
        (
            "lock queue.parcels in access exclusive mode",
            "stops others",
        ),
        ("truncate queue.deltas", "stops readers"),
        (
            "merge into queue.parcels p using app.roles r on true when matched then delete",
            "in batches",
        ),
        (
            "with r as (select 1) merge into only app.events e using r on true when matched then do nothing",
            "in batches",
        ),
        (
            "insert into app.events select * from app.events on conflict (id) do update set version = 1",
            "in batches",
        ),
        ("update parcels set lost = false", "in batches"),
        ("update queue . parcels set lost = false", "in batches"),
        ("set search_path = queue", "search path"),
        ("set local search_path to queue, app", "search path"),
        (
            "select pg_catalog.set_config('search_path', 'queue', true)",
            "search path",
        ),
        ("set schema 'queue'", "search path"),
        ("alter table app.events set schema queue", "search path"),
        ("alter index app.events_age rename to age", "renamed"),
        ("update queue.parcels set lost = false", "in batches"),
        (
            "update only app.events set version = 1 where version is null",
            "in batches",
        ),
        (
            "delete from app.delivery_attempts where number > 3",
            "in batches",
        ),
        (
            "with old as (select 1) delete from queue.labels",
            "in batches",
        ),
        ("drop table app.events", "contract"),
        ("drop function if exists queue.claim(int4)", "contract"),
        (
            "select queue.rotate_partitions(7, '31 days')",
            "installed after",
        ),
        (
            "create or replace function queue.x() returns int4 language sql as $$ select 1 $$",
            "functions/",
        ),
        (
            "do $$ begin update queue.parcels set lost = false; end $$",
            "in batches",
        ),
        (
            "do $x$ begin alter table app.events rename to e; end $x$",
            "renamed",
        ),
        (
            "do $$ begin perform queue.recount(); end $$",
            "installed after",
        ),
        (
            "do $$ begin lock table queue.parcels; end $$",
            "stops others",
        ),
        (
            "do $$ begin perform 1; if true then truncate queue.deltas; end if; end $$",
            "stops readers",
        ),
        (
            "do $$ begin loop cluster queue.parcels; end loop; end $$",
            "rewrites",
        ),
        (
            "do $$ begin if true then lock queue.parcels; end if; end $$",
            "stops others",
        ),
        (
            "do $$ begin if true then merge into queue.parcels p using app.roles r on true when matched then delete; end if; end $$",
            "in batches",
        ),
        (
            "do $$ begin execute 'truncate queue.deltas'; end $$",
            "cannot be checked",
        ),
        ("do 'begin truncate queue.deltas; end'", "cannot be checked"),
        (
            "-- no-transaction\nupdate app.roles set name = name",
            "only one",
        ),
        (
            "-- no-transaction\ncreate index concurrently x on app.events (id)",
            "only one",
        ),
        (
            "-- no-transaction\ndrop index concurrently if exists app.x; select 1",
            "only one",
        ),
        (
            "-- no-transaction\ncreate index concurrently if not exists x on app.events (id); select 1",
            "only one",
        ),
        (
            "-- no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS x ON app.events (id)",
            "exactly",
        ),
        (
            "-- no-transaction\ncreate  index concurrently if not exists x on app.events (id)",
            "exactly",
        ),
        (
            "-- no-transaction\ncreate unique index concurrently\n    if not exists x on app.events (id)",
            "exactly",
        ),
        (
            "-- no-transaction\ncreate index concurrently if not exists \"x\" on app.events (id)",
            "exactly",
        ),
        (
            "-- no-transaction\ncreate index concurrently if not exists X on app.events (id)",
            "exactly",
        ),
        (
            "-- no-transaction\ncreate index concurrently if not exists x\non app.events (id)",
            "exactly",
        ),
        (
            "-- no-transaction\n/* by age */ create index concurrently if not exists x on app.events (id)",
            "exactly",
        ),
        (
            "-- no-transaction\n-- An index concurrently if not exists y.\n\
             create index concurrently if not exists x on app.events (id)",
            "exactly",
        ),
    ] {
        let found = of(&[bad]);
        assert!(
            found.iter().any(|fault| fault.contains(why)),
            "{bad}: expected `{why}`, found {found:?}"
        );
    }
}

#[test]
fn statements_that_stop_nobody_are_accepted() {
    for good in [
        "create table app.things (tenant_id uuid not null, id uuid primary key);
         create index things_id on app.things (id);
         alter table app.things add check (id is not null);
         update app.things set id = id",
        "create unlogged table if not exists app.things (id uuid primary key); create index i on app.things (id)",
        "alter table app.events add column seen timestamptz",
        "alter table app.events add column seen timestamptz not null default now()",
        "alter table app.events add column kind text not null default 'other', add column n int4 default 0",
        "alter table app.events add constraint c check (version > 0) not valid",
        "alter table app.events drop constraint events_id_check",
        "alter table queue.parcels set (fillfactor = 80)",
        "alter table queue.parcels alter column results set statistics 10, alter n set default 2",
        "alter table app.events enable row level security",
        "create policy p on app.events for update to harkara_app using (true)",
        "grant select, update, delete on app.events to harkara_app",
        "insert into app.roles (name, description) values ('x', 'update queue.parcels set')
         on conflict (name) do update set description = excluded.description",
        "update app.roles set description = 'Sees all' where name = 'viewer'",
        "-- contract: no release since 0.2.0 reads it\nalter table app.events drop column version",
        "-- contract: no release since 0.2.0 calls it\ndrop function if exists queue.old(int4)",
        "-- update queue.parcels set lost = false\nselect 1",
        "-- no-transaction\ncreate index concurrently if not exists x on app.events (id)",
        "-- no-transaction\ncreate unique index concurrently if not exists x on app.events (id);",
        "-- no-transaction\n-- Serves the list by source.\n\ncreate index concurrently if not exists x on app.events (\n    id\n)",
        "-- no-transaction\ndrop index concurrently if exists app.x",
        "alter index queue.attempts_worker attach partition queue.attempts_other_worker",
        "create temp table old on commit drop as select 1 as n; update old set n = 2",
        "create trigger t before insert or update of data on app.events execute function app.x()",
        "revoke update on app.events from harkara_app",
        "merge into app.roles r using (values ('x')) v (name) on r.name = v.name when matched then do nothing",
        "insert into app.events select * from app.events on conflict do nothing",
        "do $$ begin if true then grant execute on function queue.claim(int4) to harkara_engine; end if; end $$",
        "create index x on only queue.attempts (worker_id)",
        "grant execute on function queue.claim(int4) to harkara_engine",
    ] {
        assert_eq!(of(&[good]), Vec::<String>::new(), "{good}");
    }
}

#[test]
fn a_column_becomes_not_null_by_a_constraint_that_was_validated_before() {
    let add = "alter table app.events add constraint has_data check (data is not null) not valid";
    let validate = "alter table app.events validate constraint has_data";
    let set = "alter table app.events alter column data set not null";
    assert_eq!(of(&[add, validate, set]), Vec::<String>::new());
    assert!(!of(&[add, set]).is_empty());
    assert!(!of(&[&format!("{add}; {validate}"), set]).is_empty());
}

#[test]
fn a_migration_without_an_oldest_release_is_refused() {
    let file = File {
        name: "0002_x.sql".to_owned(),
        text: "select 1".to_owned(),
    };
    let found = violations(&[file], &functions());
    assert!(found[0].contains("-- oldest-release:"), "{found:?}");
}
