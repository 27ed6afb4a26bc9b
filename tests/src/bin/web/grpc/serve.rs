//! The service.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::Result;
use clap::Args;
use futures_util::{Stream, StreamExt as _, stream};
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    service::TowerToHyperService,
};
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::{MetadataMap, MetadataValue},
};

use super::{
    MESSAGE_MAX,
    calls::{
        Nothing, Piece, Sum, Wanted,
        calls_server::{Calls, CallsServer},
    },
};

#[derive(Args)]
pub(crate) struct Serve {
    #[arg(long)]
    port: u16,
}

#[derive(Default)]
struct Service {
    dropped: Arc<AtomicU64>,
}

/// A call that is not over yet. Counts itself when it is dropped before.
struct Going {
    dropped: Arc<AtomicU64>,
    over: bool,
}

type Pieces = Pin<Box<dyn Stream<Item = Result<Piece, Status>> + Send>>;

impl Serve {
    pub(crate) async fn run(self) -> Result<()> {
        let listener = crate::listen(self.port).await?;
        crate::listening(self.port);
        let service = CallsServer::new(Service::default())
            .max_decoding_message_size(MESSAGE_MAX)
            .max_encoding_message_size(MESSAGE_MAX);
        loop {
            let (stream, _) = listener.accept().await?;
            stream.set_nodelay(true)?;
            let service = TowerToHyperService::new(service.clone());
            tokio::spawn(async move {
                let connection = http2::Builder::new(TokioExecutor::new());
                let served = connection.serve_connection(TokioIo::new(stream), service).await;
                if let Err(error) = served {
                    eprintln!("a connection broke: {error}");
                }
            });
        }
    }
}

#[tonic::async_trait]
impl Calls for Service {
    async fn unary(&self, request: Request<Piece>) -> Result<Response<Piece>, Status> {
        let mut going = self.going();
        let asked = request.metadata().clone();
        let piece = request.into_inner();
        // A sleep of nothing lasts until the timer's next millisecond.
        if piece.wait_ms > 0 {
            tokio::time::sleep(Duration::from_millis(piece.wait_ms.into())).await;
        }
        going.end();
        if piece.fail != 0 {
            return Err(failure(piece.fail, &asked));
        }
        let mut response = Response::new(piece);
        // What was asked with comes back, so that a client sees what arrived.
        if let Some(value) = asked.get("x-asked") {
            response.metadata_mut().insert("x-answered", value.clone());
        }
        if let Some(value) = asked.get_bin("x-asked-bin") {
            response
                .metadata_mut()
                .insert_bin("x-answered-bin", value.clone());
        }
        Ok(response)
    }

    async fn upload(&self, request: Request<Streaming<Piece>>) -> Result<Response<Sum>, Status> {
        let mut going = self.going();
        let mut pieces = request.into_inner();
        let mut sum = Sum::default();
        while let Some(piece) = pieces.message().await? {
            sum.pieces += 1;
            sum.bytes += piece.payload.len() as u64;
        }
        going.end();
        Ok(Response::new(sum))
    }

    type DownloadStream = Pieces;

    async fn download(&self, request: Request<Wanted>) -> Result<Response<Pieces>, Status> {
        let Wanted { count, bytes, fail } = request.into_inner();
        let mut going = self.going();
        let piece = Piece {
            payload: vec![7; bytes as usize],
            ..Piece::default()
        };
        let end = if count == 0 { u64::MAX } else { count };
        let mut sent = 0;
        let pieces = stream::poll_fn(move |_| {
            if sent < end {
                sent += 1;
                return std::task::Poll::Ready(Some(Ok(piece.clone())));
            }
            let failed = fail != 0 && !going.is_over();
            going.end();
            std::task::Poll::Ready(failed.then(|| Err(failure(fail, &MetadataMap::new()))))
        });
        Ok(Response::new(Box::pin(pieces)))
    }

    type TalkStream = Pieces;

    async fn talk(&self, request: Request<Streaming<Piece>>) -> Result<Response<Pieces>, Status> {
        let mut going = self.going();
        // A client that goes away looks like one that says no more: so it says which piece is its last.
        let answers = request.into_inner().inspect(move |piece| {
            if piece.as_ref().is_ok_and(|piece| piece.last) {
                going.end();
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    async fn dropped(&self, _: Request<Nothing>) -> Result<Response<Sum>, Status> {
        Ok(Response::new(Sum {
            pieces: self.dropped.load(Ordering::Relaxed),
            bytes: 0,
        }))
    }
}

impl Service {
    fn going(&self) -> Going {
        Going {
            dropped: Arc::clone(&self.dropped),
            over: false,
        }
    }
}

impl Going {
    fn end(&mut self) {
        self.over = true;
    }

    fn is_over(&self) -> bool {
        self.over
    }
}

impl Drop for Going {
    fn drop(&mut self) {
        if !self.over {
            self.dropped.fetch_add(1, Ordering::Relaxed);
        }
    }
}

/// A failure that also carries metadata, as those of real services do.
fn failure(code: i32, asked: &MetadataMap) -> Status {
    let mut metadata = MetadataMap::new();
    if let Some(value) = asked.get("x-asked") {
        metadata.insert("x-answered", value.clone());
    }
    metadata.insert_bin("x-details-bin", MetadataValue::from_bytes(&[0, 255, 10, 13]));
    Status::with_metadata(
        Code::from_i32(code),
        "as you wish: 100 % \"wrong\"\nand ünlucky",
        metadata,
    )
}
