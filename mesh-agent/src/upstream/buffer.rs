//! Buffers for bytes on their way, used again by the thread that used them last.
//!
//! A way takes a [`Buffer`] when there is something to read, and gives it back by dropping it. Invariant: an idle
//! connection holds none.

use std::cell::RefCell;

use bytes::Buf;
use tokio::io::ReadBuf;

/// Room in one buffer, in bytes. With the head of an HTTP/2 frame it fills eight TLS records to the last byte.
pub(crate) const ROOM: usize = 8 * (16 << 10) - FRAME_HEAD;
/// Length of the head of an HTTP/2 frame (RFC 9113, 4.1).
const FRAME_HEAD: usize = 9;
/// No more than this is copied out, rather than to hand a whole buffer over.
const SMALL: usize = 4 << 10;
/// Buffers that a thread keeps for later.
const STOCK: usize = 8;

thread_local! {
    static FREE: RefCell<Vec<Box<[u8]>>> = const { RefCell::new(Vec::new()) };
}

/// Bytes that were read, of which the first were used already.
pub(crate) struct Buffer {
    room: Box<[u8]>,
    used: usize,
    filled: usize,
}

impl Buffer {
    /// An empty one.
    pub(crate) fn take() -> Self {
        let room = FREE.with_borrow_mut(Vec::pop);
        Self {
            room: room.unwrap_or_else(|| vec![0; ROOM].into_boxed_slice()),
            used: 0,
            filled: 0,
        }
    }

    /// Where to read into. What was in it is forgotten.
    pub(crate) fn room(&mut self) -> &mut [u8] {
        (self.used, self.filled) = (0, 0);
        &mut self.room
    }

    /// Says how much was read.
    pub(crate) fn fill(&mut self, count: usize) {
        self.filled = count.min(self.room.len());
    }

    /// Takes up to this many bytes from the front.
    pub(crate) fn advance(&mut self, count: usize) -> &[u8] {
        let begin = self.used;
        self.used = (begin + count).min(self.filled);
        &self.room[begin..self.used]
    }

    /// True when nothing is left.
    pub(crate) fn is_empty(&self) -> bool {
        self.used == self.filled
    }

    /// The memory it takes up, in bytes.
    pub(crate) fn size(&self) -> usize {
        self.room.len()
    }

    /// The same bytes in no more room than they need, if they are few.
    pub(crate) fn fitted(self) -> Self {
        match self.as_ref() {
            few if few.len() <= SMALL => Self {
                room: few.into(),
                used: 0,
                filled: few.len(),
            },
            _ => self,
        }
    }
}

impl AsRef<[u8]> for Buffer {
    fn as_ref(&self) -> &[u8] {
        &self.room[self.used..self.filled]
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        let room = std::mem::take(&mut self.room);
        // A thread that ends has no stock any more.
        let _ = FREE.try_with(|free| {
            if let Ok(mut free) = free.try_borrow_mut()
                && room.len() == ROOM
                && free.len() < STOCK
            {
                free.push(room);
            }
        });
    }
}

/// Hands out of `rest` what `buffer` has room for. Returns how many bytes that was.
pub(crate) fn hand_out(rest: &mut impl Buf, buffer: &mut ReadBuf<'_>) -> usize {
    let count = rest.chunk().len().min(buffer.remaining());
    buffer.put_slice(&rest.chunk()[..count]);
    rest.advance(count);
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(bytes: &[u8]) -> Buffer {
        let mut buffer = Buffer::take();
        buffer.room()[..bytes.len()].copy_from_slice(bytes);
        buffer.fill(bytes.len());
        buffer
    }

    #[test]
    fn bytes_come_out_as_they_were_read() {
        let mut buffer = filled(b"abcdef");
        assert_eq!(buffer.advance(2), b"ab");
        assert_eq!(buffer.as_ref(), b"cdef");
        assert_eq!(buffer.advance(100), b"cdef");
        assert!(buffer.is_empty() && buffer.advance(1).is_empty());
        let many = vec![7; ROOM];
        assert_eq!(filled(&many).fitted().as_ref(), many);
        let few = filled(b"few").fitted();
        assert_eq!((few.as_ref(), few.room.len()), (&b"few"[..], 3));
    }

    #[test]
    fn a_dropped_buffer_is_used_again() {
        let first = Buffer::take();
        let place = first.room.as_ptr();
        drop(first.fitted());
        drop(filled(b"few").fitted());
        assert_eq!(Buffer::take().room.as_ptr(), place);
        let many: Vec<_> = (0..STOCK + 5).map(|_| Buffer::take()).collect();
        drop(many);
        assert_eq!(FREE.with_borrow(Vec::len), STOCK);
    }
}
