//! What reading costs: which ranges of which family, counted under the verbs.

use std::collections::BTreeMap;

use bytes::Bytes;
use carillon_protocol::ids::UserId;
use carillon_protocol::record::ConversationType;
use carillon_store::conformance::world::{change, create, page, send};
use carillon_store::error::ReadError;
use carillon_store::query::answer;
use carillon_store::txn::Read;
use carillon_store::verb::Change;

use super::*;

/// A view that counts what is read, by family.
struct Counting<'a> {
    read: Box<dyn Read + Send + 'a>,
    gets: BTreeMap<char, usize>,
    ranges: BTreeMap<char, usize>,
    /// Rows that ranges gave.
    rows: BTreeMap<char, usize>,
}

fn family(key: &[u8]) -> char {
    char::from(key[0])
}

impl Read for Counting<'_> {
    fn get(&mut self, key: &[u8]) -> Result<Option<Bytes>, ReadError> {
        *self.gets.entry(family(key)).or_default() += 1;
        self.read.get(key)
    }

    fn range(&mut self, from: &[u8], to: &[u8], limit: usize, reverse: bool) -> Result<Vec<Row>, ReadError> {
        *self.ranges.entry(family(from)).or_default() += 1;
        let rows = self.read.range(from, to, limit, reverse)?;
        *self.rows.entry(family(from)).or_default() += rows.len();
        Ok(rows)
    }
}

fn counted<'a>(world: &'a MemoryWorld, query: &Query) -> (Counting<'a>, Answer) {
    let (gets, ranges, rows) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut counting = Counting { read: world.engine.snapshot().unwrap(), gets, ranges, rows };
    let answer = answer(&mut counting, query).unwrap();
    (counting, answer)
}

/// DM5: one page is one range read of events; reactions are one more, and one for each message that has any.
#[test]
fn dm5_a_page_is_one_range_read_of_events() {
    let mut world = world();
    let group = world.group(10, &[1, 2]);
    fill(&mut world, group, 1, 90);
    let message = world.append(send(1, group, "m", "hello")).id;
    for newest_first in [false, true] {
        let query = PageQuery { limit: 50, newest_first, ..page(2, group, 1, u64::MAX) };
        let (reads, answer) = counted(&world, &Query::Page(query));
        assert!(matches!(&answer, Answer::Page(page) if page.entries.len() == 50), "{answer:?}");
        assert_eq!((reads.ranges[&'e'], reads.rows[&'e']), (1, 51), "one more tells that there are more");
        assert_eq!(reads.ranges.keys().collect::<String>(), "emz", "events, members, reactions");
        assert!(reads.ranges.values().all(|count| *count == 1), "{:?}", reads.ranges);
        assert_eq!(reads.gets.keys().collect::<String>(), "hm");
    }
    for (index, emoji) in ["+", "-", "!"].into_iter().enumerate() {
        let emoji = emoji.to_owned();
        world.append(change(1, group, &format!("r{index}"), Change::React { message, emoji }));
    }
    let query = PageQuery { limit: 50, newest_first: true, ..page(2, group, 1, u64::MAX) };
    let (reads, _) = counted(&world, &Query::Page(query));
    assert_eq!((reads.ranges[&'e'], reads.ranges[&'z'], reads.ranges[&'r']), (1, 1, 1));
}

/// DB2: a name is one key, and a user's conversations are their own range, however many others there are.
#[test]
fn db2_names_and_conversations_are_found_by_index_keys() {
    let mut world = world();
    world.users(1..=200);
    for other in 2..=200 {
        world.append(create(1_000 + other, ConversationType::OneToOne, &[other, other % 199 + 1], ""));
    }
    let mine = 3;
    for other in 10..10 + mine {
        world.append(create(2_000 + other, ConversationType::OneToOne, &[1, other], ""));
    }
    let query = Query::Username { asker: UserId(2), username: "user-150".to_owned() };
    let (reads, answer) = counted(&world, &query);
    assert!(matches!(&answer, Answer::User(profile) if profile.user == UserId(150)), "{answer:?}");
    assert_eq!((reads.gets[&'n'], reads.gets[&'u']), (1, 1));
    assert!(reads.ranges.is_empty(), "{:?}", reads.ranges);

    let query = Query::Conversations { user: UserId(1), below: u64::MAX, as_of: u64::MAX, limit: 50 };
    let (reads, answer) = counted(&world, &query);
    let Answer::Conversations { summaries, .. } = &answer else { panic!("{answer:?}") };
    let count = summaries.len();
    assert!(count >= mine as usize && count < 8, "{count}");
    assert_eq!((reads.ranges[&'l'], reads.rows[&'l']), (1, count));
    assert_eq!(reads.rows[&'m'], 2 * count, "both members of each");
    assert!(!reads.ranges.contains_key(&'c') && !reads.ranges.contains_key(&'h'));
}

/// What a connecting device needs is two range reads, however many conversations there are.
#[test]
fn a_session_is_two_range_reads() {
    let mut world = world();
    for number in 1..=40 {
        world.group(number, &[1, 2]);
    }
    let (reads, _) = counted(&world, &Query::Session { user: UserId(1), device: PHONE.to_owned() });
    assert_eq!((reads.ranges[&'l'], reads.ranges[&'d'], reads.ranges.len()), (1, 1, 2));
    assert_eq!(reads.gets.keys().collect::<String>(), "uv");
}
