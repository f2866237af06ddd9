//! One HTTP connection: hyper reads requests off it, one after the other, and each waits for its response.

use std::io::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use carillon_node::random;
use carillon_protocol::handshake::{Forwarded, response_error};
use carillon_protocol::reason::{Code, Refusal};
use http_body_util::BodyExt as _;
use hyper::body::{Body as _, Incoming};
use hyper::header::{
    AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, FORWARDED, HOST, HeaderMap, HeaderName, HeaderValue,
    ORIGIN,
};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot, watch};

use super::body::ResponseBody;
use super::wire::Wire;
use super::{Answer, Event};
use crate::io::HandedOff;
use crate::proxies::Proxies;
use crate::rest::{Body, Headers, Request};

/// How long a body may take to arrive, in milliseconds; then the connection is closed.
pub const BODY_MS_MAX: u64 = 10_000;

/// How long a connection may be kept alive, in milliseconds; then its request in progress is its last.
pub const CONNECTION_MS_MAX: u64 = 300_000;

/// How long the last request of a connection may take, in milliseconds: longer than a body and an answer, a poll's
/// included. Then it is cut, for nobody reads. A stream is not cut: it ends by itself.
pub const LAST_REQUEST_MS_MAX: u64 = 60_000;

/// The most headers of a request.
const HEADERS_MAX: usize = 64;

/// The most bytes of a head; hyper takes no smaller number.
const HEAD_BYTES_MAX: usize = 8 * 1024;

/// How much of a body that is too large is read off, so that the client is still there to hear why; one that goes on
/// beyond is cut.
const EXCESS_BYTES_MAX: usize = 1 << 20;

/// When a connection for which there is no room may come again, in milliseconds.
const TURNED_AWAY_MS: u64 = 1_000;

/// What a connection has to know.
#[derive(Clone, Debug)]
pub(super) struct Options {
    /// From the first byte of a head, or the last of the response before it, in milliseconds.
    pub(super) head_ms_max: u64,
    /// Of a body.
    pub(super) body_bytes_max: usize,
    /// Who is believed about whose a request is.
    pub(super) proxies: Arc<Proxies>,
}

