//! Several routers on one store, as their gateways see them.

mod town;

use std::collections::{BTreeMap, BTreeSet};

use carillon_protocol::frame::{self, Notify, Own, OwnedSlot, Peek};
use carillon_protocol::ids::{ConversationId, UserId};
use carillon_protocol::limits::CONTENT_BYTES_MAX;
use carillon_protocol::placement::{SLOTS_COUNT, Slot, lane_of_slot, slot_of_conversation, slot_of_user};
use carillon_router::cluster::notices::NOTICES_BYTES_MAX;
use carillon_router::outbox::LaneId;

use town::{Heard, LANES, STEP_MS, Town, delivered};

/// A user at each of two routers and a conversation of the first one's router between them.
struct Pair {
    town: Town,
    /// The gateway's lanes to both.
    lanes: [LaneId; 2],
    users: [UserId; 2],
    conversation: ConversationId,
}

fn pair() -> Pair {
    let mut town = Town::new(2);
    let lanes = [town.gateway(0, 70), town.gateway(1, 70)];
    let users = [town.user_of(0, 1), town.user_of(1, 1)];
    for node in 0..2 {
        let request = town.register(node, lanes[node], users[node]);
        assert!(town.hear(node, lanes[node]).contains(&Heard::Registered(request)), "router {node}");
    }
    let conversation = town.create(0, lanes[0], &users);
    assert_eq!(town.owner(slot_of_conversation(conversation)).0, 0, "made where its maker is");
    assert_eq!(delivered(&town.hear(1, lanes[1]), conversation), [(1, false)]);
    Pair { town, lanes, users, conversation }
}

/// SC3, SC8: routers divide all slots between them, and gateways are told by each.
#[test]
fn sc3_slots_are_divided_and_told() {
    let mut town = Town::new(3);
    let gateways = [0, 1, 2].map(|node| (node, town.gateway(node, 70)));
    for (node, lane) in gateways {
        let heard = town.hear(node, lane);
        let [Heard::Other, Heard::Owners(slots)] = &heard[..] else { panic!("Open, then Owners") };
        let mine = slots.iter().filter(|slot| slot.owner == town.nodes[node].incarnation.0).count();
        assert!(slots.len() == 4_096 && (1_200..1_600).contains(&mine), "router {node} has {mine}");
        for slot in slots {
            let (owner, epoch) = town.owner(Slot(slot.slot));
            assert_eq!((slot.owner, slot.epoch), (town.nodes[owner].incarnation.0, epoch));
        }
    }
}

/// G6, FU1, SC3: what one router orders is heard once, in order, by those whom another one serves; its marker stays until that
/// one has answered (F5).
#[test]
fn g6_events_cross_routers() {
    let Pair { mut town, lanes, users, conversation } = pair();
    let epoch = town.epoch_of(conversation);
    for _ in 0..3 {
        town.send((0, lanes[0]), users[1], conversation, epoch);
    }
    assert_eq!(delivered(&town.hear(1, lanes[1]), conversation), [(2, false), (3, false), (4, false)]);
    assert_eq!(delivered(&town.hear(0, lanes[0]), conversation), [(2, false), (3, false), (4, false)]);
    town.pass_ms(3_000);
    assert_eq!(town.markers(), []);
}

/// NF5, F5, G7: what was under way to another router when the lane was lost is told on the next one, once; until then the
/// marker stays.
#[test]
fn nf5_a_lost_lane_between_routers_loses_nothing() {
    let Pair { mut town, lanes, users, conversation } = pair();
    town.pass_ms(3_000);
    assert_eq!(town.markers(), []);
    let epoch = town.epoch_of(conversation);
    town.cut.insert((0, 1));
    town.lose_between(0, 1);
    town.send((0, lanes[0]), users[0], conversation, epoch);
    town.send((0, lanes[0]), users[0], conversation, epoch);
    town.pass_ms(5_000);
    assert_eq!(delivered(&town.hear(1, lanes[1]), conversation), []);
    assert_eq!(town.markers(), [(conversation, 2)], "not everybody was told");
    town.cut.clear();
    town.pass_ms(100);
    assert_eq!(delivered(&town.hear(1, lanes[1]), conversation), [(2, false), (3, false)]);
    town.lose_between(0, 1);
    town.pass_ms(3_000);
    assert_eq!(delivered(&town.hear(1, lanes[1]), conversation), [], "once");
    assert_eq!(town.markers(), []);
}

