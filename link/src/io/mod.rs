//! The ground floor of Link: where threads sleep, certificates lie in files, and frames cross sockets.

#![expect(clippy::disallowed_methods, reason = "certificates are read from files here")]

pub mod doorbell;
pub mod quic;
pub mod tls;
