//! Every key of the store, in one place. A key is one byte for its family, then its parts; integers are big-endian, so
//! that the order of keys is the order of numbers. Nothing outside this file knows how a key is made.
//!
//! # Invariants
//! - Released keys never change: a family byte is given once and not used for anything else.
//! - Parts of variable length (names, device ids) stand last, or are followed only by parts of a fixed length, and carry
//!   their length in front: no key of a family is a prefix of a range it does not belong to.

use bytes::Bytes;
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::placement::Slot;

use crate::txn::KEY_BYTES_MAX;
use crate::verb::Incarnation;

pub(crate) const ADDRESS: u8 = b'A';
pub(crate) const TALLY: u8 = b'a';
/// `b/`: the engines' own, for example up to where the tables are complete.
pub const ENGINE: u8 = b'b';
pub(crate) const CONVERSATION: u8 = b'c';
pub(crate) const DEVICE_CURSOR: u8 = b'd';
pub(crate) const EVENT: u8 = b'e';
pub(crate) const TAKEN_BACK: u8 = b'f';
pub(crate) const GENERATION: u8 = b'g';
pub(crate) const HEAD: u8 = b'h';
pub(crate) const SENT: u8 = b'i';
pub(crate) const CREATED: u8 = b'j';
pub(crate) const ID_CEILING: u8 = b'k';
pub(crate) const USER_CONVERSATION: u8 = b'l';
pub(crate) const MEMBER: u8 = b'm';
pub(crate) const NAME: u8 = b'n';
pub(crate) const MARKER: u8 = b'o';
pub(crate) const PAIR: u8 = b'p';
const PUSH_JOB: u8 = b'q';
pub(crate) const REACTION: u8 = b'r';
pub(crate) const SLOT: u8 = b's';
pub(crate) const BEAT: u8 = b't';
pub(crate) const USER: u8 = b'u';
pub(crate) const DEVICE: u8 = b'v';
pub(crate) const ROUTER: u8 = b'w';
pub(crate) const MUTE: u8 = b'x';
pub(crate) const DELETED: u8 = b'y';
pub(crate) const REACTIONS: u8 = b'z';

/// Every family: its byte and what it is called in ARCHITECTURE.md. Those without a function below are reserved.
pub const FAMILIES: [(u8, &str); 27] = [
    (ADDRESS, "address/inc"),
    (TALLY, "a/conv/stretch"),
    (ENGINE, "b/applied and other rows of an engine"),
    (CONVERSATION, "c/conv"),
    (DEVICE_CURSOR, "d/user/device/conv"),
    (EVENT, "e/conv/seq"),
    (TAKEN_BACK, "f/conv/target/user/emoji"),
    (GENERATION, "gen"),
    (HEAD, "h/conv"),
    (SENT, "i/gen/conv/hash"),
    (CREATED, "i/gen/user/hash"),
    (ID_CEILING, "ids/node/lane"),
    (USER_CONVERSATION, "u/user/c/conv"),
    (MEMBER, "m/conv/user"),
    (NAME, "n/name"),
    (MARKER, "o/slot/conv"),
    (PAIR, "p/min/max"),
    (PUSH_JOB, "q/slot/user/conv/seq (reserved)"),
    (REACTION, "r/conv/target/user/emoji"),
    (SLOT, "slot/n"),
    (BEAT, "beat/inc"),
    (USER, "u/user"),
    (DEVICE, "v/user/device"),
    (ROUTER, "router/inc"),
    (MUTE, "u/user/x/conv"),
    (DELETED, "y/conv/seq"),
    (REACTIONS, "z/conv/target"),
];

// The table ascends, so a byte is given once.
const _: () = {
    let mut index = 1;
    while index < FAMILIES.len() {
        assert!(FAMILIES[index].0 > FAMILIES[index - 1].0, "a family byte is given once");
        index += 1;
    }
};

/// A range of keys: `from <= key < to`.
pub type KeyRange = (Bytes, Bytes);

