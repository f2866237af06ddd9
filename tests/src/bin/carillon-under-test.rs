//! The `carillon` binary for tests: cargo builds no other package's binaries for them. This one can be refused io_uring.

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> std::process::ExitCode {
    carillon_tests::confined::as_asked();
    carillon::main()
}
