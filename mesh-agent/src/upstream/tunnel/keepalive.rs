//! Asks the other end of a tunnel whether it is still there: HTTP/2 PING (RFC 9113, 6.7).
//!
//! Both ends of a tunnel run [`silent`] beside it and end the tunnel when it returns; its streams are reset with it. So
//! connections through a peer that vanished end within half a minute, also when they have nothing to send. Whoever opens the
//! streams asks sooner where one was given up: the answer says that the other end knows of it ([`Asking`]).

use std::time::Duration;

use h2::{Ping, PingPong};

use crate::upstream::seats::Asking;

/// How often the other end is asked.
const EVERY: Duration = Duration::from_secs(10);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns when the other end does not answer any more. `None` waits for ever.
pub(crate) async fn silent(pings: Option<PingPong>) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        tokio::time::sleep(EVERY).await;
        if answered(&mut pings).await.is_err() {
            return;
        }
    }
}

/// The same for whoever opens the streams, to be polled beside the connection, in the same task. Without PINGs nothing is
/// waited for.
pub(crate) async fn silent_beside(asking: Option<(PingPong, Asking)>) {
    let Some((mut pings, asking)) = asking else {
        return std::future::pending().await;
    };
    let seats = asking.seats();
    loop {
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            // The connection is polled once before the PING is, so that the reset goes first.
            () = seats.any_given_up() => tokio::task::yield_now().await,
        }
        let given_up = seats.given_up();
        if answered(&mut pings).await.is_err() {
            return;
        }
        seats.known(given_up);
    }
}

/// There was no answer in time.
struct Silent;

/// Waits for the answer to a PING.
async fn answered(pings: &mut PingPong) -> Result<(), Silent> {
    match tokio::time::timeout(PATIENCE, pings.ping(Ping::opaque())).await {
        Ok(Ok(_pong)) => Ok(()),
        // The tunnel has ended, and knows why.
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => Err(Silent),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_end_that_reads_and_never_answers_is_silent() {
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let (requests, mut connection) = h2::client::handshake(ours).await.unwrap();
        let pings = connection.ping_pong();
        tokio::spawn(async move { while matches!(theirs.read(&mut [0; 1024]).await, Ok(1..)) {} });
        tokio::select! {
            () = silent(pings) => {}
            ended = connection => panic!("{ended:?}"),
        }
        drop(requests);
    }

    #[tokio::test(start_paused = true)]
    async fn an_end_that_answers_is_not() {
        let (ours, theirs) = tokio::io::duplex(1 << 16);
        tokio::spawn(async move {
            let mut server = h2::server::handshake(theirs).await.unwrap();
            while server.accept().await.is_some() {}
        });
        let (requests, mut connection) = h2::client::handshake(ours).await.unwrap();
        let pings = connection.ping_pong();
        tokio::select! {
            () = silent(pings) => panic!("taken for dead"),
            ended = connection => panic!("{ended:?}"),
            () = tokio::time::sleep(EVERY * 20) => {}
        }
        drop(requests);
    }
}
