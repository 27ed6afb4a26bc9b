//! One spelling for each path, so that policy and application cannot read the same path differently.
//!
//! A path can be written in many ways that an application takes for one: `/a/./b`, `/a//b`, `/%61/b`, `/a%2Fb`,
//! `/a\b`. A policy compares what [`normalize`] makes of all of them, and the request goes on with that path, so that
//! nobody behind the policy reads more into it:
//!
//! - query and fragment are cut off, and of the absolute form everything before the path;
//! - `\`, `%2F` and `%5C` become `/`; several `/` become one;
//! - escapes of characters that may stand for themselves in a segment are undone, except `%3B`, since a `;` there
//!   begins a parameter; all others stay, in capital letters; whatever may not stand for itself is escaped;
//! - dot segments are resolved, and `/..` at the root is the root.
//!
//! Escapes are undone once: `%252e` stays what it is. Refused is what has no spelling that everybody agrees on: a
//! broken escape, NUL, bytes that are not UTF-8 (overlong forms among them), and dot segments with parameters.

use std::borrow::Cow;

use thiserror::Error;

/// A path that no policy can judge.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum BadPath {
    /// It is neither `*` nor does it begin with `/`.
    #[error("the path does not begin with `/`")]
    Relative,
    /// A `%` without two hexadecimal digits.
    #[error("the path has a broken %-escape")]
    Escape,
    /// A control character, or an escaped NUL.
    #[error("the path has a control character")]
    Control,
    /// Its bytes are no text.
    #[error("the path is not UTF-8")]
    Encoding,
    /// `..;` or `.;`: some servers take it for a dot segment, others do not.
    #[error("the path has a dot segment with a parameter")]
    Parameter,
}

/// The path of a request target in its one spelling; borrowed if it has that already.
pub fn normalize(target: &str) -> Result<Cow<'_, str>, BadPath> {
    let path = path_of(target)?;
    if is_plain(path) {
        return Ok(Cow::Borrowed(path));
    }
    let mut spelt = String::with_capacity(path.len() + 8);
    respell(path, &mut spelt)?;
    let resolved = resolve(&spelt)?;
    Ok(if resolved == path {
        Cow::Borrowed(path)
    } else {
        Cow::Owned(resolved)
    })
}

/// The text of a policy's path pattern in the spelling that paths have when they are compared. It can be a part of a
/// path, so nothing is resolved; a text that is no part of any path stays as it is.
pub(super) fn canonical(text: &str) -> Cow<'_, str> {
    let mut spelt = String::with_capacity(text.len());
    match respell(text, &mut spelt) {
        Ok(()) if spelt != text => Cow::Owned(spelt),
        _ => Cow::Borrowed(text),
    }
}

/// The path alone.
fn path_of(target: &str) -> Result<&str, BadPath> {
    let end = target.find(['?', '#']).unwrap_or(target.len());
    let target = &target[..end];
    if target.starts_with('/') || target == "*" {
        return Ok(target);
    }
    match target.split_once("://") {
        Some((_, rest)) => Ok(rest.find('/').map_or("/", |at| &rest[at..])),
        None if target.is_empty() => Ok("/"),
        // The path may begin with a backslash.
        None if target.starts_with('\\') => Ok(target),
        None => Err(BadPath::Relative),
    }
}

/// Whether a path certainly has its one spelling. Most have.
fn is_plain(path: &str) -> bool {
    let mut before = 0;
    path.bytes().all(|byte| {
        let plain = match byte {
            b'/' | b'.' => before != b'/',
            byte => stands_for_itself(byte),
        };
        before = byte;
        plain
    })
}

/// What may stand in a segment unescaped, and means the same escaped.
fn stands_for_itself(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,=:@".contains(&byte)
}