/// NF5, G7: of two routers that call each other, as an elder does that has not heard of the younger one's life yet, both keep
/// the younger one's lane, whichever comes first.
#[test]
fn nf5_two_routers_that_call_each_other_keep_one_lane() {
    let mut town = Town::new(2);
    let kept = town.lanes_between(1, 0);
    assert_eq!(kept.len(), 1, "the younger one has called");
    for _ in 0..2 {
        town.call(0, 1);
        town.settle();
        assert_eq!(town.lanes_between(1, 0), kept);
    }
    town.lose_between(0, 1);
    let called = town.call(0, 1);
    town.settle();
    assert_eq!(town.lanes_between(0, 1), [called], "better than none");
    let kept = town.call(1, 0);
    town.settle();
    assert_eq!(town.lanes_between(1, 0), [kept]);
    let again = town.call(1, 0);
    town.settle();
    assert_eq!(town.lanes_between(1, 0), [again], "it has given up the one before");
}

/// G9: commands by an epoch that is not the router's are refused.
#[test]
fn g9_another_epochs_commands_are_refused() {
    let Pair { mut town, lanes, users, conversation } = pair();
    let epoch = town.epoch_of(conversation);
    let request = town.send((0, lanes[0]), users[0], conversation, epoch + 1);
    assert!(town.hear(0, lanes[0]).contains(&Heard::NotOwner(request)));
    let request = town.send((1, lanes[1]), users[0], conversation, epoch);
    assert!(town.hear(1, lanes[1]).contains(&Heard::NotOwner(request)), "nor at another router");
    town.send((0, lanes[0]), users[0], conversation, epoch);
    assert_eq!(delivered(&town.hear(0, lanes[0]), conversation), [(2, false)]);
}

/// G15, F7: what a former owner tells nobody hears.
#[test]
fn g15_a_former_owners_notice_is_heard_by_nobody() {
    let Pair { mut town, lanes, users, conversation } = pair();
    let epoch = town.epoch_of(conversation);
    let notice = |request, slot_epoch, seq| Notify {
        request,
        conversation,
        seq,
        head_seq: seq,
        slot_epoch,
        replayed: false,
        origin_epoch: 0,
        origin_shard: 0,
        origin_session: 0,
        origin_request: 0,
        users: vec![users[1]],
        record: b"whatever".to_vec(),
    };
    // The first one had number 1.
    town.say_between(0, 1, &notice(2, epoch - 1, 9));
    assert_eq!(delivered(&town.hear(1, lanes[1]), conversation), []);
    town.say_between(0, 1, &notice(3, epoch, 9));
    town.say_between(0, 1, &notice(3, epoch, 9));
    assert_eq!(delivered(&town.hear(1, lanes[1]), conversation), [(9, false)]);
}

/// G6, F26: a router that was declared over and does not know it yet is told who has its users before it hears of an event that
/// leaves them out; so are its gateways, and nobody takes what it tells the others for what these were told.
#[test]
fn g6_who_had_a_slot_is_told_before_an_event_goes_past_it() {
    for is_lane_lost in [false, true] {
        let mut town = Town::new(3);
        let lanes = [0, 1, 2].map(|node| town.gateway(node, 70));
        let sender = town.user_of(2, 1);
        let gone = town.user_of(0, 1);
        let stays = (gone.0 + 1..).map(|from| town.user_of(0, from));
        let stays = stays.into_iter().find(|user| slot_of_user(*user) != slot_of_user(gone)).expect("a user");
        for (node, user) in [(2, sender), (0, gone), (0, stays)] {
            town.register(node, lanes[node], user);
        }
        let conversation = town.create(2, lanes[2], &[sender, gone, stays]);
        let epoch = town.epoch_of(conversation);
        town.hear(0, lanes[0]);
        if is_lane_lost {
            town.cut.insert((0, 2));
            town.lose_between(0, 2);
        }
        // One of them is served elsewhere, and the other one's slot is not known to have been taken.
        let slot = slot_of_user(gone);
        let moved =
            OwnedSlot { slot: slot.0, owner: town.nodes[1].incarnation.0, epoch: town.owner(slot).1 + 1 };
        town.say_between(1, 2, &Own { request: 1_000, slots: vec![moved] });
        town.send((2, lanes[2]), sender, conversation, epoch);
        if is_lane_lost {
            town.cut.clear();
            town.pass_ms(STEP_MS);
        }
        let heard = town.hear(0, lanes[0]);
        let told_at = heard.iter().position(|one| matches!(one, Heard::Owners(it) if it.contains(&moved)));
        let event_at = heard.iter().position(|one| matches!(one, Heard::Deliver(it) if it.users == [stays]));
        assert!(event_at.is_some() && told_at.is_some_and(|at| Some(at) < event_at), "{heard:?}");
    }
}

