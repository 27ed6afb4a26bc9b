//! One data worker's listener in one pod: accepts, and gives each connection to whom it belongs.

use std::{
    collections::HashMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use aya::programs::SocketFilter;
use mesh_common::kernel::SynEvent;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
};
use tokio_util::sync::CancellationToken;

use super::{
    answer::{Answerer, Request},
    data_path::DataPath,
    serve,
    socket::BACKLOG,
};
use crate::{node::Pod, upstream};

/// Pause after a failure to accept, most likely for want of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);

/// Connections accepted before the others of the worker get their turn.
const BATCH: usize = 16;

/// Requests held at one listener at once; beyond that the client's kernel repeats the request later.
const HELD_MAX: usize = 8192;

/// A listener, with the requests held at it.
#[derive(Debug)]
pub struct PodListener {
    /// The pod it stands in.
    pub pod: Arc<Pod>,
    answerer: Arc<Answerer>,
    held: Mutex<HashMap<FlowId, Held>>,
    stop: CancellationToken,
}

/// A request as it is on the wire: source and destination.
type FlowId = (SocketAddr, SocketAddr);

#[derive(Debug)]
struct Held {
    accepted: oneshot::Sender<TcpStream>,
    /// Present once the request was sent on: a repetition is then sent on as well.
    sent_on: Option<Request>,
}

/// A request held by the kernel half; dropping it forgets the request.
#[derive(Debug)]
pub struct HeldRequest {
    listener: Arc<PodListener>,
    flow: FlowId,
    request: Request,
    accepted: oneshot::Receiver<TcpStream>,
}

impl PodListener {
    /// A listener for `pod`, not accepting yet.
    pub fn new(pod: Arc<Pod>, answerer: Arc<Answerer>, stop: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            pod,
            answerer,
            held: Mutex::default(),
            stop,
        })
    }

    /// Accepts until told to stop. Connections go on after that.
    pub async fn run(self: Arc<Self>, listener: TcpListener, path: Arc<DataPath>) {
        let mut in_a_row = 0;
        loop {
            in_a_row += 1;
            if in_a_row > BATCH {
                in_a_row = 0;
                tokio::task::yield_now().await;
            }
            let accepted = tokio::select! {
                () = self.stop.cancelled() => return self.take_the_rest(listener, &path),
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, client)) => self.take(stream, canonical(client), &path),
                Err(error) => {
                    tracing::warn!(%error, pod = %self.pod.workload.key, "accepting failed");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    /// Takes what stands already: the kernel resets what a closed listener leaves. It may have those that come later.
    fn take_the_rest(self: &Arc<Self>, listener: TcpListener, path: &Arc<DataPath>) {
        let Ok(listener) = listener.into_std() else {
            return;
        };
        for _ in 0..=BACKLOG {
            let (stream, client) = match listener.accept() {
                Ok(accepted) => accepted,
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => continue,
                Err(_) => return,
            };
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream));
            if let Ok(stream) = stream {
                self.take(stream, canonical(client), path);
            }
        }
    }

    /// Stops accepting.
    pub fn stop(&self) {
        self.stop.cancel();
    }

    /// Takes in a request held by the kernel half. `None` when it is a repetition, or one too many.
    pub fn hold(self: &Arc<Self>, event: &SynEvent) -> Option<HeldRequest> {
        let flow = (event.src.into(), event.dst.into());
        let request = Request::of(event);
        let mut held = self.lock();
        if let Some(known) = held.get(&flow) {
            if let Some(sent_on) = &known.sent_on {
                self.report(self.answerer.send_on(sent_on));
            }
            return None;
        }
        if held.len() >= HELD_MAX {
            return None;
        }
        let (sender, accepted) = oneshot::channel();
        held.insert(
            flow,
            Held {
                accepted: sender,
                sent_on: None,
            },
        );
        drop(held);
        Some(HeldRequest {
            listener: Arc::clone(self),
            flow,
            request,
            accepted,
        })
    }

    /// Requests held now.
    pub fn held(&self) -> usize {
        self.lock().len()
    }

    fn take(self: &Arc<Self>, stream: TcpStream, client: SocketAddr, path: &Arc<DataPath>) {
        let Ok(local) = stream.local_addr() else {
            return;
        };
        // Inherited from the listener, and of no use on a connection.
        if let Err(error) = SocketFilter::detach(&stream) {
            tracing::debug!(%error, "an accepted connection keeps its socket filter");
        }
        let local = canonical(local);
        let held = self.lock().remove(&(client, local));
        match held {
            Some(held) => {
                if let Err(stream) = held.accepted.send(stream) {
                    upstream::abort(&stream);
                }
            }
            None => serve::accepted(path, self, stream, client, local),
        }
    }

    fn report(&self, result: io::Result<()>) {
        if let Err(error) = result {
            tracing::warn!(%error, pod = %self.pod.workload.key, "answering a held request failed; its client will repeat it");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<FlowId, Held>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl HeldRequest {
    /// Where it waits.
    pub fn listener(&self) -> &Arc<PodListener> {
        &self.listener
    }

    /// Lets the handshake complete, and waits for the connection.
    pub async fn send_on(&mut self) -> Option<TcpStream> {
        if let Some(held) = self.listener.lock().get_mut(&self.flow) {
            held.sent_on = Some(self.request.clone());
        }
        self.listener
            .report(self.listener.answerer.send_on(&self.request));
        (&mut self.accepted).await.ok()
    }

    /// Tells the client that there will be no connection.
    pub fn refuse(&self, refusal: upstream::Refusal) {
        self.listener
            .report(self.listener.answerer.refuse(&self.request, refusal));
    }
}

impl Drop for HeldRequest {
    fn drop(&mut self) {
        self.listener.lock().remove(&self.flow);
        // Accepted, but nobody waits for it any more: not an orderly end.
        if let Ok(stream) = self.accepted.try_recv() {
            upstream::abort(&stream);
        }
    }
}

/// IPv4-mapped addresses as IPv4.
pub(super) fn canonical(addr: SocketAddr) -> SocketAddr {
    SocketAddr::new(addr.ip().to_canonical(), addr.port())
}
