//! A lane that is lost and made anew within one turn.

use carillon_gateway::turn::Input;
use carillon_protocol::client::Wire;
use carillon_protocol::frame::{Peeked, Registered};

use crate::rig::{ROUTER, Rig, Up, identify, send, text_id, token};

/// G9: what a turn queued for a lane is lost with it, and never leaves on the next one, where a later message would be
/// ahead of an earlier one that has to be sent again.
#[test]
fn g9_what_has_not_left_is_lost_with_its_lane() {
    let mut rig = Rig::new(&[]);
    rig.lane_up();
    let mut client = rig.connect(Wire::Json);
    client.say(&mut rig, None, &identify(&token(1, "phone", 3_600), &[]));
    let Up::Register(register) = rig.next_up() else { panic!("registers first") };
    let (session, request) = (register.session, register.request);
    rig.down(&Registered { session, request, conversations: Vec::new(), more: false });
    if let Some(bytes) = rig.up.pop_front() {
        let Up::Peek(peek) = Up::read(&bytes) else { panic!("then peeks") };
        rig.down(&Peeked { session, request: peek.request, standings: Vec::new() });
    }
    client.say(&mut rig, Some("first"), &send(9, Some("first"), "first"));
    let Up::Submit(lost) = rig.next_up() else { panic!("submits") };
    assert_eq!(lost.client_msg_id, "first");

    let bytes = client.frame(Some(text_id("second")), &send(9, Some("second"), "second"));
    rig.input(Input::Received { connection: client.id, bytes: &bytes });
    rig.input(Input::LaneDown { router: ROUTER });
    rig.lane_up();
    rig.carry_out();
    let submitted: Vec<String> = std::mem::take(&mut rig.up)
        .iter()
        .filter_map(|bytes| match Up::read(bytes) {
            Up::Submit(submit) => Some(submit.client_msg_id),
            _ => None,
        })
        .collect();
    assert_eq!(submitted, ["first", "second"]);
}
