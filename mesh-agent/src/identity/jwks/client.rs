//! One GET of a small document, over HTTP or HTTPS.
//!
//! Invariant: it ends within its time, takes no more than [`MAX_BODY`], follows no redirect and sends nothing but the
//! question; over HTTPS the server must be the one named, by the machine's root certificates.

use std::convert::Infallible;
use std::fmt;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use http::header::{ACCEPT, CONNECTION, HOST, USER_AGENT};
use http::{HeaderValue, Request, StatusCode, Uri};
use http_body_util::{BodyExt, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use rustls_pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The largest document.
const MAX_BODY: usize = 256 * 1024;

/// Fetches documents. Clones share the root certificates.
#[derive(Clone)]
pub struct Client {
    tls: Arc<ClientConfig>,
}

/// Why a document was not fetched.
#[derive(Debug, Error)]
#[expect(missing_docs, reason = "the messages say it")]
pub enum FetchError {
    #[error("not a URL to fetch from")]
    Url,
    #[error("connecting: {0}")]
    Connect(#[source] io::Error),
    #[error("TLS: {0}")]
    Tls(#[source] io::Error),
    #[error("{0}")]
    Http(#[from] hyper::Error),
    #[error("the answer is {0}; name the document itself, redirects are not followed")]
    Status(StatusCode),
    #[error("longer than {MAX_BODY} bytes")]
    TooLong,
    #[error("no complete answer within {}", humantime::format_duration(*.0))]
    Timeout(Duration),
}

impl Client {
    /// A client that trusts the machine's root certificates. Without any, HTTPS fails.
    pub fn new() -> Result<Self, rustls::Error> {
        let mut roots = RootCertStore::empty();
        let found = rustls_native_certs::load_native_certs();
        for error in &found.errors {
            tracing::debug!(%error, "reading the machine's root certificates");
        }
        roots.add_parsable_certificates(found.certs);
        Self::trusting(roots)
    }

    /// A client that trusts these root certificates.
    pub fn trusting(roots: RootCertStore) -> Result<Self, rustls::Error> {
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        Ok(Self { tls: Arc::new(tls) })
    }

    /// The document at `url`, if all of it comes within `timeout`.
    pub async fn get(&self, url: &str, timeout: Duration) -> Result<Vec<u8>, FetchError> {
        tokio::time::timeout(timeout, self.ask(url))
            .await
            .unwrap_or(Err(FetchError::Timeout(timeout)))
    }

    async fn ask(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let uri: Uri = url.parse().map_err(|_| FetchError::Url)?;
        let host = uri.host().ok_or(FetchError::Url)?;
        let address = host.trim_start_matches('[').trim_end_matches(']');
        let (port, secure) = match uri.scheme_str() {
            Some("http") => (80, false),
            Some("https") => (443, true),
            _ => return Err(FetchError::Url),
        };
        let port = uri.port_u16().unwrap_or(port);
        let socket = connect(address, port).await.map_err(FetchError::Connect)?;
        if !secure {
            return exchange(socket, &uri).await;
        }
        let name = ServerName::try_from(address.to_owned()).map_err(|_| FetchError::Url)?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, socket).await.map_err(FetchError::Tls)?;
        exchange(stream, &uri).await
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "to fetch keys is the agent's own business, in its own namespace"
)]
async fn connect(address: &str, port: u16) -> io::Result<TcpStream> {
    TcpStream::connect((address, port)).await
}

async fn exchange<S>(stream: S, uri: &Uri) -> Result<Vec<u8>, FetchError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let authority = uri.authority().ok_or(FetchError::Url)?.as_str();
    let mut request = Request::new(Empty::<bytes::Bytes>::new());
    *request.uri_mut() = uri
        .path_and_query()
        .ok_or(FetchError::Url)?
        .as_str()
        .parse()
        .map_err(|_| FetchError::Url)?;
    let headers = request.headers_mut();
    headers.insert(
        HOST,
        HeaderValue::from_str(authority).map_err(|_| FetchError::Url)?,
    );
    headers.insert(ACCEPT, HeaderValue::from_static("application/json"));
    headers.insert(
        USER_AGENT,
        HeaderValue::from_static(concat!("nodemesh/", env!("CARGO_PKG_VERSION"))),
    );
    headers.insert(CONNECTION, HeaderValue::from_static("close"));
    let (mut sender, connection) = http1::Builder::new()
        .max_buf_size(64 * 1024)
        .handshake(TokioIo::new(stream))
        .await?;
    let answer = async {
        let response = sender.send_request(request).await?;
        if response.status() != StatusCode::OK {
            return Err(FetchError::Status(response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BODY).collect().await;
        body.map(|body| body.to_bytes().into())
            .map_err(|error| match error.downcast::<hyper::Error>() {
                Ok(error) => FetchError::Http(*error),
                Err(error) => {
                    debug_assert!(error.is::<LengthLimitError>());
                    FetchError::TooLong
                }
            })
    };
    // The connection moves the bytes of the answer: both go on together, and what it says is in the answer.
    let connection = async {
        let _ = connection.await;
        std::future::pending::<Infallible>().await
    };
    tokio::select! {
        answer = answer => answer,
        never = connection => match never {},
    }
}

impl fmt::Debug for Client {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").finish_non_exhaustive()
    }
}
