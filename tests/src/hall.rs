//! A hall: two gateway shards, a router and the memory store joined by hand in one thread, full of clients that say JSON
//! and check every frame. Nothing but the order in which things happen is left to chance, and that comes from a seed.
//!
//! Who is a member from when to when the hall knows from the answers to its own changes; at the end every client's list is
//! held against that ([`Hall::judge`]).
//!
//! # Invariants
//! - A client takes an event only when it is the next one, or right behind a `reset`; its own come as acks (G6).
//! - Frames keep their order on a lane; how many of them a turn takes, and when the store answers, is chance.

mod house;
mod seat;

use std::collections::BTreeMap;
use std::rc::Rc;

use carillon_node::prng::Prng;
use carillon_protocol::frame::{Change, Command};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::record::{ConversationType, History};
use serde_json::{Value, json};

use house::House;
use seat::Seat;

/// Gateway shards; users sit by turns.
pub const GATEWAYS: usize = 2;
/// The most members named in one request.
const NAMED_MAX: usize = 1_000;
/// Turns until everything rests; more would be machines that run in circles.
const TURNS_MAX: usize = 100_000;

/// What a client was told, read once for all who were told the same.
pub(crate) struct Said {
    frame: Value,
    events: Vec<(String, u64)>,
}

/// See the module.
pub struct Hall {
    prng: Prng,
    house: House,
    /// The user of seat n is n + 1; the first is the owner, the last two have a conversation of their own.
    seats: Vec<Seat>,
    seat_of: BTreeMap<(usize, u32), usize>,
    /// The large conversation.
    crowd: String,
    crowd_id: ConversationId,
    /// The bystanders'.
    pair: String,
    members_count: usize,
    sees_all: bool,
    /// (from, to) of each membership, by user.
    stays: BTreeMap<u64, Vec<(u64, Option<u64>)>>,
    /// (message id, sender's seat), until it is deleted.
    messages: Vec<(String, usize)>,
    /// How many clients of each gateway took each event.
    served: BTreeMap<u64, [u64; GATEWAYS]>,
    /// Events of the crowd that clients took.
    served_count: u64,
    head: u64,
    names: u64,
    known: BTreeMap<Vec<u8>, Rc<Said>>,
    /// What is wrong.
    pub violations: Vec<String>,
}

impl Hall {
    /// A group of `members_count`, all of them there, and two more users with a conversation of their own.
    #[must_use]
    pub fn new(seed: u64, members_count: usize) -> Hall {
        let mut prng = Prng::new(seed);
        let house = House::new(prng.next_u64());
        let sees_all = prng.chance(1, 3);
        let mut hall = Hall {
            prng,
            house,
            seats: Vec::new(),
            seat_of: BTreeMap::new(),
            crowd: String::new(),
            crowd_id: ConversationId(0),
            pair: String::new(),
            members_count,
            sees_all,
            stays: BTreeMap::new(),
            messages: Vec::new(),
            served: BTreeMap::new(),
            served_count: 0,
            head: 1,
            names: 0,
            known: BTreeMap::new(),
            violations: Vec::new(),
        };
        for seat in 0..members_count + 2 {
            hall.seats.push(Seat::new(seat as u64 + 1, seat % GATEWAYS));
            hall.open(seat);
        }
        hall.settle();
        hall.found();
        hall
    }

    /// Creates both conversations.
    fn found(&mut self) {
        let bystander = self.members_count as u64 + 1;
        let pair = Command::Create {
            conversation_type: ConversationType::OneToOne as u8,
            history: History::FromJoin as u8,
            group_name: None,
            members: vec![UserId(bystander + 1)],
        };
        self.pair = self.change(bystander, pair).map(|(id, _)| id.0.to_string()).unwrap_or_default();
        let others: Vec<UserId> = (2..=self.members_count as u64).map(UserId).collect();
        let (named, added) = others.split_at(others.len().min(NAMED_MAX - 1));
        let crowd = Command::Create {
            conversation_type: ConversationType::Group as u8,
            history: if self.sees_all { History::All } else { History::FromJoin } as u8,
            group_name: Some("the crowd".to_owned()),
            members: named.to_vec(),
        };
        let Some((id, _)) = self.change(1, crowd) else { return };
        (self.crowd_id, self.crowd) = (id, id.0.to_string());
        for user in std::iter::once(&UserId(1)).chain(named) {
            self.stays.insert(user.0, vec![(1, None)]);
        }
        for users in added.chunks(NAMED_MAX) {
            self.add(users);
        }
    }

    /// Asks for a change by REST's lane and waits for the answer: the conversation and the event's seq.
    fn change(&mut self, user: u64, command: Command) -> Option<(ConversationId, u64)> {
        self.house.submit(UserId(user), command);
        for _ in 0..TURNS_MAX {
            self.turn();
            match self.house.answer.take() {
                Some(Ok(answer)) => return Some(answer),
                Some(Err(refusal)) => {
                    self.violations.push(format!("a change of {user} is refused: {refusal}"));
                    return None;
                }
                None => {}
            }
        }
        self.violations.push("a change is not answered".to_owned());
        None
    }

