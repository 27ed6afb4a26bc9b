//! A connection that speaks HTTP/2, and single streams of one.
//!
//! Invariant: how many streams, resets and headers a client may have at once is bounded by the h2 crate's settings here.

use std::{io, pin::pin, sync::Arc};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Method, Request, header};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::IDLE;
use crate::{
    http::{
        downstream::{Downstream, Respond, StreamPair},
        exchange::{Done, Message, Steer, exchange, refuse},
        fault::{Cause, Dialect, Fault},
        h1::{Framing, Switch, Target},
        host,
        io::Rewound,
        mirror::Copies,
        raw::{self, Raw},
        trail::{Attached, Attended},
        upstream::length,
        wire::{self, Spoken, Told},
    },
    telemetry::Claim,
    upstream::{
        Ending, Unread,
        fair::fair,
        incoming::Incoming,
        tunnel::{AGAIN, Together, tuning::HEADS},
    },
};

/// What one client's connection may take.
mod tuning {
    /// At most: all streams of a workload are to hold no more than its budget has.
    pub(super) const STREAM_WINDOW: u32 = 256 << 10;
    /// Beside what its streams hold that nobody reads.
    pub(super) const CONNECTION_WINDOW: u32 = 4 << 20;
    pub(super) const FRAME: u32 = 64 << 10;
    pub(super) const STREAMS: u32 = 256;
    pub(super) const SEND_BUFFER: usize = 256 << 10;
    /// Streams that the client reset before they were looked at (CVE-2023-44487).
    pub(super) const RESETS: usize = 32;
    /// Streams that we reset and still remember: as many as there may be, so that what a client had sent already for one of
    /// them is no fault of its.
    pub(super) const RESETS_KEPT: usize = 256;
}

/// Serves a connection. Its streams are tasks of `tasks`.
pub(super) async fn serve<S: Steer + 'static>(
    stream: Rewound,
    steer: &Arc<S>,
    tasks: &TaskTracker,
    leaving: &CancellationToken,
) -> Ending {
    stream.in_order();
    let claim = steer.connection().map(|connection| Arc::clone(&connection.claim));
    let mut announced = window(claim.as_deref());
    let unread = Arc::<Unread>::default();
    let mut together = claim
        .as_ref()
        .map(|claim| Together::of(claim.budget(), &unread, tuning::CONNECTION_WINDOW as usize));
    let handshake = h2::server::Builder::new()
        .initial_window_size(announced)
        .initial_connection_window_size(tuning::CONNECTION_WINDOW)
        .max_frame_size(tuning::FRAME)
        .max_header_list_size(crate::upstream::tunnel::tuning::HEADER_LIST_KEPT)
        .max_concurrent_streams(tuning::STREAMS)
        .max_concurrent_reset_streams(tuning::RESETS_KEPT)
        .max_pending_accept_reset_streams(tuning::RESETS)
        .max_send_buffer_size(tuning::SEND_BUFFER)
        .handshake(stream);
    let mut connection = match tokio::time::timeout(super::HEAD, handshake).await {
        Ok(Ok(connection)) => connection,
        Ok(Err(error)) => return broken(error),
        Err(_) => return broken("the HTTP/2 preface did not come in time"),
    };
    let mut windows = claim.as_ref().map(|claim| claim.budget().windows());
    // Held by each request that comes with a body: only bodies fill windows.
    let uploads = Arc::new(());
    let mut going = false;
    // Kept from one request to the next: each would pay for waiting anew.
    let mut left = pin!(leaving.cancelled());
    loop {
        let busy = connection.has_streams();
        let (uploading, due) = (Arc::strong_count(&uploads) > 1, window(claim.as_deref()));
        // Fails while the client has not acknowledged the one before.
        if uploading && due != announced && connection.set_initial_window_size(due).is_ok() {
            announced = due;
        }
        let changed = async {
            match &mut windows {
                Some(windows) => drop(windows.changed().await),
                None => std::future::pending().await,
            }
        };
        let wider = async {
            match &together {
                Some(together) => together.due(announced as usize).await,
                None => std::future::pending().await,
            }
        };
        let accept = async {
            match busy {
                true => Ok(connection.accept().await),
                false => tokio::time::timeout(IDLE, connection.accept()).await,
            }
        };
        let accepted = tokio::select! {
            // First: what is read now is no more made up for before more is granted.
            biased;
            due = wider => {
                if let Some(together) = &mut together {
                    together.apply(&mut connection, due);
                }
                continue;
            }
            () = changed, if uploading => continue,
            () = async { tokio::time::sleep(AGAIN).await }, if uploading && due != announced => continue,
            () = &mut left, if !going => {
                going = true;
                connection.graceful_shutdown();
                continue;
            }
            accepted = accept => accepted,
        };
        match accepted {
            Ok(Some(Ok((request, respond)))) => {
                let steer = Arc::clone(steer);
                // Who comes with a body when there are many gets less, and so do its others.
                let share = match (request.body().is_end_stream(), &claim) {
                    (false, Some(claim)) => Some((claim.budget().join(), Arc::clone(&uploads))),
                    _ => None,
                };
                let unread = Arc::clone(&unread);
                let serve = async move {
                    let _share = share;
                    let (mut parts, recv) = request.into_parts();
                    let recv = Incoming::new(recv, Some(unread));
                    wire::clean(&mut parts.headers);
                    // Only agents switch protocols over HTTP/2, so far.
                    if parts.extensions.remove::<h2::ext::Protocol>().is_some() {
                        return;
                    }
                    let message = message(parts, Spoken::Http2, Switch::Stay, &recv);
                    serve_message(&*steer, message, recv, respond).await;
                };
                // What spawns it moves it several times.
                tasks.spawn(fair(claim.clone(), Box::pin(serve)));
            }
            Ok(Some(Err(error))) => return broken(error),
            Ok(None) => return Ending::Closed,
            Err(_) if going => return Ending::Closed,
            Err(_) => {
                going = true;
                connection.graceful_shutdown();
            }
        }
    }
}

