//! The eight bytes in front of every rkyv archive, to clients and between tiers:
//! `u8 version | u8 flags | u16 kind | u32 length`, little-endian, then the archive, then zeros to the next multiple of
//! eight, so that a sequence of frames that starts aligned stays aligned and is read in place.

use rkyv::util::AlignedVec;

/// The version of the archives' layout. It rises when released bytes would change.
pub const VERSION: u8 = 1;
/// Bytes of the header.
pub const HEADER_BYTES: usize = 8;
/// Alignment of every frame and of every archive inside it.
pub const ALIGN: usize = 8;

/// Room for the frame of a message of ordinary length.
const FRAME_BYTES_HINT: usize = 512;

/// A decoded header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the archive is.
    pub kind: u16,
    /// Bytes of the archive, without header and padding.
    pub archive_bytes: usize,
}

/// What is wrong with a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FramingError {
    /// A version this build does not read.
    #[error("frame version {0} is not {VERSION}")]
    Version(u8),
    /// Flags are not in use yet.
    #[error("frame flags {0:#04x} are not zero")]
    Flags(u8),
    /// Longer than the cap.
    #[error("frame of {0} bytes is above the cap of {1}")]
    TooLarge(usize, usize),
    /// The bytes end inside a frame.
    #[error("frame is cut short")]
    Cut,
}

/// Bytes that a frame with an archive of `archive_bytes` takes, padding included.
#[must_use]
pub const fn framed_bytes(archive_bytes: usize) -> usize {
    HEADER_BYTES + archive_bytes.next_multiple_of(ALIGN)
}

/// Reads a header; `None` when fewer than eight bytes are there.
///
/// # Errors
/// A wrong version or flags, or a length above `archive_bytes_max`: refused before anything is allocated.
pub fn header(bytes: &[u8], archive_bytes_max: usize) -> Result<Option<Header>, FramingError> {
    let Some(head) = bytes.first_chunk::<HEADER_BYTES>() else { return Ok(None) };
    let [version, flags, kind_low, kind_high, l0, l1, l2, l3] = *head;
    if version != VERSION {
        return Err(FramingError::Version(version));
    }
    if flags != 0 {
        return Err(FramingError::Flags(flags));
    }
    let archive_bytes = u32::from_le_bytes([l0, l1, l2, l3]) as usize;
    if archive_bytes > archive_bytes_max {
        return Err(FramingError::TooLarge(archive_bytes, archive_bytes_max));
    }
    Ok(Some(Header { kind: u16::from_le_bytes([kind_low, kind_high]), archive_bytes }))
}

/// A frame taken off the front of a sequence: its kind, its archive, and the bytes behind it.
pub type Split<'a> = (u16, &'a [u8], &'a [u8]);

/// The first frame of `bytes` and what follows it; `None` at the end.
///
/// # Errors
/// As [`header`], and [`FramingError::Cut`] when the bytes end inside the frame. Padding of the very last frame may
/// be absent.
pub fn split(bytes: &[u8], archive_bytes_max: usize) -> Result<Option<Split<'_>>, FramingError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let head = header(bytes, archive_bytes_max)?.ok_or(FramingError::Cut)?;
    let archive = bytes.get(HEADER_BYTES..HEADER_BYTES + head.archive_bytes).ok_or(FramingError::Cut)?;
    let rest = bytes.get(framed_bytes(head.archive_bytes)..).unwrap_or(&[]);
    Ok(Some((head.kind, archive, rest)))
}

/// Appends one frame: reserves the header, lets rkyv write the archive behind it, pads, and fills the header in.
/// `out` has to be at a multiple of eight, which it is when only this function wrote to it.
///
/// # Panics
/// When `value` holds a string of a gibibyte or more, which no bounded type here can.
pub fn append<T>(out: &mut AlignedVec, kind: u16, value: &T)
where
    T: for<'a> rkyv::Serialize<
            rkyv::api::high::HighSerializer<
                AlignedVec,
                rkyv::ser::allocator::ArenaHandle<'a>,
                rkyv::rancor::Error,
            >,
        >,
{
    debug_assert_eq!(out.len() % ALIGN, 0);
    let start = out.len();
    if out.capacity() == 0 {
        // At once what it would grow to step by step.
        out.reserve(FRAME_BYTES_HINT);
    }
    out.extend_from_slice(&[0; HEADER_BYTES]);
    // Archives are position-independent (relative pointers), so one may be written at any aligned place.
    *out = rkyv::api::high::to_bytes_in::<_, rkyv::rancor::Error>(value, std::mem::take(out))
        .expect("writing an archive to memory fails only for strings of a gibibyte, far above every bound");
    let archive_bytes = out.len() - start - HEADER_BYTES;
    out.resize(start + framed_bytes(archive_bytes), 0);
    #[expect(clippy::cast_possible_truncation, reason = "archives are far below 4 GiB: LINK_FRAME_BYTES_MAX")]
    let length = (archive_bytes as u32).to_le_bytes();
    let kind = kind.to_le_bytes();
    if let Some(head) = out.get_mut(start..start + HEADER_BYTES) {
        head.copy_from_slice(&[VERSION, 0, kind[0], kind[1], length[0], length[1], length[2], length[3]]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_follow_one_another_aligned() {
        let mut out = AlignedVec::new();
        append(&mut out, 7, &"hello".to_string());
        append(&mut out, 8, &42_u64);
        assert_eq!(out.len() % ALIGN, 0);
        let (kind, _, rest) = split(&out, 1024).unwrap().unwrap();
        assert_eq!(kind, 7);
        let (kind, archive, rest) = split(rest, 1024).unwrap().unwrap();
        assert_eq!((kind, archive.len(), rest.len()), (8, 8, 0));
    }

    #[test]
    fn a_length_above_the_cap_is_refused_from_the_header() {
        let head = [VERSION, 0, 1, 0, 0xff, 0xff, 0xff, 0x7f];
        assert_eq!(header(&head, 1024), Err(FramingError::TooLarge(0x7fff_ffff, 1024)));
        assert_eq!(header(&[2, 0, 1, 0, 0, 0, 0, 0], 1024), Err(FramingError::Version(2)));
        assert_eq!(header(&[1, 1, 1, 0, 0, 0, 0, 0], 1024), Err(FramingError::Flags(1)));
        assert_eq!(header(&head[..7], 1024), Ok(None));
        assert_eq!(split(&[1, 0, 1, 0, 9, 0, 0, 0, 1], 1024), Err(FramingError::Cut));
    }
}
