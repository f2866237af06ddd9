//! One TLS connection, from the server's end, without a socket: bytes of the network in, bytes of the client out, and the
//! other way round. The shards' connections and those of the HTTP server are the same here.
//!
//! Drive it: [`Channel::receive`] for everything that came; then whatever is [`Channel::pending`] is sent, and reported with
//! [`Channel::sent`]; while nothing is pending, [`Channel::seal`] takes the next that is to be said.
//!
//! # Invariants
//! - It owns what TLS has to remember, at most one unfinished record of what came ([`RECORD_BYTES_MAX`]) and one of what
//!   goes. An idle one owns neither.
//! - What is pending leaves in order and is never changed: records that were sealed are counted by both ends.
//! - Nothing of the client comes up, and nothing goes down, before the handshake is over.
//! - Pure, but for two things that TLS takes for itself: chance, and the age of its tickets.

use std::fmt;
use std::sync::Arc;

use bytes::{Buf as _, Bytes};
use rustls::server::{ServerConnectionData, UnbufferedServerConnection};
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus, WriteTraffic};
use rustls::{Error, ServerConfig};

/// The most bytes of the client's in one record (RFC 8446 section 5.1).
pub(crate) const FRAGMENT_BYTES_MAX: usize = 16_384;
/// The most bytes of a record as it comes: its header, and what TLS 1.2 lets encryption add (RFC 5246 section 6.2.3).
pub(crate) const RECORD_BYTES_MAX: usize = 5 + FRAGMENT_BYTES_MAX + 2_048;
/// What encryption adds to a record of ours, and some room.
const SEAL_BYTES: usize = 64;

/// Memory of a shard's that all its channels use in turn.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    /// What came, to be decrypted where it lies.
    incoming: Vec<u8>,
    /// What the client said, decrypted.
    pub(crate) plain: Vec<u8>,
}

/// Why nothing more comes.
#[derive(Debug)]
pub(crate) enum End {
    /// The client said so.
    Said,
    /// What came is not TLS as it was agreed on. What there is to say about it is pending.
    Broken(Error),
}

/// See the module.
pub struct Channel {
    tls: UnbufferedServerConnection,
    /// What came of a record that is not whole.
    incoming: Vec<u8>,
    /// What is being sent.
    outgoing: Bytes,
    /// What TLS said meanwhile, to be sent next: answers of the handshake, an alert, new keys.
    queued: Vec<u8>,
    /// The handshake is over.
    is_open: bool,
    /// Nothing more comes.
    is_ended: bool,
    /// Nothing more is said.
    is_over: bool,
}

/// What is to be said.
#[derive(Clone, Copy)]
enum Say<'a> {
    Nothing,
    Bytes(&'a [u8]),
    /// That nothing more will be.
    Goodbye,
}

impl fmt::Debug for Channel {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Without its keys.
        out.debug_struct("Channel").field("is_open", &self.is_open).finish_non_exhaustive()
    }
}

impl Channel {
    /// Of a connection of which nothing was read yet.
    ///
    /// # Errors
    /// The configuration cannot be used.
    pub(crate) fn new(config: Arc<ServerConfig>) -> Result<Channel, Error> {
        Ok(Channel {
            tls: UnbufferedServerConnection::new(config)?,
            incoming: Vec::new(),
            outgoing: Bytes::new(),
            queued: Vec::new(),
            is_open: false,
            is_ended: false,
            is_over: false,
        })
    }

    /// Whether its handshake is over, whatever became of it then.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    /// Whether nothing can be said any more.
    pub(crate) fn is_over(&self) -> bool {
        self.is_over
    }

    /// Whether it owns no buffer.
    #[cfg(test)]
    pub(crate) fn is_idle(&self) -> bool {
        self.incoming.capacity() == 0 && self.queued.capacity() == 0 && self.outgoing.is_empty()
    }

    /// Takes what came. What the client said with it is then in `scratch.plain`, nothing else is.
    pub(crate) fn receive(&mut self, bytes: &[u8], scratch: &mut Scratch) -> Option<End> {
        let Scratch { incoming: shared, plain } = scratch;
        plain.clear();
        if self.is_ended {
            return None;
        }
        // Mostly records come whole: then they are decrypted in memory that all share.
        let is_own = !self.incoming.is_empty();
        let buffer = if is_own { &mut self.incoming } else { shared };
        if !is_own {
            buffer.clear();
        }
        buffer.extend_from_slice(bytes);
        let (used, end, is_open) = drive(&mut self.tls, buffer, plain, &mut self.queued, Say::Nothing);
        self.is_open |= is_open;
        let rest = buffer.get(used..).unwrap_or_default();
        let end = match end {
            None if rest.len() > RECORD_BYTES_MAX => {
                Some(End::Broken(Error::General("a message of the handshake is too long".to_owned())))
            }
            end => end,
        };
        self.is_ended |= end.is_some();
        self.is_over |= matches!(end, Some(End::Broken(_)));
        self.incoming = if self.is_ended { Vec::new() } else { rest.to_vec() };
        self.bring_on();
        end
    }

