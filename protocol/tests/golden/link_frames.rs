//! Link frames.

use std::fmt::Debug;

use carillon_protocol::frame::{
    Accepted, Change, Command, Concerned, ConversationView, Counts, Deliver, DeviceView, Entry, Find,
    Findings, Found, Joined, Lapsed, LinkFrame, Mark, MemberView, Moved, NotOwner, Notified, Notify, Open,
    Own, Owned, OwnedSlot, Owners, Page, Peek, Peeked, Presence, PushTokenView, Reacted, ReactionCount, Read,
    ReadBy, ReadSync, Receipt, Refused, Register, Registered, Replaced, Revoked, RouterAddress, Standing,
    Submit, Typed, Typing, Unregister, UserPresence, UserView, Wanted, Watch, Watched, Watermark, read,
};
use carillon_protocol::framing;
use carillon_protocol::ids::{ConversationId, MessageId, UserId};
use carillon_protocol::limits::LINK_FRAME_BYTES_MAX;
use rkyv::Deserialize;
use rkyv::api::high::{HighDeserializer, HighValidator};
use rkyv::bytecheck::CheckBytes;
use rkyv::rancor::Error;
use rkyv::util::AlignedVec;

use crate::{Golden, bytes_of};

/// Panics unless the bytes are read as the sample's value.
type ReadBack = Box<dyn Fn(&[u8])>;

/// A frame and how its bytes are held against it.
struct Sample {
    name: &'static str,
    bytes: AlignedVec,
    read_back: ReadBack,
}

