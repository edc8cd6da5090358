//! Finds statements in versioned migrations that would stop others, or that an older release would not survive.
//!
//! A tokenizer rather than a parser: each rule looks for a few words in their order, and prefers to refuse a statement
//! that it does not understand. Bodies of `do` blocks are read like other statements, except that a command can begin
//! at any word of them. `migrations/README.md` explains what to write instead.

use std::collections::{HashMap, HashSet};

use super::statements::{Statement, Words, statements};

/// Tables of a few rows, which can be written in a migration.
const SMALL_TABLES: [&str; 14] = [
    "app.leaders",
    "app.permissions",
    "app.role_parents",
    "app.role_permissions",
    "app.roles",
    "app.schedules",
    "app.schema_functions",
    "app.schema_state",
    "app.seeded_event_types",
    "queue.catalogue",
    "queue.kinds",
    "queue.published",
    "queue.queues",
    "queue.rollup_state",
];

/// Functions whose value is the same for all rows of a statement, so that a default of a new column needs no rewrite.
const STABLE_DEFAULTS: [&str; 4] = [
    "now",
    "current_timestamp",
    "transaction_timestamp",
    "date_trunc",
];

/// A versioned migration: its file's name and text.
pub(crate) struct File {
    pub(crate) name: String,
    pub(crate) text: String,
}

/// Every violation in `files`, which are in the order of their versions, after the baseline.
pub(crate) fn violations(files: &[File], functions: &HashSet<String>) -> Vec<String> {
    let mut known = Known::default();
    files
        .iter()
        .flat_map(|file| {
            let faults = lint(file, functions, &mut known);
            faults
                .into_iter()
                .map(|fault| format!("{}: {fault}", file.name))
        })
        .collect()
}

/// What earlier migrations established.
#[derive(Default)]
struct Known {
    /// Columns that a validated constraint keeps from being null, by table.
    not_null: HashSet<(String, String)>,
    /// Columns of `check (column is not null)` constraints that are not validated yet, by table and constraint.
    unvalidated: HashMap<(String, String), Option<String>>,
}

fn lint(file: &File, functions: &HashSet<String>, known: &mut Known) -> Vec<String> {
    let mut faults = Vec::new();
    let is_marked = file.text.lines().any(|line| {
        line.strip_prefix("-- contract: ")
            .is_some_and(|why| !why.is_empty())
    });
    let statements = statements(&file.text);
    let no_transaction = file.text.starts_with("-- no-transaction");
    let created: HashSet<String> = statements
        .iter()
        .filter_map(|statement| created_table(&statement.words))
        .collect();
    if !file
        .text
        .lines()
        .any(|line| line.starts_with("-- oldest-release: "))
    {
        faults.push("declares no `-- oldest-release:`".to_owned());
    }
    if no_transaction {
        let is_index = |statement: &Statement| {
            let text = statement.words.join(" ");
            text.starts_with("create index concurrently if not exists ")
                || text.starts_with("create unique index concurrently if not exists ")
                || text.starts_with("drop index concurrently if exists ")
        };
        if statements.len() != 1 || !statements.iter().all(is_index) {
            faults.push(
                "outside of a transaction only one `create [unique] index concurrently if not exists` or \
                 `drop index concurrently if exists` can be repeated after an interruption"
                    .to_owned(),
            );
        }
        let creates_index = statements.iter().any(|statement| {
            statement.words[0] == "create" && statement.words.iter().any(|word| word == "index")
        });
        if creates_index && !has_index_form(&file.text) {
            faults.push(
                "`migrate` finds an unfinished index by its name in the file: the statement must begin a line with exactly \
                 `create [unique] index concurrently if not exists NAME on `: lower case, single spaces, no quotes, \
                 the words nowhere else in the file"
                    .to_owned(),
            );
        }
    }
    let mut added_here = HashSet::new();
    for Statement { words, in_block } in &statements {
        let mut scan = Scan {
            words,
            in_block: *in_block,
            created: &created,
            no_transaction,
            is_marked,
            faults: Vec::new(),
        };
        scan.indexes();
        scan.whole_tables();
        scan.row_writes();
        scan.hidden_names();
        scan.functions(functions);
        scan.alterations(known, &mut added_here);
        let statement: String = words.join(" ").chars().take(80).collect();
        faults.extend(
            scan.faults
                .into_iter()
                .map(|fault| format!("{fault} ({statement})")),
        );
    }
    faults
}

