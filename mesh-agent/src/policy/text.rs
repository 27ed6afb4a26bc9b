//! A set of patterns for texts, asked for one text at a time.
//!
//! A text may come in pieces: a principal is matched where its parts lie, without being put together first. Texts are
//! bytes, for the values of HTTP headers need not be UTF-8.

use std::cmp::Ordering;

use mesh_common::model::Pattern;

/// Patterns of which one must match.
#[derive(Debug)]
pub(super) struct TextSet {
    case: Case,
    /// In order, for binary search.
    exact: Vec<Box<[u8]>>,
    prefixes: Vec<Box<[u8]>>,
    suffixes: Vec<Box<[u8]>>,
    present: bool,
}

/// How letters count.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Case {
    Sensitive,
    /// ASCII letters are the same in both cases.
    Ignored,
}

/// How much of a text is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Reach {
    Whole,
    Beginning,
}

impl TextSet {
    pub(super) fn new<'p>(patterns: impl IntoIterator<Item = &'p Pattern>, case: Case) -> Self {
        let boxed = |text: &String| match case {
            Case::Sensitive => text.as_bytes().into(),
            Case::Ignored => text.to_ascii_lowercase().into_bytes().into(),
        };
        let mut set = Self {
            case,
            exact: Vec::new(),
            prefixes: Vec::new(),
            suffixes: Vec::new(),
            present: false,
        };
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

    /// What a text must be, or begin with, one of them, for a match; `None` if there are other ways to match.
    pub(super) fn needed(&self) -> Option<impl Iterator<Item = (Reach, &[u8])>> {
        let whole = self.exact.iter().map(|text| (Reach::Whole, &**text));
        let beginnings = self.prefixes.iter().map(|text| (Reach::Beginning, &**text));
        let is_all = self.case == Case::Sensitive && self.suffixes.is_empty() && !self.present;
        is_all.then(|| whole.chain(beginnings))
    }

    /// Whether one of the patterns matches the text that the pieces make up.
    pub(super) fn matches<T: AsRef<[u8]>>(&self, pieces: &[T]) -> bool {
        let case = self.case;
        let any = self.present && pieces.iter().any(|piece| !piece.as_ref().is_empty());
        any || self
            .exact
            .binary_search_by(|text| case.compare(pieces, text).reverse())
            .is_ok()
            || self
                .prefixes
                .iter()
                .any(|prefix| case.begins_with(pieces, prefix))
            || self.suffixes.iter().any(|suffix| case.ends_with(pieces, suffix))
    }
}

impl Case {
    /// The order of two texts of one length, the second of a pattern.
    fn order(self, text: &[u8], of_pattern: &[u8]) -> Ordering {
        match self {
            Self::Sensitive => text.cmp(of_pattern),
            Self::Ignored => text
                .iter()
                .map(u8::to_ascii_lowercase)
                .cmp(of_pattern.iter().copied()),
        }
    }

    fn same(self, text: &[u8], of_pattern: &[u8]) -> bool {
        match self {
            Self::Sensitive => text == of_pattern,
            Self::Ignored => text.eq_ignore_ascii_case(of_pattern),
        }
    }

    /// The order of a text in pieces and a whole one.
    pub(super) fn compare<T: AsRef<[u8]>>(self, pieces: &[T], text: &[u8]) -> Ordering {
        let mut rest = text;
        for piece in pieces.iter().map(AsRef::as_ref) {
            let (head, tail) = rest.split_at(piece.len().min(rest.len()));
            match self.order(piece, head) {
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

    pub(super) fn begins_with<T: AsRef<[u8]>>(self, pieces: &[T], prefix: &[u8]) -> bool {
        let mut rest = prefix;
        for piece in pieces.iter().map(AsRef::as_ref) {
            let (head, tail) = rest.split_at(piece.len().min(rest.len()));
            if !self.same(&piece[..head.len()], head) {
                return false;
            }
            rest = tail;
        }
        rest.is_empty()
    }

    fn ends_with<T: AsRef<[u8]>>(self, pieces: &[T], suffix: &[u8]) -> bool {
        let mut rest = suffix;
        for piece in pieces.iter().rev().map(AsRef::as_ref) {
            let (head, tail) = rest.split_at(rest.len() - piece.len().min(rest.len()));
            if !self.same(&piece[piece.len() - tail.len()..], tail) {
                return false;
            }
            rest = head;
        }
        rest.is_empty()
    }
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
        let folded = |pattern| TextSet::new(&[pattern], Case::Ignored).matches(&["a.E", "xamPle"]);
        assert!(folded(Pattern::Exact("A.exaMple".into())) && !folded(Pattern::Exact("A.exaMples".into())));
        assert!(folded(Pattern::Prefix("A.eX".into())) && !folded(Pattern::Prefix(".".into())));
        assert!(folded(Pattern::Suffix("XAMPLE".into())) && !folded(Pattern::Suffix("EE".into())));
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