/// F6: a peek tells of all conversations at once, whoever owns them, and is answered behind what was under way before.
#[test]
fn f6_a_peek_tells_of_all_owners_conversations() {
    let Pair { mut town, lanes, users, conversation } = pair();
    let other = town.create(1, lanes[1], &[users[1], users[0]]);
    assert_eq!(town.owner(slot_of_conversation(other)).0, 1);
    let (epoch, request) = (town.epoch_of(conversation), town.request());
    town.send((0, lanes[0]), users[0], conversation, epoch);
    town.hear(1, lanes[1]);
    let conversations = vec![conversation, other];
    town.say(1, lanes[1], &Peek { session: users[1].0, request, user: users[1], conversations });
    let heard = town.hear(1, lanes[1]);
    let [Heard::Peeked(peeked)] = &heard[..] else { panic!("{heard:?}") };
    let mut stands: Vec<_> =
        peeked.standings.iter().map(|it| (it.conversation, it.head_seq, it.fanned_out_seq)).collect();
    stands.sort_unstable();
    let mut expected = vec![(conversation, 2, 2), (other, 1, 1)];
    expected.sort_unstable();
    assert_eq!(stands, expected);

    // With one owner out of reach nothing is told, and whoever asked hears so.
    town.cut.insert((0, 1));
    town.lose_between(0, 1);
    let request = town.request();
    let conversations = vec![conversation, other];
    town.say(1, lanes[1], &Peek { session: users[1].0, request, user: users[1], conversations });
    let heard = town.hear(1, lanes[1]);
    assert!(matches!(&heard[..], [Heard::Refused(refused)] if refused.request == request), "{heard:?}");
}

/// F6: users of a slot that was gained register only when every living router knows where they are now.
#[test]
fn f6_users_register_when_every_router_knows() {
    let mut town = Town::new(2);
    town.cut.extend([(0, 2), (1, 2)]);
    let new = town.join();
    town.pass_ms(3_000);
    let lane = town.gateway(new, 70);
    let user = town.user_of(new, 1);
    town.hear(new, lane);
    let request = town.register(new, lane, user);
    let heard = town.hear(new, lane);
    assert!(matches!(&heard[..], [Heard::Refused(refused)] if refused.request == request), "{heard:?}");
    town.cut.remove(&(0, 2));
    town.pass_ms(500);
    town.register(new, lane, user);
    assert!(matches!(&town.hear(new, lane)[..], [Heard::Refused(_)]), "one of two");
    town.cut.clear();
    town.pass_ms(500);
    let request = town.register(new, lane, user);
    assert!(town.hear(new, lane).contains(&Heard::Registered(request)));
}

/// F3, G7: a router that dies leaves what it had not handed on to the next owner, which says that this may be repeated;
/// writes go on within 2.5 s.
#[test]
fn f3_a_dead_routers_conversations_go_on() {
    let Pair { mut town, lanes, users, conversation } = pair();
    let epoch = town.epoch_of(conversation);
    town.send((0, lanes[0]), users[0], conversation, epoch);
    town.hear(1, lanes[1]);
    town.kill(0);
    town.pass_ms(2_500);
    let (owner, next) = town.owner(slot_of_conversation(conversation));
    assert!(owner == 1 && next > epoch);
    assert_eq!(delivered(&town.hear(1, lanes[1]), conversation), [(1, true), (2, true)]);
    let request = town.send((1, lanes[1]), users[1], conversation, epoch);
    assert!(town.hear(1, lanes[1]).contains(&Heard::NotOwner(request)), "meant for the one before");
    town.send((1, lanes[1]), users[1], conversation, next);
    assert_eq!(delivered(&town.hear(1, lanes[1]), conversation), [(3, false)]);
    assert_eq!(town.owner(slot_of_user(users[0])).0, 1);
    town.pass_ms(100);
    let request = town.register(1, lanes[1], users[0]);
    assert!(town.hear(1, lanes[1]).contains(&Heard::Registered(request)));
}

