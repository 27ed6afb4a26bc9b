//! One request and its answer, from end to end.
//!
//! A downstream connection hands over each request; [`Steer`] says where it goes; this file opens the way, moves both
//! messages at once in the one task, and answers by itself when there is nobody to answer.
//!
//! Invariant: nothing is sent again that a server may have seen, unless that is harmless; an answer is whole or visibly cut.

use std::{future::poll_fn, pin::pin, sync::Arc, task::Poll, time::Instant};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header, request};
use tokio::net::TcpStream;
use tokio_util::task::TaskTracker;

use super::{
    Broken, LIMITS,
    course::{Course, Deadline, Escort, Onward},
    downstream::Downstream,
    fault::{Cause, Dialect, Fault, Signature},
    h1::{Framing, KeepAlive, Switch, Target, hop_by_hop},
    mirror::Copies,
    pool::{Connection, Repeat, Shelf},
    pump::{Again, Last, Pump, PumpError, Sink, Source as _},
    streams::is_empty,
    trail::{self, Attached, Trail},
    upstream::{Answered, Heard, Upstream},
    wire::{self, Spoken},
};
use crate::telemetry::{self, Claim};
use crate::upstream::session::{Room, Session};

/// Interim answers to one request that are passed on. Those who send several send a handful.
const INTERIM_MAX: usize = 32;

/// A request on its way.
pub struct Message {
    /// Its head, without what belongs to one connection.
    pub parts: request::Parts,
    /// What the client speaks.
    pub spoken: Spoken,
    /// What whoever steers knows of it.
    pub attached: Attached,
    pub(super) target: Target,
    pub(super) body: Framing,
    pub(super) switch: Switch,
    /// Where its body goes as well.
    pub(super) copies: Copies,
}

/// Decides where requests go: the part of the way that the engine does not know.
pub trait Steer: Send + Sync {
    /// A server as [`Steer::steer`] names it.
    type Server: Server;
    /// What goes with a request.
    type Escort: Escort;

    /// Who signs the answers that the mesh makes.
    fn signature(&self) -> &Signature;

    /// The connection that the requests come on, as it is told of.
    fn connection(&self) -> Option<&Arc<telemetry::Connection>> {
        None
    }

    /// A request is over, however it ended.
    fn over(&self, _: &Trail) {}

    /// What becomes of this request. May change its head.
    fn steer(
        &self,
        message: &mut Message,
    ) -> impl Future<Output = Result<Course<Self::Server, Self::Escort>, Fault>> + Send;
}

/// The next hop of a request.
pub enum Hop<S> {
    /// The agent of the destination, as a request in a tunnel to it.
    Agent(Room),
    /// Straight to a server, in the version that the client speaks.
    Server(S),
}

/// A server that is spoken to directly.
pub trait Server: Send + Sync {
    /// Connections to it that may be used for this request.
    fn shelf(&self) -> &Arc<Shelf>;

    /// Owns the tasks of HTTP/2 connections to it.
    fn connections(&self) -> &TaskTracker;

    /// In whose turns its connections work, and what they may hold.
    fn claim(&self) -> Arc<Claim>;

    /// Opens a connection to it.
    fn connect(&self) -> impl Future<Output = Result<TcpStream, Fault>> + Send;
}

/// How an exchange ended.
pub(super) enum Done {
    /// With an answer.
    Answered,
    /// Before the answer was whole. An HTTP/1 connection downstream must be reset.
    Broken(Broken),
    /// Both sides left HTTP.
    Switched(Box<Upstream>),
}

/// Why there is no answer yet.
enum Unheard {
    /// Whoever asked is gone, or breaks the rules.
    Client(Broken),
    /// Whoever was asked is gone, or breaks the rules.
    Server(Broken),
}

/// What stops an exchange before an answer has begun.
enum Stop {
    /// The mesh answers.
    Fault(Fault),
    /// Nobody is there to read an answer.
    Gone(Broken),
}

impl From<Fault> for Stop {
    fn from(fault: Fault) -> Self {
        Self::Fault(fault)
    }
}

/// Who goes with a request, and how far it is.
struct Charge<E> {
    escort: E,
    stage: Stage,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    /// Nobody has answered.
    Unanswered,
    /// The client hears an answer: there can be no other.
    Answering { body: Framing },
}

