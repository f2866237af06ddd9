//! What is taken and what is given: commands out of bounds never reach the store, and no answer outgrows a link frame.

use bytes::Bytes;
use carillon_protocol::frame::{Change, Command, LinkFrame, Wanted};
use carillon_protocol::ids::{ConversationId, ID_MAX, MessageId, UserId};
use carillon_protocol::limits::{
    EMOJI_BYTES_MAX, GROUP_NAME_BYTES_MAX, LINK_FRAME_BYTES_MAX, MEMBER_IDS_MAX, MESSAGE_EMOJIS_MAX,
    PAGE_BYTES_MAX, PAGE_EVENTS_MAX, PUSH_TOKEN_BYTES_MAX, SMALL_GROUP_MEMBERS_MAX, USERNAME_BYTES_MAX,
};
use carillon_protocol::reason::Code;
use carillon_protocol::time::WallMs;
use carillon_router::answer;
use carillon_router::batch::Origin;
use carillon_router::outbox::LaneId;
use carillon_store::verb::{Answer, Entry, Mark, Page, Profile, ReactionCount, Standing};

use crate::hand::{ALICE, BOB, Hand, Heard, Model, ROOM};

const ORIGIN: Origin = Origin { lane: LaneId(1), session: 1, request: 1 };

/// What is wrong with a command is said by the name of its field, before the store sees it.
#[test]
fn commands_out_of_bounds_are_refused_at_the_border() {
    let text = |length: usize| "x".repeat(length);
    let message = MessageId(7);
    let change = |change| Command::Change { conversation: ROOM, change };
    let users = |count: u64| (1..=count).map(UserId).collect::<Vec<_>>();
    let too_many = users(MEMBER_IDS_MAX as u64 + 1);
    let table = [
        (change(Change::AddMembers { users: too_many }), Code::TooLarge, "user_ids"),
        (change(Change::AddMembers { users: users(0) }), Code::BadRequest, "user_ids"),
        (change(Change::AddMembers { users: vec![UserId(ID_MAX + 1)] }), Code::BadRequest, "user_ids"),
        (change(Change::RemoveMember { user: UserId(0) }), Code::BadRequest, "user_id"),
        (change(Change::Rename { group_name: text(0) }), Code::BadRequest, "group_name"),
        (change(Change::Rename { group_name: text(GROUP_NAME_BYTES_MAX + 1) }), Code::TooLarge, "group_name"),
        (change(Change::SetRole { user: BOB, role: 2 }), Code::BadRequest, "role"),
        (change(Change::SetRole { user: BOB, role: 9 }), Code::BadRequest, "role"),
        (change(Change::Delete { message: MessageId(0) }), Code::BadRequest, "message_id"),
        (change(Change::React { message, emoji: text(0) }), Code::BadRequest, "emoji"),
        (change(Change::Unreact { message, emoji: text(EMOJI_BYTES_MAX + 1) }), Code::TooLarge, "emoji"),
        (Command::Mute { conversation: ConversationId(0), until_ms: 1 }, Code::BadRequest, "conversation_id"),
        (Command::Profile { username: text(USERNAME_BYTES_MAX + 1) }, Code::TooLarge, "username"),
        (Command::Profile { username: text(0) }, Code::BadRequest, "username"),
        (Command::Revoke { device: "no device".into() }, Code::BadRequest, "device_id"),
        (
            Command::PushToken { device: "phone".into(), token: Some((9, text(1))) },
            Code::BadRequest,
            "platform",
        ),
        (
            Command::PushToken { device: "phone".into(), token: Some((0, text(PUSH_TOKEN_BYTES_MAX + 1))) },
            Code::TooLarge,
            "token",
        ),
    ];
    let mut hand = Hand::new(Model::with_room(&[ALICE, BOB]));
    let lane = hand.lane(1);
    hand.hear(lane);
    for (command, code, field) in table {
        let what = format!("{command:?}");
        hand.submit(lane, 5, 7, ALICE, "id", command);
        hand.turn();
        assert!(hand.commits.is_empty(), "{what}");
        let heard = hand.hear(lane);
        let [Heard::Refused(refused)] = &heard[..] else { panic!("{what}: {heard:?}") };
        assert_eq!((Code::from_number(refused.code), &refused.field[..]), (code, field), "{what}");
    }
    hand.submit(
        lane,
        5,
        7,
        ALICE,
        "",
        Command::Change { conversation: ROOM, change: Change::Delete { message } },
    );
    hand.turn();
    assert!(matches!(&hand.hear(lane)[..], [Heard::Refused(refused)] if refused.field == "client_msg_id"));
    hand.find(lane, ALICE, Wanted::Admission { device: "no device".into() });
    assert!(hand.queries.is_empty());
    assert!(matches!(&hand.hear(lane)[..], [Heard::Refused(_)]));
}

/// G13, FU6b: a page with as many reactions as there can be is cut, says that more follow, and fits a frame.
#[test]
fn g13_a_page_full_of_reactions_fits_a_frame() {
    let reaction = |n: usize| ReactionCount { emoji: format!("{n:064}"), count: u64::MAX, mine: true };
    for newest_first in [false, true] {
        let mut seqs: Vec<u64> = (1..=u64::from(PAGE_EVENTS_MAX)).collect();
        let reactions =
            seqs.iter().map(|seq| (*seq, (0..MESSAGE_EMOJIS_MAX).map(reaction).collect())).collect();
        if newest_first {
            seqs.reverse();
        }
        let record = Bytes::from(vec![1; PAGE_BYTES_MAX / PAGE_EVENTS_MAX as usize]);
        let entries: Vec<Entry> =
            seqs.iter().map(|seq| Entry { seq: *seq, record: record.clone() }).collect();
        let mark = |user| Mark { user: UserId(user), delivered_seq: 1, read_seq: 1 };
        let standing = Standing { conversation: ROOM, first_seq: 1, joined_seq: 1, head_seq: 200 };
        let marks = (0..SMALL_GROUP_MEMBERS_MAX as u64).map(mark).collect();
        let page = Page { standing, entries, has_more: false, marks, counts: None, reactions };
        let page = answer::page(ORIGIN, page, 200);
        assert!(page.to_frame().len() < LINK_FRAME_BYTES_MAX);
        assert!(page.has_more && !page.entries.is_empty() && page.entries.len() < seqs.len());
        assert!(page.entries.iter().zip(&seqs).all(|(entry, seq)| entry.seq == *seq), "cut at its end");
        assert_eq!(page.reacted.len(), page.entries.len(), "each with its own");
        assert!(page.reacted.is_sorted_by_key(|reacted| reacted.seq));
    }
}

/// G13: a profile with more push tokens than a frame holds leaves the last ones out.
#[test]
fn g13_a_profile_with_many_push_tokens_fits_a_frame() {
    let token = |n: usize| (format!("d{n}"), 0, "t".repeat(PUSH_TOKEN_BYTES_MAX));
    let push_tokens = (0..100).map(token).collect();
    let username = "alice".to_owned();
    let profile = Profile { user: ALICE, username, created_at: WallMs(1), last_seen_at: None, push_tokens };
    let found = answer::found(1, Answer::User(profile)).expect("a profile is a finding");
    assert!(found.to_frame().len() < LINK_FRAME_BYTES_MAX);
}
