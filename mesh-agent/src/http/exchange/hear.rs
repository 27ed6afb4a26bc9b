//! Moves a request and its answer at once.
//!
//! Invariant: what one side does not take is not read from the other.

use std::{future::poll_fn, pin::pin, task::Poll};

use h2::Reason;
use http::header;

use super::{Charge, Done, Stage, Stop};
use crate::http::{
    Broken,
    course::Escort,
    downstream::Downstream,
    h1::{Framing, KeepAlive, Switch, hop_by_hop},
    pump::{Pump, PumpError, Sink as _, Source as _},
    streams::is_empty,
    upstream::{Answered, Heard, Upstream},
    wire,
};

/// Interim answers to one request that are passed on. Those who send several send a handful.
const INTERIM_MAX: usize = 32;

/// Why there is no answer yet.
pub(super) enum Unheard {
    /// Whoever asked is gone, or breaks the rules.
    Client(Broken),
    /// Whoever was asked is gone, or breaks the rules.
    Server(Broken),
}

/// Waits for what comes before anything is read of a request's body, and gives it up when the client resets its stream. What
/// a client opened and reset may otherwise pile up, beyond the streams that it may have. An HTTP/1 connection has one
/// request at a time, so there it is enough to see later that it is gone.
pub(super) async fn unless_gone<T>(
    down: &mut Downstream<'_>,
    work: impl Future<Output = T>,
) -> Result<T, Broken> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        match down {
            Downstream::H1(..) | Downstream::Copy(..) => {
                down.gather(cx);
                Poll::Pending
            }
            Downstream::H2(..) => down.poll_gone(cx).map(Err),
        }
    })
    .await
}

/// Moves the request until the answer begins. Interim answers are passed on.
pub(super) async fn hear(
    down: &mut Downstream<'_>,
    up: &mut Upstream,
    request: &mut Pump,
) -> Result<Answered, Unheard> {
    let mut stopped: Option<Broken> = None;
    let mut interim = 0;
    poll_fn(|cx| {
        loop {
            if stopped.is_none() && !request.is_done() {
                match request.poll(cx, down, up) {
                    Poll::Pending | Poll::Ready(Ok(())) => {}
                    Poll::Ready(Err(PumpError::Source(broken))) => {
                        return Poll::Ready(Err(Unheard::Client(broken)));
                    }
                    // The server may have answered before it stopped listening.
                    Poll::Ready(Err(PumpError::Sink(broken))) => stopped = Some(broken),
                }
            }
            match up.poll_heard(cx) {
                Poll::Ready(Ok(Heard::Interim(status, mut headers))) => {
                    // They are queued whatever room there is, so there may not be any number of them.
                    interim += 1;
                    if interim > INTERIM_MAX {
                        return Poll::Ready(Err(Unheard::Server(Broken::Interim)));
                    }
                    // What belongs to one connection, or to agents, passes no more than in the answer itself.
                    hop_by_hop::strip(&mut headers, &Switch::Stay);
                    headers.remove(header::CONTENT_LENGTH);
                    wire::clean(&mut headers);
                    if let Err(broken) = down.interim(status, headers) {
                        return Poll::Ready(Err(Unheard::Client(broken)));
                    }
                    continue;
                }
                Poll::Ready(Ok(Heard::Answer(answered))) => return Poll::Ready(Ok(answered)),
                Poll::Ready(Err(broken)) => {
                    // That a request was not looked at is said where its answer would be.
                    let why = stopped.take().filter(|_| !broken.is_unprocessed());
                    return Poll::Ready(Err(Unheard::Server(why.unwrap_or(broken))));
                }
                Poll::Pending => {}
            }
            if let Poll::Ready(Err(broken)) = down.poll_flush(cx) {
                return Poll::Ready(Err(Unheard::Client(broken)));
            }
            if (stopped.is_some() || request.is_at_end())
                && let Poll::Ready(broken) = down.poll_gone(cx)
            {
                return Poll::Ready(Err(Unheard::Client(broken)));
            }
            return Poll::Pending;
        }
    })
    .await
}

