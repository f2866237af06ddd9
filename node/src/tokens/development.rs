//! The development key: made when it is missing, shared by every tool of the data directory.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;

use super::KeyTable;
use crate::exit::Fatal;
use crate::random;

/// The key id of the development key.
pub const DEVELOPMENT_KID: &str = "dev";

/// The file of the development key in the data directory.
pub const DEVELOPMENT_FILE: &str = "dev.key";

/// The development key: `dev.key` in the data directory (32 random bytes as hexadecimal, mode 0600), made when it is
/// missing, together with the directory. Two processes that start at the same moment end with the same key.
///
/// # Errors
/// Status 2 when the directory cannot be written, or the file holds something else.
pub fn dev_key(data_dir: &Path) -> Result<KeyTable, Fatal> {
    let path = data_dir.join(DEVELOPMENT_FILE);
    let failed = |error: io::Error| {
        Fatal::config(format!(
            "the development key {} cannot be read or made ({error}): choose another place with --data-dir",
            path.display()
        ))
    };
    let text = match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make(data_dir, &path).map_err(failed)?;
            // Read back: another process may have been first.
            fs::read_to_string(&path).map_err(failed)?
        }
        read => read.map_err(failed)?,
    };
    let secret = from_hex(text.trim_end()).ok_or_else(|| {
        Fatal::config(format!(
            "the development key {} is not 64 hexadecimal digits: delete it, and a new one is made",
            path.display()
        ))
    })?;
    Ok(KeyTable::of_development(&secret))
}

/// Writes a whole key under a name of its own, then links it to `path` unless that exists by now: nobody ever reads
/// half a key, and the first one stays.
fn make(data_dir: &Path, path: &Path) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(data_dir)?;
    let mut secret = [0; 32];
    random::fill(&mut secret);
    let temporary = data_dir.join(format!("{DEVELOPMENT_FILE}.{:016x}", random::seed()));
    let written = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary).and_then(
        |mut file| {
            file.write_all(format!("{}\n", to_hex(&secret)).as_bytes())?;
            file.sync_all()
        },
    );
    let linked = written.and_then(|()| match fs::hard_link(&temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        linked => linked,
    });
    fs::remove_file(&temporary)?;
    linked?;
    fs::File::open(data_dir)?.sync_all()
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn from_hex(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(bytes)
}
