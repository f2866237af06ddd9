//! From bytes to events. A frame that lies whole in the input goes straight into the scratch buffer; for anything
//! else a [`Partial`] is allocated, and given back as soon as the connection stands between two messages.

use rkyv::util::AlignedVec;

use super::header::{self, Header};
use super::mask::{append_unmasked, key_after};
use super::{Event, FRAGMENTS_MAX, HEADER_BYTES_MAX, Opcode, Role, Violation, close_code_is_sendable};

/// The reading end of one connection. Pure: bytes in, events out.
#[derive(Debug)]
pub struct Decoder {
    role: Role,
    fragments_max: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    /// Between two messages, nothing held.
    Idle,
    /// Inside a frame or a fragmented message.
    Open(Box<Partial>),
    /// After a close or a violation: input is discarded.
    Ended,
}

/// What has arrived of something that is not whole yet.
#[derive(Debug, Default)]
struct Partial {
    head: [u8; HEADER_BYTES_MAX],
    head_bytes: usize,
    /// The frame whose payload is being read; `None` while its header is.
    frame: Option<Frame>,
    /// The data message that is open, from the header of its first frame to the last byte of its last.
    message: Option<Message>,
    /// Payload of a control frame that came in pieces.
    control: AlignedVec<16>,
}

#[derive(Clone, Copy, Debug)]
struct Frame {
    opcode: Opcode,
    is_final: bool,
    mask: Option<[u8; 4]>,
    payload_bytes: usize,
    arrived_bytes: usize,
}

#[derive(Debug)]
struct Message {
    opcode: Opcode,
    /// Grows with what arrives, so a header that announces much costs nothing (G13).
    payload: AlignedVec<16>,
    /// How much of a text is known to be UTF-8. The rest is at most three bytes: a character cut by the input.
    valid_bytes: usize,
    fragments: u32,
}

impl Decoder {
    /// A decoder at the first byte after the handshake.
    #[must_use]
    pub const fn new(role: Role) -> Decoder {
        Decoder::with_fragments_max(role, FRAGMENTS_MAX)
    }

    /// One that takes messages in more frames, or fewer: for who has to read what is not ours.
    #[must_use]
    pub const fn with_fragments_max(role: Role, fragments_max: u32) -> Decoder {
        Decoder { role, fragments_max, state: State::Idle }
    }

    /// Reads from the start of `input`: at most one event, and how many bytes were used. Call again with the rest until
    /// all is used. Without an event everything was used.
    ///
    /// `message_bytes_max` caps the payload of a message, its fragments together; it may differ between calls and holds
    /// for frames whose header is completed in this one. `scratch` is overwritten; it may serve all decoders of a
    /// thread, and grows to the longest message it has seen.
    ///
    /// # Errors
    /// What the peer did wrong. The connection is to be closed with [`Violation::close_code`]; later calls discard
    /// their input.
    pub fn decode<'s>(
        &mut self,
        input: &[u8],
        message_bytes_max: usize,
        scratch: &'s mut AlignedVec<16>,
    ) -> Result<(usize, Option<Event<'s>>), Violation> {
        let step = self.step(input, message_bytes_max, scratch);
        let event = step.and_then(|(used, opcode)| match opcode {
            Some(opcode) => Ok((used, Some(event(opcode, scratch)?))),
            None => Ok((used, None)),
        });
        if matches!(event, Err(_) | Ok((_, Some(Event::Close { .. })))) {
            self.state = State::Ended;
        }
        event
    }

    /// Whether nothing is held: the next byte begins a message. When this stays false for long, the peer is trickling;
    /// the caller has the clock.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        matches!(self.state, State::Idle | State::Ended)
    }

    /// Bytes on the heap: zero when idle, at most about twice the cap of a message.
    #[must_use]
    pub fn held_bytes(&self) -> usize {
        match &self.state {
            State::Idle | State::Ended => 0,
            State::Open(partial) => {
                let message = partial.message.as_ref().map_or(0, |message| message.payload.capacity());
                size_of::<Partial>() + partial.control.capacity() + message
            }
        }
    }

    /// One frame at most that completes something: its payload is then in `scratch`.
    fn step(
        &mut self,
        input: &[u8],
        bytes_max: usize,
        scratch: &mut AlignedVec<16>,
    ) -> Result<(usize, Option<Opcode>), Violation> {
        if input.is_empty() || matches!(self.state, State::Ended) {
            return Ok((input.len(), None));
        }
        if matches!(self.state, State::Idle) {
            if let Some((used, opcode)) = whole_frame(input, self.role, bytes_max, scratch)? {
                return Ok((used, Some(opcode)));
            }
            self.state = State::Open(Box::default());
        }
        let State::Open(partial) = &mut self.state else { return Ok((input.len(), None)) };
        let caps = Caps { message_bytes: bytes_max, fragments: self.fragments_max };
        let step = partial.feed(input, self.role, caps, scratch)?;
        if partial.is_empty() {
            self.state = State::Idle;
        }
        Ok(step)
    }
}

