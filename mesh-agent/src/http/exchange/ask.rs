//! Sends a request where it goes, and once more where that is harmless.
//!
//! Invariant: a request is sent again only if whoever was asked certainly did not look at it, or if it may take effect twice and
//! not a byte of an answer came.

use std::time::Instant;

use http::{HeaderValue, Method, Request, Version, header, request};

use super::{
    Agent, Charge, Done, Hop, Message, Server, Stop,
    hear::{Unheard, answer, hear, unless_gone},
};
use crate::{
    http::{
        Broken, LIMITS,
        course::Escort,
        downstream::Downstream,
        fault::{Cause, Fault, NO_CONNECT},
        h1::{Framing, Switch, hop_by_hop},
        host,
        pool::{Connection, Repeat},
        pump::{Again, Pump, Source as _},
        streams::is_empty,
        upstream::{Answered, Upstream},
        wire::{self, Spoken},
    },
    upstream::session::{Mark, Room, Session},
};

/// Where a request finds its place in an HTTP/2 connection, the first time and once more.
trait Rooms {
    async fn room(&mut self) -> Result<Room, Fault>;
    /// The client gave the request up before its answer.
    fn given_up(&self) {}
}

/// In tunnels to the agent of the destination.
struct Tunnels<'a, A> {
    agent: &'a A,
    first: Option<Room>,
    /// Of the last one.
    mark: Mark,
    switch: &'a Switch,
}

/// In connections to a server.
struct Straight<'a, S>(&'a S);

/// A request as it is sent over HTTP/2.
struct Asked<'m> {
    head: request::Parts,
    /// That of the client, which an extended CONNECT hides.
    method: Method,
    body: Framing,
    switch: &'m Switch,
}

/// Asks where the hop leads, and passes the answer on.
pub(super) async fn forward<S: Server, A: Agent, E: Escort>(
    hop: Hop<S, A>,
    message: Message,
    down: &mut Downstream<'_>,
    request: &mut Pump,
    charge: &mut Charge<E>,
) -> Result<Done, Stop> {
    match hop {
        Hop::Agent(room, agent) => ask_agent(room, &agent, message, down, request, charge).await,
        Hop::Server(server) => match message.spoken {
            Spoken::Http1 => ask_http1(&server, &message, down, request, charge).await,
            Spoken::Http2 => ask_http2(&server, message, down, request, charge).await,
        },
    }
}

/// Sends a request to another agent.
async fn ask_agent<A: Agent, E: Escort>(
    room: Room,
    agent: &A,
    message: Message,
    down: &mut Downstream<'_>,
    request: &mut Pump,
    charge: &mut Charge<E>,
) -> Result<Done, Stop> {
    let Message {
        mut parts,
        body,
        switch,
        ..
    } = message;
    let method = parts.method.clone();
    match &switch {
        Switch::Stay => {}
        Switch::Tunnel => {
            return Err(Fault::new(Cause::Method, NO_CONNECT).into());
        }
        Switch::Upgrade(protocol) => extend(&mut parts, protocol)?,
    }
    let mut tunnels = Tunnels {
        agent,
        mark: room.mark(),
        first: Some(room),
        switch: &switch,
    };
    let asked = Asked {
        head: parts,
        method,
        body,
        switch: &switch,
    };
    let (up, answered) = ask_over(&mut tunnels, asked, down, request).await?;
    let (done, _) = answer(down, up, request, answered, charge).await;
    Ok(done)
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
        let named = parts.headers.remove(header::HOST);
        host::into_target(parts, named.as_ref().map_or(&b""[..], HeaderValue::as_bytes))?;
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
                // Rare, and large: a request has no room for it.
                let opening = Box::pin(server.connect());
                let opened = unless_gone(down, opening).await.map_err(Stop::Gone)?;
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
                if reused
                    && repeat == Repeat::Harmless
                    && broken.is_silent()
                    && !up.has_spoken()
                    && !request.has_begun() =>
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
    let asked = Asked {
        method: message.parts.method.clone(),
        head: message.parts,
        body: message.body,
        switch: &Switch::Stay,
    };
    let (up, mut answered) = ask_over(&mut Straight(server), asked, down, request).await?;
    wire::clean(&mut answered.headers);
    let (done, _) = answer(down, up, request, answered, charge).await;
    Ok(done)
}

