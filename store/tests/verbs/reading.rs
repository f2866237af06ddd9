//! Queries: what they show, to whom, and in which pieces.

use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::limits::PAGE_BYTES_MAX;
use carillon_protocol::reason::Code;
use carillon_protocol::record::{ConversationType, UserRow};
use carillon_protocol::time::WallMs;
use carillon_store::chance::Chance;
use carillon_store::conformance::world::{add, change, create, page, receipt, remove, send};
use carillon_store::keys;
use carillon_store::verb::{Answer, Hearer, Joined, Mark, Outcome, PageQuery, Query, Standing, Summary};

use super::*;

#[test]
fn g11_everything_a_query_shows_lies_within_the_membership() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    fill(&mut world, group, 1, 9);
    world.users([3, 4]);
    add_member(&world, group, 3, 4, 0);
    add_member(&world, group, 4, 4, 7);

    assert_eq!(world.seqs(1, group), (1..=10).collect::<Vec<_>>());
    assert_eq!(world.seqs(3, group), (4..=10).collect::<Vec<_>>());
    assert_eq!(world.seqs(4, group), (4..=7).collect::<Vec<_>>());
    for (user, first_seq, head_seq) in [(1, 1, 10), (3, 4, 10), (4, 4, 7)] {
        let standing = Standing { conversation: group, first_seq, joined_seq: first_seq, head_seq };
        assert_eq!(world.log(user, group).standing, standing);
        let peeked = world.ask(&Query::Peek { user: UserId(user), conversations: vec![group] });
        assert_eq!(peeked, Answer::Standings(vec![standing]));
    }
    assert_eq!(read_page(&world, page(3, group, 1, 3)), (vec![], false));
    assert_eq!(
        read_page(&world, PageQuery { newest_first: true, ..page(4, group, 0, 9) }),
        (vec![7, 6, 5, 4], false)
    );
    let members = world.ask(&Query::Members { conversation: group });
    assert!(matches!(members, Answer::Members { members, .. }
        if members == hearers(&[(1, 1, u64::MAX), (2, 1, u64::MAX), (3, 4, u64::MAX), (4, 4, 7)])));
    let session = |world: &MemoryWorld, user| {
        world.ask(&Query::Session { user: UserId(user), device: PHONE.to_owned() })
    };
    let listed = |cursors: &[u64]| {
        let joined = |cursor: &u64| Joined { conversation: group, cursor: *cursor, is_returning: false };
        let conversations = cursors.iter().map(joined).collect();
        Answer::Session { known: true, revoked_at: None, conversations }
    };
    assert_eq!(session(&world, 3), listed(&[0]));
    assert_eq!(session(&world, 4), listed(&[]));
    world.one(receipt(3, group, 5, 0));
    assert_eq!(session(&world, 3), listed(&[5]));
    assert_eq!(summary(&world, 3, group).last_message.unwrap().seq, 10);
    let query = Query::Conversation { user: UserId(4), conversation: group };
    assert_eq!(code(&world.ask(&query)), Some(Code::Forbidden));
    assert!(world.log(4, group).marks.is_empty(), "watermarks are for members");
    assert_eq!(world.refusal(receipt(4, group, 7, 0)).code, Code::Forbidden);

    set_history_all(&world, group);
    assert_eq!(world.seqs(3, group), (1..=10).collect::<Vec<_>>());
    assert_eq!(world.seqs(4, group), (1..=7).collect::<Vec<_>>(), "nothing after, whatever came before");
}

fn hearers(members: &[(u64, u64, u64)]) -> Vec<Hearer> {
    let hearer = |(user, from_seq, to_seq): &(u64, u64, u64)| Hearer {
        user: UserId(*user),
        from_seq: *from_seq,
        to_seq: *to_seq,
    };
    members.iter().map(hearer).collect()
}