/// Passes the answer on, and what is left of the request. Gives the upstream back when both are whole.
pub(super) async fn answer<E: Escort>(
    down: &mut Downstream<'_>,
    mut up: Upstream,
    request: &mut Pump,
    mut answered: Answered,
    charge: &mut Charge<E>,
) -> (Done, Option<Upstream>) {
    charge.stage = Stage::Answering { body: answered.body };
    down.trail().heard(&answered.headers);
    charge.escort.answered(answered.status, &mut answered.headers);
    if answered.switch != Switch::Stay {
        return match down.switch(answered).await {
            Ok(()) => (Done::Switched(Box::new(up)), None),
            Err(broken) => {
                down.trail().gone();
                up.reset(Reason::CANCEL);
                (Done::Broken(broken), None)
            }
        };
    }
    let body = match answered.body {
        Framing::UntilClose => Framing::Chunked,
        other => other,
    };
    let mut response = if is_empty(body) {
        Pump::flush_only()
    } else {
        Pump::new()
    };
    let begun = down.respond(answered.status, answered.headers, body);
    let carried = match begun {
        Ok(()) => carry(down, &mut up, request, &mut response).await,
        Err(broken) => Err(Unheard::Client(broken)),
    };
    match carried {
        Ok(()) if request.is_done() => {
            down.trail().whole();
            (Done::Answered, Some(up))
        }
        // Answered early: what the client still sends has no reader.
        Ok(()) => {
            down.trail().whole();
            if let Downstream::H1(turn) = down {
                turn.keep_alive = KeepAlive::Close;
            }
            (Done::Answered, None)
        }
        Err(Unheard::Client(broken)) => {
            down.trail().gone();
            up.reset(Reason::CANCEL);
            down.reset(Reason::CANCEL);
            (Done::Broken(broken), None)
        }
        Err(Unheard::Server(broken)) => {
            down.trail().cut_by(&broken);
            down.reset(broken.reason());
            (Done::Broken(broken), None)
        }
    }
}

/// Moves both messages until the answer is whole, and the request too as long as the server takes it.
async fn carry(
    down: &mut Downstream<'_>,
    up: &mut Upstream,
    request: &mut Pump,
    response: &mut Pump,
) -> Result<(), Unheard> {
    let (mut deaf, mut answered) = (false, false);
    poll_fn(|cx| {
        if !deaf && !request.is_done() {
            match request.poll(cx, down, up) {
                Poll::Pending | Poll::Ready(Ok(())) => {}
                Poll::Ready(Err(PumpError::Source(broken))) => {
                    return Poll::Ready(Err(Unheard::Client(broken)));
                }
                // The server wants no more of it; its answer counts.
                Poll::Ready(Err(PumpError::Sink(_))) => deaf = true,
            }
        }
        if !answered {
            match response.poll(cx, up, down) {
                Poll::Ready(Ok(())) => answered = true,
                Poll::Ready(Err(PumpError::Source(broken))) => {
                    return Poll::Ready(Err(Unheard::Server(broken)));
                }
                Poll::Ready(Err(PumpError::Sink(broken))) => {
                    return Poll::Ready(Err(Unheard::Client(broken)));
                }
                Poll::Pending => {}
            }
        }
        // A server may answer early and yet read on.
        if answered && (deaf || request.is_done()) {
            return Poll::Ready(Ok(()));
        }
        if !answered
            && (deaf || request.is_at_end())
            && let Poll::Ready(broken) = down.poll_gone(cx)
        {
            return Poll::Ready(Err(Unheard::Client(broken)));
        }
        Poll::Pending
    })
    .await
}

impl Unheard {
    /// What becomes of the request.
    pub(super) fn stop(self, up: &mut Upstream) -> Stop {
        match self {
            Self::Client(broken) => {
                up.reset(Reason::CANCEL);
                match broken.fault() {
                    Some(fault) => Stop::Fault(fault),
                    None => Stop::Gone(broken),
                }
            }
            Self::Server(broken) => Stop::Fault(broken.of_server()),
        }
    }
}