/// What a key says ([`parse`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parsed<'k> {
    /// [`address`]
    Address(Incarnation),
    /// [`tally`]
    Tally(ConversationId, u64),
    /// [`conversation`]
    Conversation(ConversationId),
    /// [`device_cursor`]
    DeviceCursor(UserId, &'k str, ConversationId),
    /// [`event`]
    Event(ConversationId, Seq),
    /// [`taken_back`]
    TakenBack(ConversationId, Seq, UserId, &'k str),
    /// [`generation`]
    Generation,
    /// [`head`]
    Head(ConversationId),
    /// [`sent`]
    Sent(u64, ConversationId, [u8; 16]),
    /// [`created`]
    Created(u64, UserId, [u8; 16]),
    /// [`id_ceiling`]
    IdCeiling(u16, u16),
    /// [`user_conversation`]
    UserConversation(UserId, ConversationId),
    /// [`member`]
    Member(ConversationId, UserId),
    /// [`name`]
    Name(&'k str),
    /// [`marker`]
    Marker(Slot, ConversationId),
    /// [`pair`]
    Pair(UserId, UserId),
    /// [`reaction`]
    Reaction(ConversationId, Seq, UserId, &'k str),
    /// [`slot`]
    Slot(Slot),
    /// [`beat`]
    Beat(Incarnation),
    /// [`user`]
    User(UserId),
    /// [`device`]
    Device(UserId, &'k str),
    /// [`router`]
    Router(Incarnation),
    /// [`mute`]
    Mute(UserId, ConversationId),
    /// [`deleted`]
    Deleted(ConversationId, Seq),
    /// [`reaction_counts`]
    Reactions(ConversationId, Seq),
}

impl Parsed<'_> {
    /// The conversation that the row is about, in the families that are ordered by conversation first.
    #[must_use]
    pub fn by_conversation(&self) -> Option<ConversationId> {
        match *self {
            Parsed::Tally(conversation, _)
            | Parsed::Conversation(conversation)
            | Parsed::Event(conversation, _)
            | Parsed::TakenBack(conversation, ..)
            | Parsed::Head(conversation)
            | Parsed::Member(conversation, _)
            | Parsed::Reaction(conversation, ..)
            | Parsed::Deleted(conversation, _)
            | Parsed::Reactions(conversation, _) => Some(conversation),
            _ => None,
        }
    }
}

/// The families whose rows say which conversation they are about, and lie in the order of conversations.
pub(crate) const BY_CONVERSATION: [u8; 9] =
    [TALLY, CONVERSATION, EVENT, TAKEN_BACK, HEAD, MEMBER, REACTION, DELETED, REACTIONS];
/// All other families, but those of the engines.
pub(crate) const OTHERS: [u8; 16] = [
    ADDRESS,
    DEVICE_CURSOR,
    GENERATION,
    SENT,
    CREATED,
    ID_CEILING,
    USER_CONVERSATION,
    NAME,
    MARKER,
    PAIR,
    SLOT,
    BEAT,
    USER,
    DEVICE,
    ROUTER,
    MUTE,
];

/// Every key of a family.
#[must_use]
pub fn family(byte: u8) -> KeyRange {
    Key::family(byte).below()
}

/// Reads a key; `None` when it is none that a function of this file makes.
#[must_use]
pub fn parse(key: &[u8]) -> Option<Parsed<'_>> {
    let (family, rest) = key.split_first()?;
    let mut parts = Parts(rest);
    let parsed = match *family {
        ADDRESS => Parsed::Address(Incarnation(parts.u64()?)),
        TALLY => Parsed::Tally(parts.conversation()?, parts.u64()?),
        CONVERSATION => Parsed::Conversation(parts.conversation()?),
        DEVICE_CURSOR => Parsed::DeviceCursor(parts.user()?, parts.text()?, parts.conversation()?),
        EVENT => Parsed::Event(parts.conversation()?, parts.u64()?),
        TAKEN_BACK => Parsed::TakenBack(parts.conversation()?, parts.u64()?, parts.user()?, parts.text()?),
        GENERATION => Parsed::Generation,
        HEAD => Parsed::Head(parts.conversation()?),
        SENT => Parsed::Sent(parts.u64()?, parts.conversation()?, *parts.take()?),
        CREATED => Parsed::Created(parts.u64()?, parts.user()?, *parts.take()?),
        ID_CEILING => Parsed::IdCeiling(parts.u16()?, parts.u16()?),
        USER_CONVERSATION => Parsed::UserConversation(parts.user()?, parts.conversation()?),
        MEMBER => Parsed::Member(parts.conversation()?, parts.user()?),
        NAME => Parsed::Name(parts.text()?),
        MARKER => Parsed::Marker(Slot(parts.u16()?), parts.conversation()?),
        PAIR => Parsed::Pair(parts.user()?, parts.user()?),
        REACTION => Parsed::Reaction(parts.conversation()?, parts.u64()?, parts.user()?, parts.text()?),
        SLOT => Parsed::Slot(Slot(parts.u16()?)),
        BEAT => Parsed::Beat(Incarnation(parts.u64()?)),
        USER => Parsed::User(parts.user()?),
        DEVICE => Parsed::Device(parts.user()?, parts.text()?),
        ROUTER => Parsed::Router(Incarnation(parts.u64()?)),
        MUTE => Parsed::Mute(parts.user()?, parts.conversation()?),
        DELETED => Parsed::Deleted(parts.conversation()?, parts.u64()?),
        REACTIONS => Parsed::Reactions(parts.conversation()?, parts.u64()?),
        _ => return None,
    };
    parts.0.is_empty().then_some(parsed)
}

/// What is left of a key that is being read.
struct Parts<'k>(&'k [u8]);

impl<'k> Parts<'k> {
    fn take<const N: usize>(&mut self) -> Option<&'k [u8; N]> {
        let (part, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(part)
    }

    fn u64(&mut self) -> Option<u64> {
        self.take().map(|part| u64::from_be_bytes(*part))
    }

    fn u16(&mut self) -> Option<u16> {
        self.take().map(|part| u16::from_be_bytes(*part))
    }

    fn conversation(&mut self) -> Option<ConversationId> {
        self.u64().map(ConversationId)
    }

    fn user(&mut self) -> Option<UserId> {
        self.u64().map(UserId)
    }

    fn text(&mut self) -> Option<&'k str> {
        let (length, rest) = self.0.split_first()?;
        let (text, rest) = rest.split_at_checked(usize::from(*length))?;
        self.0 = rest;
        std::str::from_utf8(text).ok()
    }
}

