//! HTTP on the control thread: every connection that is not a WebSocket is handed over to here, with the bytes already
//! read. hyper speaks HTTP/1.1; [`Rest`] decides; this file joins the two and the lanes.
//!
//! # Invariants
//! - At most [`CONNECTIONS_MAX`] connections, each with one request in progress; one more is told 503 and closed.
//! - Every connection ends: a head has `gateway.handshake_timeout_ms` to arrive, also the next one on a connection that
//!   is kept alive; a body [`BODY_MS_MAX`]; the whole [`CONNECTION_MS_MAX`] and [`LAST_REQUEST_MS_MAX`].

mod connection;
mod rewind;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use carillon_link::{Mailbox, Wake};
use carillon_node::clock::Clock;
use carillon_node::exit::Fatal;
use carillon_node::metric_table;
use carillon_node::metrics::{Def, Meter};
use carillon_protocol::time::{Time, WallMs};
use tokio::runtime::Handle;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};

use super::link::Lanes;
use super::{ARRIVALS_MAX, HandedOff, Needs};
use crate::rest::{self, Input, Output, Request, Response, Rest, Ticket};
use crate::settings::Settings;
use crate::turn;

pub use connection::{BODY_MS_MAX, CONNECTION_MS_MAX, LAST_REQUEST_MS_MAX};

/// Connections at once. Long-lived clients are on WebSockets, so these come and go.
pub const CONNECTIONS_MAX: usize = 1_024;

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
    }
}

/// What connections say to the machine.
enum Event {
    Request(Request, oneshot::Sender<Response>),
    TurnedAway,
    Drain,
}

/// Serves what comes out of `hand_offs` until that ends, which is the drain. Returns where lanes for it are put.
///
/// # Errors
/// None now; what may fail at start is kept a part of the signature.
pub fn serve(
    runtime: &Handle,
    settings: &Settings,
    needs: &Needs,
    hand_offs: mpsc::Receiver<HandedOff>,
    shard_number: u16,
) -> Result<Mailbox, Fatal> {
    let bell = Arc::new(Bell(Notify::new()));
    let (mailbox, arrivals) = Mailbox::new(ARRIVALS_MAX, Arc::clone(&bell) as Arc<dyn Wake>);
    let (events, taken) = mpsc::channel(CONNECTIONS_MAX);
    let seed = needs.seed.wrapping_add(u64::from(shard_number));
    let room = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let machine = Machine {
        rest: Rest::new(rest::Settings::of(settings, needs.is_development), Arc::clone(&needs.keys), seed),
        lanes: Lanes::new(arrivals, Arc::clone(&needs.uplinks), needs.epoch, shard_number),
        events: taken,
        answers: BTreeMap::new(),
        tickets_count: 0,
        bell,
        room: Arc::clone(&room),
        meter: needs.registry.meter(&[]),
    };
    let options = connection::Options {
        head_ms_max: settings.gateway.handshake_timeout_ms,
        body_bytes_max: settings.limits.frame_bytes,
    };
    runtime.spawn(machine.run());
    runtime.spawn(take_over(hand_offs, events, room, options));
    Ok(mailbox)
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
                let serving = connection::serve(handed_off, events.clone(), is_draining.clone(), options);
                tokio::spawn(async move {
                    serving.await;
                    drop(permit);
                });
            }
            Err(_) => {
                connection::turn_away(&handed_off);
                let _ = events.send(Event::TurnedAway).await;
            }
        }
    }
    // The machine outlives this task's end of the channel; without it there is nobody to tell.
    let _ = events.send(Event::Drain).await;
    let _ = drain.send(true);
}

/// [`Rest`], its lanes, and who waits for which response.
struct Machine {
    rest: Rest,
    lanes: Lanes,
    events: mpsc::Receiver<Event>,
    /// At most one a connection.
    answers: BTreeMap<Ticket, oneshot::Sender<Response>>,
    tickets_count: u64,
    bell: Arc<Bell>,
    room: Arc<Semaphore>,
    meter: Meter<Row>,
}

impl Machine {
    /// Turn after turn until all connections have ended.
    async fn run(mut self) {
        let bell = Arc::clone(&self.bell);
        let mut next = None;
        loop {
            let has_more = self.turn(next.take());
            if has_more {
                tokio::task::yield_now().await;
                continue;
            }
            let sleep = self.sleep();
            tokio::select! {
                () = bell.0.notified() => {}
                () = tokio::time::sleep(sleep) => {}
                event = self.events.recv() => match event {
                    Some(event) => next = Some(event),
                    None => return,
                },
            }
        }
    }

    /// One turn; `true`: there is more to do at once.
    fn turn(&mut self, first: Option<Event>) -> bool {
        let (now, wall) = (Time(Clock.now_ns()), WallMs(Clock.wall_ms()));
        let rest = &mut self.rest;
        let mut has_more = self.lanes.receive(|input| match input {
            turn::Input::LaneUp { router } => rest.handle(now, wall, Input::LaneUp { router }),
            turn::Input::LaneDown { router } => rest.handle(now, wall, Input::LaneDown { router }),
            turn::Input::LaneFrame { router, frame } => {
                rest.handle(now, wall, Input::LaneFrame { router, frame })
            }
            // Lanes say nothing else.
            _ => {}
        });
        let mut next = first;
        for taken_count in 0..=REQUESTS_PER_TURN_MAX {
            let Some(event) = next.take().or_else(|| self.events.try_recv().ok()) else { break };
            has_more |= taken_count == REQUESTS_PER_TURN_MAX;
            match event {
                Event::Request(request, answer) => {
                    self.tickets_count += 1;
                    let ticket = Ticket(self.tickets_count);
                    self.answers.insert(ticket, answer);
                    self.rest.handle(now, wall, Input::Request { ticket, request });
                }
                Event::TurnedAway => self.meter.add(Row::TurnedAway, 1),
                Event::Drain => self.rest.handle(now, wall, Input::Drain),
            }
        }
        self.rest.handle(now, wall, Input::Tick);
        self.carry_out();
        self.meter.set(Row::Waiting, i64::try_from(self.rest.waiting_count()).unwrap_or(i64::MAX));
        let connections_count = CONNECTIONS_MAX.saturating_sub(self.room.available_permits());
        self.meter.set(Row::Connections, i64::try_from(connections_count).unwrap_or(i64::MAX));
        has_more || self.lanes.has_broken()
    }

    fn carry_out(&mut self) {
        while let Some(output) = self.rest.poll_output() {
            match output {
                Output::Response { ticket, response } => {
                    let class = match response.status {
                        ..400 => 0,
                        400..500 => 1,
                        500.. => 2,
                    };
                    self.meter.add_at(Row::Requests, class, 1);
                    if let Some(answer) = self.answers.remove(&ticket) {
                        // The client may have gone; what it asked for is done all the same.
                        let _ = answer.send(response);
                    }
                }
                Output::Link { router, frame } => self.lanes.send(router, frame),
                Output::CloseLane { router } => self.lanes.close(router),
                // The connections end with their last response, and the machine with them.
                Output::Drained => {}
            }
        }
        self.lanes.flush();
    }

    fn sleep(&self) -> Duration {
        let now = Time(Clock.now_ns());
        self.rest.poll_timeout().map_or(SLEEP_MAX, |due| due.since(now).min(SLEEP_MAX))
    }
}
