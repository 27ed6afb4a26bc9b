//! The engine between a client and a server on loopback, with somebody who steers straight to the server.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use h2::Reason;
use http::{HeaderMap, Request, Response, StatusCode};
use mesh_common::model::ObjectKey;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{
    course::{Course, Onward},
    exchange::{Hop, Message, Server, Steer},
    fault::{Cause, Fault, Side, Signature},
    pool::Shelf,
};

use crate::telemetry::{Budgets, Claim, Connection, Entry, Limits};

mod heads;
mod hosts;
mod repeats;
mod unread;

/// Steers everything to one server, or refuses it.
struct Straight {
    server: SocketAddr,
    shelf: Arc<Shelf>,
    tasks: TaskTracker,
    signature: Signature,
    /// What it is to the agent, where that matters.
    entry: Option<Entry>,
}

#[derive(Clone)]
struct There {
    server: SocketAddr,
    asker: SocketAddr,
    shelf: Arc<Shelf>,
    tasks: TaskTracker,
}

impl Straight {
    /// On this side of the engine's mesh.
    fn to(server: SocketAddr, side: Side) -> Self {
        Self {
            server,
            shelf: Arc::default(),
            tasks: TaskTracker::new(),
            signature: Signature::new("test".into(), side),
            entry: None,
        }
    }
}

impl Server for There {
    fn shelf(&self) -> &Arc<Shelf> {
        &self.shelf
    }

    fn asker(&self) -> SocketAddr {
        self.asker
    }

    fn connections(&self) -> &TaskTracker {
        &self.tasks
    }

    fn claim(&self) -> Arc<Claim> {
        claim()
    }

    async fn connect(&self) -> Result<TcpStream, Fault> {
        connect(self.server)
            .await
            .map_err(|error| Fault::new(Cause::Connect, error.to_string()))
    }
}

impl Steer for Straight {
    type Server = There;
    type Agent = Infallible;
    type Escort = ();

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn connection(&self) -> Option<&Arc<Connection>> {
        self.entry.as_ref().map(Entry::connection)
    }

    async fn steer(&self, message: &mut Message) -> Result<Course<Hop<There, Infallible>, ()>, Fault> {
        if message.parts.uri.path() == "/denied" {
            return Err(Fault::new(Cause::Denied, "by the test"));
        }
        if message.parts.uri.path() == "/undecided" {
            return std::future::pending().await;
        }
        // The tests' clients say who they are.
        let port = message.parts.headers.get("x-port");
        let port = port.map_or(1, |port| port.to_str().unwrap().parse().unwrap());
        Ok(Course::Onward(Onward {
            hop: Hop::Server(There {
                server: self.server,
                asker: ([127, 0, 0, 1], port).into(),
                shelf: Arc::clone(&self.shelf),
                tasks: self.tasks.clone(),
            }),
            escort: (),
            deadline: None,
        }))
    }
}

/// The place of one request in a budget of its own.
fn claim() -> Arc<Claim> {
    Budgets::new(Limits::default()).claim(&ObjectKey::new("shop", "web"), None)
}

/// An engine before `server`; dropping the token's guard ends it.
async fn engine(server: SocketAddr) -> (SocketAddr, CancellationToken) {
    engine_of(Straight::to(server, Side::Source)).await
}

/// An engine whose requests somebody steers.
async fn engine_of<S: Steer + 'static>(steer: S) -> (SocketAddr, CancellationToken) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let leaving = CancellationToken::new();
    let token = leaving.clone();
    let steer = Arc::new(steer);
    tokio::spawn(async move {
        let tasks = TaskTracker::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (steer, tasks, leaving) = (Arc::clone(&steer), tasks.clone(), token.clone());
            tokio::spawn(async move {
                super::server::serve(stream, bytes::BytesMut::new(), &steer, &tasks, &leaving).await
            });
        }
    });
    (addr, leaving)
}

/// A server that handles each connection with `serve`.
async fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(serve(stream));
        }
    });
    addr
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test's own namespace is the right one"
)]
async fn connect(addr: SocketAddr) -> std::io::Result<TcpStream> {
    TcpStream::connect(addr).await
}

async fn within<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), what)
        .await
        .expect("in time")
}

/// Everything up to `end`.
async fn until(stream: &mut TcpStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        match stream.read_u8().await {
            Ok(byte) => read.push(byte),
            Err(error) => panic!("{error} after {}", read.escape_ascii()),
        }
    }
    String::from_utf8(read).unwrap()
}

async fn h2_client(addr: SocketAddr) -> h2::client::SendRequest<Bytes> {
    let stream = connect(addr).await.unwrap();
    let (requests, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(async move {
        let _ = connection.await;
    });
    requests.ready().await.unwrap()
}

/// Echoes bodies and trailers over HTTP/2; `/reset` is reset after the first piece.
async fn h2_echo(stream: TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let (head, mut body) = request.into_parts();
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            while let Some(data) = body.data().await {
                let Ok(data) = data else { return };
                body.flow_control().release_capacity(data.len()).unwrap();
                send.send_data(data, false).unwrap();
                if head.uri.path() == "/reset" {
                    send.send_reset(Reason::ENHANCE_YOUR_CALM);
                    return;
                }
            }
            match body.trailers().await {
                Ok(Some(trailers)) => send.send_trailers(trailers).unwrap(),
                _ => send.send_data(Bytes::new(), true).unwrap(),
            }
        });
    }
}

fn post(path: &str) -> Request<()> {
    Request::post(format!("http://shop.example{path}"))
        .body(())
        .unwrap()
}

