//! What a connection carries whose port says nothing about it, by its first bytes and its application's.
//!
//! Invariant: while this looks, nothing that the client sent has reached the application; and where the application speaks
//! first, nobody has waited.

use std::io;

use bytes::BytesMut;
use tokio::{
    io::{AsyncReadExt as _, Interest},
    net::TcpStream,
};

use crate::http::{
    Transport,
    detect::{Protocol, Resemblance, detect, resemblance},
    server::{HEAD, IDLE},
};

/// What was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Requests, or what some could take for one.
    Requests,
    /// Something else.
    Bytes,
    /// Nothing: whoever was to speak first ended it.
    Nothing,
}

/// How sure one must be that bytes are no requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Caution {
    /// What is not HTTP by the rules is none.
    Usual,
    /// Neither is what a lenient server could take for it.
    Full,
}

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
/// application, as long as for a request.
pub(super) async fn look(
    client: &mut Transport,
    app: Option<&TcpStream>,
    seen: &mut BytesMut,
    caution: Caution,
) -> io::Result<Found> {
    let mut listening = app;
    loop {
        if let Some(found) = judge(seen, caution) {
            return Ok(found);
        }
        let patience = match (seen.is_empty(), app) {
            (true, Some(_)) => None,
            (true, None) => Some(IDLE),
            (false, _) => Some(HEAD),
        };
        let too_late = async {
            match patience {
                Some(patience) => tokio::time::sleep(patience).await,
                None => std::future::pending().await,
            }
        };
        let spoken = async {
            match listening {
                Some(app) => speech(app).await,
                None => std::future::pending().await,
            }
        };
        let over = tokio::select! {
            read = client.read_buf(seen) => read? == 0,
            spoken = spoken => {
                match spoken? {
                    Speech::Settings => listening = None,
                    Speech::Answer => return Ok(Found::Nothing),
                    Speech::Other => return Ok(Found::Bytes),
                }
                false
            }
            () = too_late => true,
        };
        if over {
            return Ok(match (seen.is_empty(), app) {
                (true, None) => Found::Nothing,
                // It may still listen.
                (true, Some(_)) => Found::Bytes,
                (false, _) if caution == Caution::Full => Found::Requests,
                (false, _) => Found::Bytes,
            });
        }
    }
}

/// What the client's bytes say; `None` when they say nothing yet.
fn judge(seen: &[u8], caution: Caution) -> Option<Found> {
    match detect(seen) {
        Protocol::Undecided => None,
        Protocol::Http1 | Protocol::Http2 => Some(Found::Requests),
        Protocol::Tls => Some(Found::Bytes),
        Protocol::Opaque if caution == Caution::Usual => Some(Found::Bytes),
        Protocol::Opaque => match resemblance(seen) {
            Resemblance::Undecided => None,
            Resemblance::None => Some(Found::Bytes),
            Resemblance::Http1 => Some(Found::Requests),
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
    async fn found(client: &[u8], app: &[u8], caution: Caution) -> Option<Found> {
        let (mut far_client, near_client) = pair().await;
        let (near_app, mut far_app) = pair().await;
        far_client.write_all(client).await.unwrap();
        far_app.write_all(app).await.unwrap();
        if !app.is_empty() {
            near_app.readable().await.unwrap();
        }
        let (mut client, mut seen) = (Transport::from(near_client), BytesMut::new());
        // The clock runs on only when nobody has anything to do.
        tokio::time::pause();
        let looked = look(&mut client, Some(&near_app), &mut seen, caution);
        let found = tokio::time::timeout(IDLE * 100, looked).await;
        tokio::time::resume();
        found.ok().map(Result::unwrap)
    }

    #[tokio::test]
    async fn the_client_or_else_the_application_tells() {
        for caution in [Caution::Usual, Caution::Full] {
            for (client, app, expected) in [
                (&b"GET / HTTP/1.1\r\n"[..], &b""[..], Some(Found::Requests)),
                (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"", Some(Found::Requests)),
                (b"*1\r\n$4\r\nPING\r\n", b"", Some(Found::Bytes)),
                (b"\x16\x03\x01\x02\0\x01", b"", Some(Found::Bytes)),
                (b"", b"220 mail.example.com\r\n", Some(Found::Bytes)),
                (b"", b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64", None),
                (b"", b"HTTP/1.1 408 Request Timeout\r\n", Some(Found::Nothing)),
                (b"", b"", None),
            ] {
                let seen = found(client, app, caution).await;
                assert_eq!(seen, expected, "{caution:?} {}", client.escape_ascii());
            }
        }
        let odd = b"\nget /admin HTTP/1.1\r\n";
        assert_eq!(found(odd, b"", Caution::Usual).await, Some(Found::Bytes));
        assert_eq!(found(odd, b"", Caution::Full).await, Some(Found::Requests));
        assert_eq!(found(b"GET", b"", Caution::Usual).await, Some(Found::Bytes));
        assert_eq!(found(b"GET", b"", Caution::Full).await, Some(Found::Requests));
    }
}