/// What a message may have at most, all its frames together.
#[derive(Clone, Copy)]
struct Caps {
    message_bytes: usize,
    fragments: u32,
}

/// The way nearly every message takes: one frame, all there, no allocation. `None` for any other.
fn whole_frame(
    input: &[u8],
    role: Role,
    bytes_max: usize,
    scratch: &mut AlignedVec<16>,
) -> Result<Option<(usize, Opcode)>, Violation> {
    let Some(header) = header::parse(input, role, false)? else { return Ok(None) };
    let payload_bytes = admit(&header, 0, bytes_max)?;
    let payload = input.get(header.header_bytes..).and_then(|rest| rest.get(..payload_bytes));
    let (true, Some(payload)) = (header.is_final, payload) else { return Ok(None) };
    scratch.clear();
    append(scratch, payload, header.mask);
    Ok(Some((header.header_bytes + payload_bytes, header.opcode)))
}

/// Checks the announced length against the cap, with `message_bytes` of the message here already. The comparison is
/// made before the number is narrowed.
fn admit(header: &Header, message_bytes: usize, bytes_max: usize) -> Result<usize, Violation> {
    // A control frame belongs to no message, and its length was checked with the header.
    let room = if header.opcode.is_control() { usize::MAX } else { bytes_max.saturating_sub(message_bytes) };
    match usize::try_from(header.payload_bytes) {
        Ok(payload_bytes) if payload_bytes <= room => Ok(payload_bytes),
        _ => Err(Violation::TooBig { bytes_max }),
    }
}

fn append(out: &mut AlignedVec<16>, input: &[u8], mask: Option<[u8; 4]>) {
    match mask {
        Some(key) => append_unmasked(out, input, key),
        None => out.extend_from_slice(input),
    }
}

impl Partial {
    /// Reads frames until one completes something or the input is used up. Each turn of the loop uses up a header.
    fn feed(
        &mut self,
        input: &[u8],
        role: Role,
        caps: Caps,
        scratch: &mut AlignedVec<16>,
    ) -> Result<(usize, Option<Opcode>), Violation> {
        let mut rest = input;
        loop {
            let frame = match self.frame {
                Some(frame) => frame,
                None => match self.begin(&mut rest, role, caps)? {
                    Some(frame) => frame,
                    None => return Ok((input.len(), None)),
                },
            };
            let left_bytes = frame.payload_bytes - frame.arrived_bytes;
            let (payload, after) = rest.split_at(left_bytes.min(rest.len()));
            rest = after;
            self.arrived(frame, payload)?;
            if payload.len() < left_bytes {
                self.frame = Some(Frame { arrived_bytes: frame.arrived_bytes + payload.len(), ..frame });
                return Ok((input.len(), None));
            }
            self.frame = None;
            if let Some(opcode) = self.complete(frame, scratch) {
                return Ok((input.len() - rest.len(), Some(opcode)));
            }
        }
    }

    /// Joins the bytes of a header that came before with those at the start of `rest`, and takes from `rest` what
    /// belongs to the header; `None` when `rest` ends first.
    fn begin(&mut self, rest: &mut &[u8], role: Role, caps: Caps) -> Result<Option<Frame>, Violation> {
        let before_bytes = self.head_bytes;
        for (place, byte) in self.head.iter_mut().skip(before_bytes).zip(*rest) {
            *place = *byte;
            self.head_bytes += 1;
        }
        let head = self.head.get(..self.head_bytes).unwrap_or(&[]);
        let Some(header) = header::parse(head, role, self.message.is_some())? else { return Ok(None) };
        // What came before was not whole, so the header ends in `rest`.
        *rest = rest.get(header.header_bytes - before_bytes..).unwrap_or(&[]);
        self.head_bytes = 0;
        self.open(&header, caps).map(Some)
    }

