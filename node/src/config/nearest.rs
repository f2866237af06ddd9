//! Which key did they mean? The one with the smallest edit distance (Levenshtein, 1966).

/// Bytes of a name that are compared. A longer one is not a misspelt key, and the comparison is quadratic.
const COMPARED_BYTES_MAX: usize = 96;

/// What a right last part under a wrong section costs: `gateway.retention` means `store.retention`.
const OTHER_SECTION_COST: usize = 2;

/// The nearest of `keys`; `None` when there are none.
pub(super) fn nearest<'a>(name: &str, keys: impl Iterator<Item = &'a String>) -> Option<&'a str> {
    keys.map(String::as_str).min_by_key(|key| {
        distance(name, key).min(distance(last_part(name), last_part(key)) + OTHER_SECTION_COST)
    })
}

fn last_part(name: &str) -> &str {
    name.rsplit('.').next().unwrap_or(name)
}

/// Insertions, deletions and replacements of bytes that make `one` into `two`.
fn distance(one: &str, two: &str) -> usize {
    let one: Vec<u8> = one.bytes().take(COMPARED_BYTES_MAX).collect();
    let mut row: Vec<usize> = (0..=one.len()).collect();
    for (two_at, two_byte) in two.bytes().take(COMPARED_BYTES_MAX).enumerate() {
        let mut diagonal = two_at;
        let mut left = two_at + 1;
        for (above, one_byte) in row.iter_mut().zip(std::iter::once(None).chain(one.iter().map(Some))) {
            let here = match one_byte {
                None => left,
                Some(&byte) => (diagonal + usize::from(byte != two_byte)).min(left + 1).min(*above + 1),
            };
            diagonal = *above;
            *above = here;
            left = here;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_edits() {
        for (one, two, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
            ("listen", "listen", 0),
            ("listne", "listen", 2),
        ] {
            assert_eq!(distance(one, two), expected, "{one} → {two}");
            assert_eq!(distance(two, one), expected, "{two} → {one}");
        }
    }

    #[test]
    fn names_what_was_meant() {
        let keys =
            ["gateway.listen", "gateway.shards", "router.listen", "store.retention", "limits.send_per_s"];
        let keys: Vec<String> = keys.iter().map(|&key| key.to_owned()).collect();
        for (written, meant) in [
            ("gateway.lisen", "gateway.listen"),
            ("rooter.listen", "router.listen"),
            ("gateway.retention", "store.retention"),
            ("shards", "gateway.shards"),
            ("limits.sends_per_s", "limits.send_per_s"),
        ] {
            assert_eq!(nearest(written, keys.iter()), Some(meant), "{written}");
        }
        assert_eq!(nearest("anything", [].iter()), None);
        assert!(nearest(&"x".repeat(1 << 20), keys.iter()).is_some(), "a megabyte costs no more than a line");
    }
}
