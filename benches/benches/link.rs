//! What it costs to bring frames from one thread to another: by rings inside a process, and by QUIC over loopback, as
//! between two processes.
//!
//! `cargo bench -p carillon-benches --bench link` measures; without `--bench` each runs once. Time is until the last frame is
//! there; that QUIC takes a control thread at each end, with its CPU, does not show in it.

#![expect(clippy::disallowed_methods, reason = "a benchmark has its own threads and files")]

mod quick;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use carillon_link::doorbell::Doorbell;
use carillon_link::quic::{self, Options};
use carillon_link::ring::{LaneEnd, SendError};
use carillon_link::tls::{Identity, Role, ensure_development};
use carillon_link::{Arrival, Mailbox, Peer, Wake, local};
use carillon_protocol::frame::{LinkFrame as _, Open, Refused};
use criterion::{Criterion, Throughput};
use crossbeam_channel::Receiver;
use quick::TEXT;

/// Frames that are sent together, and of which the last is waited for: about what a turn under load has, and fewer.
const BATCHES: [u64; 2] = [1, 100];
const RING_BYTES: usize = 4 << 20;
/// How long anything may take that takes microseconds.
const PATIENCE: Duration = Duration::from_secs(20);

/// One end of a lane and the bell of who has it.
struct End {
    bell: Arc<Doorbell>,
    lane: LaneEnd,
}

impl End {
    /// Sends so many frames, as room comes.
    fn send(&mut self, frame: &[u8], count: u64) {
        for _ in 0..count {
            while self.lane.send(frame) == Err(SendError::Full) {
                self.lane.flush();
                self.wait();
            }
        }
        self.lane.flush();
    }

    /// Receives so many.
    fn receive(&mut self, count: u64) {
        let mut received = 0;
        loop {
            let taken = self.lane.receive(usize::MAX, |_| received += 1);
            assert!(!taken.closed, "the lane holds");
            if received == count {
                return;
            }
            if !taken.more {
                self.wait();
            }
        }
    }

    fn wait(&self) {
        self.bell.wait(Some(PATIENCE)).expect("polls");
    }
}

/// Sends batches from this thread to another one, which answers each with one frame.
fn measure(criterion: &mut Criterion, name: &str, mut near: End, mut far: End) {
    let frame = Refused {
        session: 7,
        request: 8,
        code: 9,
        retry_after_ms: 0,
        field: String::new(),
        message: TEXT.to_owned(),
    }
    .to_frame();
    let answer = frame.clone();
    let (tell, told) = std::sync::mpsc::channel::<u64>();
    let echo = std::thread::spawn(move || {
        // How many come is said beside the lane, so that all frames are alike.
        while let Ok(count) = told.recv() {
            far.receive(count);
            far.send(&answer, 1);
        }
        far
    });
    let mut group = criterion.benchmark_group(format!("link, {name}"));
    for batch in BATCHES {
        group.throughput(Throughput::Elements(batch));
        group.bench_function(format!("{batch} there and one back"), |bencher| {
            bencher.iter(|| {
                tell.send(batch).expect("the other thread listens");
                near.send(&frame, batch);
                near.receive(1);
            });
        });
    }
    group.finish();
    drop(tell);
    echo.join().expect("the other thread ends");
}

/// The control thread of a process, where QUIC is spoken. Ends with its scope.
struct Control {
    handle: tokio::runtime::Handle,
    end: Arc<tokio::sync::Notify>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Control {
    fn start() -> Control {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let handle = runtime.handle().clone();
        let end = Arc::new(tokio::sync::Notify::new());
        let ended = Arc::clone(&end);
        let thread = std::thread::spawn(move || runtime.block_on(ended.notified()));
        Control { handle, end, thread: Some(thread) }
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.end.notify_one();
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// Whoever has an end: a bell, and a mailbox that lanes come into.
struct Owner {
    bell: Arc<Doorbell>,
    mailbox: Mailbox,
    arrivals: Receiver<Arrival>,
}

impl Owner {
    fn new() -> Owner {
        let bell = Doorbell::new().expect("a descriptor");
        let (mailbox, arrivals) = Mailbox::new(1, Arc::clone(&bell) as Arc<dyn Wake>);
        Owner { bell, mailbox, arrivals }
    }

    /// The end that comes.
    fn end(self) -> End {
        let arrival = self.arrivals.recv_timeout(PATIENCE).expect("a lane");
        End { bell: self.bell, lane: arrival.lane }
    }
}

fn rings(criterion: &mut Criterion) {
    let (near, far) = (Owner::new(), Owner::new());
    assert!(local::connect(RING_BYTES, &near.mailbox, &far.mailbox, Peer(1)), "both have mailboxes");
    measure(criterion, "rings in one process", near.end(), far.end());
}

fn over_quic(criterion: &mut Criterion) {
    let certificates = tempfile::tempdir().expect("a directory");
    let directory = certificates.path().join("tls");
    ensure_development(&directory).expect("certificates");
    let identity = |role| Identity::load(&directory, role).expect("certificates");
    let (near_control, far_control) = (Control::start(), Control::start());
    let (near, far) = (Owner::new(), Owner::new());
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    let options = Options { ring_bytes: RING_BYTES, ..Options::default() };
    let router = identity(Role::Router);
    let listener = quic::listen(&far_control.handle, address, &router, far.mailbox.clone(), options.clone());
    let listener = listener.expect("listens");
    let connector = quic::connect(
        &near_control.handle,
        Peer(1),
        format!("localhost:{}", listener.local_addr().port()),
        &identity(Role::Gateway),
        vec![near.mailbox.clone()],
        options,
    )
    .expect("a socket");
    let mut near = near.end();
    // The far end does not know of a lane on which nothing was said.
    let hello = Open { incarnation: 1, shard: 0 }.to_frame();
    near.send(&hello, 1);
    let mut far = far.end();
    far.receive(1);
    measure(criterion, "QUIC over loopback", near, far);
    drop((connector, listener));
}

fn main() {
    let mut criterion = quick::criterion();
    rings(&mut criterion);
    over_quic(&mut criterion);
    criterion.final_summary();
}
