//! What one send carries: the payloads of a connection that wait for it, as one piece of memory that stays where it is
//! until the kernel has answered.
//!
//! A payload alone is shared with whoever else has it, as in a fan-out. Several small ones (a turn's acks) are copied
//! together, which costs less than a handle and a slice for each. Several large ones are shared and sent as slices.

use bytes::Bytes;

use super::ring;

/// Payloads of one send; more than fit a socket buffer when they are large.
const PIECES_MAX: usize = 64;
/// Bytes up to which several payloads are copied together: about what [`PIECES_MAX`] acks take.
const GATHERED_BYTES_MAX: usize = 16_384;
/// Room for copies that a parcel keeps while it waits for the next send: a dozen acks.
const SMALL_BYTES_MAX: usize = 4_096;

/// See the module.
pub(super) struct Parcel {
    shared: Vec<Bytes>,
    gathered: Vec<u8>,
    slices: Vec<libc::iovec>,
    head: libc::msghdr,
    bytes: usize,
}

/// How a parcel is sent.
pub(super) enum Form<'a> {
    One(&'a [u8]),
    Many(*const libc::msghdr),
}

impl Parcel {
    pub(super) fn new() -> Parcel {
        Parcel {
            shared: Vec::new(),
            gathered: Vec::new(),
            slices: Vec::new(),
            head: ring::message_head(std::ptr::null_mut(), 0),
            bytes: 0,
        }
    }

    /// Takes these payloads, as many as one send carries.
    pub(super) fn fill<'a>(&mut self, pieces: impl Iterator<Item = &'a Bytes> + Clone) {
        self.empty();
        let pieces = pieces.filter(|piece| !piece.is_empty()).take(PIECES_MAX);
        self.bytes = pieces.clone().map(Bytes::len).sum();
        let count = pieces.clone().count();
        if count > 1 && self.bytes <= GATHERED_BYTES_MAX {
            pieces.for_each(|piece| self.gathered.extend_from_slice(piece));
            return;
        }
        self.shared.extend(pieces.cloned());
        if count > 1 {
            self.slices.extend(self.shared.iter().map(|piece| libc::iovec {
                iov_base: piece.as_ptr().cast_mut().cast(),
                iov_len: piece.len(),
            }));
            self.head = ring::message_head(self.slices.as_mut_ptr(), count);
        }
    }

    /// Lets go of the payloads, and keeps the room that they took.
    pub(super) fn empty(&mut self) {
        self.shared.clear();
        self.gathered.clear();
        self.slices.clear();
        self.bytes = 0;
    }

    /// Whether it holds little memory while it is empty.
    pub(super) fn is_small(&self) -> bool {
        self.gathered.capacity() <= SMALL_BYTES_MAX
    }

    /// Bytes of all payloads.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn form(&self) -> Form<'_> {
        match &self.shared[..] {
            [] => Form::One(&self.gathered),
            [one] => Form::One(one),
            _ => Form::Many(&raw const self.head),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(pieces: &[Bytes]) -> Parcel {
        let mut parcel = Parcel::new();
        // Something else was in it before.
        parcel.fill([Bytes::from_static(b"before"), Bytes::from(vec![1; 2 * GATHERED_BYTES_MAX])].iter());
        parcel.fill(pieces.iter());
        parcel
    }

    /// What many hear is sent from one piece of memory; a turn's small frames are one piece, large ones are slices.
    #[test]
    fn payloads_are_shared_or_copied_by_their_size() {
        let payload = Bytes::from(vec![7; 100]);
        let alone = filled(std::slice::from_ref(&payload));
        assert!(matches!(alone.form(), Form::One(bytes) if bytes.as_ptr() == payload.as_ptr()));
        assert_eq!(alone.bytes(), 100);

        let small = filled(&[Bytes::from_static(b"ab"), Bytes::new(), Bytes::from_static(b"cd")]);
        assert!(matches!(small.form(), Form::One(b"abcd")));

        let large = [payload.clone(), Bytes::from(vec![8; GATHERED_BYTES_MAX])];
        let parcel = filled(&large);
        let Form::Many(_) = parcel.form() else { panic!("two slices") };
        assert_eq!(parcel.slices.len(), 2);
        assert!(
            parcel
                .slices
                .iter()
                .zip(&large)
                .all(|(slice, piece)| slice.iov_base.cast_const().cast() == piece.as_ptr())
        );
        assert_eq!(parcel.bytes(), 100 + GATHERED_BYTES_MAX);

        assert_eq!(
            filled(&vec![payload; PIECES_MAX + 9]).bytes(),
            100 * PIECES_MAX,
            "one send carries so many"
        );
    }

    /// G13: a parcel that is done holds on to no payload.
    #[test]
    fn an_empty_parcel_owns_no_payload() {
        let payload = Bytes::from(vec![7; 100]);
        let mut parcel = filled(std::slice::from_ref(&payload));
        assert!(!payload.is_unique());
        parcel.empty();
        assert!(payload.is_unique());
    }
}
