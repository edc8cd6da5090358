//! Samples of all rounds, their medians with spread, ratios and tables. Never drops a sample.

use std::fmt::Write;
use std::time::Duration;

use serde_json::{Value, json};

/// One table of the results: a measure and its columns.
#[derive(Debug)]
pub(crate) struct Section {
    /// Its name on the command line and in the JSON.
    pub(crate) id: &'static str,
    pub(crate) title: &'static str,
    /// Explanation of the table.
    pub(crate) description: &'static str,
    /// Names of the columns; contenders are compared by the first.
    pub(crate) columns: &'static [&'static str],
    /// Whether more is better in the first column.
    pub(crate) more_is_better: bool,
}

/// The samples of one contender in one section: one list of columns per round.
#[derive(Debug)]
struct Series {
    section: &'static str,
    contender: String,
    samples: Vec<Vec<f64>>,
}

/// Everything that was measured.
#[derive(Debug, Default)]
pub(crate) struct Results {
    series: Vec<Series>,
    /// What could not be measured, and why.
    notes: Vec<String>,
}

impl Results {
    /// Adds a sample.
    pub(crate) fn put(&mut self, section: &'static str, contender: &str, columns: &[f64]) {
        let known = self
            .series
            .iter_mut()
            .find(|series| series.section == section && series.contender == contender);
        match known {
            Some(series) => series.samples.push(columns.to_vec()),
            None => self.series.push(Series {
                section,
                contender: contender.to_owned(),
                samples: vec![columns.to_vec()],
            }),
        }
    }

    /// Adds a sentence about what could not be measured, unless it is known.
    pub(crate) fn add_note(&mut self, note: String) {
        if !self.notes.contains(&note) {
            self.notes.push(note);
        }
    }

    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    fn of(&self, section: &str) -> impl Iterator<Item = &Series> {
        self.series
            .iter()
            .filter(move |series| series.section == section)
    }

    /// The median of a contender's column.
    pub(crate) fn median(&self, section: &str, contender: &str, column: usize) -> Option<f64> {
        self.of(section)
            .find(|series| series.contender == contender)
            .map(|series| at(&series.column(column), 0.5))
            .filter(|median| median.is_finite())
    }

    /// The largest median of a section's column.
    pub(crate) fn most(&self, section: &str, column: usize) -> Option<f64> {
        self.of(section)
            .map(|series| at(&series.column(column), 0.5))
            .max_by(f64::total_cmp)
    }

    /// The peers' best median in a section's first column, where more is better.
    pub(crate) fn best_peer(&self, section: &str) -> Option<f64> {
        self.of(section)
            .filter(|series| !series.is_ours() && !series.contender.contains("Redis"))
            .map(|series| at(&series.column(0), 0.5))
            .max_by(f64::total_cmp)
    }

    /// The section as a Markdown table; empty when it has no samples.
    pub(crate) fn markdown(&self, section: &Section) -> String {
        let ours: Vec<&Series> = self
            .of(section.id)
            .filter(|series| series.is_ours())
            .collect();
        let peers = self.of(section.id).any(|series| !series.is_ours());
        if self.of(section.id).next().is_none() {
            return String::new();
        }
        let compared: &[&Series] = if peers { &ours } else { &[] };
        let mut text = format!("### {}\n\n{}\n\n| |", section.title, section.description);
        for column in section.columns {
            write!(text, " {column} |").ok();
        }
        for series in compared {
            write!(text, " {} is better by |", series.contender).ok();
        }
        let columns = section.columns.len() + compared.len();
        writeln!(text, "\n|---|{}", "---:|".repeat(columns)).ok();
        for series in self.of(section.id) {
            write!(text, "| {} |", series.contender).ok();
            for column in 0..section.columns.len() {
                write!(text, " {} |", spread(&series.column(column))).ok();
            }
            let theirs = at(&series.column(0), 0.5);
            for own in compared {
                let own = at(&own.column(0), 0.5);
                let ratio = if section.more_is_better {
                    own / theirs
                } else {
                    theirs / own
                };
                if series.is_ours() {
                    write!(text, " |").ok();
                } else {
                    write!(text, " {}× |", number(ratio)).ok();
                }
            }
            text.push('\n');
        }
        text.push('\n');
        text
    }

