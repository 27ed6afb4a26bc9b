//! The side of whoever asked: one request's body comes from here, its answer goes here.
//!
//! Invariant: an answer that was begun and not finished ends as a reset, never as an end.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use h2::{Reason, SendStream, server::SendResponse};
use http::{HeaderMap, Response, StatusCode, header};
use http_body::Frame;
use tokio::time::Sleep;

use super::{
    Broken, Reader, Writer,
    exchange::JOINED,
    h1::{Asked, Framing, KeepAlive, Switch},
    mirror::Followed,
    pump::{Last, Sink, Source},
    streams::{self, is_empty},
    trail::Trail,
    upstream::Answered,
    wire,
};
use crate::upstream::incoming::Incoming;

/// After a client of HTTP/1 has ended its side, an answer has so long to begin.
const HALF_CLOSED: Duration = Duration::from_secs(5);

/// One request's place on the connection it came over.
pub(super) enum Downstream<'a> {
    H1(Turn<'a>),
    H2(StreamPair<'a>),
    /// Nobody asked: the request is a copy, and its answer goes nowhere.
    Copy(Followed, &'a mut Trail),
}

/// A request's turn on an HTTP/1 connection.
pub(super) struct Turn<'a> {
    pub(super) reader: &'a mut Reader,
    pub(super) writer: &'a mut Writer,
    pub(super) asked: Asked,
    /// Whether the connection goes on after this request, as far as is known.
    pub(super) keep_alive: KeepAlive,
    pub(super) listening: Listening,
    pub(super) trail: &'a mut Trail,
}

/// How long a client that has ended its side is taken to wait for its answer: many do so that have given up.
#[derive(Default)]
pub(super) enum Listening {
    /// It has not ended it.
    #[default]
    Unasked,
    /// Until then, if no answer begins.
    Until(Pin<Box<Sleep>>),
    /// Its answer has begun: whether it is gone shows in writing that.
    Endless,
}

/// A request's stream on an HTTP/2 connection.
pub(super) struct StreamPair<'a> {
    pub(super) recv: Incoming,
    pub(super) respond: Respond,
    pub(super) trail: &'a mut Trail,
}

/// How far the answer on a stream is.
pub(super) enum Respond {
    Unanswered(SendResponse<Bytes>),
    Body(SendStream<Bytes>),
    /// Answered in full by its head.
    Over,
}

impl Listening {
    /// Begins with the first call.
    fn poll_end(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if matches!(self, Self::Unasked) {
            *self = Self::Until(Box::pin(tokio::time::sleep(HALF_CLOSED)));
        }
        match self {
            Self::Until(end) => end.as_mut().poll(cx),
            Self::Unasked | Self::Endless => Poll::Pending,
        }
    }
}

