//! The body of a response: whole, or a stream whose chunks come one at a time.

use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

use http_body_util::Full;
use hyper::body::{Body, Bytes, Frame, SizeHint};
use tokio::sync::mpsc;

use crate::pump::StreamId;

/// What the reader of a stream tells the machine. At most one of each kind a chunk is under way.
#[derive(Clone, Copy, Debug)]
pub(super) enum Note {
    /// The chunk before is on its way: hyper asked for the next one.
    Taken(StreamId),
    /// Nobody reads any more.
    Closed(StreamId),
}

/// See the module.
pub(super) enum ResponseBody {
    Whole(Full<Bytes>),
    Stream(Chunks),
}

/// Chunks of one stream.
pub(super) struct Chunks {
    pub(super) stream: StreamId,
    pub(super) chunks: mpsc::Receiver<Bytes>,
    pub(super) notes: mpsc::UnboundedSender<Note>,
    /// A chunk was given that was not told to be taken.
    pub(super) is_given: bool,
}

impl Body for ResponseBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.get_mut() {
            ResponseBody::Whole(body) => Pin::new(body).poll_frame(context),
            ResponseBody::Stream(chunks) => {
                if std::mem::take(&mut chunks.is_given) {
                    // The machine may have ended: then nobody waits for this.
                    let _ = chunks.notes.send(Note::Taken(chunks.stream));
                }
                chunks.chunks.poll_recv(context).map(|chunk| {
                    chunk.map(|bytes| {
                        chunks.is_given = true;
                        Ok(Frame::data(bytes))
                    })
                })
            }
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            ResponseBody::Whole(body) => body.size_hint(),
            ResponseBody::Stream(_) => SizeHint::default(),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            ResponseBody::Whole(body) => body.is_end_stream(),
            ResponseBody::Stream(_) => false,
        }
    }
}

impl Drop for Chunks {
    fn drop(&mut self) {
        let _ = self.notes.send(Note::Closed(self.stream));
    }
}
