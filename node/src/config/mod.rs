//! Every setting of a process, and where its value came from.
//!
//! The crates that own settings embed a TOML text with a default and a comment for each key; [`Builder`] puts those
//! texts together and lays over them, whatever the order of the calls: a command's own presets, the `--config` file,
//! the environment (`CARILLON_GATEWAY__LISTEN`: two underscores for a dot), and `--set key=value`.
//!
//! # Invariants
//! - A key exists only if a defaults text names and explains it; any other key is an error that names the nearest.
//! - The default decides the type of a key. What has no default value is an empty text or an empty list there.
//! - Every error is one line that names key, value, expected type and source; the value of a secret is in none.

mod defaults;
mod nearest;
mod print;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};

use serde::de::DeserializeOwned;
use toml::{Table, Value};

use crate::exit::{Fatal, one_line};
pub use print::Entry;

/// What a variable of the environment begins with.
const ENVIRONMENT_PREFIX: &str = "CARILLON_";

/// What stands in for the value of a secret, in errors and in print.
const MASK: &str = "(secret)";

/// Where a value came from. Ordered: a later source wins over an earlier one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Source {
    /// The defaults text of the crate named.
    Default(&'static str),
    /// What this command sets for itself, such as a separate router its own admin port.
    Preset(&'static str),
    /// The `--config` file.
    File(PathBuf),
    /// A variable of the environment.
    Environment(String),
    /// `--set`.
    Set,
}

impl fmt::Display for Source {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Source::Default(_) => out.write_str("default"),
            Source::Preset(command) => write!(out, "default of {command}"),
            Source::File(path) => write!(out, "file {}", path.display()),
            Source::Environment(variable) => write!(out, "environment {variable}"),
            Source::Set => out.write_str("--set"),
        }
    }
}

/// Why a configuration cannot work. Each displays as one line that says what to change.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// No defaults text names this key.
    #[error(
        "unknown key {key} ({source_name}): the nearest one is {nearest}; carillon config print shows all"
    )]
    UnknownKey {
        /// As it was written.
        key: String,
        /// The existing key with the smallest edit distance.
        nearest: String,
        /// [`Source`] in words.
        source_name: String,
    },
    /// The value is not of the type of the default.
    #[error("{key} = {value} ({source_name}) is not {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// As it was written; masked when the key is a secret.
        value: String,
        /// "an integer", "true or false", …
        expected: &'static str,
        /// [`Source`] in words.
        source_name: String,
    },
    /// The type is right, the value is not: out of range, or not one of those the owner of the key knows.
    #[error("{key} ({source_name}) cannot be used: {reason}")]
    WrongValue {
        /// The key, or the section when the key could not be told.
        key: String,
        /// The reader's own words.
        reason: String,
        /// [`Source`] in words.
        source_name: String,
    },
    /// `--set` without an equals sign.
    #[error("--set {0} lacks a value: write --set key=value")]
    NoValue(String),
    /// The file cannot be read, or is not TOML.
    #[error("configuration file {path}: {reason}", path = .path.display())]
    File {
        /// As it was given.
        path: PathBuf,
        /// What is wrong, with the line when there is one.
        reason: String,
    },
    /// A defaults text breaks a rule of this module: a mistake of ours, found by the first test that builds.
    #[error("the defaults of {owner}: {reason}")]
    Defaults {
        /// The crate that owns the text.
        owner: &'static str,
        /// Which rule, and where.
        reason: String,
    },
}

impl From<ConfigError> for Fatal {
    fn from(error: ConfigError) -> Fatal {
        Fatal::config(error.to_string())
    }
}

/// The type of a key, decided by its default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Text,
    Integer,
    Boolean,
    Float,
    List,
    /// Declared by `#: tables`: an array of tables, from a file only, whose shape is its reader's business.
    Tables,
}

impl Kind {
    fn expected(self) -> &'static str {
        match self {
            Kind::Text => "a text",
            Kind::Integer => "an integer",
            Kind::Boolean => "true or false",
            Kind::Float => "a number",
            Kind::List => "a list of texts (after --set: separated by commas)",
            Kind::Tables => "an array of tables, which only a file can hold",
        }
    }

    /// What `text` from the environment or the command line means to this kind.
    fn parse(self, text: &str) -> Option<Value> {
        match self {
            Kind::Text => Some(Value::String(text.to_owned())),
            Kind::Integer => text.trim().parse().ok().map(Value::Integer),
            Kind::Boolean => text.trim().parse().ok().map(Value::Boolean),
            Kind::Float => text.trim().parse().ok().map(Value::Float),
            Kind::List => {
                let items = text.split(',').map(str::trim).filter(|item| !item.is_empty());
                Some(Value::Array(items.map(|item| Value::String(item.to_owned())).collect()))
            }
            Kind::Tables => None,
        }
    }

    /// The TOML value as this kind, if it is one.
    fn accept(self, value: Value) -> Option<Value> {
        match (self, value) {
            (Kind::Float, Value::Integer(whole)) => Some(Value::Float(whole as f64)),
            (Kind::Text, value @ Value::String(_))
            | (Kind::Integer, value @ Value::Integer(_))
            | (Kind::Boolean, value @ Value::Boolean(_))
            | (Kind::Float, value @ Value::Float(_)) => Some(value),
            (Kind::List, Value::Array(items)) if items.iter().all(Value::is_str) => Some(Value::Array(items)),
            (Kind::Tables, Value::Array(items)) if items.iter().all(Value::is_table) => {
                Some(Value::Array(items))
            }
            _ => None,
        }
    }
}