impl Downstream<'_> {
    /// What is seen of the request.
    pub(super) fn trail(&mut self) -> &mut Trail {
        match self {
            Self::H1(turn) => turn.trail,
            Self::H2(pair) => pair.trail,
            Self::Copy(_, trail) => trail,
        }
    }

    /// Passes an interim answer on.
    pub(super) fn interim(&mut self, status: StatusCode, headers: HeaderMap) -> Result<(), Broken> {
        match self {
            Self::H1(turn) => Ok(turn.writer.interim(status, &headers, turn.asked)?),
            Self::H2(pair) => match &mut pair.respond {
                Respond::Unanswered(respond) => Ok(respond.send_informational(head(status, headers))?),
                Respond::Body(_) | Respond::Over => Ok(()),
            },
            Self::Copy(..) => Ok(()),
        }
    }

    /// Begins the answer.
    pub(super) fn respond(
        &mut self,
        status: StatusCode,
        headers: HeaderMap,
        body: Framing,
    ) -> Result<(), Broken> {
        self.trail().answered(status, &headers);
        match self {
            Self::H1(turn) => {
                turn.listening = Listening::Endless;
                turn.keep_alive =
                    turn.writer
                        .response(status, &headers, body, turn.asked, turn.keep_alive)?;
                if is_empty(body) {
                    turn.writer.finish(None)?;
                }
                Ok(())
            }
            Self::H2(pair) => {
                let Respond::Unanswered(respond) = &mut pair.respond else {
                    return Ok(());
                };
                let over = is_empty(body);
                let send = respond.send_response(head(status, headers), over)?;
                pair.respond = if over { Respond::Over } else { Respond::Body(send) };
                Ok(())
            }
            Self::Copy(..) => Ok(()),
        }
    }

    /// Agrees to leave HTTP, and sees to it that the client knows.
    pub(super) async fn switch(&mut self, answered: Answered) -> Result<(), Broken> {
        let Answered {
            status,
            mut headers,
            switch,
            ..
        } = answered;
        self.trail().answered(status, &headers);
        match self {
            Self::H1(turn) => {
                if let Switch::Upgrade(protocol) = switch {
                    headers.insert(header::UPGRADE, protocol);
                }
                turn.writer
                    .response(status, &headers, Framing::None, turn.asked, KeepAlive::Keep)?;
                turn.writer.flush().await?;
            }
            Self::H2(pair) => {
                if let Switch::Upgrade(protocol) = switch {
                    headers.remove(header::UPGRADE);
                    wire::write_switched(&mut headers, protocol);
                }
                if let Respond::Unanswered(respond) = &mut pair.respond {
                    pair.respond = Respond::Body(respond.send_response(head(JOINED, headers), false)?);
                }
            }
            Self::Copy(..) => return Err(Broken::Closed),
        }
        Ok(())
    }

    /// Ready when whoever asked is gone. To be asked while nothing is read of the request: what comes of it is gathered.
    pub(super) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<Broken> {
        self.gather(cx);
        match self {
            Self::H1(turn) => match ready!(turn.reader.poll_closed(cx)) {
                Ok(()) => turn.listening.poll_end(cx).map(|()| Broken::Closed),
                Err(error) => Poll::Ready(error.into()),
            },
            Self::H2(pair) => {
                let reset = match &mut pair.respond {
                    Respond::Unanswered(respond) => ready!(respond.poll_reset(cx)),
                    Respond::Body(send) => ready!(send.poll_reset(cx)),
                    Respond::Over => return Poll::Pending,
                };
                Poll::Ready(match reset {
                    Ok(reason) => Broken::Reset(reason),
                    Err(error) => error.into(),
                })
            }
            Self::Copy(..) => Poll::Pending,
        }
    }

    /// Breaks the exchange off. An HTTP/1 connection is not to be used any more, and resets when it is dropped.
    pub(super) fn reset(&mut self, reason: Reason) {
        match self {
            Self::H1(turn) => turn.keep_alive = KeepAlive::Close,
            Self::H2(pair) => match &mut pair.respond {
                Respond::Unanswered(respond) => respond.send_reset(reason),
                Respond::Body(send) => send.send_reset(reason),
                Respond::Over => {}
            },
            Self::Copy(..) => {}
        }
    }

    /// Ends an answer of gRPC that was begun with a status; `None` where trailers cannot be said any more.
    pub(super) fn end_grpc(&mut self, trailers: HeaderMap) -> Option<()> {
        self.trail().trailed(&trailers);
        match self {
            Self::H2(StreamPair {
                respond: Respond::Body(send),
                ..
            }) => streams::finish(send, Some(trailers)).ok(),
            Self::H1(_) | Self::H2(_) | Self::Copy(..) => None,
        }
    }
}

impl Source for Downstream<'_> {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            Self::H1(turn) => turn
                .reader
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Broken::from))),
            Self::H2(pair) => streams::poll_frame(&mut pair.recv, cx),
            Self::Copy(body, _) => body.poll_frame(cx),
        }
    }

    fn release(&mut self, bytes: usize) {
        self.trail().count_request(bytes);
        if let Self::H2(pair) = self {
            pair.recv.release(bytes);
        }
    }

    fn gather(&mut self, cx: &mut Context<'_>) {
        match self {
            Self::H1(turn) => turn.reader.half_mut().gather(cx),
            Self::H2(pair) => pair.recv.gather(cx),
            Self::Copy(..) => {}
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::H1(turn) => turn.reader.is_body_done(),
            Self::H2(pair) => pair.recv.is_end_stream(),
            Self::Copy(body, _) => body.is_done(),
        }
    }
}

impl Sink for Downstream<'_> {
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
        last: Last,
    ) -> Poll<Result<usize, Broken>> {
        let taken = ready!(match self {
            Self::H1(turn) => streams::poll_write(turn.writer, cx, data, last),
            Self::H2(pair) => match &mut pair.respond {
                Respond::Body(send) => streams::poll_send(send, cx, data, last),
                Respond::Unanswered(_) | Respond::Over => Poll::Ready(Err(Broken::Closed)),
            },
            Self::Copy(..) => Poll::Ready(Ok(std::mem::take(data).len())),
        })?;
        self.trail().count_response(taken);
        Poll::Ready(Ok(taken))
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        if let Some(trailers) = &trailers {
            self.trail().trailed(trailers);
        }
        match self {
            Self::H1(turn) => Ok(turn.writer.finish(trailers.as_ref())?),
            Self::H2(pair) => match &mut pair.respond {
                Respond::Body(send) => streams::finish(send, trailers),
                Respond::Unanswered(_) | Respond::Over => Err(Broken::Closed),
            },
            Self::Copy(..) => Ok(()),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::H1(turn) => turn.writer.poll_flush(cx).map_err(Broken::from),
            Self::H2(_) | Self::Copy(..) => Poll::Ready(Ok(())),
        }
    }
}

fn head(status: StatusCode, headers: HeaderMap) -> Response<()> {
    let mut response = Response::new(());
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}
