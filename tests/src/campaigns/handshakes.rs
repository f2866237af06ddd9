//! Malformed and unusual handshakes and frames, at the live process, on each driver: a [`list`] of what is said and what has
//! to be heard, each case whole, byte by byte and cut at random. Beside them a client is served all the while and notices
//! nothing.

pub mod list;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{Shutdown, SocketAddr, TcpStream};

use carillon_node::prng::Prng;
use serde_json::Value;
use tungstenite::handshake::derive_accept_key;

use super::{DRIVERS, Run, Skipped, Tally, refusal};
use crate::client::{Client, Wire};
use crate::raw::{Frame, parse};
use crate::server::{Deployment, PATIENCE, Server};
use crate::stage;
use list::Case;

/// No case is judged by its pace, and none is ended by a deadline.
pub const SETTINGS: [&str; 3] =
    ["gateway.handshake_timeout_ms=600000", "limits.identify_timeout_ms=600000", "limits.connection_per_s=0"];
/// Who says too little is ended soon.
const HASTY: [&str; 3] =
    ["gateway.handshake_timeout_ms=300", "limits.identify_timeout_ms=300", "limits.connection_per_s=0"];
/// Fewer different cases are no list.
const CASES_MIN: u64 = 200;
/// The client that notices nothing, and the device of the tokens in the list.
const NEIGHBOUR: u64 = 1;

/// How the bytes of a case come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// In one piece: what follows the request is there when the request is read.
    Whole,
    /// What follows the request comes when that was answered.
    Patient,
    /// A byte a packet.
    Bytes,
    /// In pieces of any length, by this seed.
    Random(u64),
}

/// More bytes than these are cut into so many pieces, rather than into bytes.
const PIECES_MAX: usize = 12_000;
/// The longest piece of a random cut.
const PIECE_BYTES_MAX: u64 = 4_096;

/// Plays it.
///
/// # Errors
/// There is no server here.
///
/// # Panics
/// When a server does not start.
pub(super) fn play(run: &mut Run) -> Result<Tally, Skipped> {
    let binary = run.binary()?;
    let mut tally = Tally::default();
    let mut prng = Prng::new(run.seed);
    let mut cuts = run.pick(vec![Cut::Whole], vec![Cut::Whole, Cut::Patient, Cut::Bytes]);
    cuts.extend((0..run.pick(1, 40)).map(|_| Cut::Random(prng.below(u64::MAX))));
    for driver in DRIVERS {
        let (cases_count, connections_count) = match refusal(driver) {
            None => on_driver(run, &binary, driver, &cuts, &mut tally),
            Some(why) => {
                // Too few cases then, which says it as it is.
                tally.note(format!("{driver}: {why}"));
                (0, 0)
            }
        };
        tally.count_at_least(&format!("different cases on {driver}"), cases_count, CASES_MIN);
        let connections_min = CASES_MIN * cuts.len() as u64;
        tally.count_at_least(&format!("connections on {driver}"), connections_count, connections_min);
    }
    Ok(tally)
}

/// How many cases there are, and how many connections that were.
fn on_driver(run: &mut Run, binary: &str, driver: &str, cuts: &[Cut], tally: &mut Tally) -> (u64, u64) {
    let io = format!("io.driver={driver}");
    let start = |settings: &[&str]| {
        Server::start(binary, Deployment::OneProcess, &[settings, &[io.as_str()]].concat())
    };
    let mut server = start(&SETTINGS);
    stage::introduce(&server, NEIGHBOUR);
    let mut near = Client::login(&server, Wire::Json, NEIGHBOUR, "neighbour");
    near.until_type("caught_up");
    let cases = list::all(&server.token(NEIGHBOUR, "raw"));
    let wanted_count = cases.len() * cuts.len();
    let mut played_count = 0;
    for cut in cuts {
        for case in &cases {
            if let Err(words) = check(server.address(), case, *cut) {
                tally.broken(format!("{driver}: {words}"));
            }
            if !near.is_quiet() {
                tally.broken(format!("{driver}, {:?}: a neighbour noticed", case.name));
            }
            played_count += 1;
            run.progress(|| format!("{driver}: {played_count} of {wanted_count} connections"));
        }
    }
    if server.gateway.as_mut().is_none_or(|process| process.ended().is_some()) {
        tally.broken(format!("{driver}: the server has ended"));
    }
    drop((near, server));

    let server = start(&HASTY);
    let silent = list::silent();
    for case in &silent {
        if let Err(words) = check(server.address(), case, Cut::Whole) {
            tally.broken(format!("{driver}: {words}"));
        }
    }
    ((cases.len() + silent.len()) as u64, played_count + silent.len() as u64)
}

