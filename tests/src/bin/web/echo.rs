//! A server that sends back what comes, while it comes.

use anyhow::Result;
use clap::Args;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::Version;

#[derive(Args)]
pub(crate) struct Echo {
    #[arg(long)]
    http1: u16,
    #[arg(long)]
    http2: u16,
}

impl Echo {
    pub(crate) async fn run(self) -> Result<()> {
        let first = serve(self.http1, Version::Http1).await?;
        let second = serve(self.http2, Version::Http2).await?;
        crate::listening(self.http2);
        first.await?;
        second.await?;
        Ok(())
    }
}

async fn serve(port: u16, version: Version) -> Result<tokio::task::JoinHandle<()>> {
    let listener = crate::listen(port).await?;
    Ok(tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let io = TokioIo::new(stream);
            tokio::spawn(async move {
                let served = match version {
                    Version::Http1 => {
                        let connection = hyper::server::conn::http1::Builder::new();
                        connection.serve_connection(io, service_fn(answer)).await
                    }
                    Version::Http2 => {
                        let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        connection.serve_connection(io, service_fn(answer)).await
                    }
                };
                if let Err(error) = served {
                    eprintln!("a connection broke: {error}");
                }
            });
        }
    }))
}

/// What comes back is of the length that was told, and ends with the trailers that came.
async fn answer(request: Request<Incoming>) -> Result<Response<Either<Incoming, Full<Bytes>>>, hyper::Error> {
    let (parts, body) = request.into_parts();
    if parts.uri.path() == "/sink" {
        let bytes = body.collect().await?.to_bytes().len();
        let said = format!("{bytes}\n");
        return Ok(Response::new(Either::Right(Full::from(said))));
    }
    let mut headers = HeaderMap::new();
    if let Some(length) = parts.headers.get(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, length.clone());
    }
    let mut response = Response::new(Either::Left(body));
    *response.headers_mut() = headers;
    Ok(response)
}
