//! Which rows operations will read, as far as it can be said before anything is read: for engines behind a network, which
//! then fetch a batch's rows side by side instead of one after another. A key that is missing here is fetched when it is
//! asked for; one too many is fetched in vain. Nothing is decided by it.

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, UserId, is_device_id};
use carillon_protocol::placement::slot_of_conversation;
use carillon_protocol::record::idempotency_hash;

use super::slot_of;
use crate::keys;
use crate::verb::{Change, CreateOp, Op};

/// The keys of `ops`, in the order in which they are asked for, some of them several times.
pub(super) fn keys(ops: &[Op], generation: u64) -> Vec<Bytes> {
    let mut ahead = Ahead { keys: Vec::with_capacity(ops.len() * 6), generation };
    for op in ops {
        ahead.keys.push(keys::slot(slot_of(op)));
        ahead.op(op);
    }
    ahead.keys
}

struct Ahead {
    keys: Vec<Bytes>,
    generation: u64,
}

impl Ahead {
    fn op(&mut self, op: &Op) {
        match op {
            Op::Send(op) => self.event((op.conversation, op.sender), &op.client_msg_id, &op.said_after),
            Op::Change(op) => {
                self.event((op.conversation, op.by), &op.client_msg_id, &op.said_after);
                if let Change::AddMembers { users } = &op.change {
                    self.add(op.conversation, users);
                }
            }
            Op::Create(op) => self.create(op),
            Op::Receipt(op) => {
                self.keys.extend([keys::member(op.conversation, op.user), keys::head(op.conversation)]);
                if is_device_id(&op.device) {
                    self.keys.push(keys::device_cursor(op.user, &op.device, op.conversation));
                }
            }
            Op::Mute { user, conversation, .. } => self.keys.push(keys::member(*conversation, *user)),
            Op::FannedOut { conversation, .. } => {
                self.marker(*conversation);
                self.keys.push(keys::head(*conversation));
            }
            Op::Provision { user, .. }
            | Op::CreateUser { user, .. }
            | Op::Profile { user, .. }
            | Op::Seen { user, .. }
            | Op::Revoke { user, .. }
            | Op::PushToken { user, .. } => self.keys.push(keys::user(*user)),
        }
    }

    fn event(
        &mut self,
        (conversation, sender): (ConversationId, UserId),
        client_msg_id: &String,
        said_after: &[String],
    ) {
        for client_msg_id in std::iter::once(client_msg_id).chain(said_after) {
            let hash = idempotency_hash(sender, client_msg_id);
            self.remembered(|generation| keys::sent(generation, conversation, &hash));
        }
        self.keys.extend([keys::member(conversation, sender), keys::head(conversation)]);
        self.marker(conversation);
    }

    fn add(&mut self, conversation: ConversationId, users: &[UserId]) {
        self.keys.push(keys::conversation(conversation));
        for user in users {
            self.keys.extend([keys::member(conversation, *user), keys::user(*user)]);
        }
    }

    fn create(&mut self, op: &CreateOp) {
        if !op.client_msg_id.is_empty() {
            let hash = idempotency_hash(op.creator, &op.client_msg_id);
            self.remembered(|generation| keys::created(generation, op.creator, &hash));
        }
        self.keys.extend([keys::head(op.conversation), keys::user(op.creator)]);
        self.keys.extend(op.members.iter().map(|member| keys::user(*member)));
        self.marker(op.conversation);
    }

    fn remembered(&mut self, key: impl Fn(u64) -> Bytes) {
        self.keys.push(key(self.generation));
        self.keys.extend(self.generation.checked_sub(1).map(key));
    }

    fn marker(&mut self, conversation: ConversationId) {
        self.keys.push(keys::marker(slot_of_conversation(conversation), conversation));
    }
}
