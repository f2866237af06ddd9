//! Reading the commit log at opening: all of it is read and judged before anything is changed.
//!
//! Invariants: what is returned is every record from the first to the last without a gap. A damaged place is cut only
//! when it can be nothing but the torn tail of a commit that was never acknowledged: nothing whole follows it, in this
//! segment or a later one, and it is not what a clean stop said is there. Everything else is refused, with the place and
//! the numbers, and left as it is (F10, F11, G14).

use std::collections::VecDeque;
use std::io;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use crc32fast::Hasher;

use super::disk::{Disk, read_all, read_exact_at, write_all_at};
use super::format::{
    ALIGN_BYTES, FLAG_IDLE, HEADER_BYTES, SegmentHeader, StoreId, is_zero, parse, rows, u32_at, u64_at,
};
use super::shelf::{Segment, file_index, file_name, remove_unfinished};

/// A record behind a damaged one is looked for with a number at most this much higher: no log holds more records.
const NUMBERS_AHEAD_MAX: u64 = 1 << 32;
/// The most bytes that are summed while looking for one. A message may be full of what looks like records; then the
/// store is refused rather than kept busy.
const CHECKED_BYTES_MAX: u64 = 8 << 30;

/// Up to where the tables hold everything, and where the log goes on: the row `b/applied`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Applied {
    /// The tables hold every record up to this one.
    pub(super) number: u64,
    /// The segment in which this record lies (the first segment when there is none yet): it and all later ones are kept.
    pub(super) segment: u64,
    /// The store that both halves belong to.
    pub(super) store: StoreId,
}

const APPLIED_BYTES: usize = 32;

impl Applied {
    /// As it is stored.
    pub(super) fn encode(&self) -> [u8; APPLIED_BYTES] {
        let mut bytes = [0; APPLIED_BYTES];
        bytes[..8].copy_from_slice(&self.number.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.segment.to_le_bytes());
        bytes[16..].copy_from_slice(&self.store);
        bytes
    }

    /// Reads what [`Applied::encode`] wrote.
    pub(super) fn decode(bytes: &[u8]) -> Option<Applied> {
        let bytes: &[u8; APPLIED_BYTES] = bytes.try_into().ok()?;
        let store = bytes[16..].try_into().ok()?;
        Some(Applied { number: u64_at(bytes, 0)?, segment: u64_at(bytes, 8)?, store })
    }
}

/// Why the log cannot be used.
#[derive(Debug)]
pub(super) enum LogError {
    /// It is not what this store wrote. Says where, and what is missing.
    Damaged(String),
    /// The file system said no.
    Io(io::Error),
}

impl From<io::Error> for LogError {
    fn from(error: io::Error) -> Self {
        LogError::Io(error)
    }
}

/// Where a record lies.
#[derive(Clone, Copy, Debug)]
struct Place {
    /// Position in [`Scan::segments`].
    segment: usize,
    offset: u64,
    bytes: usize,
}

/// A log that was read to its end and found whole.
#[derive(Debug)]
pub(super) struct Scan {
    dir: PathBuf,
    segments: Vec<Segment>,
    /// The records that the tables do not hold, in order; idle ones have no rows and are left out.
    places: Vec<Place>,
    /// The last record's number.
    pub(super) last: u64,
    last_place: Option<Place>,
    /// Position of the segment that is appended to, and where.
    tail: usize,
    tail_offset: u64,
    /// The tail holds the torn beginning of a commit that was never acknowledged.
    pub(super) is_torn: bool,
}