/// Sends a request over HTTP/2, until the head of its answer is there. What the other end says it did not look at, and never
/// will (RFC 9113, 8.7), is sent once more: servers that end a connection do so with requests on their way. For that little
/// of a body is kept.
async fn ask_over(
    rooms: &mut impl Rooms,
    asked: Asked<'_>,
    down: &mut Downstream<'_>,
    request: &mut Pump,
) -> Result<(Upstream, Answered), Stop> {
    let Asked {
        head,
        method,
        body,
        switch,
    } = asked;
    // A stream that is to leave HTTP stays open.
    let framing = match switch {
        Switch::Stay => body,
        Switch::Upgrade(_) | Switch::Tunnel => Framing::Chunked,
    };
    request.keep();
    let mut again: Option<Again> = None;
    loop {
        let room = unless_gone(down, rooms.room()).await.map_err(Stop::Gone)??;
        let copy = Request::from_parts(head.clone(), ());
        let unheard = match Upstream::send(room, copy, framing, method.clone()) {
            Ok(mut up) => {
                if let Some(again) = again.take()
                    && !is_empty(body)
                {
                    let late = again.unreleased;
                    again.send(&mut up).await.map_err(|broken| broken.of_server())?;
                    down.release(late);
                }
                match hear(down, &mut up, request).await {
                    Ok(answered) => {
                        request.keep_no_more();
                        return Ok((up, answered));
                    }
                    Err(Unheard::Server(broken)) if broken.is_unprocessed() => broken,
                    Err(unheard @ Unheard::Client(_)) => {
                        rooms.given_up();
                        return Err(unheard.stop(&mut up));
                    }
                    Err(unheard) => return Err(unheard.stop(&mut up)),
                }
            }
            Err(broken) if broken.is_unsent() => broken,
            Err(broken) => return Err(unsendable(&broken).into()),
        };
        // What was kept can be had once.
        again = request.rewind();
        if again.is_none() {
            return Err(unheard.of_server().into());
        }
        tracing::debug!(broken = %unheard, "a request is sent again: nobody looked at it");
    }
}

impl<A: Agent> Rooms for Tunnels<'_, A> {
    async fn room(&mut self) -> Result<Room, Fault> {
        let room = match self.first.take() {
            Some(room) => room,
            None => Box::pin(self.agent.another(&self.mark)).await?,
        };
        self.mark = room.mark();
        if matches!(self.switch, Switch::Upgrade(_)) && !room.takes_extended_connect().await {
            let reason = "the agent of the destination does not switch protocols";
            return Err(Fault::new(Cause::Unavailable, reason));
        }
        Ok(room)
    }
}

impl<S: Server> Rooms for Straight<'_, S> {
    async fn room(&mut self) -> Result<Room, Fault> {
        room_at(self.0).await
    }

    fn given_up(&self) {
        self.0.shelf().given_up(self.0.asker(), Instant::now());
    }
}

/// Room on an HTTP/2 connection to a server.
async fn room_at<S: Server>(server: &S) -> Result<Room, Fault> {
    while let Some(shared) = server.shelf().shared(server.asker(), Instant::now()) {
        match shared.room().await {
            Ok(room) => return Ok(room),
            // It ended, or is about to: requests on it go on, new ones go elsewhere.
            Err(_) => server.shelf().give_up(&shared),
        }
    }
    Box::pin(another_room_at(server)).await
}

/// Room on a new HTTP/2 connection to a server.
async fn another_room_at<S: Server>(server: &S) -> Result<Room, Fault> {
    let unreached = |error: String| Fault::new(Cause::Connect, error);
    let stream = server.connect().await?;
    let addr = stream.peer_addr().map_err(|error| unreached(error.to_string()))?;
    let connection = Session::plain(stream, addr, &server.claim(), server.connections())
        .await
        .map_err(|error| unreached(error.to_string()))?;
    server
        .shelf()
        .share(connection.clone(), server.asker(), Instant::now());
    connection
        .room()
        .await
        .map_err(|error| unreached(error.to_string()))
}

/// A head that cannot be said in the version that is spoken upstream.
fn unsendable(broken: &Broken) -> Fault {
    Fault::new(
        Cause::BadRequest,
        format!("the request cannot be passed on: {broken}"),
    )
}
