//! Clients that look at one moment of a connection: its beginning, its first bytes, its round trips.

use std::{
    io::{Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use serde_json::json;
use socket2::{Domain, Socket, Type};

use crate::report::{distribution, error_name, print};

#[derive(Args)]
pub(crate) struct Connect {
    #[arg(long)]
    to: SocketAddr,
    /// How long to wait for the connection.
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
    /// After connecting, how long to wait whether the server closes at once.
    #[arg(long, default_value_t = 0)]
    linger_ms: u64,
}

#[derive(Args)]
pub(crate) struct Dial {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1000)]
    count: usize,
}

#[derive(Args)]
pub(crate) struct Banner {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 100)]
    count: usize,
}

#[derive(Args)]
pub(crate) struct Ping {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value_t = 1000)]
    count: usize,
    #[arg(long, default_value_t = 1)]
    bytes: usize,
    /// How many connections, one after another; each has its part of the round trips.
    #[arg(long, default_value_t = 1)]
    connections: usize,
}

impl Connect {
    pub(crate) fn run(self) -> Result<()> {
        let begin = Instant::now();
        let outcome = TcpStream::connect_timeout(&self.to, Duration::from_millis(self.timeout_ms));
        let took = begin.elapsed().as_secs_f64() * 1e3;
        let report = match outcome {
            Ok(mut stream) => {
                let peer = stream.peer_addr().map(|peer| peer.to_string()).ok();
                let after = if self.linger_ms > 0 {
                    stream.set_read_timeout(Some(Duration::from_millis(self.linger_ms)))?;
                    Some(match stream.read(&mut [0; 64]) {
                        Ok(0) => "eof".to_owned(),
                        Ok(_) => "data".to_owned(),
                        Err(error) => error_name(&error),
                    })
                } else {
                    None
                };
                json!({ "connected": true, "error": null, "ms": took, "getpeername": peer, "after": after })
            }
            Err(error) => json!({ "connected": false, "error": error_name(&error), "ms": took }),
        };
        print(&report);
        Ok(())
    }
}

impl Dial {
    /// Times the call connect() alone; each connection is ended by a reset, so that no port stays in use.
    pub(crate) fn run(self) -> Result<()> {
        let mut times = Vec::new();
        for _ in 0..self.count {
            let socket = Socket::new(Domain::for_address(self.to), Type::STREAM, None)?;
            let begin = Instant::now();
            socket
                .connect(&self.to.into())
                .with_context(|| format!("connecting to {}", self.to))?;
            times.push(begin.elapsed());
            socket.set_linger(Some(Duration::ZERO))?;
        }
        print(&json!({ "times": distribution(times) }));
        Ok(())
    }
}

impl Banner {
    pub(crate) fn run(self) -> Result<()> {
        let mut times = Vec::new();
        let mut first = String::new();
        for _ in 0..self.count {
            let begin = Instant::now();
            let mut stream = open(self.to)?;
            let mut buffer = [0; 256];
            let length = stream.read(&mut buffer).context("reading the banner")?;
            times.push(begin.elapsed());
            ensure!(length > 0, "closed without a banner");
            first = String::from_utf8_lossy(&buffer[..length]).into_owned();
        }
        print(&json!({ "banner": first, "times": distribution(times) }));
        Ok(())
    }
}

impl Ping {
    pub(crate) fn run(self) -> Result<()> {
        let sent = vec![b'p'; self.bytes];
        let mut back = vec![0; self.bytes];
        let mut times = Vec::new();
        for _ in 0..self.connections {
            let mut stream = open(self.to)?;
            stream.set_nodelay(true)?;
            for _ in 0..self.count / self.connections {
                let begin = Instant::now();
                stream.write_all(&sent)?;
                stream.read_exact(&mut back)?;
                times.push(begin.elapsed());
                ensure!(sent == back, "the echo differs");
            }
        }
        print(&json!({ "times": distribution(times) }));
        Ok(())
    }
}

fn open(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}
