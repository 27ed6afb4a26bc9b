//! What a connection carries whose port says nothing about it, by its first bytes and its application's.
//!
//! Invariant: while this looks, no whole first line has reached the application; and nobody waits for anything who speaks
//! another protocol: not where the application speaks first, and not where it answers half a line.

use std::{io, time::Duration};

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, Interest},
    net::TcpStream,
};
use tokio_util::sync::CancellationToken;

use crate::http::{
    Transport,
    detect::{Protocol, Resemblance, detect, resemblance},
    server::{HEAD, IDLE, parting},
};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Requests, or what some could take for one.
    Requests,
    /// Something else. So much of it the application has already.
    Bytes(usize),
    /// What turned into a request when the application had the beginning of it already: it must be cut.
    TooLate,
    /// Nothing: whoever was to speak first ended it.
    Nothing,
}

/// How long a client may pause in the beginning of what could become a request, before the application gets that beginning: it could be
/// all that it wants to say.
const PAUSE: Duration = Duration::from_secs(1);

/// How an application speaks first.
enum Speech {
    /// As servers of HTTP/2 do, which says nothing about their clients.
    Settings,
    /// As a server of HTTP/1 that has waited for a request in vain.
    Answer,
    /// As others, or it has ended.
    Other,
}

/// Waits for the client's first bytes, which it adds to `seen`, or for those of the application, which it leaves where they
/// are. A client that says nothing to an application that says nothing is waited for as long as it stays; without an
/// application, as long as for a request, and only for a moment once the agent is `leaving`.
pub(super) async fn look(
    client: &mut Transport,
    mut app: Option<&mut TcpStream>,
    seen: &mut BytesMut,
    leaving: &CancellationToken,
) -> io::Result<Found> {
    let mut is_listening = true;
    let mut sent = 0;
    loop {
        match judge(seen) {
            Some(Judged::Requests) if sent > 0 => return Ok(Found::TooLate),
            Some(Judged::Requests) => return Ok(Found::Requests),
            Some(Judged::Bytes) => return Ok(Found::Bytes(sent)),
            None => {}
        }
        let patience = match &app {
            None if seen.is_empty() => Some(IDLE),
            None => Some(HEAD),
            Some(_) => (seen.len() > sent).then_some(PAUSE),
        };
        let paused = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        let spoken = async {
            match &app {
                Some(app) if is_listening => speech(app).await,
                _ => std::future::pending().await,
            }
        };
        tokio::select! {
            read = client.read_buf(seen) => {
                if read? == 0 {
                    return Ok(match (&app, seen.is_empty()) {
                        (None, true) => Found::Nothing,
                        // Who is asked for requests and sent half of one is told what is wrong.
                        (None, false) => Found::Requests,
                        // It may still listen, and no line is whole.
                        (Some(_), _) => Found::Bytes(sent),
                    });
                }
            }
            () = parting(leaving), if app.is_none() && seen.is_empty() => return Ok(Found::Nothing),
            spoken = spoken => match spoken? {
                Speech::Settings => is_listening = false,
                Speech::Answer => return Ok(Found::Nothing),
                Speech::Other => return Ok(Found::Bytes(sent)),
            },
            () = paused => match &mut app {
                Some(app) => {
                    app.write_all(&seen[sent..]).await?;
                    sent = seen.len();
                }
                None if seen.is_empty() => return Ok(Found::Nothing),
                None => return Ok(Found::Requests),
            },
        }
    }
}

/// What the client's bytes say.
enum Judged {
    Requests,
    Bytes,
}

/// `None` when they say nothing yet.
fn judge(seen: &[u8]) -> Option<Judged> {
    match detect(seen) {
        Protocol::Undecided => None,
        Protocol::Http1 | Protocol::Http2 => Some(Judged::Requests),
        Protocol::Tls => Some(Judged::Bytes),
        Protocol::Opaque => match resemblance(seen) {
            Resemblance::Undecided => None,
            Resemblance::None => Some(Judged::Bytes),
            Resemblance::Http1 => Some(Judged::Requests),
        },
    }
}

/// Waits until the application speaks.
async fn speech(app: &TcpStream) -> io::Result<Speech> {
    let mut first = [0; 9];
    let count = loop {
        app.ready(Interest::READABLE).await?;
        match app.peek(&mut first).await {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            peeked => break peeked?,
        }
    };
    Ok(match &first[..count] {
        // A SETTINGS frame on stream 0, no answer to one (RFC 9113, 6.5).
        [_, _, _, 4, 0, 0, 0, 0, 0] => Speech::Settings,
        [b'H', b'T', b'T', b'P', b'/', ..] => Speech::Answer,
        _ => Speech::Other,
    })
}

#[cfg(test)]
mod tests {
    use tokio::{io::AsyncWriteExt as _, net::TcpListener};

    use super::*;

