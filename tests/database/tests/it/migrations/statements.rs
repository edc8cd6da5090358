//! Splits the text of a migration into statements, and these into words.

/// Words of a statement in lower case; strings as `''`, punctuation as single characters.
pub(super) type Words = Vec<String>;

#[derive(Default)]
pub(super) struct Statement {
    pub(super) words: Words,
    /// From the body of a `do` block, where `if … then` or `loop` can precede a command.
    pub(super) in_block: bool,
}

/// The statements of a file, those in bodies of `do` blocks among them.
pub(super) fn statements(text: &str) -> Vec<Statement> {
    let mut found = vec![Statement::default()];
    let mut rest = text;
    while let Some(first) = rest.chars().next() {
        if first.is_whitespace() {
            rest = rest.trim_start();
        } else if rest.starts_with("--") {
            rest = rest.split_once('\n').map_or("", |(_, after)| after);
        } else if rest.starts_with("/*") {
            rest = rest.split_once("*/").map_or("", |(_, after)| after);
        } else if first == '\'' {
            push(&mut found, "''");
            rest = end_of_string(&rest[1..]);
        } else if let Some((body, after)) = dollar_quoted(rest) {
            let inner = statements(body);
            let is_block = found
                .last()
                .is_some_and(|statement| statement.words.first().is_some_and(|word| word == "do"));
            if is_block {
                found.extend(inner.into_iter().map(|statement| Statement {
                    in_block: true,
                    ..statement
                }));
                found.push(Statement::default());
            } else {
                push(&mut found, "''");
            }
            rest = after;
        } else if first == ';' {
            found.push(Statement::default());
            rest = &rest[1..];
        } else if first.is_alphanumeric() || matches!(first, '_' | '"' | '.') {
            let length = rest
                .find(|c: char| !(c.is_alphanumeric() || matches!(c, '_' | '"' | '.')))
                .unwrap_or(rest.len());
            push(&mut found, &rest[..length].to_lowercase().replace('"', ""));
            rest = &rest[length..];
        } else {
            push(&mut found, &first.to_string());
            rest = &rest[first.len_utf8()..];
        }
    }
    found.retain(|statement| !statement.words.is_empty());
    found
}

fn push(statements: &mut [Statement], word: &str) {
    if let Some(statement) = statements.last_mut() {
        statement.words.push(word.to_owned());
    }
}

/// What follows a string whose opening quote has been read.
fn end_of_string(mut rest: &str) -> &str {
    while let Some((_, after)) = rest.split_once('\'') {
        match after.strip_prefix('\'') {
            Some(after) => rest = after,
            None => return after,
        }
    }
    ""
}

/// The body of a dollar-quoted string at the start of `text`, and what follows it.
fn dollar_quoted(text: &str) -> Option<(&str, &str)> {
    let (tag, after) = text.strip_prefix('$')?.split_once('$')?;
    if !tag.chars().all(|c| c.is_alphanumeric() || c == '_') {
        return None;
    }
    let end = format!("${tag}$");
    Some(after.split_once(&*end).unwrap_or((after, "")))
}
