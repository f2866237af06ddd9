//! A connection that a shard handed over, as hyper reads and writes it: what was read before comes first, and where clients
//! speak TLS it is the channel of that.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;

use crate::front::Channel;
use crate::front::channel::{End, Scratch};
use crate::turn::Handed;

/// Bytes read of a TLS connection at a time.
const READ_BYTES: usize = 4_096;

/// See the module.
pub(super) struct Wire {
    stream: TcpStream,
    /// What the client said and nobody has read.
    received: Bytes,
    channel: Option<Box<Channel>>,
    /// Nothing more comes on the channel.
    is_ended: bool,
}

impl Wire {
    pub(super) fn new(handed: Handed, stream: TcpStream) -> Wire {
        let Handed { received, channel, .. } = handed;
        let mut wire = Wire { stream, received: Bytes::new(), channel, is_ended: false };
        wire.decrypt(received, &[]);
        wire
    }

    /// Takes what came on the channel, behind what is there already.
    fn decrypt(&mut self, mut received: Vec<u8>, bytes: &[u8]) {
        if let Some(channel) = &mut self.channel {
            let mut scratch = Scratch::default();
            let end = channel.receive(bytes, &mut scratch);
            if let Some(End::Broken(error)) = &end {
                tracing::debug!(%error, "an HTTPS connection is broken off");
            }
            self.is_ended |= end.is_some();
            received.extend_from_slice(&scratch.plain);
        }
        self.received = received.into();
    }

    /// Sends what the channel has to send, until nothing is left.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(channel) = &mut self.channel else { return Poll::Ready(Ok(())) };
        while !channel.pending().is_empty() {
            let sent = ready!(Pin::new(&mut self.stream).poll_write(context, channel.pending()))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            channel.sent(sent);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            if !this.received.is_empty() {
                let count = this.received.len().min(buffer.remaining());
                buffer.put_slice(&this.received.split_to(count));
                if this.received.is_empty() {
                    this.received = Bytes::new();
                }
                return Poll::Ready(Ok(()));
            }
            if this.channel.is_none() {
                return Pin::new(&mut this.stream).poll_read(context, buffer);
            }
            // What TLS has to say by itself, as an alert: it is not waited for.
            if let Poll::Ready(Err(error)) = this.poll_send(context) {
                return Poll::Ready(Err(error));
            }
            if this.is_ended {
                return Poll::Ready(Ok(()));
            }
            let mut came = [0; READ_BYTES];
            let mut came = ReadBuf::new(&mut came);
            ready!(Pin::new(&mut this.stream).poll_read(context, &mut came))?;
            this.is_ended = came.filled().is_empty();
            this.decrypt(Vec::new(), came.filled());
        }
    }
}

impl AsyncWrite for Wire {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        ready!(this.poll_send(context))?;
        let Some(channel) = &mut this.channel else {
            return Pin::new(&mut this.stream).poll_write(context, bytes);
        };
        let sealed = channel.seal(bytes);
        if sealed == 0 && !bytes.is_empty() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        // What the socket does not take now goes with the next call, of which `poll_flush` is the last.
        match this.poll_send(context) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(Ok(sealed)),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_send(context))?;
        Pin::new(&mut this.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Some(channel) = &mut this.channel {
            channel.goodbye();
        }
        ready!(this.poll_send(context))?;
        Pin::new(&mut this.stream).poll_shutdown(context)
    }

    fn is_write_vectored(&self) -> bool {
        self.channel.is_none() && self.stream.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = &mut *self;
        if this.channel.is_none() {
            return Pin::new(&mut this.stream).poll_write_vectored(context, slices);
        }
        // Not asked for by who heeds `is_write_vectored`; the first is as much as one record takes.
        let first = slices.iter().find(|slice| !slice.is_empty());
        Pin::new(this).poll_write(context, first.map_or(&[], |slice| slice))
    }
}
