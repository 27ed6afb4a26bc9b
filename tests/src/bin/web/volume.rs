//! Bodies that go to an `echo` and come back at the same time, every byte compared.

use std::{net::SocketAddr, time::Instant};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use http::{Request, StatusCode};
use http_body_util::BodyExt as _;
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::{
    Version,
    body::{Check, Length, Pattern},
};

#[derive(Args)]
pub(crate) struct Volume {
    /// Where the echo is.
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    version: Version,
    /// How many bytes each body has; one after the other over one connection.
    #[arg(long, required = true)]
    bytes: Vec<u64>,
    /// How many do so at once, each over its own connection (HTTP/1) or in its own stream (HTTP/2).
    #[arg(long, default_value_t = 1)]
    at_once: usize,
    /// Say how long the bodies are.
    #[arg(long)]
    told: bool,
}

#[derive(Clone)]
enum Sender {
    Http1(SocketAddr),
    Http2(hyper::client::conn::http2::SendRequest<Pattern>),
}

impl Volume {
    pub(crate) async fn run(self) -> Result<()> {
        let begun = Instant::now();
        let length = if self.told { Length::Told } else { Length::Untold };
        let sender = match self.version {
            Version::Http1 => Sender::Http1(self.to),
            Version::Http2 => {
                let io = TokioIo::new(crate::connect(self.to).await?);
                let (sender, connection) =
                    hyper::client::conn::http2::handshake(TokioExecutor::new(), io).await?;
                tokio::spawn(connection);
                Sender::Http2(sender)
            }
        };
        let mut tasks = Vec::new();
        for _ in 0..self.at_once {
            tasks.push(tokio::spawn(bodies(sender.clone(), self.bytes.clone(), length)));
        }
        let mut seen = 0;
        for task in tasks {
            seen += task.await??;
        }
        let seconds = begun.elapsed().as_secs_f64();
        println!("{}", serde_json::json!({ "bytes": seen, "seconds": seconds }));
        Ok(())
    }
}

async fn bodies(sender: Sender, sizes: Vec<u64>, length: Length) -> Result<u64> {
    let mut seen = 0;
    let mut http1 = match &sender {
        Sender::Http1(to) => {
            let io = TokioIo::new(crate::connect(*to).await?);
            let (sender, connection) = hyper::client::conn::http1::handshake(io).await?;
            tokio::spawn(connection);
            Some(sender)
        }
        Sender::Http2(_) => None,
    };
    for bytes in sizes {
        let request = Request::post("http://echo/")
            .header("host", "echo")
            .body(Pattern::new(bytes, length))?;
        let answered = match (&mut http1, &sender) {
            (Some(http1), _) => {
                http1.ready().await?;
                http1.send_request(request).await
            }
            (None, Sender::Http2(http2)) => http2.clone().send_request(request).await,
            (None, Sender::Http1(_)) => bail!("no connection"),
        };
        let response = answered.with_context(|| format!("asking with {bytes} bytes"))?;
        ensure!(response.status() == StatusCode::OK, "{response:?}");
        let mut check = Check::new();
        let mut body = response.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.with_context(|| format!("reading byte {} of {bytes}", check.seen()))?;
            if let Some(data) = frame.data_ref() {
                check.take(data)?;
            }
        }
        ensure!(
            check.seen() == bytes,
            "{} of {bytes} bytes came back",
            check.seen()
        );
        seen += bytes;
    }
    Ok(seen)
}
