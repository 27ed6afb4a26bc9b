//! Seats and pings of a session, against an HTTP/2 server at the other end of a pipe in memory.

use std::time::Duration;

use h2::server::{Connection, SendResponse};
use http::{Method, Response};
use tokio::io::DuplexStream;

use super::*;
use crate::telemetry::{Budgets, Limits};

type Server = Connection<DuplexStream, Bytes>;

async fn pair(resets: usize) -> (Session, Server) {
    let (near, far) = tokio::io::duplex(1 << 20);
    let claim =
        Budgets::new(Limits::default()).claim(&mesh_common::model::ObjectKey::new("shop", "web"), None);
    let tasks = TaskTracker::new();
    let addr = "10.0.0.1:80".parse().unwrap();
    let server = h2::server::Builder::new()
        .max_concurrent_streams(200)
        .max_pending_accept_reset_streams(resets)
        .handshake(far);
    let (session, server) = tokio::join!(Session::over(near, addr, &claim, &tasks, Pinging::Taken), server);
    (session.unwrap(), server.unwrap())
}

fn request() -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = "http://web/".parse().unwrap();
    request
}

/// Asks, and does not wait for the answer.
async fn give_up(session: &Session) {
    let room = session.room().await.unwrap();
    let (response, send, seat) = room.send(request(), true).unwrap();
    drop((response, send));
    drop(seat);
}

/// Lets the tasks of a session go on until nothing is left to do but to wait.
async fn settle() {
    tokio::time::sleep(Duration::from_millis(1)).await;
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_was_given_up_keeps_its_seat_until_the_other_end_knows() {
    let (session, mut server) = pair(100).await;
    for _ in 0..3 {
        give_up(&session).await;
    }
    settle().await;
    assert_eq!(session.streams(), 3, "the other end has read nothing");
    let serve = async { while server.accept().await.is_some() {} };
    tokio::select! {
        () = serve => panic!("the connection ended"),
        () = tokio::time::sleep(Duration::from_secs(1)) => {}
    }
    assert_eq!(session.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_seat_is_free_at_once_when_nothing_was_sent_or_an_answer_came() {
    let (session, mut server) = pair(100).await;
    drop(session.room().await.unwrap());
    assert_eq!(session.streams(), 0);
    let room = session.room().await.unwrap();
    let (response, send, mut seat) = room.send(request(), true).unwrap();
    let answered = async {
        let (_, mut respond): (_, SendResponse<Bytes>) = server.accept().await.unwrap().unwrap();
        respond.send_response(Response::new(()), true).unwrap();
        let _ = server.accept().await;
    };
    let answer = tokio::select! {
        answer = response => answer.unwrap(),
        () = answered => panic!("the connection ended"),
    };
    seat.heard();
    assert_eq!(session.streams(), 1);
    drop((answer, send, seat));
    assert_eq!(session.streams(), 0);
}

#[tokio::test(start_paused = true)]
async fn seats_are_free_when_their_connection_is_over() {
    let (session, server) = pair(100).await;
    give_up(&session).await;
    settle().await;
    assert_eq!(session.streams(), 1);
    drop(server);
    settle().await;
    assert_eq!(session.streams(), 0);
}

/// Servers of gRPC take a few PINGs for an attack.
#[tokio::test(start_paused = true)]
async fn a_server_is_not_pinged() {
    let (near, far) = tokio::io::duplex(1 << 20);
    let claim =
        Budgets::new(Limits::default()).claim(&mesh_common::model::ObjectKey::new("shop", "web"), None);
    let (tasks, addr) = (TaskTracker::new(), "10.0.0.1:80".parse().unwrap());
    let far = tokio::spawn(async move {
        use tokio::io::AsyncReadExt as _;
        let (mut far, mut seen) = (far, Vec::new());
        let until = tokio::time::sleep(Duration::from_secs(60));
        tokio::select! {
            _ = far.read_to_end(&mut seen) => panic!("the connection ended"),
            () = until => seen,
        }
    });
    let session = Session::over(near, addr, &claim, &tasks, Pinging::Resented)
        .await
        .unwrap();
    give_up(&session).await;
    settle().await;
    assert_eq!(session.streams(), 0, "nobody asks what it knows");
    let seen = far.await.unwrap();
    let mut frames = &seen[24..];
    let mut kinds = Vec::new();
    while let [a, b, c, kind, rest @ ..] = frames {
        kinds.push(*kind);
        let length = usize::from(*a) << 16 | usize::from(*b) << 8 | usize::from(*c);
        frames = &rest[5 + length..];
    }
    assert!(
        kinds.contains(&3) && !kinds.contains(&6),
        "RST_STREAM, no PING: {kinds:?}"
    );
}

/// The other end takes what a whole workload gives up without pause, though it ends connections for much less.
#[tokio::test(start_paused = true)]
async fn who_gives_up_all_the_time_ends_no_connection() {
    let (session, mut server) = pair(tuning::PENDING_RESETS).await;
    let clients = async {
        let mut given_up = 0;
        while given_up < 20_000 {
            if session.has_room() {
                give_up(&session).await;
                given_up += 1;
            } else {
                tokio::task::yield_now().await;
            }
        }
    };
    let mut seen = 0;
    let serve = async {
        loop {
            match server.accept().await {
                Some(Ok(_)) => seen += 1,
                ended => break ended.map(|accepted| accepted.map(drop)),
            }
        }
    };
    tokio::select! {
        ended = serve => panic!("after {seen}: {ended:?}"),
        () = clients => {}
    }
    assert!(session.room().await.is_ok());
}