    /// Keeps what came, for the next [`Channel::receive`].
    pub(crate) fn hold(&mut self, bytes: &[u8]) {
        self.incoming.extend_from_slice(bytes);
    }

    /// What is to be sent; the rest, when there is more, comes once that is out.
    pub(crate) fn pending(&self) -> &Bytes {
        &self.outgoing
    }

    /// So many bytes are out.
    pub(crate) fn sent(&mut self, bytes: usize) {
        self.outgoing.advance(bytes.min(self.outgoing.len()));
        self.bring_on();
    }

    /// Seals what is to be said in one record, as much of it as fits; how much that was. To be called while nothing is
    /// pending; 0: it cannot be said any more, or not yet.
    pub(crate) fn seal(&mut self, bytes: &[u8]) -> usize {
        let bytes = bytes.get(..FRAGMENT_BYTES_MAX).unwrap_or(bytes);
        if !self.is_open || self.is_over || bytes.is_empty() || !self.outgoing.is_empty() {
            return 0;
        }
        self.say(Say::Bytes(bytes));
        if self.queued.is_empty() {
            // Its keys have served as long as they may: only a new connection has others.
            self.is_over = true;
            return 0;
        }
        self.bring_on();
        bytes.len()
    }

    /// Says that nothing more will be said.
    pub(crate) fn goodbye(&mut self) {
        if self.is_open && !self.is_over {
            self.say(Say::Goodbye);
            self.bring_on();
        }
        self.is_over = true;
    }

    fn say(&mut self, say: Say<'_>) {
        // What is whole was received: nothing comes out of the rest.
        let mut nothing = Vec::new();
        let (used, ..) = drive(&mut self.tls, &mut self.incoming, &mut nothing, &mut self.queued, say);
        debug_assert!(nothing.is_empty());
        self.incoming.drain(..used);
    }

    fn bring_on(&mut self) {
        if self.outgoing.is_empty() && !self.queued.is_empty() {
            self.outgoing = std::mem::take(&mut self.queued).into();
        }
        if self.outgoing.is_empty() {
            // Lets go of its memory.
            self.outgoing = Bytes::new();
        }
    }
}

/// Brings a connection on as far as it goes with `incoming`: how much of it was used, whether that was the end, and whether
/// the client's bytes may go.
fn drive(
    tls: &mut UnbufferedServerConnection,
    incoming: &mut [u8],
    plain: &mut Vec<u8>,
    out: &mut Vec<u8>,
    say: Say<'_>,
) -> (usize, Option<End>, bool) {
    let (mut used, mut end) = (0, None);
    // After an error only what there is to say about it is asked for.
    while !matches!(end, Some(End::Broken(_))) || tls.wants_write() {
        let rest = incoming.get_mut(used..).unwrap_or_default();
        let UnbufferedStatus { mut discard, state } = tls.process_tls_records(rest);
        match state {
            Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                while let Some(Ok(record)) = traffic.next_record() {
                    plain.extend_from_slice(record.payload);
                    discard += record.discard;
                }
            }
            Ok(ConnectionState::EncodeTlsData(mut data)) => encode(out, |room| match data.encode(room) {
                Err(EncodeError::InsufficientSize(error)) => Err(error.required_size),
                encoded => Ok(encoded.unwrap_or(0)),
            }),
            // It is out as far as TLS is concerned: we keep what we have to send.
            Ok(ConnectionState::TransmitTlsData(data)) => data.done(),
            Ok(ConnectionState::PeerClosed) => end = end.or(Some(End::Said)),
            Ok(ConnectionState::WriteTraffic(traffic)) => {
                write(traffic, say, out);
                return (used + discard, end, true);
            }
            // There is no early data: the configuration does not offer it.
            Ok(_) => return (used + discard, end, false),
            Err(error) => end = Some(End::Broken(error)),
        }
        used += discard;
    }
    (used, end, false)
}

fn write(mut traffic: WriteTraffic<'_, ServerConnectionData>, say: Say<'_>, out: &mut Vec<u8>) {
    let required = |result: Result<usize, EncryptError>| match result {
        Err(EncryptError::InsufficientSize(error)) => Err(error.required_size),
        written => Ok(written.unwrap_or(0)),
    };
    match say {
        Say::Nothing => {}
        Say::Bytes(bytes) => {
            out.reserve_exact(bytes.len() + SEAL_BYTES);
            encode(out, |room| required(traffic.encrypt(bytes, room)));
        }
        Say::Goodbye => encode(out, |room| required(traffic.queue_close_notify(room))),
    }
}

/// Appends what `encode` writes. It says how much that was, or, when the room did not do, how much it needs.
fn encode(out: &mut Vec<u8>, mut encode: impl FnMut(&mut [u8]) -> Result<usize, usize>) {
    let start = out.len();
    let mut room_bytes = (out.capacity() - start).max(SEAL_BYTES);
    let written = loop {
        out.resize(start + room_bytes, 0);
        match encode(out.get_mut(start..).unwrap_or_default()) {
            Ok(written) => break written,
            // It is told once what it needs.
            Err(required) if required > room_bytes => room_bytes = required,
            Err(_) => break 0,
        }
    };
    out.truncate(start + written);
}