/// Plays a case.
///
/// # Errors
/// What was heard instead.
pub fn check(address: SocketAddr, case: &Case, cut: Cut) -> Result<(), String> {
    let heard = Line::connect(address).and_then(|line| line.play(case, cut)).unwrap_or_else(|odd| odd);
    if heard == case.expected {
        return Ok(());
    }
    let short = |words: &str| words.chars().take(300).collect::<String>();
    Err(format!("{:?}, {cut:?}: heard {:?} instead of {:?}", case.name, short(&heard), short(&case.expected)))
}

/// A connection, and what came on it so far.
struct Line {
    stream: TcpStream,
    received: Vec<u8>,
}

/// A word in the place of what should have been heard.
type Odd = String;

impl Line {
    fn connect(address: SocketAddr) -> Result<Line, Odd> {
        let odd = |error: std::io::Error| format!("no connection: {error}");
        let stream = TcpStream::connect_timeout(&address, PATIENCE).map_err(odd)?;
        stream.set_read_timeout(Some(PATIENCE)).map_err(odd)?;
        stream.set_write_timeout(Some(PATIENCE)).map_err(odd)?;
        stream.set_nodelay(true).map_err(odd)?;
        Ok(Line { stream, received: Vec::new() })
    }

    fn play(mut self, case: &Case, cut: Cut) -> Result<String, Odd> {
        let whole = || [&case.head[..], &case.frames].concat();
        match cut {
            Cut::Whole => self.say([&whole()[..]]),
            Cut::Patient => {
                self.say([&case.head[..]]);
                if !case.frames.is_empty() {
                    while !self.has_head() && self.fill()? {}
                    self.say([&case.frames[..]]);
                }
            }
            Cut::Bytes => {
                let bytes = whole();
                self.say(bytes.chunks(bytes.len().div_ceil(PIECES_MAX).max(1)));
            }
            Cut::Random(seed) => {
                let (bytes, mut prng) = (whole(), Prng::new(seed));
                let mut rest = &bytes[..];
                while !rest.is_empty() {
                    let longest = prng.between(1, PIECE_BYTES_MAX);
                    let piece_bytes = usize::try_from(prng.between(1, longest)).unwrap_or(1).min(rest.len());
                    let (piece, after) = rest.split_at(piece_bytes);
                    self.say([piece]);
                    rest = after;
                }
            }
        }
        if case.ends {
            // Whoever is gone already needs not to be told.
            let _ = self.stream.shutdown(Shutdown::Write);
        }
        self.hear(case)
    }

    /// Says it as far as somebody listens: what the server says is what counts.
    fn say<'p>(&mut self, pieces: impl IntoIterator<Item = &'p [u8]>) {
        for piece in pieces {
            if self.stream.write_all(piece).is_err() {
                return;
            }
        }
    }

    /// Everything that the server says, to its end, in words: the status of its answer with the code in it, or with the
    /// subprotocol that it chose; then each frame.
    fn hear(&mut self, case: &Case) -> Result<String, Odd> {
        while !self.has_head() {
            if !self.fill()? {
                let begun = String::from_utf8_lossy(&self.received).into_owned();
                return if begun.is_empty() { Ok(begun) } else { Err(format!("half an answer: {begun:?}")) };
            }
        }
        let head_bytes = self.head_bytes().unwrap_or(0);
        let head: Vec<u8> = self.received.drain(..head_bytes).collect();
        let head = Head::read(&head).ok_or("an answer that is no HTTP")?;
        if head.status != 101 {
            return self.refused(&head);
        }
        let mut heard = upgraded(&head, case)?;
        let mut frames_count = 0;
        // What is wrong already needs no end: there may be none.
        while case.expected.starts_with(&heard) {
            if let Some((frame, used)) = parse(&self.received) {
                self.received.drain(..used);
                heard = heard + ", " + &in_words(&frame, frames_count == 0);
                frames_count += 1;
            } else if !self.fill()? {
                break;
            }
        }
        if !self.received.is_empty() {
            heard += &format!(", {} bytes", self.received.len());
        }
        Ok(heard)
    }

    /// An answer that does not upgrade: the status and the code of its body, which has the one shape of all errors.
    fn refused(&mut self, head: &Head) -> Result<String, Odd> {
        let length = head.value("content-length").and_then(|value| value.parse::<usize>().ok());
        let length = length.ok_or("an answer without a length")?;
        while self.received.len() < length {
            if !self.fill()? {
                return Err("half a body".to_owned());
            }
        }
        // What the HTTP server answers may leave the connection open for more.
        if head.value("connection").is_some_and(|value| value.eq_ignore_ascii_case("close")) {
            while self.fill()? {}
            if self.received.len() > length {
                return Err("more than an answer".to_owned());
            }
        }
        let status = head.status;
        if status == 426 && head.value("sec-websocket-version") != Some("13") {
            return Err("426 without the version to use".to_owned());
        }
        if length == 0 {
            return Ok(status.to_string());
        }
        let body: Value = serde_json::from_slice(self.received.get(..length).unwrap_or(&[]))
            .map_err(|error| format!("{status} and no JSON: {error}"))?;
        let error = &body["error"];
        let is_said = |name: &str| error[name].as_str().is_some_and(|text| !text.is_empty());
        if !is_said("message") || !is_said("request_id") || !error["retryable"].is_boolean() {
            return Err(format!("{status} of another shape: {body}"));
        }
        Ok(format!("{status} {}", error["code"].as_str().unwrap_or_default()))
    }

    fn has_head(&self) -> bool {
        self.head_bytes().is_some()
    }

    fn head_bytes(&self) -> Option<usize> {
        self.received.windows(4).position(|bytes| bytes == b"\r\n\r\n").map(|at| at + 4)
    }

    /// More of what the server says; `false`: its end.
    fn fill(&mut self) -> Result<bool, Odd> {
        let mut buffer = [0; 16_384];
        match self.stream.read(&mut buffer) {
            Ok(0) => Ok(false),
            Ok(count) => {
                self.received.extend_from_slice(&buffer[..count]);
                Ok(true)
            }
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                Err(format!("nothing for {} s, behind {} bytes", PATIENCE.as_secs(), self.received.len()))
            }
            Err(_) => Ok(false),
        }
    }
}

