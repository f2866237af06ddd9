//! Lanes over QUIC between two processes (two runtimes, real sockets on loopback): order, loss,
//! back-pressure.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use carillon_link::Peer;
use carillon_link::quic::{Connector, Listener, Options, connect, listen};
use carillon_link::ring::{ANY_FRAME_BYTES, LaneEnd, SendError};
use carillon_link::tls::{Identity, Role, ensure_development};
use carillon_protocol::limits::LINK_FRAME_BYTES_MAX;
use tempfile::TempDir;

use crate::support::{Prng, Process, Shard, eventually, frame, number, send};

/// Certificates of a fresh authority.
pub(crate) struct Certificates(TempDir);

impl Certificates {
    pub(crate) fn new() -> Certificates {
        let directory = tempfile::tempdir().unwrap();
        ensure_development(&directory.path().join("tls")).unwrap();
        Certificates(directory)
    }

    pub(crate) fn identity(&self, role: Role) -> Identity {
        Identity::load(&self.0.path().join("tls"), role).unwrap()
    }
}

pub(crate) const LOOPBACK: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::LOCALHOST), 0);

/// A router and a gateway with some shards.
struct Tiers {
    certificates: Certificates,
    router_process: Process,
    router: Shard,
    /// `None` only while the router is restarted.
    listener: Option<Listener>,
    gateways: Vec<Shard>,
    connector: Connector,
    gateway_process: Process,
    options: Options,
}

impl Tiers {
    fn start(shards: usize, options: Options) -> Tiers {
        let certificates = Certificates::new();
        let (router_process, gateway_process) = (Process::start(), Process::start());
        let router = Shard::new();
        let identity = certificates.identity(Role::Router);
        let listener =
            listen(&router_process.handle, LOOPBACK, &identity, router.mailbox.clone(), options.clone())
                .unwrap();
        let gateways: Vec<_> = (0..shards).map(|_| Shard::new()).collect();
        let connector = connect(
            &gateway_process.handle,
            Peer(7),
            format!("localhost:{}", listener.local_addr().port()),
            &certificates.identity(Role::Gateway),
            gateways.iter().map(|shard| shard.mailbox.clone()).collect(),
            options.clone(),
        )
        .unwrap();
        Tiers {
            certificates,
            router_process,
            router,
            listener: Some(listener),
            gateways,
            connector,
            gateway_process,
            options,
        }
    }

    /// Both ends of a lane, once the gateway's shard has spoken on it: frame number `hello`.
    fn lane(&self, shard: usize, hello: u64) -> (LaneEnd, LaneEnd) {
        let mut up = self.gateways[shard].lane();
        send(&mut up, hello..hello + 1, 8);
        let mut down = self.router.lane();
        self.router.expect(&mut down, hello..hello + 1);
        (up, down)
    }

    /// The router's process is gone without a word.
    fn crash_router(&mut self) -> SocketAddr {
        self.router_process = Process::start();
        self.listener.take().unwrap().local_addr()
    }

    fn start_router(&mut self, addr: SocketAddr) {
        let identity = self.certificates.identity(Role::Router);
        let (runtime, mailbox) = (&self.router_process.handle, self.router.mailbox.clone());
        self.listener = Some(listen(runtime, addr, &identity, mailbox, self.options.clone()).unwrap());
    }
}

/// F13, G6, G9: a hundred thousand frames each way at once, of sizes from small to the largest, come in order
/// and whole.
#[test]
fn f13_frames_come_in_order_both_ways() {
    let seed = 0x5eed_0003;
    let frames = 100_000;
    println!("seed {seed:#x}: cargo test -p carillon-link --test link in_order_both_ways");
    let tiers = Tiers::start(1, Options::default());
    let (up, down) = tiers.lane(0, 0);
    let run = |shard: &Shard, mut lane: LaneEnd, mut prng: Prng| {
        let (mut sent, mut received) = (0, 0);
        let size = |prng: &mut Prng| match prng.below(2_000) {
            0 => prng.below(LINK_FRAME_BYTES_MAX + 1),
            _ => prng.below(200),
        };
        let mut held = frame(sent, size(&mut prng));
        shard.until("all frames", || {
            loop {
                let before = (sent, received);
                while sent < frames && lane.send(&held).is_ok() {
                    sent += 1;
                    held = frame(sent, size(&mut prng));
                }
                lane.flush();
                let batch = lane.receive(500, |frame| {
                    assert_eq!(number(frame), received);
                    received += 1;
                });
                assert!(!batch.closed);
                if before == (sent, received) {
                    break;
                }
            }
            (sent == frames && received == frames).then_some(())
        });
        lane
    };
    std::thread::scope(|scope| {
        let other = scope.spawn(|| run(&tiers.gateways[0], up, Prng(seed)));
        let down = run(&tiers.router, down, Prng(seed + 1));
        drop((other.join().unwrap(), down));
    });
    let (up, down) = (tiers.connector.counters(), tiers.listener.as_ref().unwrap().counters(Role::Gateway));
    // A batch is counted after it was handed on.
    eventually("all is counted", || up.read().frames_in == frames && down.read().frames_in == frames + 1);
    let (up, down) = (up.read(), down.read());
    assert_eq!((up.frames_out, down.frames_out), (frames + 1, frames));
    assert_eq!((up.bytes_in, up.bytes_out), (down.bytes_out, down.bytes_in));
    assert_eq!((down.connections, up.connections, up.reconnects), (1, 1, 0));
}

