//! Requests in a copy of what a client sends, for whoever only watches.
//!
//! The bytes themselves go their way as they are; `listener` shows a copy of them and is told of each request. Invariant:
//! nothing here acts on the connection. What cannot be read ends the watching, and nothing else.

use std::io::Cursor;

use bytes::{Bytes, BytesMut};
use h2::Reason;
use http::request::Parts;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::{
    LIMITS,
    detect::{Protocol, detect},
    h1::{self, Switch, hop_by_hop},
    wire,
};

/// As much as flow control can permit at once: the server that answers really has its own limits.
const WINDOW: u32 = (1 << 31) - 1;
/// The largest frame and the largest table of headers that a client may use, whatever its server permits.
const FRAME: u32 = (1 << 24) - 1;
const TABLE: u32 = 64 * 1024;
/// Requests given up by the client before they were read.
const GIVEN_UP: usize = 1024;

/// What is heard.
#[derive(Debug)]
pub enum Heard {
    /// Something else than requests, or nothing.
    Bytes,
    /// A request, without what belongs to its connection and what only agents say.
    Request(Box<Parts>),
}

/// Reads a copy to its end and tells what is heard in it, in its order.
pub async fn overhear(mut copy: impl AsyncRead + Unpin, mut tell: impl FnMut(Heard)) {
    let mut seen = BytesMut::new();
    let protocol = loop {
        match detect(&seen) {
            Protocol::Undecided => {}
            decided => break decided,
        }
        match copy.read_buf(&mut seen).await {
            Ok(0) | Err(_) => break Protocol::Undecided,
            Ok(_) => {}
        }
    };
    let mut tell_request = |mut parts: Parts, switch: &Switch| {
        hop_by_hop::strip(&mut parts.headers, switch);
        wire::clean(&mut parts.headers);
        tell(Heard::Request(Box::new(parts)));
    };
    match protocol {
        Protocol::Http1 => http1(copy, seen, &mut tell_request).await,
        Protocol::Http2 => http2(copy, seen, &mut tell_request).await,
        Protocol::Tls | Protocol::Opaque | Protocol::Undecided => tell(Heard::Bytes),
    }
}

async fn http1(copy: impl AsyncRead + Unpin, seen: BytesMut, tell: &mut impl FnMut(Parts, &Switch)) {
    let mut reader = h1::Reader::with_buffered(copy, seen, LIMITS);
    while let Ok(Some(head)) = reader.request().await {
        let leaves = head.switch == Switch::Tunnel;
        tell(head.parts, &head.switch);
        if leaves {
            return;
        }
        while let Some(frame) = reader.frame().await {
            if frame.is_err() {
                return;
            }
        }
    }
}

/// Plays a server whose words nobody hears: it takes whatever comes and gives up each request once it was told.
async fn http2(copy: impl AsyncRead + Unpin, seen: BytesMut, tell: &mut impl FnMut(Parts, &Switch)) {
    let mut builder = h2::server::Builder::new();
    builder
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_frame_size(FRAME)
        .header_table_size(TABLE)
        .max_header_list_size(u32::try_from(LIMITS.head_bytes).unwrap_or(u32::MAX))
        .max_pending_accept_reset_streams(GIVEN_UP)
        .max_local_error_reset_streams(None)
        .enable_connect_protocol();
    let both = tokio::io::join(Cursor::new(seen).chain(copy), tokio::io::sink());
    let Ok(mut connection) = builder.handshake::<_, Bytes>(both).await else {
        return;
    };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tell(request.into_parts().0, &Switch::Stay);
        respond.send_reset(Reason::NO_ERROR);
    }
}

#[cfg(test)]
mod tests {
    use http::Request;
    use tokio::io::AsyncWriteExt as _;

    use super::*;

    /// What is heard in these bytes, when they come in pieces of that size.
    async fn heard(bytes: &[u8], piece: usize) -> Vec<String> {
        let (mut client, copy) = tokio::io::duplex(1 << 20);
        let mut told = Vec::new();
        let send = async move {
            for piece in bytes.chunks(piece) {
                client.write_all(piece).await.unwrap();
                tokio::task::yield_now().await;
            }
        };
        let (copy, _kept) = tokio::io::split(copy);
        let watched = overhear(copy, |heard| {
            told.push(match heard {
                Heard::Bytes => "bytes".to_owned(),
                Heard::Request(parts) => {
                    format!("{} {} {}", parts.method, parts.uri.path(), parts.headers.len())
                }
            });
        });
        tokio::join!(send, watched);
        told
    }

