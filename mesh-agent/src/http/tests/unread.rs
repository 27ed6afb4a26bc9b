//! Bodies that nobody reads yet: the window of their connection must not wait for them.

use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

use super::*;
use crate::{
    http::{
        server::serve_stream,
        wire::{Spoken, Told},
    },
    samples,
    telemetry::{ConnectionState, Destination, Direction, Opening, Registry},
    upstream::{Unread, incoming::Incoming},
};

const MIB: usize = 1 << 20;

#[tokio::test]
async fn the_body_of_a_request_that_waits_to_be_led_counts_as_unread() {
    let unread = Arc::<Unread>::default();
    let counted = Arc::clone(&unread);
    let nowhere = ([127, 0, 0, 1], 9).into();
    let destination = server(move |stream| {
        let unread = Arc::clone(&counted);
        async move {
            let mut connection = h2::server::Builder::new()
                .initial_window_size(4 << 20)
                .initial_connection_window_size(4 << 20)
                .handshake(stream)
                .await
                .unwrap();
            while let Some(Ok((request, respond))) = connection.accept().await {
                let unread = Arc::clone(&unread);
                tokio::spawn(async move {
                    let steer = Straight::to(nowhere, Side::Destination);
                    let told = Told {
                        spoken: Spoken::Http2,
                        client: None,
                    };
                    let request = request.map(|recv| Incoming::new(recv, Some(unread)));
                    serve_stream(&steer, request, respond, told).await;
                });
            }
        }
    })
    .await;
    let (client, connection) = h2::client::handshake(connect(destination).await.unwrap())
        .await
        .unwrap();
    tokio::spawn(connection);
    let mut client = client.ready().await.unwrap();
    let request = Request::post("http://web/undecided").body(()).unwrap();
    let (_answer, mut body) = client.send_request(request, false).unwrap();
    body.send_data(Bytes::from(vec![7; 2 * MIB]), false).unwrap();
    within(async {
        while unread.in_steps() < 2 * MIB {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    body.send_reset(Reason::CANCEL);
    within(async {
        while unread.in_steps() > 0 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

/// Uploads of which no server reads more than a window, in one connection.
const DEAF: usize = 24;

#[tokio::test]
async fn uploads_that_nobody_reads_keep_no_other_of_their_connection_waiting() {
    let server = server(|stream| async move {
        let mut connection = h2::server::Builder::new()
            .initial_connection_window_size(64 << 20)
            .handshake::<_, Bytes>(stream)
            .await
            .unwrap();
        let mut deaf = Vec::new();
        while let Some(Ok((request, mut respond))) = connection.accept().await {
            if request.uri().path() == "/deaf" {
                deaf.push((request, respond));
                continue;
            }
            tokio::spawn(async move {
                let mut body = request.into_body();
                while let Some(Ok(data)) = body.data().await {
                    body.flow_control().release_capacity(data.len()).unwrap();
                }
                respond.send_response(Response::new(()), true).unwrap();
            });
        }
    })
    .await;
    let mut steer = Straight::to(server, Side::Source);
    steer.entry = Some(entry());
    let (addr, _leaving) = engine_of(steer).await;
    let mut client = h2_client(addr).await;
    let sent = Arc::<AtomicUsize>::default();
    for _ in 0..DEAF {
        let (answer, body) = client.send_request(post("/deaf"), false).unwrap();
        let sent = Arc::clone(&sent);
        tokio::spawn(async move {
            upload(body, MIB, &sent).await;
            drop(answer);
        });
    }
    // What each window takes, here and at the server: more than the connection has while everything is read.
    within(async {
        while sent.load(Relaxed) < DEAF * (256 << 10) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
    let (answer, body) = client.send_request(post("/"), false).unwrap();
    within(upload(body, MIB, &AtomicUsize::new(0))).await;
    assert_eq!(within(answer).await.unwrap().status(), StatusCode::OK);
}

/// Sends so many bytes as there is room for them.
async fn upload(mut body: h2::SendStream<Bytes>, bytes: usize, sent: &AtomicUsize) {
    let mut left = bytes;
    while left > 0 {
        body.reserve_capacity(left.min(64 << 10));
        let Some(Ok(room)) = std::future::poll_fn(|cx| body.poll_capacity(cx)).await else {
            return;
        };
        left -= room.min(left);
        body.send_data(Bytes::from(vec![7; room]), left == 0).unwrap();
        sent.fetch_add(room, Relaxed);
    }
}

/// A connection of a workload that has no other.
fn entry() -> Entry {
    Registry::new(0, Budgets::new(Limits::default())).open(Opening {
        direction: Direction::Outbound,
        workload: Arc::new(samples::workload("shop", "web")),
        client: "10.0.0.1:1000".parse().unwrap(),
        client_workload: None,
        original_destination: "10.0.0.2:80".parse().unwrap(),
        destination: Destination::Workload(ObjectKey::new("shop", "db")),
        process: None,
        peer: None,
        ruling: None,
        state: ConnectionState::Open,
    })
}
