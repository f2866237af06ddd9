//! Two routers: conversations and users that change hands, lanes that are lost beside others that stay.

use carillon_gateway::turn::Input;
use carillon_link::Peer;
use carillon_protocol::client::{Command, Wire};
use carillon_protocol::frame::{
    Accepted, Deliver, Entry, Joined, NotOwner, Page, Peeked, Receipt, Refused, Registered, Standing, Submit,
};
use carillon_protocol::ids::{ConversationId, Seq, UserId};
use carillon_protocol::placement::slot_of_user;
use carillon_protocol::reason::Code;
use carillon_protocol::record::{Body, History};

use crate::owners::owned;
use crate::rig::{Client, Rig, Seen, Up, deliver, deliver_event, identify, record, send, token};

pub(crate) const A: Peer = Peer(0);
pub(crate) const B: Peer = Peer(1);

fn incarnation(router: Peer) -> u64 {
    100 + u64::from(router.0)
}

/// A router says that it owns the slots of these users and conversations by this epoch.
pub(crate) fn owns(rig: &mut Rig, router: Peer, epoch: u64, ids: &[u64]) {
    says(rig, router, router, epoch, ids);
}

/// A router says that one owns the slots of these users and conversations by this epoch.
fn says(rig: &mut Rig, router: Peer, owner: Peer, epoch: u64, ids: &[u64]) {
    // Users and conversations fall into slots alike.
    let slots = ids.iter().map(|id| slot_of_user(UserId(*id)).0);
    let living = [A, B].map(incarnation);
    rig.down_from(router, &owned(&living, incarnation(owner), epoch, slots));
}

/// Lanes to both.
pub(crate) fn two_routers() -> Rig {
    let mut rig = Rig::new(&[]);
    for router in [A, B] {
        rig.lane_up_of(router, incarnation(router));
    }
    rig
}

/// The next frame to a router.
pub(crate) fn next_to(rig: &mut Rig, router: Peer) -> Option<Up> {
    if router == A {
        return rig.up.pop_front().map(|bytes| Up::read(&bytes));
    }
    let place = rig.others.iter().position(|(other, _)| *other == router)?;
    rig.others.remove(place).map(|(_, bytes)| Up::read(&bytes))
}

fn is_quiet(rig: &Rig) -> bool {
    rig.up.is_empty() && rig.others.is_empty()
}

/// (conversation, head, how far it is fanned out)
type Stand = (u64, Seq, Seq);

/// Plays a home that registers a session which is a member of these.
fn registers(rig: &mut Rig, home: Peer, client: &mut Client, stands: &[Stand]) -> Vec<Seen> {
    let Some(Up::Register(register)) = next_to(rig, home) else { panic!("registers") };
    let session = register.session;
    let conversation = |stand: &Stand| ConversationId(stand.0);
    let joined = stands.iter().map(|stand| Joined {
        conversation: conversation(stand),
        cursor: stand.1,
        is_returning: false,
    });
    let conversations = joined.collect();
    rig.down_from(home, &Registered { session, request: register.request, conversations, more: false });
    if !stands.is_empty() {
        let Some(Up::Peek(peek)) = next_to(rig, home) else { panic!("peeks") };
        let standings = stands
            .iter()
            .map(|stand| Standing {
                conversation: conversation(stand),
                first_seq: 1,
                joined_seq: 1,
                head_seq: stand.1,
                fanned_out_seq: stand.2,
            })
            .collect();
        rig.down_from(home, &Peeked { session, request: peek.request, standings });
    }
    client.take(rig)
}

/// A client of user 1 that is live at this home.
pub(crate) fn live_at(rig: &mut Rig, home: Peer, stands: &[Stand]) -> Client {
    let mut client = rig.connect(Wire::Json);
    assert!(client.say(rig, None, &identify(&token(1, "phone", 86_400), &[])).is_empty());
    let seen = registers(rig, home, &mut client, stands);
    assert!(matches!(seen.as_slice(), [Seen::Ready { .. }, Seen::CaughtUp]), "{seen:?}");
    client
}

fn submits(rig: &mut Rig, router: Peer) -> Vec<Submit> {
    let mut submits = Vec::new();
    while let Some(up) = next_to(rig, router) {
        let Up::Submit(submit) = up else { panic!("{up:?}") };
        submits.push(submit);
    }
    submits
}

