//! `carillon config`: look at the settings without starting anything.

use std::io::Write;

use carillon_gateway::settings::Settings as GatewaySettings;
use carillon_node::config::Config;
use carillon_node::exit::Fatal;
use carillon_node::tokens::KeyTable;

use crate::configure;

/// Prints every key, its value and where it came from; with what it is for when `teach`.
///
/// # Errors
/// Never so far: a closed pipe is the reader's wish.
pub fn print(config: &Config, teach: bool) -> Result<(), Fatal> {
    let _ = std::io::stdout().write_all(config.print(teach).as_bytes());
    Ok(())
}

/// Says whether the settings can work together.
///
/// # Errors
/// Status 2 with the first thing that cannot.
pub fn check(config: &Config) -> Result<(), Fatal> {
    GatewaySettings::from_config(config)?;
    configure::router_settings(config)?;
    let tokens = configure::tokens(config)?;
    // The development key is made when something starts, and not by a look.
    if !tokens.is_development() {
        KeyTable::load(tokens)?;
    }
    let _ = writeln!(std::io::stdout(), "the configuration can work");
    Ok(())
}
