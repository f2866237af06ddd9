//! The bytes of the commit log: what a segment and a record look like. Pure; reading and writing is elsewhere.
//!
//! A segment is a file of a fixed size: a header in its first [`HEADER_BYTES`], then records, then zeros. All integers
//! are little-endian.
//!
//! ```text
//! segment  magic 8 · version u32 · 0 u32 · store id 16 · index u64 · epoch u64 · bytes u64 · crc u32 · zeros to 4096
//! record   crc u32 · payload bytes u32 · number u64 · flags u32 · rows u32 · payload · zeros to a multiple of 8
//! row      key bytes varint · (0 for a removal | value bytes + 1) varint · key · value
//! ```
//!
//! Invariants: a record's checksum covers the header of its segment (store, index and the epoch drawn when the segment
//! was made), its own header and its payload to the last padding byte. So a record of another life of the same file,
//! of another segment or of another store is never taken for one of ours, and no single flipped bit goes unseen. An
//! all-zero place is no record, because numbers begin at 1.

use bytes::Bytes;
use crc32fast::Hasher;

use super::row_table::RowTable;

/// Bytes before the first record: a page of its own, so that appending never rewrites the header's sectors.
pub(super) const HEADER_BYTES: usize = 4096;
/// Bytes of the header that carry something.
const HEADER_USED_BYTES: usize = 60;
/// Bytes of a record before its rows.
pub(super) const RECORD_HEADER_BYTES: usize = 24;
/// Records begin at multiples of this.
pub(super) const ALIGN_BYTES: usize = 8;
/// The record carries no rows: it only says that everything before it is whole.
pub(super) const FLAG_IDLE: u32 = 1;
const FLAGS_KNOWN: u32 = FLAG_IDLE;
const MAGIC: [u8; 8] = *b"CARILLOG";
const VERSION: u32 = 1;

const _: () = assert!(HEADER_USED_BYTES <= HEADER_BYTES && HEADER_BYTES.is_multiple_of(ALIGN_BYTES));
const _: () = assert!(RECORD_HEADER_BYTES.is_multiple_of(ALIGN_BYTES));

/// Which store this is; drawn when it is created, checked wherever files of it meet.
pub(super) type StoreId = [u8; 16];

/// The head of a segment file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct SegmentHeader {
    /// The store it belongs to.
    pub(super) store: StoreId,
    /// Its place in the log: consecutive, never used twice, also the file's name.
    pub(super) index: u64,
    /// Drawn anew for each life of the file.
    pub(super) epoch: u64,
    /// The file's length.
    pub(super) bytes: u64,
}

impl SegmentHeader {
    /// The first page of the file.
    pub(super) fn encode(&self) -> Vec<u8> {
        let mut page = Vec::with_capacity(HEADER_BYTES);
        page.extend_from_slice(&MAGIC);
        page.extend_from_slice(&VERSION.to_le_bytes());
        page.extend_from_slice(&[0; 4]);
        page.extend_from_slice(&self.store);
        page.extend_from_slice(&self.index.to_le_bytes());
        page.extend_from_slice(&self.epoch.to_le_bytes());
        page.extend_from_slice(&self.bytes.to_le_bytes());
        page.extend_from_slice(&crc32fast::hash(&page).to_le_bytes());
        page.resize(HEADER_BYTES, 0);
        page
    }

    /// Reads the first page of a file; `None` when it is not the header of a segment of ours.
    pub(super) fn decode(page: &[u8]) -> Option<SegmentHeader> {
        let page = page.get(..HEADER_BYTES)?;
        let (used, rest) = page.split_at_checked(HEADER_USED_BYTES)?;
        let (covered, crc) = used.split_at_checked(HEADER_USED_BYTES - 4)?;
        let crc_is_right = crc32fast::hash(covered).to_le_bytes() == *crc;
        if !crc_is_right || covered.get(..8)? != MAGIC || u32_at(covered, 8)? != VERSION || !is_zero(rest) {
            return None;
        }
        Some(SegmentHeader {
            store: covered.get(16..32)?.try_into().ok()?,
            index: u64_at(covered, 32)?,
            epoch: u64_at(covered, 40)?,
            bytes: u64_at(covered, 48)?,
        })
    }

    /// The state every record checksum of this segment starts from. The header's own checksum is left out: a CRC over
    /// bytes and their CRC is the same for all bytes.
    pub(super) fn seed(&self) -> Hasher {
        let mut hasher = Hasher::new();
        hasher.update(self.encode().get(..HEADER_USED_BYTES - 4).unwrap_or_default());
        hasher
    }
}

