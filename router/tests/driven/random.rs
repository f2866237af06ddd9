//! Seeded interleavings: commits, answers, failures, late commits, lost lanes, and members who come and go, in any order,
//! checked by what every listener hears. `CARILLON_SEED=n cargo test -p carillon-router --test driven random` repeats one.

use std::collections::{BTreeMap, VecDeque};

use carillon_node::prng::Prng;
use carillon_protocol::frame::{self, Change};
use carillon_protocol::ids::UserId;
use carillon_protocol::record::{Body, Event};
use carillon_protocol::time::WallMs;
use carillon_router::batch::Failure;
use carillon_router::meters::Metric;
use carillon_router::outbox::LaneId;
use carillon_router::shard::Input;
use carillon_store::error::ReadError;
use carillon_store::verb::{Answer, Op};

use crate::hand::{Hand, Heard, Model, ROOM};

/// Members all the time.
const USERS: [UserId; 3] = [UserId(1), UserId(2), UserId(3)];
/// Those who come and go.
const GUESTS: [UserId; 2] = [UserId(4), UserId(5)];

/// One session as a gateway sees it: registered, peeked, then contiguous.
#[derive(Default)]
struct Ear {
    session: u64,
    peek: Option<u64>,
    /// All up to here was delivered or lies below the head of the peek.
    upto: Option<u64>,
    /// Registered, and no member when that was read: the next thing to hear is being added.
    is_outside: bool,
    /// What the peek's answer said is on the lane already.
    fanned_out: u64,
}

struct Run {
    hand: Hand,
    prng: Prng,
    /// By lane; each lane is one gateway shard with one session of each user.
    ears: BTreeMap<LaneId, BTreeMap<UserId, Ear>>,
    /// Answers that a reader has read and not yet told.
    read: VecDeque<(carillon_router::outbox::Ticket, Answer)>,
    /// Operations of unknown outcome that may land later, and until when.
    late: VecDeque<(u64, Op)>,
    acked: BTreeMap<u64, u64>,
    lanes_count: u32,
    sent_count: u64,
}

impl Run {
    fn new(seed: u64) -> Run {
        let mut model = Model::with_room(&USERS);
        model.users.extend(GUESTS);
        let mut run = Run {
            hand: Hand::cold(model),
            prng: Prng::new(seed),
            ears: BTreeMap::new(),
            read: VecDeque::new(),
            late: VecDeque::new(),
            acked: BTreeMap::new(),
            lanes_count: 0,
            sent_count: 0,
        };
        run.connect();
        run.connect();
        run
    }

    fn connect(&mut self) {
        self.lanes_count += 1;
        let lane = self.hand.lane(self.lanes_count);
        let mut ears = BTreeMap::new();
        for user in USERS.into_iter().chain(GUESTS) {
            let session = user.0;
            self.hand.register_device(lane, session, user, &format!("d{}", lane.0), false);
            ears.insert(user, Ear { session, ..Ear::default() });
        }
        self.ears.insert(lane, ears);
    }

    fn step(&mut self) {
        match self.prng.below(16) {
            0..=2 => self.send(),
            3 => self.change(),
            4..=6 => self.commit(),
            7..=8 => {
                // A reader opens its snapshot now and tells later: answers overtake one another and commits.
                if let Some((ticket, query)) = self.hand.queries.pop_front() {
                    self.read.push_back((ticket, self.hand.store.answer(&query)));
                }
            }
            9..=10 => {
                let index = self.prng.index(self.read.len());
                if let Some((ticket, answer)) = self.read.remove(index) {
                    let answer = if self.prng.chance(1, 12) {
                        Err(ReadError::Again("busy".into()))
                    } else {
                        Ok(answer)
                    };
                    self.hand.input(Input::Answered { ticket, answer });
                }
            }
            11 => {
                let millis = self.prng.between(1, 700);
                self.hand.pass_ms(millis);
                self.land();
            }
            12 if self.prng.chance(1, 8) => {
                let lanes: Vec<LaneId> = self.ears.keys().copied().collect();
                let lane = lanes[self.prng.index(lanes.len())];
                self.ears.remove(&lane);
                self.hand.input(Input::LaneDown { lane });
                self.connect();
            }
            _ => self.hand.turn(),
        }
        self.listen();
    }

    fn send(&mut self) {
        let lane = *self.ears.keys().next().expect("a lane");
        let user = USERS[self.prng.index(USERS.len())];
        self.sent_count += 1;
        self.hand.send_as(lane, user.0, self.sent_count, user, &format!("m{}", self.sent_count), "text");
    }

