//! The house rules that a compiler does not know.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use harkara_tests::workspace;

/// Which rooms a room may import (docs/ARCHITECTURE.md). Tests and benchmarks may import all.
const IMPORTS: &[(&str, &[&str])] = &[
    ("shared", &[]),
    ("queue", &["shared"]),
    ("jobs", &["shared", "queue"]),
    ("api", &["shared", "queue", "jobs"]),
    ("worker", &["shared", "queue", "jobs"]),
    ("scheduler", &["shared", "queue", "jobs"]),
    ("cli/postgres", &[]),
    (
        "cli",
        &[
            "shared",
            "queue",
            "jobs",
            "api",
            "worker",
            "scheduler",
            "postgres",
        ],
    ),
];

fn manifest(room: &str) -> toml::Table {
    fs::read_to_string(workspace().join(room).join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap()
}

fn dependencies(room: &str) -> BTreeSet<String> {
    manifest(room)["dependencies"]
        .as_table()
        .unwrap()
        .keys()
        .cloned()
        .collect()
}

fn files(directory: &Path, ending: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap();
        if path.is_dir() && name != "target" && !name.starts_with('.') {
            found.extend(files(&path, ending));
        } else if name.ends_with(ending) {
            found.push(path);
        }
    }
    found
}

fn shown(path: &Path) -> String {
    path.strip_prefix(workspace())
        .unwrap()
        .display()
        .to_string()
}

#[test]
fn a_room_imports_only_the_rooms_it_may() {
    for (room, allowed) in IMPORTS {
        let imported: BTreeSet<String> = dependencies(room)
            .into_iter()
            .filter_map(|name| name.strip_prefix("harkara-").map(str::to_owned))
            .collect();
        let allowed: BTreeSet<String> = allowed.iter().map(|&name| name.to_owned()).collect();
        let extra: Vec<&String> = imported.difference(&allowed).collect();
        assert!(
            extra.is_empty(),
            "{room} imports {extra:?}, which the table does not allow"
        );
    }
}

#[test]
fn nothing_that_is_run_is_built_with_what_is_for_tests() {
    for room in IMPORTS.iter().map(|(room, _)| *room).chain(["bench"]) {
        let manifest = manifest(room);
        for (name, wanted) in manifest["dependencies"].as_table().unwrap() {
            assert!(
                !matches!(
                    name.as_str(),
                    "harkara-kit" | "harkara-test-database" | "harkara-tests"
                ),
                "{room} depends on {name}"
            );
            let features = wanted.get("features").and_then(toml::Value::as_array);
            assert!(
                features.is_none_or(|on| !on.iter().any(|one| one.as_str() == Some("testing"))),
                "{room} turns the tests' part of {name} on"
            );
        }
        let features = manifest.get("features").and_then(toml::Value::as_table);
        for (name, on) in features.into_iter().flatten() {
            assert_eq!(
                (name.as_str(), on.as_array().map(Vec::len)),
                ("testing", Some(0)),
                "a feature of {room}"
            );
        }
    }
}

#[test]
fn only_the_queue_names_its_schema_and_apalis() {
    for path in files(&workspace(), ".rs")
        .into_iter()
        .chain(files(&workspace(), ".sql"))
    {
        let name = shown(&path);
        let may = ["queue/", "migrations/", "tests/", "bench/"]
            .iter()
            .any(|room| name.starts_with(room))
            || name.contains("/tests/");
        if may {
            continue;
        }
        let text = fs::read_to_string(&path).unwrap();
        for word in ["queue.parcels", "queue.lanes", "queue.attempts", "apalis"] {
            assert!(!text.contains(word), "{name} names {word}");
        }
    }
}

#[test]
fn every_dependency_is_used_by_its_crate() {
    let rooms = IMPORTS.iter().map(|(room, _)| *room);
    for room in rooms.chain(["tests", "tests/database", "tests/kit", "bench"]) {
        let directory = workspace().join(room);
        let sources: String = ["src", "tests", "benches"]
            .iter()
            .map(|part| directory.join(part))
            .filter(|part| part.is_dir())
            .flat_map(|part| files(&part, ".rs"))
            .map(|path| fs::read_to_string(path).unwrap())
            .collect();
        let manifest = manifest(room);
        for section in ["dependencies", "dev-dependencies"] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else {
                continue;
            };
            for name in table.keys() {
                let module = name.replace('-', "_");
                assert!(
                    sources.contains(&format!("{module}::"))
                        || sources.contains(&format!("use {module}")),
                    "{room} depends on {name} and does not use it"
                );
            }
        }
    }
}

#[test]
fn every_module_says_what_room_it_is() {
    for (room, _) in IMPORTS {
        for path in files(&workspace().join(room).join("src"), ".rs") {
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with("//! "), "{} has no header", shown(&path));
            let name = path.file_name().unwrap().to_str().unwrap();
            if !matches!(name, "lib.rs" | "main.rs" | "tests.rs")
                && !shown(&path).contains("/tests/")
            {
                let header: String = text
                    .lines()
                    .take_while(|line| line.starts_with("//!"))
                    .collect();
                for word in ["Takes", "ives:"] {
                    let plain = header.starts_with("//! One module");
                    assert!(
                        plain || header.contains(word),
                        "{}: no `{word}`",
                        shown(&path)
                    );
                }
            }
        }
    }
}

#[test]
fn no_source_file_is_longer_than_600_lines() {
    // SQL is exempt: a schema is read in one piece.
    for path in files(&workspace(), ".rs") {
        let lines = fs::read_to_string(&path).unwrap().lines().count();
        assert!(lines <= 600, "{} has {lines} lines", shown(&path));
    }
}

#[test]
fn every_statement_is_named_by_the_source_beside_it() {
    let mut named: BTreeMap<PathBuf, String> = BTreeMap::new();
    for path in files(&workspace(), ".sql") {
        let name = shown(&path);
        if name.starts_with("migrations/") || !name.contains("/src/") {
            continue;
        }
        let room = workspace()
            .join(name.split("/src/").next().unwrap())
            .join("src");
        let sources = named.entry(room.clone()).or_insert_with(|| {
            files(&room, ".rs")
                .iter()
                .map(|path| fs::read_to_string(path).unwrap())
                .collect()
        });
        let file = path.file_name().unwrap().to_str().unwrap();
        assert!(
            sources.contains(&format!("/{file}\"")) || sources.contains(&format!("\"{file}\"")),
            "no source names {name}"
        );
        assert!(
            fs::read_to_string(&path).unwrap().starts_with("-- "),
            "{name} has no header"
        );
    }
}
