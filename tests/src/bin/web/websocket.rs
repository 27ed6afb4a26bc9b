//! WebSockets: real ones, with masks, fragments, pings and a closing handshake.

use std::net::SocketAddr;

use anyhow::{Context as _, Result, bail, ensure};
use bytes::Bytes;
use clap::Args;
use futures_util::{SinkExt as _, StreamExt as _};
use tokio_tungstenite::{
    accept_async, client_async,
    tungstenite::{
        Message,
        protocol::{CloseFrame, frame::coding::CloseCode},
    },
};

#[derive(Args)]
pub(crate) struct Serve {
    #[arg(long)]
    port: u16,
}

#[derive(Args)]
pub(crate) struct Talk {
    #[arg(long)]
    to: SocketAddr,
    /// Connections at once.
    #[arg(long, default_value_t = 10)]
    at_once: usize,
    /// Messages on each of them.
    #[arg(long, default_value_t = 200)]
    messages: usize,
}

impl Serve {
    pub(crate) async fn run(self) -> Result<()> {
        let listener = crate::listen(self.port).await?;
        crate::listening(self.port);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            tokio::spawn(async move {
                let mut socket = accept_async(stream).await?;
                while let Some(message) = socket.next().await {
                    // The library itself answers pings, and that the other end closes.
                    if let echoed @ (Message::Text(_) | Message::Binary(_)) = message? {
                        socket.send(echoed).await?;
                    }
                }
                anyhow::Ok(())
            });
        }
    }
}

impl Talk {
    pub(crate) async fn run(self) -> Result<()> {
        let tasks: Vec<_> = (0..self.at_once)
            .map(|_| tokio::spawn(talk(self.to, self.messages)))
            .collect();
        for task in tasks {
            task.await??;
        }
        println!(
            "{}",
            serde_json::json!({ "messages": self.at_once * self.messages })
        );
        Ok(())
    }
}

async fn talk(to: SocketAddr, messages: usize) -> Result<()> {
    let stream = crate::connect(to).await?;
    let (mut socket, response) = client_async("ws://socket.example/talk?a=b", stream)
        .await
        .context("the opening handshake")?;
    ensure!(response.status() == 101, "{response:?}");
    for number in 0..messages {
        let message = match number % 3 {
            0 => Message::text(format!("message {number}")),
            1 => Message::binary(vec![u8::try_from(number % 251)?; number * 97]),
            _ => Message::Ping(Bytes::from(number.to_string())),
        };
        socket.send(message.clone()).await?;
        let heard = socket.next().await.context("closed in between")??;
        let expected = match message {
            Message::Ping(payload) => Message::Pong(payload),
            other => other,
        };
        ensure!(heard == expected, "message {number}: {heard:?}");
    }
    let reason = CloseFrame {
        code: CloseCode::Normal,
        reason: "done".into(),
    };
    socket.close(Some(reason.clone())).await?;
    match socket.next().await {
        Some(Ok(Message::Close(Some(closed)))) if closed == reason => {}
        other => bail!("no closing handshake: {other:?}"),
    }
    ensure!(socket.next().await.is_none(), "more after the end");
    Ok(())
}
