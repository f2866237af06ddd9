//! `loadgen`: the command. Everything is in the library, so that tests run it too.

use std::io::IsTerminal as _;

fn main() -> std::process::ExitCode {
    carillon_loadgen::main_at(std::env::args_os(), std::io::stdout().is_terminal()).into()
}
