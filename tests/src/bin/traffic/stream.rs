//! Clients that move data over one connection and look at how it ends.

use std::{
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::{Args, ValueEnum};
use serde_json::json;
use socket2::SockRef;

use crate::{
    data::{Checksum, Pattern},
    report::{error_name, print},
};

const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Args)]
pub(crate) struct Bulk {
    #[arg(long)]
    to: SocketAddr,
    /// Bytes to send over each connection.
    #[arg(long)]
    send: u64,
    /// Bytes to ask for over each connection.
    #[arg(long)]
    receive: u64,
    /// How many connections at once.
    #[arg(long, default_value_t = 1)]
    streams: usize,
}

/// What came of one connection of [`Bulk`].
struct Moved {
    sent_intact: bool,
    received_intact: bool,
    received: u64,
}

#[derive(Args)]
pub(crate) struct HalfClose {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    bytes: u64,
}

#[derive(Args)]
pub(crate) struct Flood {
    #[arg(long)]
    to: SocketAddr,
    /// The connection is full when it accepts nothing for this long.
    #[arg(long, default_value_t = 2000)]
    stall_ms: u64,
    /// Never send more than this.
    #[arg(long, default_value_t = 1 << 30)]
    most: u64,
    /// Keep the full connection open for so long after that.
    #[arg(long, default_value_t = 0)]
    hold_ms: u64,
}

#[derive(Args)]
pub(crate) struct Read {
    #[arg(long)]
    to: SocketAddr,
    /// After so many bytes, send one byte.
    #[arg(long)]
    answer_after: Option<u64>,
}

#[derive(Args)]
pub(crate) struct Send {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long)]
    bytes: u64,
    /// How to end.
    #[arg(long)]
    then: End,
}

#[derive(Clone, Copy, ValueEnum)]
enum End {
    /// Close in order.
    Close,
    /// Close with a reset.
    Reset,
}

impl Bulk {
    pub(crate) fn run(self) -> Result<()> {
        // Known before, so that nobody waits for a sum while time is taken.
        let (sent_sum, received_sum) = (
            Pattern::checksum(3, self.send),
            Pattern::checksum(2, self.receive),
        );
        let begin = Instant::now();
        let moved: Vec<Moved> = thread::scope(|scope| {
            let streams: Vec<_> = (0..self.streams)
                .map(|_| scope.spawn(|| self.move_all(sent_sum, received_sum)))
                .collect();
            streams
                .into_iter()
                .map(|stream| stream.join().map_err(|_| anyhow::anyhow!("a stream panicked"))?)
                .collect::<Result<_>>()
        })?;
        let took = begin.elapsed();
        print(&json!({
            "sent": self.send * self.streams as u64,
            "sent_intact": moved.iter().all(|moved| moved.sent_intact),
            "received": moved.iter().map(|moved| moved.received).sum::<u64>(),
            "received_intact": moved.iter().all(|moved| moved.received_intact),
            "seconds": took.as_secs_f64(),
        }));
        Ok(())
    }

    fn move_all(&self, sent_sum: u64, received_sum: u64) -> Result<Moved> {
        let mut stream = open(self.to)?;
        stream.write_all(&self.receive.to_le_bytes())?;
        let mut outgoing = stream.try_clone()?;
        let bytes = self.send;
        let sender = thread::spawn(move || -> io::Result<()> {
            send_pattern(&mut outgoing, 3, bytes)?;
            outgoing.shutdown(Shutdown::Write)
        });
        let mut received = Checksum::new();
        let mut buffer = vec![0; 64 * 1024];
        while received.bytes() < self.receive {
            let room = usize::try_from(self.receive - received.bytes())
                .map_or(buffer.len(), |left| left.min(buffer.len()));
            match stream.read(&mut buffer[..room])? {
                0 => break,
                length => received.add(&buffer[..length]),
            }
        }
        let mut trailer = Vec::new();
        stream.read_to_end(&mut trailer)?;
        sender
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))??;
        let (count, sum) = trailer.split_first_chunk::<8>().context("no trailer")?;
        let sum: [u8; 8] = sum.try_into().context("a trailer of another length")?;
        Ok(Moved {
            sent_intact: u64::from_le_bytes(*count) == self.send && u64::from_le_bytes(sum) == sent_sum,
            received_intact: received.value() == received_sum,
            received: received.bytes(),
        })
    }
}

