//! What FoundationDB's error codes mean to us: one table, and one question asked of it at a time. It needs no FoundationDB
//! to be compiled or tested.
//!
//! The groups are those of FoundationDB's own `fdb_error_predicate`, made larger where that promises less than we need:
//! the predicate does not count a time-out as perhaps committed, because it knows nothing of when it came.
//!
//! # Invariants
//! - A code counts as *perhaps committed* when it came from a commit that was sent and is not known to be definite. The same
//!   code from a read is definite: nothing was sent yet.
//! - A code that is in no row ends the process: whatever it was, nothing is acknowledged, and the next life decides again.

use crate::error::{CommitError, ReadError};

/// What a code means when it comes from a commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Perhaps committed, perhaps later.
    MaybeCommitted,
    /// Definitely not committed, and nothing is wrong.
    NotCommitted,
    /// Definitely not committed: more bytes than FoundationDB takes.
    TooLarge,
    /// None of these.
    Fatal,
}

/// `transaction_too_old`: its read version is older than the five seconds that FoundationDB keeps.
pub const TOO_OLD: i32 = 1007;

/// Code, FoundationDB's name for it, meaning.
const MEANINGS: [(i32, &str, Meaning); 24] = [
    (1004, "timed_out", Meaning::MaybeCommitted),
    (1006, "all_alternatives_failed", Meaning::MaybeCommitted),
    (TOO_OLD, "transaction_too_old", Meaning::NotCommitted),
    (1009, "future_version", Meaning::NotCommitted),
    (1020, "not_committed", Meaning::NotCommitted),
    (1021, "commit_unknown_result", Meaning::MaybeCommitted),
    (1022, "commit_unknown_result_fatal", Meaning::MaybeCommitted),
    (1025, "transaction_cancelled", Meaning::MaybeCommitted),
    (1026, "connection_failed", Meaning::MaybeCommitted),
    (1030, "request_maybe_delivered", Meaning::MaybeCommitted),
    (1031, "transaction_timed_out", Meaning::MaybeCommitted),
    (1037, "process_behind", Meaning::NotCommitted),
    (1038, "database_locked", Meaning::NotCommitted),
    (1039, "cluster_version_changed", Meaning::MaybeCommitted),
    (1042, "commit_proxy_memory_limit_exceeded", Meaning::NotCommitted),
    (1051, "batch_transaction_throttled", Meaning::NotCommitted),
    (1078, "grv_proxy_memory_limit_exceeded", Meaning::NotCommitted),
    (1100, "broken_promise", Meaning::MaybeCommitted),
    (1101, "operation_cancelled", Meaning::MaybeCommitted),
    (1213, "tag_throttled", Meaning::NotCommitted),
    (1223, "proxy_tag_throttled", Meaning::NotCommitted),
    (2101, "transaction_too_large", Meaning::TooLarge),
    (2102, "key_too_large", Meaning::TooLarge),
    (2103, "value_too_large", Meaning::TooLarge),
];

/// The meaning of a code that comes from a commit.
#[must_use]
pub fn meaning(code: i32) -> Meaning {
    row(code).map_or(Meaning::Fatal, |(_, meaning)| meaning)
}

/// A commit ended with `code`, which FoundationDB describes so.
#[must_use]
pub fn of_commit(code: i32, description: &str) -> CommitError {
    match meaning(code) {
        Meaning::MaybeCommitted => CommitError::Unknown,
        Meaning::NotCommitted => CommitError::Conflict,
        Meaning::TooLarge => CommitError::TooLarge,
        Meaning::Fatal => CommitError::Fatal(sentence(code, description)),
    }
}

/// A read, or anything else before the commit, ended with `code`, which FoundationDB describes so. Nothing was sent, so
/// nothing is unknown.
#[must_use]
pub fn of_read(code: i32, description: &str) -> ReadError {
    match row(code) {
        Some((name, Meaning::MaybeCommitted | Meaning::NotCommitted)) => {
            ReadError::Again(format!("FoundationDB: {name} ({code})"))
        }
        _ => ReadError::Fatal(sentence(code, description)),
    }
}

fn row(code: i32) -> Option<(&'static str, Meaning)> {
    MEANINGS.iter().find(|(other, ..)| *other == code).map(|(_, name, meaning)| (*name, *meaning))
}

fn sentence(code: i32, description: &str) -> String {
    format!("FoundationDB error {code}: {description}")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F4: what may have been committed is unknown, and nothing else is.
    #[test]
    fn f4_a_commit_that_may_have_happened_is_unknown() {
        for code in [1021, 1022, 1025, 1030, 1031, 1039, 1004, 1006, 1026, 1100, 1101] {
            assert!(matches!(of_commit(code, ""), CommitError::Unknown), "{code}");
        }
        for code in [1020, 1007, 1009, 1037, 1038, 1042, 1051, 1078, 1213, 1223] {
            assert!(matches!(of_commit(code, ""), CommitError::Conflict), "{code}");
        }
    }

    /// F4: before the commit was sent nothing is unknown; what passes is read again.
    #[test]
    fn f4_a_read_is_never_unknown() {
        for (code, name, meaning) in MEANINGS {
            match (of_read(code, "text"), meaning) {
                (ReadError::Again(why), Meaning::MaybeCommitted | Meaning::NotCommitted) => {
                    assert!(why.contains(name) && why.contains(&code.to_string()), "{why}");
                }
                (ReadError::Fatal(_), Meaning::TooLarge) => {}
                (error, _) => panic!("{code}: {error:?}"),
            }
        }
    }

    /// F23.
    #[test]
    fn f23_what_is_too_large_is_split() {
        for code in [2101, 2102, 2103] {
            assert!(matches!(of_commit(code, ""), CommitError::TooLarge), "{code}");
        }
    }

    /// G14: what is in no row ends the process, with what FoundationDB says about it.
    #[test]
    fn g14_an_unknown_code_is_fatal() {
        for code in [0, 1, 1000, 1510, 2000, 2004, 2017, 4000, 4100, -1] {
            let sentence = format!("FoundationDB error {code}: text");
            assert!(matches!(of_commit(code, "text"), CommitError::Fatal(said) if said == sentence));
            assert!(matches!(of_read(code, "text"), ReadError::Fatal(said) if said == sentence));
        }
    }

    /// `fdb_error_predicate` of FoundationDB 7.3: what it calls perhaps committed is so here, and what it calls retryable
    /// and not committed too.
    #[test]
    fn f4_the_table_says_at_least_what_foundationdb_says() {
        for code in [1021, 1039] {
            assert_eq!(meaning(code), Meaning::MaybeCommitted, "{code}");
        }
        for code in [1020, 1007, 1009, 1038, 1078, 1042, 1051, 1037, 1213, 1223] {
            assert_eq!(meaning(code), Meaning::NotCommitted, "{code}");
        }
    }

    #[test]
    fn codes_are_in_order_and_once() {
        assert!(MEANINGS.is_sorted_by(|one, other| one.0 < other.0));
    }
}
