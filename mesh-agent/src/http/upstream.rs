//! The side of whoever is asked: one request goes here, its answer comes from here.
//!
//! Invariant: a connection is used again only after both messages on it were read and written to their ends.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{Reason, SendStream, client::ResponseFuture};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header, request};
use http_body::Frame;

use super::{
    Broken,
    h1::{Asked, Framing, KeepAlive, Switch, Target},
    pool::Connection,
    pump::{Last, Sink, Source},
    streams::{self, is_empty},
    wire,
};
use crate::upstream::incoming::Incoming;
use crate::{
    telemetry::Seat as Share,
    upstream::session::{Room, Seat},
};

/// One request's place on the connection it goes over.
pub(super) enum Upstream {
    H1(Visit),
    H2(Sent),
}

/// A request's turn on an HTTP/1 connection to a server.
pub(super) struct Visit {
    pub(super) connection: Connection,
    asked: Asked,
    /// An interim answer came.
    interim: Interim,
    /// Whether the server lets the connection go on; not before its answer.
    keep_alive: KeepAlive,
}

/// Whether an interim answer came.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Interim {
    None,
    Heard,
}

/// A request's stream on an HTTP/2 connection.
pub(super) struct Sent {
    response: Option<ResponseFuture>,
    pub(super) send: SendStream<Bytes>,
    pub(super) recv: Option<Incoming>,
    method: Method,
    pub(super) seat: Seat,
    /// Keeps the windows of the workload small enough for all its streams.
    _share: Share,
}

/// What was heard from whoever is asked.
pub(super) enum Heard {
    /// An interim answer; more follows.
    Interim(StatusCode, HeaderMap),
    /// The answer.
    Answer(Answered),
}

/// The head of an answer.
pub(super) struct Answered {
    pub(super) status: StatusCode,
    pub(super) headers: HeaderMap,
    pub(super) body: Framing,
    /// Whether the connection leaves HTTP here.
    pub(super) switch: Switch,
}

impl Upstream {
    /// Queues a request on an HTTP/1 connection.
    pub(super) fn visit(
        mut connection: Connection,
        parts: &request::Parts,
        target: Target,
        body: Framing,
        switch: &Switch,
    ) -> Result<Self, Broken> {
        connection.writer.request(parts, target, body, KeepAlive::Keep)?;
        if is_empty(body) {
            connection.writer.finish(None)?;
        }
        Ok(Self::H1(Visit {
            connection,
            asked: Asked::of(&parts.method, switch),
            interim: Interim::None,
            keep_alive: KeepAlive::Close,
        }))
    }

    /// Sends a request on an HTTP/2 connection. `method` is that of the client, which an extended CONNECT hides.
    pub(super) fn send(
        room: Room,
        request: Request<()>,
        body: Framing,
        method: Method,
    ) -> Result<Self, Broken> {
        let share = room.share();
        let (response, send, seat) = room.send(request, is_empty(body))?;
        Ok(Self::H2(Sent {
            response: Some(response),
            send,
            recv: None,
            method,
            seat,
            _share: share,
        }))
    }

    /// The next head.
    pub(super) fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Result<Heard, Broken>> {
        match self {
            Self::H1(visit) => {
                let head = ready!(visit.connection.reader.poll_response(cx, visit.asked))?;
                if head.is_interim() {
                    visit.interim = Interim::Heard;
                    return Poll::Ready(Ok(Heard::Interim(head.parts.status, head.parts.headers)));
                }
                visit.keep_alive = head.keep_alive;
                Poll::Ready(Ok(Heard::Answer(Answered {
                    status: head.parts.status,
                    headers: head.parts.headers,
                    body: head.body,
                    switch: head.switch,
                })))
            }
            Self::H2(sent) => sent.poll_heard(cx),
        }
    }

    /// True when anything of an answer came over an HTTP/1 connection, interim ones included.
    pub(super) fn has_spoken(&self) -> bool {
        match self {
            Self::H1(visit) => visit.interim == Interim::Heard || visit.connection.reader.has_buffered(),
            Self::H2(_) => false,
        }
    }

    /// The connection, if it may carry another request.
    pub(super) fn reusable(self) -> Option<Connection> {
        match self {
            Self::H1(visit)
                if visit.keep_alive == KeepAlive::Keep
                    && visit.connection.writer.is_finished()
                    && visit.connection.writer.is_flushed()
                    && visit.connection.reader.is_body_done()
                    && !visit.connection.reader.has_buffered() =>
            {
                Some(visit.connection)
            }
            Self::H1(_) | Self::H2(_) => None,
        }
    }

