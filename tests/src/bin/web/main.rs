//! HTTP servers and clients that check what they see: bodies both ways at once, gRPC, WebSockets.
//!
//! As `traffic` does, every server prints `{"listening":PORT}` when it listens on all addresses of both families. A client
//! that saw anything wrong says so on standard error and fails; otherwise it ends with a report, one line of JSON.

mod body;
mod echo;
mod grpc;
mod load;
mod volume;
mod websocket;

use std::{
    net::{Ipv6Addr, SocketAddr},
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::{Parser, Subcommand, ValueEnum};
use tokio::net::{TcpListener, TcpStream};

#[derive(Parser)]
#[command(about, version)]
struct Cli {
    #[command(subcommand)]
    command: Web,
}

#[derive(Subcommand)]
enum Web {
    /// Send requests' bodies back as they come, on a port of its own for each version of HTTP.
    Echo(echo::Echo),
    /// Send a body to `echo` and check it as it comes back, at the same time.
    Volume(volume::Volume),
    /// Ask `echo` without a pause.
    Load(load::Load),
    /// Serve gRPC.
    GrpcServe(grpc::serve::Serve),
    /// Call the gRPC service in every form.
    Grpc(grpc::call::Call),
    /// Call the gRPC service without a pause, and time each call.
    GrpcLoad(grpc::load::Load),
    /// Serve WebSockets, and send back what comes.
    WebsocketServe(websocket::Serve),
    /// Talk over WebSockets to that server.
    Websocket(websocket::Talk),
}

/// A version of HTTP.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Version {
    Http1,
    Http2,
}

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .context("starting a runtime")?;
    runtime.block_on(async {
        match Cli::parse().command {
            Web::Echo(args) => args.run().await,
            Web::Volume(args) => args.run().await,
            Web::Load(args) => args.run().await,
            Web::GrpcServe(args) => args.run().await,
            Web::Grpc(args) => args.run().await,
            Web::GrpcLoad(args) => args.run().await,
            Web::WebsocketServe(args) => args.run().await,
            Web::Websocket(args) => args.run().await,
        }
    })
}

/// Listens on all addresses of both families. What is printed is up to the caller.
async fn listen(port: u16) -> Result<TcpListener> {
    TcpListener::bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))
        .await
        .with_context(|| format!("listening on port {port}"))
}

/// Says that the server is there.
fn listening(port: u16) {
    println!("{}", serde_json::json!({ "listening": port }));
}

/// Connects, and sends at once what is written.
async fn connect(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to)
        .await
        .with_context(|| format!("connecting to {to}"))?;
    stream.set_nodelay(true)?;
    Ok(stream)
}
