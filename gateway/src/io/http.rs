//! HTTP on the control thread: every connection that is not a WebSocket is handed over to here, with the bytes already
//! read. hyper speaks HTTP/1.1; [`Rest`] and [`Pumps`] decide; this file joins them and their lanes.
//!
//! # Invariants
//! - At most [`CONNECTIONS_MAX`] connections, each with one request in progress; one more is told 503 and closed.
//! - Every connection ends: a head has `gateway.handshake_timeout_ms` to arrive, also the next one on a connection that
//!   is kept alive; a body [`BODY_MS_MAX`]; the whole [`CONNECTION_MS_MAX`] and [`LAST_REQUEST_MS_MAX`]. A stream of
//!   server-sent events ends with its session.

mod body;
mod connection;
mod wire;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use body::{Chunks, Note, ResponseBody};
use carillon_link::{Mailbox, Wake};
use carillon_node::clock::Clock;
use carillon_node::exit::Fatal;
use carillon_node::metric_table;
use carillon_node::metrics::{Def, Meter};
use carillon_node::random;
use carillon_protocol::time::{Time, WallMs};
use http_body_util::Full;
use hyper::body::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use super::link::Lanes;
use super::meters::ShardMeters;
use super::{ARRIVALS_MAX, HandedOff, Needs};
use crate::counters::Limited;
use crate::pump::{self, Pumps, StreamId};
use crate::rest::{self, Request, Response, Rest, Ticket};
use crate::settings::Settings;
use crate::shard::Shard;
use crate::turn;

pub use connection::{BODY_MS_MAX, CONNECTION_MS_MAX, LAST_REQUEST_MS_MAX};

/// Connections at once. Most clients are on WebSockets; those who cannot hold one here for each poll or stream.
pub const CONNECTIONS_MAX: usize = 2_048;

/// Requests taken in one turn, so that lanes are served as well.
const REQUESTS_PER_TURN_MAX: usize = 256;

/// The longest sleep: a lane that could not be replaced is asked for again at least this often.
const SLEEP_MAX: Duration = Duration::from_secs(1);

metric_table! {
    enum Row {
        Requests = Def::counter("http_requests", "HTTP requests answered.").by("status", &["2xx", "4xx", "5xx"]),
        Waiting = Def::gauge("http_waiting", "HTTP requests that wait for a router."),
        Connections = Def::gauge("http_connections", "Open HTTP connections."),
        TurnedAway = Def::counter("http_connections_refused", "HTTP connections closed because there were too many."),
        Pumped = Def::gauge("http_sessions", "Sessions over HTTP.").by("transport", &["poll", "events"]),
    }
}

/// What connections say to the machine.
enum Event {
    Request(Box<Request>, oneshot::Sender<Answer>),
    TurnedAway,
    Drain,
}

/// What a connection sends back.
struct Answer {
    /// Status and headers; its body is taken out.
    response: Response,
    body: ResponseBody,
}

/// Where the lanes of the HTTP server's two machines are put.
#[derive(Clone)]
pub struct Mailboxes {
    /// REST's.
    pub rest: Mailbox,
    /// The pumps'.
    pub pumps: Mailbox,
}

/// Serves what comes out of `hand_offs` until that ends, which is the drain. Returns where lanes for it are put; they
/// have the shard numbers `shard_number` and the one after it.
///
/// # Errors
/// None now; what may fail at start is kept a part of the signature.
pub fn serve(
    runtime: &Handle,
    settings: &Settings,
    needs: &Needs,
    hand_offs: mpsc::Receiver<HandedOff>,
    shard_number: u16,
) -> Result<Mailboxes, Fatal> {
    let bell = Arc::new(Bell(Notify::new()));
    let (rest_mailbox, rest_arrivals) = Mailbox::new(ARRIVALS_MAX, Arc::clone(&bell) as Arc<dyn Wake>);
    let (pumps_mailbox, pumps_arrivals) = Mailbox::new(ARRIVALS_MAX, Arc::clone(&bell) as Arc<dyn Wake>);
    let (events, taken) = mpsc::channel(CONNECTIONS_MAX);
    let (notes, noted) = mpsc::unbounded_channel();
    let (rest_number, pumps_number) = (shard_number, shard_number.saturating_add(1));
    let seed_of = |number: u16| needs.seed.wrapping_add(u64::from(number));
    let lanes = |arrivals, number| Lanes::new(arrivals, Arc::clone(&needs.uplinks), needs.epoch, number);
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let is_development = needs.is_development;
    let shard = Shard::new(
        settings.clone(),
        Arc::clone(&needs.keys),
        is_development,
        seed_of(pumps_number),
        needs.epoch,
        pumps_number,
    );
    let mut secret = [0; 32];
    random::fill(&mut secret);
    let keys = Arc::clone(&needs.keys);
    let rest = Rest::new(
        rest::Settings::of(settings, is_development),
        Arc::clone(&needs.keys),
        seed_of(rest_number),
    );
    let machine = Machine {
        rest: match &needs.ready_users {
            Some(ready_users) if is_development => rest.with_page(Arc::clone(ready_users)),
            _ => rest,
        },
        rest_lanes: lanes(rest_arrivals, rest_number),
        pumps: Pumps::new(settings, is_development, keys, shard, seed_of(pumps_number), &secret),
        pumps_lanes: lanes(pumps_arrivals, pumps_number),
        events: taken,
        noted,
        notes,
        answers: BTreeMap::new(),
        streams: BTreeMap::new(),
        tickets_count: 0,
        bell,
        room: Arc::clone(&room),
        meter: needs.registry.meter(&[]),
        pumps_meters: ShardMeters::without_driver(needs.registry.meter(&[])),
    };
    let options = connection::Options {
        head_ms_max: settings.gateway.handshake_timeout_ms,
        body_bytes_max: settings.limits.frame_bytes,
        proxies: Arc::new(settings.gateway.trusted_proxies.clone()),
    };
    runtime.spawn(machine.run());
    runtime.spawn(take_over(hand_offs, events, room, options));
    Ok(Mailboxes { rest: rest_mailbox, pumps: pumps_mailbox })
}

