//! Rules filed under texts: those that want a text as a whole, and those that want one to begin like it.
//!
//! [`index`](super::index) files them and asks for a text of a connection or request. All beginnings of a text stand
//! before it in order, and whatever stands between one of them and the text begins like it too. So the last entry that is
//! not behind the text leads to all of them: each entry knows the longest beginning that it has itself.
//!
//! Invariant: an entry is found iff the text is, or begins with, what it is filed under; that takes one binary
//! search, and a step for each beginning.

use std::borrow::Cow;
use std::cmp::Ordering;
use std::collections::BTreeMap;

use super::list::Place;
use super::text::Case;

/// Rules by text. Letters count in their case.
#[derive(Debug, Default)]
pub(super) struct Filed {
    /// In the order of their texts.
    entries: Box<[Entry]>,
}

/// Rules by text, to be filed.
pub(super) type Sheets<'t> = BTreeMap<Cow<'t, [u8]>, Sheet>;

/// The rules under one text, each list in order.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    pub(super) whole: Vec<Place>,
    pub(super) beginning: Vec<Place>,
}

#[derive(Debug)]
struct Entry {
    text: Box<[u8]>,
    whole: Box<[Place]>,
    beginning: Box<[Place]>,
    /// The longest text that this one begins with, among those that are filed as beginnings.
    shorter: Option<usize>,
}

impl Filed {
    pub(super) fn new(sheets: Sheets<'_>) -> Self {
        let mut entries: Vec<Entry> = Vec::with_capacity(sheets.len());
        // The beginnings that the next text can have, each a beginning of the one after it.
        let mut open: Vec<usize> = Vec::new();
        for (text, sheet) in sheets {
            while open
                .last()
                .is_some_and(|last| !text.starts_with(&entries[*last].text))
            {
                open.pop();
            }
            let shorter = open.last().copied();
            if !sheet.beginning.is_empty() {
                open.push(entries.len());
            }
            entries.push(Entry {
                text: text.into(),
                whole: sheet.whole.into(),
                beginning: sheet.beginning.into(),
                shorter,
            });
        }
        Self {
            entries: entries.into(),
        }
    }

    /// Hands out the lists of all rules that could want the text that the pieces make up.
    pub(super) fn each<T: AsRef<[u8]>>(&self, pieces: &[T], visit: &mut impl FnMut(&[Place])) {
        let order = |entry: &Entry| Case::Sensitive.compare(pieces, &entry.text);
        let behind = self
            .entries
            .partition_point(|entry| order(entry) != Ordering::Less);
        let Some(mut entry) = behind.checked_sub(1).map(|last| &self.entries[last]) else {
            return;
        };
        if order(entry) == Ordering::Equal {
            visit(&entry.whole);
        }
        loop {
            if Case::Sensitive.begins_with(pieces, &entry.text) {
                visit(&entry.beginning);
            }
            match entry.shorter {
                Some(shorter) => entry = &self.entries[shorter],
                None => return,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn all_that_a_text_is_like_is_found(
            texts in prop::collection::vec(("[ab]{0,5}", any::<bool>()), 0..20),
            pieces in prop::collection::vec("[ab]{0,3}", 1..4),
        ) {
            let mut sheets = Sheets::new();
            for (number, (text, whole)) in (0..).zip(&texts) {
                let sheet = sheets.entry(text.as_bytes().into()).or_default();
                let list = if *whole { &mut sheet.whole } else { &mut sheet.beginning };
                list.push(Place { policy: number, rule: 0 });
            }
            let mut found = Vec::new();
            Filed::new(sheets).each(&pieces, &mut |places| found.extend(places.iter().map(|place| place.policy)));
            found.sort_unstable();
            let asked = pieces.concat();
            let expected: Vec<u32> = (0..)
                .zip(&texts)
                .filter(|(_, (text, whole))| if *whole { *text == asked } else { asked.starts_with(text) })
                .map(|(number, _)| number)
                .collect();
            prop_assert_eq!(found, expected);
        }
    }
}
