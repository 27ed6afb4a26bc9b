//! Calls without a pause, for as long as is asked, each timed: what gRPC costs.

use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, ValueEnum};
use futures_util::future::try_join_all;
use tokio_stream::wrappers::ReceiverStream;

use super::{
    call::{Client, connect, piece},
    calls::Wanted,
};

#[derive(Args)]
pub(crate) struct Load {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    calls: Calls,
    /// Each has one call under way.
    #[arg(long, default_value_t = 1)]
    connections: usize,
    /// The payload of a message.
    #[arg(long, default_value_t = 100)]
    bytes: usize,
    #[arg(long)]
    seconds: u64,
}

/// What is counted and timed.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Calls {
    /// A call with one message each way.
    Unary,
    /// A message and its answer, in one call that lasts.
    Talk,
    /// A message of a stream that the server sends, a thousand in each call.
    Download,
}

/// Messages in a call that the server streams.
const STREAM: u64 = 1000;

impl Load {
    pub(crate) async fn run(self) -> Result<()> {
        let clients = try_join_all((0..self.connections).map(|_| connect(self.to))).await?;
        let begin = Instant::now();
        let end = begin + Duration::from_secs(self.seconds);
        let (calls, bytes) = (self.calls, self.bytes);
        let work = clients.into_iter().map(|mut client| async move {
            let mut times = Vec::new();
            match calls {
                Calls::Unary => unary(&mut client, bytes, end, &mut times).await?,
                Calls::Talk => talk(&mut client, bytes, end, &mut times).await?,
                Calls::Download => download(&mut client, bytes, end, &mut times).await?,
            }
            anyhow::Ok(times)
        });
        let mut times: Vec<Duration> = try_join_all(work).await?.into_iter().flatten().collect();
        let seconds = begin.elapsed().as_secs_f64();
        times.sort_unstable();
        let at = |share: usize| {
            let time = times.get(times.len() * share / 1000);
            time.map(|time| time.as_nanos() as f64 / 1000.0)
        };
        let report = serde_json::json!({
            "answered": times.len(),
            "seconds": seconds,
            "times": { "p50_us": at(500), "p99_us": at(990), "p999_us": at(999) },
        });
        println!("{report}");
        Ok(())
    }
}

async fn unary(client: &mut Client, bytes: usize, end: Instant, times: &mut Vec<Duration>) -> Result<()> {
    let sent = piece(bytes);
    while Instant::now() < end {
        let begin = Instant::now();
        let said = client.unary(sent.clone()).await?.into_inner();
        times.push(begin.elapsed());
        ensure!(said == sent, "a call was answered otherwise");
    }
    Ok(())
}

async fn talk(client: &mut Client, bytes: usize, end: Instant, times: &mut Vec<Duration>) -> Result<()> {
    let sent = piece(bytes);
    let (tell, told) = tokio::sync::mpsc::channel(1);
    tell.send(sent.clone()).await?;
    let mut answers = client.talk(ReceiverStream::new(told)).await?.into_inner();
    answers.message().await?.context("ended early")?;
    while Instant::now() < end {
        let begin = Instant::now();
        tell.send(sent.clone()).await?;
        let said = answers.message().await?.context("ended early")?;
        times.push(begin.elapsed());
        ensure!(said == sent, "a message was answered otherwise");
    }
    drop(tell);
    ensure!(answers.message().await?.is_none(), "more than was sent");
    Ok(())
}

/// Times how long each message is after the one before it.
async fn download(client: &mut Client, bytes: usize, end: Instant, times: &mut Vec<Duration>) -> Result<()> {
    while Instant::now() < end {
        let wanted = Wanted {
            count: STREAM,
            bytes: u32::try_from(bytes)?,
            fail: 0,
        };
        let mut begin = Instant::now();
        let mut pieces = client.download(wanted).await?.into_inner();
        let mut count = 0;
        while let Some(piece) = pieces.message().await? {
            ensure!(
                piece.payload.len() == bytes,
                "a message of {} bytes",
                piece.payload.len()
            );
            times.push(begin.elapsed());
            begin = Instant::now();
            count += 1;
        }
        ensure!(count == STREAM, "{count} of {STREAM} messages");
    }
    Ok(())
}
