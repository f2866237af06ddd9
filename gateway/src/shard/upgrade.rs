//! From the first bytes of a connection to a WebSocket, or to the HTTP server.

use carillon_node::tokens::Claims;
use carillon_protocol::client::{Hello, ServerFrame, Wire};
use carillon_protocol::handshake::{Progress, Request, Subprotocol, response_error};
use carillon_protocol::limits::CONTENT_BYTES_MAX;
use carillon_protocol::reason::{Close, Code, Refusal};
use carillon_protocol::websocket::{Decoder, Role};

use super::connection::{Connection, Handshake, Phase};
use crate::auth;
use crate::common::Common;
use crate::counters::Limited;
use crate::limits::wait_ms;
use crate::line::Line;
use crate::session::Session;
use crate::turn::Handed;

/// When those who were turned away may come again, in milliseconds: not all at once.
const TURNED_AWAY_MS: std::ops::Range<u64> = 1_000..5_000;

/// What bytes of a handshake came to.
pub(super) enum Upgrade {
    /// More has to come, or it is refused and closing.
    Pending,
    /// It is for the HTTP server, everything included.
    HandOff(Box<Handed>),
    /// It is a WebSocket now; these bytes behind the request are frames.
    Done(Vec<u8>),
}

impl Connection {
    /// Takes bytes while the connection is a handshake.
    pub(super) fn upgrade(&mut self, bytes: &[u8], common: &mut Common) -> Upgrade {
        let Phase::Handshake(handshake) = &mut self.phase else { return Upgrade::Pending };
        handshake.received.extend_from_slice(bytes);
        let Handshake { head, received, address, .. } = &mut **handshake;
        let address = *address;
        match head.parse(received) {
            Progress::Partial => Upgrade::Pending,
            Progress::Other => {
                common.counters.handed_off += 1;
                let received = std::mem::take(received);
                Upgrade::HandOff(Box::new(Handed { received, address, channel: None }))
            }
            Progress::Refused(rejection) => {
                let response = rejection.response(&common.request_id());
                refuse(response, &mut self.line, common);
                Upgrade::Pending
            }
            Progress::Complete(request, head_bytes) => {
                let proxies = &common.settings.gateway.trusted_proxies;
                let address = proxies.client(address, &request.forwarded);
                let admitted = if address.is_loopback() {
                    Ok(())
                } else {
                    common.address_rates.admit(common.now.0, address).map_err(|wait| {
                        common.counters.limited(Limited::Address);
                        Refusal::new(Code::RateLimited, "too many connections from this address")
                            .retry_after(wait_ms(wait))
                    })
                };
                match admitted.and_then(|()| check(&request, common)) {
                    Ok(claims) => {
                        let wire = match request.subprotocol {
                            Subprotocol::Json => Wire::Json,
                            Subprotocol::Rkyv => Wire::Rkyv,
                        };
                        let response = request.response();
                        let rest = received.get(head_bytes..).unwrap_or(&[]).to_vec();
                        common.counters.upgraded += 1;
                        self.line.answer(common, response.into());
                        self.begin(wire, claims, common);
                        Upgrade::Done(rest)
                    }
                    Err(refusal) => {
                        let status = refusal.code.row().http_status;
                        let request_id =
                            request.request_id.map_or_else(|| common.request_id(), str::to_owned);
                        let response = response_error(status, &refusal, &request_id, &[]);
                        refuse(response, &mut self.line, common);
                        Upgrade::Pending
                    }
                }
            }
        }
    }

    /// Too many have not said yet what they want. This one hears when to come back, and what it wants is not read.
    pub(super) fn turn_away(&mut self, common: &mut Common) {
        let wait_ms = common.prng.between(TURNED_AWAY_MS.start, TURNED_AWAY_MS.end);
        let refusal =
            Refusal::new(Code::Overloaded, "too many are connecting; try again").retry_after(wait_ms);
        let status = refusal.code.row().http_status;
        let response = response_error(status, &refusal, &common.request_id(), &[]);
        common.counters.turned_away += 1;
        answer_and_close(response, &mut self.line, common);
    }

    /// From here on frames are spoken.
    pub(super) fn begin(&mut self, wire: Wire, claims: Option<Claims>, common: &mut Common) {
        self.line.wire = wire;
        let limits = &common.settings.limits;
        let hello = Hello {
            server_time: common.wall,
            heartbeat_interval_ms: limits.heartbeat_interval_ms,
            frame_bytes: limits.frame_bytes as u64,
            content_bytes: CONTENT_BYTES_MAX as u64,
            inflight: limits.inflight as u64,
            send_per_s: limits.send_per_s,
            send_burst: limits.send_burst,
        };
        self.line.say(common, &ServerFrame::Hello(hello));
        self.phase = Phase::Open(Decoder::new(Role::Server), Session::new(claims, common.now));
    }
}

/// Origin first: a page that may not talk to us learns nothing about tokens.
fn check(request: &Request<'_>, common: &Common) -> Result<Option<Claims>, Refusal> {
    let origins = &common.settings.gateway.origins;
    if let Some(origin) = request.origin
        && !auth::is_origin_allowed(origin, origins, common.is_development)
    {
        return Err(Refusal::new(
            Code::Forbidden,
            "pages of this origin may not connect: see gateway.origins",
        ));
    }
    let token = request.bearer.map(|bearer| bearer.reveal());
    token.map(|token| auth::verify(&common.keys, token, common.wall)).transpose()
}

fn refuse(response: Vec<u8>, line: &mut Line, common: &mut Common) {
    common.counters.upgrades_refused += 1;
    answer_and_close(response, line, common);
}

fn answer_and_close(response: Vec<u8>, line: &mut Line, common: &mut Common) {
    line.answer(common, response.into());
    // Plain HTTP so far: no close frame is due.
    line.is_close_said = true;
    line.close(Close::GoingAway);
}
