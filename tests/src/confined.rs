//! A process in a container whose seccomp profile refuses io_uring, as Docker's and many others do.

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, apply_filter};

/// The variable that has the server of the tests refuse itself io_uring: how the kernel is to answer then, `EPERM` (what
/// Docker's profile says) or `ENOSYS` (what some others say).
pub const VARIABLE: &str = "CARILLON_TEST_SECCOMP";

/// Calls by number, the same on all architectures: `io_uring_setup`, `io_uring_enter`, `io_uring_register`.
const IO_URING: [i64; 3] = [425, 426, 427];

/// Has the kernel refuse io_uring to this thread and all that it will start, as [`VARIABLE`] says; for good.
///
/// # Panics
/// When the variable says nothing that is known, or the kernel takes no filter.
pub fn as_asked() {
    let Some(answer) = std::env::var_os(VARIABLE) else { return };
    let errno = match answer.to_str() {
        Some("EPERM") => rustix::io::Errno::PERM,
        Some("ENOSYS") => rustix::io::Errno::NOSYS,
        _ => panic!("{VARIABLE} is EPERM or ENOSYS, not {}", answer.display()),
    };
    let refusal = SeccompAction::Errno(errno.raw_os_error().unsigned_abs());
    let rules = IO_URING.map(|call| (call, Vec::new())).into();
    let here = std::env::consts::ARCH.try_into().expect("an architecture that seccomp knows");
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, refusal, here).expect("a filter");
    let program = BpfProgram::try_from(filter).expect("a program");
    apply_filter(&program).expect("the kernel takes a filter");
}
