//! Requests without a pause, as a patient client sends them: over kept connections, on another one when it was told that one
//! ends, and none of them twice.

use std::{net::SocketAddr, path::PathBuf};

use anyhow::{Context as _, Result, ensure};
use clap::Args;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{
    body::Bytes,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::Version;

#[derive(Args)]
pub(crate) struct Load {
    /// An `echo`.
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    version: Version,
    /// Requests under way at once. Each over its own connection in HTTP/1, all over one in HTTP/2.
    #[arg(long)]
    workers: usize,
    /// Goes on until this file exists.
    #[arg(long)]
    until: PathBuf,
}

#[derive(Default)]
struct Seen {
    good: u64,
    connections: u64,
    /// Requests that were not sent any more, because their connection had ended by then.
    unsent: u64,
    errors: Vec<String>,
}

enum Kept {
    Http1(http1::SendRequest<Full<Bytes>>),
    Http2(http2::SendRequest<Full<Bytes>>),
}

impl Load {
    pub(crate) async fn run(self) -> Result<()> {
        let (to, version) = (self.to, self.version);
        let (connections, share) = match version {
            Version::Http1 => (self.workers, 1),
            Version::Http2 => (1, self.workers),
        };
        let tasks: Vec<_> = (0..connections)
            .map(|_| tokio::spawn(work(to, version, share, self.until.clone())))
            .collect();
        let mut seen = Seen::default();
        for task in tasks {
            let one = task.await??;
            seen.good += one.good;
            seen.connections += one.connections;
            seen.unsent += one.unsent;
            seen.errors.extend(one.errors);
        }
        let report = serde_json::json!({
            "good": seen.good,
            "failed": seen.errors.len(),
            "connections": seen.connections,
            "unsent": seen.unsent,
            "errors": seen.errors.iter().take(10).collect::<Vec<_>>(),
        });
        println!("{report}");
        Ok(())
    }
}

/// `share` requests at once over one connection at a time.
async fn work(to: SocketAddr, version: Version, share: usize, until: PathBuf) -> Result<Seen> {
    let mut seen = Seen::default();
    let mut number = 0_usize;
    while !until.exists() {
        let mut kept = open(to, version).await?;
        seen.connections += 1;
        let mut under_way = tokio::task::JoinSet::new();
        while kept.ready().await && !until.exists() {
            number += 1;
            under_way.spawn(kept.send(number)?);
            if under_way.len() >= share
                && let Some(done) = under_way.join_next().await
            {
                seen.count(done?);
            }
        }
        while let Some(done) = under_way.join_next().await {
            seen.count(done?);
        }
    }
    Ok(seen)
}

async fn open(to: SocketAddr, version: Version) -> Result<Kept> {
    let io = TokioIo::new(crate::connect(to).await?);
    Ok(match version {
        Version::Http1 => {
            let (sender, connection) = http1::handshake(io).await?;
            tokio::spawn(connection);
            Kept::Http1(sender)
        }
        Version::Http2 => {
            let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await?;
            tokio::spawn(connection);
            Kept::Http2(sender)
        }
    })
}

impl Kept {
    /// Whether it takes another request.
    async fn ready(&mut self) -> bool {
        match self {
            Self::Http1(sender) => sender.ready().await.is_ok(),
            Self::Http2(sender) => sender.ready().await.is_ok(),
        }
    }

    fn send(&mut self, number: usize) -> Result<impl Future<Output = Result<()>> + use<>> {
        let body = Bytes::from(format!("request {number}"));
        let request = Request::post("http://echo/")
            .header("host", "echo")
            .body(Full::new(body.clone()))?;
        // hyper answers only after it was polled; boxed, because the two are different futures.
        let answer: std::pin::Pin<Box<dyn Future<Output = _> + Send>> = match self {
            Self::Http1(sender) => Box::pin(sender.send_request(request)),
            Self::Http2(sender) => Box::pin(sender.send_request(request)),
        };
        Ok(async move {
            let answer = answer.await.context("asking")?;
            let status = answer.status();
            let said = answer.into_body().collect().await.context("reading")?.to_bytes();
            ensure!(status == StatusCode::OK, "{status}: {}", said.escape_ascii());
            ensure!(said == body, "another answer: {}", said.escape_ascii());
            Ok(())
        })
    }
}

impl Seen {
    fn count(&mut self, done: Result<()>) {
        match done {
            Ok(()) => self.good += 1,
            Err(error) if is_unsent(&error) => self.unsent += 1,
            Err(error) => self.errors.push(format!("{error:#}")),
        }
    }
}

/// Whether hyper gave the request back before any of it was on its way, as when a GOAWAY comes first.
fn is_unsent(error: &anyhow::Error) -> bool {
    error
        .downcast_ref::<hyper::Error>()
        .is_some_and(hyper::Error::is_canceled)
}