/// Serves one request.
pub(super) async fn exchange<S: Steer>(steer: &S, mut message: Message, down: &mut Downstream<'_>) -> Done {
    let dialect = Dialect::of(&message.parts.headers);
    let method = message.parts.method.clone();
    if method == Method::CONNECT {
        // Nobody could judge what would be asked for inside.
        let fault = Fault::new(Cause::Method, "CONNECT does not pass here");
        return refused(steer, &fault, dialect, &method, down).await;
    }
    if let Err(fault) = down.trail().enter() {
        return refused(steer, &fault, dialect, &method, down).await;
    }
    let Onward {
        hop,
        escort,
        deadline,
    } = match unless_gone(down, steer.steer(&mut message)).await {
        Ok(Ok(Course::Onward(onward))) => onward,
        Ok(Ok(Course::Answer(answer))) => {
            let done = say(answer.status, answer.headers, Bytes::new(), &method, down).await;
            down.trail().attach(message.attached);
            down.trail().whole();
            return done;
        }
        Ok(Err(fault)) => {
            down.trail().attach(message.attached);
            return refused(steer, &fault, dialect, &method, down).await;
        }
        Err(broken) => {
            down.trail().gone();
            return Done::Broken(broken);
        }
    };
    down.trail().attach(std::mem::take(&mut message.attached));
    let mut revoked = down.trail().take_revoked();
    let mut request = if is_empty(message.body) {
        Pump::flush_only()
    } else {
        Pump::new()
    };
    request.share(std::mem::take(&mut message.copies));
    let mut charge = Charge {
        escort,
        stage: Stage::Unanswered,
    };
    let ended = {
        let work = pin!(forward(hop, message, down, &mut request, &mut charge));
        tokio::select! {
            biased;
            ended = Deadline::bound(deadline, work) => ended,
            fault = trail::revoked(&mut revoked) => Err(fault),
        }
    };
    match ended {
        Ok(Ok(done)) => {
            down.trail().watch(revoked);
            done
        }
        Ok(Err(Stop::Gone(broken))) => {
            down.trail().gone();
            down.reset(Reason::CANCEL);
            Done::Broken(broken)
        }
        Ok(Err(Stop::Fault(fault))) => refused(steer, &fault, dialect, &method, down).await,
        Err(fault) if charge.stage == Stage::Unanswered => {
            refused(steer, &fault, dialect, &method, down).await
        }
        Err(fault) => {
            tracing::debug!(%fault, "an answer is broken off");
            down.trail().faulted(fault.clone());
            cut(steer.signature(), &fault, dialect, charge.stage, down)
        }
    }
}

async fn refused<S: Steer>(
    steer: &S,
    fault: &Fault,
    dialect: Dialect,
    method: &Method,
    down: &mut Downstream<'_>,
) -> Done {
    tracing::debug!(%fault, side = steer.signature().side().word(), "a request is answered by the mesh");
    down.trail().faulted(fault.clone());
    refuse(steer.signature(), fault, dialect, method, down).await
}

/// Breaks off an answer that was begun.
fn cut(
    signature: &Signature,
    fault: &Fault,
    dialect: Dialect,
    stage: Stage,
    down: &mut Downstream<'_>,
) -> Done {
    // A status other than OK at its end cannot be taken for the end of a whole answer. One whose length was said has to be reset.
    let open = stage
        == Stage::Answering {
            body: Framing::Chunked,
        };
    if open && dialect == Dialect::Grpc && down.end_grpc(signature.grpc_status(fault)).is_some() {
        return Done::Answered;
    }
    down.reset(Reason::CANCEL);
    Done::Broken(Broken::Stopped(fault.cause))
}

/// Answers in the name of the mesh.
pub(super) async fn refuse(
    signature: &Signature,
    fault: &Fault,
    dialect: Dialect,
    method: &Method,
    down: &mut Downstream<'_>,
) -> Done {
    let answer = signature.answer(fault, dialect);
    say(answer.status, answer.headers, answer.body, method, down).await
}

/// Gives an answer that nobody was asked for.
async fn say(
    status: StatusCode,
    mut headers: HeaderMap,
    mut body: Bytes,
    method: &Method,
    down: &mut Downstream<'_>,
) -> Done {
    if *method == Method::HEAD {
        body = Bytes::new();
    }
    // A client may go on sending a body that nobody reads.
    if !down.is_done()
        && let Downstream::H1(turn) = down
    {
        turn.keep_alive = KeepAlive::Close;
    }
    let framing = if *method == Method::HEAD || status == StatusCode::NO_CONTENT {
        Framing::None
    } else {
        Framing::Length(body.len() as u64)
    };
    if !body.is_empty() {
        headers.insert(header::CONTENT_LENGTH, body.len().into());
    }
    let answered = async {
        down.respond(status, headers, framing)?;
        while !body.is_empty() {
            poll_fn(|cx| down.poll_data(cx, &mut body, Last::Yes)).await?;
        }
        poll_fn(|cx| down.poll_flush(cx)).await
    };
    match answered.await {
        Ok(()) => Done::Answered,
        Err(broken) => Done::Broken(broken),
    }
}