/// F13: a router that crashes and comes back is reconnected to; the old lane is lost at the gateway, a new
/// one comes. The idle time-out is out of reach, so it is the restarted router that says it knows nothing of
/// the old connection.
#[test]
fn f13_a_restarted_router_is_noticed_at_once() {
    let options = Options {
        keep_alive: Duration::from_millis(100),
        idle_timeout: Duration::from_secs(600),
        ..Options::default()
    };
    let mut tiers = Tiers::start(2, options);
    let (mut first, mut first_down) = tiers.lane(0, 10);
    let (mut second, mut second_down) = tiers.lane(1, 20);
    let addr = tiers.crash_router();
    tiers.start_router(addr);
    let start = Instant::now();
    tiers.router.expect_closed(&mut first_down);
    tiers.router.expect_closed(&mut second_down);
    tiers.gateways[0].expect_closed(&mut first);
    tiers.gateways[1].expect_closed(&mut second);
    assert_eq!(first.send(&frame(0, 8)), Err(SendError::Closed));
    let (mut up, mut down) = tiers.lane(0, 30);
    println!("a new lane after {:?}", start.elapsed());
    tiers.lane(1, 40);
    send(&mut down, 0..100, 100);
    tiers.gateways[0].expect(&mut up, 0..100);
    assert_eq!(tiers.connector.counters().read().connections, 2);
    assert!(tiers.connector.counters().read().reconnects >= 1);
}

