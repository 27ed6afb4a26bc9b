//! Request heads: what each rule refuses, and what passes.

use super::*;

/// A request with these header lines behind a good `Host`.
fn with(lines: &str) -> Vec<u8> {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n").into_bytes()
}

fn text(bytes: &[u8]) -> String {
    let whole = read_requests(Pieces::whole(bytes), Limits::default());
    assert_eq!(whole, read_requests(Pieces::one_by_one(bytes), Limits::default()));
    whole
}

#[test]
fn a_request_is_read_with_all_it_says() {
    assert_eq!(
        text(b"GET /a?b=c HTTP/1.1\r\nHost: example.com:80\r\nX-One:  1 \r\nx-one: 2\r\nEmpty:\r\n\r\n"),
        "GET /a?b=c HTTP/1.1 Origin\n  host: example.com:80\n  x-one: 1\n  x-one: 2\n  empty: \n\
         = None Keep Nothing stay\nend\n"
    );
}

#[test]
fn requests_may_follow_each_other_without_waiting() {
    assert_eq!(
        text(
            b"POST /1 HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc\
              POST /2 HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nde\r\n0\r\n\r\n\
              \r\nGET /3 HTTP/1.0\r\n\r\n"
        ),
        "POST /1 HTTP/1.1 Origin\n  host: a\n  content-length: 3\n= Length(3) Keep Nothing stay\n< abc\n\
         POST /2 HTTP/1.1 Origin\n  host: a\n  transfer-encoding: chunked\n= Chunked Keep Nothing stay\n< de\n\
         GET /3 HTTP/1.0 Origin\n= None Close Nothing stay\nend\n"
    );
}

#[test]
fn an_end_between_requests_is_orderly_and_within_one_is_not() {
    assert_eq!(request_word(b""), "end");
    assert_eq!(request_word(b"\r\n"), "end");
    assert_eq!(request_word(b"G"), "closed_in_head");
    assert_eq!(request_word(b"\r"), "closed_in_head");
    assert_eq!(request_word(b"GET / HTTP/1.1\r\nHost: a\r\n"), "closed_in_head");
}

#[test]
fn what_frames_a_body_says_so_once_and_clearly() {
    for (lines, word) in [
        ("Content-Length: 5\r\n", "ok"),
        ("Content-Length: 0\r\n", "ok"),
        ("Content-Length: 18446744073709551615\r\n", "ok"),
        ("Content-Length: 18446744073709551616\r\n", "bad_length"),
        ("Content-Length: 99999999999999999999999\r\n", "bad_length"),
        ("Content-Length: +5\r\n", "bad_length"),
        ("Content-Length: -5\r\n", "bad_length"),
        ("Content-Length: 5 5\r\n", "bad_length"),
        ("Content-Length: 0x5\r\n", "bad_length"),
        ("Content-Length: 5.0\r\n", "bad_length"),
        ("Content-Length:\r\n", "bad_length"),
        ("Content-Length: \u{0665}\r\n", "bad_length"),
        ("Content-Length: 5, 5\r\n", "many_lengths"),
        ("Content-Length: 5,\r\n", "many_lengths"),
        ("Content-Length: 5\r\nContent-Length: 5\r\n", "many_lengths"),
        ("Content-Length: 5\r\ncontent-length: 6\r\n", "many_lengths"),
        ("Transfer-Encoding: chunked\r\n", "ok"),
        ("transfer-encoding: CHUNKED\r\n", "ok"),
        ("Transfer-Encoding:\tchunked \r\n", "ok"),
        (
            "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n",
            "length_and_chunked",
        ),
        (
            "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n",
            "length_and_chunked",
        ),
        (
            "Transfer-Encoding: xchunked\r\nContent-Length: 5\r\n",
            "length_and_chunked",
        ),
        (
            "Content-Length: x\r\nTransfer-Encoding: chunked\r\n",
            "length_and_chunked",
        ),
        ("Transfer-Encoding: xchunked\r\n", "bad_transfer_encoding"),
        ("Transfer-Encoding: chunked, chunked\r\n", "bad_transfer_encoding"),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
            "bad_transfer_encoding",
        ),
        (
            "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
            "bad_transfer_encoding",
        ),
        ("Transfer-Encoding: identity\r\n", "bad_transfer_encoding"),
        ("Transfer-Encoding: chunked;q=1\r\n", "bad_transfer_encoding"),
        ("Transfer-Encoding: \"chunked\"\r\n", "bad_transfer_encoding"),
        ("Transfer-Encoding: ,chunked\r\n", "bad_transfer_encoding"),
        ("Transfer-Encoding: chunked,\r\n", "bad_transfer_encoding"),
        ("Transfer-Encoding:\r\n", "bad_transfer_encoding"),
        ("Transfer-Encoding: gzip\r\n", "bad_transfer_encoding"),
        ("Transfer-Encoding: \u{a0}chunked\r\n", "bad_transfer_encoding"),
        ("Transfer-Encoding: \x0bchunked\r\n", "control_character"),
        (
            "Transfer-Encoding: gzip, chunked\r\n",
            "unknown_transfer_encoding",
        ),
        (" Transfer-Encoding: chunked\r\n", "folded_header"),
        ("Transfer-Encoding : chunked\r\n", "space_before_colon"),
        ("Transfer-Encoding\t: chunked\r\n", "space_before_colon"),
    ] {
        assert_eq!(request_word(&with(lines)), word, "{lines:?}");
    }
    assert_eq!(
        request_word(b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n"),
        "chunked_in_http10"
    );
}

