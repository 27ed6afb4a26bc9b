//! Bodies: chunks, trailers, their limits; what a connection holds while it waits.

use super::*;

/// What becomes of a chunked body: its text and how it ended.
fn chunked(body: &[u8], limits: Limits) -> String {
    let mut bytes = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
    bytes.extend_from_slice(body);
    let shown = |io| {
        let all = read_requests(io, limits);
        all.lines().skip(4).collect::<Vec<_>>().join("|")
    };
    let whole = shown(Pieces::whole(&bytes));
    assert_eq!(
        whole,
        shown(Pieces::one_by_one(&bytes)),
        "{}",
        body.escape_ascii()
    );
    whole
}

#[test]
fn chunks_are_read_and_refused_by_the_letter() {
    for (body, outcome) in [
        (&b"0\r\n\r\n"[..], "end"),
        (b"3\r\nabc\r\n0\r\n\r\n", "< abc|end"),
        (
            b"3\r\nabc\r\n00A\r\n0123456789\r\n000\r\n\r\n",
            "< abc0123456789|end",
        ),
        (b"3;a=b\r\nabc\r\n0;\"c\r\n\r\n", "< abc|end"),
        (b"3 ;a\r\nabc\r\n0\t;b\r\n\r\n", "< abc|end"),
        (b"3 \r\nabc\r\n0\r\n\r\n", "! bad_chunk_size"),
        (b" 3\r\nabc\r\n0\r\n\r\n", "! bad_chunk_size"),
        (b"+3\r\nabc\r\n0\r\n\r\n", "! bad_chunk_size"),
        (b"-3\r\nabc\r\n0\r\n\r\n", "! bad_chunk_size"),
        (b"0x3\r\nabc\r\n0\r\n\r\n", "! bad_chunk_size"),
        (b"3_0\r\nabc\r\n0\r\n\r\n", "! bad_chunk_size"),
        (b"\r\nabc\r\n0\r\n\r\n", "! bad_chunk_size"),
        (b";a\r\nabc\r\n0\r\n\r\n", "! bad_chunk_size"),
        (b"3 a\r\nabc\r\n0\r\n\r\n", "! bad_chunk_size"),
        (b"3\nabc\r\n0\r\n\r\n", "! bare_lf"),
        (b"3\rabc\r\n0\r\n\r\n", "! bare_cr"),
        (b"3;a\rb\r\nabc\r\n0\r\n\r\n", "! bare_cr"),
        (b"3;a\0b\r\nabc\r\n0\r\n\r\n", "! control_character"),
        (b"3;a\nb\r\nabc\r\n0\r\n\r\n", "! bare_lf"),
        (b"3\r\nabcd\r\n0\r\n\r\n", "< abc|! bad_chunk_end"),
        (b"3\r\nabc0\r\n\r\n", "< abc|! bad_chunk_end"),
        (b"3\r\nabc\n0\r\n\r\n", "< abc|! bad_chunk_end"),
        (b"3\r\nabc\r0\r\n\r\n", "< abc|! bad_chunk_end"),
        (b"ffffffffffffffff\r\nabc", "< abc|! closed_in_body"),
        (b"10000000000000000\r\nabc", "! chunk_size_overflow"),
        (b"00000000000000003\r\nabc", "! chunk_size_overflow"),
        (
            b"3\r\nabc\r\nffffffffffffffff\r\nabc",
            "< abc|! chunk_size_overflow",
        ),
        (b"3\r\nab", "< ab|! closed_in_body"),
        (b"3\r\nabc\r\n0\r\n", "< abc|! closed_in_body"),
        (b"3", "! closed_in_body"),
    ] {
        assert_eq!(
            chunked(body, Limits::default()),
            outcome,
            "{}",
            body.escape_ascii()
        );
    }
}

#[test]
fn trailers_are_given_out_without_what_has_no_place_there() {
    for (trailers, outcome) in [
        ("X-Sum: 1\r\nX-Sum: 2\r\n", "trailers|  x-sum: 1|  x-sum: 2|end"),
        (
            "Content-Length: 1\r\nTransfer-Encoding: chunked\r\nHost: b\r\nAuthorization: c\r\nX-Forwarded-For: d\r\nX: 1\r\n",
            "trailers|  x: 1|end",
        ),
        ("Host: b\r\n", "end"),
        ("X: a\n", "! bare_lf"),
        ("X: a\rb\r\n", "! bare_cr"),
        ("X: a\0\r\n", "! control_character"),
        ("X: a\r\n b\r\n", "! folded_header"),
        (" X: a\r\n", "! folded_header"),
        ("X : a\r\n", "! space_before_colon"),
        (": a\r\n", "! bad_header_name"),
        ("X\r\n", "! bad_header"),
    ] {
        let body = format!("0\r\n{trailers}\r\n");
        assert_eq!(
            chunked(body.as_bytes(), Limits::default()),
            outcome,
            "{trailers:?}"
        );
    }
}