    fn add(&mut self, users: &[UserId]) {
        let change = Change::AddMembers { users: users.to_vec() };
        let command = Command::Change { conversation: self.crowd_id, change };
        let Some((_, seq)) = self.change(1, command) else { return };
        self.head = self.head.max(seq);
        for user in users {
            let stays = self.stays.entry(user.0).or_default();
            let first = if self.sees_all && stays.is_empty() { 1 } else { seq };
            stays.push((first, None));
        }
    }

    fn remove(&mut self, user: u64) {
        let change = Change::RemoveMember { user: UserId(user) };
        let Some((_, seq)) = self.change(1, Command::Change { conversation: self.crowd_id, change }) else {
            return;
        };
        self.head = self.head.max(seq);
        if let Some((_, to)) = self.stays.get_mut(&user).and_then(|stays| stays.last_mut()) {
            *to = Some(seq);
        }
    }

    fn is_member(&self, seat: usize) -> bool {
        let stays = self.stays.get(&self.seats[seat].user);
        stays.and_then(|stays| stays.last()).is_some_and(|(_, to)| to.is_none())
    }

    /// One thing that somebody does, and some turns.
    pub fn step(&mut self) {
        let seat = self.prng.index(self.members_count);
        let user = self.seats[seat].user;
        match self.prng.below(20) {
            0..9 if self.is_member(seat) => self.say(seat),
            9..12 => self.react(seat),
            12 => self.delete(),
            13 | 14 if user != 1 && self.is_member(seat) => self.remove(user),
            13..16 if user != 1 && !self.is_member(seat) => self.add(&[UserId(user)]),
            16 => self.read(seat),
            17 => {
                self.seats[seat].is_stalled = !self.seats[seat].is_stalled;
                self.take_pending(seat);
            }
            18 if !self.seats[seat].is_stalled => self.reopen(seat),
            _ => {}
        }
        for _ in 0..self.prng.below(4) {
            self.turn();
        }
    }

    /// A member says something to the crowd.
    fn say(&mut self, seat: usize) {
        let conversation = self.crowd.clone();
        self.send_message(seat, &conversation);
    }

    fn send_message(&mut self, seat: usize, conversation: &str) {
        self.names += 1;
        let name = format!("m{}", self.names);
        let frame = json!({"type": "send_message", "conversation_id": conversation, "content": name,
            "client_msg_id": name});
        self.tell(seat, &frame);
    }

    fn react(&mut self, seat: usize) {
        if self.messages.is_empty() || !self.is_member(seat) {
            return;
        }
        let (message, _) = self.messages[self.prng.index(self.messages.len())].clone();
        // Nobody twice: what changes nothing is no event, and is tested elsewhere.
        if self.seats[seat].reacted.insert(message.clone()) {
            let frame = json!({"type": "react", "conversation_id": self.crowd, "message_id": message, "emoji": "👍",
                "id": "change"});
            self.tell(seat, &frame);
        }
    }

    fn delete(&mut self) {
        if self.messages.is_empty() {
            return;
        }
        let at = self.prng.index(self.messages.len());
        let (message, seat) = self.messages[at].clone();
        if self.is_member(seat) && !self.seats[seat].is_stalled {
            self.messages.swap_remove(at);
            let frame = json!({"type": "delete_message", "conversation_id": self.crowd, "message_id": message,
                "id": "change"});
            self.tell(seat, &frame);
        }
    }

    fn read(&mut self, seat: usize) {
        let seq = self.seats[seat].cursor;
        if seq > 0 && self.is_member(seat) {
            let frame = json!({"type": "read", "conversation_id": self.crowd, "seq": seq});
            self.tell(seat, &frame);
        }
    }

    /// Loses the connection and comes back with the cursor.
    fn reopen(&mut self, seat: usize) {
        let (gateway, connection) = (self.seats[seat].gateway, self.seats[seat].connection);
        self.seat_of.remove(&(gateway, connection.slot));
        self.house.close(gateway, connection);
        for _ in 0..self.prng.below(3) {
            self.turn();
        }
        self.seats[seat].is_lossy = true;
        self.open(seat);
    }

    fn open(&mut self, seat: usize) {
        let at = &mut self.seats[seat];
        let connection = self.house.open(at.gateway, at.user);
        self.seat_of.insert((at.gateway, connection.slot), seat);
        at.begin(connection);
        let cursors = if at.cursor > 0 { json!({ self.crowd.as_str(): at.cursor }) } else { json!({}) };
        let identify = json!({"type": "identify", "cursors": cursors});
        self.tell(seat, &identify);
    }

    fn tell(&mut self, seat: usize, frame: &Value) {
        let at = &self.seats[seat];
        if !at.is_stalled && self.house.takes_frames(at.gateway, at.connection) {
            self.house.tell(at.gateway, at.connection, &frame.to_string());
        }
    }

