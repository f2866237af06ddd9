//! Numbers that more than one crate relies on, and how they relate. What an operator may change is in the
//! configuration; these are the bounds of the formats themselves.

/// The most bytes of one WebSocket message from a client, by default (`limits.frame_bytes`).
pub const FRAME_BYTES_DEFAULT: usize = 65_536;
/// The most bytes of `content` (UTF-8).
pub const CONTENT_BYTES_MAX: usize = 16_384;
/// The most bytes of `media_url`.
pub const MEDIA_URL_BYTES_MAX: usize = 2_048;
/// The most bytes of `group_name`.
pub const GROUP_NAME_BYTES_MAX: usize = 256;
/// The most bytes of `username`.
pub const USERNAME_BYTES_MAX: usize = 64;
/// The most bytes of a reaction's `emoji`: the longest sequences of Unicode are below fifty.
pub const EMOJI_BYTES_MAX: usize = 64;
/// The most different emojis under one message. Beyond: `too_large`.
pub const MESSAGE_EMOJIS_MAX: usize = 64;
/// The most bytes of a device's push token.
pub const PUSH_TOKEN_BYTES_MAX: usize = 4_096;
/// The most users in one `presence_subscribe`.
pub const PRESENCE_IDS_MAX: usize = 200;
/// The most users that one connection watches. Beyond: `too_large`.
pub const WATCHED_MAX: usize = 1_000;
/// How long a typing state holds without being renewed, in milliseconds.
pub const TYPING_MS: u64 = 6_000;
/// At most one typing state of a user is passed on in this time and conversation, in milliseconds.
pub const TYPING_INTERVAL_MS: u64 = 3_000;
/// The most bytes of a frame's textual `id`.
pub const FRAME_ID_BYTES_MAX: usize = 64;
/// A numeric frame `id` lies within ± 2^53.
pub const FRAME_ID_NUMBER_MAX: i64 = 1 << 53;
/// The most conversations in `identify.cursors`.
pub const CURSORS_MAX: usize = 4_096;
/// The most ids in one request or one event.
pub const MEMBER_IDS_MAX: usize = 1_000;
/// The most events in one `sync` answer or REST page.
pub const PAGE_EVENTS_MAX: u32 = 200;
/// How many events a page holds when nobody says.
pub const PAGE_EVENTS_DEFAULT: u32 = 50;
/// A page to a client ends at this many bytes, or with one event.
pub const PAGE_BYTES_MAX: usize = 65_536;
/// More visible events behind than this are answered with `reset`; exactly this many are sent.
pub const RESUME_EVENTS_MAX: u64 = 1_000;
/// The deepest nesting of JSON that is read.
pub const JSON_DEPTH_MAX: usize = 32;
/// The most bytes of a token.
pub const TOKEN_BYTES_MAX: usize = 4_096;
/// Members up to which receipts are per user and `member_ids` is given whole.
pub const SMALL_GROUP_MEMBERS_MAX: usize = 200;

/// The most bytes of one link frame's archive. Larger answers are split by whoever writes them.
pub const LINK_FRAME_BYTES_MAX: usize = 256 * 1024;
/// The most entries in one `Registered`, `Peek` or `Peeked` frame; longer lists come in several.
pub const LINK_LIST_MAX: usize = 4_096;

// A message with everything at its largest fits a client frame, even when JSON escapes double its content.
const _: () = assert!(
    2 * CONTENT_BYTES_MAX + 2 * MEDIA_URL_BYTES_MAX + 1_024 < FRAME_BYTES_DEFAULT,
    "the largest message fits the default frame"
);
// A page, with its last event over the edge, fits a link frame.
const _: () = assert!(PAGE_BYTES_MAX + 2 * CONTENT_BYTES_MAX + 32_768 < LINK_FRAME_BYTES_MAX);
// The largest list fits a link frame: an entry of Peeked is 40 bytes.
const _: () = assert!(LINK_LIST_MAX * 40 + 1_024 < LINK_FRAME_BYTES_MAX);
// A created group names at most this many members, and the record of that fits a link frame.
const _: () = assert!(MEMBER_IDS_MAX * 8 + GROUP_NAME_BYTES_MAX + 1_024 < PAGE_BYTES_MAX);