impl HalfClose {
    pub(crate) fn run(self) -> Result<()> {
        let mut stream = open(self.to)?;
        let mut outgoing = stream.try_clone()?;
        let sender = thread::spawn(move || -> io::Result<()> {
            send_pattern(&mut outgoing, 4, self.bytes)?;
            outgoing.shutdown(Shutdown::Write)
        });
        let mut back = Checksum::new();
        let end = read_all(&mut stream, |bytes| back.add(bytes));
        let sent = sender
            .join()
            .map_err(|_| anyhow::anyhow!("the sender panicked"))?;
        print(&json!({
            "sent": self.bytes,
            "send_error": sent.err().map(|error| error_name(&error)),
            "received": back.bytes(),
            "intact": back.value() == Pattern::checksum(4, self.bytes),
            "end": end,
        }));
        Ok(())
    }
}

impl Flood {
    pub(crate) fn run(self) -> Result<()> {
        let mut stream = open(self.to)?;
        stream.set_write_timeout(Some(Duration::from_millis(self.stall_ms)))?;
        let mut pattern = Pattern::new(5);
        let mut sent = 0;
        let end = loop {
            if sent >= self.most {
                break "sent all".to_owned();
            }
            match stream.write(pattern.next(self.most - sent)) {
                Ok(length) => sent += length as u64,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break "stalled".to_owned(),
                Err(error) => break error_name(&error),
            }
        };
        print(&json!({ "sent": sent, "end": end }));
        thread::sleep(Duration::from_millis(self.hold_ms));
        Ok(())
    }
}

impl Read {
    pub(crate) fn run(self) -> Result<()> {
        let mut stream = open(self.to)?;
        let mut answer = stream.try_clone()?;
        let (mut bytes, mut due) = (0, self.answer_after);
        let end = read_all(&mut stream, |piece| {
            bytes += piece.len() as u64;
            if due.is_some_and(|after| bytes >= after) {
                due = None;
                // How this fails shows in how reading ends.
                let _ = answer.write_all(b".");
            }
        });
        print(&json!({ "bytes": bytes, "end": end }));
        Ok(())
    }
}

impl Send {
    pub(crate) fn run(self) -> Result<()> {
        let mut stream = open(self.to)?;
        let sent = send_pattern(&mut stream, 6, self.bytes);
        if let End::Reset = self.then {
            SockRef::from(&stream).set_linger(Some(Duration::ZERO))?;
        }
        drop(stream);
        print(&json!({ "sent": self.bytes, "error": sent.err().map(|error| error_name(&error)) }));
        Ok(())
    }
}

fn open(to: SocketAddr) -> Result<TcpStream> {
    let stream = TcpStream::connect(to).with_context(|| format!("connecting to {to}"))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

fn send_pattern(stream: &mut TcpStream, seed: u64, bytes: u64) -> io::Result<()> {
    let mut pattern = Pattern::new(seed);
    let mut left = bytes;
    while left > 0 {
        let block = pattern.next(left);
        left -= block.len() as u64;
        stream.write_all(block)?;
    }
    Ok(())
}

/// Reads to the end, and says what the end was: `eof` or the name of an error.
fn read_all(stream: &mut TcpStream, mut piece: impl FnMut(&[u8])) -> String {
    let mut buffer = vec![0; 64 * 1024];
    loop {
        match stream.read(&mut buffer) {
            Ok(0) => return "eof".to_owned(),
            Ok(length) => piece(&buffer[..length]),
            Err(error) => return error_name(&error),
        }
    }
}
