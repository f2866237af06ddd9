//! What the tests of Link share: frames that can be recognised, and wakes that count.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use carillon_link::Wake;
use carillon_protocol::framing::{self, HEADER_BYTES};

/// A padded frame that carries `number`, in an archive of `archive_bytes` (at least eight).
pub fn frame(number: u64, archive_bytes: usize) -> Vec<u8> {
    let mut frame = vec![0; framing::framed_bytes(archive_bytes.max(8))];
    let length = u32::try_from(archive_bytes.max(8)).unwrap();
    frame[0] = framing::VERSION;
    frame[2..4].copy_from_slice(&0x107_u16.to_le_bytes());
    frame[4..8].copy_from_slice(&length.to_le_bytes());
    for (at, byte) in frame[HEADER_BYTES..HEADER_BYTES + archive_bytes.max(8)].iter_mut().enumerate() {
        *byte = number.to_le_bytes()[at % 8];
    }
    frame
}

/// The number in a frame of [`frame`], whose every byte is checked.
pub fn number(received: &[u8]) -> u64 {
    let head = framing::header(received, usize::MAX).unwrap().unwrap();
    let number = u64::from_le_bytes(received[HEADER_BYTES..HEADER_BYTES + 8].try_into().unwrap());
    assert_eq!(received.as_ptr() as usize % framing::ALIGN, 0, "frames are aligned");
    assert!(received == frame(number, head.archive_bytes), "frame {number} came as it went");
    number
}

/// Counts how often it was woken.
#[derive(Default)]
pub struct Count(AtomicUsize);

impl Count {
    pub fn new() -> Arc<Count> {
        Arc::default()
    }

    /// How often since the last time this was asked.
    pub fn take(&self) -> usize {
        self.0.swap(0, Ordering::SeqCst)
    }
}

impl Wake for Count {
    fn wake(&self) {
        self.0.fetch_add(1, Ordering::SeqCst);
    }
}

/// A small pseudo-random sequence (SplitMix64) with a seed that the test prints.
pub struct Prng(pub u64);

impl Prng {
    /// A number below `bound`.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % bound as u64).unwrap()
    }
}
