//! Who there is in a world, and in which conversations: some from the start, some that begin meanwhile.

use carillon_node::tokens::Claims;
use carillon_protocol::client::Wire;
use carillon_protocol::frame::{Command, LinkFrame, Submit};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::placement::Slot;
use carillon_protocol::record::{ConversationType, History};
use carillon_router::lease::orders::Hands;
use carillon_store::ops::{self, Context};
use carillon_store::retry;
use carillon_store::verb::{Answer, CreateOp, Op, Query};

use super::World;
use super::agenda::Event;
use super::device::Device;
use super::lanes::Way;
use super::plan::MS;

/// Expiry of all tokens: in 2090, behind every jump of the clock.
const EXPIRES_S: u64 = 3_786_912_000;
/// Requests of REST are numbered from here, out of the way of the gateway's own.
const REST_REQUEST: u64 = 1 << 60;
/// How often a conversation is asked for until it is there.
const CREATE_AGAIN_MS: u64 = 400;

impl World<'_> {
    /// Users, their devices, and the conversations of the start; and one user without any, who is not known at first.
    pub(super) fn populate(&mut self) {
        let members_count = self.plan.users_count;
        let mut ops: Vec<Op> = (1..=members_count)
            .map(|user| Op::Provision { user: UserId(user as u64), name: String::new() })
            .collect();
        for number in 0..self.plan.conversations_count {
            let conversation = ConversationId(1_000 + number as u64);
            let members = self.draw_members();
            let is_moving = number < self.plan.moving_count;
            if is_moving {
                self.book.moving.insert(conversation, members.first().copied());
            }
            let history = History::FromJoin;
            let key = format!("start-{number}");
            ops.push(Op::Create(create_op(conversation, &members, &key, history)));
            self.book.members.insert(conversation, members);
        }
        self.write_down_first(&ops);
        for user in 1..=members_count + 1 {
            let devices_count = self.prng.between(1, self.plan.devices_max);
            for device in 0..devices_count {
                self.add_device(UserId(user as u64), format!("d{device}"));
            }
        }
    }

    /// Commits these by a router that was there before, and owned no more than it needed: to claim every slot is the most
    /// expensive thing that a world does.
    fn write_down_first(&mut self, ops: &[Op]) {
        let wall = self.wall();
        let mut slots: Vec<Slot> = ops.iter().map(ops::slot_of).collect();
        slots.sort_unstable();
        slots.dedup();
        let claim = self.control(&mut |txn| ops::join(txn, wall, "")).expect("nothing goes wrong yet");
        let taken = self.control(&mut |txn| ops::take(txn, claim.incarnation, &slots));
        assert_eq!(taken.map(|taken| taken.len()), Ok(slots.len()), "nobody owns anything yet");
        let mut ids = claim.message_ids(0, self.plan.commit_lanes_count);
        let mut context =
            Context { now: wall, incarnation: claim.incarnation, ids: &mut ids, members_max: 1_000 };
        let results = retry::commit_batch(&*self.engine, 0, &mut context, ops, &mut |_| ());
        assert!(results.iter().all(Result::is_ok), "nothing goes wrong yet: {results:?}");
        let retired = self.control(&mut |txn| ops::retire(txn, claim.incarnation));
        retired.expect("nothing goes wrong yet");
    }

    /// At least two; at least one of the users is left out now and then.
    fn draw_members(&mut self) -> Vec<UserId> {
        let mut users: Vec<UserId> = (1..=self.plan.users_count as u64).map(UserId).collect();
        self.prng.shuffle(&mut users);
        let count = self.prng.between(2, users.len() as u64) as usize;
        users.truncate(count);
        users
    }

    fn add_device(&mut self, user: UserId, name: String) {
        let claims = Claims {
            user_id: user.0,
            device_id: name.clone(),
            issued_s: 0,
            expires_s: EXPIRES_S,
            name: None,
            scope: String::new(),
        };
        let token = self.keys.sign(&claims).expect("the claims are valid");
        let number = self.devices.len();
        let wire = if self.prng.chance(1, 2) { Wire::Json } else { Wire::Rkyv };
        let seed = self.prng.next_u64();
        self.devices.push(Device::new(number, user, name, wire, token, seed));
        let at = self.prng.below(500 * MS);
        self.plan_device(number, at);
    }

    /// A conversation is asked for through a gateway's lane, as its REST part does, until it is there.
    pub(super) fn create(&mut self, number: usize) {
        let key = format!("late-{number}");
        let members = match self.book.late.get(&number) {
            Some(members) => members.clone(),
            None => {
                let members = self.draw_members();
                self.book.late.insert(number, members.clone());
                members
            }
        };
        let creator = members[0];
        if let Some(conversation) = self.find_created(creator, &key) {
            self.book.members.insert(conversation, members);
            return;
        }
        let gateway = self.prng.index(self.gateways.len());
        if let Some(lane) = self.lane_of(gateway) {
            let command = Command::Create {
                conversation_type: ConversationType::Group as u8,
                history: History::FromJoin as u8,
                group_name: Some(key.clone()),
                members: members.clone(),
            };
            let request = REST_REQUEST + number as u64;
            let submit = Submit {
                slot_epoch: 0,
                session: 0,
                request,
                user: creator,
                said_after: Vec::new(),
                client_msg_id: key,
                command,
            };
            self.send_frame(lane, Way::Up, submit.to_frame());
        }
        self.agenda.put(self.now + CREATE_AGAIN_MS * MS, Event::Create { number });
    }

    fn find_created(&self, creator: UserId, name: &str) -> Option<ConversationId> {
        let query = Query::Conversations { user: creator, below: u64::MAX, as_of: u64::MAX, limit: 100 };
        let Ok(Answer::Conversations { summaries, .. }) = self.ask_store(&query) else { return None };
        let named = summaries.iter().find(|summary| summary.group_name.as_deref() == Some(name));
        named.map(|summary| summary.conversation)
    }
}

fn create_op(conversation: ConversationId, members: &[UserId], key: &str, history: History) -> CreateOp {
    CreateOp {
        conversation,
        creator: members[0],
        client_msg_id: key.to_owned(),
        conversation_type: ConversationType::Group,
        history,
        group_name: Some(key.to_owned()),
        members: members[1..].to_vec(),
    }
}
