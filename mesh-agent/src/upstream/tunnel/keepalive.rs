//! Asks the other end of a tunnel whether it is still there: HTTP/2 PING (RFC 9113, 6.7).
//!
//! Both ends of a tunnel run [`silent`] beside it and end the tunnel when it returns; its streams are reset with it. So
//! connections through a peer that vanished end within half a minute, also when they have nothing to send. Whoever opens the
//! streams asks sooner where one was given up: the answer says that the other end knows of it ([`Seats`]).

use std::time::Duration;

use h2::{Ping, PingPong};

use crate::upstream::seats::Seats;

/// How often the other end is asked.
const EVERY: Duration = Duration::from_secs(10);
/// How long it may take to answer.
const PATIENCE: Duration = Duration::from_secs(20);

/// Returns when the other end does not answer any more. Without `pings` waits for ever. To be polled beside the connection, in
/// the same task.
pub(crate) async fn silent(pings: Option<PingPong>, seats: Option<&Seats>) {
    let Some(mut pings) = pings else {
        return std::future::pending().await;
    };
    loop {
        let given_up = async {
            match seats {
                Some(seats) => seats.any_given_up().await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = tokio::time::sleep(EVERY) => {}
            // The connection is polled once before the PING is, so that the reset goes first.
            () = given_up => tokio::task::yield_now().await,
        }
        let given_up = seats.map_or(0, Seats::given_up);
        match tokio::time::timeout(PATIENCE, pings.ping(Ping::opaque())).await {
            Ok(Ok(_pong)) => {
                if let Some(seats) = seats {
                    seats.known(given_up);
                }
            }
            // The tunnel has ended, and knows why.
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return,
        }
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
            () = silent(pings, None) => {}
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
            () = silent(pings, None) => panic!("taken for dead"),
            ended = connection => panic!("{ended:?}"),
            () = tokio::time::sleep(EVERY * 20) => {}
        }
        drop(requests);
    }
}
