//! The header that a balancer puts before a connection to say whose it is: the PROXY protocol, version 2, of HAProxy
//! (`doc/proxy-protocol.txt`, section 2.2). Version 1, a line of text, is recognised and refused.
//!
//! Drive it: hand everything received so far to [`parse`] until the answer is not [`Progress::Partial`]. Whether the
//! balancer is to be believed, and how long it may take, is the caller's business.
//!
//! # Invariants
//! - A header takes at most [`HEADER_BYTES_MAX`] bytes: a longer one is refused by its length, before it has arrived.
//! - What is wrong is refused by its first wrong byte, so that nobody waits for the rest of something else.
//! - What a header adds behind the addresses (TLVs) has to be well-formed, and is not looked at.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// The most bytes of a header: the addresses of any family, and a kilobyte and more of what balancers add.
pub const HEADER_BYTES_MAX: usize = 2_048;

/// How every header begins.
pub const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// How a header of version 1 begins.
const VERSION_1: &[u8] = b"PROXY ";

/// Signature, version and command, family, length.
const FIXED_BYTES: usize = SIGNATURE.len() + 4;

/// Addresses and ports of both ends, by family.
const INET_BYTES: usize = 2 * (4 + 2);
const INET6_BYTES: usize = 2 * (16 + 2);
const UNIX_BYTES: usize = 2 * 108;

const _: () = assert!(FIXED_BYTES + UNIX_BYTES < HEADER_BYTES_MAX);

/// Whose connection it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Source {
    /// The balancer's own, as for a look whether we are well (`LOCAL`), or it does not say: the address is that of the
    /// connection.
    Itself,
    /// A client's at this address.
    Client(IpAddr),
}

/// What is wrong with a header. Nothing can be answered: the one who wrote it does not read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// Something else came.
    #[error("the connection does not begin with a PROXY header of version 2")]
    Missing,
    /// The text of version 1.
    #[error("the PROXY header is of version 1: have the balancer send version 2 (in HAProxy: send-proxy-v2)")]
    Version1,
    /// A version that is not 2, a command that is neither `LOCAL` nor `PROXY`.
    #[error("the PROXY header is of an unknown version or command")]
    Command,
    /// A family or a transport that there is not, or that no stream has.
    #[error("the PROXY header is for something else than a stream")]
    Family,
    /// No room for the addresses of its family, or longer than [`HEADER_BYTES_MAX`].
    #[error("the PROXY header is too short for its addresses, or longer than {HEADER_BYTES_MAX} bytes")]
    Length,
    /// What follows the addresses is not a list of TLVs.
    #[error("the PROXY header's TLVs do not fit into it")]
    Tlvs,
}

/// What the first bytes of a connection amount to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// Nothing yet.
    Partial,
    /// A header, and how many bytes it took. Those behind it are the client's.
    Complete(Source, usize),
}