/// G7, G6: what a router learns late of a commit, when its slot was another one's meanwhile, is not taken for something that
/// nobody handed on.
#[test]
fn g6_a_commit_of_an_epoch_that_is_over_was_perhaps_handed_on() {
    let Pair { mut town, lanes, users, conversation } = pair();
    let (slot, epoch) = (slot_of_conversation(conversation), town.epoch_of(conversation));
    town.nodes[0].is_kept_waiting = true;
    town.send((0, lanes[0]), users[0], conversation, epoch);
    town.pass_on(slot, 0, 1);
    town.pass_on(slot, 1, 0);
    // It sees that the slot is its own by another epoch, and asks for the markers.
    town.pass_ms(400);
    town.hear(1, lanes[1]);
    town.release(0);
    town.pass_ms(100);
    assert_eq!(delivered(&town.hear(1, lanes[1]), conversation).last(), Some(&(2, true)));
}

/// SC8: a router that is to stop gives everything away first; what it had under way is done, and nobody is without an owner
/// for long.
#[test]
fn sc8_a_router_that_stops_gives_its_slots_away() {
    let Pair { mut town, lanes, users, conversation } = pair();
    let epoch = town.epoch_of(conversation);
    town.send((0, lanes[0]), users[0], conversation, epoch);
    town.drain(0);
    let mut without_owner_ms = 0;
    for _ in 0..400 {
        town.pass_ms(10);
        let (node, epoch) = town.owner(slot_of_conversation(conversation));
        let request = town.send((node, lanes[node]), users[1], conversation, epoch);
        let is_taken = town
            .hear(node, lanes[node])
            .iter()
            .any(|heard| matches!(heard, Heard::Accepted(accepted) if accepted.request == request));
        without_owner_ms += if is_taken { 0 } else { 10 };
        if town.nodes[0].is_drained {
            break;
        }
    }
    assert!(town.nodes[0].is_drained && without_owner_ms <= 100, "{without_owner_ms} ms");
    assert_eq!(town.owner(slot_of_conversation(conversation)).0, 1);
}

/// SC8, G9: a slot that comes by a gift and is somebody else's at once is left from the first moment: nothing is begun in it that
/// the next gift would go past.
#[test]
fn sc8_what_is_passed_on_at_once_is_never_begun_in() {
    let Pair { mut town, lanes, users, conversation } = pair();
    let slot = slot_of_conversation(conversation);
    town.pass_on(slot, 0, 1);
    let epoch = town.epoch_of(conversation);
    let gained = OwnedSlot { slot: slot.0, owner: town.nodes[1].incarnation.0, epoch };
    let is_told = |one: &Heard| matches!(one, Heard::Owners(slots) if slots.contains(&gained));
    let steps = 1_000 / STEP_MS;
    let told_at = (0..steps).position(|_| {
        town.pass_ms(STEP_MS);
        town.hear(1, lanes[1]).iter().any(is_told)
    });
    assert!(told_at.is_some(), "the gift came");
    let request = town.send((1, lanes[1]), users[0], conversation, epoch);
    assert!(town.hear(1, lanes[1]).contains(&Heard::NotOwner(request)));
    town.pass_ms(1_000);
    assert_eq!(town.owner(slot), (0, epoch + 1), "it went home");
    town.hear(0, lanes[0]);
    town.send((0, lanes[0]), users[0], conversation, epoch + 1);
    assert_eq!(delivered(&town.hear(0, lanes[0]), conversation).last(), Some(&(2, false)));
}

/// G7, F26: what was committed together with another owner's is refused with it; that its own slot is still ours is said behind
/// that, or it would wait for ever.
#[test]
fn g7_who_is_refused_with_another_owners_is_told_who_owns_theirs() {
    let Pair { mut town, lanes, users, conversation } = pair();
    let lane = |it: ConversationId| lane_of_slot(slot_of_conversation(it), LANES);
    let others = std::iter::repeat_with(|| town.create(0, lanes[0], &users)).take(200);
    let is_beside = |it: &ConversationId| {
        lane(*it) == lane(conversation) && slot_of_conversation(*it) != slot_of_conversation(conversation)
    };
    let other = others.into_iter().find(is_beside).expect("one of the same commit lane");
    let (slot, epoch) = (slot_of_conversation(conversation), town.epoch_of(conversation));
    town.pass_on(slot_of_conversation(other), 0, 1);
    town.hear(0, lanes[0]);
    town.nodes[0].is_kept_waiting = true;
    // The first one is on its way, so that the next two leave together.
    let requests = [(conversation, epoch), (other, town.epoch_of(other) - 1), (conversation, epoch)]
        .map(|(it, epoch)| town.send((0, lanes[0]), users[0], it, epoch));
    town.release(0);
    let ours = OwnedSlot { slot: slot.0, owner: town.nodes[0].incarnation.0, epoch };
    let heard = town.hear(0, lanes[0]);
    let refused_at = heard.iter().position(|one| *one == Heard::NotOwner(requests[2]));
    let told_at = heard.iter().rposition(|one| matches!(one, Heard::Owners(slots) if slots.contains(&ours)));
    assert!(refused_at.is_some() && told_at > refused_at, "{heard:?}");
}

