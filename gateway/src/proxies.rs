//! Who stands before us and is believed when they say whose a request is: balancers and reverse proxies, by their addresses.
//! What anybody else says about that is not heard.
//!
//! Proxies append, so a list of addresses is read from its end: the last one that is no proxy of ours is the client. What is
//! before it the client may have written itself.

use std::net::IpAddr;

use carillon_protocol::handshake::Forwarded;
use serde::Deserialize;

/// Addresses that are trusted, as `gateway.trusted_proxies` names them.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(try_from = "Vec<String>")]
pub struct Proxies(Vec<Network>);

/// An address, or all that begin with the same bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Network {
    address: IpAddr,
    bits: u32,
}

impl TryFrom<Vec<String>> for Proxies {
    type Error = String;

    fn try_from(texts: Vec<String>) -> Result<Proxies, String> {
        let network = |text: &String| {
            Network::parse(text).ok_or_else(|| {
                format!("{text:?} is no address and no network such as \"10.0.0.7\", \"10.0.0.0/8\" or \"fd00::/8\"")
            })
        };
        texts.iter().map(network).collect::<Result<_, _>>().map(Proxies)
    }
}

impl Proxies {
    /// Whether none is.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether this one is.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(address))
    }

    /// Whose a request is that came from `address` and says this.
    ///
    /// A proxy appends to one of the two headers, and lets the other one through as the client wrote it. So when both are
    /// there, they have to agree; when they do not, or when the one that is there cannot be read, it is the proxy's own.
    #[must_use]
    pub fn client(&self, address: IpAddr, said: &[Forwarded<'_>]) -> IpAddr {
        if !self.contains(address) {
            return address;
        }
        let lists = said.iter().filter_map(|line| line.list()).flat_map(elements);
        let pairs = said.iter().filter_map(|line| line.pairs()).flat_map(elements);
        let by_list = self.last(address, lists.map(address_of));
        let by_pairs = self.last(address, pairs.map(|element| for_of(element).and_then(address_of)));
        match (by_list, by_pairs) {
            (Some(client), None) | (None, Some(client)) => client,
            (Some(client), Some(other)) if client == other => client,
            _ => address,
        }
    }

    /// The last of a list that is no proxy; when all are, the first. `None`: there is no list.
    fn last(&self, address: IpAddr, list: impl Iterator<Item = Option<IpAddr>>) -> Option<IpAddr> {
        // Bounded by what a head may hold.
        let list: Vec<Option<IpAddr>> = list.collect();
        let mut client = None;
        for said in list.into_iter().rev() {
            match said {
                Some(said) if self.contains(said) => client = Some(said),
                Some(said) => return Some(said),
                // Nobody knows what a proxy of ours meant by it: it is the proxy's.
                None => return Some(client.unwrap_or(address)),
            }
        }
        client
    }
}

impl Network {
    fn parse(text: &str) -> Option<Network> {
        let (address, bits) = match text.split_once('/') {
            Some((address, bits)) => (address, Some(bits.parse().ok()?)),
            None => (text, None),
        };
        let address: IpAddr = address.parse().ok()?;
        let bits_max = if address.is_ipv4() { 32 } else { 128 };
        let bits = bits.unwrap_or(bits_max);
        (bits <= bits_max).then_some(Network { address, bits })
    }

    fn contains(&self, address: IpAddr) -> bool {
        let (ours, theirs, bits_max) = match (self.address, address) {
            (IpAddr::V4(ours), IpAddr::V4(theirs)) => {
                (u128::from(ours.to_bits()), u128::from(theirs.to_bits()), 32)
            }
            (IpAddr::V6(ours), IpAddr::V6(theirs)) => (ours.to_bits(), theirs.to_bits(), 128),
            _ => return false,
        };
        // All bits that may differ are shifted out; of none there is nothing to compare.
        (ours ^ theirs).checked_shr(bits_max - self.bits).unwrap_or(0) == 0
    }
}

/// What commas part.
fn elements(line: &[u8]) -> impl Iterator<Item = &[u8]> {
    line.split(|byte| *byte == b',')
}

/// An address as proxies write it: with a port or without, IPv6 in brackets or not, in quotes or not.
fn address_of(text: &[u8]) -> Option<IpAddr> {
    let text = std::str::from_utf8(text).ok()?.trim_matches([' ', '\t', '"']);
    let address = match text.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']')?;
            is_port(port).then_some(address)?
        }
        None => match text.split_once(':') {
            // With more than one colon it is an IPv6 address by itself.
            Some((address, port)) if !port.contains(':') => {
                is_port(&text[address.len()..]).then_some(address)?
            }
            _ => text,
        },
    };
    address.parse::<IpAddr>().ok().map(|address| address.to_canonical())
}

/// Nothing, or a colon and a number.
fn is_port(text: &str) -> bool {
    text.is_empty() || text.strip_prefix(':').is_some_and(|port| port.parse::<u16>().is_ok())
}