    #[tokio::test]
    async fn each_request_is_told_as_it_came() {
        let two =
            b"POST /a%zz HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\nConnection: x-b\r\nX-B: c\r\n\r\nabc\
                    PUT //b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n\
                    GET /../c HTTP/1.1\r\nHost: a\r\nnodemesh-error: x\r\n\r\n";
        for piece in [1, 7, 1000] {
            let expected = ["POST /a%zz 2", "PUT //b 1", "GET /../c 1"];
            assert_eq!(heard(two, piece).await, expected, "{piece}");
        }
        // What cannot be read ends it, and what does not follow from the bytes is not guessed.
        for (bytes, expected) in [
            (
                &b"GET /a HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n"[..],
                &[][..],
            ),
            (
                b"CONNECT a:1 HTTP/1.1\r\nHost: a:1\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n",
                &["CONNECT  1"],
            ),
            (b"GET /a HTTP/1.1\r\nHost: a\r\n", &[]),
        ] {
            assert_eq!(heard(bytes, 1000).await, expected, "{}", bytes.escape_ascii());
        }
    }

    #[tokio::test]
    async fn what_is_no_http_is_told_once() {
        for bytes in [
            &b""[..],
            b"G",
            b"*1\r\n$4\r\nPING\r\n",
            b"\x16\x03\x01\x02\0\x01",
            b"EHLO a\r\nGET / HTTP/1.1\r\n\r\n",
        ] {
            assert_eq!(heard(bytes, 1000).await, ["bytes"], "{}", bytes.escape_ascii());
        }
    }

    /// A client and a server talk; only what the client sends is heard.
    #[tokio::test]
    async fn requests_of_http2_are_told_while_another_server_answers() {
        let (client, near) = tokio::io::duplex(1 << 20);
        let (server, far) = tokio::io::duplex(1 << 20);
        let (mut copy_in, copy) = tokio::io::duplex(1 << 24);
        let (mut from_client, mut to_client) = tokio::io::split(near);
        let (mut from_server, mut to_server) = tokio::io::split(far);
        let up = async move {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(count @ 1..) = from_client.read(&mut buffer).await {
                copy_in.write_all(&buffer[..count]).await.unwrap();
                to_server.write_all(&buffer[..count]).await.unwrap();
            }
        };
        let down = async move {
            let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
        };
        tokio::spawn(async move {
            let mut connection = h2::server::Builder::new()
                .initial_window_size(1 << 20)
                .handshake::<_, Bytes>(server)
                .await
                .unwrap();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                tokio::spawn(async move {
                    let mut body = request.into_body();
                    while let Some(Ok(data)) = body.data().await {
                        body.flow_control().release_capacity(data.len()).unwrap();
                    }
                    respond.send_response(http::Response::new(()), true).unwrap();
                });
            }
        });
        let asked = async move {
            let (mut send, connection) = h2::client::handshake(client).await.unwrap();
            let connection = tokio::spawn(connection);
            for number in 0..200 {
                let request = Request::post(format!("http://a/{number}")).body(()).unwrap();
                send = send.ready().await.unwrap();
                let (answer, mut body) = send.send_request(request, false).unwrap();
                // After what is heard was told its server would not take any more of it.
                tokio::task::yield_now().await;
                body.send_data(vec![b'x'; 20_000].into(), true).unwrap();
                assert_eq!(answer.await.unwrap().status(), 200);
            }
            drop(send);
            connection.await.unwrap().unwrap();
        };
        let mut told = Vec::new();
        let watched = overhear(copy, |heard| {
            if let Heard::Request(parts) = heard {
                told.push(parts.uri.path().to_owned());
            }
        });
        tokio::join!(asked, up, down, watched);
        let expected: Vec<_> = (0..200).map(|number| format!("/{number}")).collect();
        assert_eq!(told, expected);
    }
}
