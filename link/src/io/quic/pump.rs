//! One lane's task: ring to stream and stream to ring, each as fast as the slower of the two.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use carillon_protocol::framing;
use carillon_protocol::limits::LINK_FRAME_BYTES_MAX;
use quinn::{RecvStream, SendStream, VarInt, WriteError};
use tokio::sync::Notify;

use super::{Counters, LINGER_TIME_MAX, add, code};
use crate::ring::{ANY_FRAME_BYTES, Inbound, LaneEnd, Outbound, SendError};
use crate::tls::Role;
use crate::{Arrival, Mailbox, Peer, Wake, ring};

/// The most bytes given to the stream in one write, but for a single longer frame: the ring has them back
/// after that.
const WRITE_BYTES_MAX: usize = 64 * 1024;
/// Room for what one read takes from the stream, beside the frame that it continues.
const READ_BYTES_MAX: usize = 64 * 1024;
const WORD_BYTES: usize = framing::ALIGN;

/// Wakes the two halves of a lane's task; each looks again, finds nothing new, and sleeps on, if it was not
/// meant.
#[derive(Default)]
struct Halves {
    transmit: Notify,
    deliver: Notify,
}

impl Wake for Halves {
    fn wake(&self) {
        self.transmit.notify_one();
        self.deliver.notify_one();
    }
}

/// Why [`deliver`] ended.
#[derive(Debug, PartialEq, Eq)]
enum Ended {
    /// The shard at this side closed the lane.
    Here,
    /// The other side did, or the connection is lost.
    There,
    /// What came were no frames.
    NotAFrame,
}

/// Makes a ring pair for a stream, gives `mailbox` its end, and moves frames until the lane is lost.
pub(super) async fn serve_lane(
    (mut send, mut receive): (SendStream, RecvStream),
    mailbox: &Mailbox,
    (peer, from): (Peer, Role),
    ring_bytes: usize,
    counters: &Counters,
) {
    let halves = Arc::new(Halves::default());
    let (near, far) = ring::pair(ring_bytes, Arc::clone(&halves) as _, mailbox.wake());
    let end = if mailbox.put(Arrival { peer, from, lane: far }) {
        add(&counters.lanes, 1);
        let _open = OpenLane::new(counters);
        pump(near, &halves, &mut send, &mut receive, counters).await
    } else {
        End { code: code::NO_ROOM, finished: false }
    };
    // A reset would take back what is finished and still under way. Both fail only on streams that have ended
    // anyway.
    if !end.finished {
        let _ = send.reset(end.code);
    }
    let _ = receive.stop(end.code);
}

/// How a lane ended.
struct End {
    code: VarInt,
    /// Whether everything that the shard had sent is with QUIC, and the end of it too.
    finished: bool,
}

/// Counts a lane as open while it lives, however its task ends.
struct OpenLane<'a>(&'a Counters);

impl OpenLane<'_> {
    fn new(counters: &Counters) -> OpenLane<'_> {
        counters.lanes_open.fetch_add(1, Ordering::Relaxed);
        OpenLane(counters)
    }
}

