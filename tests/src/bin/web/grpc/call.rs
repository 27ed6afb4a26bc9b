//! The client: every form of a call.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use clap::Args;
use futures_util::{future::try_join_all, stream};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Request,
    metadata::MetadataValue,
    transport::{Channel, Endpoint},
};

use super::{
    MESSAGE_MAX,
    calls::{Nothing, Piece, Wanted, calls_client::CallsClient},
};

/// Within this a server must have heard that a call is over.
const SOON: Duration = Duration::from_secs(20);
const CONCURRENT: usize = 1000;

#[derive(Args)]
pub(crate) struct Call {
    #[arg(long)]
    to: SocketAddr,
    /// Only this many unary calls, one after the other on each of ten connections; reports how many failed.
    #[arg(long)]
    load: Option<usize>,
}

pub(super) type Client = CallsClient<Channel>;

impl Call {
    pub(crate) async fn run(self) -> Result<()> {
        if let Some(calls) = self.load {
            return load(self.to, calls).await;
        }
        let mut client = connect(self.to).await?;
        unary(&mut client).await.context("unary calls")?;
        failures(&mut client).await.context("failures")?;
        streams(&mut client).await.context("streams")?;
        large(&mut client).await.context("large messages")?;
        deadlines(&mut client).await.context("deadlines")?;
        cancelled(&mut client).await.context("cancelled calls")?;
        concurrent(&client).await.context("concurrent calls")?;
        println!("{}", serde_json::json!({ "good": true }));
        Ok(())
    }
}

pub(super) async fn connect(to: SocketAddr) -> Result<Client> {
    let channel = Endpoint::from_shared(format!("http://{to}"))?.connect().await?;
    Ok(CallsClient::new(channel)
        .max_decoding_message_size(MESSAGE_MAX)
        .max_encoding_message_size(MESSAGE_MAX))
}

pub(super) fn piece(bytes: usize) -> Piece {
    Piece {
        payload: (0..bytes).map(|at| (at % 251) as u8).collect(),
        ..Piece::default()
    }
}

async fn unary(client: &mut Client) -> Result<()> {
    for bytes in [0, 1, 65_535, 65_536, 65_537, 1 << 20] {
        let said = client.unary(piece(bytes)).await?.into_inner();
        ensure!(said == piece(bytes), "{bytes} bytes came back otherwise");
    }
    let mut request = Request::new(piece(3));
    request.metadata_mut().insert("x-asked", "one, two".parse()?);
    let binary = MetadataValue::from_bytes(&[0, 1, 254, 255]);
    request.metadata_mut().insert_bin("x-asked-bin", binary.clone());
    let said = client.unary(request).await?;
    let metadata = said.metadata();
    ensure!(
        metadata
            .get("x-answered")
            .is_some_and(|value| value == "one, two"),
        "{metadata:?}"
    );
    ensure!(
        metadata.get_bin("x-answered-bin") == Some(&binary),
        "{metadata:?}"
    );
    Ok(())
}

/// Each status of a server arrives as it was said, whether it comes alone or after messages.
async fn failures(client: &mut Client) -> Result<()> {
    for code in 1..=16 {
        let mut request = Request::new(Piece {
            fail: code,
            ..Piece::default()
        });
        request.metadata_mut().insert("x-asked", "again".parse()?);
        let Err(status) = client.unary(request).await else {
            bail!("a call that was to fail with {code} did not");
        };
        ensure!(status.code() == Code::from_i32(code), "{code}: {status:?}");
        ensure!(
            status.message() == "as you wish: 100 % \"wrong\"\nand ünlucky",
            "{status:?}"
        );
        let metadata = status.metadata();
        ensure!(
            metadata.get("x-answered").is_some_and(|value| value == "again"),
            "{metadata:?}"
        );
        let details = metadata.get_bin("x-details-bin").context("no details")?;
        ensure!(details.to_bytes()?[..] == [0, 255, 10, 13], "{details:?}");
    }
    let wanted = Wanted {
        count: 3,
        bytes: 10,
        fail: Code::DataLoss as i32,
    };
    let mut pieces = client.download(wanted).await?.into_inner();
    for _ in 0..3 {
        ensure!(pieces.message().await?.is_some(), "too few messages");
    }
    match pieces.message().await {
        Err(status) if status.code() == Code::DataLoss => Ok(()),
        other => bail!("not the server's end: {other:?}"),
    }
}