/// One key with its present value.
#[derive(Clone, Debug)]
struct Key {
    name: String,
    kind: Kind,
    secret: bool,
    comment: String,
    value: Value,
    source: Source,
}

/// A value as its source gave it, before its key is known to exist.
#[derive(Clone, Debug)]
enum Given {
    Text(String),
    Toml(Value),
}

/// Collects the layers; [`Builder::build`] puts them together.
#[derive(Clone, Debug, Default)]
pub struct Builder {
    keys: Vec<Key>,
    layers: Vec<(Source, String, Given)>,
}

impl Builder {
    /// Adds the settings that `owner` owns. Each key has a comment above it that says what it is and why that
    /// default; `#: secret` under the comment masks its value, `#: tables` declares an array of tables.
    ///
    /// # Errors
    /// [`ConfigError::Defaults`] when the text breaks a rule, or names a key another owner has.
    pub fn defaults(mut self, owner: &'static str, text: &str) -> Result<Builder, ConfigError> {
        for key in defaults::read(owner, text)? {
            if self.keys.iter().any(|other| other.name == key.name) {
                let reason = format!("{} has another owner already", key.name);
                return Err(ConfigError::Defaults { owner, reason });
            }
            self.keys.push(key);
        }
        Ok(self)
    }

    /// Another default for this command, `value` as after `--set`; everything else wins over it.
    pub fn preset(mut self, command: &'static str, key: &str, value: &str) -> Builder {
        self.layers.push((Source::Preset(command), key.to_owned(), Given::Text(value.to_owned())));
        self
    }

    /// Lays the `--config` file over the defaults.
    ///
    /// # Errors
    /// [`ConfigError::File`] when it cannot be read or is not TOML. Its keys are checked by [`Builder::build`].
    pub fn file(mut self, path: &Path) -> Result<Builder, ConfigError> {
        let wrong = |reason: String| ConfigError::File { path: path.to_owned(), reason };
        let text = std::fs::read_to_string(path).map_err(|error| wrong(error.to_string()))?;
        let table: Table = text.parse().map_err(|error: toml::de::Error| {
            // Only the message and the line: the line's content may be a secret.
            let start = error.span().map_or(0, |span| span.start);
            let line = 1 + text.bytes().take(start).filter(|&byte| byte == b'\n').count();
            wrong(format!("line {line}: {}", one_line(error.message().to_owned())))
        })?;
        self.layers.push((Source::File(path.to_owned()), String::new(), Given::Toml(Value::Table(table))));
        Ok(self)
    }

    /// Lays the environment over the file: hand it `std::env::vars_os()`. Variables without `__` are not keys.
    pub fn env<K: AsRef<OsStr>, V: AsRef<OsStr>>(
        mut self,
        variables: impl IntoIterator<Item = (K, V)>,
    ) -> Builder {
        for (variable, value) in variables {
            let Some(variable) = variable.as_ref().to_str() else { continue };
            let Some(rest) = variable.strip_prefix(ENVIRONMENT_PREFIX) else { continue };
            if rest.contains("__") {
                let key = rest.replace("__", ".").to_ascii_lowercase();
                // What is not UTF-8 becomes text that no type but a path could want; a path of such a name is
                // then not found, and the error shows it.
                let value = value.as_ref().to_string_lossy().into_owned();
                self.layers.push((Source::Environment(variable.to_owned()), key, Given::Text(value)));
            }
        }
        self
    }

    /// Lays one `--set key=value` over everything; of two for the same key the later one wins.
    ///
    /// # Errors
    /// [`ConfigError::NoValue`] without an equals sign.
    pub fn set(mut self, assignment: &str) -> Result<Builder, ConfigError> {
        let (key, value) =
            assignment.split_once('=').ok_or_else(|| ConfigError::NoValue(assignment.to_owned()))?;
        self.layers.push((Source::Set, key.trim().to_owned(), Given::Text(value.to_owned())));
        Ok(self)
    }

    /// Puts the layers together.
    ///
    /// # Errors
    /// The first unknown key or wrong type, in the order of the sources.
    pub fn build(self) -> Result<Config, ConfigError> {
        let Builder { keys, mut layers } = self;
        let index = keys.iter().enumerate().map(|(at, key)| (key.name.clone(), at)).collect();
        let mut config = Config { keys, index };
        // Stable: within one kind of source the later call wins. Two variables that name one key (they differ
        // in case) are taken by name, so that the result does not depend on the order of the environment.
        layers.sort_by(|one, two| one.0.cmp(&two.0));
        for (source, key, given) in layers {
            match given {
                Given::Toml(Value::Table(table)) if key.is_empty() => config.lay_table("", table, &source)?,
                given => config.lay(&key, given, &source)?,
            }
        }
        Ok(config)
    }
}