async fn forward<S: Server, E: Escort>(
    hop: Hop<S>,
    message: Message,
    down: &mut Downstream<'_>,
    request: &mut Pump,
    charge: &mut Charge<E>,
) -> Result<Done, Stop> {
    match hop {
        Hop::Agent(room) => {
            let mut up = ask_agent(room, message).await?;
            let answered = match hear(down, &mut up, request).await {
                Ok(answered) => answered,
                Err(unheard) => return Err(unheard.stop(&mut up)),
            };
            let (done, _) = answer(down, up, request, answered, charge).await;
            Ok(done)
        }
        Hop::Server(server) => match message.spoken {
            Spoken::Http1 => ask_http1(&server, &message, down, request, charge).await,
            Spoken::Http2 => ask_http2(&server, message, down, request, charge).await,
        },
    }
}

fn no_tunnels() -> Fault {
    Fault::new(Cause::Method, "CONNECT does not pass here")
}

/// Sends a request to another agent.
async fn ask_agent(room: Room, message: Message) -> Result<Upstream, Stop> {
    let Message {
        mut parts,
        body,
        switch,
        ..
    } = message;
    let method = parts.method.clone();
    let sent = match switch {
        Switch::Stay => Upstream::send(room, Request::from_parts(parts, ()), body, method),
        Switch::Tunnel => return Err(no_tunnels().into()),
        Switch::Upgrade(protocol) => {
            if !room.takes_extended_connect().await {
                let reason = "the agent of the destination does not switch protocols";
                return Err(Fault::new(Cause::Unavailable, reason).into());
            }
            extend(&mut parts, &protocol)?;
            Upstream::send(room, Request::from_parts(parts, ()), Framing::Chunked, method)
        }
    };
    sent.map_err(|broken| unsendable(&broken).into())
}

/// Makes an upgrade an extended CONNECT (RFC 8441), with everything else as it was.
fn extend(parts: &mut request::Parts, protocol: &HeaderValue) -> Result<(), Fault> {
    let bad = |what: &'static str| Fault::new(Cause::BadRequest, what);
    let protocol = protocol
        .to_str()
        .map_err(|_| bad("the protocol to switch to is no token"))?;
    parts.headers.remove(header::UPGRADE);
    parts.extensions.insert(h2::ext::Protocol::from(protocol));
    parts.method = Method::CONNECT;
    parts.version = Version::HTTP_2;
    if parts.uri.authority().is_none() {
        let host = parts.headers.remove(header::HOST);
        let host = host.as_ref().map_or(&b""[..], HeaderValue::as_bytes);
        let mut uri = parts.uri.clone().into_parts();
        uri.scheme = Some(http::uri::Scheme::HTTP);
        uri.authority =
            Some(http::uri::Authority::try_from(host).map_err(|_| bad("the Host header is malformed"))?);
        parts.uri = Uri::from_parts(uri).map_err(|_| bad("the request target is malformed"))?;
    }
    Ok(())
}

async fn ask_http1<S: Server, E: Escort>(
    server: &S,
    message: &Message,
    down: &mut Downstream<'_>,
    request: &mut Pump,
    charge: &mut Charge<E>,
) -> Result<Done, Stop> {
    let repeat = if message.parts.method.is_idempotent() {
        Repeat::Harmless
    } else {
        Repeat::Harmful
    };
    let mut kept = server.shelf().take(repeat, Instant::now());
    loop {
        let reused = kept.is_some();
        let connection = match kept.take() {
            Some(connection) => connection,
            None => {
                let opened = unless_gone(down, server.connect()).await.map_err(Stop::Gone)?;
                Connection::new(opened?, LIMITS)
            }
        };
        let mut up = Upstream::visit(
            connection,
            &message.parts,
            message.target,
            message.body,
            &message.switch,
        )
        .map_err(|broken| unsendable(&broken))?;
        let mut answered = match hear(down, &mut up, request).await {
            Ok(answered) => answered,
            // The server had closed it meanwhile.
            Err(Unheard::Server(broken))
                if reused && repeat == Repeat::Harmless && broken.is_silent() && !request.has_begun() =>
            {
                tracing::debug!(%broken, "a kept connection was closed; the request is sent again on another");
                if request.is_done() {
                    *request = Pump::flush_only();
                }
                continue;
            }
            Err(unheard) => return Err(unheard.stop(&mut up)),
        };
        hop_by_hop::strip(&mut answered.headers, &answered.switch);
        wire::clean(&mut answered.headers);
        let (done, up) = answer(down, up, request, answered, charge).await;
        if let Some(connection) = up.and_then(Upstream::reusable) {
            server.shelf().put(connection, Instant::now());
        }
        return Ok(done);
    }
}

