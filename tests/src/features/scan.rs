//! Finds tests, and the ids that they name, in Rust sources, line by line: formatted code is regular enough for it.
//!
//! A test is a function under `#[test]` (or `#[tokio::test]`, and inside `proptest!` alike) that is not ignored; a
//! scenario that an `everywhere!` names; or a public function of a campaign that CI runs ([`CAMPAIGNS`]).

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use super::ROWS;

/// A test that names rows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Evidence {
    /// The rows.
    pub ids: Vec<&'static str>,
    /// The function.
    pub name: String,
    /// Where it is, from the workspace's root.
    pub file: String,
    /// It runs as a campaign, not under `cargo test`.
    pub is_campaign: bool,
}

/// Modules of this crate whose public functions are run by a binary, and the binary.
const CAMPAIGNS: &[(&str, &str)] =
    &[("crowd", "crowd"), ("killing", "kill-loop"), ("page", "page"), ("model", "model"), ("world", "world")];
/// What CI runs, besides `cargo test`.
const CI: &[&str] = &[".ci/run", ".ci/campaigns"];
/// The attribute that makes an ordinary test; `#[tokio::test]` ends like it.
const TEST: &str = "test]";

/// What is looked at.
#[derive(Debug, Default)]
pub struct Sources {
    /// Paths from the root, with `/`, and texts; ascending.
    pub files: Vec<(String, String)>,
    /// What CI runs.
    pub ci: String,
}

/// Reads every `.rs` file of the workspace.
///
/// # Errors
/// What the file system says.
pub fn workspace(root: &Path) -> io::Result<Sources> {
    let mut sources = Sources::default();
    let mut directories = vec![root.to_path_buf()];
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(&directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && !name.starts_with('.') {
                directories.push(path);
            } else if name.ends_with(".rs") {
                sources.files.push((relative(root, &path), std::fs::read_to_string(&path)?));
            }
        }
    }
    sources.files.sort();
    for file in CI {
        sources.ci.push_str(&std::fs::read_to_string(root.join(file))?);
    }
    Ok(sources)
}

fn relative(root: &Path, path: &Path) -> String {
    let path: PathBuf = path.strip_prefix(root).unwrap_or(path).components().collect();
    path.to_string_lossy().replace('\\', "/")
}

/// The tests that name rows, by file.
#[must_use]
pub fn evidence(sources: &Sources) -> Vec<Evidence> {
    let scenarios: BTreeSet<&str> = sources.files.iter().flat_map(|(_, text)| everywhere(text)).collect();
    let mut found = Vec::new();
    for (file, text) in &sources.files {
        let is_campaign_file = campaign(file).is_some_and(|binary| runs(&sources.ci, binary));
        for function in functions(text) {
            let is_test =
                function.is_test || (file.starts_with("tests/") && scenarios.contains(function.name));
            let is_campaign = !is_test && function.is_public && is_campaign_file;
            let ids = function.ids();
            if (is_test || is_campaign) && !function.is_ignored && !ids.is_empty() {
                found.push(Evidence { ids, name: function.name.to_owned(), file: file.clone(), is_campaign });
            }
        }
    }
    // Tests first: a row that has one is not only a campaign's.
    found.sort_by_key(|one| one.is_campaign);
    found
}

/// The binary that runs a module of this crate.
fn campaign(file: &str) -> Option<&'static str> {
    let module = file.strip_prefix("tests/src/")?.split(['/', '.']).next()?;
    CAMPAIGNS.iter().find(|(name, _)| *name == module).map(|(_, binary)| *binary)
}

fn runs(ci: &str, binary: &str) -> bool {
    let words: Vec<&str> = ci.split_whitespace().collect();
    words.windows(2).any(|pair| pair == ["--bin", binary])
        || words.iter().any(|word| word.ends_with(&format!("/{binary}")))
}