/// Wakes the machine's task.
struct Bell(Notify);

impl Wake for Bell {
    fn wake(&self) {
        // Keeps one permit when nobody waits, so no wake is lost.
        self.0.notify_one();
    }
}

/// Gives each connection a task of its own.
async fn take_over(
    mut hand_offs: mpsc::Receiver<HandedOff>,
    events: mpsc::Sender<Event>,
    room: Arc<Semaphore>,
    options: connection::Options,
) {
    let (drain, is_draining) = watch::channel(false);
    while let Some(handed_off) = hand_offs.recv().await {
        match Arc::clone(&room).try_acquire_owned() {
            Ok(permit) => {
                let serving =
                    connection::serve(handed_off, events.clone(), is_draining.clone(), options.clone());
                tokio::spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            Err(_) => {
                connection::turn_away(handed_off);
                let _ = events.send(Event::TurnedAway).await;
            }
        }
    }
    // The machine outlives this task's end of the channel; without it there is nobody to tell.
    let _ = events.send(Event::Drain).await;
    let _ = drain.send(true);
}

/// The two machines, their lanes, and who waits for which response.
struct Machine {
    rest: Rest,
    rest_lanes: Lanes,
    pumps: Pumps,
    pumps_lanes: Lanes,
    events: mpsc::Receiver<Event>,
    noted: mpsc::UnboundedReceiver<Note>,
    notes: mpsc::UnboundedSender<Note>,
    /// At most one a connection.
    answers: BTreeMap<Ticket, oneshot::Sender<Answer>>,
    streams: BTreeMap<StreamId, mpsc::Sender<Bytes>>,
    tickets_count: u64,
    bell: Arc<Bell>,
    room: Arc<Semaphore>,
    meter: Meter<Row>,
    pumps_meters: ShardMeters,
}

/// Why the machine's task woke.
enum Woke {
    Event(Event),
    Note(Note),
    /// A lane rang, or it is time.
    Other,
}

impl Machine {
    /// Turn after turn until all connections have ended.
    async fn run(mut self) {
        let bell = Arc::clone(&self.bell);
        let mut woke = Woke::Other;
        loop {
            let has_more = self.turn(woke);
            woke = Woke::Other;
            if has_more {
                tokio::task::yield_now().await;
                continue;
            }
            let sleep = self.sleep();
            tokio::select! {
                () = bell.0.notified() => {}
                () = tokio::time::sleep(sleep) => {}
                Some(note) = self.noted.recv() => woke = Woke::Note(note),
                event = self.events.recv() => match event {
                    Some(event) => woke = Woke::Event(event),
                    None => return,
                },
            }
        }
    }

    /// One turn; `true`: there is more to do at once.
    fn turn(&mut self, woke: Woke) -> bool {
        let (now, wall) = (Time(Clock.now_ns()), WallMs(Clock.wall_ms()));
        let rest = &mut self.rest;
        let mut has_more = self.rest_lanes.receive(|input| match input {
            turn::Input::LaneUp { router, incarnation } => {
                rest.handle(now, wall, rest::Input::LaneUp { router, incarnation })
            }
            turn::Input::LaneDown { router } => rest.handle(now, wall, rest::Input::LaneDown { router }),
            turn::Input::LaneFrame { router, frame } => {
                rest.handle(now, wall, rest::Input::LaneFrame { router, frame })
            }
            // Lanes say nothing else.
            _ => {}
        });
        let pumps = &mut self.pumps;
        has_more |= self.pumps_lanes.receive(|input| pumps.handle(now, wall, pump::Input::Turn(input)));
        let mut next = None;
        match woke {
            Woke::Event(event) => next = Some(event),
            Woke::Note(note) => self.note(now, wall, note),
            Woke::Other => {}
        }
        // At most one note of each kind a stream, so this ends.
        while let Ok(note) = self.noted.try_recv() {
            self.note(now, wall, note);
        }
        for taken_count in 0..=REQUESTS_PER_TURN_MAX {
            let Some(event) = next.take().or_else(|| self.events.try_recv().ok()) else { break };
            has_more |= taken_count == REQUESTS_PER_TURN_MAX;
            self.event(now, wall, event);
        }
        self.rest.handle(now, wall, rest::Input::Tick);
        self.pumps.handle(now, wall, pump::Input::Turn(turn::Input::Tick));
        self.carry_out();
        self.gauge();
        has_more || self.rest_lanes.has_broken() || self.pumps_lanes.has_broken()
    }

    fn event(&mut self, now: Time, wall: WallMs, event: Event) {
        match event {
            Event::Request(request, answer) => {
                self.tickets_count += 1;
                let ticket = Ticket(self.tickets_count);
                self.answers.insert(ticket, answer);
                if pump::takes(&request.method, &request.path) {
                    self.pumps.handle(now, wall, pump::Input::Request { ticket, request: *request });
                } else {
                    self.rest.handle(now, wall, rest::Input::Request { ticket, request: *request });
                }
            }
            Event::TurnedAway => self.meter.add(Row::TurnedAway, 1),
            Event::Drain => {
                self.rest.handle(now, wall, rest::Input::Drain);
                self.pumps.handle(now, wall, pump::Input::Drain);
            }
        }
    }

    fn note(&mut self, now: Time, wall: WallMs, note: Note) {
        let input = match note {
            Note::Taken(stream) => pump::Input::Taken { stream },
            Note::Closed(stream) => {
                self.streams.remove(&stream);
                pump::Input::StreamClosed { stream }
            }
        };
        self.pumps.handle(now, wall, input);
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.rest.poll_output() {
            match output {
                rest::Output::Response { ticket, response } => self.answer(ticket, response),
                rest::Output::Link { router, frame } => drop(self.rest_lanes.send(router, frame)),
                rest::Output::CloseLane { router } => self.rest_lanes.close(router),
                // The connections end with their last response, and the machine with them.
                rest::Output::Drained => {}
            }
        }
        while let Some(output) = self.pumps.poll_output() {
            match output {
                pump::Output::Response { ticket, response } => self.answer(ticket, response),
                pump::Output::Stream { ticket, stream, response } => {
                    self.count(&response);
                    // One chunk is under way at a time; the next is put out when it was taken.
                    let (sender, chunks) = mpsc::channel(1);
                    self.streams.insert(stream, sender);
                    let notes = self.notes.clone();
                    let body = ResponseBody::Stream(Chunks { stream, chunks, notes, is_given: false });
                    if let Some(answer) = self.answers.remove(&ticket) {
                        // Whoever is gone by now drops the body, which is noted.
                        let _ = answer.send(Answer { response, body });
                    }
                }
                pump::Output::Chunk { stream, bytes } => {
                    if let Some(chunks) = self.streams.get(&stream) {
                        let _ = chunks.try_send(Bytes::from(bytes));
                    }
                }
                pump::Output::End { stream } => {
                    self.streams.remove(&stream);
                }
                pump::Output::Link { router, frame } => drop(self.pumps_lanes.send(router, frame)),
                pump::Output::CloseLane { router } => self.pumps_lanes.close(router),
                pump::Output::Meet { address } => self.pumps_lanes.meet(&address),
                pump::Output::Part { router } => self.pumps_lanes.part(router),
                pump::Output::Drained => {}
            }
        }
        self.rest_lanes.flush();
        self.pumps_lanes.flush();
    }

    fn answer(&mut self, ticket: Ticket, mut response: Response) {
        self.count(&response);
        let body = ResponseBody::Whole(Full::new(Bytes::from(std::mem::take(&mut response.body))));
        if let Some(answer) = self.answers.remove(&ticket) {
            // The client may have gone; what it asked for is done all the same.
            let _ = answer.send(Answer { response, body });
        }
    }

    fn count(&self, response: &Response) {
        let class = match response.status {
            ..400 => 0,
            400..500 => 1,
            500.. => 2,
        };
        self.meter.add_at(Row::Requests, class, 1);
    }

    fn gauge(&mut self) {
        let gauge = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let (polls, streams) = self.pumps.counts();
        self.meter.set(Row::Waiting, gauge(self.rest.waiting_count()));
        self.meter
            .set(Row::Connections, gauge(CONNECTIONS_MAX.saturating_sub(self.room.available_permits())));
        self.meter.set_at(Row::Pumped, 0, gauge(polls));
        self.meter.set_at(Row::Pumped, 1, gauge(streams));
        let mut counters = self.pumps.counters();
        let limited = self.rest.rate_limited();
        counters.limited[Limited::Device as usize] += limited.device;
        counters.limited[Limited::Address as usize] += limited.address;
        self.pumps_meters.publish(counters, self.pumps_lanes.queued_bytes());
    }

    fn sleep(&self) -> Duration {
        let now = Time(Clock.now_ns());
        let due = self.rest.poll_timeout().into_iter().chain(self.pumps.poll_timeout()).min();
        due.map_or(SLEEP_MAX, |due| due.since(now).min(SLEEP_MAX))
    }
}