    /// A header is whole: its frame is admitted, and opens a message when it is the first of one.
    fn open(&mut self, header: &Header, caps: Caps) -> Result<Frame, Violation> {
        let message_bytes = self.message.as_ref().map_or(0, |message| message.payload.len());
        let payload_bytes = admit(header, message_bytes, caps.message_bytes)?;
        let Header { opcode, is_final, mask, .. } = *header;
        if !opcode.is_control() {
            let message = self.message.get_or_insert_with(|| Message {
                opcode,
                payload: AlignedVec::new(),
                valid_bytes: 0,
                fragments: 0,
            });
            if message.fragments == caps.fragments {
                return Err(Violation::TooManyFragments);
            }
            message.fragments += 1;
        }
        Ok(Frame { opcode, is_final, mask, payload_bytes, arrived_bytes: 0 })
    }

    /// Appends a piece of a frame's payload to where it belongs, and looks at text as far as it got.
    fn arrived(&mut self, frame: Frame, payload: &[u8]) -> Result<(), Violation> {
        let key = frame.mask.map(|key| key_after(key, frame.arrived_bytes));
        match &mut self.message {
            Some(message) if !frame.opcode.is_control() => {
                append(&mut message.payload, payload, key);
                message.check_text()
            }
            _ => {
                append(&mut self.control, payload, key);
                Ok(())
            }
        }
    }

    /// A frame is whole. Moves what it completes into `scratch`.
    fn complete(&mut self, frame: Frame, scratch: &mut AlignedVec<16>) -> Option<Opcode> {
        if frame.opcode.is_control() {
            scratch.clear();
            scratch.extend_from_slice(&self.control);
            self.control.clear();
            return Some(frame.opcode);
        }
        if !frame.is_final {
            return None;
        }
        let mut message = self.message.take()?;
        if message.payload.capacity() > scratch.capacity() {
            // The longer buffer stays as scratch; the shorter one is freed.
            std::mem::swap(&mut message.payload, scratch);
        } else {
            scratch.clear();
            scratch.extend_from_slice(&message.payload);
        }
        Some(message.opcode)
    }

    const fn is_empty(&self) -> bool {
        self.head_bytes == 0 && self.frame.is_none() && self.message.is_none()
    }
}

impl Message {
    /// Fails with the first byte that no continuation could make UTF-8 (RFC 6455 section 8.1). A character that the
    /// input cuts stays unchecked until more of it is there, so no byte is looked at more than four times.
    fn check_text(&mut self) -> Result<(), Violation> {
        if self.opcode != Opcode::Text {
            return Ok(());
        }
        match std::str::from_utf8(self.payload.get(self.valid_bytes..).unwrap_or(&[])) {
            Ok(text) => self.valid_bytes += text.len(),
            Err(error) if error.error_len().is_none() => self.valid_bytes += error.valid_up_to(),
            Err(_) => return Err(Violation::InvalidUtf8),
        }
        Ok(())
    }
}

/// Gives a whole payload its meaning. Text that came in pieces is validated once more here: it is what makes it a
/// `str`, and it catches the character that the end cuts.
fn event(opcode: Opcode, payload: &[u8]) -> Result<Event<'_>, Violation> {
    match opcode {
        Opcode::Text => Ok(Event::Text(text(payload)?)),
        // The first frame gives a message its opcode, and that is never a continuation.
        Opcode::Binary | Opcode::Continuation => Ok(Event::Binary(payload)),
        Opcode::Ping => Ok(Event::Ping(payload)),
        Opcode::Pong => Ok(Event::Pong(payload)),
        Opcode::Close => close(payload),
    }
}

fn text(bytes: &[u8]) -> Result<&str, Violation> {
    std::str::from_utf8(bytes).map_err(|_| Violation::InvalidUtf8)
}

/// A close frame is empty or begins with a code (RFC 6455 section 5.5.1).
fn close(payload: &[u8]) -> Result<Event<'_>, Violation> {
    let Some((code, reason)) = payload.split_first_chunk() else {
        return if payload.is_empty() {
            Ok(Event::Close { code: None, reason: "" })
        } else {
            Err(Violation::CloseCut)
        };
    };
    let code = u16::from_be_bytes(*code);
    if !close_code_is_sendable(code) {
        return Err(Violation::CloseCode(code));
    }
    Ok(Event::Close { code: Some(code), reason: text(reason)? })
}
