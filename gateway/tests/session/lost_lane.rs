//! A lane that is lost and made anew within one turn.

use carillon_gateway::turn::Input;
use carillon_protocol::client::Wire;
use carillon_protocol::frame::{Accepted, Peeked, Registered, Submit};
use carillon_protocol::ids::ConversationId;
use rkyv::util::AlignedVec;

use crate::rig::{Client, ROUTER, Rig, Up, identify, send, text_id, token};

/// A session that is live at this router, and knows no conversation.
fn live(rig: &mut Rig) -> Client {
    rig.lane_up();
    let mut client = rig.connect(Wire::Json);
    client.say(rig, None, &identify(&token(1, "phone", 3_600), &[]));
    let Up::Register(register) = rig.next_up() else { panic!("registers first") };
    registered(rig, register.session, register.request);
    client
}

fn registered(rig: &mut Rig, session: u64, request: u64) {
    rig.down(&Registered { session, request, conversations: Vec::new(), more: false });
    if let Some(bytes) = rig.up.pop_front() {
        let Up::Peek(peek) = Up::read(&bytes) else { panic!("then peeks") };
        rig.down(&Peeked { session, request: peek.request, standings: Vec::new() });
    }
}

fn submits(rig: &mut Rig) -> Vec<(String, Vec<String>)> {
    let submit = |bytes: &AlignedVec| match Up::read(bytes) {
        Up::Submit(submit) => Some((submit.client_msg_id, submit.said_after)),
        _ => None,
    };
    std::mem::take(&mut rig.up).iter().filter_map(submit).collect()
}

/// G9: what goes again names what was said after it in its conversation and was on the lane: that may be committed, and what
/// was refused there must not come behind it. (A refusal that was on its way went with the lane.)
#[test]
fn g9_what_goes_again_names_what_may_have_passed_it() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig);
    for (conversation, key) in [(9, "first"), (8, "elsewhere"), (9, "second"), (9, "third")] {
        client.say(&mut rig, Some(key), &send(conversation, Some(key), key));
    }
    let names = |keys: &[&str]| keys.iter().map(|&key| key.to_owned()).collect::<Vec<_>>();
    let said = |key: &str, after: &[&str]| (key.to_owned(), names(after));
    let first = ["first", "elsewhere", "second", "third"].map(|key| said(key, &[]));
    assert_eq!(submits(&mut rig), first);
    rig.input(Input::LaneDown { router: ROUTER });
    client.say(&mut rig, Some("fourth"), &send(9, Some("fourth"), "fourth"));
    rig.lane_up();
    rig.carry_out();
    let again = [
        said("first", &["second", "third"]),
        said("elsewhere", &[]),
        said("second", &["third"]),
        said("third", &[]),
        said("fourth", &[]),
    ];
    assert_eq!(submits(&mut rig), again);
}

/// G9: the same when the answer to what was said after it has come already.
#[test]
fn g9_what_goes_again_names_what_has_passed_it() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig);
    for key in ["first", "second", "third"] {
        client.say(&mut rig, Some(key), &send(9, Some(key), key));
    }
    let second = std::mem::take(&mut rig.up).get(1).map(|bytes| Up::read(bytes));
    let Some(Up::Submit(Submit { session, request, .. })) = second else { panic!("submits") };
    let conversation = ConversationId(9);
    rig.down(&Accepted { session, request, conversation, seq: 1, id: 1, duplicate: false, unchanged: false });
    rig.input(Input::LaneDown { router: ROUTER });
    rig.lane_up();
    rig.carry_out();
    let again = [("first".to_owned(), vec!["second".to_owned()]), ("third".to_owned(), Vec::new())];
    assert_eq!(submits(&mut rig), again);
}

/// G9: what a turn queued for a lane is lost with it, and never leaves on the next one, where a later message would be
/// ahead of an earlier one that has to be sent again.
#[test]
fn g9_what_has_not_left_is_lost_with_its_lane() {
    let mut rig = Rig::new(&[]);
    let mut client = live(&mut rig);
    client.say(&mut rig, Some("first"), &send(9, Some("first"), "first"));
    let Up::Submit(lost) = rig.next_up() else { panic!("submits") };
    assert_eq!(lost.client_msg_id, "first");

    let bytes = client.frame(Some(text_id("second")), &send(9, Some("second"), "second"));
    rig.input(Input::Received { connection: client.id, bytes: &bytes });
    rig.input(Input::LaneDown { router: ROUTER });
    rig.lane_up();
    rig.carry_out();
    let submitted: Vec<String> = submits(&mut rig).into_iter().map(|(key, _)| key).collect();
    assert_eq!(submitted, ["first", "second"]);
}