/// A key under construction.
struct Key(Vec<u8>);

impl Key {
    fn family(byte: u8) -> Key {
        let mut bytes = Vec::with_capacity(32);
        bytes.push(byte);
        Key(bytes)
    }

    fn u64(mut self, part: u64) -> Key {
        self.0.extend_from_slice(&part.to_be_bytes());
        self
    }

    fn u16(mut self, part: u16) -> Key {
        self.0.extend_from_slice(&part.to_be_bytes());
        self
    }

    fn bytes(mut self, part: &[u8]) -> Key {
        self.0.extend_from_slice(part);
        self
    }

    /// A part of variable length, at most 255 bytes; the edge allows far less.
    fn text(mut self, part: &str) -> Key {
        self.0.push(u8::try_from(part.len()).unwrap_or(u8::MAX));
        self.0.extend_from_slice(part.as_bytes());
        self
    }

    fn end(self) -> Bytes {
        debug_assert!(self.0.len() <= KEY_BYTES_MAX);
        Bytes::from(self.0)
    }

    /// Every key that begins with this one and goes on.
    fn below(self) -> KeyRange {
        let to = after_prefix(&self.0);
        (Bytes::from(self.0), to)
    }
}

/// The first key behind all that begin with `prefix`. No family byte is 0xff, so there is one.
fn after_prefix(prefix: &[u8]) -> Bytes {
    let mut to = prefix.to_vec();
    while let Some(last) = to.pop() {
        if last != u8::MAX {
            to.push(last + 1);
            break;
        }
    }
    Bytes::from(to)
}

/// The next key: where a range goes on behind the last row of a page.
#[must_use]
pub fn after(key: &[u8]) -> Bytes {
    let mut next = Vec::with_capacity(key.len() + 1);
    next.extend_from_slice(key);
    next.push(0);
    Bytes::from(next)
}

/// The last part of a key, when it is a `u64`: a conversation, a user or a seq.
fn last_u64(key: &[u8]) -> Option<u64> {
    key.last_chunk::<8>().map(|bytes| u64::from_be_bytes(*bytes))
}

/// `c/conv`: what a conversation is.
#[must_use]
pub fn conversation(conversation: ConversationId) -> Bytes {
    Key::family(CONVERSATION).u64(conversation.0).end()
}

