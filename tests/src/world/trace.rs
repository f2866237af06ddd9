//! What happened, as one number and, when somebody reads along, in words.

/// Takes one line.
pub type Reader<'a> = Box<dyn FnMut(&str) + 'a>;

/// A running hash over everything that was noted: two runs with the same hash went the same way.
pub(super) struct Trace<'a> {
    hash: u64,
    count: u64,
    reader: Option<Reader<'a>>,
}

impl<'a> Trace<'a> {
    pub(super) fn new(reader: Option<Reader<'a>>) -> Trace<'a> {
        Trace { hash: 0xcbf2_9ce4_8422_2325, count: 0, reader }
    }

    /// Notes that something happened. `words` are only made when somebody reads.
    pub(super) fn note(
        &mut self,
        now_ns: u64,
        tag: &'static str,
        numbers: [u64; 3],
        words: impl FnOnce() -> String,
    ) {
        self.count += 1;
        let [a, b, c] = numbers;
        let tag_number =
            tag.bytes().fold(0, |sum: u64, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        for number in [now_ns, tag_number, a, b, c] {
            self.hash = (self.hash ^ number).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        }
        if let Some(reader) = &mut self.reader {
            let (millis, nanos) = (now_ns / 1_000_000, now_ns % 1_000_000);
            reader(&format!("{millis:>6}.{nanos:06} {tag:<14} {}", words()));
        }
    }

    /// Whether somebody reads along.
    pub(super) fn is_read(&self) -> bool {
        self.reader.is_some()
    }

    pub(super) fn hash(&self) -> u64 {
        self.hash
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }
}