/// A record whose checksum is right.
#[derive(Debug)]
pub(super) struct Record<'a> {
    /// Its place in the order of all commits; the first is 1.
    pub(super) number: u64,
    /// [`FLAG_IDLE`] or nothing.
    pub(super) flags: u32,
    /// Everything from its first byte to its last padding byte.
    pub(super) whole: &'a [u8],
}

/// The record that begins with the first byte of `place`, if there is one.
pub(super) fn parse<'a>(seed: &Hasher, place: &'a [u8]) -> Option<Record<'a>> {
    let number = u64_at(place, 8)?;
    let flags = u32_at(place, 16)?;
    if number == 0 || flags & !FLAGS_KNOWN != 0 {
        return None;
    }
    let payload_bytes = usize::try_from(u32_at(place, 4)?).ok()?;
    let whole = place.get(..record_bytes(payload_bytes)?)?;
    let mut hasher = seed.clone();
    hasher.update(whole.get(4..)?);
    (hasher.finalize() == u32_at(whole, 0)?).then_some(Record { number, flags, whole })
}

/// Writes the record of a commit. `None` when its payload is longer than the length field can say.
pub(super) fn encode(seed: &Hasher, number: u64, flags: u32, writes: &RowTable) -> Option<Bytes> {
    let payload_bytes = payload_bytes(writes);
    // The overlay keeps it as it is here: there is to be nothing unused behind it.
    let mut whole = Vec::with_capacity(record_bytes(payload_bytes)?);
    whole.resize(RECORD_HEADER_BYTES, 0);
    for (key, value) in writes.iter() {
        put_varint(&mut whole, key.len() as u64);
        put_varint(&mut whole, value.as_ref().map_or(0, |value| value.len() as u64 + 1));
        whole.extend_from_slice(key);
        whole.extend_from_slice(value.as_deref().unwrap_or_default());
    }
    debug_assert_eq!(whole.len(), RECORD_HEADER_BYTES + payload_bytes);
    whole.resize(record_bytes(payload_bytes)?, 0);
    let mut head = [0; RECORD_HEADER_BYTES];
    head[4..8].copy_from_slice(&u32::try_from(payload_bytes).ok()?.to_le_bytes());
    head[8..16].copy_from_slice(&number.to_le_bytes());
    head[16..20].copy_from_slice(&flags.to_le_bytes());
    head[20..24].copy_from_slice(&u32::try_from(writes.len()).ok()?.to_le_bytes());
    whole[..RECORD_HEADER_BYTES].copy_from_slice(&head);
    let mut hasher = seed.clone();
    hasher.update(&whole[4..]);
    let crc = hasher.finalize();
    whole[..4].copy_from_slice(&crc.to_le_bytes());
    Some(Bytes::from(whole))
}

/// Where in its record a row stands: its value follows its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RowPlace {
    pub(super) key_at: u32,
    pub(super) key_bytes: u32,
    /// `None` for a removal.
    pub(super) value_bytes: Option<u32>,
}

/// Where the rows of a whole record stand. `None` when they are not what [`encode`] writes: with a right checksum that
/// means a writer of another make.
pub(super) fn rows(record: &[u8]) -> Option<Vec<RowPlace>> {
    let payload_end = u32_at(record, 4)?.checked_add(RECORD_HEADER_BYTES as u32)?;
    if payload_end as usize > record.len() {
        return None;
    }
    let rows_count = usize::try_from(u32_at(record, 20)?).ok()?;
    // A row takes two bytes at least, so this cannot be talked into a large allocation.
    let mut rows = Vec::with_capacity(rows_count.min(record.len() / 2));
    let mut at = RECORD_HEADER_BYTES;
    for _ in 0..rows_count {
        let key_bytes = take_varint(record, &mut at)?;
        let value_bytes = take_varint(record, &mut at)?.checked_sub(1);
        let key_at = u32::try_from(at).ok()?;
        let end = key_at.checked_add(key_bytes)?.checked_add(value_bytes.unwrap_or(0))?;
        if end > payload_end {
            return None;
        }
        at = end as usize;
        rows.push(RowPlace { key_at, key_bytes, value_bytes });
    }
    (at == payload_end as usize).then_some(rows)
}

/// Whether all bytes are zero; compares blocks, so that it is fast in every profile.
pub(super) fn is_zero(bytes: &[u8]) -> bool {
    const ZEROS: [u8; 4096] = [0; 4096];
    bytes.chunks(ZEROS.len()).all(|chunk| chunk == &ZEROS[..chunk.len()])
}

/// A record's length with header and padding.
fn record_bytes(payload_bytes: usize) -> Option<usize> {
    RECORD_HEADER_BYTES.checked_add(payload_bytes)?.checked_next_multiple_of(ALIGN_BYTES)
}

