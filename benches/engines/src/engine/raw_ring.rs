//! io_uring by hand, and nothing else: multishot accepts into direct descriptors, multishot receives into a provided buffer
//! ring, one send a connection for everything that came of it in a turn, one system call a turn. What is left out is what a
//! server needs besides: bounds, time, pauses, orderly endings.
//!
//! It is as large as Carillon's ring is by default, so that both are given the same bytes in the same pieces.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;

use io_uring::types::{Fd, Fixed};
use io_uring::{IoUring, cqueue, opcode, squeue};

use super::{Refused, listen};
use crate::buffers::Buffers;
use crate::frames::Echo;

const ENTRIES: u32 = 1_024;
const BUFFERS: u16 = 1_024;
const BUFFER_BYTES: u32 = 1_024;
/// Places of the ring's table: connections.
const PLACES: u32 = 16_384;
/// Completions of one turn.
const COMPLETIONS_PER_TURN_MAX: usize = 512;

const ACCEPT: u64 = 1 << 32;
const RECEIVE: u64 = 2 << 32;
const SEND: u64 = 3 << 32;
const CLOSE: u64 = 4 << 32;
const KIND: u64 = !0 << 32;

#[derive(Default)]
struct Connection {
    echo: Echo,
    /// What is to be sent next or is with the kernel; `sent` of it are out.
    sending: Vec<u8>,
    sent: usize,
    is_sending: bool,
    /// Answers that wait until that is out.
    waiting: Vec<u8>,
    is_touched: bool,
}

struct Server {
    ring: IoUring,
    connections: Vec<Connection>,
    /// Connections that received something in this turn, or whose send is out.
    touched: Vec<u32>,
    spares: Vec<Vec<u8>>,
}

pub fn serve(ready: impl FnOnce(SocketAddr)) -> Result<Infallible, Refused> {
    let listener = listen()?;
    let ring = IoUring::builder()
        .setup_single_issuer()
        .setup_coop_taskrun()
        .setup_defer_taskrun()
        .setup_submit_all()
        .build(ENTRIES)?;
    ring.submitter().register_files_sparse(PLACES)?;
    let mut buffers = Buffers::register(&ring, BUFFERS, BUFFER_BYTES)?;
    let mut server = Server { ring, connections: Vec::new(), touched: Vec::new(), spares: Vec::new() };
    let accept = opcode::AcceptMulti::new(Fd(listener.as_raw_fd())).allocate_file_index(true).build();
    server.push(accept.user_data(ACCEPT));
    ready(listener.local_addr()?);
    let mut completions = Vec::with_capacity(COMPLETIONS_PER_TURN_MAX);
    loop {
        let wanted = usize::from(server.ring.completion().is_empty());
        match server.ring.submit_and_wait(wanted) {
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
            entered => entered?,
        };
        completions.extend(server.ring.completion().take(COMPLETIONS_PER_TURN_MAX));
        for completion in completions.drain(..) {
            server.complete(&completion, &mut buffers);
        }
        server.send();
    }
}

impl Server {
    fn complete(&mut self, completion: &cqueue::Entry, buffers: &mut Buffers) {
        #[expect(clippy::cast_possible_truncation, reason = "the lower half is the slot")]
        let slot = completion.user_data() as u32;
        let result = completion.result();
        match completion.user_data() & KIND {
            ACCEPT => {
                assert!(result >= 0 && cqueue::more(completion.flags()), "accept: {result}");
                self.accepted(result.unsigned_abs());
            }
            RECEIVE => {
                if let Some(buffer) = cqueue::buffer_select(completion.flags()) {
                    let received = buffers.bytes(buffer, result.unsigned_abs() as usize);
                    self.received(slot, received);
                    buffers.give_back(buffer);
                }
                if cqueue::more(completion.flags()) {
                    return;
                }
                if result > 0 || result == -libc::ENOBUFS {
                    self.receive(slot);
                } else {
                    self.push(opcode::Close::new(Fixed(slot)).build().user_data(CLOSE | u64::from(slot)));
                }
            }
            SEND => self.sent(slot, result),
            _ => {}
        }
    }

    fn accepted(&mut self, slot: u32) {
        let place = slot as usize;
        if self.connections.len() <= place {
            self.connections.resize_with(place + 1, Connection::default);
        }
        self.connections[place] = Connection::default();
        self.receive(slot);
    }

    fn receive(&mut self, slot: u32) {
        let entry = opcode::RecvMulti::new(Fixed(slot), Buffers::GROUP).build();
        self.push(entry.user_data(RECEIVE | u64::from(slot)));
    }

    fn received(&mut self, slot: u32, bytes: &[u8]) {
        let connection = &mut self.connections[slot as usize];
        if connection.waiting.capacity() == 0 {
            connection.waiting = self.spares.pop().unwrap_or_default();
        }
        connection.echo.receive(bytes, &mut connection.waiting);
        self.touch(slot);
    }

    fn touch(&mut self, slot: u32) {
        if !std::mem::replace(&mut self.connections[slot as usize].is_touched, true) {
            self.touched.push(slot);
        }
    }

    fn sent(&mut self, slot: u32, result: i32) {
        let connection = &mut self.connections[slot as usize];
        connection.is_sending = false;
        // A peer that is gone ends with its receive.
        connection.sent += result.max(0).unsigned_abs() as usize;
        if result < 0 || connection.sent == connection.sending.len() {
            connection.sending.clear();
            connection.sent = 0;
            self.spares.push(std::mem::take(&mut connection.sending));
        }
        self.touch(slot);
    }

    /// One send for each connection that has something to say and none under way.
    fn send(&mut self) {
        let mut touched = std::mem::take(&mut self.touched);
        for slot in touched.drain(..) {
            let connection = &mut self.connections[slot as usize];
            connection.is_touched = false;
            if connection.is_sending {
                continue;
            }
            if connection.sending.is_empty() {
                connection.sending = std::mem::take(&mut connection.waiting);
            }
            if connection.sending.is_empty() {
                continue;
            }
            connection.is_sending = true;
            let rest = &connection.sending[connection.sent..];
            let length = u32::try_from(rest.len()).expect("answers of one turn");
            let entry =
                opcode::Send::new(Fixed(slot), rest.as_ptr(), length).flags(libc::MSG_NOSIGNAL).build();
            self.push(entry.user_data(SEND | u64::from(slot)));
        }
        self.touched = touched;
    }

    fn push(&mut self, entry: squeue::Entry) {
        // SAFETY: what a send points to is its connection's until it is completed, and is not written meanwhile.
        while unsafe { self.ring.submission().push(&entry) }.is_err() {
            self.ring.submit().expect("the kernel takes what is asked for");
        }
    }
}
