//! How a process ends: the exit statuses that scripts rely on, and the error that carries one.

use std::fmt;

/// A clean drain.
pub const OK: u8 = 0;
/// What was looked at is not as it has to be.
pub const DAMAGED: u8 = 1;
/// The configuration cannot work (unknown key, port taken, directory locked); nothing was touched.
pub const CONFIG: u8 = 2;
/// A failed disk, or a store that is damaged (`EX_IOERR` of sysexits).
pub const DISK: u8 = 74;

/// What ends a process: a status for scripts and one sentence for people that says what to do.
///
/// A sentence never holds a secret, a token or text of a user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fatal {
    /// One of [`DAMAGED`], [`CONFIG`], [`DISK`].
    pub status: u8,
    /// One line, without a newline at the end.
    pub sentence: String,
}

impl Fatal {
    /// The configuration cannot work: status 2.
    pub fn config(sentence: impl Into<String>) -> Fatal {
        Fatal { status: CONFIG, sentence: one_line(sentence.into()) }
    }

    /// Somebody asked whether the store is whole, and it is not: status 1.
    pub fn damaged(sentence: impl Into<String>) -> Fatal {
        Fatal { status: DAMAGED, sentence: one_line(sentence.into()) }
    }

    /// The disk failed or the store is damaged: status 74.
    pub fn disk(sentence: impl Into<String>) -> Fatal {
        Fatal { status: DISK, sentence: one_line(sentence.into()) }
    }

    /// Prints the sentence on standard error and ends the process at once, without running destructors: after a
    /// failed disk nothing more may be written.
    pub fn exit(&self) -> ! {
        // The terminal may be gone; that is no reason to end with another status.
        let _ = std::io::Write::write_all(&mut std::io::stderr(), format!("carillon: {self}\n").as_bytes());
        std::process::exit(i32::from(self.status))
    }
}

impl fmt::Display for Fatal {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.sentence)
    }
}

impl std::error::Error for Fatal {}

impl From<Fatal> for std::process::ExitCode {
    fn from(fatal: Fatal) -> Self {
        std::process::ExitCode::from(fatal.status)
    }
}

/// Held by a thread that the process cannot do without: when the thread panics, the process aborts. A shard or a router
/// that is half gone would keep sockets open and answer nobody; a process that is gone is noticed and started again.
#[derive(Debug, Default)]
pub struct AbortOnPanic;

impl Drop for AbortOnPanic {
    fn drop(&mut self) {
        if std::thread::panicking() {
            std::process::abort();
        }
    }
}

/// Folds what came from another library into one line: scripts read exactly one.
pub(crate) fn one_line(text: String) -> String {
    if text.contains(['\n', '\r']) {
        text.split(['\n', '\r']).map(str::trim).filter(|part| !part.is_empty()).collect::<Vec<_>>().join("; ")
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sentence_is_one_line_whatever_it_was_made_of() {
        let fatal = Fatal::config("store/LOCK is held\n  by process 7\r\nstop it\n");
        assert_eq!(fatal.to_string(), "store/LOCK is held; by process 7; stop it");
        assert_eq!((Fatal::config("").status, Fatal::disk("").status, OK), (2, 74, 0));
    }
}
