//! What arrives on a stream of HTTP/2, taken out of h2 even while its reader is full.
//!
//! h2 keeps an account of what small frames cost beyond their bytes as long as it keeps them, and ends the whole connection
//! when that is too much: one slow reader of small messages would end all the streams beside its own. So whoever
//! carries a stream calls [`Incoming::gather`] while its reader takes nothing. Small frames are put together here.
//!
//! Invariant: the window opens again only for bytes that the reader has taken, so a stream holds no more here than its
//! window allows, and what it holds for a reader that takes nothing is counted as [`Unread`]; and what arrived before an end,
//! or a reset, comes before it.

use std::{
    collections::VecDeque,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::{Bytes, BytesMut};
use h2::RecvStream;
use http::HeaderMap;

use super::Unread;

/// Frames below this are put together: those whose cost h2 counts.
const SMALL: usize = 256;

/// The receiving half of a stream.
#[derive(Debug)]
pub struct Incoming {
    recv: RecvStream,
    gathered: Gathered,
    /// Why nothing more comes out of h2, once gathering came upon it.
    over: Option<Over>,
    /// Bytes that came out of h2, and for which the window has not opened again.
    taken: usize,
    /// As many of them are counted as unread.
    counted: usize,
    unread: Option<Arc<Unread>>,
}

#[derive(Debug)]
enum Over {
    End,
    Broken(h2::Error),
}

/// Pieces in the order in which they came: those in `pieces`, then `small`.
#[derive(Debug, Default)]
struct Gathered {
    pieces: VecDeque<Bytes>,
    small: BytesMut,
}

impl Incoming {
    /// Takes over a stream. `unread` is for a connection whose window makes up for what nobody reads.
    pub(crate) fn new(recv: RecvStream, unread: Option<Arc<Unread>>) -> Self {
        Self {
            recv,
            gathered: Gathered::default(),
            over: None,
            taken: 0,
            counted: 0,
            unread,
        }
    }

    /// The next piece.
    pub async fn data(&mut self) -> Option<Result<Bytes, h2::Error>> {
        std::future::poll_fn(|cx| self.poll_data(cx)).await
    }

    /// The next piece.
    pub fn poll_data(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, h2::Error>>> {
        if let Some(piece) = self.gathered.take() {
            return Poll::Ready(Some(Ok(piece)));
        }
        match self.over.take() {
            None => {
                let came = self.recv.poll_data(cx);
                if let Poll::Ready(Some(Ok(piece))) = &came {
                    self.taken += piece.len();
                }
                came
            }
            Some(Over::Broken(error)) => Poll::Ready(Some(Err(error))),
            Some(Over::End) => {
                self.over = Some(Over::End);
                Poll::Ready(None)
            }
        }
    }

    /// The trailers; to be asked for when there is no more data.
    pub fn poll_trailers(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<HeaderMap>, h2::Error>> {
        self.recv.poll_trailers(cx)
    }

    /// Takes out of h2 what has arrived, because the reader takes nothing now. The task is woken when more comes.
    pub fn gather(&mut self, cx: &mut Context<'_>) {
        while self.over.is_none() {
            match self.recv.poll_data(cx) {
                Poll::Pending => break,
                Poll::Ready(Some(Ok(piece))) => {
                    self.taken += piece.len();
                    self.gathered.put(piece);
                }
                Poll::Ready(Some(Err(error))) => self.over = Some(Over::Broken(error)),
                Poll::Ready(None) => self.over = Some(Over::End),
            }
        }
        if let Some(unread) = &self.unread
            && self.counted < self.taken
        {
            unread.add(self.taken - self.counted);
            self.counted = self.taken;
        }
    }

    /// Opens the window again for bytes that the reader has taken.
    pub fn release(&mut self, bytes: usize) {
        self.taken = self.taken.saturating_sub(bytes);
        // First, so that the window of the connection is never larger by more than is unread.
        self.count_at_most(self.taken);
        // Fails only for more bytes than were received.
        let _ = self.recv.flow_control().release_capacity(bytes);
    }

    /// True when it is known that nothing follows, trailers included.
    pub fn is_end_stream(&self) -> bool {
        self.gathered.is_empty() && self.recv.is_end_stream()
    }

    fn count_at_most(&mut self, bytes: usize) {
        if let Some(unread) = &self.unread
            && self.counted > bytes
        {
            unread.sub(self.counted - bytes);
            self.counted = bytes;
        }
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.count_at_most(0);
    }
}

impl Gathered {
    fn put(&mut self, piece: Bytes) {
        if piece.len() < SMALL {
            self.small.extend_from_slice(&piece);
            return;
        }
        if !self.small.is_empty() {
            self.pieces.push_back(self.small.split().freeze());
        }
        self.pieces.push_back(piece);
    }

    fn take(&mut self) -> Option<Bytes> {
        if let Some(piece) = self.pieces.pop_front() {
            return Some(piece);
        }
        // The room goes with it: nothing is held while nothing waits.
        (!self.small.is_empty()).then(|| std::mem::take(&mut self.small).freeze())
    }

    fn is_empty(&self) -> bool {
        self.pieces.is_empty() && self.small.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use std::{future::poll_fn, time::Duration};

    use h2::SendStream;
    use http::Request;
    use tokio::task::JoinHandle;

    use super::*;

    /// Fewer than the window has bytes, and more than h2 keeps of them.
    const FRAMES: usize = 60_000;

    const PATIENCE: Duration = Duration::from_secs(10);

    #[test]
    fn what_was_gathered_comes_in_its_order_and_small_pieces_in_one() {
        let mut gathered = Gathered::default();
        let large = |byte: u8| Bytes::from(vec![byte; SMALL]);
        for piece in [&b"a"[..], b"b", &large(1), &large(2), b"c", b"", b"d"] {
            gathered.put(Bytes::copy_from_slice(piece));
        }
        let came: Vec<Bytes> = std::iter::from_fn(|| gathered.take()).collect();
        assert_eq!(came, [&b"ab"[..], &large(1), &large(2), b"cd"]);
        assert!(gathered.is_empty());
        assert_eq!(gathered.small.capacity(), 0, "room is held though nothing waits");
    }

    /// A stream into which [`FRAMES`] frames of one byte are sent, and how its connection ends for the sender.
    async fn receiving() -> (Incoming, JoinHandle<Result<(), h2::Error>>) {
        // Little fits into the pipe, so that h2 reads little before somebody else has a turn.
        let (near, far) = tokio::io::duplex(1 << 10);
        let (requests, connection) = h2::client::handshake(near).await.unwrap();
        let ended = tokio::spawn(connection);
        tokio::spawn(async move {
            let mut requests = requests.ready().await.unwrap();
            let request = Request::post("http://a/").body(()).unwrap();
            let (_response, send) = requests.send_request(request, false).unwrap();
            send_all(send).await;
            std::future::pending::<()>().await;
        });
        // h2 bears as many small frames as half of this has times 256 bytes.
        let mut server = h2::server::Builder::new()
            .initial_connection_window_size(4 << 20)
            .handshake::<_, Bytes>(far)
            .await
            .unwrap();
        let (request, respond) = server.accept().await.unwrap().unwrap();
        tokio::spawn(async move {
            let _respond = respond;
            while let Some(Ok(_)) = server.accept().await {}
        });
        (Incoming::new(request.into_body(), None), ended)
    }

    async fn send_all(mut send: SendStream<Bytes>) {
        for number in 0..FRAMES {
            send.reserve_capacity(1);
            while send.capacity() == 0 {
                match poll_fn(|cx| send.poll_capacity(cx)).await {
                    Some(Ok(_)) => {}
                    _ => return,
                }
            }
            let last = number + 1 == FRAMES;
            let byte = Bytes::copy_from_slice(&[(number % 251) as u8]);
            if send.send_data(byte, last).is_err() {
                return;
            }
        }
    }

    #[tokio::test]
    async fn small_frames_that_nobody_reads_end_a_connection() {
        let (_unread, ended) = receiving().await;
        let ended = tokio::time::timeout(PATIENCE, ended)
            .await
            .expect("the connection lives");
        assert!(ended.unwrap().is_err());
    }

    #[tokio::test]
    async fn small_frames_that_are_gathered_do_not() {
        let (mut incoming, ended) = receiving().await;
        let gathering = poll_fn(|cx| {
            incoming.gather(cx);
            match incoming.over {
                Some(_) => Poll::Ready(()),
                None => Poll::Pending,
            }
        });
        tokio::time::timeout(PATIENCE, gathering)
            .await
            .expect("the end does not come");
        assert!(!incoming.is_end_stream(), "there are bytes to read");
        let mut came = Vec::new();
        while let Some(piece) = incoming.data().await {
            let piece = piece.unwrap();
            incoming.release(piece.len());
            came.extend_from_slice(&piece);
        }
        assert!(incoming.is_end_stream());
        let sent: Vec<u8> = (0..FRAMES).map(|number| (number % 251) as u8).collect();
        assert!(came == sent, "{} of {FRAMES} bytes came", came.len());
        assert!(!ended.is_finished(), "the connection ended");
    }
}
