//! The servers, one behaviour each, all on one dual-stack listener.

use std::{
    io::{self, BufRead as _, BufReader, Read as _, Write as _},
    net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::Arc,
    thread,
    time::Duration,
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::json;
use socket2::{Domain, SockRef, Socket, Type};

use crate::{
    data::{Checksum, Pattern},
    report::{canonical, error_name, print},
};

#[derive(Args)]
pub(crate) struct Serve {
    behaviour: Behaviour,
    /// Port to listen on.
    #[arg(long)]
    port: u16,
    /// How many ports to listen on, from that one on.
    #[arg(long, default_value_t = 1)]
    ports: u16,
    /// What the server calls itself.
    #[arg(long, default_value = "server")]
    name: String,
    /// Bytes until the reset (`reset`), or read each second (`slow`).
    #[arg(long, default_value_t = 64 * 1024)]
    bytes: usize,
    /// Print each connection as it is accepted.
    #[arg(long)]
    log: bool,
    /// `identity` closes first instead of waiting for the client to close.
    #[arg(long)]
    close_first: bool,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Behaviour {
    /// Send a line of JSON: the server's name and what accept() and getpeername() said of the client.
    Identity,
    /// Send everything back; end when the client has ended.
    Echo,
    /// Read to the end, and only then send everything back.
    Collect,
    /// Greet first, as SMTP does, then answer each line.
    Greet,
    /// Send as many bytes as the client asks for while receiving, then the checksum of what came.
    Bulk,
    /// Read, and print how each connection ended.
    Sink,
    /// Send some bytes, then reset the connection.
    Reset,
    /// Read at a fixed slow pace.
    Slow,
    /// Answer HTTP/1.1 requests with the server's name.
    Http,
}

impl Serve {
    pub(crate) fn run(self) -> Result<()> {
        let listeners: Vec<TcpListener> = (0..self.ports)
            .map(|index| listen(self.port + index))
            .collect::<Result<_>>()?;
        print(&json!({ "listening": self.port }));
        let this = Arc::new(self);
        // Short connections: a pool of threads that each accept is cheaper than a thread for each.
        let pool = match (this.behaviour, this.ports) {
            (Behaviour::Identity, 1) => 256,
            _ => 1,
        };
        for listener in listeners {
            for _ in 0..pool {
                let (this, listener) = (Arc::clone(&this), listener.try_clone()?);
                small_thread(move || this.accept_forever(&listener))?;
            }
        }
        loop {
            thread::park();
        }
    }

    fn accept_forever(self: &Arc<Self>, listener: &TcpListener) -> ! {
        loop {
            let served = match listener.accept() {
                Ok((stream, peer)) if self.behaviour == Behaviour::Identity => {
                    self.serve(stream, peer);
                    Ok(())
                }
                Ok((stream, peer)) => {
                    let this = Arc::clone(self);
                    small_thread(move || this.serve(stream, peer))
                }
                Err(error) => Err(error),
            };
            if let Err(error) = served {
                eprintln!("accept: {error}");
            }
        }
    }

    fn serve(&self, stream: TcpStream, peer: SocketAddr) {
        if self.log {
            print(&self.seen(&stream, peer));
        }
        let result = match self.behaviour {
            Behaviour::Identity => self.identity(stream, peer),
            Behaviour::Echo => echo(stream),
            Behaviour::Collect => collect(stream),
            Behaviour::Greet => self.greet(stream, peer),
            Behaviour::Bulk => bulk(stream),
            Behaviour::Sink => sink(stream, peer),
            Behaviour::Reset => self.reset(stream),
            Behaviour::Slow => self.slow(stream),
            Behaviour::Http => self.http(stream, peer),
        };
        if let Err(error) = result {
            eprintln!("{peer}: {error}");
        }
    }

    fn seen(&self, stream: &TcpStream, peer: SocketAddr) -> serde_json::Value {
        let shown = |address: io::Result<SocketAddr>| match address {
            Ok(address) => canonical(address).to_string(),
            Err(error) => error_name(&error),
        };
        json!({
            "server": self.name,
            "accept": canonical(peer).to_string(),
            "getpeername": shown(stream.peer_addr()),
            "getsockname": shown(stream.local_addr()),
        })
    }

    fn identity(&self, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        let line = format!("{}\n", self.seen(&stream, peer));
        stream.write_all(line.as_bytes())?;
        if !self.close_first {
            stream.set_read_timeout(Some(Duration::from_secs(60)))?;
            io::copy(&mut stream, &mut io::sink())?;
        }
        Ok(())
    }

    fn greet(&self, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let seen = self.seen(&stream, peer);
        let client = seen["accept"].as_str().unwrap_or_default();
        say(&mut stream, &format!("220 {} greets {client}", self.name))?;
        for line in BufReader::new(stream.try_clone()?).lines() {
            let line = line?;
            if line.trim_end().eq_ignore_ascii_case("quit") {
                return say(&mut stream, "221 bye");
            }
            say(&mut stream, &format!("250 {line}"))?;
        }
        Ok(())
    }

    fn reset(&self, mut stream: TcpStream) -> io::Result<()> {
        let sent = Pattern::new(1).next(self.bytes as u64).to_vec();
        stream.write_all(&sent)?;
        // The client says that it has read everything: a reset discards what is still on its way.
        stream.read_exact(&mut [0])?;
        SockRef::from(&stream).set_linger(Some(Duration::ZERO))
    }

    fn slow(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut buffer = vec![0; (self.bytes / 10).max(1)];
        while stream.read(&mut buffer)? > 0 {
            thread::sleep(Duration::from_millis(100));
        }
        Ok(())
    }

    fn http(&self, mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
        stream.set_nodelay(true)?;
        let body = format!("{}\n", self.seen(&stream, peer));
        for line in BufReader::new(stream.try_clone()?).lines() {
            // A request is over at its empty line; bodies are not expected.
            if line?.is_empty() {
                let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length:";
                stream.write_all(format!("{head} {}\r\n\r\n{body}", body.len()).as_bytes())?;
            }
        }
        Ok(())
    }
}

/// A listener on all addresses of both families.
fn listen(port: u16) -> Result<TcpListener> {
    let socket = Socket::new(Domain::IPV6, Type::STREAM, None).context("making a socket")?;
    socket.set_only_v6(false)?;
    socket.set_reuse_address(true)?;
    let address = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    socket
        .bind(&address.into())
        .with_context(|| format!("binding port {port}"))?;
    socket.listen(4096)?;
    Ok(TcpListener::from(socket))
}

fn echo(mut stream: TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut buffer = vec![0; 16 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => return stream.shutdown(Shutdown::Write),
            length => stream.write_all(&buffer[..length])?,
        }
    }
}

fn collect(mut stream: TcpStream) -> io::Result<()> {
    let mut all = Vec::new();
    stream.read_to_end(&mut all)?;
    stream.write_all(&all)
}

/// The client begins with how many bytes it wants, as 8 bytes; both use a fixed seed for their pattern.
fn bulk(mut stream: TcpStream) -> io::Result<()> {
    let mut wanted = [0; 8];
    stream.read_exact(&mut wanted)?;
    let mut outgoing = stream.try_clone()?;
    let sender = thread::spawn(move || {
        let mut pattern = Pattern::new(2);
        let mut left = u64::from_le_bytes(wanted);
        while left > 0 {
            let block = pattern.next(left);
            left -= block.len() as u64;
            outgoing.write_all(block)?;
        }
        io::Result::Ok(())
    });
    let mut received = Checksum::new();
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer)? {
            0 => break,
            length => received.add(&buffer[..length]),
        }
    }
    sender
        .join()
        .map_err(|_| io::Error::other("the sender panicked"))??;
    stream.write_all(&received.bytes().to_le_bytes())?;
    stream.write_all(&received.value().to_le_bytes())
}

fn sink(mut stream: TcpStream, peer: SocketAddr) -> io::Result<()> {
    let mut bytes = 0;
    let mut buffer = vec![0; 64 * 1024];
    let end = loop {
        match stream.read(&mut buffer) {
            Ok(0) => break "eof".to_owned(),
            Ok(length) => bytes += length,
            Err(error) => break error_name(&error),
        }
    };
    print(&json!({ "peer": canonical(peer).to_string(), "bytes": bytes, "end": end }));
    Ok(())
}

/// Sends a line in one piece, so that the first read of a client has all of it.
fn say(stream: &mut TcpStream, line: &str) -> io::Result<()> {
    stream.write_all(format!("{line}\r\n").as_bytes())
}

fn small_thread(body: impl FnOnce() + Send + 'static) -> io::Result<()> {
    thread::Builder::new()
        .stack_size(128 * 1024)
        .spawn(body)
        .map(drop)
}
