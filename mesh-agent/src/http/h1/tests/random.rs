//! Random messages and random bytes: splits do not matter, nothing panics, what is written is what is read, and chunks are what a
//! naive reader takes them for.

use http::{HeaderName, Request, Response};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;

use super::*;

/// Cuts bytes at the given places.
fn cut(bytes: &[u8], places: &[prop::sample::Index]) -> Pieces {
    let mut places: Vec<usize> = places.iter().map(|place| place.index(bytes.len() + 1)).collect();
    places.extend([0, bytes.len()]);
    places.sort_unstable();
    Pieces::new(
        places
            .windows(2)
            .map(|pair| Bytes::copy_from_slice(&bytes[pair[0]..pair[1]])),
    )
}

/// Pieces that messages, good and bad, are made of.
fn requestish() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        12 => select(vec![
            "GET / HTTP/1.1\r\nHost: a\r\n\r\n",
            "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello",
            "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n",
            "POST / HTTP/1.1\r\n", "GET http://b/ HTTP/1.0\r\n", "HTTP/1.1 200 OK\r\n", "HTTP/1.1 100 Continue\r\n\r\n",
            "Host: a\r\n", "Content-Length: 3\r\n", "Transfer-Encoding: chunked\r\n", "Connection: close\r\n", "X: y\r\n",
            "\r\n", "5\r\nhello\r\n", "3;a=b\r\nabc\r\n", "0\r\n\r\n", "0\r\nX-T: 1\r\n\r\n", "abc",
        ])
        .prop_map(|text| text.as_bytes().to_vec()),
        1 => select(vec!["\n", "\r", " ", "\t", ":", "\0", ",", "0"]).prop_map(|text| text.as_bytes().to_vec()),
        1 => vec(any::<u8>(), 0..20),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

fn small_limits() -> Limits {
    Limits {
        head_bytes: 120,
        target_bytes: 20,
        headers: 5,
        trailer_bytes: 30,
        chunk_line_bytes: 10,
        body_bytes: 40,
    }
}

fn name() -> impl Strategy<Value = HeaderName> {
    select(vec!["accept", "x-a", "x-b", "cookie", "user-agent", "link", "x"])
        .prop_map(HeaderName::from_static)
}

fn value() -> impl Strategy<Value = HeaderValue> {
    "[!-~\u{a0}-\u{ff}]([ -~\t]{0,20}[!-~])?"
        .prop_map(|text| HeaderValue::from_bytes(text.as_bytes()).unwrap())
}

fn header_map() -> impl Strategy<Value = HeaderMap> {
    vec((name(), value()), 0..8).prop_map(|lines| {
        let mut headers = HeaderMap::new();
        for (name, value) in lines {
            headers.append(name, value);
        }
        headers
    })
}

/// A body in pieces, some of them large enough not to be copied.
fn body() -> impl Strategy<Value = Vec<Bytes>> {
    let piece = prop_oneof![0..20usize, 2000..5000usize]
        .prop_map(|size| Bytes::from((0..size).map(|at| at as u8).collect::<Vec<_>>()));
    vec(piece, 0..4)
}

fn framing_of(body: &[Bytes], chunked: bool) -> Framing {
    let length = body.iter().map(Bytes::len).sum::<usize>() as u64;
    match chunked {
        true => Framing::Chunked,
        false => Framing::Length(length),
    }
}

fn write_body(writer: &mut Writer<Sink>, body: &[Bytes], trailers: &HeaderMap) -> Vec<u8> {
    for piece in body {
        poll_until(|cx| writer.poll_ready(cx)).unwrap();
        writer.data(piece.clone()).unwrap();
    }
    writer.finish(Some(trailers)).unwrap();
    poll_until(|cx| writer.poll_flush(cx)).unwrap();
    body.concat()
}

fn read_back(reader: &mut Reader<Pieces>) -> (Vec<u8>, HeaderMap) {
    let (mut data, mut trailers) = (Vec::new(), HeaderMap::new());
    while let Some(frame) = poll_until(|cx| reader.poll_frame(cx)) {
        match frame.unwrap().into_data() {
            Ok(piece) => data.extend_from_slice(&piece),
            Err(frame) => trailers = frame.into_trailers().unwrap(),
        }
    }
    (data, trailers)
}

