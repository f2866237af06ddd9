//! Arbitrary streams, cut anywhere, sound or damaged: tungstenite is the oracle, and our own decoder, fed otherwise.

use carillon_protocol::websocket::{
    Opcode, Role, append_client_frame, append_server_frame, server_frame, server_frame_with,
};
use proptest::prelude::*;
use proptest::sample::Index;
use proptest::test_runner::TestRunner;

use crate::drive::{config, frame};
use crate::oracle::{Reading, Seen, disagreement, ours, theirs};

/// One frame, not yet written.
#[derive(Clone, Debug)]
struct Step {
    first: u8,
    payload: Vec<u8>,
    key: [u8; 4],
}

fn write(role: Role, steps: &[Step]) -> Vec<u8> {
    let key = |step: &Step| (role == Role::Server).then_some(step.key);
    steps.iter().flat_map(|step| frame(step.first, &step.payload, key(step))).collect()
}

fn role() -> impl Strategy<Value = Role> {
    prop_oneof![Just(Role::Server), Just(Role::Client)]
}

fn control() -> impl Strategy<Value = Step> {
    (prop_oneof![Just(0x89), Just(0x8a)], prop::collection::vec(any::<u8>(), 0..=125), any::<[u8; 4]>())
        .prop_map(|(first, payload, key)| Step { first, payload, key })
}

fn payload() -> impl Strategy<Value = (u8, Vec<u8>)> {
    let bytes_max = 200_usize;
    prop_oneof![
        3 => prop::collection::vec(any::<char>(), 0..60).prop_map(|text| (1, text.into_iter().collect::<String>().into())),
        3 => prop::collection::vec(any::<u8>(), 0..bytes_max).prop_map(|bytes| (2, bytes)),
        1 => (any::<u8>(), 120..132_usize).prop_map(|(byte, length)| (2, vec![byte; length])),
    ]
}

/// A message in one to five frames, cut anywhere (inside characters too), with control frames between.
fn message() -> impl Strategy<Value = Vec<Step>> {
    let cuts = prop::collection::vec(any::<Index>(), 0..5);
    let keys = prop::collection::vec(any::<[u8; 4]>(), 5);
    let between = prop::collection::vec(prop::option::weighted(0.2, control()), 5);
    (payload(), cuts, keys, between).prop_map(|((opcode, payload), cuts, keys, between)| {
        let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(payload.len() + 1)).collect();
        cuts.sort_unstable();
        cuts.push(payload.len());
        let (mut steps, mut start) = (Vec::new(), 0);
        for (index, &end) in cuts.iter().enumerate().take(5) {
            let is_last = index + 1 == cuts.len();
            let end = if index == 4 { payload.len() } else { end };
            let fin = if is_last || index == 4 { 0x80 } else { 0 };
            let first = fin | if index == 0 { opcode } else { 0 };
            steps.push(Step { first, payload: payload[start..end].to_vec(), key: keys[index] });
            start = end;
            if fin == 0 {
                steps.extend(between[index].clone());
            }
        }
        steps
    })
}

fn close() -> impl Strategy<Value = Step> {
    let code = prop_oneof![Just(1000_u16), Just(1001), Just(1012), Just(3000), Just(4999)];
    (prop::option::of((code, "[a-zé]{0,60}")), any::<[u8; 4]>()).prop_map(|(close, key)| {
        let payload =
            close.map_or(Vec::new(), |(code, reason)| [&code.to_be_bytes()[..], reason.as_bytes()].concat());
        Step { first: 0x88, payload, key }
    })
}

fn stream() -> impl Strategy<Value = Vec<Step>> {
    let part = prop_oneof![4 => message(), 1 => control().prop_map(|step| vec![step])];
    (prop::collection::vec(part, 0..5), prop::option::weighted(0.3, close())).prop_map(|(parts, close)| {
        let mut steps = parts.concat();
        steps.extend(close);
        steps
    })
}

/// Reads the stream whole, byte by byte, and cut at `cuts`: all the same (the third invariant of the module).
fn read_in_every_way(role: Role, input: &[u8], cuts: &[Index], bytes_max: usize) -> Reading {
    let whole = ours(role, [input], bytes_max);
    assert_eq!(whole, ours(role, input.chunks(1), bytes_max), "whole, and byte by byte");
    let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(input.len() + 1)).collect();
    cuts.extend([0, input.len()]);
    cuts.sort_unstable();
    let pieces = cuts.windows(2).map(|cut| &input[cut[0]..cut[1]]);
    assert_eq!(whole, ours(role, pieces, bytes_max), "whole, and cut at {cuts:?}");
    whole
}

