//! Copies of messages that are polled by hand: what they get, and when they are broken off.

use std::{future::poll_fn, task::Waker};

use http::{HeaderValue, Request};

use super::*;
use crate::http::{
    h1::{Framing, Target},
    wire::Spoken,
};

fn message(body: Framing) -> Message {
    let (parts, ()) = Request::post("/").body(()).unwrap().into_parts();
    Message {
        parts,
        spoken: Spoken::Http1,
        attached: Attached::default(),
        target: Target::Origin,
        body,
        switch: Switch::Stay,
        copies: Copies::default(),
    }
}

async fn next(copy: &mut Mirrored) -> Option<Result<Frame<Bytes>, Broken>> {
    poll_fn(|cx| copy.body.poll_frame(cx)).await
}

fn waits(copy: &mut Mirrored) -> bool {
    let mut nobody = Context::from_waker(Waker::noop());
    copy.body.poll_frame(&mut nobody).is_pending()
}

#[tokio::test]
async fn a_copy_gets_the_whole_body_and_shares_its_bytes() {
    let mut message = message(Framing::Chunked);
    let mut copy = message.copy().unwrap();
    assert!(waits(&mut copy) && !copy.body.is_done());
    let piece = Bytes::from_static(b"piece");
    message.copies.push(&piece);
    let mut trailers = HeaderMap::new();
    trailers.insert("x-end", HeaderValue::from_static("1"));
    message.copies.end(Some(&trailers));
    let shared = next(&mut copy).await.unwrap().unwrap().into_data().unwrap();
    assert_eq!(shared, piece);
    assert_eq!(shared.as_ptr(), piece.as_ptr(), "not duplicated");
    let last = next(&mut copy).await.unwrap().unwrap();
    assert_eq!(last.into_trailers().unwrap(), trailers);
    assert!(next(&mut copy).await.is_none() && copy.body.is_done());
    copy.over.await.unwrap_err();
}

#[tokio::test]
async fn a_copy_of_a_request_that_broke_off_breaks_off() {
    let mut message = message(Framing::Length(10));
    let mut copy = message.copy().unwrap();
    message.copies.push(&Bytes::from_static(b"half"));
    drop(message);
    assert!(next(&mut copy).await.unwrap().is_ok());
    assert!(next(&mut copy).await.unwrap().is_err());
    assert!(!copy.body.is_done());
}

#[tokio::test]
async fn a_copy_without_a_body_has_ended_at_once() {
    for body in [Framing::None, Framing::Length(0)] {
        let mut copy = message(body).copy().unwrap();
        assert!(copy.body.is_done() && next(&mut copy).await.is_none());
        copy.over.await.unwrap_err();
    }
}

#[tokio::test]
async fn what_falls_behind_is_broken_off_and_others_go_on() {
    let mut message = message(Framing::Chunked);
    let (mut slow, mut quick) = (message.copy().unwrap(), message.copy().unwrap());
    let piece = Bytes::from(vec![0; 16 << 10]);
    let pieces = 100;
    for _ in 0..pieces {
        message.copies.push(&piece);
        assert!(next(&mut quick).await.unwrap().is_ok());
    }
    message.copies.end(None);
    assert!(next(&mut quick).await.is_none());
    let mut taken = 0;
    while let Ok(frame) = next(&mut slow).await.unwrap() {
        taken += frame.into_data().unwrap().len();
    }
    assert!(
        taken <= BEHIND_MAX && taken + piece.len() > BEHIND_MAX / 2,
        "{taken}"
    );
}

/// One piece that is larger than all that may wait is a piece like others: there is nothing behind it.
#[tokio::test]
async fn the_first_piece_is_never_too_large() {
    let mut message = message(Framing::Chunked);
    let mut copy = message.copy().unwrap();
    message.copies.push(&Bytes::from(vec![0; 2 * BEHIND_MAX]));
    let frame = next(&mut copy).await.unwrap().unwrap();
    assert_eq!(frame.into_data().unwrap().len(), 2 * BEHIND_MAX);
    // What it held is given back: the next one has room.
    message.copies.push(&Bytes::from(vec![0; BEHIND_MAX / 2]));
    assert!(next(&mut copy).await.unwrap().is_ok());
}

#[test]
fn what_wants_to_leave_http_is_not_copied() {
    let mut message = message(Framing::None);
    message.switch = Switch::Upgrade(HeaderValue::from_static("websocket"));
    assert!(message.copy().is_none());
}
