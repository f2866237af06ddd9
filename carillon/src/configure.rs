//! One configuration for all tiers: the defaults of every crate that has settings, and what this start lays over them.

use std::path::PathBuf;

use carillon_node::config::Config;
use carillon_node::exit::Fatal;
use carillon_node::tokens::{self, KeyTable};

use crate::args::SettingsArguments;

/// Puts the layers together: defaults, this command's own presets, file, environment, `--data-dir`, `--set`.
///
/// # Errors
/// Status 2: an unknown key, with the nearest one; a value of another type; a file that cannot be read.
pub fn load(
    arguments: &SettingsArguments,
    command: &'static str,
    presets: &[(&str, &str)],
) -> Result<Config, Fatal> {
    let mut builder = Config::builder()
        .defaults("node", carillon_node::DEFAULTS)?
        .defaults("gateway", carillon_gateway::settings::DEFAULTS)?
        .defaults("router", carillon_router::settings::DEFAULTS)?;
    for (key, value) in presets {
        builder = builder.preset(command, key, value);
    }
    if let Some(path) = &arguments.config {
        builder = builder.file(path)?;
    }
    builder = builder.env(std::env::vars_os());
    if let Some(path) = &arguments.data_dir {
        builder = builder.set(&format!("data_dir={}", path.display()))?;
    }
    for assignment in &arguments.set {
        builder = builder.set(assignment)?;
    }
    Ok(builder.build()?)
}

/// The router's sections.
///
/// # Errors
/// Status 2: a value out of range.
pub fn router_settings(config: &Config) -> Result<carillon_router::Settings, Fatal> {
    Ok(carillon_router::Settings {
        router: config.section("router")?,
        store: config.section("store")?,
        fanout: config.section("fanout")?,
        conversations: config.section("conversations")?,
        limits: config.section("limits")?,
        presence: config.section("presence")?,
        typing: config.section("typing")?,
        receipts: config.section("receipts")?,
    })
}

/// Where everything lives that outlasts the process.
#[must_use]
pub fn data_dir(config: &Config) -> PathBuf {
    PathBuf::from(config.text("data_dir").unwrap_or_default())
}

/// Which tokens are good. Without keys this is development mode.
///
/// # Errors
/// Status 2: a value of another type.
pub fn tokens(config: &Config) -> Result<tokens::Settings, Fatal> {
    Ok(config.section("auth")?)
}

/// The keys that client tokens are checked with: those configured, or the development key of the data directory, which
/// is made when there is none.
///
/// # Errors
/// Status 2 when a key cannot be used.
pub fn keys(config: &Config) -> Result<KeyTable, Fatal> {
    let settings = tokens(config)?;
    if settings.is_development() { tokens::dev_key(&data_dir(config)) } else { KeyTable::load(settings) }
}
