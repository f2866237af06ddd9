//! A writer of frames that may be wrong in any way, which shares no code with the encoder under test; and seeds.

use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use proptest::test_runner::{Config, RngSeed};

/// One frame by the letter of RFC 6455 section 5.2: `first` is the first byte, and the length takes its shortest form.
pub(crate) fn frame(first: u8, payload: &[u8], key: Option<[u8; 4]>) -> Vec<u8> {
    let form = match payload.len() {
        0..126 => 0,
        126..65_536 => 2,
        _ => 8,
    };
    frame_of_form(first, payload, key, form)
}

/// The same with 0, 2 or 8 bytes of extended length.
pub(crate) fn frame_of_form(first: u8, payload: &[u8], key: Option<[u8; 4]>, length_bytes: usize) -> Vec<u8> {
    let masked = if key.is_some() { 0x80 } else { 0 };
    let mut out = vec![first];
    let length = payload.len() as u64;
    out.push(
        masked | [length as u8, 126, 127][[0, 2, 8].iter().position(|form| *form == length_bytes).unwrap()],
    );
    out.extend_from_slice(&length.to_be_bytes()[8 - length_bytes..]);
    out.extend_from_slice(key.as_ref().map_or(&[], |key| &key[..]));
    for (index, byte) in payload.iter().enumerate() {
        out.push(byte ^ key.map_or(0, |key| key[index % 4]));
    }
    out
}

/// A configuration with a seed of its own, and on standard error (shown when the test fails) how to repeat it.
pub(crate) fn config(cases: u32) -> Config {
    // Miri is a thousand times slower.
    let mut config = Config::with_cases(if cfg!(miri) { 2 } else { cases });
    config.failure_persistence = None;
    if config.rng_seed == RngSeed::Random {
        config.rng_seed = RngSeed::Fixed(RandomState::new().build_hasher().finish());
    }
    eprintln!(
        "repeat with: PROPTEST_RNG_SEED={} cargo test -p carillon-protocol --test websocket_codec",
        config.rng_seed
    );
    config
}