    /// The section as JSON, with every sample.
    pub(crate) fn json(&self, section: &Section) -> Value {
        let contenders: Vec<Value> = self
            .of(section.id)
            .map(|series| json!({"name": series.contender, "rounds": series.samples}))
            .collect();
        json!({
            "id": section.id,
            "title": section.title,
            "columns": section.columns,
            "contenders": contenders,
        })
    }
}

impl Series {
    fn is_ours(&self) -> bool {
        self.contender.starts_with("Harkara")
    }

    /// The samples of a column, in ascending order.
    fn column(&self, at: usize) -> Vec<f64> {
        let mut column: Vec<f64> = self
            .samples
            .iter()
            .filter_map(|sample| sample.get(at).copied())
            .filter(|value| value.is_finite())
            .collect();
        column.sort_by(f64::total_cmp);
        column
    }
}

/// `median [least - most]` of sorted values.
fn spread(sorted: &[f64]) -> String {
    match (sorted.first(), sorted.last()) {
        (Some(least), Some(most)) if sorted.len() > 1 => format!(
            "{} [{} - {}]",
            number(at(sorted, 0.5)),
            number(*least),
            number(*most)
        ),
        (Some(only), _) => number(*only),
        _ => String::new(),
    }
}

/// A number with the digits that are significant.
pub(crate) fn number(value: f64) -> String {
    let digits = match value.abs() {
        small if small < 1.0 => 3,
        some if some < 10.0 => 2,
        more if more < 100.0 => 1,
        _ => 0,
    };
    let plain = format!("{value:.digits$}");
    let whole = plain.find('.').unwrap_or(plain.len());
    let mut grouped = String::with_capacity(plain.len() + 3);
    for (nth, digit) in plain.chars().enumerate() {
        if nth > 0 && nth < whole && (whole - nth).is_multiple_of(3) && !grouped.ends_with('-') {
            grouped.push(' ');
        }
        grouped.push(digit);
    }
    grouped
}

/// The value at a fraction of a sorted list; of an even number of values, the median is the lower middle
/// one.
pub(crate) fn at(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index of a list"
    )]
    let index = (count(sorted.len().saturating_sub(1)) * share).floor() as usize;
    sorted.get(index).copied().unwrap_or(f64::NAN)
}

/// Sorts waits and returns p50, p95, p99 and the maximum.
pub(crate) fn percentiles(mut waits: Vec<f64>) -> [f64; 4] {
    waits.sort_by(f64::total_cmp);
    [0.5, 0.95, 0.99, 1.0].map(|share| at(&waits, share))
}

/// Jobs per second.
pub(crate) fn rate(jobs: usize, took: Duration) -> f64 {
    count(jobs) / took.as_secs_f64()
}

/// A count as a floating-point number.
#[expect(clippy::cast_precision_loss, reason = "counts far below 2^52")]
pub(crate) fn count(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECTION: Section = Section {
        id: "drain",
        title: "Drain",
        description: "Jobs run.",
        columns: &["jobs/s"],
        more_is_better: true,
    };

    #[test]
    fn numbers_are_grouped_and_rounded() {
        let shown = [0.12345, 1.234, 12.34, 123.4, 1234.5, 1_234_567.0].map(number);
        assert_eq!(
            shown,
            ["0.123", "1.23", "12.3", "123", "1 234", "1 234 567"]
        );
    }

    #[test]
    fn table_shows_median_spread_and_ratio() {
        let mut results = Results::default();
        for (ours, theirs) in [(100.0, 10.0), (300.0, 30.0), (200.0, 20.0)] {
            results.put("drain", "Harkara", &[ours]);
            results.put("drain", "peer", &[theirs]);
        }
        let text = results.markdown(&SECTION);
        assert!(text.contains("| Harkara | 200 [100 - 300] | |"), "{text}");
        assert!(
            text.contains("| peer | 20.0 [10.0 - 30.0] | 10.0× |"),
            "{text}"
        );
        assert_eq!(results.best_peer("drain"), Some(20.0));
    }

    #[test]
    fn section_without_samples_is_left_out() {
        assert_eq!(Results::default().markdown(&SECTION), "");
    }
}
