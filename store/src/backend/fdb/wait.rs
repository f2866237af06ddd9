//! Waiting for FoundationDB on a thread of our own: its network thread wakes the one that waits.

#![expect(clippy::disallowed_methods, reason = "ground floor: the clock for deadlines")]

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Instant;

struct Unpark(Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

/// What `future` becomes, or nothing when it is still to come at `deadline`.
pub(super) fn wait_until<T>(mut future: impl Future<Output = T> + Unpin, deadline: Instant) -> Option<T> {
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut context = Context::from_waker(&waker);
    loop {
        if let Poll::Ready(value) = Pin::new(&mut future).poll(&mut context) {
            return Some(value);
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return None;
        }
        // May return early; then it is asked again.
        thread::park_timeout(left);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::sync_channel;
    use std::time::Duration;

    use super::*;

    /// A future that another thread completes.
    struct Told(std::sync::mpsc::Receiver<u32>, std::sync::mpsc::SyncSender<Waker>);

    impl Future for Told {
        type Output = u32;

        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<u32> {
            match self.0.try_recv() {
                Ok(value) => Poll::Ready(value),
                Err(_) => {
                    let _ = self.1.try_send(context.waker().clone());
                    Poll::Pending
                }
            }
        }
    }

    #[test]
    fn another_thread_wakes() {
        let (tell, told) = sync_channel(1);
        let (register, registered) = sync_channel::<Waker>(1);
        let waker = thread::spawn(move || {
            let waker = registered.recv().unwrap();
            tell.send(7).unwrap();
            waker.wake();
        });
        let deadline = Instant::now() + Duration::from_secs(600);
        assert_eq!(wait_until(Told(told, register), deadline), Some(7));
        waker.join().unwrap();
    }

    /// F4: nothing is waited for without end.
    #[test]
    fn f4_what_never_comes_ends_at_the_deadline() {
        assert_eq!(wait_until(std::future::pending::<u32>(), Instant::now()), None);
        let soon = Instant::now() + Duration::from_millis(1);
        assert_eq!(wait_until(std::future::pending::<u32>(), soon), None);
        assert_eq!(wait_until(std::future::ready(1), Instant::now()), Some(1), "what is there is taken");
    }
}