    /// Breaks the exchange off. An HTTP/1 connection resets when it is dropped.
    pub(super) fn reset(&mut self, reason: Reason) {
        if let Self::H2(sent) = self {
            sent.send.send_reset(reason);
        }
    }
}

impl Sent {
    fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Result<Heard, Broken>> {
        let Some(response) = &mut self.response else {
            return Poll::Ready(Err(Broken::Closed));
        };
        if let Poll::Ready(Some(interim)) = response.poll_informational(cx) {
            self.seat.heard();
            let (parts, ()) = interim?.into_parts();
            return Poll::Ready(Ok(Heard::Interim(parts.status, parts.headers)));
        }
        let heard = ready!(std::pin::Pin::new(response).poll(cx));
        self.seat.heard();
        let (mut parts, recv) = heard?.into_parts();
        self.response = None;
        if let Some(protocol) = wire::take_switched(&mut parts.headers) {
            self.recv = Some(self.seat.incoming(recv));
            return Poll::Ready(Ok(Heard::Answer(Answered {
                status: StatusCode::SWITCHING_PROTOCOLS,
                headers: parts.headers,
                body: Framing::None,
                switch: Switch::Upgrade(protocol),
            })));
        }
        let body = framing(&self.method, parts.status, &parts.headers, recv.is_end_stream());
        self.recv = Some(self.seat.incoming(recv));
        Poll::Ready(Ok(Heard::Answer(Answered {
            status: parts.status,
            headers: parts.headers,
            body,
            switch: Switch::Stay,
        })))
    }
}

/// How the body of an answer that came over HTTP/2 is framed where frames have no ends.
fn framing(method: &Method, status: StatusCode, headers: &HeaderMap, ended: bool) -> Framing {
    let bodiless = *method == Method::HEAD
        || status == StatusCode::NO_CONTENT
        || status == StatusCode::NOT_MODIFIED
        || status.is_informational();
    if bodiless {
        return Framing::None;
    }
    match headers.get(header::CONTENT_LENGTH).and_then(length) {
        Some(length) => Framing::Length(length),
        None if ended => Framing::Length(0),
        None => Framing::Chunked,
    }
}

/// The length that a header says; h2 has seen to it that frames agree with it.
pub(super) fn length(value: &HeaderValue) -> Option<u64> {
    value.to_str().ok()?.parse().ok()
}

impl Source for Upstream {
    fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        match self {
            Self::H1(visit) => visit
                .connection
                .reader
                .poll_frame(cx)
                .map(|frame| frame.map(|frame| frame.map_err(Broken::from))),
            Self::H2(sent) => match &mut sent.recv {
                Some(recv) => streams::poll_frame(recv, cx),
                None => Poll::Ready(None),
            },
        }
    }

    fn release(&mut self, bytes: usize) {
        if let Self::H2(Sent { recv: Some(recv), .. }) = self {
            recv.release(bytes);
        }
    }

    fn gather(&mut self, cx: &mut Context<'_>) {
        if let Self::H2(Sent { recv: Some(recv), .. }) = self {
            recv.gather(cx);
        }
    }

    fn is_done(&self) -> bool {
        match self {
            Self::H1(visit) => visit.connection.reader.is_body_done(),
            Self::H2(sent) => sent.recv.as_ref().is_none_or(Incoming::is_end_stream),
        }
    }
}

impl Sink for Upstream {
    fn poll_data(
        &mut self,
        cx: &mut Context<'_>,
        data: &mut Bytes,
        last: Last,
    ) -> Poll<Result<usize, Broken>> {
        match self {
            Self::H1(visit) => streams::poll_write(&mut visit.connection.writer, cx, data, last),
            Self::H2(sent) => streams::poll_send(&mut sent.send, cx, data, last),
        }
    }

    fn finish(&mut self, trailers: Option<HeaderMap>) -> Result<(), Broken> {
        match self {
            Self::H1(visit) => Ok(visit.connection.writer.finish(trailers.as_ref())?),
            Self::H2(sent) => streams::finish(&mut sent.send, trailers),
        }
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Broken>> {
        match self {
            Self::H1(visit) => visit.connection.writer.poll_flush(cx).map_err(Broken::from),
            Self::H2(_) => Poll::Ready(Ok(())),
        }
    }
}