fn keys(submits: &[Submit]) -> Vec<(&str, u64)> {
    submits.iter().map(|submit| (submit.client_msg_id.as_str(), submit.slot_epoch)).collect()
}

fn disown(rig: &mut Rig, router: Peer, submit: &Submit) {
    rig.down_from(router, &NotOwner { session: submit.session, request: submit.request, slot: 0 });
}

fn accept(rig: &mut Rig, router: Peer, submit: &Submit, seq: Seq) {
    let (session, request) = (submit.session, submit.request);
    let conversation = ConversationId(9);
    let accepted =
        Accepted { session, request, conversation, seq, id: seq << 22, duplicate: false, unchanged: false };
    rig.down_from(router, &accepted);
}

fn says_keys(rig: &mut Rig, client: &mut Client, keys: &[&str]) {
    for key in keys {
        let seen = client.say(rig, Some(key), &send(9, Some(key), key));
        assert!(seen.is_empty(), "{seen:?}");
    }
}

fn page(up: Option<Up>, seqs: std::ops::RangeInclusive<Seq>, fanned_out_seq: Seq) -> Page {
    let Some(Up::Read(read)) = up else { panic!("reads, not {up:?}") };
    let head_seq = *seqs.end();
    let entries = seqs.map(|seq| Entry { seq, record: record(seq << 22, 5, "", "x") }).collect();
    Page {
        session: read.session,
        request: read.request,
        conversation: read.conversation,
        first_seq: 1,
        head_seq,
        fanned_out_seq,
        entries,
        has_more: false,
        marks: Vec::new(),
        counts: None,
        reacted: Vec::new(),
    }
}

fn replayed(frame: Deliver) -> Deliver {
    Deliver { replayed: true, ..frame }
}

fn seqs(seen: &[Seen]) -> Vec<Seq> {
    let seq = |seen: &Seen| match seen {
        Seen::Event(event) => event.seq,
        other => panic!("{other:?}"),
    };
    seen.iter().map(seq).collect()
}

/// G9: what a former owner refuses goes to the next one in the order in which it was said, and not before that one says
/// that it is the owner; the client hears nothing of it.
#[test]
fn g9_what_a_former_owner_refuses_goes_again_in_order() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 9]);
    let mut client = live_at(&mut rig, A, &[(9, 0, 0)]);
    says_keys(&mut rig, &mut client, &["1", "2", "3"]);
    let first = submits(&mut rig, A);
    assert_eq!(keys(&first), [("1", 1), ("2", 1), ("3", 1)]);
    disown(&mut rig, A, &first[0]);
    says_keys(&mut rig, &mut client, &["4"]);
    assert!(is_quiet(&rig), "nobody is known to own it");
    says(&mut rig, A, B, 2, &[9]);
    assert!(is_quiet(&rig), "only hearsay");
    owns(&mut rig, B, 2, &[9]);
    let second = submits(&mut rig, B);
    assert_eq!(keys(&second), [("1", 2), ("2", 2), ("3", 2), ("4", 2)]);
    // Late words about what was put back find nobody.
    disown(&mut rig, A, &first[1]);
    accept(&mut rig, A, &first[2], 3);
    assert!(is_quiet(&rig) && client.take(&mut rig).is_empty());
    for (submit, seq) in second.iter().zip(1..) {
        accept(&mut rig, B, submit, seq);
    }
    let seen = client.take(&mut rig);
    let acked: Vec<Seq> = seen
        .iter()
        .map(|seen| match seen {
            Seen::Ack { seq, duplicate: false, .. } => *seq,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(acked, [1, 2, 3, 4]);
}

/// G9: nothing goes by the present epoch while something earlier is under way by an older one, and other conversations do
/// not wait for it.
#[test]
fn g9_an_owner_that_comes_back_is_asked_in_order() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 9]);
    owns(&mut rig, B, 1, &[8]);
    let mut client = live_at(&mut rig, A, &[(8, 0, 0), (9, 0, 0)]);
    says_keys(&mut rig, &mut client, &["1", "2"]);
    let first = submits(&mut rig, A);
    // It is A's by a higher epoch already when A refuses what came by the older one.
    owns(&mut rig, A, 3, &[9]);
    let second = submits(&mut rig, A);
    assert_eq!(keys(&second), [("1", 3), ("2", 3)]);
    disown(&mut rig, A, &first[0]);
    says_keys(&mut rig, &mut client, &["3"]);
    assert_eq!(keys(&submits(&mut rig, A)), [("3", 3)], "what was refused was an older epoch");
    disown(&mut rig, A, &second[1]);
    client.say(&mut rig, None, &send(8, Some("other"), "x"));
    says_keys(&mut rig, &mut client, &["4"]);
    assert_eq!(keys(&submits(&mut rig, B)), [("other", 1)]);
    assert!(is_quiet(&rig));
}