/// Looks at everything received so far.
///
/// # Errors
/// It is no header that we take.
pub fn parse(bytes: &[u8]) -> Result<Progress, Malformed> {
    let signature = bytes.get(..SIGNATURE.len()).unwrap_or(bytes);
    if !SIGNATURE.starts_with(signature) {
        let start = bytes.get(..VERSION_1.len()).unwrap_or(bytes);
        return match VERSION_1.starts_with(start) {
            // As much as tells it from a client's own first bytes.
            true if start.len() < VERSION_1.len() => Ok(Progress::Partial),
            true => Err(Malformed::Version1),
            false => Err(Malformed::Missing),
        };
    }
    let mut fixed = bytes.iter().skip(SIGNATURE.len()).copied();
    let Some(command) = fixed.next() else { return Ok(Progress::Partial) };
    let is_local = match command {
        0x20 => true,
        0x21 => false,
        _ => return Err(Malformed::Command),
    };
    let Some(family) = fixed.next() else { return Ok(Progress::Partial) };
    // Of `LOCAL` the family is to be ignored, whatever it is (section 2.2).
    let addresses_bytes = match family {
        _ if is_local => 0,
        0x00 => 0,
        0x11 => INET_BYTES,
        0x21 => INET6_BYTES,
        0x31 => UNIX_BYTES,
        _ => return Err(Malformed::Family),
    };
    let (Some(high), Some(low)) = (fixed.next(), fixed.next()) else { return Ok(Progress::Partial) };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if length < addresses_bytes || FIXED_BYTES + length > HEADER_BYTES_MAX {
        return Err(Malformed::Length);
    }
    let Some(body) = bytes.get(FIXED_BYTES..FIXED_BYTES + length) else { return Ok(Progress::Partial) };
    let (addresses, tlvs) = body.split_at(addresses_bytes);
    // Behind addresses that are not ours to read there may be anything.
    if addresses_bytes > 0 && !are_well_formed(tlvs) {
        return Err(Malformed::Tlvs);
    }
    let source = match (family, addresses) {
        _ if is_local => Source::Itself,
        (0x11, &[a, b, c, d, ..]) => Source::Client(IpAddr::V4(Ipv4Addr::new(a, b, c, d))),
        (0x21, addresses) => match addresses.first_chunk::<16>() {
            // An IPv4 client is the same one, however the balancer heard of it.
            Some(octets) => Source::Client(IpAddr::V6(Ipv6Addr::from(*octets)).to_canonical()),
            None => Source::Itself,
        },
        // Somebody on the balancer's machine, who has no address.
        _ => Source::Itself,
    };
    Ok(Progress::Complete(source, FIXED_BYTES + length))
}

