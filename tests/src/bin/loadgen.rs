//! The `loadgen` binary for tests.

fn main() -> std::process::ExitCode {
    carillon_loadgen::main_with(std::env::args_os()).into()
}
