//! The headers that belong to one connection (RFC 9110 7.6.1) and are not forwarded.
//!
//! Invariant: a peer cannot use `Connection` to remove what frames, routes or authorizes a message.

use http::header::{self, HeaderMap, HeaderName, HeaderValue};

use super::Switch;
use super::facts::tokens;

/// Removes what concerns the connection it came over: what `Connection` lists, and the known ones. `TE: trailers` stays, since
/// trailers are forwarded. With a [`Switch::Upgrade`], `Upgrade` stays, and the writer says `Connection: Upgrade`.
///
/// To be called before anything is added: a header of ours could be listed by the peer.
pub fn strip(headers: &mut HeaderMap, switch: &Switch) {
    if headers.contains_key(header::CONNECTION) {
        let lists: Vec<HeaderValue> = headers.get_all(header::CONNECTION).iter().cloned().collect();
        headers.remove(header::CONNECTION);
        for listed in lists.iter().flat_map(|list| tokens(list.as_bytes())) {
            if let Ok(name) = HeaderName::from_bytes(listed)
                && !is_protected(&name)
            {
                headers.remove(name);
            }
        }
    }
    headers.remove(header::TRANSFER_ENCODING);
    headers.remove(&KEEP_ALIVE);
    headers.remove(&PROXY_CONNECTION);
    if headers.contains_key(header::TE) {
        let takes_trailers = headers
            .get_all(header::TE)
            .iter()
            .flat_map(|list| tokens(list.as_bytes()))
            .any(|token| token.eq_ignore_ascii_case(b"trailers"));
        match takes_trailers {
            true => drop(headers.insert(header::TE, HeaderValue::from_static("trailers"))),
            false => drop(headers.remove(header::TE)),
        }
    }
    if !matches!(switch, Switch::Upgrade(_)) {
        headers.remove(header::UPGRADE);
    }
}

static KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
static PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// End-to-end headers that no `Connection` removes, and those with rules of their own above.
fn is_protected(name: &HeaderName) -> bool {
    matches!(
        name.as_str(),
        "authorization"
            | "content-encoding"
            | "content-length"
            | "content-range"
            | "content-type"
            | "cookie"
            | "forwarded"
            | "host"
            | "set-cookie"
            | "te"
            | "upgrade"
            | "www-authenticate"
    ) || name.as_str().starts_with("x-forwarded-")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stripped(lines: &[(&'static str, &'static str)], switch: &Switch) -> Vec<(String, String)> {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(*name, HeaderValue::from_static(value));
        }
        strip(&mut headers, switch);
        headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect()
    }

    fn owned(lines: &[(&str, &str)]) -> Vec<(String, String)> {
        lines
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect()
    }

    #[test]
    fn what_belongs_to_the_connection_goes() {
        let left = stripped(
            &[
                ("host", "a"),
                ("connection", "close, X-One ,, bad name"),
                ("connection", "x-two"),
                ("x-one", "1"),
                ("x-two", "2"),
                ("x-three", "3"),
                ("keep-alive", "timeout=5"),
                ("proxy-connection", "keep-alive"),
                ("transfer-encoding", "chunked"),
                ("upgrade", "websocket"),
                ("trailer", "x-sum"),
            ],
            &Switch::Stay,
        );
        assert_eq!(
            left,
            owned(&[("host", "a"), ("trailer", "x-sum"), ("x-three", "3")]).sorted(&left)
        );
    }

    #[test]
    fn what_is_end_to_end_cannot_be_listed_away() {
        let lines = [
            ("host", "a"),
            ("content-length", "5"),
            ("authorization", "b"),
            ("x-forwarded-for", "10.0.0.1"),
        ];
        let mut all = lines.to_vec();
        all.push((
            "connection",
            "host, content-length, authorization, x-forwarded-for",
        ));
        let left = stripped(&all, &Switch::Stay);
        assert_eq!(left, owned(&lines).sorted(&left));
    }

    #[test]
    fn an_upgrade_stays_when_it_is_wanted() {
        let wish = Switch::Upgrade(HeaderValue::from_static("websocket"));
        let lines = [("connection", "upgrade"), ("upgrade", "websocket")];
        assert_eq!(stripped(&lines, &wish), owned(&[("upgrade", "websocket")]));
        assert_eq!(stripped(&lines, &Switch::Stay), []);
        assert_eq!(stripped(&lines, &Switch::Tunnel), []);
    }

    #[test]
    fn only_trailers_stays_of_te() {
        let te = |value| stripped(&[("connection", "TE"), ("te", value)], &Switch::Stay);
        assert_eq!(te("gzip, Trailers"), owned(&[("te", "trailers")]));
        assert_eq!(te("gzip"), []);
    }

    /// The map's order is its own business.
    trait Sorted {
        fn sorted(self, like: &Self) -> Self;
    }

    impl Sorted for Vec<(String, String)> {
        fn sorted(mut self, like: &Self) -> Self {
            self.sort_by_key(|line| like.iter().position(|other| other == line));
            self
        }
    }
}