/// G12, and the unread count: others' messages above the watermark, counted here one by one.
#[test]
fn g12_watermarks_and_unread_counts_are_those_of_the_log() {
    for seed in 1..=6 {
        let mut world = world();
        let group = world.group(10, &[1, 2, 3]);
        let mut chance = Chance::new(seed);
        let mut senders = vec![0];
        let mut marks = [[0_u64; 2]; 3];
        for step in 0..250 {
            let user = 1 + chance.below(3);
            if chance.below(3) > 0 {
                world.append(send(user, group, &step.to_string(), "x"));
                senders.push(user);
                continue;
            }
            let head = senders.len() as u64;
            let (delivered, read) = (chance.below(head + 1), chance.below(2) * chance.below(head + 1));
            let mark = &mut marks[user as usize - 1];
            let before = *mark;
            *mark = [mark[0].max(delivered).max(read), mark[1].max(read)];
            let outcome = world.one(receipt(user, group, delivered, read));
            let Outcome::Receipted(receipted) = outcome else { panic!("seed {seed}: {outcome:?}") };
            assert_eq!(receipted.delivered, (before[0], mark[0]), "seed {seed} step {step}");
            assert_eq!(receipted.read, (before[1], mark[1]), "seed {seed} step {step}");
            for user in 1..=3 {
                let read_seq = marks[user as usize - 1][1] as usize;
                let unread =
                    senders[read_seq..].iter().filter(|sender| **sender != user && **sender != 0).count();
                let summary = summary(&world, user, group);
                assert_eq!(summary.unread_count, unread as u64, "seed {seed} step {step} user {user}");
                assert_eq!(summary.marks.len(), 2);
            }
        }
        let shown = world.log(1, group).marks;
        let expected: Vec<Mark> = (2..=3)
            .map(|user| (user, marks[user as usize - 1]))
            .map(|(user, [delivered_seq, read_seq])| Mark { user: UserId(user), delivered_seq, read_seq })
            .collect();
        assert_eq!(shown, expected, "seed {seed}");
    }
}

#[test]
fn last_seen_is_for_those_who_share_a_conversation() {
    let mut world = world();
    world.users(1..=3);
    // Enough conversations that the two lists are read in several pieces.
    for number in 0..300 {
        let other = 3 + number % 2 * 7;
        world.group(100 + number, &[1, other]);
        world.group(500 + number, &[2, other + 1]);
    }
    let shared = Query::User { asker: UserId(1), user: UserId(2) };
    by_hand(&world, |txn| {
        let row = UserRow { username: "two".into(), created_at: WallMs(1), last_seen_at: Some(WallMs(9)) };
        txn.set(keys::user(UserId(2)), row.encode().into());
    });
    let last_seen = |query: &Query| match world.ask(query) {
        Answer::User(profile) => profile.last_seen_at,
        other => panic!("{other:?}"),
    };
    assert_eq!(last_seen(&shared), None);
    assert_eq!(last_seen(&Query::User { asker: UserId(2), user: UserId(2) }), Some(WallMs(9)));
    world.append(create(900, ConversationType::OneToOne, &[1, 2], ""));
    let last_seen = match world.ask(&shared) {
        Answer::User(profile) => profile.last_seen_at,
        other => panic!("{other:?}"),
    };
    assert_eq!(last_seen, Some(WallMs(9)));
}

#[test]
fn pages_go_both_ways_and_say_whether_more_follows() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    fill(&mut world, group, 1, 9);
    let query = page(2, group, 1, u64::MAX);
    let newest = PageQuery { newest_first: true, ..query };
    let cases = [
        (PageQuery { limit: 3, ..query }, vec![1, 2, 3], true),
        (PageQuery { limit: 10, ..query }, (1..=10).collect(), false),
        (PageQuery { limit: 3, from_seq: 8, ..query }, vec![8, 9, 10], false),
        (PageQuery { limit: 3, from_seq: 11, ..query }, vec![], false),
        (PageQuery { limit: 3, from_seq: 4, to_seq: 5, ..query }, vec![4, 5], false),
        (PageQuery { limit: 2, from_seq: 4, to_seq: 6, ..query }, vec![4, 5], true),
        (PageQuery { limit: 0, ..query }, vec![], true),
        (PageQuery { from_seq: 5, to_seq: 4, ..query }, vec![], false),
        (PageQuery { limit: 3, ..newest }, vec![10, 9, 8], true),
        (PageQuery { limit: 3, to_seq: 3, ..newest }, vec![3, 2, 1], false),
        (PageQuery { limit: 9, messages_only: true, ..newest }, (2..=10).rev().collect(), false),
        (PageQuery { limit: 8, messages_only: true, ..newest }, (3..=10).rev().collect(), true),
        (PageQuery { limit: 2, messages_only: true, ..query }, vec![2, 3], true),
        (PageQuery { to_seq: 1, messages_only: true, ..query }, vec![], false),
    ];
    for (query, seqs, has_more) in cases {
        assert_eq!(read_page(&world, query), (seqs, has_more), "{query:?}");
    }
}

#[test]
fn a_page_ends_at_its_bytes_or_with_one_event() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    for index in 0..8 {
        world.append(send(1, group, &index.to_string(), &"x".repeat(16_000)));
    }
    let page = match world.ask(&Query::Page(page(1, group, 2, 100))) {
        Answer::Page(page) => page,
        other => panic!("{other:?}"),
    };
    assert_eq!((page.entries.len(), page.has_more), (4, true));
    assert!(page.entries.iter().map(|entry| entry.record.len()).sum::<usize>() <= PAGE_BYTES_MAX);
    world.append(send(1, group, "big", &"x".repeat(PAGE_BYTES_MAX + 1)));
    assert_eq!(read_page(&world, self::page(1, group, 10, 100)), (vec![10], false));
    assert_eq!(world.seqs(2, group).len(), 10);
}