/// The window that each stream is to have.
fn window(claim: Option<&Claim>) -> u32 {
    let due = claim.map(|claim| u32::try_from(claim.budget().window()).unwrap_or(u32::MAX));
    due.map_or(tuning::STREAM_WINDOW, |due| due.min(tuning::STREAM_WINDOW))
}

/// Serves a request that came from another agent, as a stream of a tunnel. `told` was taken from its headers.
pub async fn serve_stream<S: Steer>(
    steer: &S,
    request: Request<Incoming>,
    respond: SendResponse<Bytes>,
    told: Told,
) {
    let (mut parts, recv) = request.into_parts();
    let switch = match parts.extensions.remove::<h2::ext::Protocol>() {
        // What the other agent made of an upgrade.
        Some(protocol) => {
            parts.method = Method::GET;
            match http::HeaderValue::try_from(protocol.as_str()) {
                Ok(protocol) => {
                    parts.headers.insert(header::UPGRADE, protocol.clone());
                    Switch::Upgrade(protocol)
                }
                Err(_) => Switch::Stay,
            }
        }
        None => Switch::Stay,
    };
    let message = message(parts, told.spoken, switch, &recv);
    serve_message(steer, message, recv, respond).await;
}

async fn serve_message<S: Steer>(
    steer: &S,
    mut message: Message,
    recv: Incoming,
    respond: SendResponse<Bytes>,
) {
    let settled = host::settle(&mut message.parts, message.spoken);
    let mut attended = Attended::new(steer, &message);
    let mut down = Downstream::H2(StreamPair {
        recv,
        respond: Respond::Unanswered(respond),
        trail: &mut attended.trail,
    });
    let done = match too_large(&message.parts).or_else(|| settled.err()) {
        None => exchange(steer, message, &mut down).await,
        Some(fault) => {
            down.trail().faulted(fault.clone());
            let dialect = Dialect::of(&message.parts.headers);
            refuse(
                steer.signature(),
                &fault,
                dialect,
                &message.parts.method,
                &mut down,
            )
            .await
        }
    };
    match done {
        Done::Answered => {}
        Done::Broken(error) => tracing::debug!(%error, "a request broke off"),
        Done::Switched(up) => {
            let Downstream::H2(StreamPair {
                recv,
                respond: Respond::Body(send),
                ..
            }) = down
            else {
                return;
            };
            if let Some(up) = Raw::upstream(*up)
                && let Err(error) = raw::relay(Raw::stream(recv, send, None), up, &mut attended.trail).await
            {
                tracing::debug!(%error, "a switched stream broke off");
            }
        }
    }
}

/// What is wrong with a head that is larger than one of HTTP/1 may be. h2 keeps some more, so that there is somebody to tell.
fn too_large(parts: &http::request::Parts) -> Option<Fault> {
    let cost = |name: usize, value: usize| name + value + 32;
    let fields = parts.headers.iter();
    let fields: usize = fields
        .map(|(name, value)| cost(name.as_str().len(), value.len()))
        .sum();
    let target = parts.uri.path_and_query().map_or(0, |path| path.as_str().len());
    let authority = parts
        .uri
        .authority()
        .map_or(0, |authority| authority.as_str().len());
    let size = fields + cost(":path".len(), target) + cost(":authority".len(), authority);
    (size > HEADS).then(|| {
        let reason = format!("the headers have {size} bytes; {HEADS} are the limit");
        Fault::new(Cause::HeadTooLarge, reason)
    })
}

fn message(parts: http::request::Parts, spoken: Spoken, switch: Switch, recv: &Incoming) -> Message {
    let body = if switch != Switch::Stay || recv.is_end_stream() {
        match parts.headers.get(header::CONTENT_LENGTH) {
            Some(_) => Framing::Length(0),
            None => Framing::None,
        }
    } else {
        match parts.headers.get(header::CONTENT_LENGTH).and_then(length) {
            Some(length) => Framing::Length(length),
            None => Framing::Chunked,
        }
    };
    // Over HTTP/1 only an absolute target brings an authority along.
    let target = match Target::of(&parts) {
        Target::Origin
            if spoken == Spoken::Http1 && switch == Switch::Stay && parts.uri.authority().is_some() =>
        {
            Target::Absolute
        }
        other => other,
    };
    Message {
        parts,
        spoken,
        target,
        body,
        switch,
        attached: Attached::default(),
        copies: Copies::default(),
    }
}

fn broken(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Ending {
    Ending::Broken(io::Error::other(error))
}
