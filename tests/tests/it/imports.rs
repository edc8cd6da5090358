//! Rules of the source tree that the compiler does not check: imports, dependencies, headers, file lengths.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use harkara_tests::workspace;

/// Which crates of the workspace a crate may import (docs/ARCHITECTURE.md). Tests and benchmarks may import all.
const IMPORTS: &[(&str, &[&str])] = &[
    ("shared", &[]),
    ("queue", &["shared"]),
    ("accounts", &["shared", "queue"]),
    ("jobs/kind", &["shared", "queue"]),
    ("jobs/platform", &["shared", "queue", "accounts", "kind"]),
    ("jobs/webhooks", &["shared", "queue", "accounts", "kind"]),
    (
        "jobs",
        &[
            "shared", "queue", "accounts", "kind", "platform", "webhooks",
        ],
    ),
    (
        "api",
        &[
            "shared", "queue", "accounts", "kind", "platform", "webhooks", "jobs",
        ],
    ),
    (
        "worker",
        &["shared", "queue", "accounts", "kind", "webhooks", "jobs"],
    ),
    ("scheduler", &["shared", "queue", "accounts", "jobs"]),
    ("cli/postgres", &[]),
    (
        "cli",
        &[
            "shared",
            "queue",
            "accounts",
            "kind",
            "platform",
            "webhooks",
            "jobs",
            "api",
            "worker",
            "scheduler",
            "postgres",
        ],
    ),
];

fn manifest(member: &str) -> toml::Table {
    fs::read_to_string(workspace().join(member).join("Cargo.toml"))
        .unwrap()
        .parse()
        .unwrap()
}