/// AP5, OR7: latest activity first; whoever pages meets every conversation once, also those that come up meanwhile.
#[test]
fn lists_are_by_latest_activity_as_of_when_they_were_begun() {
    let mut world = world();
    for number in 1..=5 {
        world.group(number, &[1, 2]);
    }
    world.group(6, &[2, 3]);
    for number in [4, 2, 5] {
        world.append(send(2, ConversationId(number), "k", "hello"));
    }
    let list = |world: &MemoryWorld, (below, as_of), limit| match world.ask(&Query::Conversations {
        user: UserId(1),
        below,
        as_of,
        limit,
    }) {
        Answer::Conversations { summaries, more } => (summaries, more),
        other => panic!("{other:?}"),
    };
    let (all, more) = list(&world, (u64::MAX, u64::MAX), 10);
    let order = |summaries: &[Summary]| summaries.iter().map(|one| one.conversation.0).collect::<Vec<_>>();
    assert_eq!((order(&all), more), (vec![5, 2, 4, 3, 1], false));
    assert_eq!(all.iter().map(|one| one.unread_count).collect::<Vec<_>>(), [1, 1, 1, 0, 0]);
    let last: Vec<_> = all.iter().map(|one| one.last_message.as_ref().map(|entry| entry.seq)).collect();
    assert_eq!(last, [Some(2), Some(2), Some(2), None, None]);

    let (first, more) = list(&world, (u64::MAX, u64::MAX), 2);
    assert_eq!((order(&first), more), (vec![5, 2], true));
    let as_of = first[0].last_id.0;
    for content in ["comes up", "while", "somebody pages"] {
        world.append(send(2, ConversationId(3), content, content));
    }
    world.append(send(2, ConversationId(5), "k2", "came before"));
    world.group(7, &[1, 2]);
    let place = (first[1].last_id.0, as_of);
    let (second, more) = list(&world, place, 2);
    assert_eq!((order(&second), more), (vec![4, 3], true), "where it stood");
    assert_eq!(second[1].last_message.as_ref().map(|entry| entry.seq), Some(4), "with what came");
    let (third, more) = list(&world, (second[1].last_id.0, as_of), 2);
    assert_eq!((order(&third), more), (vec![1], false));
    let (anew, _) = list(&world, (u64::MAX, u64::MAX), 10);
    assert_eq!(order(&anew), [7, 5, 3, 2, 4, 1]);
}

#[test]
fn fan_out_reads_events_and_senders_in_pieces() {
    let mut world = world();
    let group = world.group(10, &[1, 2, 3]);
    for (index, sender) in [1, 2, 1, 3, 2].into_iter().enumerate() {
        world.append(send(sender, group, &index.to_string(), "x"));
    }
    let events = |from_seq, limit| match world.ask(&Query::Events { conversation: group, from_seq, limit }) {
        Answer::Events(entries) => entries.iter().map(|entry| entry.seq).collect::<Vec<_>>(),
        other => panic!("{other:?}"),
    };
    assert_eq!(events(1, 100), [1, 2, 3, 4, 5, 6]);
    assert_eq!(events(4, 2), [4, 5]);
    assert!(events(7, 9).is_empty());
    let senders = |after_seq, up_to_seq, except| {
        let except = UserId(except);
        match world.ask(&Query::Senders { conversation: group, after_seq, up_to_seq, except }) {
            Answer::Senders(senders) => {
                senders.iter().map(|(user, seq, _)| (user.0, *seq)).collect::<Vec<_>>()
            }
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(senders(0, 6, 3), [(1, 4), (2, 6)]);
    assert_eq!(senders(2, 5, 2), [(1, 4), (3, 5)]);
    assert_eq!(senders(6, 6, 9), []);
    assert_eq!(senders(6, 2, 9), []);
    assert_eq!(senders(0, 1, 9), [], "a creation is nobody's message");
    assert_eq!(senders(0, u64::MAX, 3), [], "only the last thousand of a range");
}

/// G11: who was removed hears no more of how far their messages get.
#[test]
fn g11_senders_are_those_who_are_members() {
    let mut world = world();
    let group = world.group(10, &[1, 2, 3]);
    world.append(send(2, group, "a", "x"));
    world.append(change(1, group, "r", remove(2)));
    let senders = Query::Senders { conversation: group, after_seq: 0, up_to_seq: 3, except: UserId(3) };
    assert_eq!(world.ask(&senders), Answer::Senders(Vec::new()));
    world.append(change(1, group, "again", add(&[2])));
    assert!(matches!(world.ask(&senders), Answer::Senders(senders) if senders.len() == 1));
}
