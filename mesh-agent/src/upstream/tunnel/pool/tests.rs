//! The pool against another agent on loopback: when tunnels are made, shared and let go.

use std::{
    future::poll_fn,
    sync::atomic::{AtomicUsize, Ordering},
};

use h2::server::SendResponse;
use http::Response;
use mesh_common::model::Workload;
use tokio::{
    net::{TcpListener, TcpSocket, TcpStream},
    sync::Notify,
};
use tokio_rustls::TlsAcceptor;
use tokio_util::task::TaskTracker;

use super::*;
use crate::{
    identity::{
        Expected, Identity,
        tests::kit::{Hand, Mesh, id},
    },
    samples,
    telemetry::{Budgets, Limits},
    upstream::tunnel::{client::Footing, protocol},
};

const CLIENT: &str = "mesh/ns/a/sa/client";
const SERVER: &str = "mesh/ns/b/sa/server";
/// Streams that the other agent allows in one tunnel.
const ALLOWED: u32 = 120;

fn key(source: u32) -> Key {
    Key {
        source,
        protocol: TunnelProtocol::Nodemesh,
        door: "10.0.0.1:80".parse().unwrap(),
        expected: "spiffe://cluster.local/ns/a/sa/b".parse().unwrap(),
        credentials: "01".to_owned(),
    }
}

#[test]
fn places_of_tunnels_that_nobody_wants_go_after_a_while() {
    let pool = Pool::default();
    let wanted = pool.slot(&key(1));
    drop(pool.slot(&key(2)));
    assert!(
        Arc::ptr_eq(&wanted, &pool.slot(&key(1))),
        "one tunnel serves a key"
    );
    let now = Instant::now();
    pool.sweep(now);
    assert_eq!(pool.lock().len(), 2, "a place used a moment ago stays");
    pool.sweep(now + tuning::IDLE * 2);
    assert_eq!(pool.lock().keys().collect::<Vec<_>>(), [&key(1)]);
    drop(wanted);
    pool.sweep(now + tuning::IDLE * 2);
    assert!(pool.lock().is_empty());
}

/// Another agent, which joins every stream.
struct Other {
    mesh: Mesh,
    addr: SocketAddr,
    tunnels: Arc<AtomicUsize>,
    /// Ends tunnels as an agent does that is being replaced.
    leaving: Arc<Notify>,
}

impl Other {
    async fn start() -> Self {
        let mesh = Mesh::new("mesh", &Hand::at_noon());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let other = Self {
            addr: listener.local_addr().unwrap(),
            tunnels: Arc::default(),
            leaving: Arc::default(),
            mesh,
        };
        let config = other
            .mesh
            .identity(SERVER)
            .server_config(protocol::offer(TunnelProtocol::Nodemesh))
            .unwrap();
        let (tunnels, leaving) = (Arc::clone(&other.tunnels), Arc::clone(&other.leaving));
        tokio::spawn(async move {
            while let Ok((tcp, _)) = listener.accept().await {
                tunnels.fetch_add(1, Ordering::Relaxed);
                tokio::spawn(serve(
                    tcp,
                    TlsAcceptor::from(Arc::clone(&config)),
                    Arc::clone(&leaving),
                ));
            }
        });
        other
    }

    async fn open(&self, pool: &Pool, identity: &Identity, tasks: &TaskTracker) -> (Stream, Place) {
        let workload = workload();
        let claim = Budgets::new(Limits::default()).claim(&workload.key, None);
        let config = identity
            .client_config(
                Expected::one_of([id(SERVER)]),
                protocol::offer(TunnelProtocol::Nodemesh),
            )
            .unwrap();
        let asking = Asking {
            target: self.addr,
            client: "10.0.0.1:1000".parse().unwrap(),
            workload: &workload,
        };
        let establish = || async {
            let footing = Footing {
                protocol: TunnelProtocol::Nodemesh,
                identity,
                config: Arc::clone(&config),
                claim: &claim,
            };
            let tcp = TcpSocket::new_v4().unwrap().connect(self.addr).await.unwrap();
            Tunnel::establish(tcp, self.addr, footing, tasks).await
        };
        pool.open(&key(1), asking, |_| true, establish).await.unwrap()
    }
}

async fn serve(tcp: TcpStream, acceptor: TlsAcceptor, leaving: Arc<Notify>) {
    let tls = acceptor.accept(tcp).await.unwrap();
    let mut connection = h2::server::Builder::new()
        .max_concurrent_streams(ALLOWED)
        .handshake::<_, bytes::Bytes>(tls)
        .await
        .unwrap();
    let mut told = false;
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept() => accepted,
            () = leaving.notified(), if !told => {
                told = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        let Some(Ok((_, respond))) = accepted else {
            return;
        };
        tokio::spawn(join(respond));
    }
}

/// Joins a stream and keeps it until the client lets it go.
async fn join(mut respond: SendResponse<bytes::Bytes>) {
    let Ok(mut send) = respond.send_response(Response::new(()), false) else {
        return;
    };
    let _ = poll_fn(|cx| send.poll_reset(cx)).await;
}

fn workload() -> Workload {
    samples::workload("a", "client")
}

async fn together(
    other: &Other,
    pool: &Pool,
    identity: &Identity,
    tasks: &TaskTracker,
    count: usize,
) -> Vec<(Stream, Place)> {
    let all = futures_util::future::join_all((0..count).map(|_| other.open(pool, identity, tasks)));
    tokio::time::timeout(std::time::Duration::from_secs(60), all)
        .await
        .expect("streams wait for one another")
}

#[tokio::test]
async fn who_comes_together_before_there_is_a_tunnel_does_not_wait_for_room_in_the_first() {
    let other = Other::start().await;
    let (pool, tasks) = (Pool::default(), TaskTracker::new());
    let identity = other.mesh.identity(CLIENT);
    let streams = together(&other, &pool, &identity, &tasks, 250).await;
    assert_eq!(streams.len(), 250);
    assert_eq!(other.tunnels.load(Ordering::Relaxed), 3);
}

#[tokio::test]
async fn when_all_tunnels_have_gone_the_next_stream_makes_a_new_one() {
    let other = Other::start().await;
    let (pool, tasks) = (Pool::default(), TaskTracker::new());
    let identity = other.mesh.identity(CLIENT);
    drop(together(&other, &pool, &identity, &tasks, 250).await);
    other.leaving.notify_waiters();
    // Until the clients have heard of it.
    tasks.close();
    tokio::time::timeout(std::time::Duration::from_secs(60), tasks.wait())
        .await
        .expect("tunnels that are told to end do not");
    let before = other.tunnels.load(Ordering::Relaxed);
    drop(other.open(&pool, &identity, &tasks).await);
    assert_eq!(other.tunnels.load(Ordering::Relaxed), before + 1);
}