/// All settings, each with a value of its type.
#[derive(Clone, Debug)]
pub struct Config {
    keys: Vec<Key>,
    index: BTreeMap<String, usize>,
}

impl Config {
    /// A builder without any key.
    pub fn builder() -> Builder {
        Builder::default()
    }

    /// The settings below `section` (`"gateway"`; `""` is all of them) as the reader's own type.
    ///
    /// Several readers may share a section: `deny_unknown_fields` belongs only on a type that reads all of it.
    ///
    /// # Errors
    /// [`ConfigError::WrongValue`] when the type refuses a value, such as a port of 70000.
    pub fn section<T: DeserializeOwned>(&self, section: &str) -> Result<T, ConfigError> {
        let mut root = Table::new();
        for key in &self.keys {
            let below = match section {
                "" => Some(key.name.as_str()),
                _ => key.name.strip_prefix(section).and_then(|rest| rest.strip_prefix('.')),
            };
            if let Some(below) = below {
                insert(&mut root, below, key.value.clone());
            }
        }
        Value::Table(root).try_into().map_err(|error| self.wrong_value(section, &error))
    }

    /// The value of one key as text, without quotes; `None` when the key does not exist or is not a text.
    pub fn text(&self, key: &str) -> Option<&str> {
        self.key(key)?.value.as_str()
    }

    /// Where the value of `key` came from.
    pub fn source(&self, key: &str) -> Option<&Source> {
        Some(&self.key(key)?.source)
    }

    fn key(&self, name: &str) -> Option<&Key> {
        self.keys.get(*self.index.get(name)?)
    }

    fn lay_table(&mut self, above: &str, table: Table, source: &Source) -> Result<(), ConfigError> {
        for (name, value) in table {
            let key = if above.is_empty() { name } else { format!("{above}.{name}") };
            match value {
                Value::Table(inner) if !self.index.contains_key(&key) && !inner.is_empty() => {
                    self.lay_table(&key, inner, source)?;
                }
                // A table without keys says nothing, if such a section exists.
                Value::Table(inner) if inner.is_empty() && self.is_section(&key) => {}
                value => self.lay(&key, Given::Toml(value), source)?,
            }
        }
        Ok(())
    }

    fn is_section(&self, name: &str) -> bool {
        let below = format!("{name}.");
        self.index.range(below.clone()..).next().is_some_and(|(key, _)| key.starts_with(&below))
    }

    fn lay(&mut self, name: &str, given: Given, source: &Source) -> Result<(), ConfigError> {
        let Some(key) = self.index.get(name).and_then(|&at| self.keys.get_mut(at)) else {
            return Err(ConfigError::UnknownKey {
                key: name.to_owned(),
                nearest: nearest::nearest(name, self.index.keys()).unwrap_or("none").to_owned(),
                source_name: source.to_string(),
            });
        };
        let (written, value) = match given {
            Given::Text(text) => (format!("\"{text}\""), key.kind.parse(&text)),
            Given::Toml(value) => (value.to_string(), key.kind.accept(value)),
        };
        let Some(value) = value else {
            return Err(ConfigError::WrongType {
                key: key.name.clone(),
                value: if key.secret { MASK.to_owned() } else { one_line(written) },
                expected: key.kind.expected(),
                source_name: source.to_string(),
            });
        };
        key.value = value;
        key.source = source.clone();
        Ok(())
    }

    /// Finds the key a reader's error is about: the error ends in ``in `path` `` when it knows.
    fn wrong_value(&self, section: &str, error: &toml::de::Error) -> ConfigError {
        let shown = error.to_string();
        let below = shown.lines().find_map(|line| line.strip_prefix("in `")?.strip_suffix('`')).unwrap_or("");
        let mut path =
            [section, below].iter().filter(|part| !part.is_empty()).copied().collect::<Vec<_>>().join(".");
        let reason = one_line(error.message().to_owned());
        let key = loop {
            match (self.key(&path), path.rfind('.')) {
                (Some(key), _) => break Some(key),
                (None, Some(dot)) => path.truncate(dot),
                (None, None) => break None,
            }
        };
        // A reader's words may quote the value; about a secret only those that quote a field's name pass.
        let quotes_no_value = ["unknown field", "missing field", "duplicate field"];
        let may_tell =
            !key.is_some_and(|key| key.secret) || quotes_no_value.iter().any(|it| reason.starts_with(it));
        ConfigError::WrongValue {
            key: key.map_or(section, |key| &key.name).to_owned(),
            reason: if may_tell { reason } else { "its shape or value is wrong".to_owned() },
            source_name: key.map_or("defaults".to_owned(), |key| key.source.to_string()),
        }
    }
}

/// Puts `value` at the dotted path `name`. Defaults texts are TOML, so no key is both a value and a table.
fn insert(root: &mut Table, name: &str, value: Value) {
    match name.split_once('.') {
        None => {
            root.insert(name.to_owned(), value);
        }
        Some((table, rest)) => {
            let inner = root.entry(table).or_insert_with(|| Value::Table(Table::new()));
            if let Value::Table(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}
