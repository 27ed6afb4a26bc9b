//! Requests: the same however they are split, and what is forwarded is read as what was received.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mesh_fuzz::h1::{Framing, KeepAlive, Reader, RequestHead, Writer, hop_by_hop};
use mesh_fuzz::{Kept, LIMITS, Pieces, body, poll_until};

fuzz_target!(|input: &[u8]| {
    let Some((size, bytes)) = input.split_first() else {
        return;
    };
    let mut whole = Reader::new(Pieces::new(bytes, 0), LIMITS);
    let mut split = Reader::new(Pieces::new(bytes, *size), LIMITS);
    loop {
        let one = poll_until(|cx| whole.poll_request(cx));
        let other = poll_until(|cx| split.poll_request(cx));
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        let Ok(Some(head)) = one else { return };
        let one = body(&mut whole);
        let other = body(&mut split);
        assert_eq!(format!("{one:?}"), format!("{other:?}"));
        if let Ok((data, trailers)) = one {
            forwarded(head, &data, &trailers);
        } else {
            return;
        }
    }
});

/// Writes the request as a proxy would, and reads it again.
fn forwarded(mut head: RequestHead, data: &[u8], trailers: &http::HeaderMap) {
    hop_by_hop::strip(&mut head.parts.headers, &head.switch);
    let mut writer = Writer::new(Kept::default());
    if writer
        .request(&head.parts, head.target, head.body, KeepAlive::Keep)
        .is_err()
    {
        // HTTP/1.0 without a host has no form in HTTP/1.1.
        assert!(!head.parts.headers.contains_key("host"));
        return;
    }
    writer.data(bytes::Bytes::copy_from_slice(data)).unwrap();
    writer.finish(Some(trailers)).unwrap();
    poll_until(|cx| writer.poll_flush(cx)).unwrap();
    let wire = writer.into_inner().0;
    // A copy may be longer than the original by what was implied in it.
    let limits = mesh_fuzz::h1::Limits::default();
    let mut reader = Reader::new(Pieces::new(&wire, 0), limits);
    let again = poll_until(|cx| reader.poll_request(cx)).unwrap().unwrap();
    assert_eq!(again.parts.method, head.parts.method);
    assert_eq!(again.parts.uri, head.parts.uri);
    assert_eq!((again.target, again.body), (head.target, head.body));
    assert_eq!(body(&mut reader).unwrap(), (data.to_vec(), trailers.clone()));
    assert!(poll_until(|cx| reader.poll_request(cx)).unwrap().is_none());
    assert_ne!(again.body, Framing::UntilClose);
}