fn sample<T>(name: &'static str, value: T) -> Sample
where
    T: LinkFrame + PartialEq + Debug + 'static,
    T::Archived: for<'a> CheckBytes<HighValidator<'a, Error>> + Deserialize<T, HighDeserializer<Error>>,
{
    let bytes = value.to_frame();
    let read_back = move |bytes: &[u8]| {
        read(bytes).unwrap_or_else(|error| panic!("{name}: {error}"));
        let (kind, archive, _) = framing::split(bytes, LINK_FRAME_BYTES_MAX).unwrap().unwrap();
        assert_eq!(kind, T::KIND as u16, "{name}");
        assert_eq!(rkyv::from_bytes::<T, Error>(archive).unwrap(), value, "{name}");
    };
    Sample { name, bytes, read_back: Box::new(read_back) }
}

const CONVERSATION: ConversationId = ConversationId(7_210_000_000_000_000_001);
const MESSAGE: MessageId = MessageId(354_000_000_000_000_042);
const ALICE: UserId = UserId(42);
const BOB: UserId = UserId(43);
/// Stands for a stored event: link frames carry those as bytes.
const RECORD: [u8; 5] = [1, 2, 3, 4, 5];

fn registration() -> Vec<Sample> {
    vec![
        sample("open", Open { incarnation: 0x0123_4567_89ab_cdef, shard: 3 }),
        sample(
            "register",
            Register {
                session: 5,
                request: 6,
                user: ALICE,
                device: "phone".into(),
                name: "a name longer than a string is kept inline".into(),
                auto_provision: true,
                again: false,
                waited_ms: 1_200,
                issued_at_s: 1_790_000_000,
            },
        ),
        sample(
            "registered",
            Registered {
                session: 5,
                request: 6,
                conversations: vec![Joined { conversation: CONVERSATION, cursor: 141, is_returning: true }],
                more: true,
            },
        ),
        sample("replaced", Replaced { session: 5 }),
        sample("unregister", Unregister { session: 5, user: ALICE, bye: true }),
        sample("peek", Peek { session: 5, request: 7, user: ALICE, conversations: vec![CONVERSATION] }),
        sample(
            "peeked",
            Peeked {
                session: 5,
                request: 7,
                standings: vec![Standing {
                    conversation: CONVERSATION,
                    first_seq: 1,
                    joined_seq: 7,
                    head_seq: 142,
                    fanned_out_seq: 141,
                }],
            },
        ),
    ]
}

fn commands() -> Vec<Sample> {
    let submit = |command| Submit {
        slot_epoch: 0,
        session: 5,
        request: 8,
        user: ALICE,
        said_after: Vec::new(),
        client_msg_id: "0190163d-8694-739b-aea5-966c26f8ad91".into(),
        command,
    };
    vec![
        sample(
            "submit.send",
            submit(Command::Send {
                conversation: CONVERSATION,
                message_type: 1,
                encoding: 0,
                content: "hello, wörld".into(),
                media_url: Some("https://media.example/v1/media/1".into()),
                reply_to: Some(MESSAGE),
            }),
        ),
        sample(
            "submit.create",
            submit(Command::Create {
                conversation_type: 1,
                history: 0,
                group_name: Some("five".into()),
                members: vec![ALICE, BOB],
            }),
        ),
        sample(
            "submit.mute",
            submit(Command::Mute { conversation: CONVERSATION, until_ms: 1_790_000_000_123 }),
        ),
        sample("submit.profile", submit(Command::Profile { username: "alice".into() })),
        sample(
            "submit.push_token",
            submit(Command::PushToken { device: "phone".into(), token: Some((2, "a token".into())) }),
        ),
        sample("submit.push_token_none", submit(Command::PushToken { device: "phone".into(), token: None })),
        sample("submit.revoke", submit(Command::Revoke { device: "phone".into() })),
        sample("submit.provision", submit(Command::Provision { name: "alice".into() })),
        sample("submit.create_user", submit(Command::CreateUser { user: None, username: "alice".into() })),
        sample(
            "accepted",
            Accepted {
                session: 5,
                request: 8,
                conversation: CONVERSATION,
                seq: 142,
                id: MESSAGE.0,
                duplicate: true,
                unchanged: false,
            },
        ),
        sample(
            "refused",
            Refused {
                session: 5,
                request: 8,
                code: 10,
                retry_after_ms: 1_500,
                field: "content".into(),
                message: "send fewer messages".into(),
            },
        ),
        sample("not_owner", NotOwner { session: 5, request: 8, slot: 4_095 }),
    ]
}

fn changes() -> Vec<Sample> {
    let change = |name, change| {
        let command = Command::Change { conversation: CONVERSATION, change };
        let client_msg_id = "mine".into();
        sample(
            name,
            Submit {
                slot_epoch: 0,
                session: 5,
                request: 8,
                user: ALICE,
                said_after: Vec::new(),
                client_msg_id,
                command,
            },
        )
    };
    vec![
        change("submit.change.add_members", Change::AddMembers { users: vec![ALICE, BOB] }),
        change("submit.change.remove_member", Change::RemoveMember { user: BOB }),
        change("submit.change.rename", Change::Rename { group_name: "six".into() }),
        change("submit.change.set_role", Change::SetRole { user: BOB, role: 1 }),
        change("submit.change.delete", Change::Delete { message: MESSAGE }),
        change("submit.change.react", Change::React { message: MESSAGE, emoji: "\u{1f44d}".into() }),
        change("submit.change.unreact", Change::Unreact { message: MESSAGE, emoji: "\u{1f44d}".into() }),
    ]
}

fn live() -> Vec<Sample> {
    let presence = UserPresence { user: BOB, online: false, last_seen_at_ms: 1_790_000_000_123 };
    vec![
        sample("watch", Watch { session: 5, request: 12, user: ALICE, users: vec![BOB], watch: true }),
        sample("watched", Watched { session: 5, request: 12, users: vec![presence] }),
        sample("presence", Presence { user: presence, sessions: vec![5, 6] }),
        sample(
            "typing",
            Typing { session: 5, request: 0, user: ALICE, conversation: CONVERSATION, start: true },
        ),
        sample("typed", Typed { conversation: CONVERSATION, user: ALICE, start: true, users: vec![BOB] }),
        sample(
            "read_sync",
            ReadSync {
                user: ALICE,
                conversation: CONVERSATION,
                read_seq: 140,
                unread_count: 2,
                except_session: 5,
            },
        ),
        sample("revoked", Revoked { user: ALICE, device: "phone".into(), at_ms: 1_790_000_000_123 }),
    ]
}

fn fan_out() -> Vec<Sample> {
    vec![
        sample(
            "notify",
            Notify {
                request: 9,
                conversation: CONVERSATION,
                seq: 142,
                head_seq: 143,
                slot_epoch: 3,
                replayed: true,
                origin_epoch: 77,
                origin_shard: 1,
                origin_session: 5,
                origin_request: 8,
                users: vec![ALICE, BOB],
                record: RECORD.to_vec(),
            },
        ),
        sample("notified", Notified { request: 9 }),
        sample(
            "owners",
            Owners {
                routers: vec![RouterAddress { incarnation: 7, address: "router.example.org:7400".into() }],
                slots: vec![OwnedSlot { slot: 4_095, owner: 7, epoch: 3 }],
            },
        ),
        sample("own", Own { request: 9, slots: vec![OwnedSlot { slot: 4_095, owner: 7, epoch: 3 }] }),
        sample("owned", Owned { request: 9 }),
        sample("lapsed", Lapsed { request: 9 }),
        sample("moved", Moved { slots: vec![OwnedSlot { slot: 4_095, owner: 8, epoch: 4 }] }),
        sample(
            "read_by",
            ReadBy {
                user: BOB,
                conversation: CONVERSATION,
                read_seq: 142,
                unread_count: 3,
                origin_epoch: 77,
                origin_shard: 1,
                origin_session: 5,
            },
        ),
        sample(
            "deliver",
            Deliver {
                replayed: false,
                conversation: CONVERSATION,
                seq: 142,
                head_seq: 143,
                origin_session: 5,
                origin_request: 8,
                users: vec![BOB],
                record: RECORD.to_vec(),
            },
        ),
        sample(
            "receipt",
            Receipt {
                session: 5,
                request: 0,
                user: BOB,
                device: "default".into(),
                conversation: CONVERSATION,
                delivered_seq: 142,
                read_seq: 0,
            },
        ),
        sample(
            "watermark",
            Watermark {
                conversation: CONVERSATION,
                reader: BOB,
                read: true,
                at_ms: 1_790_000_000_123,
                named: true,
                senders: vec![Concerned { user: ALICE, seq: 142, message: MESSAGE, count: 17 }],
            },
        ),
    ]
}

fn reading() -> Vec<Sample> {
    let marks = vec![Mark { user: BOB, delivered_seq: 141, read_seq: 140 }];
    let entry = Entry { seq: 142, record: RECORD.to_vec() };
    let reactions = vec![ReactionCount { emoji: "\u{1f44d}".into(), count: 3, mine: true }];
    let find = |what| Find { request: 11, user: ALICE, what };
    let view = ConversationView {
        conversation: CONVERSATION,
        conversation_type: 1,
        history: 0,
        group_name: Some("five".into()),
        member_ids: vec![ALICE, BOB],
        members_count: 2,
        created_at_ms: 1_790_000_000_000,
        created_by: ALICE,
        head_seq: 142,
        read_seq: 140,
        unread_count: 2,
        last_id: MESSAGE.0,
        last_message: Some(entry.clone()),
        marks: marks.clone(),
        last_reactions: reactions.clone(),
        muted_until_ms: u64::MAX,
    };
    let push_token = PushTokenView { device: "phone".into(), platform: 1, token: "a token".into() };
    let user = UserView {
        user: ALICE,
        username: "alice".into(),
        created_at_ms: 1_790_000_000_000,
        last_seen_at_ms: 0,
        push_tokens: vec![push_token],
    };
    let found = |findings| Found { request: 11, findings };
    let counts = Counts { seq: 142, delivered_count: 900, read_count: 17 };
    let member = MemberView { user: BOB, role: 2, joined_seq: 7 };
    let device = DeviceView { device: "phone".into(), last_seen_at_ms: 1_790_000_000_123, cursor_lag: 3 };
    vec![
        sample(
            "read",
            Read {
                session: 5,
                request: 10,
                user: ALICE,
                conversation: CONVERSATION,
                from_seq: 101,
                to_seq: u64::MAX,
                limit: 50,
                newest_first: false,
                messages_only: true,
            },
        ),
        sample(
            "page",
            Page {
                session: 5,
                request: 10,
                conversation: CONVERSATION,
                first_seq: 1,
                head_seq: 142,
                fanned_out_seq: 142,
                entries: vec![entry],
                has_more: false,
                marks: marks.clone(),
                counts: Some(counts),
                reacted: vec![Reacted { seq: 142, reactions }],
            },
        ),
        sample("find.conversations", find(Wanted::Conversations { below: (u64::MAX, u64::MAX), limit: 50 })),
        sample("find.conversation", find(Wanted::Conversation(CONVERSATION))),
        sample("find.user", find(Wanted::User(BOB))),
        sample("find.username", find(Wanted::Username("alice".into()))),
        sample(
            "find.members",
            find(Wanted::Members { conversation: CONVERSATION, after: ALICE, limit: 200 }),
        ),
        sample("find.receipts", find(Wanted::Receipts { conversation: CONVERSATION, seq: 142 })),
        sample("find.devices", find(Wanted::Devices)),
        sample("find.admission", find(Wanted::Admission { device: "phone".into() })),
        sample(
            "found.conversations",
            found(Findings::Conversations { conversations: vec![view], more: true }),
        ),
        sample("found.user", found(Findings::User(user))),
        sample("found.members", found(Findings::Members { members: vec![member], more: false })),
        sample("found.marks", found(Findings::Marks(marks.clone()))),
        sample("found.counts", found(Findings::Counts(counts))),
        sample("found.devices", found(Findings::Devices(vec![device]))),
        sample(
            "found.admission",
            found(Findings::Admission { known: true, revoked_at_ms: 1_790_000_000_123 }),
        ),
    ]
}

fn samples() -> Vec<Sample> {
    [registration(), commands(), changes(), live(), fan_out(), reading()].into_iter().flatten().collect()
}

pub(crate) fn golden() -> Vec<Golden> {
    samples().iter().map(|sample| Golden::hex(&format!("link/{}", sample.name), &sample.bytes)).collect()
}

/// Tiers one version apart read each other's frames (F18).
#[test]
fn link_files_are_read_as_they_were_meant() {
    for sample in samples() {
        (sample.read_back)(&bytes_of(&format!("link/{}.hex", sample.name)));
    }
}
