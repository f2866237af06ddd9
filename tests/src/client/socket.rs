//! A WebSocket made of tungstenite, in either encoding.

use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use carillon_protocol::client::{ServerFrame, Wire, binary, json};
use rkyv::util::AlignedVec;
use serde_json::Value;
use tungstenite::client::IntoClientRequest;
use tungstenite::protocol::{CloseFrame, WebSocketConfig};
use tungstenite::{Message, WebSocket};

use super::{Refused, Seen};
use crate::secure::Stream;
use crate::server::PATIENCE;

/// See the module.
pub(super) struct Socket {
    socket: WebSocket<Stream>,
    wire: Wire,
}

impl Socket {
    pub(super) fn connect(address: SocketAddr, wire: Wire, token: Option<&str>) -> Result<Socket, Refused> {
        let mut request = format!("ws://{address}/v1/ws").into_client_request().expect("a request");
        let headers = request.headers_mut();
        headers.insert("Sec-WebSocket-Protocol", wire.subprotocol().parse().expect("a name"));
        if let Some(token) = token {
            headers.insert("Authorization", format!("Bearer {token}").parse().expect("a token"));
        }
        let stream = Stream::connect(address, Duration::from_millis(100));
        // The default read buffer is 128 KiB, resident at the first read.
        let config = WebSocketConfig::default().read_buffer_size(1_024);
        let mut attempt = tungstenite::client::client_with_config(request, stream, Some(config));
        let deadline = Instant::now() + PATIENCE;
        let socket = loop {
            match attempt {
                Ok((socket, _)) => break socket,
                Err(tungstenite::HandshakeError::Interrupted(again)) => {
                    assert!(Instant::now() < deadline, "no answer to the upgrade");
                    attempt = again.handshake();
                }
                Err(tungstenite::HandshakeError::Failure(tungstenite::Error::Http(answer))) => {
                    let body =
                        answer.body().as_deref().map(|body| String::from_utf8_lossy(body).into_owned());
                    return Err((answer.status().as_u16(), body.unwrap_or_default()));
                }
                Err(error) => panic!("the upgrade failed: {error}"),
            }
        };
        Ok(Socket { socket, wire })
    }

    pub(super) fn send(&mut self, frame: &Value) {
        let text = frame.to_string();
        match self.wire {
            Wire::Json => self.send_raw(Message::text(text)),
            Wire::Rkyv => {
                let incoming = json::decode(&text);
                let command = incoming.command.unwrap_or_else(|wrong| panic!("{text}: {wrong:?}"));
                let mut bytes = AlignedVec::new();
                binary::encode_command(incoming.id.as_ref(), &command, &mut bytes);
                self.send_raw(Message::binary(bytes.to_vec()));
            }
        }
    }

    pub(super) fn send_raw(&mut self, message: Message) {
        self.socket.send(message).expect("sent");
    }

    pub(super) fn stream(&self) -> &TcpStream {
        self.socket.get_ref().socket()
    }

    /// Reads once from the socket.
    pub(super) fn read(&mut self) -> Seen {
        let frames = match self.socket.read() {
            Ok(Message::Text(text)) => {
                assert_eq!(self.wire, Wire::Json, "text on a binary connection");
                vec![serde_json::from_str(&text).expect("JSON from the server")]
            }
            Ok(Message::Binary(bytes)) => {
                assert_eq!(self.wire, Wire::Rkyv, "binary on a text connection");
                let mut aligned = AlignedVec::<16>::new();
                aligned.extend_from_slice(&bytes);
                binary::decode_server(&aligned)
                    .map(|frame| to_json(&frame.expect("a frame that we know")))
                    .collect()
            }
            Ok(Message::Close(frame)) => {
                let frame = frame.map(|CloseFrame { code, reason }| (code.into(), reason.to_string()));
                let (code, reason) = frame.unwrap_or((1005, String::new()));
                return Seen::Closed(code, reason);
            }
            Ok(_) => Vec::new(),
            Err(tungstenite::Error::Io(error))
                if matches!(error.kind(), std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut) =>
            {
                Vec::new()
            }
            // 1006: the connection is gone without a close frame (RFC 6455 section 7.1.5).
            Err(error) => return Seen::Closed(1006, error.to_string()),
        };
        Seen::Frames(frames)
    }
}

/// A server frame as it would stand on the JSON wire.
fn to_json(frame: &ServerFrame<'_>) -> Value {
    let mut text = Vec::new();
    json::encode(frame, &mut text);
    serde_json::from_slice(&text).expect("our own JSON")
}
