//! Streams that begin all at once, faster than smaller windows can be announced, and whose readers take nothing.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use mesh_common::model::ObjectKey;
use tokio::{
    io::DuplexStream,
    sync::{mpsc, oneshot},
    task::AbortHandle,
};

use super::*;
use crate::{
    telemetry::{Budgets, Limits},
    upstream::{Unread, incoming::Incoming, outgoing::poll_room},
};

/// Connections, each full of streams.
const CONNECTIONS: usize = 2;
/// Handed to a stream at once.
const PIECE: &[u8] = &[7; 16 << 10];

/// More than any window has.
const MUCH: usize = 4 << 20;

const PATIENCE: Duration = Duration::from_secs(10);

type Count = Arc<AtomicUsize>;

fn count(count: &Count) -> usize {
    count.load(Ordering::Relaxed)
}

fn claim() -> Arc<Claim> {
    Budgets::new(Limits::default()).claim(&ObjectKey::new("shop", "web"), None)
}

fn request() -> Request<()> {
    Request::post("http://web/").body(()).unwrap()
}

/// Sends as much as windows allow, without end.
async fn pour(mut send: SendStream<Bytes>, sent: Count) {
    loop {
        send.reserve_capacity(PIECE.len());
        let Ok(Some(room)) = poll_fn(|cx| poll_room(&mut send, cx)).await else {
            return;
        };
        let piece = Bytes::from_static(&PIECE[..room.min(PIECE.len())]);
        sent.fetch_add(piece.len(), Ordering::Relaxed);
        if send.send_data(piece, false).is_err() {
            return;
        }
    }
}

/// The reader of a stream, which takes nothing until it is told to. Its stream is over when it is dropped.
struct Reader {
    begin: Option<oneshot::Sender<()>>,
    read: Option<oneshot::Receiver<()>>,
    task: AbortHandle,
}

impl Reader {
    /// `kept` is what the stream needs.
    fn of<K: Send + 'static>(stream: impl Future<Output = (Incoming, K)> + Send + 'static) -> Self {
        let ((begin, mut begun), (told, read)) = (oneshot::channel(), oneshot::channel());
        let task = tokio::spawn(async move {
            let (mut incoming, _kept) = stream.await;
            let unread = poll_fn(|cx| {
                incoming.gather(cx);
                Pin::new(&mut begun).poll(cx)
            });
            unread.await.unwrap();
            let mut left = MUCH;
            while left > 0 {
                let piece = incoming.data().await.unwrap().unwrap();
                incoming.release(piece.len());
                left = left.saturating_sub(piece.len());
            }
            told.send(()).unwrap();
            std::future::pending::<()>().await;
        });
        Self {
            begin: Some(begin),
            read: Some(read),
            task: task.abort_handle(),
        }
    }

    /// Reads much.
    async fn goes_on(&mut self) {
        self.begin.take().unwrap().send(()).unwrap();
        let read = tokio::time::timeout(PATIENCE, self.read.take().unwrap()).await;
        read.expect("a stream waits for the readers of others").unwrap();
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn until(condition: impl Fn() -> bool, otherwise: &str) {
    let met = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(PATIENCE, met).await.expect(otherwise);
}

/// Waits until nobody sends any more, and says how much was sent.
async fn rest(sent: &Count) -> usize {
    loop {
        let before = count(sent);
        tokio::time::sleep(PATIENCE).await;
        if count(sent) == before {
            return before;
        }
    }
}

/// A server that answers everybody without end.
async fn pour_to_all(far: DuplexStream, sent: Count) {
    let mut server = h2::server::Builder::new()
        .max_concurrent_streams(200)
        .handshake(far)
        .await
        .unwrap();
    while let Some(Ok((_, mut respond))) = server.accept().await {
        if let Ok(send) = respond.send_response(http::Response::new(()), false) {
            tokio::spawn(pour(send, Arc::clone(&sent)));
        }
    }
}

/// A connection to such a server.
async fn session(claim: &Arc<Claim>, sent: &Count) -> Session {
    let (near, far) = tokio::io::duplex(1 << 20);
    tokio::spawn(pour_to_all(far, Arc::clone(sent)));
    let addr = "10.0.0.1:80".parse().unwrap();
    Session::over(near, addr, claim, &TaskTracker::new(), Pinging::Taken)
        .await
        .unwrap()
}

async fn ask(session: &Session) -> Reader {
    let room = session.room().await.unwrap();
    let share = room.share();
    let (response, send, seat) = room.send(request(), true).unwrap();
    Reader::of(async move {
        let recv = response.await.unwrap().into_body();
        (seat.incoming(recv), (share, send, seat))
    })
}

#[tokio::test(start_paused = true)]
async fn answers_that_nobody_reads_stay_below_the_limit_and_keep_nobody_waiting() {
    let (claim, sent) = (claim(), Count::default());
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let session = session(&claim, &sent).await;
        let mut readers = Vec::new();
        for _ in 0..STREAMS_MAX {
            readers.push(ask(&session).await);
        }
        connections.push((session, readers));
    }
    let held = rest(&sent).await;
    assert!(held < claim.budget().limit(), "{held} bytes are held");
    for (session, mut readers) in connections {
        let mut last = readers.pop().unwrap();
        last.goes_on().await;
        drop(last);
        let mut new = ask(&session).await;
        new.goes_on().await;
        assert!(
            session.seats.unread.in_steps() > 0,
            "streams hold what nobody reads"
        );
        drop((new, readers));
        until(|| session.seats.unread.in_steps() == 0, "what is over is counted").await;
    }
}

