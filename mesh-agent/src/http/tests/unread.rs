//! Bodies that nobody reads yet: the window of their connection must not wait for them.

use super::*;
use crate::{
    http::{
        server::serve_stream,
        wire::{Spoken, Told},
    },
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