#[test]
fn lines_end_with_crlf_and_hold_no_control_characters() {
    for (bytes, word) in [
        (&b"GET / HTTP/1.1\nHost: a\r\n\r\n"[..], "bare_lf"),
        (b"GET / HTTP/1.1\r\nHost: a\n\r\n", "bare_lf"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\n", "bare_lf"),
        (b"GET / HTTP/1.1\r\nHost: a\n\n", "bare_lf"),
        (b"\nGET / HTTP/1.1\r\nHost: a\r\n\r\n", "bare_lf"),
        (b"GET / HTTP/1.1\rHost: a\r\n\r\n", "bare_cr"),
        (b"GET / HTTP/1.1\r\nHost: a\rb: c\r\n\r\n", "bare_cr"),
        (b"GET / HTTP/1.1\r\nHost: a\r\r\n\r\n", "bare_cr"),
        (b"GET / HTTP/1.1\r\nHost: a\r\n\r\r\n\r\n", "bare_cr"),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\0b\r\n\r\n",
            "control_character",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x7fb\r\n\r\n",
            "control_character",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nX: a\x0bb\r\n\r\n",
            "control_character",
        ),
        (
            b"GET / HTTP/1.1\r\nHost: a\r\nX\0: a\r\n\r\n",
            "control_character",
        ),
        (b"GET /\0 HTTP/1.1\r\nHost: a\r\n\r\n", "control_character"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: a\tb\r\n\r\n", "ok"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nX: \xffb\r\n\r\n", "ok"),
    ] {
        assert_eq!(request_word(bytes), word, "{}", bytes.escape_ascii());
    }
}

#[test]
fn headers_are_a_token_a_colon_and_a_value() {
    for (lines, word) in [
        ("X: a\r\n b\r\n", "folded_header"),
        ("X: a\r\n\tb\r\n", "folded_header"),
        ("X : a\r\n", "space_before_colon"),
        (": a\r\n", "bad_header_name"),
        ("X Y: a\r\n", "bad_header_name"),
        ("X(Y): a\r\n", "bad_header_name"),
        ("X\u{e9}: a\r\n", "bad_header_name"),
        ("X\r\n", "bad_header"),
        ("X: :a:\r\n", "ok"),
        ("!#$%&'*+-.^_`|~09aZ: a\r\n", "ok"),
    ] {
        assert_eq!(request_word(&with(lines)), word, "{lines:?}");
    }
    assert_eq!(
        request_word(b"GET / HTTP/1.1\r\n Host: a\r\n\r\n"),
        "leading_space"
    );
}

