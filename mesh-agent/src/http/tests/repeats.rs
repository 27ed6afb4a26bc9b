//! What is sent once more, and what never is.

use std::sync::{
    Mutex,
    atomic::{AtomicUsize, Ordering},
};

use super::*;
use crate::{
    http::exchange::Agent,
    upstream::session::{Mark, Room, Session},
};

/// Steers everything to one other agent.
struct Relayed {
    agent: Other,
    signature: Signature,
}

/// Another agent, in the clear.
#[derive(Clone)]
struct Other {
    addr: SocketAddr,
    claim: Arc<Claim>,
    tasks: TaskTracker,
}

impl Other {
    async fn room(&self) -> Result<Room, Fault> {
        let failed = |error: String| Fault::new(Cause::Connect, error);
        let tcp = connect(self.addr)
            .await
            .map_err(|error| failed(error.to_string()))?;
        let session = Session::plain(tcp, self.addr, &self.claim, &self.tasks)
            .await
            .map_err(|error| failed(error.to_string()))?;
        session.room().await.map_err(|error| failed(error.to_string()))
    }
}

impl Agent for Other {
    async fn another(&self, _: &Mark) -> Result<Room, Fault> {
        self.room().await
    }
}

impl Steer for Relayed {
    type Server = There;
    type Agent = Other;
    type Escort = ();

    fn signature(&self) -> &Signature {
        &self.signature
    }

    async fn steer(&self, _: &mut Message) -> Result<Course<Hop<There, Other>, ()>, Fault> {
        let room = self.agent.room().await?;
        Ok(Course::Onward(Onward {
            hop: Hop::Agent(room, self.agent.clone()),
            escort: (),
            deadline: None,
        }))
    }
}

pub(super) async fn before_agent(addr: SocketAddr) -> (SocketAddr, CancellationToken) {
    engine_of(Relayed {
        agent: Other {
            addr,
            claim: claim(),
            tasks: TaskTracker::new(),
        },
        signature: Signature::new("test".into(), Side::Source),
    })
    .await
}

/// How an agent meets the first request that it gets.
#[derive(Clone, Copy, Debug)]
enum First {
    /// With a GOAWAY that leaves it out, for this reason.
    LeftOut(Reason),
    /// With a GOAWAY that does not, and then an end.
    MaybeDone,
    /// With an end.
    Cut,
    Refused,
}

/// An agent that meets its first request so, and echoes what comes later; and how many connections it got.
async fn agent(first: First) -> (SocketAddr, Arc<AtomicUsize>) {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let addr = server(move |stream| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            match (number, first) {
                (0, First::LeftOut(reason)) => ends(stream, Some((0, reason))).await,
                (0, First::MaybeDone) => ends(stream, Some((1, Reason::NO_ERROR))).await,
                (0, First::Cut) => ends(stream, None).await,
                (0, First::Refused) => refuses(stream).await,
                _ => h2_echo(stream).await,
            }
        }
    })
    .await;
    (addr, connections)
}

/// Waits for a request's head and ends, with a GOAWAY if one is given.
async fn ends(mut stream: TcpStream, goaway: Option<(u32, Reason)>) {
    // SETTINGS, empty.
    stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
    stream.read_exact(&mut [0; 24]).await.unwrap();
    loop {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let length = usize::from(head[1]) << 8 | usize::from(head[2]);
        stream.read_exact(&mut vec![0; length]).await.unwrap();
        // HEADERS
        if head[3] == 1 {
            break;
        }
    }
    if let Some((last, reason)) = goaway {
        let mut frame = vec![0, 0, 8, 7, 0, 0, 0, 0, 0];
        frame.extend(last.to_be_bytes());
        frame.extend(u32::from(reason).to_be_bytes());
        stream.write_all(&frame).await.unwrap();
    }
}

async fn refuses(stream: TcpStream) {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    while let Some(Ok((_, mut respond))) = connection.accept().await {
        respond.send_reset(Reason::REFUSED_STREAM);
    }
}

/// Sends `body` and returns the status, and what comes back.
async fn posted(addr: SocketAddr, body: &[u8]) -> (StatusCode, Vec<u8>) {
    let mut client = h2_client(addr).await;
    let (response, mut send) = client.send_request(post("/"), body.is_empty()).unwrap();
    let sender = async {
        let mut left = Bytes::copy_from_slice(body);
        while !left.is_empty() {
            send.reserve_capacity(left.len());
            // Whoever reads no more has answered.
            let Some(Ok(room)) = std::future::poll_fn(|cx| send.poll_capacity(cx)).await else {
                return;
            };
            let part = left.split_to(room);
            if send.send_data(part, left.is_empty()).is_err() {
                return;
            }
        }
    };
    let (response, ()) = within(async { tokio::join!(response, sender) }).await;
    let response = response.unwrap();
    let status = response.status();
    let mut body = response.into_body();
    let mut echoed = Vec::new();
    while let Some(data) = within(body.data()).await {
        let data = data.unwrap();
        body.flow_control().release_capacity(data.len()).unwrap();
        echoed.extend_from_slice(&data);
    }
    (status, echoed)
}

#[tokio::test]
async fn what_another_agent_did_not_look_at_is_sent_to_it_once_more() {
    for first in [
        First::LeftOut(Reason::NO_ERROR),
        First::LeftOut(Reason::INADEQUATE_SECURITY),
        First::LeftOut(Reason::ENHANCE_YOUR_CALM),
        First::Refused,
    ] {
        for body in [&b""[..], b"a body that is there at once"] {
            let (agent, connections) = agent(first).await;
            let (addr, _leaving) = before_agent(agent).await;
            let (status, echoed) = posted(addr, body).await;
            assert_eq!((status, &*echoed), (StatusCode::OK, body), "{first:?}");
            assert_eq!(connections.load(Ordering::Relaxed), 2, "{first:?}");
        }
    }
}

