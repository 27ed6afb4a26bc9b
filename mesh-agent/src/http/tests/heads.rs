//! Heads, trailers and ends that a client or a server may say otherwise than usual, on one node and between two.

use tokio::sync::mpsc;

use super::{repeats::before_agent, *};
use crate::{
    http::{
        server::serve_stream,
        wire::{Spoken, Told},
    },
    upstream::{self, incoming::Incoming},
};

/// The agent of the destination, before an HTTP/1 server: tunnels come in the clear.
async fn destination(app: SocketAddr) -> SocketAddr {
    server(move |stream| async move {
        let steer = Arc::new(Straight::to(app, Side::Destination));
        let mut connection = h2::server::handshake(stream).await.unwrap();
        while let Some(Ok((request, respond))) = connection.accept().await {
            let steer = Arc::clone(&steer);
            tokio::spawn(async move {
                let told = Told {
                    spoken: Spoken::Http1,
                    client: None,
                };
                let request = request.map(|recv| Incoming::new(recv, None));
                serve_stream(&*steer, request, respond, told).await;
            });
        }
    })
    .await
}

/// An engine straight before the server, and one that reaches it through another agent.
async fn ways(app: SocketAddr) -> [(&'static str, SocketAddr); 2] {
    let (near, _) = engine(app).await;
    let (far, _) = before_agent(destination(app).await).await;
    [("near", near), ("far", far)]
}

#[tokio::test]
async fn an_interim_answer_passes_without_what_belongs_to_its_connection() {
    let app = server(|mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        let answer = "HTTP/1.1 103 Early Hints\r\nConnection: keep-alive, x-hop\r\nKeep-Alive: timeout=5\r\n\
            X-Hop: 1\r\nNodemesh-Error: forged\r\nLink: </a>\r\n\r\n\
            HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    for (way, addr) in ways(app).await {
        let mut client = connect(addr).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        client.write_all(request).await.unwrap();
        let head = within(until(&mut client, "\r\n\r\n")).await;
        assert_eq!(head, "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", "{way}");
        let answer = within(until(&mut client, "ok")).await;
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n"), "{way}: {answer}");
    }
}

#[tokio::test]
async fn trailers_say_nothing_in_the_name_of_the_mesh() {
    // Tells in its answer how the request ended.
    let app = server(|mut stream| async move {
        let asked = until(&mut stream, "X-Sum: 7\r\n\r\n").await.to_ascii_lowercase();
        let forged = asked.matches("nodemesh-").count() + asked.matches("x-forwarded-client-cert").count();
        let answer = format!(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Forged: {forged}\r\n\r\n2\r\nok\r\n0\r\n\
            Nodemesh-Error: a\r\nNodemesh-Switched: b\r\nX-Sum: 8\r\n\r\n"
        );
        stream.write_all(answer.as_bytes()).await.unwrap();
    })
    .await;
    for (way, addr) in ways(app).await {
        let mut client = connect(addr).await.unwrap();
        let request = "POST / HTTP/1.1\r\nHost: x\r\nTE: trailers\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\n\
            Nodemesh-Client: 9\r\nNodemesh_Version: 1\r\nX-Forwarded-Client-Cert: By=me\r\nX-Sum: 7\r\n\r\n";
        client.write_all(request.as_bytes()).await.unwrap();
        let answer = within(until(&mut client, "X-Sum: 8\r\n\r\n")).await;
        assert!(answer.contains("X-Forged: 0\r\n"), "{way}: {answer}");
        assert!(
            !answer.to_ascii_lowercase().contains("nodemesh"),
            "{way}: {answer}"
        );
    }
}

#[tokio::test]
async fn a_client_that_ends_its_side_gets_its_answer() {
    let app = server(|mut stream| async move {
        until(&mut stream, "\r\n\r\n").await;
        // The client's end is there by then.
        tokio::time::sleep(Duration::from_millis(300)).await;
        let answer = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
        // Whoever broke it off needs none.
        let _ = stream.write_all(answer).await;
    })
    .await;
    for (way, addr) in ways(app).await {
        for request in [
            "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
            "GET / HTTP/1.0\r\nHost: x\r\n\r\n",
        ] {
            let mut client = connect(addr).await.unwrap();
            client.write_all(request.as_bytes()).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = String::new();
            let read = within(client.read_to_string(&mut answer)).await;
            assert!(read.is_ok(), "{way}: {request}: {read:?}");
            assert!(
                answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("ok"),
                "{way}: {request}: {answer}"
            );
        }
    }
}

/// A client leaves before it has an answer, and `leave` returns what stays open of its connection: its server sees the end of
/// the request.
async fn takes_its_request_along(leave: impl AsyncFn(TcpStream) -> Option<TcpStream>) {
    let (heard, mut asked) = mpsc::unbounded_channel();
    let (ended, mut gone) = mpsc::unbounded_channel();
    let app = server(move |mut stream| {
        let (heard, ended) = (heard.clone(), ended.clone());
        async move {
            until(&mut stream, "\r\n\r\n").await;
            heard.send(()).unwrap();
            // Nothing more comes but the end.
            let _ = stream.read_u8().await;
            ended.send(()).unwrap();
        }
    })
    .await;
    for (_, addr) in ways(app).await {
        let mut client = connect(addr).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n";
        client.write_all(request).await.unwrap();
        within(asked.recv()).await.unwrap();
        let _open = leave(client).await;
        within(gone.recv()).await.unwrap();
    }
}

#[tokio::test]
async fn a_client_that_resets_takes_its_request_along() {
    takes_its_request_along(async |client| {
        upstream::abort(&client);
        None
    })
    .await;
}

#[tokio::test]
async fn a_client_that_ends_its_side_and_hears_nothing_takes_its_request_along() {
    takes_its_request_along(async |mut client| {
        client.shutdown().await.unwrap();
        Some(client)
    })
    .await;
}

#[tokio::test]
async fn what_cannot_begin_a_request_is_refused_without_waiting_for_its_line() {
    let (addr, _leaving) = engine(server(h2_echo).await).await;
    let mut client = connect(addr).await.unwrap();
    let hello = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03";
    client.write_all(hello).await.unwrap();
    let head = within(until(&mut client, "\r\n\r\n")).await;
    assert!(head.starts_with("HTTP/1.1 400 "), "{head}");
}
