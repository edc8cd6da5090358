//! The code shown in docs/KINDS.md is compiled and run.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

fn read(path: &str) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    fs::read_to_string(root.join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

#[test]
fn documented_code_is_the_example() {
    let document = read("docs/KINDS.md");
    let sources = ["invoice_remind.rs", "test.rs"]
        .map(|name| read(&format!("tests/kit/tests/it/example/{name}")));
    let mut shown = BTreeSet::new();
    let mut blocks = 0;
    for part in document.split("```rust\n").skip(1) {
        let block = part.split("```").next().unwrap();
        let place = sources
            .iter()
            .position(|source| source.contains(block))
            .unwrap_or_else(|| panic!("not part of the example:\n{block}"));
        shown.insert(place);
        blocks += 1;
    }
    assert_eq!(
        shown.len(),
        2,
        "the document must show the kind and its tests"
    );
    assert!(blocks >= 3);
}

#[test]
fn document_names_every_helper() {
    let document = read("docs/KINDS.md");
    for source in ["lib", "clock", "drain", "enqueued", "perform", "receiver"] {
        let text = read(&format!("tests/kit/src/{source}.rs"));
        for part in text
            .split("pub fn ")
            .chain(text.split("pub async fn "))
            .skip(1)
        {
            let name: String = part
                .chars()
                .take_while(|c| c.is_alphanumeric() || *c == '_')
                .collect();
            // The first part is the text before any function.
            if part.starts_with("//!") {
                continue;
            }
            assert!(
                document.contains(&format!("{name}(")) || document.contains(&format!("{name}::<")),
                "docs/KINDS.md does not name `{name}` of {source}.rs"
            );
        }
    }
}