    /// One turn of everybody. `false`: nothing happened, and nothing is under way.
    fn turn(&mut self) -> bool {
        let mut is_busy = self.house.router_turn(&mut self.prng);
        for gateway in 0..GATEWAYS {
            is_busy |= self.house.gateway_turn(gateway, &mut self.prng);
            while let Some(connection) = self.house.next_flush(gateway) {
                is_busy = true;
                if let Some(seat) = self.seat_of.get(&(gateway, connection.slot)).copied()
                    && self.seats[seat].connection == connection
                {
                    self.take_pending(seat);
                }
            }
        }
        is_busy
    }

    /// Turns until nothing moves any more.
    pub fn settle(&mut self) {
        let mut quiet = 0;
        for _ in 0..TURNS_MAX {
            quiet = if self.turn() { 0 } else { quiet + 1 };
            if quiet > 2 {
                return;
            }
        }
        self.violations.push("the machines run in circles".to_owned());
    }

    /// A client reads what waits for it.
    fn take_pending(&mut self, seat: usize) {
        let at = &self.seats[seat];
        if at.is_stalled {
            return;
        }
        let (gateway, connection) = (at.gateway, at.connection);
        let mut texts = Vec::new();
        self.house.take(gateway, connection, &mut texts);
        for text in texts {
            self.hear(seat, &text);
        }
    }

    fn hear(&mut self, seat: usize, text: &[u8]) {
        const KNOWN_MAX: usize = 4_096;
        let said = if let Some(said) = self.known.get(text) {
            Rc::clone(said)
        } else {
            let frame: Value = serde_json::from_slice(text).expect("JSON");
            let events = crate::client::Event::all(&frame);
            let events = events.into_iter().map(|event| (event.conversation, event.seq)).collect();
            if self.known.len() >= KNOWN_MAX {
                self.known.clear();
            }
            let said = Rc::new(Said { frame, events });
            self.known.insert(text.to_vec(), Rc::clone(&said));
            said
        };
        if self.crowd.is_empty() && said.frame["type"] == "conversation_created" && seat < self.members_count
        {
            // Heard before whoever asked for it is answered.
            said.frame["conversation_id"].as_str().unwrap_or_default().clone_into(&mut self.crowd);
        }
        let at = &mut self.seats[seat];
        let gateway = at.gateway;
        let heard_before = at.heard.len();
        let reaction = at.hear(&said, &self.crowd, &mut self.violations);
        for seq in &at.heard[heard_before..] {
            self.head = self.head.max(*seq);
            if reaction.acked_seq.is_none() {
                self.served.entry(*seq).or_default()[gateway] += 1;
                self.served_count += 1;
            }
        }
        if let Some(seq) = reaction.acked_seq {
            at.acked = Some(self.served.get(&seq).map_or(0, |served| served[gateway]));
            if reaction.is_crowds
                && let Some(message) = said.frame["message_id"].as_str()
            {
                self.messages.push((message.to_owned(), seat));
            }
        }
        if let Some(frame) = reaction.answer {
            self.tell(seat, &frame);
        }
        if reaction.is_away {
            self.reopen(seat);
        }
    }

    /// When nobody else does anything, a sender's ack leaves its gateway ahead of everybody's delivery there; and a
    /// message between two is acknowledged before a crowd's burst is worked off.
    pub fn check_acks_overtake(&mut self) {
        const BURST: usize = 8;
        for seat in 0..self.seats.len() {
            self.seats[seat].is_stalled = false;
            self.take_pending(seat);
        }
        self.settle();
        self.seats[0].acked = None;
        self.say(0);
        self.until_acked(0);
        if self.seats[0].acked != Some(0) {
            let served = self.seats[0].acked;
            self.violations.push(format!("{served:?} clients beside the sender were served before its ack"));
        }
        self.settle();
        let before = self.served_count;
        for _ in 0..BURST {
            self.say(0);
        }
        let (bystander, pair) = (self.members_count, self.pair.clone());
        self.seats[bystander].acked = None;
        self.send_message(bystander, &pair);
        self.until_acked(bystander);
        let (served, crowd) = (self.served_count - before, self.members_count as u64);
        if self.seats[bystander].acked.is_none() || (crowd > NAMED_MAX as u64 && served > crowd * 2) {
            self.violations
                .push(format!("{served} deliveries to {crowd} went before the ack of a neighbour"));
        }
        self.settle();
    }

    fn until_acked(&mut self, seat: usize) {
        for _ in 0..TURNS_MAX {
            if self.seats[seat].acked.is_some() {
                return;
            }
            self.turn();
        }
    }

    /// Everybody reads again, and comes to rest; then every list is held against who was a member when.
    pub fn judge(&mut self) {
        for seat in 0..self.seats.len() {
            self.seats[seat].is_stalled = false;
            self.take_pending(seat);
        }
        self.settle();
        for seat in &self.seats[..self.members_count] {
            let stays = self.stays.get(&seat.user).map_or(&[][..], Vec::as_slice);
            if let Err(wrong) = seat.judge(stays, self.head, self.sees_all) {
                self.violations.push(wrong);
            }
        }
    }
}