/// F13: a router that is gone for good is noticed by its silence, and one that comes later is found.
#[test]
fn f13_a_silent_router_is_given_up_and_found_again() {
    let options = Options {
        keep_alive: Duration::from_millis(100),
        idle_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let mut tiers = Tiers::start(1, options);
    let (mut up, down) = tiers.lane(0, 0);
    let addr = tiers.crash_router();
    drop(down);
    let start = Instant::now();
    tiers.gateways[0].expect_closed(&mut up);
    println!("silence noticed after {:?}", start.elapsed());
    tiers.start_router(addr);
    tiers.lane(0, 1);
}

/// F13: a gateway that is gone is noticed by the router in the same way.
#[test]
fn f13_a_silent_gateway_is_given_up() {
    let options = Options {
        keep_alive: Duration::from_millis(100),
        idle_timeout: Duration::from_millis(300),
        ..Options::default()
    };
    let mut tiers = Tiers::start(1, options);
    let (_up, mut down) = tiers.lane(0, 0);
    tiers.gateway_process = Process::start();
    tiers.router.expect_closed(&mut down);
    let counters = tiers.listener.as_ref().unwrap().counters(Role::Gateway);
    eventually("no lane is open", || counters.read().lanes_open == 0);
}

/// A listener that ends tells its gateways; they need not wait for a time-out.
#[test]
fn a_closing_listener_says_so() {
    let options = Options { idle_timeout: Duration::from_secs(600), ..Options::default() };
    let mut tiers = Tiers::start(1, options);
    let (mut up, _down) = tiers.lane(0, 0);
    let listener = tiers.listener.take().unwrap();
    tiers.router_process.handle.block_on(listener.close());
    tiers.gateways[0].expect_closed(&mut up);
}

/// A shard that closes its lane loses that lane only: what it sent before arrives, the other lane goes on,
/// and it gets a new one.
#[test]
fn a_closed_lane_is_replaced_alone_and_in_order() {
    let tiers = Tiers::start(2, Options::default());
    let (mut first, mut first_down) = tiers.lane(0, 0);
    let (mut second, mut second_down) = tiers.lane(1, 0);
    send(&mut first, 1..1_000, 400);
    drop(first);
    tiers.router.expect(&mut first_down, 1..1_000);
    tiers.router.expect_closed(&mut first_down);
    // And from the router's side, towards the gateway.
    let (mut first, mut first_down) = tiers.lane(0, 0);
    send(&mut first_down, 1..1_000, 400);
    drop(first_down);
    tiers.gateways[0].expect(&mut first, 1..1_000);
    tiers.gateways[0].expect_closed(&mut first);
    tiers.lane(0, 0);
    send(&mut second, 1..100, 100);
    tiers.router.expect(&mut second_down, 1..100);
    assert_eq!(tiers.connector.counters().read().connections, 1);
}

/// Whichever side closes, and however full the lane is: what was sent before the close arrives. The closer's
/// ring still holds some of it, and the reader writes meanwhile to somebody who does not listen any more.
#[test]
fn what_was_sent_before_a_close_arrives_from_a_full_lane() {
    let options = Options { ring_bytes: ANY_FRAME_BYTES, ..Options::default() };
    let tiers = Tiers::start(1, options);
    let (mut up, mut down) = tiers.lane(0, 0);
    let fill = |shard: &Shard, lane: &mut LaneEnd, frames_max| {
        let mut next = 1;
        // Full for good once it stays full for this long: then the closer's ring holds what the window does
        // not take.
        while next < frames_max
            && shard.within(Duration::from_millis(300), || lane.send(&frame(next, 400)).ok()).is_some()
        {
            lane.flush();
            next += 1;
        }
        next
    };
    let frames = fill(&tiers.gateways[0], &mut up, u64::MAX);
    assert!(up.queued_bytes() > 0);
    drop(up);
    tiers.router.expect(&mut down, 1..frames);
    tiers.router.expect_closed(&mut down);

    // The other way; now the reader reads only when it has learned that nobody takes what it writes.
    let (mut up, mut down) = tiers.lane(0, 0);
    let frames = u64::try_from((ANY_FRAME_BYTES + 512 * 1024) / 408).unwrap();
    assert_eq!(fill(&tiers.router, &mut down, frames), frames);
    eventually("all is under way", || down.queued_bytes() == 0);
    drop(down);
    eventually("writing has no use", || {
        let sent = up.send(&frame(0, 8_000));
        up.flush();
        sent.is_err()
    });
    tiers.gateways[0].expect(&mut up, 1..frames);
    tiers.gateways[0].expect_closed(&mut up);
}

/// G13, F13: a reader that stands still bounds what its sender can get rid of, and does not stop the lane
/// beside it. When it reads again, everything is there.
#[test]
fn g13_a_stuck_reader_bounds_memory_and_harms_no_other_lane() {
    let ring_bytes = ANY_FRAME_BYTES;
    let tiers = Tiers::start(2, Options { ring_bytes, ..Options::default() });
    let (mut stuck, mut stuck_down) = tiers.lane(0, 0);
    let (mut other, mut other_down) = tiers.lane(1, 0);
    let frame_bytes = 10_000;
    let mut sent = 1;
    let held = |sent| frame(sent, frame_bytes - 8);
    // Two rings, the window, and what the task at the other end has in its hands.
    let bound = 2 * ring_bytes + 1024 * 1024 + 2 * 64 * 1024;
    // Full for good once it stays full for this long.
    while let Some(()) = tiers.gateways[0]
        .within(Duration::from_millis(700), || stuck.send(&held(sent)).is_ok().then(|| sent += 1))
    {
        stuck.flush();
        assert!(usize::try_from(sent).unwrap() * frame_bytes <= bound, "{sent} frames got in");
    }
    for round in 0..20 {
        send(&mut other, 1 + round * 10..11 + round * 10, 1_000);
        tiers.router.expect(&mut other_down, 1 + round * 10..11 + round * 10);
        send(&mut other_down, round..round + 1, 1_000);
        tiers.gateways[1].expect(&mut other, round..round + 1);
    }
    assert_eq!(stuck.send(&held(sent)), Err(SendError::Full), "it still stands");
    let reading = std::thread::scope(|scope| {
        let (router, last) = (&tiers.router, sent + 500);
        let reading = scope.spawn(move || {
            router.expect(&mut stuck_down, 1..last);
            stuck_down
        });
        while sent < last {
            tiers.gateways[0].until("room", || stuck.send(&held(sent)).is_ok().then(|| sent += 1));
            stuck.flush();
        }
        reading.join().unwrap()
    });
    drop(reading);
}
