//! A connection that speaks HTTP/1.
//!
//! Invariant: the next request is read only after the last was answered in full.

use std::{
    future::poll_fn,
    io,
    pin::{Pin, pin},
    task::{Poll, ready},
    time::Duration,
};

use bytes::BytesMut;
use http::Method;
use tokio::{
    io::{AsyncRead as _, ReadBuf},
    time::{Instant, Sleep},
};
use tokio_util::sync::CancellationToken;

use super::{HEAD, IDLE, parting};
use crate::{
    http::{
        Broken, LIMITS, Reader, Writer,
        downstream::{Downstream, Listening, Turn},
        exchange::{Done, Message, Steer, exchange, refuse},
        fault::Dialect,
        h1::{Asked, KeepAlive, ReadError, Readiness, RequestHead, Switch},
        io::{Transport, split},
        mirror::Copies,
        raw::{self, Raw},
        trail::{Attached, Attended},
        wire::{self, Spoken},
    },
    upstream::Ending,
};

/// How much of what a client still sends is read after an answer that ends its connection, so that it reads the answer.
const LINGER_BYTES: usize = 1 << 20;
const LINGER: Duration = Duration::from_secs(2);

/// Serves a connection of which `seen` was read.
pub(super) async fn serve<S: Steer>(
    client: Transport,
    seen: BytesMut,
    steer: &S,
    leaving: &CancellationToken,
) -> Ending {
    let (read, write) = split(client);
    let mut reader = Reader::with_buffered(read, seen, LIMITS);
    let mut writer = Writer::new(write);
    let mut patience = Patience::new(IDLE);
    loop {
        let head = match next(&mut reader, &mut patience, leaving).await {
            Ok(Some(head)) => head,
            Ok(None) => return end(reader, writer).await,
            Err(error) => return refuse_head(reader, writer, steer, error).await,
        };
        let asked = head.asked();
        let keep_alive = if leaving.is_cancelled() {
            KeepAlive::Close
        } else {
            head.keep_alive
        };
        let message = message(head);
        let mut attended = Attended::new(steer, &message);
        let mut down = Downstream::H1(Turn {
            reader: &mut reader,
            writer: &mut writer,
            asked,
            keep_alive,
            listening: Listening::default(),
            trail: &mut attended.trail,
        });
        // A connection that waits for its next request has no room for one.
        let done = Box::pin(exchange(steer, message, &mut down)).await;
        let Downstream::H1(Turn { keep_alive, .. }) = down else {
            return broken("a request changed its connection");
        };
        match done {
            Done::Answered if keep_alive == KeepAlive::Keep && reader.is_body_done() => {}
            Done::Answered => return end(reader, writer).await,
            Done::Broken(error) => return broken(error),
            Done::Switched(up) => {
                let Some(up) = Raw::upstream(*up) else {
                    return broken("the server switched without an answer");
                };
                return match raw::relay(Raw::connection(reader, writer), up, &mut attended.trail).await {
                    Ok(()) => Ending::Closed,
                    Err(error) => broken(error),
                };
            }
        }
    }
}

/// A request as it goes on.
fn message(head: RequestHead) -> Message {
    let RequestHead {
        mut parts,
        target,
        body,
        switch,
        ..
    } = head;
    let switch = wire::receive(&mut parts, switch, body);
    Message {
        parts,
        spoken: Spoken::Http1,
        target,
        body,
        switch,
        attached: Attached::default(),
        copies: Copies::default(),
    }
}

/// Waits for the next request, without a buffer until something comes; `None` when the connection ends in order.
async fn next(
    reader: &mut Reader,
    patience: &mut Patience,
    leaving: &CancellationToken,
) -> Result<Option<RequestHead>, ReadError> {
    if !reader.has_buffered() {
        let mut leave = pin!(parting(leaving));
        let ready = poll_fn(|cx| {
            if let Poll::Ready(ready) = reader.poll_readable(cx) {
                return Poll::Ready(Some(ready));
            }
            if leave.as_mut().poll(cx).is_ready() || patience.poll(cx).is_ready() {
                return Poll::Ready(None);
            }
            Poll::Pending
        })
        .await;
        match ready {
            Some(Ok(Readiness::Bytes)) => {}
            Some(Ok(Readiness::Closed)) | None => return Ok(None),
            Some(Err(error)) => return Err(error),
        }
    }
    patience.touch();
    let mut request = pin!(reader.request());
    // Most come whole: those need no timer.
    if let Poll::Ready(head) = futures_util::poll!(&mut request) {
        return head;
    }
    tokio::time::timeout(HEAD, request)
        .await
        .unwrap_or(Err(ReadError::Timeout))
}

/// Answers what is no request, if anybody is there to read it.
async fn refuse_head<S: Steer>(
    mut reader: Reader,
    mut writer: Writer,
    steer: &S,
    error: ReadError,
) -> Ending {
    let error = Broken::from(error);
    let Some(fault) = error.fault() else {
        return broken(error);
    };
    let mut attended = Attended::unread(steer);
    attended.trail.faulted(fault.clone());
    let mut down = Downstream::H1(Turn {
        reader: &mut reader,
        writer: &mut writer,
        asked: Asked::of(&Method::GET, &Switch::Stay),
        keep_alive: KeepAlive::Close,
        listening: Listening::default(),
        trail: &mut attended.trail,
    });
    match refuse(steer.signature(), &fault, Dialect::Http, &Method::GET, &mut down).await {
        Done::Answered => end(reader, writer).await,
        Done::Broken(_) | Done::Switched(_) => broken(error),
    }
}

/// Ends a connection so that its client reads what was written, whatever it still sends.
async fn end(reader: Reader, mut writer: Writer) -> Ending {
    if poll_fn(|cx| writer.poll_shutdown(cx)).await.is_err() {
        return Ending::Closed;
    }
    let (mut half, _) = reader.into_parts();
    half.in_order();
    let mut read = 0;
    let drain = poll_fn(|cx| {
        // On the stack: what waits holds no buffer.
        let mut scrap = [std::mem::MaybeUninit::uninit(); 4096];
        while read < LINGER_BYTES {
            let mut buffer = ReadBuf::uninit(&mut scrap);
            match ready!(Pin::new(&mut half).poll_read(cx, &mut buffer)) {
                Ok(()) if !buffer.filled().is_empty() => read += buffer.filled().len(),
                Ok(()) | Err(_) => break,
            }
        }
        Poll::Ready(())
    });
    // Whoever goes on longer is cut.
    let _ = tokio::time::timeout(LINGER, drain).await;
    Ending::Closed
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Ending {
    Ending::Broken(io::Error::other(error))
}

/// Lets a connection be idle for a while, with one timer for its life: a request costs only a mark.
struct Patience {
    limit: Duration,
    sleep: Option<Pin<Box<Sleep>>>,
    touched: bool,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            sleep: None,
            touched: false,
        }
    }

    fn touch(&mut self) {
        self.touched = true;
    }

    /// Ready when nothing touched it for the limit, or up to twice as long.
    fn poll(&mut self, cx: &mut std::task::Context<'_>) -> Poll<()> {
        let limit = self.limit;
        let sleep = self
            .sleep
            .get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        while sleep.as_mut().poll(cx).is_ready() {
            if !std::mem::take(&mut self.touched) {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(Instant::now() + limit);
        }
        Poll::Pending
    }
}