/// The scenarios that the `everywhere!`s of a file name.
fn everywhere(text: &str) -> Vec<&str> {
    let mut names = Vec::new();
    for call in text.split("everywhere!(").skip(1) {
        let Some((_, list)) = call.split_once(';') else { continue };
        let list = list.split(')').next().unwrap_or_default();
        for line in list.lines() {
            let code = line.split("//").next().unwrap_or_default();
            names.extend(
                code.split(',')
                    .map(|name| name.trim().rsplit("::").next().unwrap_or_default())
                    .filter(|name| is_name(name)),
            );
        }
    }
    names
}

fn is_name(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

/// A function with what stands before it.
#[derive(Debug)]
struct Function<'a> {
    name: &'a str,
    doc: Vec<&'a str>,
    is_test: bool,
    is_ignored: bool,
    is_public: bool,
}

impl Function<'_> {
    fn ids(&self) -> Vec<&'static str> {
        let mut ids: Vec<&'static str> = self.doc.iter().flat_map(|line| ids_in(line)).collect();
        let heads = self.name.split('_').map(str::to_ascii_uppercase);
        ids.extend(
            heads
                .map_while(|head| ROWS.iter().find(|row| row.id.to_ascii_uppercase() == head))
                .map(|row| row.id),
        );
        ids.sort_unstable();
        ids.dedup();
        ids
    }
}

fn functions(text: &str) -> Vec<Function<'_>> {
    let mut functions = Vec::new();
    let (mut doc, mut is_test, mut is_ignored) = (Vec::new(), false, false);
    for line in text.lines().map(str::trim) {
        if let Some(words) = line.strip_prefix("///") {
            doc.push(words);
        } else if line.starts_with("#[") {
            is_test |= line.contains(&format!("[{TEST}")) || line.contains(&format!("::{TEST}"));
            is_ignored |= line.starts_with("#[ignore");
        } else if line.starts_with("//") {
            // An ordinary comment between the two changes nothing.
        } else {
            if let Some((head, name)) = function(line) {
                let doc = std::mem::take(&mut doc);
                let is_public = head.starts_with("pub ");
                functions.push(Function { name, doc, is_test, is_ignored, is_public });
            }
            doc.clear();
            (is_test, is_ignored) = (false, false);
        }
    }
    functions
}

/// What stands before `fn`, and the name.
fn function(line: &str) -> Option<(&str, &str)> {
    let at = if line.starts_with("fn ") { 0 } else { line.find(" fn ")? + 1 };
    let (head, rest) = line.split_at(at);
    let is_head = head
        .split_whitespace()
        .all(|word| matches!(word, "pub" | "async" | "const" | "pub(crate)" | "pub(super)"));
    let name = rest.strip_prefix("fn ")?;
    let end = name.find(|c: char| !(c.is_ascii_alphanumeric() || c == '_'))?;
    (is_head && end > 0).then(|| (head, &name[..end]))
}

/// The rows that a line names, as whole words, alone or as a range.
fn ids_in(line: &str) -> Vec<&'static str> {
    let mut ids = Vec::new();
    let is_word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '–' | '-' | '…' | '_');
    for word in line.split(|c: char| !is_word(c)).filter(|word| !word.is_empty()) {
        match word.split_once(['–', '-', '…']) {
            None => ids.extend(place(word).map(|place| ROWS[place].id)),
            Some((first, last)) => {
                let family = first.trim_end_matches(|c: char| !c.is_ascii_uppercase());
                // `FU5a–c` is `FU5a–FU5c`, `OO1–6` is `OO1–OO6`.
                let stem = first.trim_end_matches(|c: char| c.is_ascii_lowercase());
                let whole = [last.to_owned(), format!("{stem}{last}"), format!("{family}{last}")];
                let last = whole.iter().find_map(|word| place(word));
                if let (Some(first), Some(last)) = (place(first), last)
                    && first <= last
                    && family_of(ROWS[last].id) == family
                {
                    let rows = ROWS[first..=last].iter().map(|row| row.id);
                    ids.extend(rows.filter(|id| family_of(id) == family));
                }
            }
        }
    }
    ids
}

fn place(id: &str) -> Option<usize> {
    ROWS.iter().position(|row| row.id == id)
}

