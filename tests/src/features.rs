//! What the product can do, by requirement id, as far as tests say so.
//!
//! A test names the rows that it checks, in its doc comment (`/// FR3, PR1–PR4: …`) or at the head of its name
//! (`cp10_…`). [`scan`] finds them in the sources; here they are held against the [`ROWS`], printed, and put into
//! README.md between two markers, so that the table there can say neither more nor less than what is tested.
//!
//! # Invariants
//! - Every row has a test, except those of [`NOT_YET`]; a row of [`NOT_YET`] that has one fails, so that the list
//!   only shrinks.
//! - What is ignored, or run by nothing, is no test: see [`scan`].

pub mod rows;
pub mod scan;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::process::ExitCode;

pub use rows::{NOT_YET, ROWS, Row};
pub use scan::Evidence;

const BEGIN: &str = "<!-- features:begin -->";
const END: &str = "<!-- features:end -->";
/// Set to `1` it has the README rewritten.
const BLESS: &str = "CARILLON_BLESS";

/// Scans the workspace, prints the table, and compares README.md with it.
///
/// Fails when a row has no test, when a row of [`NOT_YET`] has one, and when README.md says something else.
#[must_use]
pub fn check(workspace: &Path) -> ExitCode {
    let found = match scan::workspace(workspace) {
        Ok(sources) => by_row(&scan::evidence(&sources)),
        Err(error) => {
            println!("features: the sources cannot be read: {error}");
            return ExitCode::FAILURE;
        }
    };
    print!("{}", listing(&found));
    let mut complaints = complaints(&found, NOT_YET);
    complaints.extend(readme(&workspace.join("README.md"), &found));
    for complaint in &complaints {
        println!("features: {complaint}");
    }
    if complaints.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// The tests of each row.
type Found = BTreeMap<&'static str, Vec<Evidence>>;

fn by_row(evidence: &[Evidence]) -> Found {
    let mut found = Found::new();
    for row in ROWS {
        let tests = evidence.iter().filter(|one| one.ids.contains(&row.id));
        found.insert(row.id, tests.cloned().collect());
    }
    found
}

/// What is wrong with the rows.
fn complaints(found: &Found, not_yet: &[&str]) -> Vec<String> {
    let has_test = |id: &str| found.get(id).is_some_and(|tests| !tests.is_empty());
    let mut complaints = Vec::new();
    for row in ROWS {
        let is_promised = not_yet.contains(&row.id);
        if !has_test(row.id) && !is_promised {
            complaints.push(format!("MISSING: no test names {} ({})", row.id, row.what));
        }
        if has_test(row.id) && is_promised {
            complaints
                .push(format!("{} has a test: remove it from NOT_YET in tests/src/features/rows.rs", row.id));
        }
    }
    for id in not_yet {
        if !ROWS.iter().any(|row| row.id == *id) {
            complaints.push(format!("NOT_YET names {id}, which is no row"));
        }
    }
    complaints
}

/// The table for a terminal.
fn listing(found: &Found) -> String {
    let mut text = String::new();
    let mut section = "";
    for row in ROWS {
        if row.section != section {
            section = row.section;
            let _ = writeln!(text, "\n{section}");
        }
        let tests = found.get(row.id).map_or(&[][..], Vec::as_slice);
        let _ = writeln!(text, "  {:<5} {:<82} {}", row.id, row.what, names(tests, row.id));
    }
    let tested = found.values().filter(|tests| !tests.is_empty()).count();
    let _ = writeln!(text, "\n{tested} of {} rows have a test", ROWS.len());
    text
}

fn names(tests: &[Evidence], id: &str) -> String {
    match tests {
        [] if NOT_YET.contains(&id) => "not yet".to_owned(),
        [] => "MISSING".to_owned(),
        [only] => format!("{}{}", campaign(tests), only.name),
        [first, rest @ ..] => format!("{}{} and {} more", campaign(tests), first.name, rest.len()),
    }
}

/// Says so when nothing but a campaign checks the row.
fn campaign(tests: &[Evidence]) -> &'static str {
    if tests.iter().all(|test| test.is_campaign) { "campaign: " } else { "" }
}

