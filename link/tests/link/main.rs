//! What Link promises, over rings and over real sockets.

#![expect(clippy::disallowed_methods, reason = "tests have their own threads, files and patience")]

mod authority;
mod doorbell;
mod quic;
mod refusal;
mod renewal;
mod ring;
mod standing;
mod support;
mod switchboard;
mod tls;
