//! One WebSocket, one task: both directions, so that a turn is one wake and what leaves in it is one write.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::handshake::server::{ErrorResponse, Request, Response};
use tokio_tungstenite::tungstenite::http::{HeaderValue, StatusCode, header};
use tokio_tungstenite::tungstenite::protocol::WebSocketConfig;
use tokio_tungstenite::tungstenite::{Message, Utf8Bytes};

use crate::frames::{self, CLIENT_MSG_ID_BYTES_MAX, CONTENT_BYTES_MAX, FRAME_BYTES_MAX, Incoming};
use crate::writer::{Command, now_ms};
use crate::{Form, House};

const SUBPROTOCOL: &str = "carillon.v1.json";
/// Frames that wait for one connection; a client that lets more pile up is too slow, and is left.
const OUTBOX_FRAMES_MAX: usize = 1_024;
/// Frames that leave in one write at most.
const FLUSH_FRAMES_MAX: usize = 128;
const READ_BUFFER_BYTES: usize = 8 * 1024;
/// A client that takes nothing for so long is gone.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);
const UPGRADE_TIMEOUT: Duration = Duration::from_secs(10);

type Socket = WebSocketStream<TcpStream>;

/// Serves a connection until it ends, whoever ends it.
pub async fn serve(stream: TcpStream, house: &House) {
    let mut user = 0;
    let config = WebSocketConfig::default()
        .read_buffer_size(READ_BUFFER_BYTES)
        .max_message_size(Some(FRAME_BYTES_MAX))
        .max_frame_size(Some(FRAME_BYTES_MAX));
    #[expect(clippy::result_large_err, reason = "the library's signature")]
    let upgrade = |request: &Request, response: Response| upgraded(house, request, response, &mut user);
    let upgrade = tokio_tungstenite::accept_hdr_async_with_config(stream, upgrade, Some(config));
    let Ok(Ok(mut socket)) = timeout(UPGRADE_TIMEOUT, upgrade).await else { return };
    if socket.send(Message::Text(frames::hello(now_ms()))).await.is_err() {
        return;
    }
    let (outbox, inbox) = mpsc::channel(OUTBOX_FRAMES_MAX);
    let connection = Connection { house, user, outbox: Some(outbox) };
    connection.run(&mut socket, inbox).await;
    // Whatever it says now, nobody listens.
    let _ = timeout(WRITE_TIMEOUT, socket.close(None)).await;
}

#[expect(clippy::result_large_err, reason = "the library's signature")]
fn upgraded(
    house: &House,
    request: &Request,
    mut response: Response,
    user: &mut u64,
) -> Result<Response, ErrorResponse> {
    let header = |name| request.headers().get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let refused = |status| {
        let mut refused = ErrorResponse::new(None);
        *refused.status_mut() = status;
        refused
    };
    *user =
        house.door.user(header(header::AUTHORIZATION)).ok_or_else(|| refused(StatusCode::UNAUTHORIZED))?;
    if let Some(offered) = header(header::SEC_WEBSOCKET_PROTOCOL) {
        if !offered.split(',').any(|name| name.trim() == SUBPROTOCOL) {
            return Err(refused(StatusCode::BAD_REQUEST));
        }
        let chosen = HeaderValue::from_static(SUBPROTOCOL);
        response.headers_mut().insert(header::SEC_WEBSOCKET_PROTOCOL, chosen);
    }
    Ok(response)
}

struct Connection<'h> {
    house: &'h House,
    user: u64,
    /// The writer's end, until the client has identified itself.
    outbox: Option<mpsc::Sender<Utf8Bytes>>,
}

/// What a frame of the client leads to.
enum Step {
    Nothing,
    Answer(Utf8Bytes),
    Leave,
}

impl Connection<'_> {
    async fn run(mut self, socket: &mut Socket, mut inbox: mpsc::Receiver<Utf8Bytes>) {
        let mut out = Vec::with_capacity(FLUSH_FRAMES_MAX);
        loop {
            tokio::select! {
                biased;
                count = inbox.recv_many(&mut out, FLUSH_FRAMES_MAX) => {
                    // The writer let go: too slow, or replaced by a newer connection.
                    if count == 0 || !flush(socket, &mut out).await {
                        break;
                    }
                }
                heard = socket.next() => {
                    let text = match heard {
                        Some(Ok(Message::Text(text))) => text,
                        Some(Ok(Message::Ping(_) | Message::Pong(_))) => continue,
                        _ => break,
                    };
                    match self.frame(&text).await {
                        Step::Nothing => {}
                        Step::Answer(text) => {
                            out.push(text);
                            if !flush(socket, &mut out).await {
                                break;
                            }
                        }
                        Step::Leave => break,
                    }
                }
            }
        }
    }

    async fn frame(&mut self, text: &str) -> Step {
        let Ok(frame) = serde_json::from_str::<Incoming<'_>>(text) else {
            return Step::Answer(frames::error(None, "bad_request", "send one JSON object with a type"));
        };
        let Ok(id) = frame.id() else {
            return Step::Answer(frames::error(None, "bad_request", "id is a short string or an integer"));
        };
        let refused = |words| Step::Answer(frames::error(id.as_deref(), "bad_request", words));
        let command = match frame.r#type {
            "identify" => match self.outbox.take() {
                Some(outbox) => Command::Enter { user: self.user, outbox },
                None => return refused("identify once"),
            },
            "heartbeat" => return Step::Answer(frames::heartbeat_ack(frame.id)),
            "bye" => return Step::Leave,
            _ if self.outbox.is_some() => {
                return Step::Answer(frames::error(frame.id, "unauthenticated", "identify first"));
            }
            "send_message" => {
                let conversation = frame.conversation();
                let Incoming { content: Some(content), client_msg_id, .. } = frame else {
                    return refused("a message has content");
                };
                let Some(conversation) = conversation else { return refused("conversation_id is missing") };
                if content.is_empty() || content.len() > CONTENT_BYTES_MAX {
                    return refused("content is empty or too long");
                }
                if client_msg_id
                    .as_ref()
                    .is_some_and(|id| id.is_empty() || id.len() > CLIENT_MSG_ID_BYTES_MAX)
                {
                    return refused("client_msg_id is 1 to 64 bytes");
                }
                Command::Send { user: self.user, id, conversation, content, client_msg_id }
            }
            "delivered" => match (frame.conversation(), frame.seq) {
                // The plain form has nothing to store it in.
                _ if self.house.form == Form::Plain => return Step::Nothing,
                (Some(conversation), Some(seq)) => Command::Delivered { user: self.user, conversation, seq },
                _ => return refused("delivered names a conversation_id and a seq"),
            },
            _ => return refused("this server does not know the type"),
        };
        // While the writer is behind, this client is not read.
        match self.house.writer.send(command).await {
            Ok(()) => Step::Nothing,
            Err(_) => Step::Leave,
        }
    }
}

/// Sends everything in one write, if the socket takes it. `false`: the connection is over.
async fn flush(socket: &mut Socket, out: &mut Vec<Utf8Bytes>) -> bool {
    for text in out.drain(..) {
        if socket.feed(Message::Text(text)).await.is_err() {
            return false;
        }
    }
    matches!(timeout(WRITE_TIMEOUT, socket.flush()).await, Ok(Ok(())))
}
