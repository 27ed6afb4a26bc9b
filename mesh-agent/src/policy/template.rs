//! Path templates: `{*}` is one segment, `{**}` whatever follows, over as many segments as there are.
//!
//! A segment is not empty; `{**}` may be. Behind it only fixed text can stand.

use super::path::canonical;

/// A template, taken apart.
#[derive(Debug)]
pub(super) struct Template {
    /// What the first segments must be.
    head: Vec<Segment>,
    /// How what remains behind them must end; `None` if nothing may remain.
    tail: Option<Box<str>>,
}

#[derive(Debug)]
enum Segment {
    Fixed(Box<str>),
    Any,
}

impl Template {
    /// Reads a template that begins with `/`.
    pub(super) fn new(text: &str) -> Self {
        let text = text.strip_prefix('/').unwrap_or(text);
        let (head, tail) = match text.split_once("{**}") {
            Some((head, tail)) => (head.strip_suffix('/').unwrap_or(head), Some(tail)),
            None => (text, None),
        };
        let segment = |text: &str| match text {
            "{*}" => Segment::Any,
            text => Segment::Fixed(canonical(text).into()),
        };
        // A template that begins with `{**}` has no head, not an empty segment.
        let head = match (head, tail) {
            ("", Some(_)) => Vec::new(),
            (head, _) => head.split('/').map(segment).collect(),
        };
        Self {
            head,
            tail: tail.map(|tail| canonical(tail).into()),
        }
    }

    /// How all paths begin that are made like this.
    pub(super) fn beginning(&self) -> String {
        let mut beginning = String::from("/");
        for (number, segment) in self.head.iter().enumerate() {
            let Segment::Fixed(text) = segment else { break };
            beginning.push_str(text);
            if number + 1 < self.head.len() || self.tail.is_some() {
                beginning.push('/');
            }
        }
        beginning
    }

    /// Whether a path is made like this.
    pub(super) fn matches(&self, path: &str) -> bool {
        let Some(path) = path.strip_prefix('/') else {
            return false;
        };
        let mut rest = Some(path);
        for expected in &self.head {
            let Some(path) = rest else { return false };
            let (segment, behind) = match path.split_once('/') {
                Some((segment, behind)) => (segment, Some(behind)),
                None => (path, None),
            };
            let fits = match expected {
                Segment::Fixed(text) => segment == &**text,
                Segment::Any => !segment.is_empty(),
            };
            if !fits {
                return false;
            }
            rest = behind;
        }
        match &self.tail {
            Some(tail) => rest.is_some_and(|rest| rest.ends_with(&**tail)),
            None => rest.is_none(),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn segments() {
        for (template, matching, others) in [
            (
                "/a/{*}",
                &["/a/b", "/a/b.txt"][..],
                &["/a", "/a/", "/a/b/", "/a/b/c", "/b/b"][..],
            ),
            ("/{*}/a", &["/x/a"], &["/a", "/x/y/a", "//a"]),
            ("/a/{*}/b/{*}", &["/a/1/b/2"], &["/a/1/b", "/a/1/c/2", "/a/b/2"]),
            ("/a/{**}", &["/a/", "/a/b", "/a/b/c/"], &["/a", "/ab", "/b/a/"]),
            ("/{**}", &["/", "/a", "/a/b"], &["", "a"]),
            (
                "/a/{**}/z",
                &["/a/b/z", "/a/b/c/z", "/a//z"],
                &["/a/z", "/a/b", "/a/b/z/"],
            ),
            ("/a/{*}/{**}", &["/a/b/", "/a/b/c/d"], &["/a/b", "/a//c"]),
            ("/a/{**}/", &["/a/b/", "/a/b/c/"], &["/a/b", "/a/"]),
        ] {
            let compiled = Template::new(template);
            for path in matching {
                assert!(compiled.matches(path), "{template} {path}");
                assert!(path.starts_with(&compiled.beginning()), "{template} {path}");
            }
            for path in others {
                assert!(!compiled.matches(path), "{template} {path}");
            }
        }
    }

    proptest! {
        /// The same as a regular expression says it.
        #[test]
        fn as_a_regular_expression(
            head in prop::collection::vec(prop::sample::select(&["a", "b", "{*}"][..]), 0..4),
            tail in prop::option::of(prop::sample::select(&["", "/a", "/a/b", "/"][..])),
            path in "(/[ab]{0,2}){0,5}",
        ) {
            let mut template: String = head.iter().map(|segment| format!("/{segment}")).collect();
            if let Some(tail) = tail {
                template.push_str("/{**}");
                template.push_str(tail);
            }
            prop_assume!(!template.is_empty());
            let pattern = template.replace("{**}", ".*").replace("{*}", "[^/]+");
            let expected = regex::Regex::new(&format!("^{pattern}$")).unwrap().is_match(&path);
            let compiled = Template::new(&template);
            prop_assert_eq!(compiled.matches(&path), expected, "{} {}", template, path);
            prop_assert!(!expected || path.starts_with(&compiled.beginning()), "{} {}", template, path);
        }
    }
}
