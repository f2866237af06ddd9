//! How this process takes its memory from the kernel.

/// Has the kernel hand out memory in its smallest pages from now on, not in huge ones. A gateway needs a little here and there
/// on each of its threads, and pays whole huge pages for it: with twelve shards 120 MB before anybody has come, against 10.
/// (Who looks many things up in much memory, as a router does in its store, is better off with huge ones.)
pub fn take_small_pages() {
    // Without it, where it is not known or not allowed, the process is larger; that is all.
    let _ = rustix::thread::disable_transparent_huge_pages(true);
}