async fn ask_http2<S: Server, E: Escort>(
    server: &S,
    message: Message,
    down: &mut Downstream<'_>,
    request: &mut Pump,
    charge: &mut Charge<E>,
) -> Result<Done, Stop> {
    let Message { parts, body, .. } = message;
    let method = parts.method.clone();
    request.keep();
    let mut again: Option<Again> = None;
    loop {
        let room = unless_gone(down, room_at(server)).await.map_err(Stop::Gone)??;
        // A copy of the head, for servers that end a connection with requests on their way: they do so all the time.
        let head = Request::from_parts(parts.clone(), ());
        let mut up =
            Upstream::send(room, head, body, method.clone()).map_err(|broken| unsendable(&broken))?;
        let repeated = again.is_some();
        if let Some(again) = again.take()
            && !is_empty(body)
        {
            let late = again.unreleased;
            if let Err(broken) = again.send(&mut up).await {
                return Err(Stop::Fault(broken.of_server()));
            }
            down.release(late);
        }
        let mut answered = match hear(down, &mut up, request).await {
            Ok(answered) => answered,
            Err(Unheard::Server(broken)) if !repeated && broken.is_unprocessed() => {
                tracing::debug!(%broken, "a request is sent again: its server did not look at it");
                again = request.rewind();
                if again.is_none() {
                    return Err(Stop::Fault(broken.of_server()));
                }
                continue;
            }
            Err(unheard) => return Err(unheard.stop(&mut up)),
        };
        request.keep_no_more();
        wire::clean(&mut answered.headers);
        let (done, _) = answer(down, up, request, answered, charge).await;
        return Ok(done);
    }
}

/// Room on an HTTP/2 connection to a server.
async fn room_at<S: Server>(server: &S) -> Result<Room, Fault> {
    while let Some(shared) = server.shelf().shared(Instant::now()) {
        match shared.room().await {
            Ok(room) => return Ok(room),
            // It ended, or is about to: requests on it go on, new ones go elsewhere.
            Err(_) => server.shelf().give_up(&shared),
        }
    }
    let unreached = |error: String| Fault::new(Cause::Connect, error);
    let stream = server.connect().await?;
    let addr = stream.peer_addr().map_err(|error| unreached(error.to_string()))?;
    let connection = Session::plain(stream, addr, &server.claim(), server.connections())
        .await
        .map_err(|error| unreached(error.to_string()))?;
    server.shelf().share(connection.clone(), Instant::now());
    connection
        .room()
        .await
        .map_err(|error| unreached(error.to_string()))
}

/// Waits for what comes before anything is read of a request's body, and gives it up when the client resets its stream. What
/// a client opened and reset may otherwise pile up, beyond the streams that it may have. An HTTP/1 connection has one
/// request at a time, so there it is enough to see later that it is gone.
async fn unless_gone<T>(down: &mut Downstream<'_>, work: impl Future<Output = T>) -> Result<T, Broken> {
    let mut work = pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(done) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(done));
        }
        match down {
            Downstream::H1(..) | Downstream::Copy(..) => Poll::Pending,
            Downstream::H2(..) => down.poll_gone(cx).map(Err),
        }
    })
    .await
}

/// Moves the request until the answer begins. Interim answers are passed on.
async fn hear(down: &mut Downstream<'_>, up: &mut Upstream, request: &mut Pump) -> Result<Answered, Unheard> {
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
                Poll::Ready(Ok(Heard::Interim(status, headers))) => {
                    // They are queued whatever room there is, so there may not be any number of them.
                    interim += 1;
                    if interim > INTERIM_MAX {
                        return Poll::Ready(Err(Unheard::Server(Broken::Interim)));
                    }
                    if let Err(broken) = down.interim(status, headers) {
                        return Poll::Ready(Err(Unheard::Client(broken)));
                    }
                    continue;
                }
                Poll::Ready(Ok(Heard::Answer(answered))) => return Poll::Ready(Ok(answered)),
                Poll::Ready(Err(broken)) => {
                    return Poll::Ready(Err(Unheard::Server(stopped.take().unwrap_or(broken))));
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
async fn answer<E: Escort>(
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
    fn stop(self, up: &mut Upstream) -> Stop {
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

/// A head that cannot be said in the version that is spoken upstream.
fn unsendable(broken: &Broken) -> Fault {
    Fault::new(
        Cause::BadRequest,
        format!("the request cannot be passed on: {broken}"),
    )
}

/// The status with which a switch of protocols is agreed to, where streams leave HTTP instead of connections.
pub(super) const JOINED: StatusCode = StatusCode::OK;
