//! Takes requests from a downstream connection, in whichever version of HTTP it speaks.
//!
//! Invariant: an HTTP/1 connection is one task, and answers its requests in their order; each HTTP/2 stream is a task.

mod http1;
mod http2;

use std::{sync::Arc, time::Duration};

use bytes::BytesMut;
use tokio::io::AsyncReadExt as _;
use tokio_util::{sync::CancellationToken, task::TaskTracker};

pub use http2::serve_stream;

use super::{
    detect::{Protocol, detect},
    exchange::Steer,
    io::{Rewound, Transport},
};
use crate::upstream::Ending;

/// A client that has no request for this long is let go. Far longer than servers keep connections: a client that is told
/// of the end at a bad moment fails.
pub(crate) const IDLE: Duration = Duration::from_secs(3600);
/// A client that has no request when the agent is about to end may still begin one for so long, and is told in the answer that
/// it is the last. A connection that ended at once would meet requests that are on their way.
const PARTING: Duration = Duration::from_secs(5);
/// How long the head of a request may take once it has begun.
pub(crate) const HEAD: Duration = Duration::from_secs(30);

/// Serves a connection on which nothing but HTTP is expected, whatever version it speaks. `seen` was read of it already.
pub async fn serve<S: Steer + 'static>(
    client: impl Into<Transport>,
    mut seen: BytesMut,
    steer: &Arc<S>,
    tasks: &TaskTracker,
    leaving: &CancellationToken,
) -> Ending {
    let mut client = client.into();
    let protocol = loop {
        match detect(&seen) {
            Protocol::Undecided => {}
            decided => break decided,
        }
        let patience = if seen.is_empty() { IDLE } else { HEAD };
        let read = tokio::select! {
            read = tokio::time::timeout(patience, client.read_buf(&mut seen)) => read,
            () = parting(leaving), if seen.is_empty() => {
                client.close();
                return Ending::Closed;
            }
        };
        match read {
            // Whoever says nothing wants nothing.
            Ok(Ok(0)) | Err(_) if seen.is_empty() => {
                client.close();
                return Ending::Closed;
            }
            // Neither version; the codec says why.
            Ok(Ok(0)) | Err(_) => break Protocol::Http1,
            Ok(Ok(_)) => {}
            Ok(Err(error)) => {
                client.abort();
                return Ending::Broken(error);
            }
        }
    };
    match protocol {
        Protocol::Http2 => http2::serve(Rewound::new(client, seen), steer, tasks, leaving).await,
        Protocol::Http1 | Protocol::Tls | Protocol::Opaque | Protocol::Undecided => {
            http1::serve(client, seen, &**steer, leaving).await
        }
    }
}

/// Over when a connection without a request is to end.
pub(crate) async fn parting(leaving: &CancellationToken) {
    leaving.cancelled().await;
    tokio::time::sleep(PARTING).await;
}
