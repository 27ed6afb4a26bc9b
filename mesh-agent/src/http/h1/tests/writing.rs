//! What leaves, byte by byte.

use bytes::BytesMut;
use http::{HeaderName, Request};

use super::*;

fn parts(method: &str, uri: &str, lines: &[(&'static str, &'static str)]) -> http::request::Parts {
    let mut request = Request::builder().method(method).uri(uri);
    for (name, value) in lines {
        request = request.header(*name, *value);
    }
    request.body(()).unwrap().into_parts().0
}

fn headers(lines: &[(&'static str, &'static str)]) -> HeaderMap {
    lines
        .iter()
        .map(|(name, value)| (HeaderName::from_static(name), HeaderValue::from_static(value)))
        .collect()
}

fn flushed(writer: &mut Writer<Sink>) {
    poll_until(|cx| writer.poll_flush(cx)).unwrap();
    assert!(writer.is_flushed());
}

fn text(mut writer: Writer<Sink>) -> String {
    flushed(&mut writer);
    String::from_utf8(writer.into_inner().taken).unwrap()
}

fn request_text(
    parts: &http::request::Parts,
    target: Target,
    framing: Framing,
    keep_alive: KeepAlive,
) -> String {
    let mut writer = Writer::new(Sink::default());
    writer.request(parts, target, framing, keep_alive).unwrap();
    text(writer)
}

fn asked(version: Version, method: &Method) -> Asked {
    Asked {
        version,
        ..Asked::of(method, &Switch::Stay)
    }
}