/// `h/conv`: where its log ends.
#[must_use]
pub fn head(conversation: ConversationId) -> Bytes {
    Key::family(HEAD).u64(conversation.0).end()
}

/// `e/conv/seq`: an event.
#[must_use]
pub fn event(conversation: ConversationId, seq: Seq) -> Bytes {
    Key::family(EVENT).u64(conversation.0).u64(seq).end()
}

/// The events `from_seq ..= to_seq` of a conversation.
#[must_use]
pub fn events(conversation: ConversationId, from_seq: Seq, to_seq: Seq) -> KeyRange {
    let to = match to_seq.checked_add(1) {
        Some(end) => event(conversation, end),
        None => after_prefix(&event(conversation, to_seq)),
    };
    (event(conversation, from_seq), to)
}

/// The seq in a key of [`events`].
#[must_use]
pub fn event_seq(key: &[u8]) -> Option<Seq> {
    last_u64(key)
}

/// `m/conv/user`: a membership.
#[must_use]
pub fn member(conversation: ConversationId, user: UserId) -> Bytes {
    Key::family(MEMBER).u64(conversation.0).u64(user.0).end()
}

/// All memberships of a conversation, former ones too.
#[must_use]
pub fn members(conversation: ConversationId) -> KeyRange {
    Key::family(MEMBER).u64(conversation.0).below()
}

/// The memberships of users above `after`.
#[must_use]
pub fn members_after(conversation: ConversationId, after: UserId) -> KeyRange {
    let (_, to) = members(conversation);
    (self::after(&member(conversation, after)), to)
}

/// The user in a key of [`members`].
#[must_use]
pub fn member_user(key: &[u8]) -> Option<UserId> {
    last_u64(key).map(UserId)
}

/// `d/user/device/conv`: how far a device has got.
#[must_use]
pub fn device_cursor(user: UserId, device: &str, conversation: ConversationId) -> Bytes {
    Key::family(DEVICE_CURSOR).u64(user.0).text(device).u64(conversation.0).end()
}

/// All cursors of a device.
#[must_use]
pub fn device_cursors(user: UserId, device: &str) -> KeyRange {
    Key::family(DEVICE_CURSOR).u64(user.0).text(device).below()
}

/// All cursors of a user's devices, device by device.
#[must_use]
pub fn cursors_of(user: UserId) -> KeyRange {
    Key::family(DEVICE_CURSOR).u64(user.0).below()
}

/// The device in a key of [`cursors_of`].
#[must_use]
pub fn device_cursor_device(key: &[u8]) -> Option<&str> {
    // The family, the user; the length, the name; the conversation.
    let (length, rest) = key.get(9..)?.split_first()?;
    std::str::from_utf8(rest.get(..usize::from(*length))?).ok()
}

/// The conversation in a key of [`device_cursors`].
#[must_use]
pub fn device_cursor_conversation(key: &[u8]) -> Option<ConversationId> {
    last_u64(key).map(ConversationId)
}

/// `i/gen/conv/hash`: what became of a `client_msg_id` of one sender (G2).
#[must_use]
pub fn sent(generation: u64, conversation: ConversationId, hash: &[u8; 16]) -> Bytes {
    Key::family(SENT).u64(generation).u64(conversation.0).bytes(hash).end()
}

/// `i/gen/user/hash`: the conversation that a creation made. A family of its own, because a user and a conversation may
/// have the same number.
#[must_use]
pub fn created(generation: u64, creator: UserId, hash: &[u8; 16]) -> Bytes {
    Key::family(CREATED).u64(generation).u64(creator.0).bytes(hash).end()
}

/// What was remembered of sending to a conversation in a generation.
#[must_use]
pub fn sent_to(generation: u64, conversation: ConversationId) -> KeyRange {
    Key::family(SENT).u64(generation).u64(conversation.0).below()
}

/// What was remembered of sending in a generation.
#[must_use]
pub fn sent_in(generation: u64) -> KeyRange {
    Key::family(SENT).u64(generation).below()
}

/// What was remembered of creating in a generation.
#[must_use]
pub fn created_in(generation: u64) -> KeyRange {
    Key::family(CREATED).u64(generation).below()
}