proptest! {
    #[test]
    fn splits_do_not_change_what_is_read(
        bytes in requestish(),
        places in vec(any::<prop::sample::Index>(), 0..10),
        tight: bool,
    ) {
        let limits = if tight { small_limits() } else { Limits::default() };
        prop_assert_eq!(
            read_requests(Pieces::whole(&bytes), limits),
            read_requests(cut(&bytes, &places), limits)
        );
        let asked = [get(), Asked::of(&Method::HEAD, &Switch::Stay), get(), Asked::of(&Method::CONNECT, &Switch::Tunnel)];
        prop_assert_eq!(
            read_responses(Pieces::whole(&bytes), limits, &asked),
            read_responses(cut(&bytes, &places), limits, &asked)
        );
    }

    #[test]
    fn no_bytes_make_it_panic(bytes in vec(any::<u8>(), 0..300)) {
        read_requests(Pieces::whole(&bytes), small_limits());
        read_responses(Pieces::whole(&bytes), small_limits(), &[get()]);
        let mut behind = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        behind.extend_from_slice(&bytes);
        read_requests(Pieces::whole(&behind), Limits::default());
    }

    #[test]
    fn a_written_request_is_read_as_it_was(
        method in select(vec!["GET", "POST", "DELETE", "X-OTHER"]),
        path in "/[a-z0-9%/._~-]{0,20}(\\?[a-z=&]{0,10})?",
        mut headers in header_map(),
        body in body(),
        chunked: bool,
        trailers in header_map(),
        most in 1..5000usize,
        places in vec(any::<prop::sample::Index>(), 0..10),
    ) {
        headers.insert("host", HeaderValue::from_static("a.b:80"));
        let mut parts = Request::builder().method(method).uri(&path).body(()).unwrap().into_parts().0;
        parts.headers = headers.clone();
        let framing = framing_of(&body, chunked);
        let mut writer = Writer::new(Sink::taking(most));
        writer.request(&parts, Target::Origin, framing, KeepAlive::Keep).unwrap();
        let sent = write_body(&mut writer, &body, &trailers);
        let wire = writer.into_inner().taken;

        let mut reader = Reader::new(cut(&wire, &places), Limits::default());
        let mut head = poll_until(|cx| reader.poll_request(cx)).unwrap().unwrap();
        prop_assert_eq!(head.body, framing);
        prop_assert_eq!(head.parts.method.as_str(), method);
        prop_assert_eq!(head.parts.uri.to_string(), path);
        head.parts.headers.remove("content-length");
        head.parts.headers.remove("transfer-encoding");
        prop_assert_eq!(head.parts.headers, headers);
        let (data, read_trailers) = read_back(&mut reader);
        prop_assert!(data == sent);
        let mut expected = if chunked { trailers } else { HeaderMap::new() };
        expected.remove("cookie");
        prop_assert_eq!(read_trailers, expected);
        prop_assert!(poll_until(|cx| reader.poll_request(cx)).unwrap().is_none());
    }

    #[test]
    fn a_written_response_is_read_as_it_was(
        status in 200..600u16,
        headers in header_map(),
        body in body(),
        chunked: bool,
        places in vec(any::<prop::sample::Index>(), 0..10),
    ) {
        let status = StatusCode::from_u16(status).unwrap();
        let bodiless = matches!(status.as_u16(), 204 | 304);
        let body = if bodiless { Vec::new() } else { body };
        let framing = if bodiless { Framing::None } else { framing_of(&body, chunked) };
        let mut writer = Writer::new(Sink::default());
        writer.response(status, &headers, framing, get(), KeepAlive::Close).unwrap();
        let sent = write_body(&mut writer, &body, &HeaderMap::new());
        let wire = writer.into_inner().taken;

        let mut reader = Reader::new(cut(&wire, &places), Limits::default());
        let mut head = poll_until(|cx| reader.poll_response(cx, get())).unwrap();
        prop_assert_eq!((head.parts.status, head.body, head.keep_alive), (status, framing, KeepAlive::Close));
        for own in ["content-length", "transfer-encoding", "connection"] {
            head.parts.headers.remove(own);
        }
        let expected = Response::builder().body(()).map(|mut response| {
            *response.headers_mut() = headers;
            response.into_parts().0.headers
        }).unwrap();
        prop_assert_eq!(head.parts.headers, expected);
        prop_assert!(read_back(&mut reader).0 == sent);
    }

    #[test]
    fn chunks_are_what_a_naive_reader_takes_them_for(
        pieces in vec(
            prop_oneof![
                8 => vec(any::<u8>(), 0..20).prop_map(|data| {
                    let mut chunk = format!("{:x}\r\n", data.len()).into_bytes();
                    chunk.extend_from_slice(&data);
                    chunk.extend_from_slice(b"\r\n");
                    chunk
                }),
                2 => select(vec!["0\r\n\r\n", "A;x=\"y\"\r\n0123456789\r\n", "0;a\r\n\r\n"]).prop_map(|text| text.as_bytes().to_vec()),
                1 => vec(select(b"0123456789abcdefABCDEF;\r\n \txg".to_vec()), 0..8),
            ],
            0..6,
        ),
        places in vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let wire = pieces.concat();
        let mut all = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        all.extend_from_slice(&wire);
        let mut reader = Reader::new(cut(&all, &places), Limits::default());
        poll_until(|cx| reader.poll_request(cx)).unwrap().unwrap();
        let mut data = Vec::new();
        let end = loop {
            match poll_until(|cx| reader.poll_frame(cx)) {
                Some(Ok(frame)) => data.extend_from_slice(&frame.into_data().unwrap_or_default()),
                Some(Err(_)) => break None,
                None => {
                    poll_until(|cx| reader.poll_closed(cx)).unwrap();
                    break Some(reader.into_parts().1.to_vec());
                }
            }
        };
        prop_assert_eq!(end.map(|rest| (data, rest)), naive_chunks(&wire));
    }
}

/// The data and what follows the body; `None` if the body is malformed or incomplete. Recursion instead of states.
fn naive_chunks(wire: &[u8]) -> Option<(Vec<u8>, Vec<u8>)> {
    let line_end = wire.windows(2).position(|pair| pair == b"\r\n")?;
    let line = std::str::from_utf8(&wire[..line_end]).ok()?;
    let size = match line.split_once(';') {
        Some((size, _)) => size.trim_end_matches([' ', '\t']),
        None => line,
    };
    if line.contains(['\n', '\r']) || size.is_empty() || !size.chars().all(|digit| digit.is_ascii_hexdigit())
    {
        return None;
    }
    let size = usize::try_from(u64::from_str_radix(size, 16).ok()?).ok()?;
    let rest = &wire[line_end + 2..];
    if size == 0 {
        return naive_trailers(rest).map(|rest| (Vec::new(), rest.to_vec()));
    }
    let data = rest.get(..size)?;
    let rest = rest[size..].strip_prefix(b"\r\n")?;
    let (mut tail, left) = naive_chunks(rest)?;
    tail.splice(0..0, data.iter().copied());
    Some((tail, left))
}

/// What follows the trailers. The pieces above make none that are valid but the empty ones.
fn naive_trailers(wire: &[u8]) -> Option<&[u8]> {
    wire.strip_prefix(b"\r\n")
}
