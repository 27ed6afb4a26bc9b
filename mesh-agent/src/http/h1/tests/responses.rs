//! Response heads, and where each body ends.

use super::*;

fn text(bytes: &[u8], asked: &[Asked]) -> String {
    let whole = read_responses(Pieces::whole(bytes), Limits::default(), asked);
    assert_eq!(
        whole,
        read_responses(Pieces::one_by_one(bytes), Limits::default(), asked)
    );
    whole
}

fn head() -> Asked {
    Asked::of(&Method::HEAD, &Switch::Stay)
}

fn connect() -> Asked {
    Asked::of(&Method::CONNECT, &Switch::Tunnel)
}

fn upgrade() -> Asked {
    Asked::of(
        &Method::GET,
        &Switch::Upgrade(HeaderValue::from_static("websocket")),
    )
}

#[test]
fn the_end_of_a_body_follows_from_status_request_and_headers() {
    for (bytes, asked, outcome) in [
        (
            &b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nab"[..],
            get(),
            "200 HTTP/1.1\n  content-length: 2\n= Length(2) Keep stay\n< ab\nclean\n",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX-Sum: 1\r\n\r\n",
            get(),
            "200 HTTP/1.1\n  transfer-encoding: chunked\n= Chunked Keep stay\n< ab\ntrailers\n  x-sum: 1\nclean\n",
        ),
        (
            b"HTTP/1.1 200 OK\r\n\r\nab",
            get(),
            "200 HTTP/1.1\n= UntilClose Close stay\n< ab\nclean\n",
        ),
        (
            b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
            get(),
            "200 HTTP/1.0\n  connection: keep-alive\n  content-length: 1\n= Length(1) Keep stay\n< a\nclean\n",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n",
            head(),
            "200 HTTP/1.1\n  content-length: 5\n= None Keep stay\nclean\n",
        ),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            head(),
            "200 HTTP/1.1\n  transfer-encoding: chunked\n= None Keep stay\nclean\n",
        ),
        (
            b"HTTP/1.1 304 Not Modified\r\nContent-Length: 5\r\n\r\n",
            get(),
            "304 HTTP/1.1\n  content-length: 5\n= None Keep stay\nclean\n",
        ),
        (
            b"HTTP/1.1 204 No Content\r\nContent-Length: 0\r\n\r\nHTTP",
            get(),
            "204 HTTP/1.1\n  content-length: 0\n= None Keep stay\nwith bytes left\n",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab",
            get(),
            "200 HTTP/1.1\n  content-length: 5\n= Length(5) Keep stay\n< ab\n! closed_in_body\n",
        ),
    ] {
        assert_eq!(text(bytes, &[asked]), outcome, "{}", bytes.escape_ascii());
    }
}

#[test]
fn interim_responses_are_given_out_and_the_final_one_follows() {
    assert_eq!(
        text(
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n\
              HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\nHTTP/1.1 404 \r\nContent-Length: 1\r\n\r\nx",
            &[get(), get()]
        ),
        "100 HTTP/1.1\n= None Keep stay\n103 HTTP/1.1\n  link: a\n= None Keep stay\n\
         200 HTTP/1.1\n  content-length: 0\n= Length(0) Keep stay\n\
         404 HTTP/1.1\n  content-length: 1\n= Length(1) Keep stay\n< x\nclean\n"
    );
}

#[test]
fn a_switch_gives_what_follows_the_head() {
    assert_eq!(
        text(
            b"HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: websocket\r\n\r\nframes",
            &[upgrade()]
        )
        .lines()
        .last(),
        text(b"HTTP/1.1 200 OK\r\n\r\nframes", &[connect()])
            .lines()
            .last(),
    );
    let mut reader = Reader::new(Pieces::whole(b"HTTP/1.1 200 OK\r\n\r\nframes"), Limits::default());
    poll_until(|cx| reader.poll_response(cx, connect())).unwrap();
    let next = poll_until(|cx| reader.poll_response(cx, connect()));
    assert!(matches!(next, Err(ReadError::OutOfTurn)));
    assert_eq!(&reader.into_parts().1[..], b"frames");
    // Not agreed to: an ordinary response.
    assert_eq!(
        text(b"HTTP/1.1 403 No\r\nContent-Length: 1\r\n\r\nx", &[connect()]),
        "403 HTTP/1.1\n  content-length: 1\n= Length(1) Keep stay\n< x\nclean\n"
    );
}

#[test]
fn what_breaks_a_rule_is_refused() {
    for (bytes, asked, word) in [
        (&b""[..], get(), "closed_before_head"),
        (b"HTTP/1.1 200", get(), "closed_in_head"),
        (b"HTTP/1.1 200\r\n\r\n", get(), "ok"),
        (b"HTTP/1.1 200 a b\xff\r\n\r\n", get(), "ok"),
        (b"HTTP/1.1 20 OK\r\n\r\n", get(), "bad_status_line"),
        (b"HTTP/1.1 2000 OK\r\n\r\n", get(), "bad_status_line"),
        (b"HTTP/1.1 099 OK\r\n\r\n", get(), "bad_status_line"),
        (b"HTTP/1.1  200 OK\r\n\r\n", get(), "bad_status_line"),
        (b"HTTP/2.0 200 OK\r\n\r\n", get(), "bad_version"),
        (b"ICY 200 OK\r\n\r\n", get(), "bad_version"),
        (b"HTTP/1.1 200 O\rK\r\n\r\n", get(), "bare_cr"),
        (b"HTTP/1.1 200 O\0K\r\n\r\n", get(), "control_character"),
        (b"HTTP/1.1 200 OK\n\r\n", get(), "bare_lf"),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", get(), "leading_space"),
        (b"HTTP/1.1 200 OK\r\nX: a\r\n b\r\n\r\n", get(), "folded_header"),
        (b"HTTP/1.1 200 OK\r\nX : a\r\n\r\n", get(), "space_before_colon"),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            get(),
            "length_and_chunked",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
            head(),
            "many_lengths",
        ),
        (
            b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            get(),
            "chunked_in_http10",
        ),
        (
            b"HTTP/1.1 204 No\r\nContent-Length: 1\r\n\r\n",
            get(),
            "body_not_allowed",
        ),
        (
            b"HTTP/1.1 204 No\r\nTransfer-Encoding: chunked\r\n\r\n",
            get(),
            "body_not_allowed",
        ),
        (
            b"HTTP/1.1 100 Go\r\nContent-Length: 1\r\n\r\n",
            get(),
            "body_not_allowed",
        ),
        (
            b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n",
            connect(),
            "body_not_allowed",
        ),
        (
            b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n",
            get(),
            "unasked_switch",
        ),
        (
            b"HTTP/1.1 101 X\r\nUpgrade: a\r\n\r\n",
            upgrade(),
            "unasked_switch",
        ),
        (
            b"HTTP/1.1 101 X\r\nConnection: upgrade\r\nUpgrade: a\r\n\r\n",
            upgrade(),
            "ok",
        ),
    ] {
        assert_eq!(response_word(bytes, asked), word, "{}", bytes.escape_ascii());
    }
}