/// `gen`: the idempotency generation that is written now.
#[must_use]
pub fn generation() -> Bytes {
    Key::family(GENERATION).end()
}

/// `o/slot/conv`: the first seq that is not known to be fanned out.
#[must_use]
pub fn marker(slot: Slot, conversation: ConversationId) -> Bytes {
    Key::family(MARKER).u16(slot.0).u64(conversation.0).end()
}

/// All markers.
#[must_use]
pub fn markers() -> KeyRange {
    Key::family(MARKER).below()
}

/// The conversation in a key of [`markers`].
#[must_use]
pub fn marker_conversation(key: &[u8]) -> Option<ConversationId> {
    last_u64(key).map(ConversationId)
}

/// `u/user/c/conv`: a conversation of a user's. A family of its own, so that profiles lie together.
#[must_use]
pub fn user_conversation(user: UserId, conversation: ConversationId) -> Bytes {
    Key::family(USER_CONVERSATION).u64(user.0).u64(conversation.0).end()
}

/// All conversations that a user is a member of.
#[must_use]
pub fn user_conversations(user: UserId) -> KeyRange {
    Key::family(USER_CONVERSATION).u64(user.0).below()
}

/// The conversation in a key of [`user_conversations`].
#[must_use]
pub fn user_conversation_id(key: &[u8]) -> Option<ConversationId> {
    last_u64(key).map(ConversationId)
}

/// `p/min/max`: the one conversation of two users, whoever began it (DM2).
#[must_use]
pub fn pair(one: UserId, other: UserId) -> Bytes {
    Key::family(PAIR).u64(one.min(other).0).u64(one.max(other).0).end()
}

/// `u/user`: a profile.
#[must_use]
pub fn user(user: UserId) -> Bytes {
    Key::family(USER).u64(user.0).end()
}

/// `n/name`: whose name it is.
#[must_use]
pub fn name(username: &str) -> Bytes {
    Key::family(NAME).text(username).end()
}

/// `v/user/device`: a device.
#[must_use]
pub fn device(user: UserId, device: &str) -> Bytes {
    Key::family(DEVICE).u64(user.0).text(device).end()
}

/// All devices of a user.
#[must_use]
pub fn devices(user: UserId) -> KeyRange {
    Key::family(DEVICE).u64(user.0).below()
}

/// The device in a key of [`devices`].
#[must_use]
pub fn device_name(key: &[u8]) -> Option<&str> {
    // The family, the user, the length, the name.
    std::str::from_utf8(key.get(10..)?).ok()
}

/// `u/user/x/conv`: until when a conversation is muted. A family of its own, because profiles lie together.
#[must_use]
pub fn mute(user: UserId, conversation: ConversationId) -> Bytes {
    Key::family(MUTE).u64(user.0).u64(conversation.0).end()
}

/// `r/conv/target/user/emoji`: a reaction, the event that made it.
#[must_use]
pub fn reaction(conversation: ConversationId, target: Seq, user: UserId, emoji: &str) -> Bytes {
    Key::family(REACTION).u64(conversation.0).u64(target).u64(user.0).text(emoji).end()
}

/// All reactions of a user under a message.
#[must_use]
pub fn reactions_of(conversation: ConversationId, target: Seq, user: UserId) -> KeyRange {
    Key::family(REACTION).u64(conversation.0).u64(target).u64(user.0).below()
}

/// All reactions under a message.
#[must_use]
pub fn reactions_under(conversation: ConversationId, target: Seq) -> KeyRange {
    Key::family(REACTION).u64(conversation.0).u64(target).below()
}

/// The user and the emoji in a key of [`reactions_under`] or [`reactions_of`].
#[must_use]
pub fn reaction_parts(key: &[u8]) -> Option<(UserId, &str)> {
    // The family, the conversation, the target; the user; the length, the emoji.
    let (user, rest) = key.get(17..)?.split_first_chunk::<8>()?;
    Some((UserId(u64::from_be_bytes(*user)), std::str::from_utf8(rest.get(1..)?).ok()?))
}

/// `f/conv/target/user/emoji`: the event by which a reaction was last taken back. Of one that is there again it is out of
/// date, and nobody asks.
#[must_use]
pub fn taken_back(conversation: ConversationId, target: Seq, user: UserId, emoji: &str) -> Bytes {
    Key::family(TAKEN_BACK).u64(conversation.0).u64(target).u64(user.0).text(emoji).end()
}