#[tokio::test]
async fn what_another_agent_may_have_looked_at_is_not_sent_again() {
    for first in [First::MaybeDone, First::Cut] {
        let (agent, connections) = agent(first).await;
        let (addr, _leaving) = before_agent(agent).await;
        let (status, _) = posted(addr, b"once").await;
        assert_eq!(status, StatusCode::BAD_GATEWAY, "{first:?}");
        assert_eq!(connections.load(Ordering::Relaxed), 1, "{first:?}");
    }
}

#[tokio::test]
async fn nothing_is_sent_a_third_time() {
    let connections = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&connections);
    let agent = server(move |stream| {
        counted.fetch_add(1, Ordering::Relaxed);
        refuses(stream)
    })
    .await;
    let (addr, _leaving) = before_agent(agent).await;
    let (status, _) = posted(addr, b"").await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

/// How a server of HTTP/1 meets the second request on a connection.
#[derive(Clone, Copy, Debug)]
enum Second {
    Silence,
    HalfAHead,
    Hints,
}

/// Answers the first request of each connection, and then so. Returns what it was asked.
async fn http1(second: Second) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let asked = Arc::<Mutex<Vec<String>>>::default();
    let heard = Arc::clone(&asked);
    let addr = server(move |mut stream| {
        let heard = Arc::clone(&heard);
        async move {
            for number in 0..2 {
                let mut head = Vec::new();
                while !head.ends_with(b"\r\n\r\n") {
                    let Ok(byte) = stream.read_u8().await else { return };
                    head.push(byte);
                }
                let line = String::from_utf8(head).unwrap();
                heard
                    .lock()
                    .unwrap()
                    .push(line.lines().next().unwrap().to_owned());
                let answer: &[u8] = match (number, second) {
                    (0, _) => b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n",
                    (_, Second::Silence) => b"",
                    (_, Second::HalfAHead) => b"HTTP/1.1 2",
                    (_, Second::Hints) => b"HTTP/1.1 103 Early Hints\r\n\r\n",
                };
                stream.write_all(answer).await.unwrap();
            }
        }
    })
    .await;
    (addr, asked)
}

/// Asks twice on one connection; the status of the second answer.
async fn asked_twice(addr: SocketAddr, method: &str) -> String {
    let mut client = connect(addr).await.unwrap();
    let mut status = String::new();
    for path in ["/1", "/2"] {
        let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        client.write_all(request.as_bytes()).await.unwrap();
        loop {
            let head = within(until(&mut client, "\r\n\r\n")).await;
            head[9..12].clone_into(&mut status);
            if status != "103" {
                break;
            }
        }
    }
    status
}

#[tokio::test]
async fn only_what_may_take_effect_twice_is_sent_again_where_a_kept_connection_ended_without_a_word() {
    for (second, method, status, expected) in [
        (Second::Silence, "GET", "200", 3),
        (Second::Silence, "DELETE", "200", 3),
        (Second::Silence, "POST", "502", 2),
        (Second::Silence, "PATCH", "502", 2),
        (Second::HalfAHead, "GET", "502", 2),
        (Second::Hints, "GET", "502", 2),
    ] {
        let (server, asked) = http1(second).await;
        let (addr, _leaving) = engine(server).await;
        assert_eq!(asked_twice(addr, method).await, status, "{second:?} {method}");
        let asked = asked.lock().unwrap().clone();
        assert_eq!(asked.len(), expected, "{second:?} {asked:?}");
    }
}

#[tokio::test]
async fn who_gives_up_requests_gets_connections_of_its_own() {
    let (connections, unanswered) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let counted = Arc::clone(&unanswered);
    let addr = server(move |stream| {
        let number = connections.fetch_add(1, Ordering::Relaxed);
        let unanswered = Arc::clone(&counted);
        async move {
            let mut connection = h2::server::handshake(stream).await.unwrap();
            let mut held = Vec::new();
            while let Some(Ok((request, mut respond))) = connection.accept().await {
                if request.uri().path() == "/never" {
                    unanswered.fetch_add(1, Ordering::Relaxed);
                    held.push(respond);
                    continue;
                }
                let mut response = Response::new(());
                response.headers_mut().insert("x-connection", number.into());
                respond.send_response(response, true).unwrap();
            }
        }
    })
    .await;
    let (engine, _leaving) = engine(addr).await;
    let from = |port: u16, path: &str| {
        let mut request = post(path);
        request.headers_mut().insert("x-port", port.into());
        request
    };
    let mut client = h2_client(engine).await;
    for count in 1..=5 {
        let (response, send) = client.send_request(from(1, "/never"), true).unwrap();
        within(async {
            while unanswered.load(Ordering::Relaxed) < count {
                tokio::task::yield_now().await;
            }
        })
        .await;
        drop((response, send));
    }
    let mut connection_of = async |port| {
        let (response, _send) = client.send_request(from(port, "/"), true).unwrap();
        within(response).await.unwrap().headers()["x-connection"].clone()
    };
    // It is told a moment after the client gave up.
    let own = within(async {
        loop {
            let own = connection_of(1).await;
            if own != "0" {
                break own;
            }
        }
    })
    .await;
    assert_eq!(connection_of(2).await, "0", "others share one as before");
    assert_eq!(connection_of(1).await, own);
}