    fn change(&mut self) {
        let lane = *self.ears.keys().next().expect("a lane");
        let by = USERS[self.prng.index(USERS.len())];
        let guest = GUESTS[self.prng.index(GUESTS.len())];
        let change = match self.prng.chance(1, 2) {
            true => Change::AddMembers { users: vec![guest] },
            false => Change::RemoveMember { user: guest },
        };
        self.hand.change(lane, by.0, by, change);
    }

    fn commit(&mut self) {
        let Some((commit_lane, ops)) = self.hand.commits.pop_front() else { return };
        let results = match self.prng.below(10) {
            // Unknown, and landed all the same.
            0 => {
                ops.iter().for_each(|op| drop(self.hand.store.apply(op)));
                ops.iter().map(|_| Err(Failure::Unknown)).collect()
            }
            // Unknown, and lands later, within the five seconds of a transaction.
            1 => {
                let until = self.hand.now.after_ms(5_000).0;
                let appends = |op: &&Op| matches!(op, Op::Send(_) | Op::Change(_));
                self.late.extend(ops.iter().filter(appends).map(|op| (until, op.clone())));
                ops.iter().map(|_| Err(Failure::Unknown)).collect()
            }
            2 => ops.iter().map(|_| Err(Failure::Full)).collect(),
            _ => ops.iter().map(|op| Ok(self.hand.store.apply(op))).collect(),
        };
        self.hand.input(Input::Committed { commit_lane, at: WallMs(1), results });
    }

    /// Some late commits land; those that had their time do.
    fn land(&mut self) {
        while let Some((until, _)) = self.late.front() {
            if *until > self.hand.now.0 && !self.prng.chance(1, 4) {
                break;
            }
            let (_, op) = self.late.pop_front().expect("just looked at");
            self.hand.store.apply(&op);
        }
    }

    fn listen(&mut self) {
        let lanes: Vec<LaneId> = self.ears.keys().copied().collect();
        for lane in lanes {
            for heard in self.hand.hear(lane) {
                self.hear(lane, heard);
            }
        }
    }

    fn hear(&mut self, lane: LaneId, heard: Heard) {
        let ears = self.ears.get_mut(&lane).expect("a live lane");
        match heard {
            Heard::Registered(registered) => {
                for (user, ear) in ears.iter_mut().filter(|(_, ear)| ear.session == registered.session) {
                    let is_listed = registered.conversations.iter().any(|joined| joined.conversation == ROOM);
                    assert!(is_listed || GUESTS.contains(user), "{user} is a member");
                    if is_listed {
                        ear.peek = Some(self.hand.peek(lane, ear.session, *user));
                    } else {
                        ear.is_outside = true;
                    }
                }
            }
            Heard::Peeked(peeked) => {
                let standing = peeked.standings[0];
                assert!(standing.fanned_out_seq <= standing.head_seq, "G6: {standing:?}");
                for ear in ears.values_mut().filter(|ear| ear.peek == Some(peeked.request)) {
                    (ear.upto, ear.fanned_out) = (Some(standing.head_seq), standing.fanned_out_seq);
                }
            }
            Heard::Deliver(deliver) => self.delivered(lane, &deliver),
            Heard::Accepted(accepted) if !accepted.duplicate && !accepted.unchanged => {
                assert_eq!(self.acked.insert(accepted.seq, accepted.request), None, "G3: a seq twice");
            }
            // The store was busy: a gateway asks again.
            Heard::Refused(refused) => {
                let mut again = Vec::new();
                for (user, ear) in ears.iter().filter(|(_, ear)| ear.session == refused.session) {
                    // Requests of the session itself; its submits are numbered with the others'.
                    let is_waiting = ear.upto.is_none() && !ear.is_outside;
                    if is_waiting
                        && ear.peek.is_none_or(|peek| peek == refused.request)
                        && refused.request > 1_000
                    {
                        again.push((*user, ear.session, ear.peek.is_some()));
                    }
                }
                for (user, session, is_registered) in again {
                    if is_registered {
                        let peek = self.hand.peek(lane, session, user);
                        self.ears.get_mut(&lane).unwrap().get_mut(&user).unwrap().peek = Some(peek);
                    } else {
                        self.hand.register_device(lane, session, user, &format!("d{}", lane.0), false);
                    }
                }
            }
            _ => {}
        }
    }