#[tokio::test]
async fn streams_run_both_ways_at_once_with_trailers() {
    let (addr, _leaving) = engine(server(h2_echo).await).await;
    let mut client = h2_client(addr).await;
    let (response, mut send) = client.send_request(post("/"), false).unwrap();
    let response = within(response).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut body = response.into_body();
    for piece in [&b"one"[..], b"two", b"three"] {
        send.send_data(Bytes::from_static(piece), false).unwrap();
        assert_eq!(within(body.data()).await.unwrap().unwrap(), piece);
    }
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    send.send_trailers(trailers.clone()).unwrap();
    assert!(within(body.data()).await.is_none());
    assert_eq!(within(body.trailers()).await.unwrap(), Some(trailers));
}

#[tokio::test]
async fn a_stream_that_its_server_resets_is_reset_for_the_same_reason() {
    let (addr, _leaving) = engine(server(h2_echo).await).await;
    let mut client = h2_client(addr).await;
    let (response, mut send) = client.send_request(post("/reset"), false).unwrap();
    send.send_data(Bytes::from_static(b"x"), false).unwrap();
    let mut body = within(response).await.unwrap().into_body();
    let error = loop {
        match within(body.data()).await {
            Some(Ok(_)) => {}
            Some(Err(error)) => break error,
            None => panic!("looks complete"),
        }
    };
    assert_eq!(error.reason(), Some(Reason::ENHANCE_YOUR_CALM));
}

#[tokio::test]
async fn a_grpc_client_is_told_of_a_denial_in_its_own_way() {
    let (addr, _leaving) = engine(server(h2_echo).await).await;
    let mut client = h2_client(addr).await;
    let mut request = post("/denied");
    request
        .headers_mut()
        .insert("content-type", "application/grpc".parse().unwrap());
    let (response, _send) = client.send_request(request, false).unwrap();
    let response = within(response).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(response.headers()["grpc-status"], "7");
    assert!(response.body().is_end_stream());
}

#[tokio::test]
async fn a_body_is_taken_no_faster_than_its_server_takes_it() {
    // Reads the head and nothing more.
    let deaf = server(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut held = Vec::new();
        while let Some(Ok(accepted)) = connection.accept().await {
            held.push(accepted);
        }
    })
    .await;
    let (addr, _leaving) = engine(deaf).await;
    let mut client = h2_client(addr).await;
    let (_response, mut send) = client.send_request(post("/"), false).unwrap();
    let mut sent = 0;
    loop {
        send.reserve_capacity(64 << 10);
        let room = tokio::time::timeout(
            Duration::from_secs(1),
            std::future::poll_fn(|cx| send.poll_capacity(cx)),
        );
        match room.await {
            Ok(room) => {
                let room = room.unwrap().unwrap();
                send.send_data(Bytes::from(vec![0; room]), false).unwrap();
                sent += room;
            }
            Err(_) => break,
        }
        assert!(
            sent < 4 << 20,
            "{sent} bytes were taken for a server that reads none"
        );
    }
    assert!(sent >= 64 << 10, "{sent}");
}

#[tokio::test]
async fn a_connection_is_used_again_and_one_that_closed_is_replaced() {
    // Answers two requests on each connection, then closes it without a word.
    let two = server(|mut stream| async move {
        for number in 1..=2 {
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let Ok(byte) = stream.read_u8().await else { return };
                head.push(byte);
            }
            let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n{number}");
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    })
    .await;
    let (addr, leaving) = engine(two).await;
    let mut client = connect(addr).await.unwrap();
    for number in 0..10 {
        client
            .write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut answer = Vec::new();
        while !answer.windows(4).any(|four| four == b"\r\n\r\n") || answer.ends_with(b"\n") {
            answer.push(within(client.read_u8()).await.unwrap());
        }
        let expected = if number % 2 == 0 { b'1' } else { b'2' };
        let text = String::from_utf8_lossy(&answer);
        assert!(text.starts_with("HTTP/1.1 200 OK\r\n"), "{text}");
        assert_eq!(answer.last(), Some(&expected), "{number}: {text}");
    }
    leaving.cancel();
    assert_eq!(
        within(client.read(&mut [0])).await.unwrap(),
        0,
        "an idle client is let go in order"
    );
}

#[tokio::test]
async fn requests_that_an_ending_server_did_not_look_at_go_to_another_connection() {
    // Serves ten requests on each connection, and refuses what comes after them.
    let impatient = server(|stream| async move {
        let mut connection = h2::server::handshake(stream).await.unwrap();
        let mut served = 0;
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            served += 1;
            if served > 10 {
                respond.send_reset(Reason::REFUSED_STREAM);
                connection.graceful_shutdown();
                continue;
            }
            tokio::spawn(async move {
                let mut body = request.into_body();
                let mut echoed = Vec::new();
                while let Some(Ok(data)) = body.data().await {
                    echoed.extend_from_slice(&data);
                }
                let mut send = respond.send_response(Response::new(()), false).unwrap();
                send.send_data(echoed.into(), true).unwrap();
            });
        }
    })
    .await;
    let (addr, _leaving) = engine(impatient).await;
    let mut client = h2_client(addr).await;
    for number in 0..100 {
        let (response, mut send) = client.send_request(post("/"), false).unwrap();
        send.send_data(vec![number; 100].into(), true).unwrap();
        let response = within(response).await.unwrap();
        assert_eq!(response.status(), StatusCode::OK, "{number}");
        let data = within(response.into_body().data()).await.unwrap().unwrap();
        assert_eq!(data, vec![number; 100]);
    }
}
