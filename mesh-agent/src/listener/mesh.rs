//! Connections from other agents: one TLS handshake, then streams, each of them a connection of its own.
//!
//! `serve` hands over an accepted connection whose first bytes are a TLS handshake from a workload of the mesh.
//! Invariant: no stream is joined before its peer's identity was proved, and none reaches anything but the pod that
//! the connection was steered to.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
};

use bytes::Bytes;
use h2::server::SendResponse;
use http::{Method, Request, Response, StatusCode};
use rustls::ServerConfig;
use thiserror::Error;
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};

use crate::{
    node::Pod,
    upstream::{
        Refusal,
        tunnel::{self, Stream, tuning},
    },
};

/// First byte of a TLS record that carries a handshake (RFC 8446, 5.1).
const TLS_HANDSHAKE: u8 = 22;

/// Why a connection from another agent, or a stream in it, is refused.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum MeshError {
    #[error("the TLS handshake failed: {0}")]
    Tls(#[source] io::Error),
    #[error("the handshake did not finish in time")]
    TimedOut,
    #[error("HTTP/2: {0}")]
    Http(#[from] h2::Error),
}

/// A request for a stream that may be joined.
pub(super) struct Asked {
    /// Where in the pod it is to go.
    pub(super) target: SocketAddr,
    /// Who asks, as its own agent says.
    pub(super) client: SocketAddr,
    request: Request<h2::RecvStream>,
    respond: SendResponse<Bytes>,
}

/// Whether the first byte of a connection begins a TLS handshake. Waits for that byte.
pub(super) async fn begins_tls(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    let read = stream.peek(&mut first).await?;
    Ok(read == 1 && first[0] == TLS_HANDSHAKE)
}

/// Shakes hands, within a deadline.
pub(super) async fn handshake(
    stream: TcpStream,
    config: Arc<ServerConfig>,
) -> Result<(h2::server::Connection<TlsStream<TcpStream>, Bytes>, rustls_pki_types::CertificateDer<'static>), MeshError> {
    let shake = async {
        let tls = TlsAcceptor::from(config).accept(stream).await.map_err(MeshError::Tls)?;
        let certificates = tls.get_ref().1.peer_certificates().unwrap_or_default();
        let leaf = certificates
            .first()
            .ok_or_else(|| MeshError::Tls(io::Error::other("the peer showed no certificate")))?
            .clone()
            .into_owned();
        let connection = h2::server::Builder::new()
            .initial_window_size(tuning::STREAM_WINDOW)
            .initial_connection_window_size(tuning::CONNECTION_WINDOW)
            .max_frame_size(tuning::FRAME)
            .max_header_list_size(tuning::HEADER_LIST)
            .max_concurrent_streams(tuning::STREAMS)
            .max_send_buffer_size(tuning::SEND_BUFFER)
            .handshake(tls)
            .await?;
        Ok((connection, leaf))
    };
    tokio::time::timeout(tuning::HANDSHAKE, shake).await.map_err(|_| MeshError::TimedOut)?
}

impl Asked {
    /// Reads a request; answers it at once when it is none for this pod. `peer` is where the connection came from.
    pub(super) fn read(
        request: Request<h2::RecvStream>,
        mut respond: SendResponse<Bytes>,
        pod: &Pod,
        peer: SocketAddr,
    ) -> Option<Self> {
        if request.method() != Method::CONNECT {
            answer(&mut respond, StatusCode::BAD_REQUEST, None);
            return None;
        }
        let target: Option<SocketAddr> =
            request.uri().authority().and_then(|authority| authority.as_str().parse().ok());
        let Some(target) = target else {
            answer(&mut respond, StatusCode::BAD_REQUEST, None);
            return None;
        };
        if !pod.has_address(target.ip()) || pod.is_own_listener(target) {
            answer(&mut respond, StatusCode::SERVICE_UNAVAILABLE, Some(Refusal::Refused));
            return None;
        }
        // An agent speaks for the pod its connection comes from, and for no other address.
        let client = tunnel::read_forwarded(request.headers()).filter(|client| client.ip() == peer.ip());
        Some(Self { target, client: client.unwrap_or(peer), request, respond })
    }

    /// Joins the stream.
    pub(super) fn join(mut self) -> Result<Stream, h2::Error> {
        let send = self.respond.send_response(Response::new(()), false)?;
        Ok(Stream { send, recv: self.request.into_body() })
    }

    /// Says why the stream is not joined.
    pub(super) fn refuse(mut self, status: StatusCode, refusal: Refusal) {
        answer(&mut self.respond, status, Some(refusal));
    }
}

fn answer(respond: &mut SendResponse<Bytes>, status: StatusCode, refusal: Option<Refusal>) {
    let mut response = Response::new(());
    *response.status_mut() = status;
    if let Some(refusal) = refusal {
        tunnel::write_refusal(response.headers_mut(), refusal);
    }
    if let Err(error) = respond.send_response(response, true) {
        tracing::debug!(%error, "a stream was gone before it was answered");
    }
}
