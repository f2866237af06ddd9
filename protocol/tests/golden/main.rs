//! The protocol, frozen: one file per frame and stored value in `protocol/golden/`, as JSON and as hexadecimal bytes.
//! What this build writes has to be what the files hold, and what the files hold has to be read as it was meant.
//!
//! A file is named `kind.hex`, or `kind.variant.hex` where one sample is not enough. After a deliberate change to bytes
//! that were never released: `CARILLON_BLESS=1 cargo test -p carillon-protocol --test golden`. Released bytes never
//! change; they get a new [`framing::VERSION`](carillon_protocol::framing::VERSION) or a new kind.
#![expect(
    clippy::disallowed_methods,
    reason = "golden files are files, and blessing them is asked for from outside"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::path::PathBuf;

use carillon_protocol::{client, frame};
use rkyv::util::AlignedVec;

mod client_frames;
mod link_frames;
mod records;

/// One file: where it lies below `golden/`, and what it holds.
struct Golden {
    path: String,
    text: String,
}

impl Golden {
    /// A file of JSON, on one line.
    fn json(path: &str, text: Vec<u8>) -> Golden {
        Golden { path: format!("{path}.json"), text: String::from_utf8(text).unwrap() + "\n" }
    }

    /// A file of bytes: eight of them a word, four words a line.
    fn hex(path: &str, bytes: &[u8]) -> Golden {
        let mut text = String::new();
        for line in bytes.chunks(32) {
            for (index, word) in line.chunks(8).enumerate() {
                text.push_str(if index == 0 { "" } else { " " });
                word.iter().for_each(|byte| write!(text, "{byte:02x}").unwrap());
            }
            text.push('\n');
        }
        Golden { path: format!("{path}.hex"), text }
    }
}

fn directory() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("golden")
}

fn all() -> Vec<Golden> {
    [client_frames::golden(), link_frames::golden(), records::golden()].into_iter().flatten().collect()
}

/// The bytes of a file of hexadecimal digits, aligned.
fn bytes_of(path: &str) -> AlignedVec {
    let text = fs::read_to_string(directory().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"));
    let digits: Vec<u8> = text.bytes().filter(|byte| !byte.is_ascii_whitespace()).collect();
    let mut bytes = AlignedVec::new();
    for pair in digits.chunks(2) {
        bytes.push(u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap());
    }
    bytes
}

/// The text of a file of JSON.
fn text_of(path: &str) -> String {
    fs::read_to_string(directory().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// Released bytes are written for ever.
#[test]
fn what_is_written_is_what_the_files_hold() {
    if std::env::var("CARILLON_BLESS").is_ok_and(|wish| wish == "1") {
        for golden in all() {
            let path = directory().join(&golden.path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, &golden.text).unwrap();
        }
    }
    let mut wrong = String::new();
    for golden in all() {
        match fs::read_to_string(directory().join(&golden.path)) {
            Err(error) => writeln!(wrong, "{}: {error}", golden.path).unwrap(),
            Ok(text) if text != golden.text => {
                write!(wrong, "{} holds\n{text}and this build writes\n{}", golden.path, golden.text).unwrap();
            }
            Ok(_) => {}
        }
    }
    assert!(
        wrong.is_empty(),
        "{wrong}\nto accept: CARILLON_BLESS=1 cargo test -p carillon-protocol --test golden"
    );
}

/// Every kind has a file in each encoding, and no file is left without a sample.
#[test]
fn every_kind_has_a_file_and_every_file_a_sample() {
    let written: BTreeSet<String> = all().into_iter().map(|golden| golden.path).collect();
    let mut found = BTreeSet::new();
    for part in ["client", "link", "record"] {
        for entry in fs::read_dir(directory().join(part)).unwrap() {
            found.insert(format!("{part}/{}", entry.unwrap().file_name().into_string().unwrap()));
        }
    }
    assert_eq!(found, written);
    let has = |part: &str, name: &str, ending: &str| {
        let (plain, variant) = (format!("{part}/{name}.{ending}"), format!("{part}/{name}."));
        found.contains(&plain)
            || found.iter().any(|path| path.starts_with(&variant) && path.ends_with(ending))
    };
    for kind in client::binary::Kind::ALL {
        for ending in ["json", "hex"] {
            assert!(has("client", kind.name(), ending), "no golden file for {}.{ending}", kind.name());
        }
    }
    for kind in frame::Kind::ALL {
        assert!(has("link", &snake(kind.name()), "hex"), "no golden file for {}", kind.name());
    }
}

/// `NotOwner` as a file is named: `not_owner`.
fn snake(name: &str) -> String {
    let mut out = String::new();
    for char in name.chars() {
        if char.is_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.extend(char.to_lowercase());
    }
    out
}