/// Writes each character as it is compared.
pub(super) fn respell(path: &str, spelt: &mut String) -> Result<(), BadPath> {
    let bytes = path.as_bytes();
    let mut raw = Vec::new();
    let mut at = 0;
    while let Some(&byte) = bytes.get(at) {
        let escaped = byte == b'%';
        let value = if escaped {
            let digits = bytes.get(at + 1..at + 3).ok_or(BadPath::Escape)?;
            let digit = |byte: u8| char::from(byte).to_digit(16).ok_or(BadPath::Escape);
            let value = digit(digits[0])? * 16 + digit(digits[1])?;
            u8::try_from(value).map_err(|_| BadPath::Escape)?
        } else {
            byte
        };
        at += if escaped { 3 } else { 1 };
        if value == 0 || (!escaped && value.is_ascii_control()) {
            return Err(BadPath::Control);
        }
        if !value.is_ascii() || !raw.is_empty() {
            raw.push(value);
        }
        match value {
            b'/' | b'\\' => spelt.push('/'),
            b';' if !escaped => spelt.push(';'),
            value if stands_for_itself(value) => spelt.push(char::from(value)),
            value => {
                let digit = |nibble: u8| char::from(b"0123456789ABCDEF"[usize::from(nibble)]);
                spelt.extend(['%', digit(value >> 4), digit(value & 15)]);
            }
        }
    }
    std::str::from_utf8(&raw).map(drop).map_err(|_| BadPath::Encoding)
}

