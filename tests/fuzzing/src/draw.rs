//! Structured inputs out of a fuzzer's bytes. Bytes that ran out are zeros, so every input means something.

use std::borrow::Cow;

use arbitrary::Unstructured;

/// Draws from the bytes of one input.
pub(crate) struct Draw<'d>(Unstructured<'d>);

impl<'d> Draw<'d> {
    pub(crate) fn new(data: &'d [u8]) -> Draw<'d> {
        Draw(Unstructured::new(data))
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn byte(&mut self) -> u8 {
        self.0.arbitrary().unwrap_or_default()
    }

    pub(crate) fn flag(&mut self) -> bool {
        self.byte() & 1 == 1
    }

    pub(crate) fn number(&mut self) -> u64 {
        self.0.arbitrary().unwrap_or_default()
    }

    /// A number in `0..bound`, of as few bytes as it needs.
    pub(crate) fn below(&mut self, bound: usize) -> usize {
        self.0.int_in_range(0..=bound.saturating_sub(1)).unwrap_or_default()
    }

    pub(crate) fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len())]
    }

    /// The next bytes as they stand, `bytes_max` at most.
    pub(crate) fn bytes(&mut self, bytes_max: usize) -> &'d [u8] {
        let count = self.below(bytes_max + 1).min(self.0.len());
        self.0.bytes(count).unwrap_or_default()
    }

    /// Everything that is left.
    pub(crate) fn rest(self) -> &'d [u8] {
        self.0.take_rest()
    }

    pub(crate) fn array<const N: usize>(&mut self) -> [u8; N] {
        self.0.arbitrary().unwrap_or([0; N])
    }

    /// Text: the next bytes, with what is not UTF-8 replaced.
    pub(crate) fn text(&mut self, bytes_max: usize) -> Cow<'d, str> {
        String::from_utf8_lossy(self.bytes(bytes_max))
    }

    /// Ascending places in `0..=end`.
    pub(crate) fn cuts(&mut self, end: usize, count_max: usize) -> Vec<usize> {
        let count = self.below(count_max + 1);
        let mut cuts: Vec<usize> = (0..count).map(|_| self.below(end + 1)).collect();
        cuts.sort_unstable();
        cuts
    }
}