/// F2, G9: a lane is lost while the one to the user's home stays: what is unanswered there goes to the next owner, in
/// order; the session stays live.
#[test]
fn g9_a_takeover_keeps_the_order() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1]);
    owns(&mut rig, B, 1, &[9]);
    let mut client = live_at(&mut rig, A, &[(9, 0, 0)]);
    says_keys(&mut rig, &mut client, &["1", "2"]);
    assert_eq!(submits(&mut rig, B).len(), 2);
    rig.input(Input::LaneDown { router: B });
    rig.carry_out();
    says_keys(&mut rig, &mut client, &["3"]);
    rig.down(&deliver(7, 1, 5, "", "elsewhere", &[1]));
    assert_eq!(seqs(&client.take(&mut rig)), [1], "live all the while");
    owns(&mut rig, A, 2, &[9]);
    assert_eq!(keys(&submits(&mut rig, A)), [("1", 2), ("2", 2), ("3", 2)]);
}

/// G5: nobody comes to own the slot: told when the patience for lost lanes is over, as an outcome that is not known.
#[test]
fn g5_what_nobody_owns_is_given_up() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 9]);
    let mut client = live_at(&mut rig, A, &[(9, 0, 0)]);
    says_keys(&mut rig, &mut client, &["1"]);
    let submit = submits(&mut rig, A).remove(0);
    disown(&mut rig, A, &submit);
    rig.pass_ms(9_900);
    assert!(client.take(&mut rig).is_empty());
    rig.pass_ms(200);
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Error { code: "unknown_outcome", .. }]), "{seen:?}");
}

/// G6: a user becomes another router's: their session registers there, hears what it missed and nothing twice, and is told
/// nothing. What the former home says late is not for it any more; those who stay go on.
#[test]
fn g6_a_home_that_moves_is_not_noticed() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 2, 9]);
    let mut client = live_at(&mut rig, A, &[(9, 0, 0)]);
    let mut stays = rig.connect(Wire::Json);
    stays.say(&mut rig, None, &identify(&token(2, "phone", 86_400), &[]));
    registers(&mut rig, A, &mut stays, &[(9, 0, 0)]);
    rig.down(&deliver(9, 1, 5, "", "x", &[1, 2]));
    owns(&mut rig, B, 2, &[1]);
    // It is not live by what comes to those who stay.
    rig.down(&deliver(9, 2, 5, "", "x", &[1, 2]));
    rig.down(&deliver(9, 3, 5, "", "x", &[2]));
    assert_eq!(seqs(&client.take(&mut rig)), [1]);
    assert_eq!(seqs(&stays.take(&mut rig)), [1, 2, 3]);
    let seen = registers(&mut rig, B, &mut client, &[(9, 3, 2)]);
    assert!(seen.is_empty(), "{seen:?}");
    let missed = page(next_to(&mut rig, A), 2..=3, 3);
    rig.down(&missed);
    rig.down(&deliver(9, 4, 5, "", "late", &[1]));
    rig.down_from(B, &deliver(9, 3, 5, "", "x", &[1]));
    rig.down_from(B, &deliver(9, 4, 5, "", "x", &[1]));
    assert_eq!(seqs(&client.take(&mut rig)), [2, 3, 4]);
    assert!(is_quiet(&rig));
}

