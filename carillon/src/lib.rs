//! The command `carillon`: arguments, configuration, start, wait. Everything that matters happens in the crates it starts.
//!
//! - [`args`]: the command line.
//! - [`configure`]: every default of every crate, under the file, the environment and `--set`.
//! - [`token`], [`settings_command`], [`capacity`]: the commands that print something and end.
//! - [`store_command`]: whether a store is whole, and copies of it; a running server makes them when [`control`] is asked.
//! - [`start`]: `run`, `gateway` and `router`: opens doors, then the store, then serves until it is told to stop.
//! - [`greeting`]: what development mode says to somebody who has just started it for the first time.

#![expect(clippy::disallowed_methods, reason = "the command is where the environment and threads come in")]

pub mod args;
pub mod capacity;
pub mod configure;
mod control;
pub mod greeting;
mod links;
pub mod settings_command;
pub mod start;
pub mod store_command;
pub mod tier;
pub mod token;

use std::process::ExitCode;

use args::{Arguments, Command, ConfigCommand, StoreCommand};
use carillon_node::exit::Fatal;
use clap::Parser;
use tier::Tier;

/// Runs the command line of this process.
#[must_use]
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fatal) => {
            eprintln!("carillon: {fatal}");
            fatal.into()
        }
    }
}

fn run(arguments: Arguments) -> Result<(), Fatal> {
    let settings = &arguments.settings;
    match arguments.command.unwrap_or(Command::Run) {
        Command::Run => start::start(Tier::Both, &configure::load(settings, "run", &[])?),
        Command::Gateway => {
            // Beside a router on the same machine: the admin port of `run` is this one's, the router takes the next.
            start::start(Tier::Gateway, &configure::load(settings, "gateway", &[])?)
        }
        Command::Router => {
            let presets = [("admin.listen", "127.0.0.1:9101")];
            start::start(Tier::Router, &configure::load(settings, "router", &presets)?)
        }
        Command::Token(wanted) => token::print(&wanted, &configure::load(settings, "token", &[])?),
        Command::Config(ConfigCommand::Print { short }) => {
            settings_command::print(&configure::load(settings, "config", &[])?, !short)
        }
        Command::Config(ConfigCommand::Check) => {
            settings_command::check(&configure::load(settings, "config", &[])?)
        }
        Command::Store(StoreCommand::Verify { json, lines }) => {
            store_command::verify(&configure::load(settings, "store", &[])?, json, lines)
        }
        Command::Store(StoreCommand::Backup { directory }) => {
            store_command::backup(&configure::load(settings, "store", &[])?, &directory)
        }
        Command::Capacity(wanted) => capacity::run(&wanted, &mut std::io::stdout().lock()),
    }
}