async fn streams(client: &mut Client) -> Result<()> {
    let sent = stream::iter((0..1000).map(|number| piece(number * 10)));
    let sum = client.upload(sent).await?.into_inner();
    ensure!(sum.pieces == 1000 && sum.bytes == 10 * 999 * 500, "{sum:?}");
    let wanted = Wanted {
        count: 2000,
        bytes: 5000,
        fail: 0,
    };
    let mut pieces = client.download(wanted).await?.into_inner();
    let mut count = 0;
    while let Some(piece) = pieces.message().await? {
        ensure!(piece.payload == [7; 5000], "message {count} is another");
        count += 1;
    }
    ensure!(count == 2000, "{count} of 2000 messages");
    ensure!(pieces.trailers().await?.is_some(), "no trailers");
    // Each answer is read before the next message is sent: nothing may wait for more of either.
    let (tell, told) = tokio::sync::mpsc::channel(1);
    tell.send(piece(0)).await?;
    let mut answers = client.talk(ReceiverStream::new(told)).await?.into_inner();
    for number in 1..500 {
        let said = answers.message().await?.context("ended early")?;
        ensure!(said == piece(number - 1), "answer {number} is another");
        let last = number == 499;
        tell.send(Piece {
            last,
            ..piece(number)
        })
        .await?;
    }
    drop(tell);
    let last = answers.message().await?.context("no last answer")?;
    ensure!(last.payload == piece(499).payload, "the last answer is another");
    ensure!(answers.message().await?.is_none(), "more than was sent");
    Ok(())
}

async fn large(client: &mut Client) -> Result<()> {
    let sent = piece(20 << 20);
    let said = client.unary(sent.clone()).await?.into_inner();
    ensure!(said == sent, "20 MiB came back otherwise");
    Ok(())
}

/// A deadline travels as `grpc-timeout` and ends the call at both ends.
async fn deadlines(client: &mut Client) -> Result<()> {
    let before = dropped(client).await?;
    let mut request = Request::new(Piece {
        wait_ms: 60_000,
        ..Piece::default()
    });
    request.set_timeout(Duration::from_millis(200));
    let Err(status) = client.unary(request).await else {
        bail!("a call outlived its deadline");
    };
    ensure!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
    heard_of(client, before + 1).await
}

/// A call that its client drops is dropped by the server too.
async fn cancelled(client: &mut Client) -> Result<()> {
    let before = dropped(client).await?;
    let waiting = client.unary(Piece {
        wait_ms: 60_000,
        ..Piece::default()
    });
    if tokio::time::timeout(Duration::from_millis(200), waiting)
        .await
        .is_ok()
    {
        bail!("a call was over before its time");
    }
    heard_of(client, before + 1).await.context("a unary one")?;
    let endless = Wanted {
        count: 0,
        bytes: 10_000,
        fail: 0,
    };
    let mut pieces = client.download(endless).await?.into_inner();
    for _ in 0..100 {
        pieces.message().await?;
    }
    drop(pieces);
    heard_of(client, before + 2).await.context("a download")?;
    let (tell, told) = tokio::sync::mpsc::channel(1);
    tell.send(piece(1)).await?;
    let mut answers = client.talk(ReceiverStream::new(told)).await?.into_inner();
    answers.message().await?;
    drop((answers, tell));
    heard_of(client, before + 3).await.context("a conversation")
}

async fn dropped(client: &mut Client) -> Result<u64> {
    Ok(client.dropped(Nothing {}).await?.into_inner().pieces)
}

async fn heard_of(client: &mut Client, calls: u64) -> Result<()> {
    let mut seen = 0;
    let waited = tokio::time::timeout(SOON, async {
        loop {
            seen = dropped(client).await?;
            if seen >= calls {
                return anyhow::Ok(());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    match waited.await {
        Ok(result) => result?,
        Err(_) => bail!("the server saw {seen} calls dropped, not {calls}"),
    }
    ensure!(seen == calls, "the server saw {seen} calls dropped, not {calls}");
    Ok(())
}

/// More calls at once than a connection may have streams, half of them slow.
async fn concurrent(client: &Client) -> Result<()> {
    let calls = (0..CONCURRENT).map(|number| {
        let mut client = client.clone();
        async move {
            let sent = Piece {
                wait_ms: (number as u32 % 2) * 50,
                ..piece(number)
            };
            let said = client.unary(sent.clone()).await?.into_inner();
            ensure!(said == sent, "call {number} was answered otherwise");
            Ok(())
        }
    });
    try_join_all(calls).await.map(drop)
}

async fn load(to: SocketAddr, calls: usize) -> Result<()> {
    const CONNECTIONS: usize = 10;
    let workers = (0..CONNECTIONS).map(|_| async move {
        let mut client = connect(to).await?;
        for number in 0..calls / CONNECTIONS {
            let said = client.unary(piece(number % 1000)).await?.into_inner();
            ensure!(
                said == piece(number % 1000),
                "call {number} was answered otherwise"
            );
        }
        Ok(())
    });
    try_join_all(workers).await?;
    println!("{}", serde_json::json!({ "calls": calls }));
    Ok(())
}