/// G6: the home is another one before anything was answered, and once more the same by a higher epoch.
#[test]
fn g6_a_home_may_move_at_any_step() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 9]);
    let mut client = rig.connect(Wire::Json);
    client.say(&mut rig, None, &identify(&token(1, "phone", 600), &[]));
    let Some(Up::Register(late)) = next_to(&mut rig, A) else { panic!("registers") };
    owns(&mut rig, B, 2, &[1]);
    let (session, request) = (late.session, late.request);
    let conversations = vec![Joined { conversation: ConversationId(9), cursor: 1, is_returning: false }];
    rig.down(&Registered { session, request, conversations: conversations.clone(), more: false });
    let Some(Up::Register(register)) = next_to(&mut rig, B) else { panic!("registers there") };
    let request = register.request;
    rig.down_from(B, &Registered { session, request, conversations, more: false });
    let Some(Up::Peek(peek)) = next_to(&mut rig, B) else { panic!("peeks there") };
    rig.down_from(B, &NotOwner { session, request: peek.request, slot: 0 });
    assert!(is_quiet(&rig) && client.take(&mut rig).is_empty());
    owns(&mut rig, B, 4, &[1]);
    let seen = registers(&mut rig, B, &mut client, &[(9, 1, 1)]);
    assert!(matches!(seen.as_slice(), [Seen::Ready { .. }, Seen::CaughtUp]), "{seen:?}");
    // The same home, that was another's meanwhile, has forgotten the session.
    owns(&mut rig, B, 6, &[1]);
    assert!(registers(&mut rig, B, &mut client, &[(9, 1, 1)]).is_empty());
    // Its end is told where it is known.
    rig.input(Input::Closed { connection: client.id });
    rig.carry_out();
    assert!(matches!(next_to(&mut rig, B), Some(Up::Unregister(_))) && is_quiet(&rig));
}

/// G6: a conversation's next owner hands on again what the former one did: who has it hears nothing twice; where it is not
/// known who has it, those who are live are told to look.
#[test]
fn g6_what_is_handed_on_again_is_known() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 2, 9]);
    let mut client = live_at(&mut rig, A, &[(9, 4, 4)]);
    rig.down(&deliver(9, 5, 5, "", "x", &[1]));
    owns(&mut rig, B, 2, &[9]);
    for seq in 3..=6 {
        rig.down(&replayed(deliver(9, seq, 5, "", "x", &[1])));
    }
    assert_eq!(seqs(&client.take(&mut rig)), [5, 6]);

    // Nobody here knows of this one.
    rig.down(&replayed(deliver(8, 3, 5, "", "x", &[1])));
    rig.down(&replayed(deliver(8, 4, 5, "", "x", &[1])));
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Behind(behind)] if *behind == [(8, 3)]), "{seen:?}");
}

/// G6: a client that works on being behind while its home moves: the page that was under way is void, and its `sync` is
/// answered when it is known again what it has.
#[test]
fn g6_being_behind_moves_along() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 9]);
    let mut client = live_at(&mut rig, A, &[(9, 4, 4)]);
    rig.down(&replayed(deliver(8, 3, 5, "", "x", &[1])));
    assert!(matches!(client.take(&mut rig).as_slice(), [Seen::Behind(_)]));
    owns(&mut rig, B, 1, &[8]);
    let sync = Command::Sync { conversation: ConversationId(8), from_seq: 1, limit: 100 };
    assert!(client.say(&mut rig, Some("s"), &sync).is_empty());
    let late = page(next_to(&mut rig, B), 1..=3, 3);
    owns(&mut rig, B, 2, &[1]);
    rig.down_from(B, &late);
    assert!(client.take(&mut rig).is_empty());
    let seen = registers(&mut rig, B, &mut client, &[(8, 3, 3), (9, 4, 4)]);
    assert!(seen.is_empty(), "{seen:?}");
    let found = page(next_to(&mut rig, B), 1..=3, 3);
    rig.down_from(B, &found);
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Batch { to: 3, .. }, Seen::CaughtUp]), "{seen:?}");
    rig.down_from(B, &deliver(8, 4, 5, "", "x", &[1]));
    assert_eq!(seqs(&client.take(&mut rig)), [4]);
}

