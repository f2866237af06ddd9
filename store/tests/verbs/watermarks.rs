//! Watermarks in groups of every size, and positions far from the head.

use carillon_protocol::ids::UserId;
use carillon_protocol::limits::SMALL_GROUP_MEMBERS_MAX;
use carillon_store::chance::Chance;
use carillon_store::conformance::world::{add, change, page, receipt, send};
use carillon_store::verb::{COUNTS_MAX, Change, Counts, Mark, OPEN_EVENTS_MAX, Receipted};

use super::*;

fn read(world: &mut MemoryWorld, user: u64, seq: u64) -> Receipted {
    match world.one(receipt(user, carillon_protocol::ids::ConversationId(10), 0, seq)) {
        Outcome::Receipted(receipted) => receipted,
        other => panic!("{other:?}"),
    }
}

/// G12: unread counts are exact however far a member reads at once, over whole stretches of the log that nobody
/// counted, that somebody counted, and parts of them.
#[test]
fn g12_unread_counts_are_exact_in_a_long_log() {
    for seed in 1..=3 {
        let mut world = world();
        let group = world.group(10, &[1, 2, 3]);
        let mut chance = Chance::new(seed);
        // Sender of each message by seq − 1; 0 for other events.
        let mut senders = vec![0];
        let mut ids = Vec::new();
        while senders.len() < 6_000 {
            let ops: Vec<Op> = (0..200)
                .map(|_| {
                    let (user, key) = (1 + chance.below(3), senders.len().to_string());
                    let is_other = chance.below(9) == 0;
                    senders.push(if is_other { 0 } else { user });
                    let group_name = key.clone();
                    let rename = Change::Rename { group_name };
                    if is_other { change(user, group, &key, rename) } else { send(user, group, &key, "x") }
                })
                .collect();
            for outcome in world.commit(&ops) {
                let Outcome::Appended(appended) = outcome else { panic!("seed {seed}: {outcome:?}") };
                ids.push((appended.seq, appended.id));
            }
        }
        let mut deleted = Vec::new();
        for _ in 0..40 {
            let (seq, message) = ids[chance.below(ids.len() as u64) as usize];
            let sender = senders[seq as usize - 1];
            if sender != 0 && !deleted.contains(&seq) {
                world.append(change(sender, group, &format!("d{seq}"), Change::Delete { message }));
                senders.push(0);
                deleted.push(seq);
            }
        }
        let mut marks = [0_u64; 3];
        for step in 0..30 {
            let user = 1 + chance.below(3);
            let head = senders.len() as u64;
            let seq = match chance.below(4) {
                // At the edges of stretches as well as anywhere.
                0 => 1_024 * chance.below(6) + chance.below(2),
                _ => chance.below(head),
            };
            let mark = &mut marks[user as usize - 1];
            *mark = (*mark).max(seq);
            let receipted = read(&mut world, user, seq);
            let unread = (*mark + 1..=head).filter(|seq| {
                let sender = senders[*seq as usize - 1];
                sender != 0 && sender != user && !deleted.contains(seq)
            });
            assert_eq!(receipted.unread_count, unread.count() as u64, "seed {seed} step {step} user {user}");
            assert_eq!(summary(&world, user, group).unread_count, receipted.unread_count);
        }
        assert!(
            all_rows(&world).iter().any(|(key, _)| key[0] == b'a'),
            "seed {seed}: stretches were counted"
        );
    }
}

/// G13: a long way is counted once; the next reader of it looks at a row for each stretch.
#[test]
fn g13_a_stretch_of_the_log_is_counted_once() {
    let mut world = world();
    let group = world.group(10, &[1, 2, 3]);
    for batch in 0..40 {
        let ops: Vec<Op> = (0..100).map(|index| send(1, group, &format!("{batch} {index}"), "x")).collect();
        world.commit(&ops);
        world.append(send(2 + batch % 2, group, &format!("own {batch}"), "x"));
    }
    let tallies = |world: &MemoryWorld| all_rows(world).iter().filter(|(key, _)| key[0] == b'a').count();
    assert_eq!(tallies(&world), 0, "sending counts nothing");
    read(&mut world, 2, 1_900);
    assert_eq!(tallies(&world), 1);
    read(&mut world, 3, 2_000);
    assert_eq!(tallies(&world), 1);
    read(&mut world, 3, 4_000);
    assert_eq!(tallies(&world), 1, "from the near end");
}