/// All that were taken back under a message.
#[must_use]
pub fn taken_back_under(conversation: ConversationId, target: Seq) -> KeyRange {
    Key::family(TAKEN_BACK).u64(conversation.0).u64(target).below()
}

/// `z/conv/target`: how often each emoji stands under a message.
#[must_use]
pub fn reaction_counts(conversation: ConversationId, target: Seq) -> Bytes {
    Key::family(REACTIONS).u64(conversation.0).u64(target).end()
}

/// The counts under the messages `from_seq ..= to_seq`; the last part of a key is the seq ([`event_seq`]).
#[must_use]
pub fn reaction_counts_between(conversation: ConversationId, from_seq: Seq, to_seq: Seq) -> KeyRange {
    let to = match to_seq.checked_add(1) {
        Some(end) => reaction_counts(conversation, end),
        None => after_prefix(&reaction_counts(conversation, to_seq)),
    };
    (reaction_counts(conversation, from_seq), to)
}

/// `y/conv/seq`: a deleted message's sender. What unread counts leave out.
#[must_use]
pub fn deleted(conversation: ConversationId, seq: Seq) -> Bytes {
    Key::family(DELETED).u64(conversation.0).u64(seq).end()
}

/// The deleted messages above `seq`; the last part of a key is the seq ([`event_seq`]).
#[must_use]
pub fn deleted_above(conversation: ConversationId, seq: Seq) -> KeyRange {
    let from = deleted(conversation, seq.saturating_add(1));
    (from, after_prefix(&deleted(conversation, Seq::MAX)))
}

/// `a/conv/stretch`: who sent how many messages of a stretch of a log.
#[must_use]
pub fn tally(conversation: ConversationId, stretch: u64) -> Bytes {
    Key::family(TALLY).u64(conversation.0).u64(stretch).end()
}

/// `router/inc`: whether an incarnation is alive (G15).
#[must_use]
pub fn router(incarnation: Incarnation) -> Bytes {
    Key::family(ROUTER).u64(incarnation.0).end()
}

/// All incarnations, the latest last.
#[must_use]
pub fn routers() -> KeyRange {
    Key::family(ROUTER).below()
}

/// The incarnation in a key of [`routers`].
#[must_use]
pub fn router_incarnation(key: &[u8]) -> Option<Incarnation> {
    last_u64(key).map(Incarnation)
}

/// `address/inc`: where the other routers and the gateways reach a living incarnation.
#[must_use]
pub fn address(incarnation: Incarnation) -> Bytes {
    Key::family(ADDRESS).u64(incarnation.0).end()
}

/// `slot/n`: which incarnation owns a slot, and how often that changed.
#[must_use]
pub fn slot(slot: Slot) -> Bytes {
    Key::family(SLOT).u16(slot.0).end()
}

/// All slots, ascending.
#[must_use]
pub fn slots() -> KeyRange {
    Key::family(SLOT).below()
}

/// The slot in a key of [`slots`].
#[must_use]
pub fn slot_number(key: &[u8]) -> Option<Slot> {
    let number = key.get(1..)?.try_into().ok()?;
    Some(Slot(u16::from_be_bytes(number)))
}

/// `beat/inc`: the last beat of a living incarnation.
#[must_use]
pub fn beat(incarnation: Incarnation) -> Bytes {
    Key::family(BEAT).u64(incarnation.0).end()
}

/// `ids/node/lane`: no message id of these node bits and this lane was given at or above this time.
#[must_use]
pub fn id_ceiling(node: u16, lane: u16) -> Bytes {
    Key::family(ID_CEILING).u16(node).u16(lane).end()
}