#[test]
fn a_chunked_body_has_its_limits() {
    let limits = Limits {
        chunk_line_bytes: 10,
        trailer_bytes: 20,
        headers: 3,
        body_bytes: 5,
        ..Limits::default()
    };
    for (body, outcome) in [
        ("3;345678\r\nabc\r\n0\r\n\r\n", "< abc|end"),
        ("3;3456789\r\nabc\r\n0\r\n\r\n", "! chunk_line_too_long"),
        ("3;345678901234567890", "! chunk_line_too_long"),
        ("3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n", "< abcde|end"),
        ("3\r\nabc\r\n3\r\ndef\r\n0\r\n\r\n", "< abc|! body_too_large"),
        ("0\r\nX: 34567890123456\r\n\r\n", "! trailers_too_large"),
        ("0\r\nX: 3456789012345\r\n\r\n", "trailers|  x: 3456789012345|end"),
        ("0\r\nA:\r\nB:\r\nC:\r\n\r\n", "trailers|  a: |  b: |  c: |end"),
        ("0\r\nA:\r\nB:\r\nC:\r\nD:\r\n\r\n", "! trailers_too_large"),
    ] {
        assert_eq!(chunked(body.as_bytes(), limits), outcome, "{body:?}");
    }
}

#[test]
fn data_is_a_slice_of_what_was_read() {
    let mut bytes = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nabcdef".to_vec();
    bytes.extend_from_slice(b"GET");
    let mut reader = Reader::new(Pieces::whole(&bytes), Limits::default());
    let head = poll_until(|cx| reader.poll_request(cx)).unwrap().unwrap();
    let host = head.parts.headers["host"].as_bytes().as_ptr() as usize;
    let data = poll_until(|cx| reader.poll_frame(cx))
        .unwrap()
        .unwrap()
        .into_data()
        .unwrap();
    let distance = bytes.windows(6).position(|window| window == b"abcdef").unwrap()
        - bytes.windows(3).position(|window| window == b"a\r\n").unwrap();
    assert_eq!(data.as_ptr() as usize - host, distance);
    assert!(reader.has_buffered());
    assert_eq!(&reader.into_parts().1[..], b"GET");
}

#[test]
fn a_connection_that_waits_holds_no_buffer() {
    let bytes = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    for io in [Pieces::whole(bytes), Pieces::one_by_one(bytes)] {
        let mut reader = Reader::new(io, Limits::default());
        poll_until(|cx| reader.poll_request(cx)).unwrap().unwrap();
        while poll_until(|cx| reader.poll_frame(cx)).is_some() {}
        assert!(poll_until(|cx| reader.poll_request(cx)).unwrap().is_none());
        let (_, buffer) = reader.into_parts();
        assert_eq!(buffer.capacity(), 0);
    }
}

#[test]
fn a_waiting_connection_tells_bytes_from_the_end_and_consumes_neither() {
    let mut reader = Reader::new(Pieces::whole(b"GET / HTTP/1.0\r\n\r\n"), Limits::default());
    assert_eq!(
        poll_until(|cx| reader.poll_readable(cx)).unwrap(),
        Readiness::Bytes
    );
    poll_until(|cx| reader.poll_request(cx)).unwrap().unwrap();
    assert_eq!(
        poll_until(|cx| reader.poll_readable(cx)).unwrap(),
        Readiness::Closed
    );
    assert!(poll_until(|cx| reader.poll_request(cx)).unwrap().is_none());
}

#[test]
fn a_busy_connection_is_watched_for_its_end_and_keeps_what_comes() {
    let mut reader = Reader::new(Pieces::one_by_one(b"GET / HTTP/1.0\r\n\r\n"), Limits::default());
    poll_until(|cx| reader.poll_closed(cx)).unwrap();
    poll_until(|cx| reader.poll_request(cx)).unwrap().unwrap();
    assert!(poll_until(|cx| reader.poll_request(cx)).unwrap().is_none());

    let limits = Limits {
        head_bytes: 4,
        ..Limits::default()
    };
    let mut reader = Reader::new(Pieces::one_by_one(b"more than four"), limits);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..100 {
        assert!(reader.poll_closed(&mut cx).is_pending());
    }
    assert_eq!(reader.into_parts().1.len(), 4);
}

#[test]
fn bytes_read_before_count() {
    let buffered = bytes::BytesMut::from(&b"GET / HT"[..]);
    let mut reader = Reader::with_buffered(Pieces::whole(b"TP/1.0\r\n\r\n"), buffered, Limits::default());
    let head = poll_until(|cx| reader.poll_request(cx)).unwrap().unwrap();
    assert_eq!(head.parts.uri, "/");
}