/// The table for README.md.
fn markdown(found: &Found) -> String {
    let mut text = String::new();
    let tested = found.values().filter(|tests| !tests.is_empty()).count();
    let _ = writeln!(
        text,
        "{tested} of {} requirements are checked by tests that name them; `cargo test -p carillon-tests --test features` \
         says which.",
        ROWS.len()
    );
    let mut sections: Vec<&str> = ROWS.iter().map(|row| row.section).collect();
    sections.dedup();
    for section in sections {
        let rows = || ROWS.iter().filter(|row| row.section == section);
        let count = rows().filter(|row| found.get(row.id).is_some_and(|tests| !tests.is_empty())).count();
        let _ = writeln!(
            text,
            "\n<details><summary>{section}: {count} of {}</summary>\n\n| id | what | tests |\n|---|---|---|",
            rows().count()
        );
        for row in rows() {
            let tests = found.get(row.id).map_or(&[][..], Vec::as_slice);
            let cell = match tests {
                [] => "not yet".to_owned(),
                [first, ..] => format!("{}{} · `{}`", campaign(tests), tests.len(), first.file),
            };
            let _ = writeln!(text, "| {} | {} | {cell} |", row.id, row.what.replace('|', "\\|"));
        }
        let _ = writeln!(text, "\n</details>");
    }
    text
}

/// Compares README.md with the table, or rewrites it. Returns what is wrong.
fn readme(path: &Path, found: &Found) -> Option<String> {
    let text = match std::fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) => return Some(format!("README.md cannot be read: {error}")),
    };
    let Some(wanted) = replaced(&text, &markdown(found)) else {
        return Some(format!("README.md has no {BEGIN} followed by {END}"));
    };
    if wanted == text {
        return None;
    }
    if std::env::var(BLESS).is_ok_and(|value| value == "1") {
        return std::fs::write(path, wanted)
            .err()
            .map(|error| format!("README.md cannot be written: {error}"));
    }
    Some(format!(
        "README.md's table is not what the tests say: {BLESS}=1 cargo test -p carillon-tests --test features rewrites it"
    ))
}

/// The text with another table between the markers.
fn replaced(text: &str, table: &str) -> Option<String> {
    let (before, rest) = text.split_once(BEGIN)?;
    let (_, after) = rest.split_once(END)?;
    Some(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn evidence(ids: &[&'static str]) -> Evidence {
        Evidence { ids: ids.to_vec(), name: "a".to_owned(), file: "b.rs".to_owned(), is_campaign: false }
    }

    #[test]
    fn a_row_without_a_test_and_a_kept_promise_are_both_complaints() {
        let all: Vec<&'static str> = ROWS.iter().map(|row| row.id).collect();
        let found = by_row(&[evidence(&all)]);
        assert_eq!(complaints(&found, &[]), Vec::<String>::new());
        assert!(complaints(&found, &["FR2"])[0].starts_with("FR2 has a test"));
        assert!(complaints(&found, &["FR99"])[0].contains("no row"));
        let found = by_row(&[evidence(&all[1..])]);
        assert!(complaints(&found, &[])[0].starts_with("MISSING: no test names FR1"));
        assert_eq!(complaints(&found, &["FR1"]), Vec::<String>::new());
        assert!(listing(&found).contains("rows have a test"));
    }

    #[test]
    fn only_what_lies_between_the_markers_is_replaced() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        let once = replaced(&text, "new\n").unwrap();
        assert_eq!(once, format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert_eq!(replaced(&once, "new\n").unwrap(), once);
        assert_eq!(replaced("no markers", "new"), None);
    }

    /// OOS1: what Carillon leaves out, it says so.
    #[test]
    fn the_readme_names_what_is_out_of_scope() {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../README.md");
        let text = std::fs::read_to_string(path).unwrap();
        let words = text.split("Out of scope:").nth(1).unwrap().split("\n\n").next().unwrap();
        for left_out in ["end-to-end encryption", "calls", "stories", "bots"] {
            assert!(words.contains(left_out), "{left_out} is not in {words:?}");
        }
    }

    #[test]
    fn rows_are_named_once_and_stand_together() {
        let ids: std::collections::BTreeSet<&str> = ROWS.iter().map(|row| row.id).collect();
        assert_eq!(ids.len(), ROWS.len());
        let mut sections: Vec<&str> = ROWS.iter().map(|row| row.section).collect();
        sections.dedup();
        let unique: std::collections::BTreeSet<&str> = sections.iter().copied().collect();
        assert_eq!(unique.len(), sections.len(), "a section is one run of rows");
    }
}