/// Above the size up to which members are named, they are counted, without the one it is for.
#[test]
fn receipts_of_large_groups_are_counts() {
    let mut world = world();
    world.members_max = 1_000;
    let members: Vec<u64> = (1..=SMALL_GROUP_MEMBERS_MAX as u64).collect();
    let group = world.group(10, &members);
    let receipts = |user, seq| Query::Receipts { user: UserId(user), conversation: group, seq };
    world.append(send(1, group, "a", "hello"));
    read(&mut world, 2, 2);
    let small = world.ask(&receipts(1, 0));
    let Answer::Marks(marks) = small else { panic!("{small:?}") };
    assert_eq!(marks.len(), SMALL_GROUP_MEMBERS_MAX - 1);
    assert_eq!(marks[0], Mark { user: UserId(2), delivered_seq: 2, read_seq: 2 });
    assert_eq!(world.log(1, group).counts, None);

    world.users([500]);
    world.append(change(1, group, "b", add(&[500])));
    let counts = |seq, delivered_count, read_count| Counts { seq, delivered_count, read_count };
    // Who came later holds nothing back.
    assert_eq!(world.ask(&receipts(1, 2)), Answer::Counts(vec![counts(2, 2, 2)]));
    assert_eq!(world.ask(&receipts(2, 2)), Answer::Counts(vec![counts(2, 1, 1)]));
    assert_eq!(world.ask(&receipts(1, 0)), Answer::Counts(vec![counts(3, 0, 0)]));
    world.one(receipt(3, group, 3, 0));
    assert_eq!(world.ask(&receipts(1, 0)), Answer::Counts(vec![counts(3, 1, 0)]));
    assert_eq!(code(&world.ask(&receipts(1, 4))), Some(Code::BadRequest));
    assert_eq!(code(&world.ask(&receipts(501, 1))), Some(Code::Forbidden));

    let log = |user| world.log(user, group);
    assert_eq!((log(1).counts, log(1).marks), (Some(counts(2, 3, 2)), vec![]));
    assert_eq!(log(2).counts, Some(Counts::default()), "none of their own");
    let query = Query::Page(page(1, group, 3, 9));
    assert!(matches!(world.ask(&query), Answer::Page(page) if page.counts == Some(Counts::default())));

    let senders = vec![(UserId(1), 2), (UserId(2), 2), (UserId(3), 3)];
    let asked = world.ask(&Query::Counts { conversation: group, senders });
    assert_eq!(asked, Answer::Counts(vec![counts(2, 3, 2), counts(2, 2, 1), counts(3, 0, 0)]));
    let senders = vec![(UserId(1), 2); COUNTS_MAX + 1];
    let asked = world.ask(&Query::Counts { conversation: group, senders });
    assert_eq!(code(&asked), Some(Code::TooLarge));
    let asked = Query::Counts { conversation: carillon_protocol::ids::ConversationId(77), senders: vec![] };
    assert_eq!(code(&world.ask(&asked)), Some(Code::Forbidden));
}

/// G13: what is too large to be kept in memory is refused, and says so.
#[test]
fn g13_only_conversations_of_a_size_are_kept_in_memory() {
    let mut world = world();
    world.members_max = 2_000;
    let members: Vec<u64> = (1..=1_000).collect();
    let group = world.group(10, &members);
    let open = Query::Open { conversation: group };
    let opened = world.ask(&open);
    let Answer::Open(opened) = opened else { panic!("{opened:?}") };
    assert_eq!((opened.members.len(), opened.tail.len(), opened.head.seq), (1_000, 1, 1));
    let count = OPEN_EVENTS_MAX as u64;
    fill(&mut world, group, 1, count + 9);
    let opened = world.ask(&open);
    let Answer::Open(opened) = opened else { panic!("{opened:?}") };
    assert!(opened.tail.iter().map(|entry| entry.seq).eq(11..=count + 10));
    world.users([1_001]);
    world.append(change(1, group, "k", add(&[1_001])));
    assert_eq!(code(&world.ask(&open)), Some(Code::TooLarge));
    let absent = Query::Open { conversation: carillon_protocol::ids::ConversationId(77) };
    assert_eq!(code(&world.ask(&absent)), Some(Code::Forbidden));
}