#[test]
fn sound_streams_are_read_as_tungstenite_reads_them() {
    let cuts = prop::collection::vec(any::<Index>(), 0..8);
    TestRunner::new(config(400))
        .run(&(role(), stream(), cuts), |(role, steps, cuts)| {
            let input = write(role, &steps);
            let reading = read_in_every_way(role, &input, &cuts, 4_096);
            let (seen, end) = theirs(role, &input, 4_096);
            prop_assert!(end.is_none(), "the oracle refuses: {end:?}");
            prop_assert_eq!(reading, Reading { seen, violation: None, is_idle: true });
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

/// What is done to a sound stream.
#[derive(Clone, Debug)]
enum Damage {
    /// A byte is combined with another.
    Flip(Index, u8),
    /// A bit of the first two bytes of a frame is turned: what most rules are about.
    Header(Index, u8),
    Insert(Index, u8),
    Remove(Index),
    Truncate(Index),
}

fn damage() -> impl Strategy<Value = Damage> {
    let place = any::<Index>;
    prop_oneof![
        3 => (place(), 1..=255_u8).prop_map(|(place, bits)| Damage::Flip(place, bits)),
        6 => (place(), 0..16_u8).prop_map(|(place, bit)| Damage::Header(place, bit)),
        1 => (place(), any::<u8>()).prop_map(|(place, byte)| Damage::Insert(place, byte)),
        1 => place().prop_map(Damage::Remove),
        1 => place().prop_map(Damage::Truncate),
    ]
}

fn damaged(role: Role, steps: &[Step], damages: &[Damage]) -> Vec<u8> {
    let mut starts = vec![0];
    for step in steps {
        starts.push(starts[starts.len() - 1] + write(role, std::slice::from_ref(step)).len());
    }
    let mut input = write(role, steps);
    for damage in damages {
        if input.is_empty() {
            break;
        }
        match *damage {
            Damage::Flip(place, bits) => *place.get_mut(&mut input) ^= bits,
            Damage::Header(place, bit) => {
                if let Some(byte) = input.get_mut(place.get(&starts) + usize::from(bit / 8)) {
                    *byte ^= 1 << (bit % 8);
                }
            }
            Damage::Insert(place, byte) => input.insert(place.index(input.len()), byte),
            Damage::Remove(place) => {
                input.remove(place.index(input.len()));
            }
            Damage::Truncate(place) => input.truncate(place.index(input.len())),
        }
    }
    input
}

#[test]
fn damaged_streams_are_refused_where_tungstenite_refuses_them() {
    let damages = prop::collection::vec(damage(), 1..4);
    let cuts = prop::collection::vec(any::<Index>(), 0..8);
    TestRunner::new(config(1_500))
        .run(&(role(), stream(), damages, cuts), |(role, steps, damages, cuts)| {
            let input = damaged(role, &steps, &damages);
            let reading = read_in_every_way(role, &input, &cuts, 1_024);
            let disagreement = disagreement(role, &input, 1_024, &reading);
            prop_assert!(disagreement.is_none(), "{}", disagreement.unwrap_or_default());
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn random_bytes_never_panic_and_agree_too() {
    let input = prop::collection::vec(any::<u8>(), 0..300);
    TestRunner::new(config(1_000))
        .run(&(role(), input), |(role, input)| {
            let reading = read_in_every_way(role, &input, &[], 1_024);
            let disagreement = disagreement(role, &input, 1_024, &reading);
            prop_assert!(disagreement.is_none(), "{}", disagreement.unwrap_or_default());
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}

#[test]
fn what_we_encode_we_and_tungstenite_decode() {
    let length = prop_oneof![0..300_usize, 65_500..65_600_usize];
    let sent = prop::collection::vec((length, any::<u8>(), any::<[u8; 4]>()), 1..4);
    TestRunner::new(config(40))
        .run(&(role(), sent), |(role, sent)| {
            let (mut input, mut expected, mut scratch) = (Vec::new(), Vec::new(), Vec::new());
            for (length, byte, key) in sent {
                let payload: Vec<u8> = (0..length).map(|index| byte.wrapping_add(index as u8)).collect();
                match role {
                    Role::Server => append_client_frame(&mut input, Opcode::Binary, &payload, key),
                    Role::Client => append_server_frame(&mut input, Opcode::Binary, &payload),
                }
                let shared =
                    server_frame_with(Opcode::Binary, &mut scratch, |out| out.extend_from_slice(&payload));
                prop_assert_eq!(shared, server_frame(Opcode::Binary, &payload));
                expected.push(Seen::Binary(payload));
            }
            let (seen, _) = theirs(role, &input, 70_000);
            prop_assert_eq!(&seen, &expected);
            for piece_bytes in [1, 1_000, 16_384, input.len()] {
                let reading = ours(role, input.chunks(piece_bytes), 70_000);
                prop_assert_eq!(
                    &reading,
                    &Reading { seen: expected.clone(), violation: None, is_idle: true }
                );
            }
            Ok(())
        })
        .unwrap_or_else(|failure| panic!("{failure}"));
}
