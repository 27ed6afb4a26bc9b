//! The fetcher against servers on the loopback device.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};

use http::StatusCode;
use rustls::RootCertStore;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use super::*;

const KEYS: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","kid":"a","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn client() -> Client {
    Client::trusting(RootCertStore::empty()).unwrap()
}

/// A server that answers the nth request with what `answer` says, and counts them.
async fn server(answer: impl Fn(usize) -> String + Send + Sync + 'static) -> (SocketAddr, Arc<AtomicUsize>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let count = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut piece = [0; 1024];
                match socket.read(&mut piece).await.unwrap() {
                    0 => break,
                    read => request.extend_from_slice(&piece[..read]),
                }
            }
            let text = answer(counted.fetch_add(1, Ordering::SeqCst));
            socket.write_all(text.as_bytes()).await.unwrap();
        }
    });
    (addr, count)
}

fn ok(body: &str) -> String {
    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

async fn get(answer: String) -> Result<Vec<u8>, FetchError> {
    let (addr, _) = server(move |_| answer.clone()).await;
    client()
        .get(&format!("http://{addr}/keys"), Duration::from_secs(10))
        .await
}

#[tokio::test]
async fn a_document() {
    assert_eq!(get(ok("text")).await.unwrap(), b"text");
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nte\r\n2\r\nxt\r\n0\r\n\r\n";
    assert_eq!(get(chunked.to_owned()).await.unwrap(), b"text");
    let until_the_end = "HTTP/1.1 200 OK\r\n\r\ntext";
    assert_eq!(get(until_the_end.to_owned()).await.unwrap(), b"text");
}

#[tokio::test]
async fn what_is_no_document() {
    let redirect = "HTTP/1.1 302 Found\r\nlocation: /else\r\ncontent-length: 0\r\n\r\n";
    let error = get(redirect.to_owned()).await.unwrap_err();
    assert!(matches!(error, FetchError::Status(StatusCode::FOUND)), "{error}");
    let error = get(ok(&"x".repeat(300 * 1024))).await.unwrap_err();
    assert!(matches!(error, FetchError::TooLong), "{error}");
    let short = "HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\ntext";
    assert!(matches!(
        get(short.to_owned()).await.unwrap_err(),
        FetchError::Http(_)
    ));
    assert!(matches!(
        get("nonsense\r\n\r\n".to_owned()).await.unwrap_err(),
        FetchError::Http(_)
    ));
    let unused = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let error = client()
        .get(&format!("http://{unused}/"), Duration::from_secs(10))
        .await;
    assert!(matches!(error, Err(FetchError::Connect(_))));
    for url in ["ftp://host/", "nothing", "/path"] {
        let error = client().get(url, Duration::from_secs(10)).await;
        assert!(matches!(error, Err(FetchError::Url)), "{url}");
    }
}

#[tokio::test]
async fn a_server_that_says_nothing_ends_with_the_time() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let error = client()
        .get(&format!("http://{addr}/"), Duration::from_millis(50))
        .await;
    assert!(matches!(error, Err(FetchError::Timeout(_))));
}

#[tokio::test]
async fn https_takes_only_the_server_that_is_meant() {
    let issued = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = rustls_pki_types::PrivateKeyDer::try_from(issued.signing_key.serialize_der()).unwrap();
    let config =
        rustls::ServerConfig::builder_with_provider(Arc::new(rustls::crypto::aws_lc_rs::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![issued.cert.der().clone()], key)
            .unwrap();
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await.unwrap();
            // A client that does not trust the certificate hangs up.
            if let Ok(mut stream) = acceptor.accept(socket).await {
                let mut request = [0; 1024];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(ok("text").as_bytes()).await;
                let _ = stream.shutdown().await;
            }
        }
    });
    let mut roots = RootCertStore::empty();
    roots.add(issued.cert.der().clone()).unwrap();
    let trusting = Client::trusting(roots).unwrap();
    let timeout = Duration::from_secs(10);
    let named = trusting.get(&format!("https://localhost:{port}/"), timeout).await;
    assert_eq!(named.unwrap(), b"text");
    let other_name = trusting.get(&format!("https://127.0.0.1:{port}/"), timeout).await;
    assert!(matches!(other_name, Err(FetchError::Tls(_))));
    let untrusted = client().get(&format!("https://localhost:{port}/"), timeout).await;
    assert!(matches!(untrusted, Err(FetchError::Tls(_))));
}

/// Waits until a cell has had this many fetches.
async fn after_fetches(count: &AtomicUsize, number: usize, cell: &KeyCell, done: impl Fn(&KeyCell) -> bool) {
    let wait = async {
        while count.load(Ordering::SeqCst) < number || !done(cell) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(20), wait)
        .await
        .expect("in time");
}

#[tokio::test]
async fn a_wanted_cell_is_filled_and_keeps_what_it_has() {
    let (addr, count) = server(|number| match number {
        0 => "HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".to_owned(),
        1 => ok(KEYS),
        _ => ok("{}"),
    })
    .await;
    let cell = Arc::new(KeyCell::fetched(
        &format!("http://{addr}/keys"),
        Duration::from_secs(5),
    ));
    assert_eq!(cell.load().unwrap_err(), "not fetched yet");
    let stop = CancellationToken::new();
    let fetcher = KeyFetcher::new(client(), stop.clone());
    fetcher.want([Arc::clone(&cell), Arc::clone(&cell)]);
    after_fetches(&count, 1, &cell, |cell| cell.fault().is_some()).await;
    assert!(cell.load().unwrap_err().contains("503"), "{:?}", cell.load());
    // It is tried again after a second.
    after_fetches(&count, 2, &cell, |cell| cell.load().is_ok()).await;
    assert_eq!(cell.fault(), None);
    assert!(!cell.renewed().await, "a fetch has just been");
    assert_eq!(count.load(Ordering::SeqCst), 2);
    fetcher.want([]);
    fetcher.want([Arc::clone(&cell)]);
    // A broken set comes; the good one stays.
    after_fetches(&count, 3, &cell, |cell| cell.fault().is_some()).await;
    assert!(cell.load().is_ok());
    stop.cancel();
    tokio::time::timeout(Duration::from_secs(10), fetcher.ended())
        .await
        .expect("tasks end");
}

#[tokio::test]
async fn who_misses_a_key_waits_for_the_fetch() {
    let (addr, _) = server(|_| ok(KEYS)).await;
    let cell = Arc::new(KeyCell::fetched(
        &format!("http://{addr}/keys"),
        Duration::from_secs(5),
    ));
    let fetcher = KeyFetcher::new(client(), CancellationToken::new());
    let (renewed, ()) = tokio::join!(cell.renewed(), async {
        fetcher.want([Arc::clone(&cell)]);
    });
    assert!(renewed && cell.load().is_ok());
}