/// The `for` of one element of `Forwarded` (RFC 7239 section 4).
fn for_of(element: &[u8]) -> Option<&[u8]> {
    element.split(|byte| *byte == b';').find_map(|pair| {
        let at = pair.iter().position(|byte| *byte == b'=')?;
        let (name, value) = pair.split_at_checked(at)?;
        name.trim_ascii().eq_ignore_ascii_case(b"for").then(|| value.get(1..).unwrap_or_default())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn proxies(texts: &[&str]) -> Proxies {
        Proxies::try_from(texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>()).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn networks_hold_what_begins_like_them() {
        let trusted = proxies(&["10.1.2.3", "192.168.0.0/16", "fd00::/8", "2001:db8::1"]);
        for (address, is_trusted) in [
            ("10.1.2.3", true),
            ("10.1.2.4", false),
            ("192.168.255.1", true),
            ("192.169.0.1", false),
            ("::ffff:192.168.1.1", true),
            ("fdff::1", true),
            ("fe00::1", false),
            ("2001:db8::1", true),
            ("2001:db8::2", false),
        ] {
            assert_eq!(trusted.contains(ip(address)), is_trusted, "{address}");
        }
        assert!(
            proxies(&["0.0.0.0/0"]).contains(ip("8.8.8.8")) && !proxies(&["0.0.0.0/0"]).contains(ip("::1"))
        );
        assert!(proxies(&["::/0"]).contains(ip("::1")));
        for wrong in ["", "10.0.0.0/33", "10.0.0/8", "localhost", "10.0.0.1/", "10.0.0.1/-1", "::/129"] {
            assert!(
                Proxies::try_from(vec![wrong.to_owned()]).unwrap_err().contains("is no address"),
                "{wrong:?}"
            );
        }
    }

    /// Security, floods: who a request is of is what our own proxies say, and nothing that a client wrote before them.
    #[test]
    fn only_proxies_say_whose_a_request_is() {
        use Forwarded::{List, Pairs};
        let trusted = proxies(&["10.0.0.0/8", "fd00::/8"]);
        let (proxy, stranger) = ("10.0.0.1", "203.0.113.9");
        type Case<'a> = (&'a str, &'a [Forwarded<'a>], &'a str);
        let cases: &[Case<'_>] = &[
            (proxy, &[], proxy),
            (proxy, &[List(b"198.51.100.7")], "198.51.100.7"),
            (stranger, &[List(b"198.51.100.7")], stranger),
            (stranger, &[Pairs(b"for=198.51.100.7")], stranger),
            // What the client wrote comes first, and is passed over.
            (proxy, &[List(b"1.1.1.1, 198.51.100.7")], "198.51.100.7"),
            (proxy, &[List(b"1.1.1.1"), List(b"198.51.100.7, 10.9.9.9")], "198.51.100.7"),
            (proxy, &[List(b"rubbish, 198.51.100.7")], "198.51.100.7"),
            (proxy, &[List(b"10.3.3.3 ,\t10.4.4.4")], "10.3.3.3"),
            // What cannot be read is the proxy's.
            (proxy, &[List(b"198.51.100.7, unknown")], proxy),
            (proxy, &[List(b"198.51.100.7, rubbish, 10.4.4.4")], "10.4.4.4"),
            (proxy, &[List(b"")], proxy),
            (proxy, &[List(b"198.51.100.7:1234")], "198.51.100.7"),
            (proxy, &[List(b"198.51.100.7:")], proxy),
            (proxy, &[List(b"2001:db8::7")], "2001:db8::7"),
            (proxy, &[List(b"[2001:db8::7]:80")], "2001:db8::7"),
            (proxy, &[List(b"::ffff:198.51.100.7")], "198.51.100.7"),
            (proxy, &[Pairs(b"for=198.51.100.7;proto=https;by=10.0.0.1")], "198.51.100.7"),
            (proxy, &[Pairs(b"For=\"[2001:db8::7]:4711\"")], "2001:db8::7"),
            (proxy, &[Pairs(b"for=1.1.1.1, proto=https; for=198.51.100.7")], "198.51.100.7"),
            (proxy, &[Pairs(b"for=1.1.1.1, for=198.51.100.7, for=10.2.2.2")], "198.51.100.7"),
            (proxy, &[Pairs(b"for=_hidden")], proxy),
            (proxy, &[Pairs(b"proto=https")], proxy),
            // Of two headers one may be the client's own.
            (proxy, &[List(b"198.51.100.7"), Pairs(b"for=1.1.1.1")], proxy),
            (proxy, &[List(b"198.51.100.7"), Pairs(b"for=198.51.100.7")], "198.51.100.7"),
        ];
        for (address, said, client) in cases {
            let found = trusted.client(ip(address), said);
            assert_eq!(found, ip(client), "{address} says {said:?}");
        }
        assert_eq!(
            Proxies::default().client(ip("127.0.0.1"), &[List(b"1.1.1.1")]),
            ip("127.0.0.1"),
            "nobody is trusted who is not named"
        );
    }
}
