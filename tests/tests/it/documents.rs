//! The documents agree with the code.

use std::collections::BTreeSet;
use std::fs;

use harkara_jobs::catalogue::KINDS;
use harkara_shared::config::{Settings, is_known, known as known_settings};
use harkara_tests::workspace;

fn read(path: &str) -> String {
    fs::read_to_string(workspace().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn env_example_documents_every_setting_and_no_other() {
    let documented: BTreeSet<String> = read("deploy/env.example")
        .lines()
        .filter_map(|line| line.trim_start_matches('#').trim().split_once('='))
        .map(|(name, _)| name.trim().to_owned())
        .filter(|name| name.chars().all(|c| c.is_ascii_uppercase() || c == '_'))
        .collect();
    let mut known: BTreeSet<String> = known_settings().map(str::to_owned).collect();
    known.insert("HARKARA_CONFIG".to_owned());
    assert_eq!(documented, known);
}

#[test]
fn env_example_shows_the_actual_defaults() {
    let shown = read("deploy/env.example")
        .lines()
        .filter_map(|line| line.strip_prefix('#'))
        .filter_map(|line| line.split_once('='))
        .filter(|(name, _)| is_known(name))
        // Settings without a default, shown with an example.
        .filter(|(name, _)| {
            !matches!(
                *name,
                "HARKARA_MASTER_KEY"
                    | "DATABASE_URL"
                    | "HARKARA_LISTEN_URL"
                    | "HARKARA_PG_BIN"
                    | "HARKARA_PUBLIC_URL"
                    | "HARKARA_TRUSTED_PROXIES"
                    | "HARKARA_CORS_ORIGINS"
                    | "HARKARA_OIDC_ISSUER"
                    | "HARKARA_OIDC_CLIENT_ID"
                    | "HARKARA_OIDC_CLIENT_SECRET"
                    | "HARKARA_BLOB_URL"
            )
        })
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect();
    let shown = Settings::read(shown, &[]).unwrap();
    let default = Settings::read(Default::default(), &[]).unwrap();
    assert_eq!(
        format!(
            "{:?}",
            Settings {
                egress_allow_was_set: false,
                log_was_set: false,
                ..shown
            }
        ),
        format!("{default:?}")
    );
}

#[test]
fn readme_commands_exist() {
    let readme = read("README.md");
    for command in ["cargo run --release", "cargo test --workspace"] {
        assert!(
            readme.contains(command),
            "README.md does not name `{command}`"
        );
    }
    assert!(
        read(".ci/run").contains("cargo test --workspace"),
        "CI must run the README's test command"
    );
}

#[test]
fn job_error_codes_are_documented() {
    let documented = read("docs/ERRORS.md");
    for source in [
        "queue/src",
        "jobs/kind/src",
        "jobs/platform/src",
        "jobs/src",
        "jobs/webhooks/src",
        "shared/src/egress",
    ] {
        for path in rust_files(&workspace().join(source)) {
            let text = fs::read_to_string(&path).unwrap();
            for part in text.split("JobError::new(").skip(1) {
                let Some(code) = part
                    .trim_start()
                    .strip_prefix('"')
                    .and_then(|rest| rest.split('"').next())
                else {
                    continue;
                };
                assert!(
                    documented.contains(&format!("`{code}`")),
                    "docs/ERRORS.md lacks `{code}`"
                );
            }
        }
    }
    let problems = read("api/src/problem.rs");
    // A code is the string before a status: `("not_found", S::NOT_FOUND, …`.
    let codes: Vec<&str> = problems
        .split("S::")
        .filter_map(|before| {
            let (before, gap) = before.rsplit_once('"')?;
            let (_, code) = before.rsplit_once('"')?;
            (gap.trim() == ",").then_some(code)
        })
        .collect();
    assert!(
        codes.len() > 10,
        "the problem codes must be found: {codes:?}"
    );
    for code in codes {
        assert!(
            documented.contains(&format!("`{code}`")),
            "docs/ERRORS.md lacks `{code}`"
        );
    }
}

fn rust_files(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(rust_files(&path));
        } else if name.ends_with(".rs") && !name.contains("test") && !path.ends_with("support.rs") {
            found.push(path);
        }
    }
    found
}

#[test]
fn architecture_document_names_every_kind() {
    let text = read("docs/ARCHITECTURE.md");
    for kind in KINDS {
        assert!(
            text.contains(&format!("`{}`", kind.name)),
            "docs/ARCHITECTURE.md lacks {}",
            kind.name
        );
    }
}

#[test]
fn document_links_resolve() {
    let mut documents: Vec<String> = [
        "README.md",
        "CONTRIBUTING.md",
        "SECURITY.md",
        "CHANGELOG.md",
    ]
    .map(str::to_owned)
    .into();
    for directory in ["docs", "docs/adr", "docs/design"] {
        for entry in fs::read_dir(workspace().join(directory)).unwrap() {
            let path = entry.unwrap().path();
            if path.extension().is_some_and(|ending| ending == "md") {
                documents.push(
                    path.strip_prefix(workspace())
                        .unwrap()
                        .to_str()
                        .unwrap()
                        .to_owned(),
                );
            }
        }
    }
    for document in documents {
        let path = workspace().join(&document);
        for part in read(&document).split("](").skip(1) {
            let target = part.split(')').next().unwrap().split('#').next().unwrap();
            if target.is_empty() || target.contains("://") {
                continue;
            }
            assert!(
                path.parent().unwrap().join(target).exists(),
                "{document} links to {target}"
            );
        }
    }
}
