//! A request as rules look at it.
//!
//! Invariant: what is not asked for costs nothing. The query is taken apart once, when the first rule asks for it.

use std::borrow::Cow;
use std::cell::OnceCell;

use http::header::{COOKIE, HOST, HeaderName, HeaderValue};
use http::request::Parts;
use http::{HeaderMap, Method, Uri};

/// The head of a request.
pub(super) struct Asked<'r> {
    pub(super) method: &'r Method,
    pub(super) path: &'r str,
    pub(super) headers: &'r HeaderMap,
    uri: &'r Uri,
    query: OnceCell<Vec<Parameter<'r>>>,
}

/// Name and value of a query parameter, decoded.
type Parameter<'r> = (Cow<'r, str>, Cow<'r, str>);

impl<'r> Asked<'r> {
    pub(super) fn new(parts: &'r Parts) -> Self {
        Self {
            method: &parts.method,
            path: parts.uri.path(),
            headers: &parts.headers,
            uri: &parts.uri,
            query: OnceCell::new(),
        }
    }

    /// The value of a header; of one that stands there several times, all of them in one list.
    pub(super) fn header(&self, name: &HeaderName) -> Option<Cow<'r, [u8]>> {
        let mut values = self.headers.get_all(name).iter();
        match (values.next(), values.next()) {
            (Some(only), None) => Some(Cow::Borrowed(only.as_bytes())),
            (Some(first), Some(second)) => {
                let separator = if *name == COOKIE { "; " } else { "," };
                let mut all = first.as_bytes().to_vec();
                for value in std::iter::once(second).chain(values) {
                    all.extend_from_slice(separator.as_bytes());
                    all.extend_from_slice(value.as_bytes());
                }
                Some(Cow::Owned(all))
            }
            // HTTP/2 has the host in the target.
            _ if *name == HOST => {
                let authority = self.uri.authority()?;
                Some(Cow::Borrowed(authority.as_str().as_bytes()))
            }
            _ => None,
        }
    }

    /// Every header name with its value as [`Asked::header`] gives it.
    pub(super) fn each_header(&self) -> impl Iterator<Item = (&'r HeaderName, Cow<'r, [u8]>)> {
        let named = self.headers.keys();
        let target = (!self.headers.contains_key(HOST)).then_some(&HOST);
        named
            .chain(target)
            .filter_map(|name| Some((name, self.header(name)?)))
    }

    /// The first value of a query parameter.
    pub(super) fn parameter(&self, name: &str) -> Option<&str> {
        let found = self.parameters().iter().find(|(known, _)| known == name);
        found.map(|(_, value)| &**value)
    }

    /// All query parameters in order.
    pub(super) fn parameters(&self) -> &[Parameter<'r>] {
        self.query.get_or_init(|| {
            let query = self.uri.query().unwrap_or_default();
            let pairs = query.split('&').filter(|pair| !pair.is_empty());
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decoded(name), decoded(value))
                })
                .collect()
        })
    }
}

/// A part of a query in plain text (`application/x-www-form-urlencoded`). What is not UTF-8 then, or no escape at all,
/// stays as it is written.
fn decoded(text: &str) -> Cow<'_, str> {
    if !text.contains(['%', '+']) {
        return Cow::Borrowed(text);
    }
    let bytes = text.as_bytes();
    let mut plain = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        at += 1;
        let escaped = || {
            let digit = |at: usize| char::from(*bytes.get(at)?).to_digit(16);
            u8::try_from(digit(at)? * 16 + digit(at + 1)?).ok()
        };
        match (byte, escaped()) {
            (b'%', Some(byte)) => {
                plain.push(byte);
                at += 2;
            }
            (b'+', _) => plain.push(b' '),
            _ => plain.push(*byte),
        }
    }
    match String::from_utf8(plain) {
        Ok(plain) => Cow::Owned(plain),
        Err(_) => Cow::Borrowed(text),
    }
}

/// The host that a request is for, with its port if it names one.
pub(super) fn authority(parts: &Parts) -> Option<&str> {
    match parts.uri.authority() {
        Some(authority) => Some(authority.as_str()),
        None => parts
            .headers
            .get(HOST)
            .map(HeaderValue::to_str)
            .and_then(Result::ok),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts(uri: &str, headers: &[(&str, &str)]) -> Parts {
        let mut request = http::Request::builder().uri(uri);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request.body(()).unwrap().into_parts().0
    }

    #[test]
    fn repeated_headers_are_one_list() {
        let parts = parts(
            "/",
            &[
                ("x", "a"),
                ("x", "b, c"),
                ("cookie", "a=1"),
                ("cookie", "b=2"),
                ("y", ""),
            ],
        );
        let asked = Asked::new(&parts);
        let value = |name: &str| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            asked
                .header(&name)
                .map(|value| String::from_utf8(value.into_owned()).unwrap())
        };
        assert_eq!(value("x").as_deref(), Some("a,b, c"));
        assert_eq!(value("cookie").as_deref(), Some("a=1; b=2"));
        assert_eq!(value("y").as_deref(), Some(""));
        assert_eq!(value("z"), None);
        assert_eq!(asked.each_header().count(), 3);
    }

    #[test]
    fn the_host_may_stand_in_the_target() {
        let in_target = parts("http://shop.example:8080/", &[]);
        let asked = Asked::new(&in_target);
        assert_eq!(asked.header(&HOST).as_deref(), Some(&b"shop.example:8080"[..]));
        assert_eq!(asked.each_header().count(), 1);
        assert_eq!(authority(&in_target), Some("shop.example:8080"));
        let in_header = parts("/", &[("host", "web")]);
        assert_eq!(Asked::new(&in_header).header(&HOST).as_deref(), Some(&b"web"[..]));
        assert_eq!(authority(&in_header), Some("web"));
        assert_eq!(authority(&parts("/", &[])), None);
    }

    #[test]
    fn the_first_value_of_a_parameter_counts_and_is_decoded() {
        let parts = parts("/?a=1&a=2&b&&c=x%20y+z&%64=%C3%A9&e=%zz%4&f=%ff", &[]);
        let asked = Asked::new(&parts);
        for (name, value) in [
            ("a", Some("1")),
            ("b", Some("")),
            ("c", Some("x y z")),
            ("d", Some("é")),
            ("e", Some("%zz%4")),
            ("f", Some("%ff")),
            ("g", None),
        ] {
            assert_eq!(asked.parameter(name), value, "{name}");
        }
    }
}
