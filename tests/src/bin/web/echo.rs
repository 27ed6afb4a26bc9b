//! A server that sends back what comes, while it comes.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use http::{HeaderMap, Request, Response, header};
use http_body_util::{BodyExt as _, Full, combinators::BoxBody};
use hyper::{
    body::{Bytes, Incoming},
    service::service_fn,
};
use hyper_util::rt::{TokioExecutor, TokioIo};

use crate::{
    Version,
    body::{Length, Pattern},
};

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
                        let mut connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
                        connection.max_header_list_size(1 << 20);
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

/// What comes back is of the length that was told, and ends with the trailers that came. Some paths mean something else.
async fn answer(request: Request<Incoming>) -> Result<Response<BoxBody<Bytes, hyper::Error>>> {
    let (parts, body) = request.into_parts();
    let (path, argument) = match parts.uri.path()[1..].split_once('/') {
        Some((path, argument)) => (path, argument),
        None => (&parts.uri.path()[1..], ""),
    };
    let mut headers = HeaderMap::new();
    let body = match path {
        // Says how much came.
        "sink" => {
            let bytes = body.collect().await?.to_bytes().len();
            whole(format!("{bytes}\n"))
        }
        // Reads nothing, and never answers.
        "stuck" => {
            std::future::pending::<()>().await;
            drop(body);
            whole(String::new())
        }
        "slow" => {
            tokio::time::sleep(Duration::from_millis(200)).await;
            whole("slow\n".to_owned())
        }
        "bytes" => Pattern::new(argument.parse()?, Length::Told)
            .map_err(|never| match never {})
            .boxed(),
        _ => {
            if let Some(length) = parts.headers.get(header::CONTENT_LENGTH) {
                headers.insert(header::CONTENT_LENGTH, length.clone());
            }
            body.boxed()
        }
    };
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    Ok(response)
}

fn whole(said: String) -> BoxBody<Bytes, hyper::Error> {
    Full::from(said).map_err(|never| match never {}).boxed()
}
