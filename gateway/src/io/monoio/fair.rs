//! Who may go on: tasks of one thread that wait for each other.

use std::cell::{Cell, RefCell};
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, Waker};

/// Lets one waiting task go on, once each time it is opened.
#[derive(Default)]
pub(super) struct Gate {
    is_open: Cell<bool>,
    waker: RefCell<Option<Waker>>,
}

impl Gate {
    pub(super) fn open(&self) {
        self.is_open.set(true);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    pub(super) async fn pass(&self) {
        poll_fn(|context| {
            if self.is_open.replace(false) {
                Poll::Ready(())
            } else {
                *self.waker.borrow_mut() = Some(context.waker().clone());
                Poll::Pending
            }
        })
        .await;
    }
}

/// Gives way to everything that is ready, and to what the kernel has completed, for a future that has more to do.
///
/// monoio polls its main future again, before any task and before it looks at the ring, for as long as that future wakes
/// itself: a shard with a backlog would hear of no socket until the backlog is gone. So it asks a task, which has its
/// turn among the others.
pub(super) struct Turnstile {
    wanted: Rc<Gate>,
    granted: Rc<Gate>,
}

impl Turnstile {
    /// To be called inside the runtime.
    pub(super) fn new() -> Turnstile {
        let (wanted, granted) = (Rc::<Gate>::default(), Rc::<Gate>::default());
        let turnstile = Turnstile { wanted: Rc::clone(&wanted), granted: Rc::clone(&granted) };
        monoio::spawn(async move {
            loop {
                wanted.pass().await;
                granted.open();
            }
        });
        turnstile
    }

    /// Comes back when all others had their turn.
    pub(super) async fn give_way(&self) {
        self.wanted.open();
        self.granted.pass().await;
    }
}

/// Lets the other tasks have their turn, for a task.
pub(super) async fn yield_once() {
    let mut is_first = true;
    poll_fn(|context| {
        if std::mem::take(&mut is_first) {
            context.waker().wake_by_ref();
            Poll::Pending
        } else {
            Poll::Ready(())
        }
    })
    .await;
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;
    use std::net::{TcpListener, TcpStream};

    use super::*;

    /// F13: a shard that always has more to do hears of its sockets all the same, on both of monoio's engines.
    #[test]
    fn f13_a_busy_main_future_starves_no_socket() {
        const TURNS_MAX: usize = 10_000;
        async fn turns_until_heard() -> Option<usize> {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let mut client = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
            let (stream, _) = listener.accept().unwrap();
            stream.set_nonblocking(true).unwrap();
            let stream = monoio::net::TcpStream::from_std(stream).unwrap();
            let turnstile = Turnstile::new();
            let is_heard = Rc::new(Cell::new(false));
            let heard = Rc::clone(&is_heard);
            monoio::spawn(async move {
                let _ = stream.readable(false).await;
                heard.set(true);
            });
            turnstile.give_way().await;
            client.write_all(b"x").unwrap();
            for turn in 0..TURNS_MAX {
                if is_heard.get() {
                    return Some(turn);
                }
                turnstile.give_way().await;
            }
            None
        }
        let epoll = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().build();
        assert!(epoll.unwrap().block_on(turns_until_heard()).is_some(), "epoll");
        // Where the kernel has it.
        if let Ok(mut uring) = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().build() {
            assert!(uring.block_on(turns_until_heard()).is_some(), "io_uring");
        }
    }
}