/// The ceilings of all lanes of these node bits.
#[must_use]
pub fn id_ceilings(node: u16) -> KeyRange {
    Key::family(ID_CEILING).u16(node).below()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn order_of_keys_is_order_of_numbers() {
        let conversation = ConversationId(7);
        let seqs = [0, 1, 2, 255, 256, 65_535, 65_536, u64::MAX];
        let keys: Vec<Bytes> = seqs.iter().map(|seq| event(conversation, *seq)).collect();
        assert!(keys.is_sorted());
        for (key, seq) in keys.iter().zip(seqs) {
            assert_eq!(event_seq(key), Some(seq));
        }
        let (from, to) = events(conversation, 2, u64::MAX);
        assert!(keys[2..].iter().all(|key| from <= *key && *key < to));
        assert!(event(ConversationId(8), 0) >= to && keys[1] < from);
    }

    #[test]
    fn a_device_is_not_the_prefix_of_another_device() {
        let (from, to) = device_cursors(UserId(1), "phone");
        assert!((from.clone()..to.clone()).contains(&device_cursor(
            UserId(1),
            "phone",
            ConversationId(u64::MAX)
        )));
        for other in ["phon", "phone2", "phone-"] {
            assert!(!(from.clone()..to.clone()).contains(&device_cursor(
                UserId(1),
                other,
                ConversationId(1)
            )));
        }
    }

    #[test]
    fn a_pair_has_one_key() {
        assert_eq!(pair(UserId(9), UserId(3)), pair(UserId(3), UserId(9)));
        assert_ne!(pair(UserId(9), UserId(3)), pair(UserId(9), UserId(4)));
    }

    /// What is read of a key is what it was made of; no other key is taken for one.
    #[test]
    fn keys_are_read_as_they_are_made() {
        let (conversation, user, hash) = (ConversationId(1 << 40), UserId(300), [7; 16]);
        let (life, place) = (Incarnation(9), Slot(4_095));
        let all = [
            (address(life), Parsed::Address(life)),
            (tally(conversation, 3), Parsed::Tally(conversation, 3)),
            (self::conversation(conversation), Parsed::Conversation(conversation)),
            (device_cursor(user, "phone", conversation), Parsed::DeviceCursor(user, "phone", conversation)),
            (event(conversation, 5), Parsed::Event(conversation, 5)),
            (taken_back(conversation, 5, user, "x"), Parsed::TakenBack(conversation, 5, user, "x")),
            (generation(), Parsed::Generation),
            (head(conversation), Parsed::Head(conversation)),
            (sent(2, conversation, &hash), Parsed::Sent(2, conversation, hash)),
            (created(2, user, &hash), Parsed::Created(2, user, hash)),
            (id_ceiling(4, 6), Parsed::IdCeiling(4, 6)),
            (user_conversation(user, conversation), Parsed::UserConversation(user, conversation)),
            (member(conversation, user), Parsed::Member(conversation, user)),
            (name("alice"), Parsed::Name("alice")),
            (marker(place, conversation), Parsed::Marker(place, conversation)),
            (pair(user, UserId(2)), Parsed::Pair(UserId(2), user)),
            (reaction(conversation, 5, user, "x"), Parsed::Reaction(conversation, 5, user, "x")),
            (slot(place), Parsed::Slot(place)),
            (beat(life), Parsed::Beat(life)),
            (self::user(user), Parsed::User(user)),
            (device(user, "phone"), Parsed::Device(user, "phone")),
            (router(life), Parsed::Router(life)),
            (mute(user, conversation), Parsed::Mute(user, conversation)),
            (deleted(conversation, 5), Parsed::Deleted(conversation, 5)),
            (reaction_counts(conversation, 5), Parsed::Reactions(conversation, 5)),
        ];
        for (key, parsed) in &all {
            assert_eq!(parse(key), Some(*parsed), "{key:?}");
            assert_eq!(parse(&after(key)), None, "something behind {parsed:?}");
            assert_eq!(parse(&key[..key.len() - 1]), None, "something missing of {parsed:?}");
            let is_first = parsed.by_conversation().is_some();
            assert_eq!(BY_CONVERSATION.contains(&key[0]), is_first, "{parsed:?}");
            assert_eq!(OTHERS.contains(&key[0]), !is_first, "{parsed:?}");
        }
        assert_eq!(all.len() + 2, FAMILIES.len(), "all but the engines' own and the one that is reserved");
    }

    #[test]
    fn ranges_end_behind_their_prefix() {
        let (from, to) = members(ConversationId(u64::MAX));
        assert!(from <= member(ConversationId(u64::MAX), UserId(u64::MAX)));
        assert!(member(ConversationId(u64::MAX), UserId(u64::MAX)) < to);
        assert!(name("a") > to, "the next family is not touched");
    }
}
