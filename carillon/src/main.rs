//! The `carillon` binary: all of it is in the library, so that tests can wrap it in a binary of their own.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    carillon::main()
}
