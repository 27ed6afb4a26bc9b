//! The TCP connection below a tunnel's TLS, read in large pieces.
//!
//! rustls asks for 4 KiB at a time. Here each system call takes what has come, and rustls is served from that. Nothing
//! is held once it was served. A tunnel's task reads and writes as long as there is something; here it is stopped when it
//! has had its turn, reading before writing.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
};

use crate::upstream::{
    buffer::Buffer,
    fair::{Part, poll_turn},
};

/// A TCP connection that is to carry a tunnel.
pub(crate) struct Wire {
    tcp: TcpStream,
    /// Read from the connection, but not yet asked for.
    ahead: Option<Buffer>,
}

impl Wire {
    pub(crate) fn new(tcp: TcpStream) -> Self {
        Self { tcp, ahead: None }
    }
}

impl AsyncRead for Wire {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        let mut ahead = match this.ahead.take() {
            Some(ahead) => ahead,
            None => {
                ready!(poll_turn(cx, Part::Half));
                ready!(this.tcp.poll_read_ready(cx))?;
                let mut ahead = Buffer::take();
                let mut read = ReadBuf::new(ahead.room());
                ready!(Pin::new(&mut this.tcp).poll_read(cx, &mut read))?;
                let count = read.filled().len();
                ahead.fill(count);
                ahead
            }
        };
        into.put_slice(ahead.advance(into.remaining()));
        if !ahead.is_empty() {
            this.ahead = Some(ahead);
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(poll_turn(cx, Part::Whole));
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(poll_turn(cx, Part::Whole));
        Pin::new(&mut self.tcp).poll_write_vectored(cx, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.tcp.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::{
        io::{AsyncReadExt as _, AsyncWriteExt as _},
        net::{TcpListener, TcpSocket},
    };

    use super::*;

    #[tokio::test]
    async fn bytes_and_the_end_come_whatever_is_asked_for_at_once() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut writer = TcpSocket::new_v4()
            .unwrap()
            .connect(listener.local_addr().unwrap())
            .await
            .unwrap();
        let mut wire = Wire::new(listener.accept().await.unwrap().0);
        let sent: Vec<u8> = (0..500_000_u32).map(|number| (number % 251) as u8).collect();
        let expected = sent.clone();
        let sender = tokio::spawn(async move {
            writer.write_all(&sent).await.unwrap();
        });
        let (mut came, mut piece) = (Vec::new(), [0; 4096]);
        for asked in (1..=4096).cycle() {
            match wire.read(&mut piece[..asked]).await.unwrap() {
                0 => break,
                count => came.extend_from_slice(&piece[..count]),
            }
        }
        sender.await.unwrap();
        assert_eq!(came.len(), expected.len());
        assert!(came == expected);
        assert!(wire.ahead.is_none(), "a buffer is held though nothing is in it");
    }
}