/// Whether any segment in `dir` holds a whole record. Used to tell a store that was never finished from a damaged one.
pub(super) fn holds_records(disk: &dyn Disk, dir: &Path) -> io::Result<bool> {
    for name in disk.list(dir)? {
        if file_index(&name).is_none() {
            continue;
        }
        let bytes = read_all(&*disk.open(&dir.join(&name))?)?;
        // A segment whose header is lost may hold anything.
        let Some(header) = SegmentHeader::decode(&bytes) else { return Ok(!is_zero(&bytes)) };
        let body = bytes.get(HEADER_BYTES..).unwrap_or_default();
        if !is_zero(body)
            && !matches!(first_whole(&header.seed(), body, 0, CHECKED_BYTES_MAX), Behind::Nothing)
        {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Removes every segment: the store was never finished and holds nothing.
pub(super) fn wipe(disk: &dyn Disk, dir: &Path) -> io::Result<()> {
    for name in disk.list(dir)? {
        if file_index(&name).is_some() {
            disk.remove(&dir.join(&name))?;
        } else {
            remove_unfinished(disk, dir, &name)?;
        }
    }
    disk.sync_dir(dir)
}

/// Reads and judges the log behind `applied`. Changes nothing.
pub(super) fn scan(disk: &dyn Disk, dir: &Path, applied: &Applied) -> Result<Scan, LogError> {
    let mut indexes: Vec<u64> = disk.list(dir)?.iter().filter_map(|name| file_index(name)).collect();
    indexes.sort_unstable();
    check_indexes(&indexes, applied)?;

    let mut scan = Scan {
        dir: dir.to_owned(),
        segments: Vec::new(),
        places: Vec::new(),
        last: applied.number,
        last_place: None,
        tail: 0,
        tail_offset: HEADER_BYTES as u64,
        is_torn: false,
    };
    let mut expected = None;
    for index in indexes {
        let file = disk.open(&dir.join(file_name(index)))?;
        let bytes = read_all(&*file)?;
        let header = check_header(&bytes, index, applied)?;
        scan.segments.push(Segment { header, file });
        scan_segment(&mut scan, &bytes, &mut expected, applied)?;
    }
    if scan.last < applied.number {
        return Err(LogError::Damaged(format!(
            "the commit log ends with record {}, but the tables already hold records up to {}: its tail is missing",
            scan.last, applied.number
        )));
    }
    Ok(scan)
}

fn check_indexes(indexes: &[u64], applied: &Applied) -> Result<(), LogError> {
    let missing = |index: u64| LogError::Damaged(format!("the file log/{} is missing", file_name(index)));
    let (Some(first), Some(last)) = (indexes.first(), indexes.last()) else {
        return Err(missing(applied.segment));
    };
    if *first > applied.segment || *last < applied.segment {
        return Err(missing(applied.segment));
    }
    for pair in indexes.windows(2) {
        if let [before, after] = pair
            && before + 1 != *after
        {
            return Err(missing(before + 1));
        }
    }
    Ok(())
}

fn check_header(bytes: &[u8], index: u64, applied: &Applied) -> Result<SegmentHeader, LogError> {
    let name = file_name(index);
    let Some(header) = SegmentHeader::decode(bytes) else {
        return Err(LogError::Damaged(format!("log/{name} does not begin with the header of a segment")));
    };
    if header.index != index || header.store != applied.store {
        return Err(LogError::Damaged(format!(
            "log/{name} is segment {} of store {}, not of {}",
            header.index,
            hex(&header.store),
            hex(&applied.store)
        )));
    }
    if header.bytes != bytes.len() as u64 {
        return Err(LogError::Damaged(format!(
            "log/{name} has {} bytes instead of {}",
            bytes.len(),
            header.bytes
        )));
    }
    Ok(header)
}

/// Reads the segment that was pushed last. `expected` is the next record's number, once there is a record.
fn scan_segment(
    scan: &mut Scan,
    bytes: &[u8],
    expected: &mut Option<u64>,
    applied: &Applied,
) -> Result<(), LogError> {
    let segment = scan.segments.len() - 1;
    let header = &scan.segments[segment].header;
    let name = file_name(header.index);
    let seed = header.seed();
    let mut at = HEADER_BYTES;
    while let Some(record) = bytes.get(at..).and_then(|place| parse(&seed, place)) {
        let number = record.number;
        if scan.is_torn {
            return Err(damaged_before(&torn_place(scan), number, &name, at));
        }
        match *expected {
            None if number > applied.number + 1 => {
                return Err(LogError::Damaged(format!(
                    "the log begins with record {number} (log/{name} at {at}), but the tables hold records only up to {}: \
                     {} records are missing",
                    applied.number,
                    number - applied.number - 1
                )));
            }
            Some(expected) if number != expected => {
                return Err(LogError::Damaged(format!(
                    "log/{name} at {at} holds record {number}, where record {expected} has to be"
                )));
            }
            _ => {}
        }
        let place = Place { segment, offset: at as u64, bytes: record.whole.len() };
        if number > applied.number && record.flags & FLAG_IDLE == 0 {
            if rows(record.whole).is_none() {
                return Err(LogError::Damaged(format!(
                    "record {number} in log/{name} at {at} cannot be read"
                )));
            }
            scan.places.push(place);
        }
        at += record.whole.len();
        *expected = Some(number + 1);
        scan.last = number;
        scan.last_place = Some(place);
        scan.tail = segment;
        scan.tail_offset = at as u64;
    }
    let rest = bytes.get(at..).unwrap_or_default();
    if is_zero(rest) {
        return Ok(());
    }
    if scan.is_torn {
        return Err(LogError::Damaged(format!(
            "{} is damaged, and log/{name} at {at}, behind it, was written too: records are missing",
            torn_place(scan)
        )));
    }
    // Nonzero and no record: torn, if nothing whole follows.
    if expected.is_none() {
        // This store always keeps the record up to which the tables are complete.
        *expected = Some(applied.number + 1);
    }
    scan.is_torn = true;
    scan.tail = segment;
    scan.tail_offset = at as u64;
    match first_whole(&seed, rest, expected.unwrap_or_default(), CHECKED_BYTES_MAX) {
        Behind::Record(number, offset) => Err(damaged_before(&torn_place(scan), number, &name, at + offset)),
        Behind::TooMuch => Err(LogError::Damaged(format!(
            "{} is damaged, and what is behind it looks too much like records to be told from them",
            torn_place(scan)
        ))),
        Behind::Nothing => Ok(()),
    }
}

/// Where the damage is, in words.
fn torn_place(scan: &Scan) -> String {
    let index = scan.segments.get(scan.tail).map_or(0, |segment| segment.header.index);
    format!("record {} (log/{} at {})", scan.last + 1, file_name(index), scan.tail_offset)
}

fn damaged_before(damaged: &str, number: u64, name: &str, at: usize) -> LogError {
    LogError::Damaged(format!(
        "{damaged} is damaged, but record {number} behind it (log/{name} at {at}) is whole"
    ))
}

/// What lies behind a damaged place.
enum Behind {
    /// No whole record.
    Nothing,
    /// A whole record with this number, so many bytes behind.
    Record(u64, usize),
    /// Too much that looks like records to tell in reasonable time.
    TooMuch,
}

/// The first whole record in `bytes` with at least this number, at any place where one may begin.
fn first_whole(seed: &Hasher, bytes: &[u8], number_min: u64, checked_bytes_max: u64) -> Behind {
    let mut checked_bytes: u64 = 0;
    let mut at = 0;
    while let Some(place) = bytes.get(at..) {
        if place.len() < ALIGN_BYTES {
            break;
        }
        let is_near = u64_at(place, 8)
            .is_some_and(|number| number >= number_min && number - number_min < NUMBERS_AHEAD_MAX);
        if is_near {
            checked_bytes += u64::from(u32_at(place, 4).unwrap_or_default()).min(place.len() as u64);
            if checked_bytes > checked_bytes_max {
                return Behind::TooMuch;
            }
            if let Some(record) = parse(seed, place) {
                return Behind::Record(record.number, at);
            }
        }
        at += ALIGN_BYTES;
    }
    Behind::Nothing
}

impl Scan {
    /// Hands out the records that the tables do not hold, in order, each with its number, its segment and its bytes.
    pub(super) fn replay<E: From<LogError>>(
        &self,
        mut each: impl FnMut(u64, u64, Bytes) -> Result<(), E>,
    ) -> Result<(), E> {
        for place in &self.places {
            let (segment, whole) = self.read(place).map_err(|error| E::from(LogError::Io(error)))?;
            let Some(number) = u64_at(&whole, 8) else { continue };
            each(number, segment, Bytes::from(whole))?;
        }
        Ok(())
    }

    fn read(&self, place: &Place) -> io::Result<(u64, Vec<u8>)> {
        let Some(segment) = self.segments.get(place.segment) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let mut whole = vec![0; place.bytes];
        read_exact_at(&*segment.file, &mut whole, place.offset)?;
        Ok((segment.header.index, whole))
    }

    /// Cuts a torn tail and makes the rest durable, then hands over the segment to append to, the place in it, and the
    /// segments prepared behind it.
    ///
    /// The last record is written again before the sync: if the sync of the process before failed, the kernel took the
    /// page for clean, and only a new write makes it write the page at all (G14).
    pub(super) fn settle(mut self, disk: &dyn Disk) -> io::Result<Settled> {
        if let Some(place) = self.last_place {
            let (_, whole) = self.read(&place)?;
            if let Some(segment) = self.segments.get(place.segment) {
                write_all_at(&*segment.file, &whole, place.offset)?;
                segment.file.sync_data()?;
            }
        }
        if self.is_torn
            && let Some(segment) = self.segments.get(self.tail)
        {
            let zeros = vec![0; usize::try_from(segment.header.bytes - self.tail_offset).unwrap_or_default()];
            write_all_at(&*segment.file, &zeros, self.tail_offset)?;
            segment.file.sync_data()?;
        }
        for name in disk.list(&self.dir)? {
            remove_unfinished(disk, &self.dir, &name)?;
        }
        disk.sync_dir(&self.dir)?;
        let oldest = self.segments.first().map_or(1, |segment| segment.header.index);
        let next = self.segments.last().map_or(1, |segment| segment.header.index) + 1;
        let mut ready: VecDeque<Segment> = self.segments.drain(self.tail..).collect();
        let segment = ready.pop_front().ok_or(io::ErrorKind::NotFound)?;
        Ok(Settled { segment, offset: self.tail_offset, last: self.last, oldest, next, ready })
    }
}

/// A log ready to be appended to.
#[derive(Debug)]
pub(super) struct Settled {
    pub(super) segment: Segment,
    pub(super) offset: u64,
    pub(super) last: u64,
    /// The oldest segment's index, and the first free one.
    pub(super) oldest: u64,
    pub(super) next: u64,
    pub(super) ready: VecDeque<Segment>,
}

/// Sixteen bytes for a reader.
fn hex(bytes: &StoreId) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::super::format::encode;
    use super::super::row_table::RowTable;
    use super::*;

    /// G13: bytes full of what looks like records are given up on, not summed for ever.
    #[test]
    fn g13_looking_behind_a_damaged_place_is_bounded() {
        let seed = SegmentHeader { store: [1; 16], index: 1, epoch: 1, bytes: 1 << 20 }.seed();
        let mut bytes = Vec::new();
        for number in 1_u64..100 {
            bytes.extend_from_slice(&[0, 0, 0, 0, 0, 16, 0, 0]);
            bytes.extend_from_slice(&number.to_le_bytes());
            bytes.extend_from_slice(&[0; 8]);
        }
        bytes.resize(bytes.len() + 8192, 0);
        assert!(matches!(first_whole(&seed, &bytes, 1, 100 << 20), Behind::Nothing));
        assert!(matches!(first_whole(&seed, &bytes, 1, 50 << 10), Behind::TooMuch));
        let record = encode(&seed, 7, 0, &RowTable::default()).expect("fits");
        let at = bytes.len();
        bytes.extend_from_slice(&record);
        assert!(matches!(first_whole(&seed, &bytes, 7, 100 << 20), Behind::Record(7, found) if found == at));
        assert!(matches!(first_whole(&seed, &bytes, 8, 100 << 20), Behind::Nothing));
    }
}