    fn delivered(&mut self, lane: LaneId, deliver: &frame::Deliver) {
        let (record, _) = &self.hand.store.conversations[&ROOM].events[deliver.seq as usize - 1];
        assert_eq!(&deliver.record[..], &record[..], "G4");
        assert!(deliver.head_seq >= deliver.seq);
        if let Some(request) = self.acked.get(&deliver.seq).filter(|_| deliver.origin_session != 0) {
            assert_eq!(deliver.origin_request, *request, "the origin is the submit that made the event");
        }
        let body = Event::decode(&deliver.record).map(|event| event.body);
        for user in &deliver.users {
            let heard = self.memberships(*user);
            assert!(
                heard.iter().any(|(from, to)| *from <= deliver.seq && deliver.seq <= *to),
                "G11: {user} hears {}, but was a member in {heard:?}",
                deliver.seq
            );
            let ear = self
                .ears
                .get_mut(&lane)
                .expect("a live lane")
                .get_mut(user)
                .expect("only users of this lane");
            if matches!(&body, Some(Body::MembersAdded { users, .. }) if users.contains(user)) {
                // What lies before it is skipped by a reset.
                if ear.is_outside || ear.upto.is_some_and(|upto| upto < deliver.seq) {
                    assert!(
                        deliver.seq > ear.fanned_out,
                        "G6: {} was claimed to be on the lane",
                        deliver.seq
                    );
                    (ear.upto, ear.is_outside) = (Some(deliver.seq), false);
                    ear.fanned_out = deliver.seq;
                    continue;
                }
            }
            assert!(!ear.is_outside, "G6: {user} hears {} before being added", deliver.seq);
            let Some(upto) = ear.upto else { continue };
            assert!(deliver.seq > ear.fanned_out, "G6: {} was claimed to be on the lane", deliver.seq);
            assert!(deliver.seq <= upto + 1, "G6: {} after {upto} leaves a hole", deliver.seq);
            ear.fanned_out = deliver.seq;
            ear.upto = Some(upto.max(deliver.seq));
        }
    }

    /// From where to where a user was a member, as the log tells.
    fn memberships(&self, user: UserId) -> Vec<(u64, u64)> {
        let mut heard = Vec::new();
        if USERS.contains(&user) {
            heard.push((0, u64::MAX));
        }
        for (seq, (record, _)) in (1..).zip(&self.hand.store.conversations[&ROOM].events) {
            match Event::decode(record).map(|event| event.body) {
                Some(Body::MembersAdded { users, .. }) if users.contains(&user) => {
                    heard.push((seq, u64::MAX))
                }
                Some(Body::MemberRemoved { user: gone, .. }) if gone == user => {
                    heard.last_mut().expect("a member is removed").1 = seq;
                }
                _ => {}
            }
        }
        heard
    }

    /// Faults stop; everybody has to have everything soon (G7).
    fn end(&mut self) {
        for _ in 0..60 {
            self.hand.pass_ms(500);
            self.late.drain(..).for_each(|(_, op)| drop(self.hand.store.apply(&op)));
            while let Some((ticket, answer)) = self.read.pop_front() {
                self.hand.input(Input::Answered { ticket, answer: Ok(answer) });
                self.listen();
            }
            self.hand.settle();
            self.listen();
        }
        let head = self.hand.store.conversations[&ROOM].head();
        for (lane, ears) in &self.ears {
            for (user, ear) in ears {
                let last = self.memberships(*user).last().map(|(_, to)| head.min(*to));
                assert_eq!(ear.upto, last, "G7: {user} on {lane:?}");
            }
        }
        assert_eq!(self.hand.store.conversations[&ROOM].marker, None, "everything is handed on and marked");
        assert_eq!(self.hand.gauge(Metric::Due), 0);
    }
}

/// G1, G3, G4, G6, G7, G11, F4, F5, F6, F13, FR5: also while members are added and removed; what anybody hears beyond their
/// memberships is none.
#[test]
#[expect(clippy::disallowed_methods, reason = "a failing seed is repeated by hand")]
fn random_interleavings_leave_no_hole_and_no_repeat() {
    let one = std::env::var("CARILLON_SEED").ok().and_then(|seed| seed.parse::<u64>().ok());
    let seeds = one.map_or(0..400, |seed| seed..seed + 1);
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut run = Run::new(seed);
            for _ in 0..400 {
                run.step();
            }
            run.end();
        });
        assert!(
            outcome.is_ok(),
            "repeat with: CARILLON_SEED={seed} cargo test -p carillon-router --test driven random"
        );
    }
}
