//! The names of requests, which their completions bear.

use io_uring::cqueue;
use rustix::io::Errno;

/// What a request is about: comes back with its completions, and is what it is cancelled by.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Kind,
    /// The descriptor's, or 0.
    pub(super) slot: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Kind {
    Accept,
    Bell,
    Name,
    Receive,
    Send,
    Shutdown,
    Install,
    Close,
    Cancel,
}

const KINDS: [Kind; 9] = [
    Kind::Accept,
    Kind::Bell,
    Kind::Name,
    Kind::Receive,
    Kind::Send,
    Kind::Shutdown,
    Kind::Install,
    Kind::Close,
    Kind::Cancel,
];

impl Token {
    /// Of something that the ring has one of.
    pub(super) const fn single(kind: Kind) -> Token {
        Token { kind, slot: 0 }
    }

    pub(super) const fn pack(self) -> u64 {
        ((self.kind as u64) << 32) | self.slot as u64
    }

    #[expect(clippy::cast_possible_truncation, reason = "the halves are meant")]
    fn unpack(user_data: u64) -> Token {
        // Only tokens of ours go in.
        let kind = KINDS.get((user_data >> 32) as usize).copied().unwrap_or(Kind::Cancel);
        Token { kind, slot: user_data as u32 }
    }
}

/// A receive buffer that is ours until it is given back: there is one of these for each, and it is given back by value.
#[derive(Debug)]
pub(super) struct Filled(u16);

impl Filled {
    /// Its number among the ring's.
    pub(super) const fn number(&self) -> u16 {
        self.0
    }
}

/// What became of a request, or what it brought this time.
#[derive(Debug)]
pub(super) struct Completion {
    pub(super) token: Token,
    pub(super) result: Result<u32, Errno>,
    /// Whether nothing more comes of the request.
    pub(super) is_last: bool,
    /// The receive buffer that it fills: to be given back.
    pub(super) buffer: Option<Filled>,
}

impl Completion {
    pub(super) fn of(entry: &cqueue::Entry) -> Completion {
        let result = entry.result();
        Completion {
            token: Token::unpack(entry.user_data()),
            result: u32::try_from(result).map_err(|_| Errno::from_raw_os_error(result.wrapping_neg())),
            is_last: !cqueue::more(entry.flags()),
            buffer: cqueue::buffer_select(entry.flags()).map(Filled),
        }
    }

    /// The slot, if it is the last completion of a request of this kind.
    pub(super) fn is_about(&self, kind: Kind) -> Option<u32> {
        (self.is_last && self.token.kind == kind).then_some(self.token.slot)
    }

    /// Whether the kernel is done with memory of ours.
    pub(super) fn ends_a_borrow(&self) -> bool {
        self.is_last && matches!(self.token.kind, Kind::Name | Kind::Receive | Kind::Send)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F27: a completion finds what it is about.
    #[test]
    fn f27_tokens_survive_the_kernel() {
        for (number, kind) in KINDS.into_iter().enumerate() {
            assert_eq!(kind as usize, number);
            for slot in [0, 1, u32::MAX] {
                let token = Token { kind, slot };
                assert_eq!(Token::unpack(token.pack()), token);
            }
        }
    }
}
