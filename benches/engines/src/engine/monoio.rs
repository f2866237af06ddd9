//! monoio: a task a connection. A socket is waited for with `readable()` and read into one buffer that all tasks share, so
//! that an idle connection owns none; libraries.md of Carillon says what an owned one costs.

use std::cell::RefCell;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::rc::Rc;

use monoio::io::AsyncWriteRentExt;
use monoio::net::{TcpListener, TcpStream};
use rustix::net::RecvFlags;

use super::{Refused, listen};
use crate::frames::Echo;

const ENTRIES: u32 = 1_024;
const BUFFER_BYTES: usize = 65_536;

/// What all tasks share.
struct Shared {
    buffer: Vec<u8>,
    /// Memory for answers.
    spares: Vec<Vec<u8>>,
}

pub fn serve_uring(ready: impl FnOnce(SocketAddr)) -> Result<Infallible, Refused> {
    let mut runtime = monoio::RuntimeBuilder::<monoio::IoUringDriver>::new().with_entries(ENTRIES).build()?;
    runtime.block_on(serve(ready))
}

pub fn serve_epoll(ready: impl FnOnce(SocketAddr)) -> Result<Infallible, Refused> {
    let mut runtime = monoio::RuntimeBuilder::<monoio::LegacyDriver>::new().with_entries(ENTRIES).build()?;
    runtime.block_on(serve(ready))
}

async fn serve(ready: impl FnOnce(SocketAddr)) -> Result<Infallible, Refused> {
    let listener = TcpListener::from_std(listen()?)?;
    ready(listener.local_addr()?);
    let shared = Rc::new(RefCell::new(Shared { buffer: vec![0; BUFFER_BYTES], spares: Vec::new() }));
    loop {
        let (stream, _) = listener.accept().await?;
        monoio::spawn(converse(stream, Rc::clone(&shared)));
    }
}

/// Until the peer ends it.
async fn converse(mut stream: TcpStream, shared: Rc<RefCell<Shared>>) -> std::io::Result<()> {
    let mut echo = Echo::default();
    loop {
        stream.readable(false).await?;
        let answers = {
            let Shared { buffer, spares } = &mut *shared.borrow_mut();
            // SAFETY: the stream is open as long as it is borrowed here.
            let descriptor = unsafe { BorrowedFd::borrow_raw(stream.as_raw_fd()) };
            let received = match rustix::net::recv(descriptor, &mut buffer[..], RecvFlags::DONTWAIT) {
                Ok((0, _)) => return Ok(()),
                Ok((received, _)) => received,
                Err(rustix::io::Errno::AGAIN) => continue,
                Err(errno) => return Err(errno.into()),
            };
            let mut answers = spares.pop().unwrap_or_default();
            echo.receive(&buffer[..received], &mut answers);
            answers
        };
        let (written, mut answers) = stream.write_all(answers).await;
        written?;
        answers.clear();
        shared.borrow_mut().spares.push(answers);
    }
}