/// G6, G2: whoever has to fetch a conversation, or is to drop it, may have what is handed on again: it answers no command
/// that was said again.
#[test]
fn g6_what_is_handed_on_again_answers_nobody_who_is_behind() {
    for is_returning in [false, true] {
        let mut rig = two_routers();
        owns(&mut rig, A, 1, &[1, 9]);
        let mut client = live_at(&mut rig, A, &[(9, 4, 4)]);
        let own = || deliver(9, 5, 1, "k", "k", &[1]);
        says_keys(&mut rig, &mut client, &["k"]);
        let [submit] = &submits(&mut rig, A)[..] else { panic!("submits") };
        accept(&mut rig, A, submit, 5);
        rig.down(&own());
        assert!(matches!(client.take(&mut rig).as_slice(), [Seen::Ack { seq: 5, duplicate: false, .. }]));

        let behind_in = if is_returning { 8 } else { 9 };
        rig.down(&replayed(deliver(behind_in, 8, 5, "", "x", &[1])));
        assert!(matches!(client.take(&mut rig).as_slice(), [Seen::Behind(_)]));
        if is_returning {
            let (users, history) = (vec![UserId(1)], History::FromJoin);
            let body = Body::MembersAdded { returning: users.clone(), users, history };
            rig.down(&deliver_event(9, 8, body, &[1]));
        }
        says_keys(&mut rig, &mut client, &["k"]);
        let [submit] = &submits(&mut rig, A)[..] else { panic!("submits") };
        owns(&mut rig, B, 2, &[1]);
        let stands: &[Stand] = if is_returning { &[(8, 8, 0), (9, 8, 0)] } else { &[(9, 8, 0)] };
        assert!(registers(&mut rig, B, &mut client, stands).is_empty());
        rig.down_from(B, &replayed(own()));
        let seen = client.take(&mut rig);
        assert!(seen.is_empty(), "{seen:?}");
        client.accept(&mut rig, submit, 5, true);
        assert!(matches!(client.take(&mut rig).as_slice(), [Seen::Ack { seq: 5, duplicate: true, .. }]));
    }
}

/// G6: the event that comes next after what a page brought is live, also when it is handed on again and nobody else knows.
#[test]
fn g6_who_was_paged_knows_what_follows() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 9]);
    // Events up to 4 may come once more.
    let mut client = live_at(&mut rig, A, &[(9, 4, 2)]);
    for seq in 4..=6 {
        rig.down(&replayed(deliver(9, seq, 5, "", "x", &[1])));
    }
    rig.down(&deliver(9, 7, 5, "", "x", &[1]));
    assert_eq!(seqs(&client.take(&mut rig)), [5, 6, 7]);
}

/// F6, G6: what a page from another router than the home says about its own lane is nothing about the home's: what the
/// client got by it is not pushed again, and what follows is.
#[test]
fn f6_a_page_from_elsewhere_says_nothing_about_the_lane() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1]);
    owns(&mut rig, B, 1, &[9]);
    let mut client = rig.connect(Wire::Json);
    client.say(&mut rig, None, &identify(&token(1, "phone", 86_400), &[(9, 1)]));
    let seen = registers(&mut rig, A, &mut client, &[(9, 3, 1)]);
    assert!(matches!(seen.as_slice(), [Seen::Ready { .. }]), "{seen:?}");
    let missed = page(next_to(&mut rig, B), 2..=3, 3);
    rig.down_from(B, &missed);
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Batch { .. }, Seen::CaughtUp]), "{seen:?}");
    for seq in 2..=4 {
        rig.down(&deliver(9, seq, 5, "", "x", &[1]));
    }
    assert_eq!(seqs(&client.take(&mut rig)), [4]);
}

/// A page is read where the conversation is: what is refused there, or lost with its lane, is read from the next owner.
#[test]
fn a_page_is_read_from_the_next_owner() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 9]);
    let mut client = live_at(&mut rig, A, &[(9, 4, 4)]);
    let sync = Command::Sync { conversation: ConversationId(9), from_seq: 3, limit: 100 };
    client.say(&mut rig, Some("s"), &sync);
    let Some(Up::Read(read)) = next_to(&mut rig, A) else { panic!("reads") };
    rig.down(&NotOwner { session: read.session, request: read.request, slot: 0 });
    assert!(is_quiet(&rig));
    owns(&mut rig, B, 2, &[9]);
    assert!(matches!(next_to(&mut rig, B), Some(Up::Read(_))));
    rig.input(Input::LaneDown { router: B });
    rig.carry_out();
    assert!(is_quiet(&rig));
    owns(&mut rig, A, 3, &[9]);
    let found = page(next_to(&mut rig, A), 3..=4, 4);
    rig.down(&found);
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Batch { from: 3, to: 4, .. }]), "{seen:?}");
}

