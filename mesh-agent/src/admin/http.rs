//! What Prometheus and a node's supervisor ask over HTTP: metrics, readiness, liveness.
//!
//! The agent starts [`serve_http`] for each [`Door`] on its admin runtime, in its own network namespace. Invariants:
//! an address that cannot be had is said and tried again, and never ends the agent; whoever connects holds little and
//! not for long; only GET and HEAD of a few paths are answered, and nothing can be changed.

use std::{convert::Infallible, net::SocketAddr, str::FromStr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderMap, HeaderValue, Method, Request, Response, StatusCode,
    header::{ACCEPT, ALLOW, CONTENT_TYPE},
};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use thiserror::Error;
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;

/// Connections served at once; others wait in the listener's queue.
const AT_ONCE: usize = 16;
/// Until a request must have arrived.
const REQUEST: Duration = Duration::from_secs(5);
/// Until its answer must have left.
const ANSWER: Duration = Duration::from_secs(30);
/// What a request may take in memory.
const BUFFER: usize = 16 << 10;
/// How often an address is tried that another program has.
const LOOK_AGAIN: Duration = Duration::from_secs(1);

/// OpenMetrics, for whoever says that he reads it.
const OPEN_METRICS: HeaderValue =
    HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
/// The older format, whose readers read ours too.
const PLAIN_METRICS: HeaderValue = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
const PLAIN: HeaderValue = HeaderValue::from_static("text/plain; charset=utf-8");

/// What is answered at an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Door {
    /// `/metrics`, and `/stats/prometheus` as other meshes call it.
    Metrics,
    /// `/healthz/ready` and `/livez`.
    Health,
}

/// Where a door is: an address and a port, or nowhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DoorAddress(pub Option<SocketAddr>);

/// The text is no place for a door.
#[derive(Debug, Error)]
#[error("an address and a port are needed, such as 127.0.0.1:15020 or [::]:15020, or `none`")]
pub struct NoAddress;

/// A running agent, as it is seen over HTTP.
pub trait Expose: Send + Sync + 'static {
    /// Its metrics as text; `None` when they cannot be written.
    fn metrics(&self) -> Option<String>;

    /// Whether it takes traffic.
    fn is_ready(&self) -> bool;
}

/// Answers at `address` until `stop`.
pub async fn serve_http(door: Door, address: SocketAddr, expose: Arc<dyn Expose>, stop: CancellationToken) {
    let serving = async {
        let listener = listen(door, address).await;
        accept(door, listener, expose).await;
    };
    tokio::select! {
        () = stop.cancelled() => {}
        () = serving => {}
    }
}

/// Takes the address as soon as it is free: an agent that was taken over may still have it.
async fn listen(door: Door, address: SocketAddr) -> TcpListener {
    let mut failures = 0;
    loop {
        match TcpListener::bind(address).await {
            Ok(listener) => {
                tracing::info!(%address, "{} served", door.what());
                return listener;
            }
            Err(error) => {
                failures += 1;
                // The first failure may be the agent before this one, letting go.
                if failures == 2 {
                    tracing::warn!(
                        %address,
                        %error,
                        "{} not served, traffic is not affected; choose another address with {flag}, or {flag} none",
                        door.what(),
                        flag = door.flag(),
                    );
                }
                tokio::time::sleep(LOOK_AGAIN).await;
            }
        }
    }
}

async fn accept(door: Door, listener: TcpListener, expose: Arc<dyn Expose>) {
    let mut serving = JoinSet::new();
    loop {
        // A connection that has ended makes room for one more.
        while serving.len() >= AT_ONCE {
            serving.join_next().await;
        }
        tokio::select! {
            Some(_) = serving.join_next() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    let expose = Arc::clone(&expose);
                    serving.spawn(async move { serve(door, stream, &*expose).await });
                }
                Err(error) => {
                    tracing::warn!(%error, "{} cannot be asked for", door.what());
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
            },
        }
    }
}

/// One connection, one request.
async fn serve(door: Door, stream: TcpStream, expose: &dyn Expose) {
    let answering = service_fn(|request: Request<Incoming>| async move {
        Ok::<_, Infallible>(answer(door, &request, expose))
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(REQUEST)
        .max_buf_size(BUFFER)
        .keep_alive(false)
        .serve_connection(TokioIo::new(stream), answering);
    match tokio::time::timeout(REQUEST + ANSWER, connection).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "somebody asked wrongly"),
        Err(_) => tracing::debug!("somebody took too long"),
    }
}

fn answer<B>(door: Door, request: &Request<B>, expose: &dyn Expose) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut refusal = told(StatusCode::METHOD_NOT_ALLOWED, PLAIN, "only GET and HEAD\n");
        refusal
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return refusal;
    }
    match (door, request.uri().path()) {
        (Door::Metrics, "/metrics" | "/stats/prometheus") => match expose.metrics() {
            Some(text) => told(StatusCode::OK, format_for(request.headers()), text),
            None => told(StatusCode::INTERNAL_SERVER_ERROR, PLAIN, "no metrics\n"),
        },
        (Door::Health, "/healthz/ready") if expose.is_ready() => told(StatusCode::OK, PLAIN, "ready\n"),
        (Door::Health, "/healthz/ready") => told(StatusCode::SERVICE_UNAVAILABLE, PLAIN, "not ready\n"),
        (Door::Health, "/livez") => told(StatusCode::OK, PLAIN, "alive\n"),
        (Door::Metrics, _) => told(StatusCode::NOT_FOUND, PLAIN, "try /metrics\n"),
        (Door::Health, _) => told(StatusCode::NOT_FOUND, PLAIN, "try /healthz/ready or /livez\n"),
    }
}

fn told(status: StatusCode, kind: HeaderValue, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

fn format_for(headers: &HeaderMap) -> HeaderValue {
    let open = headers.get_all(ACCEPT).iter().any(|value| {
        value
            .to_str()
            .is_ok_and(|value| value.contains("application/openmetrics-text"))
    });
    if open { OPEN_METRICS } else { PLAIN_METRICS }
}

impl Door {
    fn what(self) -> &'static str {
        match self {
            Self::Metrics => "metrics are",
            Self::Health => "readiness and liveness are",
        }
    }

    fn flag(self) -> &'static str {
        match self {
            Self::Metrics => "--metrics-address",
            Self::Health => "--health-address",
        }
    }
}

impl FromStr for DoorAddress {
    type Err = NoAddress;

    fn from_str(text: &str) -> Result<Self, NoAddress> {
        match text {
            "none" => Ok(Self(None)),
            text => text
                .parse()
                .map(|address| Self(Some(address)))
                .map_err(|_| NoAddress),
        }
    }
}

#[cfg(test)]
mod tests;
