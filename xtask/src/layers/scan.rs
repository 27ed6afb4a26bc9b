//! Finds the modules a Rust source names through `crate::` and `super::`.
//!
//! A small reader of tokens, not a parser: it skips comments, strings and character literals, follows braces to know
//! which inline module it is in, and reads the head of each path and of each group in a `use`. [`super`] hands it
//! files and judges what it finds.
//!
//! Limit: a name that a macro puts together is not seen.

/// A top-level module that the source names.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Reference {
    /// Counted from one.
    pub(super) line: usize,
    /// The first segment below the crate.
    pub(super) module: String,
}

/// What the source of the module at `path` (`["http", "retry"]`) names, in order. `alias` is a name of the crate
/// besides `crate`: a binary calls its library by name.
pub(super) fn references(source: &str, path: &[String], alias: Option<&str>) -> Vec<Reference> {
    let tokens = tokens(source);
    let mut found = Vec::new();
    // Inline modules that are open here, each with the depth of braces around it.
    let (mut inline, mut depth): (Vec<(String, usize)>, usize) = (Vec::new(), 0);
    let mut at = 0;
    while let Some((token, _)) = tokens.get(at) {
        match token {
            Token::Open => depth += 1,
            Token::Close => {
                depth = depth.saturating_sub(1);
                inline.retain(|(_, outside)| *outside < depth);
            }
            Token::Word("mod") => {
                if let (Some((Token::Word(name), _)), Some((Token::Open, _))) =
                    (tokens.get(at + 1), tokens.get(at + 2))
                {
                    inline.push(((*name).to_owned(), depth));
                }
            }
            Token::Word("super") => {
                let mut ups = 1;
                while matches!(tokens.get(at + 1), Some((Token::PathSeparator, _)))
                    && matches!(tokens.get(at + 2), Some((Token::Word("super"), _)))
                {
                    ups += 1;
                    at += 2;
                }
                if ups == path.len() + inline.len() {
                    heads(&tokens, at + 1, &mut found);
                }
            }
            Token::Word("crate") => heads(&tokens, at + 1, &mut found),
            Token::Word(name) if Some(*name) == alias => heads(&tokens, at + 1, &mut found),
            _ => {}
        }
        at += 1;
    }
    found
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Token<'a> {
    Word(&'a str),
    PathSeparator,
    Open,
    Close,
    Comma,
    Bang,
    Other,
}

/// Reads what follows the crate's name: `::head` or `::{head, head::{…}}`.
fn heads(tokens: &[(Token<'_>, usize)], at: usize, found: &mut Vec<Reference>) {
    let Some((Token::PathSeparator, _)) = tokens.get(at) else {
        return;
    };
    match tokens.get(at + 1) {
        Some((Token::Open, _)) => {
            let (mut depth, mut expected) = (0, false);
            for (index, (token, line)) in tokens.iter().enumerate().skip(at + 1) {
                match token {
                    Token::Open => {
                        depth += 1;
                        expected = depth == 1;
                    }
                    Token::Close => {
                        depth -= 1;
                        if depth == 0 {
                            return;
                        }
                    }
                    Token::Comma => expected = depth == 1,
                    Token::Word(name) if expected => {
                        expected = false;
                        push(tokens, index, name, *line, found);
                    }
                    _ => {}
                }
            }
        }
        Some((Token::Word(name), line)) => push(tokens, at + 1, name, *line, found),
        _ => {}
    }
}

fn push(tokens: &[(Token<'_>, usize)], at: usize, name: &str, line: usize, found: &mut Vec<Reference>) {
    // A macro lives at the root whatever module defines it, and `self` is the root.
    if name == "self" || matches!(tokens.get(at + 1), Some((Token::Bang, _))) {
        return;
    }
    found.push(Reference {
        line,
        module: name.to_owned(),
    });
}

/// Splits the source into tokens with their lines; comments and literals leave nothing.
fn tokens(source: &str) -> Vec<(Token<'_>, usize)> {
    let bytes = source.as_bytes();
    let (mut tokens, mut at, mut line) = (Vec::new(), 0, 1);
    while at < bytes.len() {
        let end = match bytes[at] {
            b'/' if bytes[at..].starts_with(b"//") => end_of_line(bytes, at),
            b'/' if bytes[at..].starts_with(b"/*") => end_of_comment(bytes, at),
            b'"' => end_of_string(bytes, at),
            b'\'' => end_of_quote(bytes, at),
            first if first.is_ascii_alphabetic() || first == b'_' => {
                let end = end_of_word(bytes, at);
                let word = &source[at..end];
                match (word, bytes.get(end)) {
                    ("r" | "br" | "cr", Some(b'"' | b'#')) => {
                        end_of_raw_string(bytes, end).unwrap_or(end + 1)
                    }
                    _ => {
                        tokens.push((Token::Word(word), line));
                        end
                    }
                }
            }
            b':' if bytes[at..].starts_with(b"::") => {
                tokens.push((Token::PathSeparator, line));
                at + 2
            }
            first => {
                let token = match first {
                    b'{' => Token::Open,
                    b'}' => Token::Close,
                    b',' => Token::Comma,
                    b'!' => Token::Bang,
                    _ => Token::Other,
                };
                if !first.is_ascii_whitespace() {
                    tokens.push((token, line));
                }
                at + 1
            }
        };
        line += bytes[at..end].iter().filter(|byte| **byte == b'\n').count();
        at = end;
    }
    tokens
}

fn end_of_line(bytes: &[u8], at: usize) -> usize {
    bytes[at..]
        .iter()
        .position(|byte| *byte == b'\n')
        .map_or(bytes.len(), |length| at + length)
}

/// Block comments nest.
fn end_of_comment(bytes: &[u8], mut at: usize) -> usize {
    let mut depth = 0;
    while at < bytes.len() {
        if bytes[at..].starts_with(b"/*") {
            (depth, at) = (depth + 1, at + 2);
        } else if bytes[at..].starts_with(b"*/") {
            (depth, at) = (depth - 1, at + 2);
            if depth == 0 {
                return at;
            }
        } else {
            at += 1;
        }
    }
    bytes.len()
}

fn end_of_string(bytes: &[u8], at: usize) -> usize {
    let mut end = at + 1;
    while end < bytes.len() {
        match bytes[end] {
            b'\\' => end += 2,
            b'"' => return end + 1,
            _ => end += 1,
        }
    }
    bytes.len()
}

/// From the hashes or the quote behind the `r`; `None` for a raw identifier such as `r#type`.
fn end_of_raw_string(bytes: &[u8], at: usize) -> Option<usize> {
    let hashes = bytes[at..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(at + hashes) != Some(&b'"') {
        return None;
    }
    let close: Vec<u8> = std::iter::once(b'"')
        .chain(std::iter::repeat_n(b'#', hashes))
        .collect();
    let body = at + hashes + 1;
    let length = bytes[body..]
        .windows(close.len())
        .position(|window| window == close);
    Some(length.map_or(bytes.len(), |length| body + length + close.len()))
}

/// A character, or the tick of a lifetime.
fn end_of_quote(bytes: &[u8], at: usize) -> usize {
    if bytes.get(at + 1) == Some(&b'\\') {
        let from = at + 3;
        return bytes
            .get(from..)
            .and_then(|rest| rest.iter().position(|b| *b == b'\''))
            .map_or(bytes.len(), |n| from + n + 1);
    }
    // One character of up to four bytes, then the closing tick.
    let character = bytes.get(at + 1).map_or(1, |first| match first {
        0xf0.. => 4,
        0xe0.. => 3,
        0xc0.. => 2,
        _ => 1,
    });
    if bytes.get(at + 1 + character) == Some(&b'\'') {
        at + 2 + character
    } else {
        at + 1
    }
}

fn end_of_word(bytes: &[u8], at: usize) -> usize {
    let length = bytes[at..]
        .iter()
        .position(|byte| !(byte.is_ascii_alphanumeric() || *byte == b'_'));
    length.map_or(bytes.len(), |length| at + length)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(source: &str, path: &[&str]) -> Vec<(usize, String)> {
        let path: Vec<String> = path.iter().map(|segment| (*segment).to_owned()).collect();
        references(source, &path, None)
            .into_iter()
            .map(|reference| (reference.line, reference.module))
            .collect()
    }

    fn modules(source: &str, path: &[&str]) -> Vec<String> {
        found(source, path)
            .into_iter()
            .map(|(_, module)| module)
            .collect()
    }

    #[test]
    fn plain_paths_and_groups_are_seen_with_their_lines() {
        let source = "use crate::state::Snapshot;\nuse crate::{\n    http::{self, retry},\n    node,\n};\nfn f() { crate::policy::decide() }\n";
        let expected = [(1, "state"), (3, "http"), (4, "node"), (6, "policy")];
        assert_eq!(
            found(source, &["agent"]),
            expected.map(|(line, module)| (line, module.to_owned()))
        );
    }

    #[test]
    fn super_reaches_the_crate_only_from_high_enough() {
        assert_eq!(modules("use super::state::X;", &["http"]), ["state"]);
        assert!(modules("use super::state::X;", &["http", "retry"]).is_empty());
        assert_eq!(
            modules("use super::super::state::X;", &["http", "retry"]),
            ["state"]
        );
        assert_eq!(
            modules("use super::{state, node::Pod};", &["http"]),
            ["state", "node"]
        );
    }

    #[test]
    fn an_inline_module_is_one_level_more_until_it_ends() {
        let source = "mod tests { use super::*; use super::super::node; fn f() { {} } use super::super::state; }\nuse super::policy;";
        assert_eq!(modules(source, &["http"]), ["node", "state", "policy"]);
    }

    #[test]
    fn comments_and_literals_name_nothing() {
        let source = r##"
            //! See [`crate::agent`].
            /* crate::cli /* crate::cli */ crate::cli */
            const A: &str = "crate::agent \" crate::agent";
            const B: &str = r#"crate::agent " crate::agent"#;
            const C: char = '"'; const D: char = '\''; const E: char = 'é';
            fn f<'a>(x: &'a str) { crate::state::g(x) }
        "##;
        assert_eq!(found(source, &["http"]), [(7, "state".to_owned())]);
    }

    #[test]
    fn macros_raw_identifiers_and_visibility_are_no_modules() {
        assert!(
            modules(
                "pub(crate) fn r#type() { crate::trace!(1); pub(in crate) }",
                &["http"]
            )
            .is_empty()
        );
    }

    #[test]
    fn a_binary_names_its_library() {
        let found = references(
            "use mesh_agent::{cli, agent};",
            &["main".to_owned()],
            Some("mesh_agent"),
        );
        assert_eq!(
            found
                .iter()
                .map(|reference| reference.module.as_str())
                .collect::<Vec<_>>(),
            ["cli", "agent"]
        );
    }
}
