//! Whether some path could ever be like a pattern of a policy.
//!
//! `config` asks [`check`] when it reads a policy. Requests are compared in the one spelling of their paths, see
//! [`path`](super::path): a pattern that is spelt otherwise would deny nothing, and nobody would notice. Invariant: no
//! pattern is refused that some path is like.

use super::BadPath;
use super::path::{resolve, respell};

/// Which part of a path a text stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Extent {
    /// All of it.
    Whole,
    /// How it begins; what follows may go on within a segment.
    Beginning,
    /// How it ends.
    End,
}

/// Why no path is like a text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Never {
    /// In words.
    pub why: String,
    /// What could have been meant, as paths are spelt.
    pub meant: Option<String>,
}

/// Whether there are paths with this text as that part of them.
pub fn check(text: &str, extent: Extent) -> Result<(), Never> {
    if let Some(at) = text.find(['?', '#']) {
        let rest = &text[..at];
        return Err(Never {
            why: "what follows `?` or `#` is no part of a path".to_owned(),
            meant: match check(rest, extent) {
                Ok(()) if !rest.is_empty() => Some(rest.to_owned()),
                Ok(()) => None,
                Err(never) => never.meant,
            },
        });
    }
    let mut spelt = String::with_capacity(text.len());
    match respell(whole_escapes(text, extent), &mut spelt) {
        Ok(()) => {}
        // A part may begin or end within a character.
        Err(BadPath::Encoding) if extent != Extent::Whole => return Ok(()),
        Err(bad) => {
            return Err(Never {
                why: bad.to_string(),
                meant: None,
            });
        }
    }
    if extent != Extent::End && !spelt.starts_with('/') {
        let slashed = format!("/{spelt}");
        return Err(Never {
            why: BadPath::Relative.to_string(),
            meant: check(&slashed, extent).is_ok().then_some(slashed),
        });
    }
    // What is in whole segments is compared as it is resolved.
    let (before, segments, behind) = match extent {
        Extent::Whole => ("", &*spelt, ""),
        Extent::Beginning => {
            let (segments, behind) = spelt.split_at(spelt.rfind('/').map_or(0, |at| at + 1));
            ("", segments, behind)
        }
        Extent::End => {
            let (before, segments) = spelt.split_at(spelt.find('/').unwrap_or(spelt.len()));
            (before, segments, "")
        }
    };
    match resolve(segments) {
        Ok(resolved) if resolved == segments => Ok(()),
        Ok(resolved) => Err(Never {
            why: "`//`, `/./` and `/../` are resolved before paths are compared".to_owned(),
            meant: Some(format!("{before}{resolved}{behind}")),
        }),
        Err(bad) => Err(Never {
            why: bad.to_string(),
            meant: None,
        }),
    }
}

/// Without an escape that goes on behind the text.
fn whole_escapes(text: &str, extent: Extent) -> &str {
    let mut ends = text.char_indices().rev();
    let (last, before) = (ends.next(), ends.next());
    match (extent, before, last) {
        (Extent::Beginning, _, Some((at, '%'))) => &text[..at],
        (Extent::Beginning, Some((at, '%')), Some((_, digit))) if digit.is_ascii_hexdigit() => &text[..at],
        _ => text,
    }
}

#[cfg(test)]
mod tests {
    use mesh_common::model::{PathPattern, Pattern};
    use proptest::prelude::*;

    use super::*;
    use crate::policy::{normalize, request::RequestTest};

    #[test]
    fn what_some_path_is_like() {
        for (text, extent) in [
            ("/", Extent::Whole),
            ("/a/b/", Extent::Whole),
            ("/a b", Extent::Whole),
            ("/%61\\b", Extent::Whole),
            ("/a%3Fb", Extent::Whole),
            ("/a;b/..c", Extent::Whole),
            ("/", Extent::Beginning),
            ("/a/.", Extent::Beginning),
            ("/a/..", Extent::Beginning),
            ("/a%", Extent::Beginning),
            ("/a%2", Extent::Beginning),
            ("/%C3", Extent::Beginning),
            (".php", Extent::End),
            ("..", Extent::End),
            ("/", Extent::End),
            ("b/c", Extent::End),
            ("%A4", Extent::End),
        ] {
            assert_eq!(check(text, extent), Ok(()), "{text} {extent:?}");
        }
    }

    #[test]
    fn what_no_path_is_like() {
        for (text, extent, meant) in [
            ("/x/../y", Extent::Whole, Some("/y")),
            ("//y", Extent::Whole, Some("/y")),
            ("/a/./b", Extent::Whole, Some("/a/b")),
            ("/a/%2e%2e/b", Extent::Whole, Some("/b")),
            ("/a\\\\b", Extent::Whole, Some("/a/b")),
            ("/a/..", Extent::Whole, Some("/")),
            ("/a?x=1", Extent::Whole, Some("/a")),
            ("/x/../a?x=1", Extent::Whole, Some("/a")),
            ("?x=1", Extent::Whole, Some("/")),
            ("/a#b", Extent::Whole, Some("/a")),
            ("/a%zz/b", Extent::Whole, None),
            ("/a%2", Extent::Whole, None),
            ("/%C3", Extent::Whole, None),
            ("/..;/a", Extent::Whole, None),
            ("admin", Extent::Whole, Some("/admin")),
            ("", Extent::Whole, Some("/")),
            ("admin", Extent::Beginning, Some("/admin")),
            ("/x/../y", Extent::Beginning, Some("/y")),
            ("//", Extent::Beginning, Some("/")),
            ("/a?", Extent::Beginning, Some("/a")),
            ("x//y", Extent::End, Some("x/y")),
            ("/..", Extent::End, Some("/")),
            ("?x=1", Extent::End, None),
        ] {
            let never = check(text, extent).unwrap_err();
            assert_eq!(never.meant.as_deref(), meant, "{text} {extent:?}: {}", never.why);
        }
    }

    fn pieces() -> impl Strategy<Value = String> {
        let pieces = [
            "/", "//", "a", ".", "..", "%2e", "%2F", "\\", "%61", ";", "%3b", " ", "%c3%a4", "ä", "%", "?",
            "#",
        ];
        prop::collection::vec(prop::sample::select(pieces.to_vec()), 0..8).prop_map(|pieces| pieces.concat())
    }

    proptest! {
        /// A pattern that fits some path is never refused.
        #[test]
        fn nothing_useful_is_refused(text in pieces(), target in pieces()) {
            if let Ok(path) = normalize(&format!("/{target}")) {
                for (extent, pattern) in [
                    (Extent::Whole, Pattern::Exact(text.clone())),
                    (Extent::Beginning, Pattern::Prefix(text.clone())),
                    (Extent::End, Pattern::Suffix(text.clone())),
                ] {
                    let test = RequestTest::paths(&[PathPattern::Text(pattern)]);
                    let RequestTest::Path(texts, _) = test else { unreachable!() };
                    if !text.is_empty() && !text.contains(['?', '#']) && texts.matches(&[&*path]) {
                        prop_assert_eq!(check(&text, extent), Ok(()), "{:?} {}", extent, path);
                    }
                }
            }
        }
    }
}