fn dependencies(member: &str) -> BTreeSet<String> {
    manifest(member)["dependencies"]
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
fn crates_import_only_what_the_table_allows() {
    for (member, allowed) in IMPORTS {
        let imported: BTreeSet<String> = dependencies(member)
            .into_iter()
            .filter_map(|name| name.strip_prefix("harkara-").map(str::to_owned))
            .collect();
        let allowed: BTreeSet<String> = allowed.iter().map(|&name| name.to_owned()).collect();
        let extra: Vec<&String> = imported.difference(&allowed).collect();
        assert!(
            extra.is_empty(),
            "{member} imports {extra:?}, which the table does not allow"
        );
    }
}

#[test]
fn no_binary_depends_on_test_code() {
    for member in IMPORTS.iter().map(|(member, _)| *member).chain(["bench"]) {
        let manifest = manifest(member);
        for (name, wanted) in manifest["dependencies"].as_table().unwrap() {
            assert!(
                !matches!(
                    name.as_str(),
                    "harkara-kit" | "harkara-test-database" | "harkara-tests"
                ),
                "{member} depends on {name}"
            );
            let features = wanted.get("features").and_then(toml::Value::as_array);
            assert!(
                features.is_none_or(|on| !on.iter().any(|one| one.as_str() == Some("testing"))),
                "{member} turns the tests' part of {name} on"
            );
        }
        let features = manifest.get("features").and_then(toml::Value::as_table);
        for (name, on) in features.into_iter().flatten() {
            let enabled = on.as_array().map(Vec::len);
            assert!(
                name == "openapi" || (name.as_str(), enabled) == ("testing", Some(0)),
                "a feature of {member}: {name}"
            );
        }
    }
}

#[test]
fn only_the_queue_names_its_tables_and_apalis() {
    for path in files(&workspace(), ".rs")
        .into_iter()
        .chain(files(&workspace(), ".sql"))
    {
        let name = shown(&path);
        let may = ["queue/", "migrations/", "tests/", "bench/"]
            .iter()
            .any(|member| name.starts_with(member))
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
    let members = IMPORTS.iter().map(|(member, _)| *member);
    for member in members.chain(["tests", "tests/database", "tests/kit", "bench"]) {
        let directory = workspace().join(member);
        let sources: String = ["src", "tests", "benches"]
            .iter()
            .map(|part| directory.join(part))
            .filter(|part| part.is_dir())
            .flat_map(|part| files(&part, ".rs"))
            .map(|path| fs::read_to_string(path).unwrap())
            .collect();
        let manifest = manifest(member);
        for section in ["dependencies", "dev-dependencies"] {
            let Some(table) = manifest.get(section).and_then(toml::Value::as_table) else {
                continue;
            };
            for name in table.keys() {
                let module = name.replace('-', "_");
                assert!(
                    sources.contains(&format!("{module}::"))
                        || sources.contains(&format!("use {module}")),
                    "{member} depends on {name} and does not use it"
                );
            }
        }
    }
}

#[test]
fn every_module_has_a_header() {
    for (member, _) in IMPORTS {
        for path in files(&workspace().join(member).join("src"), ".rs") {
            let text = fs::read_to_string(&path).unwrap();
            let header = text.lines().next().unwrap_or_default();
            assert!(header.starts_with("//! "), "{} has no header", shown(&path));
            assert!(
                !header.contains("Room:"),
                "the header of {} says `Room:`",
                shown(&path)
            );
        }
    }
}

#[test]
fn no_source_file_is_longer_than_600_lines() {
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
        let member = workspace()
            .join(name.split("/src/").next().unwrap())
            .join("src");
        let sources = named.entry(member.clone()).or_insert_with(|| {
            files(&member, ".rs")
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

/// Crates whose modules must not import each other in a circle.
const WITHOUT_CYCLES: &[&str] = &[
    "shared",
    "queue",
    "accounts",
    "jobs/kind",
    "jobs/platform",
    "jobs/webhooks",
    "jobs",
    "worker",
    "scheduler",
    "cli",
];

/// The code of a file: without comments and without its unit tests.
fn code(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap();
    let end = text.find("#[cfg(test)]\nmod tests").unwrap_or(text.len());
    text[..end]
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n")
}

fn identifier(text: &str) -> String {
    text.chars()
        .take_while(|c| c.is_alphanumeric() || *c == '_')
        .collect()
}

/// The names that follow `start` in paths: both of `start::a::b` and `start::{a::b, c}`.
fn names_after(code: &str, start: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for (at, _) in code.match_indices(start) {
        let before = code[..at].chars().next_back();
        if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | ':')) {
            continue;
        }
        let rest = &code[at + start.len()..];
        let Some(list) = rest.strip_prefix('{') else {
            names.insert(identifier(rest));
            continue;
        };
        let (mut depth, mut item) = (0, String::new());
        for c in list.chars() {
            match c {
                '{' => depth += 1,
                '}' if depth == 0 => break,
                '}' => depth -= 1,
                ',' if depth == 0 => {
                    names.insert(identifier(item.trim()));
                    item.clear();
                    continue;
                }
                _ => {}
            }
            item.push(c);
        }
        names.insert(identifier(item.trim()));
    }
    names.retain(|name| !name.is_empty());
    names
}

/// For each module at the top of a crate, the other ones that it imports.
fn module_imports(member: &str) -> BTreeMap<String, BTreeSet<String>> {
    let source = workspace().join(member).join("src");
    let module_of = |path: &Path| -> Option<String> {
        let path = path.strip_prefix(&source).unwrap();
        let name = path.components().next().unwrap().as_os_str();
        let name = name.to_str().unwrap().trim_end_matches(".rs");
        (!matches!(name, "lib" | "main" | "tests")).then(|| name.to_owned())
    };
    let paths: Vec<PathBuf> = files(&source, ".rs")
        .into_iter()
        .filter(|path| !shown(path).contains("/tests/") && !path.ends_with("tests.rs"))
        .collect();
    let modules: BTreeSet<String> = paths.iter().filter_map(|path| module_of(path)).collect();
    // What the root of the crate takes from its modules can be imported from the root.
    let mut homes: BTreeMap<String, String> = BTreeMap::new();
    for root in ["lib.rs", "main.rs"] {
        let root = source.join(root);
        if root.is_file() {
            let root = code(&root);
            for module in &modules {
                for name in names_after(&root, &format!("{module}::")) {
                    homes.insert(name, module.clone());
                }
            }
        }
    }
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for path in &paths {
        let Some(module) = module_of(path) else {
            continue;
        };
        let text = code(path);
        let mut names = names_after(&text, "crate::");
        if path.parent() == Some(&source) {
            names.extend(names_after(&text, "super::"));
        }
        let found = imports.entry(module.clone()).or_default();
        for name in names {
            let home = modules.get(&name).or_else(|| homes.get(&name));
            found.extend(home.filter(|home| **home != module).cloned());
        }
    }
    imports
}

/// A circle of modules, if there is one.
fn cycle(imports: &BTreeMap<String, BTreeSet<String>>) -> Option<Vec<String>> {
    fn visit<'a>(
        module: &'a String,
        imports: &'a BTreeMap<String, BTreeSet<String>>,
        path: &mut Vec<&'a String>,
        done: &mut BTreeSet<&'a String>,
    ) -> Option<Vec<String>> {
        if let Some(start) = path.iter().position(|one| *one == module) {
            return Some(path[start..].iter().map(|one| (*one).clone()).collect());
        }
        if !done.insert(module) {
            return None;
        }
        path.push(module);
        let found = imports
            .get(module)
            .into_iter()
            .flatten()
            .find_map(|next| visit(next, imports, path, done));
        path.pop();
        found
    }
    let mut done = BTreeSet::new();
    imports
        .keys()
        .find_map(|module| visit(module, imports, &mut Vec::new(), &mut done))
}

#[test]
fn modules_of_a_crate_do_not_import_each_other_in_a_circle() {
    let circles: Vec<String> = WITHOUT_CYCLES
        .iter()
        .filter_map(|member| {
            let circle = cycle(&module_imports(member))?;
            Some(format!("{member}: {} → {}", circle.join(" → "), circle[0]))
        })
        .collect();
    assert!(circles.is_empty(), "import circles: {circles:#?}");
}

#[test]
fn a_circle_is_found_through_lists_and_through_the_root() {
    let names = names_after("use crate::{a::{b, c}, d};\nuse crate::e::f;", "crate::");
    assert_eq!(names.into_iter().collect::<Vec<_>>(), ["a", "d", "e"]);
    let imports = |pairs: &[(&str, &str)]| {
        let mut all: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for (from, to) in pairs {
            all.entry((*from).to_owned())
                .or_default()
                .insert((*to).to_owned());
        }
        all
    };
    assert_eq!(cycle(&imports(&[("a", "b"), ("b", "c"), ("a", "c")])), None);
    let circle = cycle(&imports(&[("a", "b"), ("b", "c"), ("c", "b")])).unwrap();
    assert_eq!(circle, ["b", "c"]);
}