/// One statement under the rules.
struct Scan<'a> {
    words: &'a Words,
    in_block: bool,
    created: &'a HashSet<String>,
    no_transaction: bool,
    is_marked: bool,
    faults: Vec<String>,
}

impl Scan<'_> {
    fn refuse(&mut self, why: &str) {
        self.faults.push(why.to_owned());
    }

    fn is_existing(&self, table: &str) -> bool {
        !self.created.contains(table)
    }

    fn indexes(&mut self) {
        let words = self.words;
        for start in ["create", "drop", "reindex"]
            .into_iter()
            .flat_map(|word| places(words, &[word]))
        {
            let rest = &words[start..];
            let text = rest.iter().take(6).cloned().collect::<Vec<_>>().join(" ");
            let is_concurrent = rest.iter().take(5).any(|word| word == "concurrently");
            if text.starts_with("create index") || text.starts_with("create unique index") {
                let table = after(rest, "on").filter(|word| word != "only");
                // Of a partitioned table: builds nothing.
                let is_parent_only = !places(rest, &["on", "only", "queue.attempts"]).is_empty();
                let on_new_table = table.is_some_and(|table| !self.is_existing(&table));
                if is_concurrent && !self.no_transaction {
                    self.refuse("`concurrently` needs `-- no-transaction` as the first line");
                } else if !is_concurrent && !on_new_table && !is_parent_only {
                    self.refuse("building an index stops writers: create it concurrently");
                }
            } else if (text.starts_with("drop index") || text.starts_with("reindex"))
                && !is_concurrent
            {
                self.refuse("stops readers and writers of the table: use `concurrently`");
            }
        }
    }

    fn whole_tables(&mut self) {
        let words = self.words;
        for (pattern, why) in [
            (&["vacuum"][..], "cannot run in a migration"),
            (&["cluster"], "rewrites the table under an exclusive lock"),
            (&["lock"], "stops others until the end of the migration"),
            (&["truncate"], "stops readers and writers"),
            (&["refresh", "materialized", "view"], "stops readers"),
        ] {
            let found = places(words, pattern);
            if found.first() == Some(&0) || (self.in_block && !found.is_empty()) {
                self.refuse(why);
            }
        }
        for kind in [
            "table",
            "function",
            "procedure",
            "type",
            "schema",
            "view",
            "sequence",
        ] {
            if !places(words, &["drop", kind]).is_empty() && !self.is_marked {
                self.refuse("an older release may use it: needs `-- contract: <which release stopped using it>`");
            }
        }
    }

    /// Statements that write existing rows.
    fn row_writes(&mut self) {
        let words = self.words;
        let mut tables = Vec::new();
        for pattern in [&["update"][..], &["delete", "from"], &["merge", "into"]] {
            for start in places(words, pattern) {
                let is_clause = start > 0
                    && matches!(
                        &*words[start - 1],
                        "for"
                            | "on"
                            | "do"
                            | "key"
                            | ","
                            | "grant"
                            | "revoke"
                            | "before"
                            | "after"
                            | "or"
                            | "of"
                    );
                if !is_clause {
                    tables.push(table_at(words, start + pattern.len()));
                }
            }
        }
        let inserts = places(words, &["insert", "into"]);
        for update in places(words, &["do", "update"]) {
            if let Some(insert) = inserts.iter().rev().find(|insert| **insert < update) {
                tables.push(table_at(words, insert + 2));
            }
        }
        for table in tables.into_iter().flatten() {
            if self.is_existing(table) && !SMALL_TABLES.contains(&table) {
                self.refuse(
                    "rows of a big table are backfilled in batches by a job, not in a migration",
                );
            }
        }
    }

    /// What would keep the other rules from seeing a table or a statement.
    fn hidden_names(&mut self) {
        let words = self.words;
        let sets_path = words
            .iter()
            .any(|word| word == "search_path" || word.ends_with("set_config"));
        if sets_path || !places(words, &["set", "schema"]).is_empty() {
            self.refuse("tables are named with their schema: leave the search path alone");
        }
        let runs_text = self.in_block
            && words.iter().zip(words.iter().skip(1)).any(|(word, next)| {
                word == "execute" && !matches!(&**next, "on" | "function" | "procedure")
            });
        let is_quoted_block = words[0] == "do" && words.iter().any(|word| word == "''");
        if runs_text || is_quoted_block {
            self.refuse("SQL in a string cannot be checked: write the statement");
        }
    }

    fn functions(&mut self, functions: &HashSet<String>) {
        let words = self.words;
        let creates = [
            &["create", "function"][..],
            &["create", "procedure"],
            &["create", "or", "replace", "function"],
            &["create", "or", "replace", "procedure"],
        ];
        if creates
            .iter()
            .any(|pattern| !places(words, pattern).is_empty())
        {
            self.refuse("functions have their file in functions/");
        }
        let names_functions = !places(words, &["on", "function"]).is_empty()
            || !places(words, &["drop", "function"]).is_empty();
        let calls = words
            .windows(2)
            .find(|pair| pair[1] == "(" && functions.contains(&pair[0]));
        if let Some(pair) = calls.filter(|_| !names_functions) {
            let why = format!("calls {}, which is installed after the migrations", pair[0]);
            self.refuse(&why);
        }
    }

    fn alterations(&mut self, known: &mut Known, added_here: &mut HashSet<(String, String)>) {
        let words = self.words;
        for kind in [
            "table", "index", "type", "schema", "sequence", "view", "function",
        ] {
            for start in places(words, &["alter", kind]) {
                let mut rest: Vec<&str> = words[start + 2..].iter().map(String::as_str).collect();
                while matches!(rest.first(), Some(&("if" | "exists" | "only"))) {
                    rest.remove(0);
                }
                let Some((table, actions)) = rest.split_first() else {
                    continue;
                };
                if actions.contains(&"rename") {
                    self.refuse("a renamed object breaks the release that runs beside this one: expand, then contract");
                }
                if kind != "table" || !self.is_existing(table) {
                    continue;
                }
                for action in split_actions(actions) {
                    self.alter_table(table, &action, known, added_here);
                }
            }
        }
    }

    fn alter_table(
        &mut self,
        table: &str,
        action: &[&str],
        known: &mut Known,
        added_here: &mut HashSet<(String, String)>,
    ) {
        match action {
            ["alter", rest @ ..] => {
                let (column, rest) = match rest {
                    ["column", column, rest @ ..] | [column, rest @ ..] => (*column, rest),
                    [] => return,
                };
                match rest {
                    ["type", ..] | ["set", "data", "type", ..] => {
                        self.refuse("rewrites the table under an exclusive lock: add a column and backfill it");
                    }
                    ["set", "not", "null", ..]
                        if !known
                            .not_null
                            .contains(&(table.to_owned(), column.to_owned())) =>
                    {
                        self.refuse(
                            "reads the whole table under an exclusive lock: validate a `check (column is not null)` in an \
                             earlier migration",
                        );
                    }
                    _ => {}
                }
            }
            ["add", "column", rest @ ..] => self.add_column(rest),
            ["add", rest @ ..] => {
                let (name, rest) = match rest {
                    ["constraint", name, rest @ ..] => (Some(*name), rest),
                    _ => (None, rest),
                };
                match rest {
                    ["check", ..] | ["foreign", "key", ..] if rest.ends_with(&["not", "valid"]) => {
                        if let Some(name) = name {
                            let key = (table.to_owned(), name.to_owned());
                            let column = match rest {
                                ["check", "(", column, "is", "not", "null", ")", ..] => {
                                    Some((*column).to_owned())
                                }
                                _ => None,
                            };
                            added_here.insert(key.clone());
                            known.unvalidated.insert(key, column);
                        } else {
                            self.refuse("needs a name, so that a later migration can validate it");
                        }
                    }
                    ["check", ..] | ["foreign", "key", ..] => {
                        self.refuse("reads the whole table under a lock: add it `not valid`, validate it in a later migration");
                    }
                    ["unique" | "primary", ..]
                        if rest.windows(2).any(|pair| pair == ["using", "index"]) => {}
                    ["unique" | "primary" | "exclude", ..] => {
                        self.refuse("builds an index under a lock: create it concurrently, then `using index`");
                    }
                    // `add <column>` without the word.
                    _ => self.add_column(rest),
                }
            }
            ["validate", "constraint", name, ..] => {
                let key = (table.to_owned(), (*name).to_owned());
                if added_here.contains(&key) {
                    self.refuse("validates under the lock of the statement that added it: use a later migration");
                } else if let Some(Some(column)) = known.unvalidated.remove(&key) {
                    known.not_null.insert((table.to_owned(), column));
                }
            }
            ["drop", "constraint", ..] => {}
            ["drop", ..] if !self.is_marked => {
                self.refuse("an older release may use it: needs `-- contract: <which release stopped using it>`");
            }
            [
                "set",
                "logged" | "unlogged" | "tablespace" | "access" | "without",
                ..,
            ]
            | ["cluster", ..] => {
                self.refuse("rewrites the table under an exclusive lock");
            }
            ["attach" | "detach", ..] => {
                self.refuse("partitions are made and dropped by queue.rotate_partitions");
            }
            _ => {}
        }
    }

    fn add_column(&mut self, definition: &[&str]) {
        let has = |pattern: &[&str]| {
            definition
                .windows(pattern.len())
                .any(|part| part == pattern)
        };
        if has(&["generated"]) || definition.iter().any(|word| word.ends_with("serial")) {
            self.refuse("a generated column rewrites the table: add it plain and backfill it");
        }
        if has(&["not", "null"]) && !has(&["default"]) {
            self.refuse("fails on a table that has rows: needs a constant default");
        }
        for word in ["references", "check", "unique", "primary"] {
            if definition.contains(&word) {
                self.refuse(
                    "a constraint of a new column is added apart, as `not valid` or `using index`",
                );
            }
        }
        let default = definition.iter().position(|word| *word == "default");
        let calls = default
            .into_iter()
            .flat_map(|place| definition[place..].windows(2))
            .any(|pair| {
                pair[1] == "("
                    && pair[0]
                        .chars()
                        .all(|c| c.is_alphanumeric() || c == '_' || c == '.')
                    && !STABLE_DEFAULTS.contains(&pair[0])
            });
        if calls {
            self.refuse(
                "a default that differs by row rewrites the table: use a constant and backfill",
            );
        }
    }
}