/// Merges slashes and resolves dot segments.
pub(super) fn resolve(spelt: &str) -> Result<String, BadPath> {
    if spelt == "*" {
        return Ok("*".to_owned());
    }
    let mut path = String::with_capacity(spelt.len());
    let mut segments = spelt.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "" | "." => {}
            ".." => path.truncate(path.rfind('/').unwrap_or(0)),
            segment => {
                let name = segment.trim_start_matches('.');
                if segment.len() - name.len() <= 2
                    && segment.len() > name.len()
                    && (name.starts_with(';') || name.starts_with("%3B"))
                {
                    return Err(BadPath::Parameter);
                }
                path.push('/');
                path.push_str(segment);
            }
        }
        if last && matches!(segment, "" | "." | "..") {
            path.push('/');
        }
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn one_spelling() {
        for (target, path) in [
            ("/", "/"),
            ("", "/"),
            ("*", "*"),
            ("/a/b", "/a/b"),
            ("/a/b/", "/a/b/"),
            ("/a?b=/../c", "/a"),
            ("/a#b", "/a"),
            ("/a%3Fb?c", "/a%3Fb"),
            ("/a%23b", "/a%23b"),
            ("http://host", "/"),
            ("http://host/a/../b?c", "/b"),
            ("http://host?x=/y", "/"),
            ("/http://host/a", "/http:/host/a"),
            // Slashes.
            ("//a", "/a"),
            ("/a//b///c//", "/a/b/c/"),
            ("/a\\b", "/a/b"),
            ("\\a", "/a"),
            ("/a%2fb", "/a/b"),
            ("/a%2Fb", "/a/b"),
            ("/a%5cb", "/a/b"),
            ("/a%5C%2f\\b", "/a/b"),
            // Dots.
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/../../a", "/a"),
            ("/a/b/..", "/a/"),
            ("/a/.", "/a/"),
            ("/..", "/"),
            ("/a/..b/.c/d..", "/a/..b/.c/d.."),
            ("/a/...", "/a/..."),
            ("/a/%2e%2e/b", "/b"),
            ("/a/.%2E/b", "/b"),
            ("/a/%2e/b", "/a/b"),
            ("/a%2f..%2fb", "/b"),
            ("/a/..%5cb", "/b"),
            ("/a//../b", "/b"),
            ("/public/..\\admin", "/admin"),
            // Escapes.
            ("/%61dmin", "/admin"),
            ("/%7Euser%2D%5f", "/~user-_"),
            ("/v1/x%3acancel", "/v1/x:cancel"),
            ("/a%2bb%21", "/a+b!"),
            ("/a%20b", "/a%20b"),
            ("/a b\"{}|", "/a%20b%22%7B%7D%7C"),
            ("/%c3%a4", "/%C3%A4"),
            ("/ä", "/%C3%A4"),
            ("/%252e%252e/a", "/%252e%252e/a"),
            ("/%25", "/%25"),
            ("/a;b=c", "/a;b=c"),
            ("/a%3bb", "/a%3Bb"),
            ("/a.;b", "/a.;b"),
            ("/%0a", "/%0A"),
            ("/pkg.Service/Method", "/pkg.Service/Method"),
        ] {
            assert_eq!(normalize(target).as_deref(), Ok(path), "{target}");
        }
    }

    #[test]
    fn refused() {
        for (target, reason) in [
            ("a/b", BadPath::Relative),
            ("host:443", BadPath::Relative),
            ("%2fa", BadPath::Relative),
            ("/%", BadPath::Escape),
            ("/%4", BadPath::Escape),
            ("/%zz", BadPath::Escape),
            ("/%+1", BadPath::Escape),
            ("/%u002f", BadPath::Escape),
            ("/a%00", BadPath::Control),
            ("/a\0", BadPath::Control),
            ("/a\tb", BadPath::Control),
            ("/%c0%af", BadPath::Encoding),
            ("/%c0%ae%c0%ae/", BadPath::Encoding),
            ("/%e0%80%af", BadPath::Encoding),
            ("/%ff", BadPath::Encoding),
            ("/%c3", BadPath::Encoding),
            ("/a/..;/b", BadPath::Parameter),
            ("/a/..;x=1/b", BadPath::Parameter),
            ("/a/.;/b", BadPath::Parameter),
            ("/a/%2e%2e;/b", BadPath::Parameter),
            ("/a/..%3b/b", BadPath::Parameter),
        ] {
            assert_eq!(normalize(target), Err(reason), "{target}");
        }
    }

    #[test]
    fn a_usual_path_costs_nothing() {
        for path in [
            "/",
            "/api/v1/items/7",
            "/a.b/c_d~e",
            "/x:y@z",
            "/pkg.Service/Method",
        ] {
            assert!(is_plain(path), "{path}");
            assert!(matches!(normalize(path), Ok(Cow::Borrowed(_))));
        }
    }

    /// What a lenient server could see: everything decoded as often as asked, backslashes as slashes, then resolved.
    fn seen(path: &str) -> String {
        let mut decoded = Vec::new();
        let mut bytes = path.bytes();
        while let Some(byte) = bytes.next() {
            decoded.push(match byte {
                b'%' => {
                    let digits: String = bytes.by_ref().take(2).map(char::from).collect();
                    u8::from_str_radix(&digits, 16).unwrap()
                }
                b'\\' => b'/',
                byte => byte,
            });
        }
        let text = String::from_utf8(decoded).unwrap().replace('\\', "/");
        let mut segments = Vec::new();
        for segment in text.split('/').filter(|segment| !matches!(*segment, "" | ".")) {
            match segment {
                ".." => drop(segments.pop()),
                segment => segments.push(segment),
            }
        }
        segments.join("/")
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(5000))]

        #[test]
        fn whatever_the_spelling_the_server_sees_the_path_that_was_judged(
            pieces in prop::collection::vec(
                prop::sample::select(&[
                    "/", "a", ".", "..", "%2e", "%2E", "%2f", "%5c", "\\", "%61", "b", ";", "%3b", "%20", " ", "%c3%a4",
                    "ä", ":", "%3A", "//",
                ][..]),
                0..12,
            ),
        ) {
            let target = format!("/{}", pieces.concat());
            if let Ok(path) = normalize(&target) {
                prop_assert_eq!(seen(&path), seen(&target));
                let again = normalize(&path);
                prop_assert_eq!(again.as_deref(), Ok(&*path), "once is enough");
                let slashes_and_dots = ["//", "/./", "/../", "\\"];
                prop_assert!(path.starts_with('/') && !slashes_and_dots.iter().any(|bad| path.contains(bad)), "{}", path);
                prop_assert!(!path.ends_with("/.") && !path.ends_with("/.."));
            }
        }

        /// Spelling a path otherwise does not change what is judged.
        #[test]
        fn escaping_more_changes_nothing(path in "(/[ab.:ä]{1,3}){1,4}", escape in any::<u64>()) {
            let escaped: String = path
                .bytes()
                .enumerate()
                .map(|(at, byte)| match byte {
                    b'/' if at == 0 => "/".to_owned(),
                    byte if !byte.is_ascii() || escape >> (at % 64) & 1 == 1 => format!("%{byte:02x}"),
                    byte => char::from(byte).to_string(),
                })
                .collect();
            prop_assert_eq!(normalize(&escaped), normalize(&path));
        }

        #[test]
        fn nothing_panics(target in any::<String>()) {
            let _ = normalize(&target);
            let _ = canonical(&target);
        }
    }
}
