//! The `carillon` binary for tests.

fn main() -> std::process::ExitCode {
    carillon::main()
}