/// The accepting end of a tunnel, whose streams are counted and read by nobody.
async fn accept_all(far: DuplexStream, claim: Arc<Claim>, readers: mpsc::UnboundedSender<Reader>) {
    let unread = Arc::<Unread>::default();
    let mut windows = Windows::of(claim.budget(), &unread);
    let mut connection = tuning::server(claim.budget(), &windows)
        .handshake::<_, Bytes>(far)
        .await
        .unwrap();
    loop {
        let in_use = connection.has_streams();
        let (request, respond) = tokio::select! {
            biased;
            due = windows.due(|| in_use) => {
                windows.apply(&mut connection, due);
                continue;
            }
            accepted = connection.accept() => match accepted {
                Some(Ok(accepted)) => accepted,
                _ => return,
            },
        };
        let share = claim.budget().join();
        let incoming = Incoming::new(request.into_body(), Some(Arc::clone(&unread)));
        let _ = readers.send(Reader::of(async move { (incoming, (share, respond)) }));
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_nobody_reads_stay_below_the_limit_and_keep_nobody_waiting() {
    let (claim, sent) = (claim(), Count::default());
    let mut connections = Vec::new();
    for _ in 0..CONNECTIONS {
        let (near, far) = tokio::io::duplex(1 << 20);
        let (taken, readers) = mpsc::unbounded_channel();
        tokio::spawn(accept_all(far, Arc::clone(&claim), taken));
        let (mut requests, connection) = h2::client::handshake(near).await.unwrap();
        tokio::spawn(connection);
        for _ in 0..STREAMS_MAX {
            requests = requests.ready().await.unwrap();
            let (response, send) = requests.send_request(request(), false).unwrap();
            tokio::spawn(response);
            tokio::spawn(pour(send, Arc::clone(&sent)));
        }
        connections.push((requests, readers));
    }
    let held = rest(&sent).await;
    assert!(held < claim.budget().limit(), "{held} bytes are held");
    for (_requests, mut readers) in connections {
        let mut waiting = Vec::new();
        for _ in 0..STREAMS_MAX {
            waiting.push(readers.recv().await.unwrap());
        }
        waiting.pop().unwrap().goes_on().await;
        waiting.swap_remove(0).goes_on().await;
    }
}

#[tokio::test(start_paused = true)]
async fn one_stream_has_its_large_window() {
    let (claim, sent) = (claim(), Count::default());
    let session = session(&claim, &sent).await;
    let _reader = ask(&session).await;
    assert_eq!(rest(&sent).await, crate::telemetry::WINDOW_MOST);
}