impl Drop for OpenLane<'_> {
    fn drop(&mut self) {
        self.0.lanes_open.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Runs both halves. What was sent before a close arrives, whichever side closed: so the end of one half does
/// not cut off the other while that still has something to bring.
async fn pump(
    lane: LaneEnd,
    halves: &Halves,
    send: &mut SendStream,
    receive: &mut RecvStream,
    counters: &Counters,
) -> End {
    // Dropping `inbound` closes the lane, so it outlives both halves: `deliver` may go on when `transmit` has
    // failed.
    let (outbound, mut inbound) = lane.split();
    let transmit = transmit(&mut inbound, &halves.transmit, send, counters);
    let deliver = deliver(outbound, &halves.deliver, receive, counters);
    tokio::pin!(transmit, deliver);
    let (finished, ended) = tokio::select! {
        // Finished: the shard closed the lane, and `deliver` is about to see the same. Refused: the peer
        // reads no more, but may have written; `deliver` comes to the end of that.
        transmitted = &mut transmit => (transmitted.is_ok(), deliver.await),
        ended = &mut deliver => match ended {
            Ended::Here => {
                let transmitted = tokio::time::timeout(LINGER_TIME_MAX, &mut transmit).await;
                (transmitted.is_ok_and(|transmitted| transmitted.is_ok()), ended)
            }
            Ended::There | Ended::NotAFrame => (false, ended),
        }
    };
    let code = match ended {
        Ended::Here | Ended::There => code::LANE_CLOSED,
        Ended::NotAFrame => code::NOT_A_FRAME,
    };
    End { code, finished }
}

/// Ring to stream, until the shard has closed the lane and all of it is written, or the peer does not take
/// more.
async fn transmit(
    inbound: &mut Inbound,
    wake: &Notify,
    send: &mut SendStream,
    counters: &Counters,
) -> Result<(), WriteError> {
    loop {
        // The flag first, the ring second: what was sent before the close is then in the ring for sure.
        let closed = inbound.is_closed_there();
        if let Some(run) = inbound.run(WRITE_BYTES_MAX / WORD_BYTES) {
            let (words, frames, bytes) = (run.words, run.frames, run.bytes());
            send.write_all(bytes).await?;
            add(&counters.frames_out, frames);
            add(&counters.bytes_out, words * WORD_BYTES);
            inbound.give_back(words);
        } else if closed {
            // Fails only when the stream was reset by us, which happens after this.
            let _ = send.finish();
            return Ok(());
        } else {
            wake.notified().await;
        }
    }
}

/// Stream to ring. While the ring is full nothing is read, and QUIC's flow control tells the sender.
async fn deliver(
    mut outbound: Outbound,
    wake: &Notify,
    receive: &mut RecvStream,
    counters: &Counters,
) -> Ended {
    let mut assembly = Assembly::new();
    loop {
        let read = tokio::select! {
            read = receive.read(assembly.room()) => read,
            () = wake.notified() => {
                if outbound.is_closed() {
                    return Ended::Here;
                }
                continue;
            }
        };
        let Ok(Some(bytes)) = read else { return Ended::There };
        assembly.filled += bytes;
        let (mut frames, mut frames_bytes) = (0, 0);
        loop {
            let frame = match assembly.frame() {
                Ok(Some(frame)) => frame,
                Ok(None) => break,
                Err(error) => {
                    tracing::warn!(%error, "a link lane carried something that is not a frame: closed");
                    return Ended::NotAFrame;
                }
            };
            loop {
                match outbound.send(frame) {
                    Ok(()) => break,
                    Err(SendError::Full) => {
                        outbound.flush();
                        wake.notified().await;
                    }
                    Err(SendError::Closed) => return Ended::Here,
                    // The ring takes every frame whose header passed: `Options::ring_bytes`.
                    Err(SendError::TooLarge) => return Ended::NotAFrame,
                }
            }
            frames += 1;
            frames_bytes += frame.len();
            assembly.taken += frame.len();
        }
        assembly.compact();
        outbound.flush();
        add(&counters.frames_in, frames);
        add(&counters.bytes_in, frames_bytes);
    }
}

/// What was read and is not yet handed on: at most one incomplete frame between reads.
struct Assembly {
    /// Words, so that frames lie aligned. Grows to the longest frame that came, at most [`ANY_FRAME_BYTES`],
    /// and one read.
    words: Vec<u64>,
    /// Bytes handed on; a multiple of eight.
    taken: usize,
    /// Bytes read.
    filled: usize,
}

impl Assembly {
    fn new() -> Assembly {
        Assembly { words: vec![0; READ_BYTES_MAX / WORD_BYTES], taken: 0, filled: 0 }
    }

    /// Where the next read goes. Never empty: `compact` sees to it.
    fn room(&mut self) -> &mut [u8] {
        bytemuck::cast_slice_mut(&mut self.words).get_mut(self.filled..).unwrap_or_default()
    }

    /// The next frame, if it is whole.
    fn frame(&self) -> Result<Option<&[u8]>, framing::FramingError> {
        let bytes: &[u8] = bytemuck::cast_slice(&self.words);
        let unread = bytes.get(self.taken..self.filled).unwrap_or_default();
        let header = framing::header(unread, LINK_FRAME_BYTES_MAX)?;
        Ok(header.and_then(|header| unread.get(..framing::framed_bytes(header.archive_bytes))))
    }

    /// Moves the incomplete frame to the front, and makes room for the rest of it.
    fn compact(&mut self) {
        let bytes: &mut [u8] = bytemuck::cast_slice_mut(&mut self.words);
        if self.taken > 0 {
            bytes.copy_within(self.taken..self.filled, 0);
            self.filled -= self.taken;
            self.taken = 0;
        }
        // Without a header yet (fewer than eight bytes) there is room in any case.
        let needed = framing::header(bytes.get(..self.filled).unwrap_or_default(), LINK_FRAME_BYTES_MAX)
            .ok()
            .flatten()
            .map_or(0, |header| framing::framed_bytes(header.archive_bytes));
        debug_assert!(needed <= ANY_FRAME_BYTES);
        if needed > bytes.len() {
            self.words.resize((needed + READ_BYTES_MAX) / WORD_BYTES, 0);
        }
    }
}
