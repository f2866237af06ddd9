//! Masking (RFC 6455 section 5.3): byte `i` of a payload is combined with byte `i mod 4` of the key.
//!
//! # Invariants
//! - One pass: bytes are unmasked on their way into the buffer they are read from, never afterwards.
//! - Words are taken in the machine's own order: the key and the payload lie in memory alike, so order cancels out.

use rkyv::util::AlignedVec;

/// Bytes that are unmasked at once. A multiple of the key, and wide enough for the widest vector registers.
const BLOCK_BYTES: usize = 64;

/// Appends `input`, unmasked with `key`, whose first byte belongs to the first byte of `input`.
pub(super) fn append_unmasked(out: &mut AlignedVec<16>, input: &[u8], key: [u8; 4]) {
    out.reserve(input.len());
    let word = wide(key);
    let (blocks, rest) = input.as_chunks::<BLOCK_BYTES>();
    for block in blocks {
        // A copy in registers: appending it is the only store.
        let mut block = *block;
        apply_wide(&mut block, word);
        out.extend_from_slice(&block);
    }
    let mut block = [0; BLOCK_BYTES];
    if let Some(last) = block.get_mut(..rest.len()) {
        last.copy_from_slice(rest);
        mask_in_place(last, key);
        out.extend_from_slice(last);
    }
}

/// Masks or unmasks `payload` where it lies; `key` belongs to its first byte.
pub fn mask_in_place(payload: &mut [u8], key: [u8; 4]) {
    apply_wide(payload, wide(key));
}

/// The key for what follows after `bytes` of a payload.
pub(super) const fn key_after(key: [u8; 4], bytes: usize) -> [u8; 4] {
    #[expect(clippy::cast_possible_truncation, reason = "a number below four")]
    let turn = (bytes % 4) as u32 * 8;
    u32::from_be_bytes(key).rotate_left(turn).to_be_bytes()
}

const fn wide([a, b, c, d]: [u8; 4]) -> u64 {
    u64::from_ne_bytes([a, b, c, d, a, b, c, d])
}

#[inline(always)]
fn apply_wide(payload: &mut [u8], word: u64) {
    let (words, rest) = payload.as_chunks_mut::<8>();
    for bytes in words {
        *bytes = (u64::from_ne_bytes(*bytes) ^ word).to_ne_bytes();
    }
    for (byte, key) in rest.iter_mut().zip(word.to_ne_bytes()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn byte_by_byte(input: &[u8], key: [u8; 4]) -> Vec<u8> {
        input.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect()
    }

    #[test]
    fn every_length_and_place_agrees_with_the_definition() {
        let input: Vec<u8> = (0..=255).cycle().take(3 * BLOCK_BYTES + 9).collect();
        let key = [0x37, 0xfa, 0x21, 0x3d];
        for length in 0..input.len() {
            let expected = byte_by_byte(&input[..length], key);
            let mut in_place = input[..length].to_vec();
            mask_in_place(&mut in_place, key);
            assert_eq!(in_place, expected, "in place, {length} bytes");
            for cut in [0, 1, 2, 3, 5, 63, 64, 65, length] {
                let (first, second) = input[..length].split_at(cut.min(length));
                let mut out = AlignedVec::new();
                append_unmasked(&mut out, first, key);
                append_unmasked(&mut out, second, key_after(key, first.len()));
                assert_eq!(out.as_slice(), expected, "{length} bytes, cut at {cut}");
            }
        }
    }
}
