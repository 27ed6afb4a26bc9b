//! A set of patterns for texts, asked for one text at a time.
//!
//! A text may come in pieces: a principal is matched where its parts lie, without being put together first.

use std::cmp::Ordering;

use mesh_common::model::Pattern;

/// Patterns of which one must match.
#[derive(Debug, Default)]
pub(super) struct TextSet {
    /// In order, for binary search.
    exact: Vec<Box<str>>,
    prefixes: Vec<Box<str>>,
    suffixes: Vec<Box<str>>,
    present: bool,
}

/// How letters count.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Case {
    Sensitive,
    /// The texts to match come in lower case; patterns are brought there.
    Lower,
}

impl TextSet {
    pub(super) fn new(patterns: &[Pattern], case: Case) -> Self {
        let boxed = |text: &String| match case {
            Case::Sensitive => text.as_str().into(),
            Case::Lower => text.to_lowercase().into(),
        };
        let mut set = Self::default();
        for pattern in patterns {
            match pattern {
                Pattern::Exact(text) => set.exact.push(boxed(text)),
                Pattern::Prefix(text) => set.prefixes.push(boxed(text)),
                Pattern::Suffix(text) => set.suffixes.push(boxed(text)),
                Pattern::Present => set.present = true,
            }
        }
        set.exact.sort_unstable();
        set
    }

    /// Whether one of the patterns matches the text that the pieces make up.
    pub(super) fn matches(&self, pieces: &[&str]) -> bool {
        let any = self.present && pieces.iter().any(|piece| !piece.is_empty());
        any || self
            .exact
            .binary_search_by(|text| compare(pieces, text).reverse())
            .is_ok()
            || self.prefixes.iter().any(|prefix| begins_with(pieces, prefix))
            || self.suffixes.iter().any(|suffix| ends_with(pieces, suffix))
    }
}

/// The order of a text in pieces and a whole one.
fn compare(pieces: &[&str], text: &str) -> Ordering {
    let mut rest = text.as_bytes();
    for piece in pieces {
        let (head, tail) = rest.split_at(piece.len().min(rest.len()));
        match piece.as_bytes().cmp(head) {
            Ordering::Equal => rest = tail,
            different => return different,
        }
    }
    if rest.is_empty() {
        Ordering::Equal
    } else {
        Ordering::Less
    }
}

fn begins_with(pieces: &[&str], prefix: &str) -> bool {
    let mut rest = prefix.as_bytes();
    for piece in pieces {
        let (head, tail) = rest.split_at(piece.len().min(rest.len()));
        if !piece.as_bytes().starts_with(head) {
            return false;
        }
        rest = tail;
    }
    rest.is_empty()
}

fn ends_with(pieces: &[&str], suffix: &str) -> bool {
    let mut rest = suffix.as_bytes();
    for piece in pieces.iter().rev() {
        let (head, tail) = rest.split_at(rest.len() - piece.len().min(rest.len()));
        if !piece.as_bytes().ends_with(tail) {
            return false;
        }
        rest = head;
    }
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn patterns() {
        let set = |pattern| TextSet::new(&[pattern], Case::Sensitive);
        let pieces = ["ab", "", "c", "/d"];
        for (pattern, expected) in [
            (Pattern::Exact("abc/d".into()), true),
            (Pattern::Exact("abc/".into()), false),
            (Pattern::Exact("abc/de".into()), false),
            (Pattern::Exact("ABC/D".into()), false),
            (Pattern::Prefix("abc".into()), true),
            (Pattern::Prefix("abc/d".into()), true),
            (Pattern::Prefix("abc/de".into()), false),
            (Pattern::Prefix("b".into()), false),
            (Pattern::Suffix("bc/d".into()), true),
            (Pattern::Suffix("abc/d".into()), true),
            (Pattern::Suffix("xabc/d".into()), false),
            (Pattern::Suffix("c".into()), false),
            (Pattern::Present, true),
        ] {
            assert_eq!(set(pattern.clone()).matches(&pieces), expected, "{pattern:?}");
        }
        assert!(
            !set(Pattern::Present).matches(&["", ""]),
            "nothing is not present"
        );
        assert!(TextSet::new(&[Pattern::Exact("A.Example".into())], Case::Lower).matches(&["a.example"]));
    }

    proptest! {
        #[test]
        fn pieces_match_like_the_whole(
            pieces in prop::collection::vec("[ab]{0,3}", 1..5),
            exact in prop::collection::vec("[ab]{1,5}", 0..6),
            prefix in "[ab]{1,4}",
            suffix in "[ab]{1,4}",
        ) {
            let whole = pieces.concat();
            let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
            let patterns: Vec<Pattern> = exact.iter().cloned().map(Pattern::Exact).collect();
            let matches = |patterns: &[Pattern]| TextSet::new(patterns, Case::Sensitive).matches(&pieces);
            prop_assert_eq!(matches(&patterns), exact.contains(&whole));
            prop_assert_eq!(matches(&[Pattern::Prefix(prefix.clone())]), whole.starts_with(&prefix));
            prop_assert_eq!(matches(&[Pattern::Suffix(suffix.clone())]), whole.ends_with(&suffix));
        }
    }
}
