//! `carillon config print`: every key with its value, where that came from, and what it is for.

use super::{Config, MASK, Source};

/// A column that longer values overrun rather than push away for all.
const SOURCE_COLUMN_MAX: usize = 56;

/// One key as it is shown to people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The dotted key.
    pub key: String,
    /// TOML; a secret that is set is masked.
    pub value: String,
    /// Where the value came from, in words.
    pub source: String,
    /// The comment above the key in its defaults text, lines separated by `\n`.
    pub comment: String,
}

impl Config {
    /// Every key, in the order of the defaults texts.
    pub fn entries(&self) -> impl Iterator<Item = Entry> + '_ {
        self.keys.iter().map(|key| {
            let is_set = !matches!(key.source, Source::Default(_));
            Entry {
                key: key.name.clone(),
                value: if key.secret && is_set { MASK.to_owned() } else { key.value.to_string() },
                source: key.source.to_string(),
                comment: key.comment.clone(),
            }
        })
    }

    /// All entries as aligned text that is itself a configuration file, secrets aside: `key = value  # source`,
    /// each under its comment when `teach` is set.
    pub fn print(&self, teach: bool) -> String {
        let entries: Vec<(Entry, String)> =
            self.entries().map(|entry| (entry.clone(), format!("{} = {}", entry.key, entry.value))).collect();
        let widths = entries.iter().map(|(_, line)| line.chars().count());
        let column = widths.filter(|&width| width <= SOURCE_COLUMN_MAX).max().unwrap_or(0);
        let mut text = String::new();
        for (at, (entry, line)) in entries.iter().enumerate() {
            if teach {
                text.push_str(if at > 0 { "\n" } else { "" });
                text.extend(entry.comment.lines().map(|line| format!("# {line}\n")));
            }
            text.push_str(&format!("{line:column$}  # {}\n", entry.source));
        }
        text
    }
}
