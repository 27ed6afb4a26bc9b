//! A body of which every byte is known by its place: made piece by piece, and checked piece by piece.

use std::{
    convert::Infallible,
    pin::Pin,
    task::{Context, Poll},
};

use anyhow::{Result, ensure};
use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};

/// Bytes of one piece. Prime, so that no frame, window or buffer of anybody is a multiple of it.
const PIECE: usize = 65_521;
/// Pieces until it begins again: more than anybody holds between sender and receiver.
const PIECES: usize = 257;

/// A body that is sent. Of known length, or not.
pub(crate) struct Pattern {
    whole: Bytes,
    sent: u64,
    left: u64,
    length: Length,
}

/// Whether a receiver is told the length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Length {
    Told,
    Untold,
}

/// What is expected to come back.
pub(crate) struct Check {
    whole: Bytes,
    seen: u64,
}

impl Pattern {
    pub(crate) fn new(bytes: u64, length: Length) -> Self {
        Self {
            whole: whole(),
            sent: 0,
            left: bytes,
            length,
        }
    }
}

impl Body for Pattern {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let from = place(self.sent);
        let to = (from + PIECE)
            .min(from + usize::try_from(self.left).unwrap_or(usize::MAX - from))
            .min(self.whole.len());
        let piece = self.whole.slice(from..to);
        self.sent += piece.len() as u64;
        self.left -= piece.len() as u64;
        Poll::Ready(Some(Ok(Frame::data(piece))))
    }

    fn is_end_stream(&self) -> bool {
        self.left == 0
    }

    fn size_hint(&self) -> SizeHint {
        match self.length {
            Length::Told => SizeHint::with_exact(self.left),
            Length::Untold => SizeHint::default(),
        }
    }
}

impl Check {
    pub(crate) fn new() -> Self {
        Self {
            whole: whole(),
            seen: 0,
        }
    }

    /// Takes the next bytes; an error when they are not what was sent.
    pub(crate) fn take(&mut self, mut bytes: &[u8]) -> Result<()> {
        while !bytes.is_empty() {
            let from = place(self.seen);
            let expected = &self.whole[from..];
            let count = expected.len().min(bytes.len());
            ensure!(
                bytes[..count] == expected[..count],
                "other bytes came back than were sent, from place {} on or up to {count} behind it",
                self.seen
            );
            self.seen += count as u64;
            bytes = &bytes[count..];
        }
        Ok(())
    }

    pub(crate) fn seen(&self) -> u64 {
        self.seen
    }
}

fn place(at: u64) -> usize {
    usize::try_from(at % (PIECE * PIECES) as u64).unwrap_or_default()
}

/// Numbers in order, each as eight bytes: no two places of it look alike.
fn whole() -> Bytes {
    let words = (PIECE * PIECES).div_ceil(8) as u64;
    let mut whole: Vec<u8> = (0..words)
        .flat_map(|number| number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes())
        .collect();
    whole.truncate(PIECE * PIECES);
    whole.into()
}