#[test]
fn the_request_line_is_three_words() {
    for (line, word) in [
        ("GET / HTTP/1.1", "ok"),
        ("get / HTTP/1.1", "ok"),
        ("M-SEARCH / HTTP/1.1", "ok"),
        ("GET  / HTTP/1.1", "bad_request_line"),
        ("GET /  HTTP/1.1", "bad_version"),
        ("GET / HTTP/1.1 ", "bad_request_line"),
        ("GET /a b HTTP/1.1", "bad_version"),
        ("GET\t/ HTTP/1.1", "bad_request_line"),
        ("GET /", "bad_request_line"),
        ("GET / HTTP/1.2", "bad_version"),
        ("GET / HTTP/2.0", "bad_version"),
        ("GET / HTTP/0.9", "bad_version"),
        ("GET / http/1.1", "bad_version"),
        ("GET / HTTP/1", "bad_version"),
        ("G(T / HTTP/1.1", "bad_request_line"),
        (" GET / HTTP/1.1", "leading_space"),
        ("\tGET / HTTP/1.1", "leading_space"),
    ] {
        assert_eq!(
            request_word(format!("{line}\r\nHost: a\r\n\r\n").as_bytes()),
            word,
            "{line:?}"
        );
    }
}

#[test]
fn one_empty_line_before_a_request_is_overlooked() {
    assert_eq!(request_word(b"\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"), "ok");
    assert_eq!(
        request_word(b"\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        "leading_space"
    );
    assert_eq!(
        request_word(b"\r\n GET / HTTP/1.1\r\nHost: a\r\n\r\n"),
        "leading_space"
    );
}

#[test]
fn a_target_has_the_form_its_method_allows() {
    for (line, outcome) in [
        ("GET /a//b?c=d&e", "/a//b?c=d&e Origin"),
        ("GET //evil/x", "//evil/x Origin"),
        ("GET /%zz?%", "/%zz?% Origin"),
        ("GET /caf\u{e9}", "/caf\u{e9} Origin"),
        ("GET http://b:8080/x?y", "http://b:8080/x?y Absolute"),
        ("GET https://b", "https://b/ Absolute"),
        ("OPTIONS *", "* Asterisk"),
        ("OPTIONS /", "/ Origin"),
        ("CONNECT b:443", "b:443 Authority"),
        ("CONNECT [::1]:443", "[::1]:443 Authority"),
        ("GET *", "bad_target"),
        ("GET a", "bad_target"),
        ("GET b:443", "bad_target"),
        ("GET ftp://b/", "bad_target"),
        ("GET http://", "bad_target"),
        ("GET http://u@b/", "bad_target"),
        ("GET http://b:99999/", "bad_target"),
        ("GET /a#b", "bad_target"),
        ("GET http://b/#c", "bad_target"),
        ("GET /<a>", "bad_target"),
        ("CONNECT /", "bad_target"),
        ("CONNECT b", "bad_target"),
        ("CONNECT b:", "bad_target"),
        ("CONNECT u@b:1", "bad_target"),
        ("CONNECT http://b:1", "bad_target"),
        ("CONNECT b:1/x", "bad_target"),
    ] {
        let bytes = format!("{line} HTTP/1.1\r\nHost: b\r\n\r\n");
        let mut reader = Reader::new(Pieces::whole(bytes.as_bytes()), Limits::default());
        let seen = match poll_until(|cx| reader.poll_request(cx)) {
            Ok(Some(head)) => format!("{} {:?}", head.parts.uri, head.target),
            Ok(None) => "end".to_owned(),
            Err(error) => error.word().to_owned(),
        };
        assert_eq!(seen, outcome, "{line:?}");
    }
    assert_eq!(
        request_word(b"GET /\xff HTTP/1.1\r\nHost: a\r\n\r\n"),
        "bad_request_line"
    );
}

#[test]
fn there_is_one_good_host() {
    for (version, lines, word) in [
        ("1.1", "", "no_host"),
        ("1.0", "", "ok"),
        ("1.1", "Host: a\r\nHost: a\r\n", "many_hosts"),
        ("1.0", "Host: a\r\nHost: b\r\n", "many_hosts"),
        ("1.1", "Host:\r\n", "bad_host"),
        ("1.1", "Host: a b\r\n", "bad_host"),
        ("1.1", "Host: a, b\r\n", "bad_host"),
        ("1.1", "Host: u@a\r\n", "bad_host"),
        ("1.1", "Host: a/b\r\n", "bad_host"),
        ("1.1", "Host: http://a\r\n", "bad_host"),
        ("1.1", "Host: a:b\r\n", "bad_host"),
        ("1.1", "Host: a:80:80\r\n", "bad_host"),
        ("1.1", "Host: a:65536\r\n", "bad_host"),
        ("1.1", "Host: :80\r\n", "bad_host"),
        ("1.1", "Host: ::1\r\n", "bad_host"),
        ("1.1", "Host: [::1\r\n", "bad_host"),
        ("1.1", "Host: [::1]x\r\n", "bad_host"),
        ("1.1", "Host: a:65535\r\n", "ok"),
        ("1.1", "Host: a:\r\n", "ok"),
        ("1.1", "Host: a_b.c-d.svc.cluster.local.\r\n", "ok"),
        ("1.1", "Host: [2001:db8::1]:8080\r\n", "ok"),
        ("1.0", "Host: a/b\r\n", "bad_host"),
    ] {
        let bytes = format!("GET / HTTP/{version}\r\n{lines}\r\n");
        assert_eq!(request_word(bytes.as_bytes()), word, "{version} {lines:?}");
    }
}

#[test]
fn the_host_of_an_absolute_target_wins() {
    assert_eq!(
        text(b"GET http://real:81/x HTTP/1.1\r\nHost: other\r\n\r\n"),
        "GET http://real:81/x HTTP/1.1 Absolute\n  host: real:81\n= None Keep Nothing stay\nend\n"
    );
}

#[test]
fn a_connection_is_kept_as_both_sides_said() {
    for (version, lines, kept) in [
        ("1.1", "", KeepAlive::Keep),
        ("1.1", "Connection: close\r\n", KeepAlive::Close),
        ("1.1", "Connection: x, Close\r\n", KeepAlive::Close),
        (
            "1.1",
            "Connection: keep-alive\r\nConnection: close\r\n",
            KeepAlive::Close,
        ),
        ("1.1", "Connection: closed\r\n", KeepAlive::Keep),
        ("1.0", "", KeepAlive::Close),
        ("1.0", "Connection: Keep-Alive\r\n", KeepAlive::Keep),
        ("1.0", "Connection: keep-alive, close\r\n", KeepAlive::Close),
    ] {
        let bytes = format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
        let mut reader = Reader::new(Pieces::whole(bytes.as_bytes()), Limits::default());
        let head = poll_until(|cx| reader.poll_request(cx)).unwrap().unwrap();
        assert_eq!(head.keep_alive, kept, "{version} {lines:?}");
    }
}

#[test]
fn a_wish_to_switch_is_seen_and_http2_in_clear_text_is_none() {
    for (version, lines, wish) in [
        (
            "1.1",
            "Connection: Upgrade\r\nUpgrade: websocket\r\n",
            "upgrade websocket",
        ),
        (
            "1.1",
            "Connection: keep-alive, upgrade\r\nUpgrade: a/1, b\r\n",
            "upgrade a/1, b",
        ),
        ("1.1", "Upgrade: websocket\r\n", "stay"),
        ("1.1", "Connection: Upgrade\r\n", "stay"),
        (
            "1.1",
            "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: a\r\n",
            "stay",
        ),
        ("1.0", "Connection: Upgrade\r\nUpgrade: websocket\r\n", "stay"),
    ] {
        let bytes = format!("GET / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
        let mut reader = Reader::new(Pieces::whole(bytes.as_bytes()), Limits::default());
        let head = poll_until(|cx| reader.poll_request(cx)).unwrap().unwrap();
        assert_eq!(shown(&head.switch), wish, "{version} {lines:?}");
        assert_eq!(super::super::wish(&head.parts), head.switch, "of its parts");
    }
    assert_eq!(
        text(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n"),
        "CONNECT a:1 HTTP/1.1 Authority\n  host: a\n= None Keep Nothing tunnel\nend\n"
    );
    assert_eq!(
        request_word(b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\n"),
        "body_not_allowed"
    );
}

#[test]
fn who_waits_to_continue_has_something_to_send() {
    for (version, lines, expect) in [
        (
            "1.1",
            "Expect: 100-continue\r\nContent-Length: 1\r\n",
            Expect::Continue,
        ),
        (
            "1.1",
            "Expect: 100-Continue\r\nTransfer-Encoding: chunked\r\n",
            Expect::Continue,
        ),
        ("1.1", "Expect: 100-continue\r\n", Expect::Nothing),
        (
            "1.1",
            "Expect: 100-continue\r\nContent-Length: 0\r\n",
            Expect::Nothing,
        ),
        ("1.1", "Content-Length: 1\r\n", Expect::Nothing),
        (
            "1.0",
            "Expect: 100-continue\r\nContent-Length: 1\r\n",
            Expect::Nothing,
        ),
    ] {
        let bytes = format!("POST / HTTP/{version}\r\nHost: a\r\n{lines}\r\n");
        let mut reader = Reader::new(Pieces::whole(bytes.as_bytes()), Limits::default());
        let head = poll_until(|cx| reader.poll_request(cx)).unwrap().unwrap();
        assert_eq!(head.expect, expect, "{version} {lines:?}");
    }
}

#[test]
fn a_head_has_its_limits_to_the_byte() {
    let limits = Limits {
        head_bytes: 60,
        target_bytes: 10,
        headers: 3,
        body_bytes: 100,
        ..Limits::default()
    };
    let line = "GET / HTTP/1.1\r\nHost: a\r\n";
    let sized = |length: usize| format!("{line}X: {}\r\n\r\n", "x".repeat(length - line.len() - 7));
    assert_eq!(sized(60).len(), 60);
    for (bytes, word) in [
        (sized(60), "ok"),
        (sized(61), "head_too_large"),
        (sized(600), "head_too_large"),
        (
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(9)),
            "ok",
        ),
        (
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(10)),
            "target_too_long",
        ),
        (
            format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(900)),
            "target_too_long",
        ),
        (format!("{line}A: 1\r\nB: 2\r\n\r\n"), "ok"),
        (format!("{line}A: 1\r\nB: 2\r\nC: 3\r\n\r\n"), "too_many_headers"),
        (format!("{line}Content-Length: 100\r\n\r\n"), "ok"),
        (format!("{line}Content-Length: 101\r\n\r\n"), "body_too_large"),
    ] {
        assert_eq!(request_word_with(bytes.as_bytes(), limits), word, "{bytes:?}");
    }
}

#[test]
fn the_next_request_waits_for_the_body_of_the_last() {
    let bytes = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc";
    let mut reader = Reader::new(Pieces::whole(bytes), Limits::default());
    poll_until(|cx| reader.poll_request(cx)).unwrap().unwrap();
    assert!(!reader.is_body_done());
    let early = poll_until(|cx| reader.poll_request(cx));
    assert!(matches!(early, Err(ReadError::OutOfTurn)));
}

#[test]
fn each_refusal_has_a_status() {
    for (error, status) in [
        (ReadError::BareLf, Some(400)),
        (ReadError::Timeout, Some(408)),
        (ReadError::BodyTooLarge { limit: 1 }, Some(413)),
        (ReadError::TargetTooLong { limit: 1 }, Some(414)),
        (ReadError::HeadTooLarge { limit: 1 }, Some(431)),
        (ReadError::TooManyHeaders { limit: 1 }, Some(431)),
        (ReadError::UnknownTransferEncoding, Some(501)),
        (ReadError::BadVersion, Some(505)),
        (ReadError::ClosedInHead, None),
    ] {
        assert_eq!(error.status().map(|status| status.as_u16()), status, "{error}");
    }
}
