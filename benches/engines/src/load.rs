//! The client: many connections on one thread and one ring, each with one burst of messages on its way at a time. A burst
//! is one send; its answers are received when all of them are there, and held against what was said.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use io_uring::types::Fd;
use io_uring::{IoUring, opcode, squeue};

use crate::engine::Engine;
use crate::frames::{ANSWER_BYTES, PAYLOAD_BYTES, UPGRADE, append_answer, append_request};

/// How long a server may take for what takes it microseconds.
const PATIENCE: Duration = Duration::from_secs(20);
/// Requests of one connection: a send and a receive.
const REQUESTS_PER_CONNECTION: usize = 2;

const SEND: u64 = 1 << 32;
const RECEIVE: u64 = 2 << 32;
const KIND: u64 = !0 << 32;

/// Upgraded connections that have exchanged one message.
pub struct Connections {
    engine: Engine,
    streams: Vec<TcpStream>,
}

/// Messages that are said together, and what is to come back.
struct Burst {
    requests: Vec<u8>,
    answers: Vec<u8>,
}

impl Burst {
    fn of(engine: Engine, depth: usize) -> Burst {
        let (said, answered) = engine.opcodes();
        let (mut requests, mut answers) = (Vec::new(), Vec::new());
        for number in 0..depth {
            let payload = [number as u8; PAYLOAD_BYTES];
            append_request(&mut requests, said, &payload);
            append_answer(&mut answers, answered, &payload);
        }
        Burst { requests, answers }
    }
}

impl Connections {
    /// Opens so many, one after the other.
    ///
    /// # Errors
    /// The server does not answer.
    pub fn open(engine: Engine, address: SocketAddr, count: usize) -> std::io::Result<Connections> {
        let burst = Burst::of(engine, 1);
        let streams = (0..count).map(|_| {
            let mut stream = TcpStream::connect_timeout(&address, PATIENCE)?;
            stream.set_nodelay(true)?;
            stream.set_read_timeout(Some(PATIENCE))?;
            let mut heard = Vec::new();
            // Not at once: tungstenite takes no message before it has answered the request. Behind that answer may come what
            // a server says by itself; the echo is the last of it.
            for (said, end) in [(UPGRADE.as_bytes(), &b"\r\n\r\n"[..]), (&burst.requests, &burst.answers)] {
                stream.write_all(said)?;
                while !heard.windows(end.len()).any(|window| window == end) {
                    hear(&mut stream, &mut heard)?;
                }
            }
            Ok(stream)
        });
        Ok(Connections { engine, streams: streams.collect::<std::io::Result<_>>()? })
    }

    /// Has every connection say that many bursts of `depth` messages, each when the one before was answered. How long it took.
    ///
    /// # Errors
    /// An answer is wrong or does not come.
    pub fn exchange(&self, depth: usize, bursts_count: u64) -> std::io::Result<Duration> {
        let burst = Burst::of(self.engine, depth);
        let requests_count = (self.streams.len() * REQUESTS_PER_CONNECTION).next_power_of_two();
        let mut ring = IoUring::builder()
            .setup_single_issuer()
            .setup_coop_taskrun()
            .setup_defer_taskrun()
            .build(u32::try_from(requests_count).unwrap_or(u32::MAX))?;
        let mut buffers = vec![vec![0_u8; depth * ANSWER_BYTES]; self.streams.len()];
        let mut left = vec![bursts_count; self.streams.len()];
        let mut busy_count = self.streams.len();
        let since = Instant::now();
        for (place, buffer) in buffers.iter_mut().enumerate() {
            self.say(&mut ring, place, &burst, buffer);
        }
        let mut completions = Vec::with_capacity(requests_count);
        while busy_count > 0 {
            match ring.submit_and_wait(1) {
                // What was submitted is; the wait begins again.
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => continue,
                entered => entered?,
            };
            completions.extend(ring.completion());
            for completion in completions.drain(..) {
                let place = (completion.user_data() & !KIND) as usize;
                let is_send = completion.user_data() & KIND == SEND;
                let wanted = if is_send { burst.requests.len() } else { burst.answers.len() };
                if completion.result() != i32::try_from(wanted).unwrap_or(i32::MAX) {
                    return Err(std::io::Error::other(format!(
                        "{wanted} bytes {}: {}",
                        if is_send { "to be sent" } else { "awaited" },
                        completion.result()
                    )));
                }
                if is_send {
                    continue;
                }
                if buffers[place] != burst.answers {
                    return Err(std::io::Error::other("the echo is not what was said"));
                }
                left[place] -= 1;
                if left[place] > 0 {
                    self.say(&mut ring, place, &burst, &mut buffers[place]);
                } else {
                    busy_count -= 1;
                }
            }
        }
        Ok(since.elapsed())
    }

    fn say(&self, ring: &mut IoUring, place: usize, burst: &Burst, buffer: &mut [u8]) {
        let descriptor = Fd(self.streams[place].as_raw_fd());
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).expect("a burst");
        let send = opcode::Send::new(descriptor, burst.requests.as_ptr(), length(&burst.requests))
            .flags(libc::MSG_NOSIGNAL);
        let receive =
            opcode::Recv::new(descriptor, buffer.as_mut_ptr(), length(buffer)).flags(libc::MSG_WAITALL);
        push(ring, &send.build().user_data(SEND | place as u64));
        push(ring, &receive.build().user_data(RECEIVE | place as u64));
    }
}

/// Appends what comes next.
fn hear(stream: &mut TcpStream, heard: &mut Vec<u8>) -> std::io::Result<()> {
    let mut buffer = [0; 4_096];
    match stream.read(&mut buffer) {
        Ok(0) => return Err(std::io::ErrorKind::UnexpectedEof.into()),
        Ok(received) => heard.extend_from_slice(&buffer[..received]),
        // A ring that is being let go of interrupts a read that has a time-out.
        Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
        Err(error) => return Err(error),
    }
    Ok(())
}

fn push(ring: &mut IoUring, entry: &squeue::Entry) {
    // SAFETY: bursts and buffers live and stay where they are until the exchange is over; on an error the process ends.
    unsafe { ring.submission().push(entry) }.expect("room for a send and a receive of every connection");
}