/// FR4: a watermark that nobody waits for is not lost when its conversation changes hands, with or without a word.
#[test]
fn a_watermark_goes_to_the_next_owner() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 9]);
    let mut client = live_at(&mut rig, A, &[(9, 4, 4)]);
    let read = |seq| Command::Read { conversation: ConversationId(9), seq };
    client.say(&mut rig, None, &read(3));
    let Some(Up::Receipt(Receipt { session, request: 0, .. })) = next_to(&mut rig, A) else {
        panic!("a receipt")
    };
    let slot = slot_of_user(UserId(9)).0;
    rig.down(&NotOwner { session, request: 0, slot });
    client.say(&mut rig, None, &read(4));
    client.say(&mut rig, Some("r"), &read(4));
    assert!(is_quiet(&rig));
    owns(&mut rig, B, 2, &[9]);
    let mut receipts = Vec::new();
    while let Some(Up::Receipt(receipt)) = next_to(&mut rig, B) {
        receipts.push((receipt.request > 0, receipt.read_seq));
    }
    receipts.sort_unstable();
    assert_eq!(receipts, [(false, 4), (true, 4)]);
    // What a former owner says late takes nothing back from the next one.
    client.say(&mut rig, None, &read(4));
    assert!(matches!(next_to(&mut rig, B), Some(Up::Receipt(_))));
    rig.down(&NotOwner { session, request: 0, slot });
    client.say(&mut rig, None, &read(4));
    assert!(matches!(next_to(&mut rig, B), Some(Up::Receipt(_))));
}

/// What is typed on the way to another owner is as if it could not be reached, and then goes there.
#[test]
fn typing_finds_the_next_owner() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1, 9]);
    let mut client = live_at(&mut rig, A, &[(9, 4, 4)]);
    let typing = Command::Typing { conversation: ConversationId(9), start: true };
    client.say(&mut rig, Some("t"), &typing);
    let Some(Up::Typing(typed)) = next_to(&mut rig, A) else { panic!("types") };
    rig.down(&NotOwner { session: typed.session, request: typed.request, slot: 0 });
    let seen = client.take(&mut rig);
    assert!(matches!(seen.as_slice(), [Seen::Error { code: "unavailable", .. }]), "{seen:?}");
    rig.pass_ms(3_100);
    let seen = client.say(&mut rig, Some("u"), &typing);
    assert!(matches!(seen.as_slice(), [Seen::Error { code: "unavailable", .. }]), "{seen:?}");
    owns(&mut rig, B, 2, &[9]);
    client.say(&mut rig, Some("v"), &typing);
    assert!(matches!(next_to(&mut rig, B), Some(Up::Typing(_))));
}

/// Routers that are heard of are met, a second way to one is not taken, and who is gone is parted from.
#[test]
fn routers_are_met_and_parted_from() {
    let mut rig = Rig::new(&[]);
    rig.lane_up_of(A, incarnation(A));
    owns(&mut rig, A, 1, &[1, 9]);
    assert!(rig.met.iter().eq(["router-101:1"]), "{:?}", rig.met);
    let mut client = live_at(&mut rig, A, &[(9, 0, 0)]);
    rig.lane_up_of(Peer(7), incarnation(A));
    assert_eq!((rig.parted.as_slice(), rig.closed_lanes.as_slice()), (&[Peer(7)][..], &[Peer(7)][..]));
    rig.input(Input::LaneDown { router: Peer(7) });
    rig.carry_out();
    rig.down(&deliver(9, 1, 5, "", "x", &[1]));
    assert_eq!(seqs(&client.take(&mut rig)), [1], "nobody noticed");
    let late = deliver(9, 2, 5, "", "x", &[1]);
    rig.down_from(Peer(7), &late);
    assert!(client.take(&mut rig).is_empty());

    rig.met.clear();
    rig.lane_up_of(B, incarnation(B));
    owns(&mut rig, B, 1, &[2]);
    assert!(rig.met.is_empty());
    rig.input(Input::LaneDown { router: B });
    rig.carry_out();
    assert_eq!(rig.parted.len(), 1, "it is among the living");
    rig.down_from(A, &owned(&[incarnation(A)], incarnation(A), 1, []));
    assert_eq!(rig.parted, [Peer(7), B]);
}