/// Where these words follow each other.
fn places(words: &[String], pattern: &[&str]) -> Vec<usize> {
    words
        .windows(pattern.len())
        .enumerate()
        .filter(|(_, part)| part.iter().zip(pattern).all(|(one, other)| one == other))
        .map(|(place, _)| place)
        .collect()
}

fn table_at(words: &[String], place: usize) -> Option<&str> {
    words[place..]
        .iter()
        .map(String::as_str)
        .find(|word| *word != "only")
}

/// Whether `text` creates an index in the one form that lets `migrate` find it after an interruption.
fn has_index_form(text: &str) -> bool {
    const WORDS: &str = "index concurrently if not exists ";
    let statement = text
        .lines()
        .find(|line| !line.starts_with("--") && !line.is_empty());
    let named = statement
        .and_then(|line| line.strip_prefix("create "))
        .map(|rest| rest.strip_prefix("unique ").unwrap_or(rest))
        .and_then(|rest| rest.strip_prefix(WORDS))
        .and_then(|rest| rest.split_once(" on "));
    named.is_some_and(|(name, _)| {
        name.starts_with(|first: char| first.is_ascii_lowercase() || first == '_')
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_')
    }) && text.matches(WORDS).count() == 1
}

fn after(words: &[String], word: &str) -> Option<String> {
    let place = words.iter().position(|other| other == word)?;
    words[place + 1..]
        .iter()
        .find(|word| *word != "only")
        .cloned()
}

fn created_table(words: &Words) -> Option<String> {
    let place = words.iter().position(|word| word == "table")?;
    let is_create = words.first().is_some_and(|word| word == "create")
        && words[1..place]
            .iter()
            .all(|word| matches!(&**word, "unlogged" | "temp" | "temporary"));
    let name = words[place + 1..]
        .iter()
        .find(|word| !matches!(&***word, "if" | "not" | "exists"))?;
    is_create.then(|| name.clone())
}

/// The actions of one `alter table`, which commas outside of parentheses separate.
fn split_actions<'a>(words: &[&'a str]) -> Vec<Vec<&'a str>> {
    let mut actions = vec![Vec::new()];
    let mut depth = 0_i32;
    for word in words {
        match *word {
            "(" => depth += 1,
            ")" => depth -= 1,
            _ => {}
        }
        if *word == "," && depth == 0 {
            actions.push(Vec::new());
        } else if let Some(action) = actions.last_mut() {
            action.push(*word);
        }
    }
    actions
}
