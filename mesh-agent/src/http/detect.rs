//! What a connection speaks, judged by its first bytes.
//!
//! The caller shows everything received so far, and asks again with more while the answer is [`Protocol::Undecided`]. Clients of protocols in
//! which the server speaks first send nothing, and remain undecided: only the caller's clock ends that.
//!
//! A usual method and the beginning of a target are enough for HTTP/1. What other text protocols could begin with as well (an unusual
//! method, `CONNECT`, `OPTIONS *`) is HTTP/1 when its line ends with the version.
//!
//! Invariant: the answer is pure and monotonic: once decided, it does not change when bytes follow.

/// What the first bytes of a connection say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// More bytes are needed. At most [`ENOUGH`] bytes are ever needed.
    Undecided,
    /// An HTTP/1 request line begins here.
    Http1,
    /// The preface of HTTP/2 with prior knowledge (RFC 9113 3.4).
    Http2,
    /// A TLS record with a ClientHello.
    Tls,
    /// Anything else: carried as it is.
    Opaque,
}

/// With so many bytes the answer is never [`Protocol::Undecided`].
pub const ENOUGH: usize = 128;

/// Judges the bytes received so far.
#[must_use]
pub fn detect(seen: &[u8]) -> Protocol {
    let seen = &seen[..seen.len().min(ENOUGH)];
    match seen {
        [] | b"\r" => Protocol::Undecided,
        [HANDSHAKE, ..] => tls(seen),
        // An empty line is overlooked before a request (RFC 9112 2.2).
        [b'\r', b'\n', text @ ..] => http1(text, seen.len()),
        _ => match compare(seen, PREFACE) {
            Compared::Same => Protocol::Http2,
            Compared::SoFar => Protocol::Undecided,
            Compared::Differs => http1(seen, seen.len()),
        },
    }
}

/// Whether lenient servers could take for a request of HTTP/1 what [`detect`] calls [`Protocol::Opaque`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Resemblance {
    /// More bytes are needed. At most [`LINE`] bytes are ever needed.
    Undecided,
    /// Nobody would.
    None,
    /// Some could: a request line in lower case, behind blanks or empty lines, with a method that nobody knows; or behind
    /// the header of the PROXY protocol.
    Http1,
}

/// With so many bytes the answer of [`resemblance`] is never [`Resemblance::Undecided`].
pub const LINE: usize = 16 * 1024;

/// Judges the bytes received so far, where something depends on it that no request passes for something else. A first line that
/// begins with two words is looked at to its end.
#[must_use]
pub fn resemblance(seen: &[u8]) -> Resemblance {
    let unless_full = match seen.len() < LINE {
        true => Resemblance::Undecided,
        false => Resemblance::Http1,
    };
    let is_blank = |byte: &u8| matches!(byte, b'\r' | b'\n' | b' ' | b'\t');
    let blanks = seen.iter().take_while(|byte| is_blank(byte)).count();
    let text = &seen[blanks..];
    if text.is_empty() {
        return unless_full;
    }
    if PROXY.starts_with(seen) || seen.starts_with(PROXY) {
        return match seen.len() < PROXY.len() {
            true => Resemblance::Undecided,
            false => Resemblance::Http1,
        };
    }
    let word = text.iter().take_while(|byte| is_token(**byte)).count();
    match text.get(word) {
        _ if word == 0 => Resemblance::None,
        None => unless_full,
        Some(b' ' | b'\t' | 0x0b | 0x0c) if &text[..word] == b"PROXY" => Resemblance::Http1,
        Some(b' ' | b'\t' | 0x0b | 0x0c) => {
            let end = text.iter().position(|byte| *byte == b'\n');
            let line = &text[..end.unwrap_or(text.len())];
            match line.windows(5).any(|piece| piece.eq_ignore_ascii_case(b"http/")) {
                true => Resemblance::Http1,
                false if end.is_some() => Resemblance::None,
                false => unless_full,
            }
        }
        Some(_) => Resemblance::None,
    }
}

/// A character of a token (RFC 9110, 5.6.2).
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// How the binary header of the PROXY protocol begins.
const PROXY: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// The type of a TLS record that carries a handshake, and of the message that begins it (RFC 8446 5.1 and 4).
const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// The longest record a TLS peer accepts.
const LONGEST_RECORD: u16 = (1 << 14) + 256;

/// The methods of RFC 9110 and PATCH, but CONNECT.
const USUAL: [&[u8]; 8] = [
    b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE",
];
/// The registered methods are shorter.
const LONGEST_METHOD: usize = 24;