fn family_of(id: &str) -> &str {
    id.trim_end_matches(|c: char| !c.is_ascii_uppercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_whole_words_and_ranges_run_through_their_family() {
        let check = |line: &str, expected: &[&str]| assert_eq!(ids_in(line), expected, "{line}");
        check(" FR1, WS2: text", &["FR1", "WS2"]);
        check(" (FR1) `FR2`; FR3.", &["FR1", "FR2", "FR3"]);
        check(" FR11, FR, fr1, XFR1, FR1x, OO5, E914, FR8", &[]);
        check(" FU5a–FU5c", &["FU5a", "FU5b", "FU5c"]);
        check(" FU5a–c", &["FU5a", "FU5b", "FU5c"]);
        check(" PR1-PR3 and PR5", &["PR1", "PR2", "PR3", "PR5"]);
        check(" OR1–3", &["OR1", "OR2", "OR3"]);
        check(" OO1–OO6:", &["OO1", "OO2", "OO3", "OO4", "OO5a", "OO5b", "OO5c", "OO5e", "OO5f", "OO6"]);
        check(" FU2–FU4b", &["FU2", "FU3a", "FU3b", "FU3c", "FU4a", "FU4b"]);
        check(" PR3–PR1, FR1–WS1, well-known T-shirt", &[]);
    }

    fn found(file: &str, text: &str, ci: &str) -> Vec<(String, Vec<&'static str>, bool)> {
        let sources = Sources { files: vec![(file.to_owned(), text.to_owned())], ci: ci.to_owned() };
        evidence(&sources).into_iter().map(|one| (one.name, one.ids, one.is_campaign)).collect()
    }

    #[test]
    fn only_what_runs_counts() {
        let file = "store/tests/a.rs";
        let names = |text: &str| found(file, text, "").into_iter().map(|one| one.0).collect::<Vec<_>>();
        assert_eq!(names("/// FR1.\n#[test]\nfn one() {}\n"), ["one"]);
        assert_eq!(names("/// FR1.\n#[tokio::test]\nasync fn one() {}\n"), ["one"]);
        assert_eq!(names("    #[test]\n    fn fr1_two(x in 0..9u8) {\n"), ["fr1_two"]);
        assert_eq!(names("/// FR1.\n// why\n#[cfg(unix)]\n#[test]\nfn one() {}\n"), ["one"]);
        assert_eq!(names("/// FR1.\nfn helper() {}\n#[test]\nfn one() {}\n"), [""; 0]);
        assert_eq!(names("/// FR1.\n#[test]\n#[ignore = \"slow\"]\nfn one() {}\n"), [""; 0]);
        assert_eq!(names("/// FR1.\n\n#[test]\nfn one() {}\n"), [""; 0]);
        let ids = found(file, "/// FR2 and\n/// WS1.\n#[test]\nfn cp1_ws2_three_cp4() {}\n", "");
        assert_eq!(ids[0].1, ["CP1", "FR2", "WS1", "WS2"]);
    }

    #[test]
    fn scenarios_count_when_they_are_named() {
        let text = "everywhere!(&[\"a=0\"];\n    one, // FR2\n    other::two,\n);\n/// FR1.\nfn one(stage: &Stage) {}\n\
                    /// FR2.\nfn two(s: &Stage) {}\n/// FR3.\nfn three(s: &Stage) {}\n";
        let names: Vec<_> = found("tests/tests/a.rs", text, "").into_iter().map(|one| one.0).collect();
        assert_eq!(names, ["one", "two"]);
    }

    #[test]
    fn campaigns_count_when_ci_runs_them() {
        let text = "/// FR2: a crowd.\npub fn thousand() {}\n/// FR3.\nfn helper() {}\n";
        let ci = "cargo run --release --bin crowd -- --short";
        let expected = vec![("thousand".to_owned(), vec!["FR2"], true)];
        assert_eq!(found("tests/src/crowd/thousand.rs", text, ci), expected);
        assert_eq!(found("tests/src/crowd.rs", text, "target/release/crowd all"), expected);
        assert_eq!(found("tests/src/crowd/thousand.rs", text, "cargo test"), []);
        assert_eq!(found("tests/src/other.rs", text, ci), []);
    }
}