/// The length of the payload that `writes` become.
fn payload_bytes(writes: &RowTable) -> usize {
    let row_bytes = |key: &Bytes, value: &Option<Bytes>| {
        let (key_bytes, value_bytes) = (key.len(), value.as_ref().map(Bytes::len));
        let lengths_bytes =
            varint_bytes(key_bytes as u64) + varint_bytes(value_bytes.map_or(0, |bytes| bytes as u64 + 1));
        lengths_bytes + key_bytes + value_bytes.unwrap_or(0)
    };
    writes.iter().map(|(key, value)| row_bytes(key, value)).sum()
}

/// The little-endian u32 at `at`.
pub(super) fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
}

/// The little-endian u64 at `at`.
pub(super) fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(bytes.get(at..at.checked_add(8)?)?.try_into().ok()?))
}

/// How many bytes [`put_varint`] puts.
fn varint_bytes(value: u64) -> usize {
    (value | 1).ilog2() as usize / 7 + 1
}

fn put_varint(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push((value as u8) | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// A length of at most 35 bits; more than any record can hold.
fn take_varint(bytes: &[u8], at: &mut usize) -> Option<u32> {
    let mut value = 0_u64;
    for shift in [0, 7, 14, 21, 28] {
        let byte = *bytes.get(*at)?;
        *at += 1;
        value |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return u32::try_from(value).ok();
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> SegmentHeader {
        SegmentHeader { store: [7; 16], index: 3, epoch: 99, bytes: 65_536 }
    }

    fn writes() -> RowTable {
        let long = Bytes::from(vec![9; 300]);
        let rows = [
            (Bytes::from_static(b"c/1"), Some(Bytes::from_static(b"one"))),
            (Bytes::from_static(b"c/2"), None),
            (Bytes::from_static(b"c/3"), Some(Bytes::new())),
            (Bytes::from_static(b"c/4"), Some(long)),
        ];
        rows.into_iter().collect()
    }

    #[test]
    fn a_record_reads_back_as_it_was_written() {
        let seed = header().seed();
        let whole = encode(&seed, 42, 0, &writes()).expect("fits");
        let record = parse(&seed, &whole).expect("whole");
        assert_eq!((record.number, record.flags, record.whole.len()), (42, 0, whole.len()));
        let slice = |at: u32, bytes: u32| whole.slice(at as usize..at as usize + bytes as usize);
        let read = rows(&whole).expect("rows").into_iter().map(|place| {
            let RowPlace { key_at, key_bytes, value_bytes } = place;
            (slice(key_at, key_bytes), value_bytes.map(|bytes| slice(key_at + key_bytes, bytes)))
        });
        assert_eq!(read.collect::<Vec<_>>(), writes().into_rows());
    }

    /// F11: no single flipped bit of a record or of a segment header goes unseen.
    #[test]
    fn f11_every_flipped_bit_is_seen() {
        let seed = header().seed();
        let whole = encode(&seed, 42, 0, &writes()).expect("fits").to_vec();
        for bit in 0..whole.len() * 8 {
            let mut damaged = whole.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert!(parse(&seed, &damaged).is_none(), "bit {bit} of the record");
        }
        let page = header().encode();
        assert_eq!(SegmentHeader::decode(&page), Some(header()));
        for bit in 0..page.len() * 8 {
            let mut damaged = page.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::decode(&damaged), None, "bit {bit} of the segment header");
        }
    }

    /// F10: a record of another store, segment or life of the same file is not taken for one of this segment.
    #[test]
    fn f10_records_of_another_life_are_strangers() {
        let whole = encode(&header().seed(), 42, 0, &writes()).expect("fits");
        for other in [
            SegmentHeader { store: [8; 16], ..header() },
            SegmentHeader { index: 4, ..header() },
            SegmentHeader { epoch: 100, ..header() },
        ] {
            assert!(parse(&other.seed(), &whole).is_none(), "{other:?}");
        }
        assert!(parse(&header().seed(), &[0; 64]).is_none());
    }

    #[test]
    fn rows_that_lie_about_their_lengths_are_refused() {
        let whole = encode(&header().seed(), 1, 0, &writes()).expect("fits").to_vec();
        for at in RECORD_HEADER_BYTES..whole.len() {
            let mut lying = whole.clone();
            lying[at] = 0xff;
            // Only that it returns: some of these are still well formed.
            let _ = rows(&lying);
        }
        let mut lying = whole;
        lying[20..24].copy_from_slice(&u32::MAX.to_le_bytes());
        assert!(rows(&lying).is_none());
    }
}
