//! `loadgen`: the command. Everything is in the library, so that tests run it too.

fn main() -> std::process::ExitCode {
    carillon_loadgen::main_with(std::env::args_os()).into()
}
