//! Requests by HTTP/1.1 at a fixed rate, whatever becomes of the answers: an open loop.
//!
//! Each request has its time. A thread for each connection takes the next one, waits for it, sends, and reads the answer;
//! what is late because all connections wait for answers counts from the time it should have been sent. So a server that
//! stands still for a while is charged with every request that clients would have sent meanwhile (the "coordinated
//! omission" of a closed loop).

use std::{
    io::{self, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use clap::Args;
use nix::sys::prctl;
use serde_json::json;

use crate::report::{distribution, error_name, print};

#[derive(Args)]
pub(crate) struct Pace {
    #[arg(long)]
    to: SocketAddr,
    #[arg(long, default_value = "/")]
    path: String,
    /// Requests a second, over all connections together.
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    rate: u64,
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=4096))]
    connections: u16,
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..=3600))]
    seconds: u64,
}

/// When each request is due.
#[derive(Clone, Copy)]
struct Timetable {
    begin: Instant,
    rate: u64,
    requests: u64,
    /// Nothing is sent after this: who is so late will not catch up.
    end: Instant,
}

/// One kept connection, and what was read of an answer.
struct Connection {
    stream: TcpStream,
    request: Vec<u8>,
    buffer: Vec<u8>,
}

/// How long after the last connection stands the first request is due.
const START: Duration = Duration::from_millis(50);
const ANSWER: Duration = Duration::from_secs(30);
/// The longest head of an answer that is read.
const HEAD_MAX: usize = 16 << 10;

impl Pace {
    pub(crate) fn run(self) -> Result<()> {
        let connections: Vec<Connection> = (0..self.connections)
            .map(|_| self.open())
            .collect::<Result<_>>()?;
        let begin = Instant::now() + START;
        let length = Duration::from_secs(self.seconds);
        let timetable = Timetable {
            begin,
            rate: self.rate,
            requests: self.rate * self.seconds,
            end: begin + 2 * length + Duration::from_secs(5),
        };
        let next = Arc::new(AtomicU64::new(0));
        let threads: Vec<_> = connections
            .into_iter()
            .map(|connection| {
                let next = Arc::clone(&next);
                thread::Builder::new()
                    .stack_size(64 << 10)
                    .spawn(move || connection.work(timetable, &next))
            })
            .collect::<io::Result<_>>()?;
        let (mut times, mut errors) = (Vec::new(), Vec::new());
        for thread in threads {
            let (seen, error) = thread.join().map_err(|_| anyhow::anyhow!("a thread panicked"))?;
            times.extend(seen);
            errors.extend(error.map(|error| error_name(&error)));
        }
        print(&json!({
            "due": timetable.requests,
            "answered": times.len(),
            "seconds": begin.elapsed().as_secs_f64(),
            "failed": errors.len(),
            "errors": errors.iter().take(10).collect::<Vec<_>>(),
            "times": distribution(times),
        }));
        Ok(())
    }

    /// A connection that had an answer.
    fn open(&self) -> Result<Connection> {
        let stream = TcpStream::connect(self.to).with_context(|| format!("connecting to {}", self.to))?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(ANSWER))?;
        ensure!(self.path.starts_with('/'), "a path begins with /");
        let mut connection = Connection {
            stream,
            request: format!("GET {} HTTP/1.1\r\nHost: {}\r\n\r\n", self.path, self.to).into_bytes(),
            buffer: Vec::new(),
        };
        connection.exchange().context("a first request")?;
        Ok(connection)
    }
}

impl Timetable {
    /// When a request is to be sent.
    fn due(self, number: u64) -> Instant {
        let nanos = u128::from(number) * 1_000_000_000 / u128::from(self.rate);
        self.begin + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
    }
}

impl Connection {
    /// Sends what is due until all is sent or something fails.
    fn work(mut self, timetable: Timetable, next: &AtomicU64) -> (Vec<Duration>, Option<io::Error>) {
        // By default a sleeper is woken up to 50 µs late; without the right to change that, so be it.
        let _ = prctl::set_timerslack(1);
        let mut times = Vec::new();
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= timetable.requests || Instant::now() > timetable.end {
                return (times, None);
            }
            let due = timetable.due(number);
            thread::sleep(due.saturating_duration_since(Instant::now()));
            if let Err(error) = self.exchange() {
                return (times, Some(error));
            }
            times.push(due.elapsed());
        }
    }

    /// One request and its answer, which has to be a good one with a length.
    fn exchange(&mut self) -> io::Result<()> {
        self.stream.write_all(&self.request)?;
        self.buffer.clear();
        loop {
            if let Some(length) = answer_length(&self.buffer)? {
                match self.buffer.len() {
                    read if read == length => return Ok(()),
                    read if read > length => return Err(bad("more than the answer")),
                    _ => {}
                }
            }
            let mut bytes = [0; 4096];
            match self.stream.read(&mut bytes)? {
                0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                read => self.buffer.extend_from_slice(&bytes[..read]),
            }
        }
    }
}

/// How long a whole answer is, head and body, once its head is there.
fn answer_length(read: &[u8]) -> io::Result<Option<usize>> {
    let Some(head) = read.windows(4).position(|bytes| bytes == b"\r\n\r\n") else {
        return match read.len() {
            HEAD_MAX.. => Err(bad("a head without an end")),
            _ => Ok(None),
        };
    };
    let text = std::str::from_utf8(&read[..head]).map_err(|_| bad("a head that is no text"))?;
    if !text.starts_with("HTTP/1.1 200 ") {
        return Err(bad(text.lines().next().unwrap_or_default()));
    }
    let length = text.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim())
    });
    let length: Option<usize> = length.and_then(|length| length.parse().ok());
    Ok(Some(head + 4 + length.ok_or_else(|| bad("no length"))?))
}

fn bad(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.to_owned())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    #[test]
    fn an_answer_has_the_length_it_says() {
        let whole = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nabc";
        assert_eq!(answer_length(whole).unwrap(), Some(whole.len()));
        assert_eq!(answer_length(&whole[..20]).unwrap(), None);
        assert!(answer_length(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n").is_err());
        assert!(answer_length(b"HTTP/1.1 200 OK\r\n\r\n").is_err());
    }

    /// A server that stands still once is charged with all that was due meanwhile, not with one request.
    #[test]
    fn what_a_stall_held_up_counts_from_when_it_was_due() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let to = listener.local_addr().unwrap();
        let server = thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut bytes = [0; 4096];
            let mut answered = 0;
            while stream.read(&mut bytes).unwrap() > 0 {
                answered += 1;
                if answered == 11 {
                    thread::sleep(Duration::from_millis(500));
                }
                stream
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n")
                    .unwrap();
            }
        });
        let pace = Pace {
            to,
            path: "/".to_owned(),
            rate: 100,
            connections: 1,
            seconds: 1,
        };
        let connection = pace.open().unwrap();
        let begin = Instant::now();
        let timetable = Timetable {
            begin,
            rate: 100,
            requests: 100,
            end: begin + Duration::from_secs(60),
        };
        let (times, error) = connection.work(timetable, &AtomicU64::new(0));
        assert!(error.is_none(), "{error:?}");
        assert_eq!(times.len(), 100);
        // The stall holds up the requests of half a second: those due in its first quarter wait for most of it.
        let held = times
            .iter()
            .filter(|time| **time >= Duration::from_millis(250))
            .count();
        assert!(held >= 20, "only {held} requests were charged with the stall");
        server.join().unwrap();
    }
}