/// The head of an answer.
struct Head {
    status: u16,
    lines: Vec<(String, String)>,
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Head> {
        let text = std::str::from_utf8(bytes).ok()?;
        let (first, lines) = text.split_once("\r\n")?;
        let status = first.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
        let lines = lines.lines().filter_map(|line| line.split_once(':'));
        let lines = lines.map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()));
        Some(Head { status, lines: lines.collect() })
    }

    fn value(&self, wanted: &str) -> Option<&str> {
        self.lines.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str())
    }
}

/// RFC 6455 section 4.2.2: what an answer that upgrades has to say, and what it must not.
fn upgraded(head: &Head, case: &Case) -> Result<String, Odd> {
    let is = |name: &str, value: &str| head.value(name).is_some_and(|said| said.eq_ignore_ascii_case(value));
    let request = String::from_utf8_lossy(&case.head).into_owned();
    let mut lines = request.lines().filter_map(|line| line.split_once(':'));
    let key = lines.find(|(name, _)| name.eq_ignore_ascii_case("sec-websocket-key"));
    let accept = key.map(|(_, key)| derive_accept_key(key.trim().as_bytes()));
    if !is("upgrade", "websocket") || !is("connection", "upgrade") {
        return Err("101 without an upgrade".to_owned());
    }
    if head.value("sec-websocket-accept") != accept.as_deref() {
        return Err("101 with the answer to another key".to_owned());
    }
    if head.value("sec-websocket-extensions").is_some() {
        return Err("101 with an extension".to_owned());
    }
    Ok(match head.value("sec-websocket-protocol") {
        Some(protocol) => format!("101 {protocol}"),
        None => "101".to_owned(),
    })
}

/// A frame of the server.
fn in_words(frame: &Frame, is_first: bool) -> String {
    let Frame { first, payload } = frame;
    match first {
        0x81 => match serde_json::from_slice::<Value>(payload) {
            Ok(text) => match text["type"].as_str() {
                Some("error") => format!("error {}", text["error"]["code"].as_str().unwrap_or_default()),
                kind => kind.unwrap_or("text without a type").to_owned(),
            },
            Err(_) => "text that is no JSON".to_owned(),
        },
        // What is in it is another suite's matter.
        0x82 => if is_first { "hello" } else { "binary" }.to_owned(),
        0x88 => match payload[..] {
            [] => "close".to_owned(),
            [high, low, ..] => format!("close {}", u16::from_be_bytes([high, low])),
            [_] => "close of one byte".to_owned(),
        },
        0x8a if payload.len() <= 16 => format!("pong \"{}\"", payload.escape_ascii()),
        0x8a => format!("pong {} bytes", payload.len()),
        other => format!("frame {other:x}"),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// A list of two hundred is one of two hundred different things.
    #[test]
    fn cases_are_different() {
        let cases = [list::all("head.payload.signature"), list::silent()].concat();
        let names: BTreeSet<&str> = cases.iter().map(|case| case.name.as_str()).collect();
        let said: BTreeSet<_> = cases.iter().map(|case| (&case.head, &case.frames, case.ends)).collect();
        assert_eq!((names.len(), said.len()), (cases.len(), cases.len()));
        assert!(cases.len() as u64 >= CASES_MIN, "{}", cases.len());
    }
}
