//! The server on loopback: what each door answers, to whom, and what an address may be.

#![expect(clippy::disallowed_methods, reason = "tests stand in no pod")]

use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use super::*;

#[derive(Default)]
struct Sample {
    ready: AtomicBool,
}

impl Expose for Sample {
    fn metrics(&self) -> Option<String> {
        Some("# EOF\n".to_owned())
    }

    fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Relaxed)
    }
}

async fn free_address() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    listener.local_addr().unwrap()
}

async fn ask(address: SocketAddr, request: &str) -> String {
    let mut stream = loop {
        match TcpStream::connect(address).await {
            Ok(stream) => break stream,
            Err(_) => tokio::task::yield_now().await,
        }
    };
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    answer
}

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: here\r\n{headers}\r\n")
}

#[tokio::test]
async fn answers_what_its_door_is_for_and_nothing_else() {
    let sample = Arc::new(Sample::default());
    let stop = CancellationToken::new();
    let mut addresses = Vec::new();
    for door in [Door::Metrics, Door::Health] {
        let address = free_address().await;
        addresses.push(address);
        tokio::spawn(serve_http(door, address, Arc::clone(&sample) as _, stop.clone()));
    }
    let (metrics, health) = (addresses[0], addresses[1]);

    let plain = ask(metrics, &get("/metrics", "")).await;
    assert!(
        plain.starts_with("HTTP/1.1 200 ") && plain.ends_with("# EOF\n"),
        "{plain}"
    );
    assert!(
        plain.contains("content-type: text/plain; version=0.0.4"),
        "{plain}"
    );
    let accept = "accept: application/openmetrics-text;version=1.0.0,text/plain;q=0.5\r\n";
    let open = ask(metrics, &get("/stats/prometheus", accept)).await;
    assert!(
        open.contains("content-type: application/openmetrics-text; version=1.0.0"),
        "{open}"
    );
    assert!(
        ask(metrics, &get("/livez", ""))
            .await
            .starts_with("HTTP/1.1 404 ")
    );
    let post = "POST /metrics HTTP/1.1\r\nhost: here\r\ncontent-length: 0\r\n\r\n";
    assert!(ask(metrics, post).await.starts_with("HTTP/1.1 405 "));
    let long = get("/metrics", &format!("x: {}\r\n", "y".repeat(4 * BUFFER)));
    assert!(ask(metrics, &long).await.starts_with("HTTP/1.1 431 "));

    assert!(ask(health, &get("/livez", "")).await.starts_with("HTTP/1.1 200 "));
    assert!(
        ask(health, &get("/metrics", ""))
            .await
            .starts_with("HTTP/1.1 404 ")
    );
    assert!(
        ask(health, &get("/healthz/ready", ""))
            .await
            .starts_with("HTTP/1.1 503 ")
    );
    sample.ready.store(true, Ordering::Relaxed);
    assert!(
        ask(health, &get("/healthz/ready", ""))
            .await
            .starts_with("HTTP/1.1 200 ")
    );
}

#[tokio::test]
async fn an_address_is_taken_as_soon_as_it_is_free() {
    let foreign = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = foreign.local_addr().unwrap();
    let stop = CancellationToken::new();
    let serving = tokio::spawn(serve_http(
        Door::Health,
        address,
        Arc::new(Sample::default()) as _,
        stop.clone(),
    ));
    tokio::task::yield_now().await;
    drop(foreign);
    assert!(
        ask(address, &get("/livez", ""))
            .await
            .starts_with("HTTP/1.1 200 ")
    );
    stop.cancel();
    serving.await.unwrap();
    assert!(TcpStream::connect(address).await.is_err(), "it is let go of");
}

#[tokio::test(start_paused = true)]
async fn whoever_says_nothing_is_let_go_and_others_are_served() {
    let address = free_address().await;
    let stop = CancellationToken::new();
    tokio::spawn(serve_http(
        Door::Health,
        address,
        Arc::new(Sample::default()) as _,
        stop,
    ));
    let mut silent = Vec::new();
    while silent.len() < AT_ONCE {
        match TcpStream::connect(address).await {
            Ok(stream) => silent.push(stream),
            Err(_) => tokio::task::yield_now().await,
        }
    }
    assert!(
        ask(address, &get("/livez", ""))
            .await
            .starts_with("HTTP/1.1 200 ")
    );
}

#[test]
fn an_address_is_one_or_none() {
    assert_eq!("none".parse::<DoorAddress>().unwrap(), DoorAddress(None));
    assert_eq!(
        "[::]:15020".parse::<DoorAddress>().unwrap().0.unwrap().port(),
        15020
    );
    assert!("15020".parse::<DoorAddress>().is_err());
    assert!("localhost:15020".parse::<DoorAddress>().is_err());
}