fn tls(seen: &[u8]) -> Protocol {
    let fits = |at: usize, good: fn(u8) -> bool| seen.get(at).is_none_or(|byte| good(*byte));
    let length = match seen {
        [_, _, _, high, low, ..] => u16::from_be_bytes([*high, *low]),
        _ => 1,
    };
    if !fits(1, |major| major == 3)
        || !fits(2, |minor| minor <= 4)
        || !(1..=LONGEST_RECORD).contains(&length)
        || !fits(5, |kind| kind == CLIENT_HELLO)
    {
        Protocol::Opaque
    } else if seen.len() > 5 {
        Protocol::Tls
    } else {
        Protocol::Undecided
    }
}

/// Judges `text`, the end of all `seen` bytes.
fn http1(text: &[u8], seen: usize) -> Protocol {
    // Methods are upper case in practice; that tells them from the commands of memcached and others.
    let length = text
        .iter()
        .take_while(|byte| byte.is_ascii_uppercase() || matches!(byte, b'-' | b'_'))
        .count();
    if length > LONGEST_METHOD {
        return Protocol::Opaque;
    }
    let (method, target) = match text.split_at(length) {
        (_, []) => return Protocol::Undecided,
        ([b'A'..=b'Z', ..], [b' ', target @ ..]) => (&text[..length], target),
        _ => return Protocol::Opaque,
    };
    let is_usual = USUAL.contains(&method);
    let verdict = match target {
        [] => return Protocol::Undecided,
        [b'/', ..] => Compared::Same,
        [b'*', ..] if method == b"OPTIONS" => return by_line(target, seen),
        [first, ..] if method == b"CONNECT" && (first.is_ascii_alphanumeric() || *first == b'[') => {
            return by_line(target, seen);
        }
        _ => absolute(target),
    };
    match verdict {
        Compared::Same if is_usual => Protocol::Http1,
        Compared::Same => by_line(target, seen),
        Compared::SoFar => Protocol::Undecided,
        Compared::Differs => Protocol::Opaque,
    }
}

/// Judges by what follows the target: the version and the end of the line. A target that fills all bytes there may be counts as one.
fn by_line(target: &[u8], seen: usize) -> Protocol {
    let end = target
        .iter()
        .position(|byte| !byte.is_ascii_graphic())
        .unwrap_or(target.len());
    match &target[end..] {
        [] if seen < ENOUGH => Protocol::Undecided,
        [] => Protocol::Http1,
        rest => match compare(rest, b" HTTP/1.") {
            Compared::Same => Protocol::Http1,
            Compared::SoFar if seen < ENOUGH => Protocol::Undecided,
            Compared::SoFar => Protocol::Http1,
            Compared::Differs => Protocol::Opaque,
        },
    }
}