/// SC8: whoever is given slots hears of it from the giver, and tells the gateways, before its next poll would be due.
#[test]
fn sc8_a_gift_is_told_at_once() {
    let Pair { mut town, lanes, .. } = pair();
    let to = town.nodes[1].incarnation;
    let mut untold: BTreeSet<u16> = (0..SLOTS_COUNT).filter(|slot| town.owner(Slot(*slot)).0 == 0).collect();
    // By slot, in how many steps it was the next owner's without anybody knowing.
    let mut silent_steps: BTreeMap<u16, u64> = BTreeMap::new();
    town.hear(1, lanes[1]);
    town.drain(0);
    while !town.nodes[0].is_drained {
        town.pass_ms(STEP_MS);
        for heard in town.hear(1, lanes[1]) {
            let Heard::Owners(slots) = heard else { continue };
            for told in slots.iter().filter(|told| told.owner == to.0) {
                untold.remove(&told.slot);
            }
        }
        let shown = town.ownership();
        for slot in untold.iter().filter(|slot| shown.owners[usize::from(**slot)].owner == Some(to)) {
            *silent_steps.entry(*slot).or_default() += 1;
        }
    }
    let longest = silent_steps.values().max().copied().unwrap_or(0);
    assert!(untold.is_empty() && longest <= 2, "{} untold, {longest} steps", untold.len());
}

/// G10, G15, F26: a router that was paused for long answers nothing from memory when it goes on, and knows soon that its
/// life is over.
#[test]
fn g10_a_paused_router_answers_nothing_old() {
    let Pair { mut town, lanes, users, conversation } = pair();
    town.nodes[0].is_paused = true;
    town.pass_ms(4_000);
    let (owner, epoch) = town.owner(slot_of_conversation(conversation));
    assert_eq!(owner, 1);
    town.send((1, lanes[1]), users[1], conversation, epoch);
    town.nodes[0].is_paused = false;
    town.hear(0, lanes[0]);
    let request = town.request();
    let conversations = vec![conversation];
    town.say(0, lanes[0], &Peek { session: users[0].0, request, user: users[0], conversations });
    assert!(
        town.hear(0, lanes[0]).iter().all(|heard| !matches!(heard, Heard::Peeked(_))),
        "it is too old to tell"
    );
    town.pass_ms(1_000);
    assert!(town.nodes[0].is_over, "it knows that others have taken over");
    assert!(town.hear(0, lanes[0]).iter().all(|heard| matches!(heard, Heard::Refused(_) | Heard::Other)));
}

/// G13: what waits for a router that does not answer is bounded: beyond, it is let go of, the other one has its sessions
/// begin anew, and only then does the marker move.
#[test]
fn g13_what_waits_for_another_router_is_bounded() {
    let Pair { mut town, lanes, users, conversation } = pair();
    town.pass_ms(3_000);
    let epoch = town.epoch_of(conversation);
    town.cut.insert((0, 1));
    town.lose_between(0, 1);
    let content = "x".repeat(CONTENT_BYTES_MAX);
    for number in 0..NOTICES_BYTES_MAX / CONTENT_BYTES_MAX + 1 {
        let request = town.request();
        let command = frame::Command::Send {
            conversation,
            message_type: 0,
            encoding: 0,
            content: content.clone(),
            media_url: None,
            reply_to: None,
        };
        let (user, client_msg_id) = (users[0], format!("long-{number}"));
        let submit = frame::Submit {
            session: user.0,
            request,
            user,
            said_after: Vec::new(),
            client_msg_id,
            slot_epoch: epoch,
            command,
        };
        town.say(0, lanes[0], &submit);
    }
    town.pass_ms(3_000);
    assert_eq!(town.markers().len(), 1, "nobody at the other router was told");
    town.hear(1, lanes[1]);
    assert!(town.is_up(1, lanes[1]));
    town.cut.clear();
    town.pass_ms(500);
    assert!(!town.is_up(1, lanes[1]), "whoever is there begins anew");
    town.pass_ms(3_000);
    assert_eq!(town.markers(), []);
}
