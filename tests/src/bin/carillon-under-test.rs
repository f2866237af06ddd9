//! The `carillon` binary for tests: cargo builds no other package's binaries for them.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    carillon::main()
}
