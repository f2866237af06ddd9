//! Reading and writing the pieces of stored values.

/// Appends an unsigned LEB128 varint: at most ten bytes.
pub(super) fn put_varint(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        #[expect(clippy::cast_possible_truncation, reason = "the low seven bits are meant")]
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    #[expect(clippy::cast_possible_truncation, reason = "below 0x80 here")]
    out.push(value as u8);
}

/// Appends a length and the bytes.
pub(super) fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Appends nothing-or-text: 0 for none, else length + 1 and the bytes.
pub(super) fn put_option(out: &mut Vec<u8>, text: Option<&str>) {
    match text {
        None => put_varint(out, 0),
        Some(text) => {
            put_varint(out, text.len() as u64 + 1);
            out.extend_from_slice(text.as_bytes());
        }
    }
}

/// Reads what the functions above wrote; every method returns `None` at the first thing that is not as expected.
pub(super) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// A reader behind the version byte; `None` when the version is another one.
    pub(super) fn versioned(bytes: &'a [u8]) -> Option<Reader<'a>> {
        let (version, bytes) = bytes.split_first()?;
        (*version == super::VERSION).then_some(Reader { bytes })
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        let (byte, rest) = self.bytes.split_first()?;
        self.bytes = rest;
        Some(*byte)
    }

    pub(super) fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.bytes.split_first_chunk::<N>()?;
        self.bytes = rest;
        Some(*head)
    }

    pub(super) fn u64_le(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }

    pub(super) fn take(&mut self, length: u64) -> Option<&'a [u8]> {
        let (head, rest) = self.bytes.split_at_checked(usize::try_from(length).ok()?)?;
        self.bytes = rest;
        Some(head)
    }

    pub(super) fn text(&mut self) -> Option<&'a str> {
        let length = self.varint()?;
        std::str::from_utf8(self.take(length)?).ok()
    }

    /// `None`: broken. `Some(None)`: absent.
    pub(super) fn option(&mut self) -> Option<Option<&'a str>> {
        match self.varint()? {
            0 => Some(None),
            length => Some(Some(std::str::from_utf8(self.take(length - 1)?).ok()?)),
        }
    }

    /// Items left to read of `bytes_each` at least: refuses a count that the remaining bytes cannot hold, before
    /// anything is allocated for it.
    pub(super) fn count(&mut self, bytes_each: usize) -> Option<usize> {
        let count = usize::try_from(self.varint()?).ok()?;
        (count.checked_mul(bytes_each)? <= self.bytes.len()).then_some(count)
    }

    /// Whether everything was read: optional parts stand last.
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The value, if everything was read.
    pub(super) fn end<T>(self, value: T) -> Option<T> {
        self.bytes.is_empty().then_some(value)
    }
}
