//! Bytes both ways, for connections that have left HTTP.
//!
//! Invariant: an end on one side is an end on the other, and a break is a break.

use std::{
    future::poll_fn,
    io::IoSlice,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Bytes, BytesMut};
use h2::{Reason, SendStream};
use http::HeaderMap;
use http_body::Frame;
use tokio::io::{AsyncRead as _, AsyncWrite as _, ReadBuf};

use super::{
    Broken, Reader, Writer,
    io::{ReadHalf, WriteHalf},
    pump::{Last, Pump, PumpError, Sink, Source},
    streams,
    trail::{self, Trail},
    upstream::Upstream,
};
use crate::upstream::incoming::Incoming;
use crate::upstream::session::Seat;

/// Bytes read at once.
const CHUNK: usize = 16 * 1024;

/// One side of a switched connection.
pub(super) struct Raw {
    from: From,
    to: To,
    _seat: Option<Seat>,
}

enum From {
    Connection {
        half: ReadHalf,
        seen: BytesMut,
        ended: bool,
    },
    Stream(Incoming),
}

enum To {
    Connection { half: WriteHalf, ending: bool },
    Stream(SendStream<Bytes>),
}

impl Raw {
    /// A connection.
    pub(super) fn connection(reader: Reader, writer: Writer) -> Self {
        let (half, seen) = reader.into_parts();
        Self {
            from: From::Connection {
                half,
                seen,
                ended: false,
            },
            to: To::Connection {
                half: writer.into_inner(),
                ending: false,
            },
            _seat: None,
        }
    }

    /// A stream.
    pub(super) fn stream(recv: Incoming, send: SendStream<Bytes>, seat: Option<Seat>) -> Self {
        Self {
            from: From::Stream(recv),
            to: To::Stream(send),
            _seat: seat,
        }
    }

    /// The side of a server that agreed; `None` when it has not answered.
    pub(super) fn upstream(up: Upstream) -> Option<Self> {
        match up {
            Upstream::H1(visit) => {
                let (reader, writer) = visit.connection.into_halves();
                Some(Self::connection(reader, writer))
            }
            Upstream::H2(sent) => Some(Self::stream(sent.recv?, sent.send, Some(sent.seat))),
        }
    }

    fn reset(&mut self) {
        if let To::Stream(send) = &mut self.to {
            send.send_reset(Reason::CONNECT_ERROR);
        }
    }

    fn in_order(&self) {
        if let From::Connection { half, .. } = &self.from {
            half.in_order();
        }
    }
}

/// Carries bytes both ways until both sides have ended, one breaks, or they may not go on.
pub(super) async fn relay(mut down: Raw, mut up: Raw, trail: &mut Trail) -> Result<(), Broken> {
    let (mut there, mut back) = (Pump::new(), Pump::new());
    let mut revoked = trail.take_revoked();
    let carried = poll_fn(|cx| {
        let one = there.poll(cx, &mut down.from, &mut up.to)?;
        trail.count_request(there.take_carried());
        let other = back.poll(cx, &mut up.from, &mut down.to)?;
        trail.count_response(back.take_carried());
        if one.is_ready() && other.is_ready() {
            Poll::Ready(Ok(()))
        } else {
            Poll::Pending
        }
    });
    let carried = tokio::select! {
        biased;
        carried = carried => carried,
        // Whatever is dropped unfinished is reset.
        fault = trail::revoked(&mut revoked) => {
            let cause = fault.cause;
            trail.faulted(fault);
            return Err(Broken::Stopped(cause));
        }
    };
    match carried {
        Ok(()) => {
            trail.whole();
            down.in_order();
            up.in_order();
            Ok(())
        }
        Err(PumpError::Source(broken) | PumpError::Sink(broken)) => {
            trail.whole();
            down.reset();
            up.reset();
            Err(broken)
        }
    }
}

impl Source for From {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            Self::Connection { half, seen, ended } => {
                if !seen.is_empty() {
                    return Poll::Ready(Some(Ok(Frame::data(std::mem::take(seen).freeze()))));
                }
                if *ended {
                    return Poll::Ready(None);
                }
                // On the stack until there is something: an idle connection holds no buffer.
                let mut space = [std::mem::MaybeUninit::uninit(); CHUNK];
                let mut buffer = ReadBuf::uninit(&mut space);
                ready!(Pin::new(half).poll_read(cx, &mut buffer))?;
                if buffer.filled().is_empty() {
                    *ended = true;
                    return Poll::Ready(None);
                }
                Poll::Ready(Some(Ok(Frame::data(Bytes::copy_from_slice(buffer.filled())))))
            }
            Self::Stream(recv) => match ready!(streams::poll_frame(recv, cx)) {
                // Trailers mean nothing here.
                Some(Ok(frame)) if frame.is_trailers() => Poll::Ready(None),
                other => Poll::Ready(other),
            },
        }
    }

    fn release(&mut self, bytes: usize) {
        if let Self::Stream(recv) = self {
            recv.release(bytes);
        }
    }

    fn gather(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::Connection { half, .. } => half.gather(cx),
            Self::Stream(recv) => recv.gather(cx),
        }
    }

    fn is_done(&self) -> bool {
        false
    }
}

impl Sink for To {
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
        last: Last,
    ) -> Poll<Result<usize, Broken>> {
        match self {
            Self::Connection { half, .. } => {
                let taken = ready!(Pin::new(half).poll_write_vectored(cx, &[IoSlice::new(data)]))?;
                if taken == 0 {
                    return Poll::Ready(Err(Broken::Closed));
                }
                bytes::Buf::advance(data, taken);
                Poll::Ready(Ok(taken))
            }
            Self::Stream(send) => streams::poll_send(send, cx, data, last),
        }
    }

    fn finish(&mut self, _: Option<HeaderMap>) -> Result<(), Broken> {
        match self {
            Self::Connection { ending, .. } => {
                *ending = true;
                Ok(())
            }
            Self::Stream(send) => streams::finish(send, None),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::Connection { half, ending: true } => Pin::new(half).poll_shutdown(cx).map_err(Broken::from),
            Self::Connection { .. } | Self::Stream(_) => Poll::Ready(Ok(())),
        }
    }
}