/// `http://` or `https://`.
fn absolute(target: &[u8]) -> Compared {
    let lower: Vec<u8> = target.iter().take(8).map(u8::to_ascii_lowercase).collect();
    match (compare(&lower, b"http://"), compare(&lower, b"https://")) {
        (Compared::Same, _) | (_, Compared::Same) => Compared::Same,
        (Compared::SoFar, _) | (_, Compared::SoFar) => Compared::SoFar,
        _ => Compared::Differs,
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Compared {
    /// All of the expected bytes are there.
    Same,
    /// Those that are there are the expected ones.
    SoFar,
    Differs,
}

fn compare(seen: &[u8], expected: &[u8]) -> Compared {
    if seen.starts_with(expected) {
        Compared::Same
    } else if expected.starts_with(seen) {
        Compared::SoFar
    } else {
        Compared::Differs
    }
}

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use proptest::prelude::*;
    use regex::bytes::Regex;

    use super::*;

    /// The first answer when the bytes come one by one, and how many it took.
    fn one_by_one(bytes: &[u8]) -> (Protocol, usize) {
        (0..=bytes.len())
            .map(|length| (detect(&bytes[..length]), length))
            .find(|(answer, _)| *answer != Protocol::Undecided)
            .unwrap_or((Protocol::Undecided, bytes.len()))
    }

    #[test]
    fn a_request_is_known_as_early_as_can_be() {
        for (bytes, needed) in [
            (&b"GET / HTTP/1.1\r\n"[..], 5),
            (b"POST /x HTTP/1.0\r\n", 6),
            (b"OPTIONS / HTTP/1.1\r\n", 9),
            (b"OPTIONS * HTTP/1.1\r\n", 17),
            (b"GET http://a/ HTTP/1.1\r\n", 11),
            (b"GET HTTPS://a/ HTTP/1.1\r\n", 12),
            (b"CONNECT a:443 HTTP/1.1\r\n", 21),
            (b"CONNECT [::1]:443 HTTP/1.1\r\n", 25),
            (b"PROPFIND /x HTTP/1.1\r\n", 19),
            (b"M-SEARCH /x HTTP/1.1\r\n", 19),
            (b"\r\nGET / HTTP/1.1\r\n", 7),
        ] {
            assert_eq!(
                one_by_one(bytes),
                (Protocol::Http1, needed),
                "{}",
                bytes.escape_ascii()
            );
        }
        let long = format!("PROPFIND /{}", "x".repeat(ENOUGH));
        assert_eq!(one_by_one(long.as_bytes()), (Protocol::Http1, ENOUGH));
    }

    #[test]
    fn http2_and_tls_are_known_by_their_first_message() {
        assert_eq!(
            one_by_one(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\x12"),
            (Protocol::Http2, 24)
        );
        for minor in [0, 1, 3] {
            let hello = [22, 3, minor, 2, 0, 1, 0, 1, 0xfc, 3, 3];
            assert_eq!(one_by_one(&hello), (Protocol::Tls, 6));
        }
    }

    #[test]
    fn other_protocols_are_carried_as_they_are() {
        for (name, bytes, needed) in [
            ("SSH", &b"SSH-2.0-OpenSSH_9.6\r\n"[..], 5),
            ("MySQL login", b"\x20\0\0\x01\x85\xa6\x03\0\0\0\0\x01", 1),
            ("Postgres start", b"\0\0\0\x29\0\x03\0\0user\0me\0", 1),
            ("Postgres SSL", b"\0\0\0\x08\x04\xd2\x16\x2f", 1),
            ("Redis", b"*1\r\n$4\r\nPING\r\n", 1),
            ("Redis by hand", b"PING\r\n", 5),
            ("MQTT", b"\x10\x0c\0\x04MQTT\x04\x02\0\x3c\0\0", 1),
            ("AMQP", b"AMQP\0\0\x09\x01", 5),
            ("SMTP", b"EHLO mail.example.com\r\n", 6),
            ("SMTP without name", b"EHLO\r\n", 5),
            ("IMAP", b"a1 LOGIN me secret\r\n", 1),
            ("FTP", b"USER me\r\n", 6),
            ("FTP path", b"CWD /pub HTTP\r\n", 14),
            ("memcached", b"get foo\r\n", 1),
            ("memcached path", b"get /foo\r\n", 1),
            ("FIX", b"8=FIX.4.4\x019=63\x01", 1),
            ("Mongo", b"\x3a\0\0\0\x01\0\0\0\0\0\0\0\xd4\x07\0\0", 1),
            ("Kafka", b"\0\0\0\x23\0\x12\0\x03", 1),
            ("Cassandra", b"\x04\0\0\0\x05\0\0\0\0", 1),
            ("LDAP", b"0\x0c\x02\x01\x01`\x07\x02\x01\x03", 1),
            ("NATS", b"CONNECT {\"verbose\":false}\r\n", 9),
            ("STOMP", b"CONNECT\naccept-version:1.2\n", 8),
            ("SIP", b"OPTIONS sip:a@b SIP/2.0\r\n", 9),
            ("RTSP", b"OPTIONS * RTSP/1.0\r\n", 11),
            ("RTSP address", b"DESCRIBE rtsp://a/b RTSP/1.0\r\n", 10),
            ("PROXY", b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", 7),
            ("TLS alert", b"\x15\x03\x03\0\x02\x02\x28", 1),
            ("TLS answer", b"\x16\x03\x03\0\x7a\x02", 6),
            ("TLS of no length", b"\x16\x03\x01\0\0\x01", 5),
            ("nearly HTTP/2", b"PRI * HTTP/2.1\r\n", 14),
            ("a response", b"HTTP/1.1 200 OK\r\n", 5),
            ("lines", b"\r\n\r\n", 3),
            ("a line", b"\nGET / HTTP/1.1\r\n", 1),
            ("lower case", b"get / HTTP/1.1\r\n", 1),
            ("a long word", b"ABCDEFGHIJKLMNOPQRSTUVWXYZ /", 25),
        ] {
            assert_eq!(one_by_one(bytes), (Protocol::Opaque, needed), "{name}");
        }
    }

    #[test]
    fn what_lenient_servers_take_for_requests_resembles_one() {
        for (bytes, expected) in [
            (&b""[..], Resemblance::Undecided),
            (b"\r\n \n", Resemblance::Undecided),
            (b"get", Resemblance::Undecided),
            (b"get /admin", Resemblance::Undecided),
            (b"get /admin HTTP/1.1", Resemblance::Http1),
            (b"\nGET / HTTP/1.1\r\n", Resemblance::Http1),
            (b"\r\n\r\nGET / HTTP/1.1\r\n", Resemblance::Http1),
            (b" GET / HTTP/1.1\r\n", Resemblance::Http1),
            (b"G!T\t/ http/1.1\n", Resemblance::Http1),
            (b"ABCDEFGHIJKLMNOPQRSTUVWXYZ / HTTP/1.1\r\n", Resemblance::Http1),
            (b"GET \0/ HTTP/1.1\r\n", Resemblance::Http1),
            (b"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\n", Resemblance::Http1),
            (b"\r\n\r\n\0\r\nQUIT\n\x21", Resemblance::Http1),
            (b"\r\n\r\n\0\r", Resemblance::Undecided),
            (b"get foo\r\n", Resemblance::None),
            (b"EHLO mail.example.com\r\n", Resemblance::None),
            (b"PING\r\n", Resemblance::None),
            (b"*1\r\n$4\r\nPING\r\n", Resemblance::None),
            (b"SSH-2.0-OpenSSH_9.6\r\n", Resemblance::None),
            (b"\x10\x0c\0\x04MQTT", Resemblance::None),
            (b"\x16\x03\x01\x02\0\x01", Resemblance::None),
            (b"\r\n\r\n\0\rx", Resemblance::None),
        ] {
            assert_eq!(resemblance(bytes), expected, "{}", bytes.escape_ascii());
        }
        for byte in 0..=u8::MAX {
            let mut long = b"a ".to_vec();
            long.resize(LINE, byte);
            assert_ne!(resemblance(&long), Resemblance::Undecided, "{byte}");
            assert_ne!(resemblance(&[byte; LINE]), Resemblance::Undecided, "{byte}");
        }
    }

    #[test]
    fn nothing_is_undecided_for_ever() {
        for bytes in [
            &b""[..],
            b"\r",
            b"\r\n",
            b"GET",
            b"GET ",
            b"GET htt",
            b"PRI * ",
            b"\x16\x03",
            b"CONNECT a",
        ] {
            assert_eq!(detect(bytes), Protocol::Undecided, "{}", bytes.escape_ascii());
        }
        for byte in 0..=u8::MAX {
            assert_ne!(detect(&[byte; ENOUGH]), Protocol::Undecided);
        }
    }

    static EARLY: LazyLock<Regex> = LazyLock::new(|| {
        let absolute = "(/|(?i:https?://))";
        let usual = format!("(GET|POST|PUT|HEAD|DELETE|OPTIONS|PATCH|TRACE) {absolute}");
        let whole_line =
            format!(r"([A-Z][A-Z_-]{{0,23}} {absolute}|OPTIONS \*|CONNECT [\[a-zA-Z0-9])[!-~]* HTTP/1\.");
        Regex::new(&format!("(?-u)^(\r\n)?({usual}|{whole_line})")).unwrap()
    });

    /// A line so long that its end is beyond what is looked at.
    static FULL: LazyLock<Regex> = LazyLock::new(|| {
        Regex::new(r"(?-u)^(\r\n)?(OPTIONS \*|CONNECT [\[a-zA-Z0-9]|[A-Z][A-Z_-]{0,23} (/|(?i:https?://)))[!-~]*( H?T?T?P?/?1?)?$")
            .unwrap()
    });

    proptest! {
        #[test]
        fn an_answer_does_not_change_and_agrees_with_a_pattern(
            bytes in prop_oneof![
                prop::collection::vec(any::<u8>(), 0..40),
                "(\r\n)?(GET|PRI|OPTIONS|CONNECT|PATCH|X-ANY|[A-Z]{1,30})? ?(/|\\*|http|https://|a:1)?[a-z]{0,120}( HTTP/[12].)?\r?\n?"
                    .prop_map(String::into_bytes),
            ],
        ) {
            let (first, _) = one_by_one(&bytes);
            prop_assert_eq!(first, detect(&bytes));
            let window = &bytes[..bytes.len().min(ENOUGH)];
            let expected = EARLY.is_match(window) || (bytes.len() >= ENOUGH && FULL.is_match(window));
            prop_assert_eq!(first == Protocol::Http1, expected);
        }
    }
}