/// PR1: who ends while they wait to ask again where they stand is known to have gone.
#[test]
fn pr1_a_session_that_was_not_placed_yet_ends() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1]);
    let mut client = rig.connect(Wire::Json);
    client.say(&mut rig, None, &identify(&token(1, "phone", 600), &[]));
    let Some(Up::Register(register)) = next_to(&mut rig, A) else { panic!("registers") };
    let (session, request) = (register.session, register.request);
    let conversations = vec![Joined { conversation: ConversationId(9), cursor: 1, is_returning: false }];
    rig.down(&Registered { session, request, conversations, more: false });
    let Some(Up::Peek(peek)) = next_to(&mut rig, A) else { panic!("peeks") };
    rig.down(&Refused {
        session,
        request: peek.request,
        code: Code::Unavailable as u16,
        retry_after_ms: 500,
        field: String::new(),
        message: String::new(),
    });
    assert!(is_quiet(&rig));
    rig.input(Input::Closed { connection: client.id });
    rig.carry_out();
    assert!(matches!(next_to(&mut rig, A), Some(Up::Unregister(_))) && is_quiet(&rig));
}

/// F2: a router that starts again is met, whatever is heard first: that it is there, or that the one before is gone.
#[test]
fn f2_a_router_that_starts_again_is_met() {
    let mut rig = two_routers();
    owns(&mut rig, A, 1, &[1]);
    owns(&mut rig, B, 1, &[2]);
    rig.met.clear();
    rig.down_from(A, &owned(&[incarnation(A), 300], incarnation(A), 1, []));
    rig.input(Input::LaneDown { router: B });
    rig.carry_out();
    assert_eq!(rig.parted, [B]);
    assert!(rig.met.iter().eq(["router-300:1"]), "{:?}", rig.met);
}

/// F2: where the gateway looks for routers at first it looks again when one was parted from: the next one may be there, and
/// nobody left who tells of it.
#[test]
fn f2_a_router_is_looked_for_where_it_was_at_first() {
    let mut settings = crate::rig::settings(&[]);
    settings.gateway.routers = vec!["router-102:1".to_owned()];
    let mut rig = Rig::with(settings, true, 1);
    rig.lane_up_of(A, incarnation(A));
    rig.lane_up_of(B, incarnation(B));
    owns(&mut rig, A, 1, &[1]);
    rig.met.clear();
    rig.input(Input::LaneDown { router: B });
    rig.down_from(A, &owned(&[incarnation(A)], incarnation(A), 1, []));
    assert_eq!(rig.parted, [B]);
    assert!(rig.met.iter().eq(["router-102:1"]), "{:?}", rig.met);
}

/// F2: of two ways to one router the first one stays, also when it comes second: what was on the other is as on any lane
/// that is lost.
#[test]
fn f2_all_shards_take_the_same_way() {
    let mut rig = Rig::new(&[]);
    rig.lane_up_of(B, incarnation(A));
    says(&mut rig, B, A, 1, &[1, 9]);
    let mut client = live_at(&mut rig, B, &[(9, 1, 1)]);
    says_keys(&mut rig, &mut client, &["1"]);
    rig.others.clear();
    rig.lane_up_of(A, incarnation(A));
    assert_eq!((rig.parted.as_slice(), rig.closed_lanes.as_slice()), (&[B][..], &[B][..]));
    owns(&mut rig, A, 1, &[1, 9]);
    assert!(rig.others.is_empty(), "nothing goes the other way any more");
    rig.input(Input::LaneDown { router: B });
    rig.carry_out();
    let Some(Up::Register(register)) = next_to(&mut rig, A) else { panic!("registers again") };
    assert!(register.again);
    assert_eq!(keys(&submits(&mut rig, A)), [("1", 1)]);
}