/// Why a request gets no response: its connection is closed.
#[derive(Debug, thiserror::Error)]
enum Cut {
    #[error("the body did not arrive in time")]
    SlowBody,
    #[error("the body broke off")]
    BrokenBody(#[from] hyper::Error),
    #[error("the body is far too large")]
    EndlessBody,
    #[error("the gateway has stopped")]
    Stopped,
}

/// Serves one connection to its end.
pub(super) async fn serve(
    handed_off: HandedOff,
    events: mpsc::Sender<Event>,
    mut is_draining: watch::Receiver<bool>,
    options: Options,
) {
    let HandedOff { stream, handed } = handed_off;
    let Ok(stream) = TcpStream::from_std(stream) else { return };
    let (address, head_ms_max) = (handed.address, options.head_ms_max);
    let is_streaming = Arc::new(AtomicBool::new(false));
    let streams = Arc::clone(&is_streaming);
    let has_asked = AtomicBool::new(false);
    let service = service_fn(move |request| {
        let origin = Origin { address, is_follower: has_asked.swap(true, Ordering::Relaxed) };
        answer(request, origin, events.clone(), options.clone(), Arc::clone(&streams))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(Duration::from_millis(head_ms_max))
        .max_headers(HEADERS_MAX)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(Wire::new(*handed, stream)), service);
    tokio::pin!(connection);
    // What a peer does wrong, or a socket that breaks, is its own matter: hyper has told it what it could.
    tokio::select! {
        _ = connection.as_mut() => return,
        _ = is_draining.wait_for(|is_draining| *is_draining) => {}
        () = tokio::time::sleep(Duration::from_millis(CONNECTION_MS_MAX)) => {}
    }
    connection.as_mut().graceful_shutdown();
    loop {
        let last = Duration::from_millis(LAST_REQUEST_MS_MAX);
        let is_over = tokio::time::timeout(last, connection.as_mut()).await.is_ok();
        if is_over || !is_streaming.load(Ordering::Relaxed) {
            return;
        }
    }
}

/// Says that there is no room, as far as the socket takes it at once.
pub(super) fn turn_away(handed_off: HandedOff) {
    let mut number = [0; 8];
    random::fill(&mut number);
    let refusal =
        Refusal::new(Code::Overloaded, "too many are connected; try again").retry_after(TURNED_AWAY_MS);
    let status = refusal.code.row().http_status;
    let request_id = format!("{:016x}", u64::from_le_bytes(number));
    let response = response_error(status, &refusal, &request_id, &[]);
    let HandedOff { mut stream, mut handed } = handed_off;
    let _ = match &mut handed.channel {
        None => stream.write(&response),
        // Behind what its handshake still has to send.
        Some(channel) => {
            let sent = stream.write(channel.pending()).unwrap_or(0);
            channel.sent(sent);
            channel.seal(&response);
            stream.write(channel.pending())
        }
    };
}

/// Where a request comes from.
struct Origin {
    address: IpAddr,
    /// Whether others came on the same connection before.
    is_follower: bool,
}

async fn answer(
    request: hyper::Request<Incoming>,
    origin: Origin,
    events: mpsc::Sender<Event>,
    options: Options,
    is_streaming: Arc<AtomicBool>,
) -> Result<hyper::Response<ResponseBody>, Cut> {
    let (parts, body) = request.into_parts();
    let body =
        tokio::time::timeout(Duration::from_millis(BODY_MS_MAX), collect(body, options.body_bytes_max))
            .await
            .map_err(|_| Cut::SlowBody)??;
    let request = Request {
        method: parts.method.as_str().to_owned(),
        path: parts.uri.path().to_owned(),
        query: parts.uri.query().unwrap_or_default().to_owned(),
        headers: headers(&parts.headers),
        address: Some(options.proxies.client(origin.address, &forwarded(&parts.headers))),
        is_follower: origin.is_follower,
        body,
    };
    let (tell, told) = oneshot::channel();
    events.send(Event::Request(Box::new(request), tell)).await.map_err(|_| Cut::Stopped)?;
    let answer = told.await.map_err(|_| Cut::Stopped)?;
    let response = &answer.response;
    is_streaming.store(matches!(answer.body, ResponseBody::Stream(_)), Ordering::Relaxed);
    if response.status >= 500 {
        let request_id =
            response.headers.iter().find(|(name, _)| *name == "x-request-id").map(|(_, id)| id.as_str());
        tracing::warn!(status = response.status, request_id, "an HTTP request failed");
    }
    Ok(written(answer))
}

/// The whole body, or that it is too large.
async fn collect(mut body: Incoming, bytes_max: usize) -> Result<Body, Cut> {
    if body.size_hint().lower() > (bytes_max + EXCESS_BYTES_MAX) as u64 {
        return Ok(Body::TooLarge);
    }
    let mut bytes = Vec::new();
    let mut excess_bytes = 0;
    while let Some(frame) = body.frame().await {
        let Ok(data) = frame?.into_data() else { continue };
        if excess_bytes == 0 && bytes.len() + data.len() <= bytes_max {
            bytes.extend_from_slice(&data);
            continue;
        }
        bytes = Vec::new();
        excess_bytes += data.len();
        if excess_bytes > EXCESS_BYTES_MAX {
            return Err(Cut::EndlessBody);
        }
    }
    Ok(if excess_bytes == 0 { Body::Whole(bytes) } else { Body::TooLarge })
}

/// What proxies said about whose a request is.
fn forwarded(headers: &HeaderMap) -> Vec<Forwarded<'_>> {
    let lists = headers.get_all("x-forwarded-for").into_iter().map(|line| Forwarded::List(line.as_bytes()));
    let pairs = headers.get_all(FORWARDED).into_iter().map(|line| Forwarded::Pairs(line.as_bytes()));
    lists.chain(pairs).collect()
}

fn headers(headers: &HeaderMap) -> Headers {
    let bytes = |name: HeaderName| headers.get(name).map(|value| value.as_bytes().to_vec());
    Headers {
        authorization: bytes(AUTHORIZATION),
        idempotency_key: bytes(HeaderName::from_static("idempotency-key")),
        request_id: bytes(HeaderName::from_static("x-request-id")),
        origin: bytes(ORIGIN),
        last_event_id: bytes(HeaderName::from_static("last-event-id")),
        host: bytes(HOST),
        content_type: bytes(CONTENT_TYPE),
        content_encoding: bytes(CONTENT_ENCODING),
    }
}

fn written(answer: Answer) -> hyper::Response<ResponseBody> {
    let Answer { response, body } = answer;
    let mut written = hyper::Response::new(body);
    // The status comes from our own tables.
    *written.status_mut() =
        hyper::StatusCode::from_u16(response.status).unwrap_or(hyper::StatusCode::INTERNAL_SERVER_ERROR);
    for (name, value) in response.headers {
        if let Ok(value) = HeaderValue::from_str(&value) {
            written.headers_mut().insert(HeaderName::from_static(name), value);
        }
    }
    written
}