    #[expect(clippy::disallowed_methods, reason = "the tests stand in no pod")]
    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let dialled = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (dialled, listener.accept().await.unwrap().0)
    }

    /// What is found when client and application begin so, and then say nothing more.
    async fn found(client: &[u8], app: &[u8]) -> Option<Found> {
        let (mut far_client, near_client) = pair().await;
        let (mut near_app, mut far_app) = pair().await;
        far_client.write_all(client).await.unwrap();
        far_app.write_all(app).await.unwrap();
        if !app.is_empty() {
            near_app.readable().await.unwrap();
        }
        let (mut client, mut seen) = (Transport::from(near_client), BytesMut::new());
        // The clock runs on only when nobody has anything to do.
        tokio::time::pause();
        let leaving = CancellationToken::new();
        let looked = look(&mut client, Some(&mut near_app), &mut seen, &leaving);
        let found = tokio::time::timeout(IDLE * 100, looked).await;
        tokio::time::resume();
        found.ok().map(Result::unwrap)
    }

    #[tokio::test]
    async fn the_client_or_else_the_application_tells() {
        for (client, app, expected) in [
            (&b"GET / HTTP/1.1\r\n"[..], &b""[..], Some(Found::Requests)),
            (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"", Some(Found::Requests)),
            (b"\nget /admin HTTP/1.1\r\n", b"", Some(Found::Requests)),
            (b"*1\r\n$4\r\nPING\r\n", b"", Some(Found::Bytes(0))),
            (b"\x16\x03\x01\x02\0\x01", b"", Some(Found::Bytes(0))),
            (b"", b"220 mail.example.com\r\n", Some(Found::Bytes(0))),
            (b"", b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64", None),
            (b"", b"HTTP/1.1 408 Request Timeout\r\n", Some(Found::Nothing)),
            (b"", b"", None),
        ] {
            assert_eq!(found(client, app).await, expected, "{}", client.escape_ascii());
        }
    }

    #[tokio::test]
    async fn half_a_line_reaches_its_application_and_a_whole_request_never_does() {
        for (answer, rest, expected) in [
            (&b"h"[..], &b""[..], Found::Bytes(1)),
            (b"", b"ello world\n", Found::Bytes(1)),
            (b"", b"ead /admin HTTP/1.1\r\n", Found::TooLate),
        ] {
            let (mut far_client, near_client) = pair().await;
            let (mut near_app, mut far_app) = pair().await;
            far_client.write_all(b"h").await.unwrap();
            let (mut client, mut seen) = (Transport::from(near_client), BytesMut::new());
            let leaving = CancellationToken::new();
            let looked = look(&mut client, Some(&mut near_app), &mut seen, &leaving);
            let others = async {
                let mut first = [0];
                far_app.read_exact(&mut first).await.unwrap();
                assert_eq!(first, *b"h");
                far_app.write_all(answer).await.unwrap();
                far_client.write_all(rest).await.unwrap();
                std::future::pending::<()>().await;
            };
            let found = tokio::select! {
                found = looked => found.unwrap(),
                () = others => panic!(),
            };
            assert_eq!(found, expected, "{}", rest.escape_ascii());
        }
    }

    /// What is found by an agent that is about to end, where only requests may pass, when the client sends each part after
    /// so many seconds. The connection came when the end was known.
    async fn found_while_leaving(parts: &[(u64, &[u8])]) -> Option<Found> {
        let (mut far_client, near_client) = pair().await;
        let (mut client, mut seen) = (Transport::from(near_client), BytesMut::new());
        let leaving = CancellationToken::new();
        leaving.cancel();
        // The clock runs on only when nobody has anything to do.
        tokio::time::pause();
        let looked = look(&mut client, None, &mut seen, &leaving);
        let sent = async {
            for (seconds, part) in parts {
                tokio::time::sleep(Duration::from_secs(*seconds)).await;
                far_client.write_all(part).await.unwrap();
            }
            std::future::pending::<()>().await;
        };
        let found = tokio::select! {
            found = tokio::time::timeout(HEAD * 2, looked) => found,
            () = sent => panic!(),
        };
        tokio::time::resume();
        found.ok().map(Result::unwrap)
    }

    #[tokio::test]
    async fn an_agent_that_ends_still_takes_a_request_that_is_on_its_way() {
        for (parts, expected) in [
            (&[(0, &b"GET / HTTP/1.1\r\n"[..])][..], Found::Requests),
            (&[(2, b"GET / HTTP/1.1\r\n")], Found::Requests),
            // Once it has begun it has as long as any.
            (&[(2, b"G"), (10, b"ET / HTTP/1.1\r\n")], Found::Requests),
            (&[], Found::Nothing),
            (&[(10, b"GET / HTTP/1.1\r\n")], Found::Nothing),
        ] {
            assert_eq!(found_while_leaving(parts).await, Some(expected), "{parts:?}");
        }
    }
}
