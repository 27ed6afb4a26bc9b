//! Responses: the same however they are split, and what is forwarded is read as what was received.
#![no_main]

use http::{HeaderValue, Method};
use libfuzzer_sys::fuzz_target;
use mesh_fuzz::h1::{Asked, Framing, KeepAlive, Limits, Reader, ResponseHead, Switch, Writer, hop_by_hop};
use mesh_fuzz::{Kept, LIMITS, Pieces, body, poll_until};

fuzz_target!(|input: &[u8]| {
    let [size, asked, bytes @ ..] = input else {
        return;
    };
    let asked = match asked & 3 {
        0 => Asked::of(&Method::GET, &Switch::Stay),
        1 => Asked::of(&Method::HEAD, &Switch::Stay),
        2 => Asked::of(&Method::CONNECT, &Switch::Tunnel),
        _ => Asked::of(&Method::GET, &Switch::Upgrade(HeaderValue::from_static("x"))),
    };
    let mut whole = Reader::new(Pieces::new(bytes, 0), LIMITS);
    let mut split = Reader::new(Pieces::new(bytes, *size), LIMITS);
    loop {
        let one = poll_until(|cx| whole.poll_response(cx, asked));
        let other = poll_until(|cx| split.poll_response(cx, asked));
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        let Ok(head) = one else { return };
        let one = body(&mut whole);
        let other = body(&mut split);
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        let Ok((data, trailers)) = one else { return };
        forwarded(head, &data, &trailers, asked);
    }
});

/// Writes the response as a proxy would, and reads it again.
fn forwarded(mut head: ResponseHead, data: &[u8], trailers: &http::HeaderMap, asked: Asked) {
    hop_by_hop::strip(&mut head.parts.headers, &head.switch);
    let mut writer = Writer::new(Kept::default());
    if head.is_interim() {
        writer
            .interim(head.parts.status, &head.parts.headers, asked)
            .unwrap();
    } else {
        writer
            .response(
                head.parts.status,
                &head.parts.headers,
                head.body,
                asked,
                KeepAlive::Keep,
            )
            .unwrap();
        writer.data(bytes::Bytes::copy_from_slice(data)).unwrap();
        writer.finish(Some(trailers)).unwrap();
    }
    poll_until(|cx| writer.poll_flush(cx)).unwrap();
    let wire = writer.into_inner().0;
    let mut reader = Reader::new(Pieces::new(&wire, 0), Limits::default());
    let again = poll_until(|cx| reader.poll_response(cx, asked)).unwrap();
    assert_eq!(again.parts.status, head.parts.status);
    assert_eq!(again.switch, head.switch);
    // The end of the connection is no end for a client that can be told by chunks.
    let body_again = match head.body {
        Framing::UntilClose => Framing::Chunked,
        other => other,
    };
    assert_eq!(again.body, body_again);
    assert_eq!(body(&mut reader).unwrap(), (data.to_vec(), trailers.clone()));
    assert!(!reader.has_buffered());
}
