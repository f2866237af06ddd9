//! The admin port: is the process alive, may it be sent work, what has it counted, and what is it. Plain HTTP/1.1 on a thread of its
//! own, so that an answer comes also while every shard is busy.
//!
//! # Invariants
//! - Asks nobody who they are: it belongs on loopback or a closed network, and shows no text of a user.
//! - At most [`CONNECTIONS_COUNT_MAX`] connections at once, one request each, [`CONNECTION_MS_MAX`] at most; whoever
//!   comes beyond waits in the kernel's queue.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, ALLOW, CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::{Semaphore, oneshot};

use crate::clock::Clock;
use crate::exit::Fatal;
use crate::listen;
use crate::metrics::Registry;

/// A prober, a scraper or two, a person: and room for a burst of each.
pub const CONNECTIONS_COUNT_MAX: usize = 64;

/// From accept to the last byte of the answer; a scrape takes a few.
pub const CONNECTION_MS_MAX: u64 = 10_000;

/// How long to wait after accept failed, which means that descriptors are exhausted: it neither helps to ask again at
/// once nor to give up.
const ACCEPT_PAUSE_MS: u64 = 100;

/// No request that we answer has more.
const REQUEST_HEADERS_MAX: usize = 64;

const TEXT: &str = "text/plain; charset=utf-8";
const JSON: &str = "application/json";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// One named condition of being ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
struct Check {
    ok: bool,
    detail: String,
}

/// Whether this process may be sent work, said by its parts. Cheap to clone; all clones are one.
///
/// Ready means: some part has spoken, and every part that has is ok. A part that needs time says so first
/// (`set("store", false, "opening")`), so that the process is not ready before it.
#[derive(Clone, Debug, Default)]
pub struct Readiness {
    checks: Arc<Mutex<BTreeMap<&'static str, Check>>>,
}

impl Readiness {
    /// Nothing has spoken: not ready.
    pub fn new() -> Readiness {
        Readiness::default()
    }

    /// What the part `name` has to say: whether it is ok, and a detail for people, such as the I/O driver in use.
    pub fn set(&self, name: &'static str, ok: bool, detail: impl Into<String>) {
        self.lock().insert(name, Check { ok, detail: detail.into() });
    }

    /// May work be sent?
    pub fn is_ready(&self) -> bool {
        all_ok(&self.lock())
    }

    /// `{"ready":…,"checks":{…}}`, and whether it is.
    fn json(&self) -> (bool, Value) {
        let checks = self.lock();
        let ready = all_ok(&checks);
        (ready, json!({ "ready": ready, "checks": *checks }))
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, Check>> {
        // Each change is one insertion: whoever panicked left the map whole.
        self.checks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn all_ok(checks: &BTreeMap<&'static str, Check>) -> bool {
    !checks.is_empty() && checks.values().all(|check| check.ok)
}

/// The running admin port. Dropping it closes the port and ends its thread.
#[derive(Debug)]
pub struct Admin {
    address: SocketAddr,
    /// Dropped to stop: the other end then resolves.
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Admin {
    /// Opens the port that `admin.listen` holds and serves it; port 0 takes a free one.
    ///
    /// # Errors
    /// Status 2 when the port is taken or the address is none; also when the process may start no thread.
    pub fn start(listen: &str, registry: Registry, readiness: Readiness) -> Result<Admin, Fatal> {
        let cannot = |error: std::io::Error| {
            Fatal::config(format!("admin.listen {listen} cannot be served ({error})"))
        };
        let listener = listen::tcp("admin.listen", listen)?;
        listener.set_nonblocking(true).map_err(cannot)?;
        let address = listener.local_addr().map_err(cannot)?;
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().map_err(cannot)?;
        let (stop, stopped) = oneshot::channel();
        let thread = std::thread::Builder::new()
            .name("admin".to_owned())
            .spawn(move || runtime.block_on(serve(listener, stopped, registry, readiness)))
            .map_err(cannot)?;
        Ok(Admin { address, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Admin {
    fn drop(&mut self) {
        self.stop.take();
        if let Some(thread) = self.thread.take() {
            // It panicked, at worst; the process is ending anyway.
            let _ = thread.join();
        }
    }
}

async fn serve(
    listener: TcpListener,
    stopped: oneshot::Receiver<()>,
    registry: Registry,
    readiness: Readiness,
) {
    let since_ns = Clock.now_ns();
    let accepting = async {
        let listener = match tokio::net::TcpListener::from_std(listener) {
            Ok(listener) => listener,
            Err(error) => return tracing::error!(%error, "the admin port cannot be served"),
        };
        let room = Arc::new(Semaphore::new(CONNECTIONS_COUNT_MAX));
        loop {
            // The semaphore is never closed; if it were, nobody could be let in.
            let Ok(permit) = Arc::clone(&room).acquire_owned().await else { return };
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "the admin port cannot accept");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                    continue;
                }
            };
            let (registry, readiness) = (registry.clone(), readiness.clone());
            tokio::spawn(async move {
                let service = service_fn(move |request| {
                    let response = answer(&request, &registry, &readiness, since_ns);
                    async move { Ok::<_, Infallible>(response) }
                });
                let connection = hyper::server::conn::http1::Builder::new()
                    .timer(TokioTimer::new())
                    .keep_alive(false)
                    .max_headers(REQUEST_HEADERS_MAX)
                    .serve_connection(TokioIo::new(stream), service);
                // A peer that goes away, or is too slow, is its own matter.
                let _ = tokio::time::timeout(Duration::from_millis(CONNECTION_MS_MAX), connection).await;
                drop(permit);
            });
        }
    };
    // Connections in flight end with the runtime.
    tokio::select! {
        _ = stopped => {}
        () = accepting => {}
    }
}

/// `since_ns`: when the port was opened, by the monotonic clock.
fn answer(
    request: &Request<Incoming>,
    registry: &Registry,
    readiness: &Readiness,
    since_ns: u64,
) -> Response<Full<Bytes>> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        let mut response =
            respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "only GET is answered here\n".to_owned());
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match request.uri().path() {
        "/livez" => respond(StatusCode::OK, TEXT, "alive\n".to_owned()),
        "/readyz" => {
            let (ready, json) = readiness.json();
            let status = if ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
            respond(status, JSON, json.to_string())
        }
        "/metrics" => {
            let accept = request.headers().get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or("");
            if accept.contains("application/openmetrics-text") {
                respond(StatusCode::OK, OPEN_METRICS, registry.text())
            } else {
                respond(StatusCode::OK, PROMETHEUS, registry.text_prometheus())
            }
        }
        // For people: the first things to know about a process, before its metrics and its log.
        "/debug" => {
            let (_, readiness) = readiness.json();
            let uptime_s = Clock.now_ns().saturating_sub(since_ns) / 1_000_000_000;
            let about = json!({
                "version": env!("CARGO_PKG_VERSION"),
                "process_id": std::process::id(),
                "uptime_s": uptime_s,
                "readiness": readiness,
            });
            respond(StatusCode::OK, JSON, about.to_string())
        }
        _ => {
            let hint = "nothing is here: /livez, /readyz, /metrics and /debug are; clients connect to \
                        gateway.listen\n";
            respond(StatusCode::NOT_FOUND, TEXT, hint.to_owned())
        }
    }
}

fn respond(status: StatusCode, content_type: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