/// Type, length and value, again and again (section 2.2.1).
fn are_well_formed(mut tlvs: &[u8]) -> bool {
    while let Some((_, rest)) = tlvs.split_first() {
        let Some((length, rest)) = rest.split_first_chunk::<2>() else { return false };
        let Some(rest) = rest.get(usize::from(u16::from_be_bytes(*length))..) else { return false };
        tlvs = rest;
    }
    true
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn header(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    fn tlvs(values: &[(u8, Vec<u8>)]) -> Vec<u8> {
        values
            .iter()
            .flat_map(|(kind, value)| {
                let length = u16::try_from(value.len()).unwrap().to_be_bytes();
                [&[*kind][..], &length, value].concat()
            })
            .collect()
    }

    /// A header that is right, and what it says.
    fn any_header() -> impl Strategy<Value = (Vec<u8>, Source)> {
        let extra = prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..60)), 0..6);
        let client = prop_oneof![
            (any::<[u8; 4]>(), any::<[u8; 8]>()).prop_map(|(ip, rest)| {
                let body = [&ip[..], &rest].concat();
                (0x21, 0x11, body, Source::Client(IpAddr::from(ip)))
            }),
            (any::<[u8; 16]>(), any::<[u8; 20]>()).prop_map(|(ip, rest)| {
                let body = [&ip[..], &rest].concat();
                (0x21, 0x21, body, Source::Client(IpAddr::from(ip).to_canonical()))
            }),
            prop::collection::vec(any::<u8>(), UNIX_BYTES).prop_map(|body| (
                0x21,
                0x31,
                body,
                Source::Itself
            )),
            Just((0x21, 0x00, Vec::new(), Source::Itself)),
            any::<u8>().prop_map(|family| (0x20, family, Vec::new(), Source::Itself)),
        ];
        (client, extra).prop_map(|((command, family, mut body, source), extra)| {
            body.extend(tlvs(&extra));
            (header(command, family, &body), source)
        })
    }

    proptest! {
        /// Security, floods: a header says whose connection it is, wherever it is cut; and not a byte more is taken.
        #[test]
        fn a_header_is_read_whole_or_not_yet((header, source) in any_header(), rest in prop::collection::vec(any::<u8>(), 0..9)) {
            for cut in 0..header.len() {
                prop_assert_eq!(parse(&header[..cut]), Ok(Progress::Partial), "cut at {}", cut);
            }
            let whole = [&header[..], &rest].concat();
            prop_assert_eq!(parse(&whole), Ok(Progress::Complete(source, header.len())));
        }

        /// A header whose length is wrong is refused or waits: it never says what it does not.
        #[test]
        fn a_wrong_length_makes_no_client((mut header, source) in any_header(), length in any::<u16>()) {
            let is_local = header[12] == 0x20;
            let right = u16::from_be_bytes([header[14], header[15]]);
            header[14..16].copy_from_slice(&length.to_be_bytes());
            match parse(&header) {
                Ok(Progress::Complete(said, bytes)) => {
                    prop_assert!(bytes <= header.len() && said == source);
                    prop_assert!(length <= right);
                }
                Ok(Progress::Partial) => prop_assert!(length > right),
                Err(Malformed::Length) => prop_assert!(!is_local || usize::from(length) > HEADER_BYTES_MAX - 16),
                Err(Malformed::Tlvs) => prop_assert!(length < right),
                Err(other) => prop_assert!(false, "{}", other),
            }
        }

        /// Whatever comes, the answer is one of the three, and the more came the more certain it is.
        #[test]
        fn anything_is_answered(bytes in prop::collection::vec(any::<u8>(), 0..300), has_signature in any::<bool>()) {
            let bytes = if has_signature { [&SIGNATURE[..], &bytes].concat() } else { bytes };
            let mut decided = None;
            for cut in 0..=bytes.len() {
                let answer = parse(&bytes[..cut]);
                if let Some(decided) = decided {
                    prop_assert_eq!(answer, decided);
                } else if answer != Ok(Progress::Partial) {
                    decided = Some(answer);
                }
            }
        }
    }

    /// Each wrong byte is refused by itself, whatever follows, and the text of version 1 says what to do.
    #[test]
    fn what_is_no_header_is_refused_by_its_first_wrong_byte() {
        for (bytes, wrong) in [
            (&b"GET / HTTP/1.1\r\n"[..], Malformed::Missing),
            (b"\x16\x03\x01", Malformed::Missing),
            (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", Malformed::Version1),
            (b"PROXY ", Malformed::Version1),
            (b"PROXIES", Malformed::Missing),
            (b"\r\n\r\n\0\r\nQUIR", Malformed::Missing),
        ] {
            assert_eq!(parse(bytes), Err(wrong), "{bytes:?}");
        }
        assert!(Malformed::Version1.to_string().contains("send-proxy-v2"));
        for start in [&b""[..], b"P", b"PROXY", b"\r", b"\r\n\r\n\0\r\nQUIT\n"] {
            assert_eq!(parse(start), Ok(Progress::Partial), "{start:?}");
        }
        for command in (0..=u8::MAX).filter(|command| !matches!(command, 0x20 | 0x21)) {
            assert_eq!(parse(&[&SIGNATURE[..], &[command]].concat()), Err(Malformed::Command), "{command}");
        }
        for family in (0..=u8::MAX).filter(|family| !matches!(family, 0x00 | 0x11 | 0x21 | 0x31)) {
            assert_eq!(
                parse(&[&SIGNATURE[..], &[0x21, family]].concat()),
                Err(Malformed::Family),
                "{family}"
            );
        }
        for (family, addresses_bytes) in [(0x11, INET_BYTES), (0x21, INET6_BYTES), (0x31, UNIX_BYTES)] {
            let short = header(0x21, family, &vec![0; addresses_bytes - 1]);
            assert_eq!(parse(&short[..FIXED_BYTES]), Err(Malformed::Length), "{family}");
        }
        assert_eq!(
            parse(&[&SIGNATURE[..], &[0x20, 0, 0xff, 0xff]].concat()),
            Err(Malformed::Length),
            "nobody waits for the rest of it"
        );
        for tlvs in [&[1][..], &[1, 0], &[1, 0, 2, 9], &[1, 0, 1, 9, 4]] {
            let body = [&[0; INET_BYTES][..], tlvs].concat();
            assert_eq!(parse(&header(0x21, 0x11, &body)), Err(Malformed::Tlvs), "{tlvs:?}");
        }
    }
}