#[test]
fn a_request_is_written_with_the_headers_the_writer_owns() {
    let get = parts(
        "GET",
        "http://a:1/x?y",
        &[
            ("x-request-id", "1"),
            ("content-length", "9"),
            ("connection", "x"),
            ("host", "b"),
            ("dnt", "1"),
        ],
    );
    for (target, framing, keep_alive, text) in [
        (
            Target::Origin,
            Framing::None,
            KeepAlive::Keep,
            "GET /x?y HTTP/1.1\r\nHost: b\r\nX-Request-Id: 1\r\nDnt: 1\r\n\r\n",
        ),
        (
            Target::Absolute,
            Framing::Length(5),
            KeepAlive::Close,
            "GET http://a:1/x?y HTTP/1.1\r\nHost: b\r\nX-Request-Id: 1\r\nDnt: 1\r\nContent-Length: 5\r\nConnection: close\r\n\r\n",
        ),
        (
            Target::Origin,
            Framing::Chunked,
            KeepAlive::Keep,
            "GET /x?y HTTP/1.1\r\nHost: b\r\nX-Request-Id: 1\r\nDnt: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ),
    ] {
        assert_eq!(request_text(&get, target, framing, keep_alive), text);
    }
}

#[test]
fn a_target_is_written_in_its_form() {
    for (method, uri, target, line) in [
        ("GET", "http://a", Target::Origin, "GET / HTTP/1.1\r\nHost: a"),
        ("GET", "http://a?b", Target::Origin, "GET /?b HTTP/1.1\r\nHost: a"),
        (
            "GET",
            "https://a",
            Target::Absolute,
            "GET https://a/ HTTP/1.1\r\nHost: a",
        ),
        (
            "CONNECT",
            "a:1",
            Target::Authority,
            "CONNECT a:1 HTTP/1.1\r\nHost: a:1",
        ),
        (
            "OPTIONS",
            "http://a/",
            Target::Asterisk,
            "OPTIONS * HTTP/1.1\r\nHost: a",
        ),
    ] {
        let parts = parts(method, uri, &[]);
        assert_eq!(
            request_text(&parts, target, Framing::None, KeepAlive::Keep),
            format!("{line}\r\n\r\n")
        );
    }
}

#[test]
fn connection_lists_what_is_for_the_next_hop() {
    for (lines, keep_alive, end) in [
        (
            &[("te", "trailers")][..],
            KeepAlive::Keep,
            "Te: trailers\r\nConnection: TE",
        ),
        (
            &[("te", "trailers")],
            KeepAlive::Close,
            "Te: trailers\r\nConnection: close, TE",
        ),
        (
            &[("upgrade", "x")],
            KeepAlive::Keep,
            "Upgrade: x\r\nConnection: Upgrade",
        ),
    ] {
        let parts = parts("GET", "http://a/", lines);
        assert_eq!(
            request_text(&parts, Target::Origin, Framing::None, keep_alive),
            format!("GET / HTTP/1.1\r\nHost: a\r\n{end}\r\n\r\n")
        );
    }
}

#[test]
fn a_request_that_cannot_be_said_leaves_the_writer_as_it_was() {
    let mut writer = Writer::new(Sink::default());
    let twice = parts("GET", "/", &[("host", "a"), ("host", "b")]);
    let none = parts("GET", "/", &[]);
    let good = parts("GET", "/", &[("host", "a")]);
    for (parts, target, framing) in [
        (&twice, Target::Origin, Framing::None),
        (&none, Target::Origin, Framing::None),
        (&good, Target::Absolute, Framing::None),
        (&good, Target::Authority, Framing::None),
        (&good, Target::Origin, Framing::UntilClose),
    ] {
        let result = writer.request(parts, target, framing, KeepAlive::Keep);
        assert!(matches!(result, Err(WriteError::BadHead(_))), "{result:?}");
    }
    assert!(writer.is_finished() && writer.is_flushed());
}

#[test]
fn a_response_is_framed_for_who_asked() {
    let (v10, v11) = (Version::HTTP_10, Version::HTTP_11);
    let (get, head, connect) = (&Method::GET, &Method::HEAD, &Method::CONNECT);
    for (status, framing, version, method, lines, kept) in [
        (
            200,
            Framing::None,
            v11,
            get,
            "200 OK\r\nX: 1\r\nContent-Length: 0\r\n",
            KeepAlive::Keep,
        ),
        (
            200,
            Framing::Length(7),
            v11,
            get,
            "200 OK\r\nX: 1\r\nContent-Length: 7\r\n",
            KeepAlive::Keep,
        ),
        (
            200,
            Framing::Chunked,
            v11,
            get,
            "200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\n",
            KeepAlive::Keep,
        ),
        (
            200,
            Framing::UntilClose,
            v11,
            get,
            "200 OK\r\nX: 1\r\nTransfer-Encoding: chunked\r\n",
            KeepAlive::Keep,
        ),
        (
            200,
            Framing::Chunked,
            v10,
            get,
            "200 OK\r\nX: 1\r\nConnection: close\r\n",
            KeepAlive::Close,
        ),
        (
            200,
            Framing::Length(7),
            v10,
            get,
            "200 OK\r\nX: 1\r\nContent-Length: 7\r\nConnection: keep-alive\r\n",
            KeepAlive::Keep,
        ),
        (
            200,
            Framing::None,
            v11,
            head,
            "200 OK\r\nX: 1\r\nContent-Length: 42\r\n",
            KeepAlive::Keep,
        ),
        (
            200,
            Framing::Length(7),
            v11,
            head,
            "200 OK\r\nX: 1\r\nContent-Length: 7\r\n",
            KeepAlive::Keep,
        ),
        (
            304,
            Framing::None,
            v11,
            get,
            "304 Not Modified\r\nX: 1\r\nContent-Length: 42\r\n",
            KeepAlive::Keep,
        ),
        (
            204,
            Framing::Chunked,
            v11,
            get,
            "204 No Content\r\nX: 1\r\n",
            KeepAlive::Keep,
        ),
        (
            200,
            Framing::None,
            v11,
            connect,
            "200 OK\r\nX: 1\r\n",
            KeepAlive::Keep,
        ),
        (
            403,
            Framing::Length(7),
            v11,
            connect,
            "403 Forbidden\r\nX: 1\r\nContent-Length: 7\r\n",
            KeepAlive::Keep,
        ),
        (
            599,
            Framing::Length(7),
            v11,
            get,
            "599 \r\nX: 1\r\nContent-Length: 7\r\n",
            KeepAlive::Keep,
        ),
    ] {
        let mut writer = Writer::new(Sink::default());
        let headers = headers(&[
            ("content-length", "42"),
            ("transfer-encoding", "gzip"),
            ("connection", "y"),
            ("x", "1"),
        ]);
        let status = StatusCode::from_u16(status).unwrap();
        let result = writer.response(status, &headers, framing, asked(version, method), KeepAlive::Keep);
        assert_eq!(result.unwrap(), kept);
        assert_eq!(text(writer), format!("HTTP/1.1 {lines}\r\n"));
    }
}

#[test]
fn interim_responses_and_switches_are_written() {
    let mut writer = Writer::new(Sink::default());
    let hints = headers(&[("link", "a"), ("content-length", "3")]);
    writer.interim(StatusCode::EARLY_HINTS, &hints, get()).unwrap();
    let old = asked(Version::HTTP_10, &Method::GET);
    writer.interim(StatusCode::CONTINUE, &hints, old).unwrap();
    let switch = headers(&[("upgrade", "websocket")]);
    let none = HeaderMap::new();
    let switching = StatusCode::SWITCHING_PROTOCOLS;
    let refused = writer.response(switching, &none, Framing::None, get(), KeepAlive::Keep);
    assert!(matches!(refused, Err(WriteError::BadHead(_))));
    writer
        .response(switching, &switch, Framing::None, get(), KeepAlive::Keep)
        .unwrap();
    let late = writer.interim(StatusCode::CONTINUE, &hints, get());
    assert!(matches!(late, Err(WriteError::OutOfTurn)));
    assert_eq!(
        text(writer),
        "HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n\
         HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n"
    );
}

#[test]
fn a_body_keeps_its_word() {
    let start = |framing| {
        let mut writer = Writer::new(Sink::default());
        writer
            .response(StatusCode::OK, &HeaderMap::new(), framing, get(), KeepAlive::Keep)
            .unwrap();
        writer
    };
    let piece = Bytes::from_static(b"abc");

    let mut writer = start(Framing::Length(4));
    writer.data(piece.clone()).unwrap();
    assert!(matches!(writer.data(piece.clone()), Err(WriteError::BodyTooLong)));
    assert!(matches!(writer.data(piece.clone()), Err(WriteError::OutOfTurn)));

    let mut writer = start(Framing::Length(4));
    writer.data(piece.clone()).unwrap();
    assert!(matches!(
        writer.finish(None),
        Err(WriteError::BodyTooShort { missing: 1 })
    ));
    assert!(!writer.is_finished());

    let mut writer = start(Framing::None);
    writer.data(Bytes::new()).unwrap();
    assert!(matches!(writer.data(piece), Err(WriteError::BodyTooLong)));

    let mut writer = start(Framing::None);
    let early = writer.response(
        StatusCode::OK,
        &HeaderMap::new(),
        Framing::None,
        get(),
        KeepAlive::Keep,
    );
    assert!(matches!(early, Err(WriteError::OutOfTurn)));
    writer.finish(None).unwrap();
    assert!(matches!(writer.finish(None), Err(WriteError::OutOfTurn)));
    assert!(writer.is_finished());
}

#[test]
fn chunks_and_trailers_are_written() {
    let mut writer = Writer::new(Sink::default());
    writer
        .response(
            StatusCode::OK,
            &HeaderMap::new(),
            Framing::Chunked,
            get(),
            KeepAlive::Keep,
        )
        .unwrap();
    writer.data(Bytes::from_static(b"0123456789abcdef0")).unwrap();
    writer.data(Bytes::new()).unwrap();
    writer.data(Bytes::from_static(b"x")).unwrap();
    let trailers = headers(&[("x-sum", "1"), ("content-length", "3"), ("grpc-status", "0")]);
    writer.finish(Some(&trailers)).unwrap();
    assert_eq!(
        text(writer),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n11\r\n0123456789abcdef0\r\n1\r\nx\r\n\
         0\r\nX-Sum: 1\r\nGrpc-Status: 0\r\n\r\n"
    );
}

#[test]
fn head_large_data_and_end_leave_in_one_write_and_are_not_copied() {
    let data = Bytes::from(vec![b'x'; 100_000]);
    let mut writer = Writer::new(Sink::default());
    writer
        .response(
            StatusCode::OK,
            &HeaderMap::new(),
            Framing::Chunked,
            get(),
            KeepAlive::Keep,
        )
        .unwrap();
    writer.data(data.clone()).unwrap();
    writer.finish(None).unwrap();
    // Held by the writer, not copied.
    assert!(!data.is_unique());
    flushed(&mut writer);
    assert!(data.is_unique());
    let sink = writer.into_inner();
    assert_eq!(sink.writes, 1);
    assert!(sink.taken.ends_with(b"x\r\n0\r\n\r\n"));
}

#[test]
fn there_is_room_again_when_the_peer_has_taken_it() {
    let mut writer = Writer::new(Sink::taking(7));
    writer
        .response(
            StatusCode::OK,
            &HeaderMap::new(),
            Framing::UntilClose,
            asked(Version::HTTP_10, &Method::GET),
            KeepAlive::Keep,
        )
        .unwrap();
    let mut sent = BytesMut::new();
    for size in [1, 5000, 3, 2048, 2049, 0, 20_000, 16_000, 1] {
        let data = Bytes::from((0..size).map(|at| at as u8).collect::<Vec<_>>());
        sent.extend_from_slice(&data);
        poll_until(|cx| writer.poll_ready(cx)).unwrap();
        writer.data(data).unwrap();
    }
    writer.finish(None).unwrap();
    flushed(&mut writer);
    let taken = writer.into_inner().taken;
    let head = taken.windows(4).position(|window| window == b"\r\n\r\n").unwrap() + 4;
    assert!(taken[head..] == sent[..]);
}

#[test]
fn a_writer_that_waits_holds_little() {
    let mut writer = Writer::new(Sink::default());
    let long = "x".repeat(20_000);
    let mut headers = HeaderMap::new();
    headers.insert("x", long.parse().unwrap());
    writer
        .response(StatusCode::OK, &headers, Framing::None, get(), KeepAlive::Keep)
        .unwrap();
    writer.finish(None).unwrap();
    flushed(&mut writer);
    assert!(writer.held() <= 2048, "{}", writer.held());
}
