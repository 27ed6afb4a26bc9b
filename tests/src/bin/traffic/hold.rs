//! Many idle connections at once, used before and again at the end to see that each works.

use std::{
    collections::BTreeMap,
    io::{self, Read as _, Write as _},
    net::{Shutdown, SocketAddr, TcpStream},
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};

use anyhow::{Result, ensure};
use clap::Args;
use serde_json::json;

use crate::report::{error_name, print};

#[derive(Args)]
pub(crate) struct Hold {
    /// Whom to dial in turn.
    #[arg(long, required = true)]
    to: Vec<SocketAddr>,
    #[arg(long)]
    count: usize,
    /// Hold until this file exists.
    #[arg(long)]
    until: PathBuf,
    /// Give up after this many seconds.
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// What is said on each connection before and after.
    #[arg(long, value_enum, default_value_t = Speak::Echo)]
    speak: Speak,
}

#[derive(Clone, Copy, clap::ValueEnum)]
enum Speak {
    /// A byte, which comes back.
    Echo,
    /// A request by HTTP/1.1, whose answer has a length.
    Http,
}

impl Hold {
    /// Prints `{"holding":N}` when all stand, and the report at the end.
    pub(crate) fn run(self) -> Result<()> {
        let mut errors: BTreeMap<String, u64> = BTreeMap::new();
        let mut streams = Vec::new();
        for to in self.to.iter().cycle().take(self.count) {
            match TcpStream::connect(to).and_then(|stream| self.speak.exchange(stream)) {
                Ok(stream) => streams.push(stream),
                Err(error) => *errors.entry(error_name(&error)).or_default() += 1,
            }
        }
        print(&json!({ "holding": streams.len(), "errors": errors }));
        let end = Instant::now() + Duration::from_secs(self.seconds);
        while !self.until.exists() {
            ensure!(Instant::now() < end, "{} never came to be", self.until.display());
            thread::sleep(Duration::from_millis(20));
        }
        let held = streams.len();
        let mut good = 0;
        for stream in streams {
            match self.speak.exchange(stream).and_then(finish) {
                Ok(()) => good += 1,
                Err(error) => *errors.entry(error_name(&error)).or_default() += 1,
            }
        }
        print(&json!({ "held": held, "good": good, "errors": errors }));
        Ok(())
    }
}

impl Speak {
    /// Says something and waits for the answer.
    fn exchange(self, mut stream: TcpStream) -> io::Result<TcpStream> {
        stream.set_read_timeout(Some(Duration::from_secs(30)))?;
        match self {
            Self::Echo => {
                stream.write_all(b"!")?;
                stream.read_exact(&mut [0])?;
            }
            Self::Http => {
                stream.write_all(b"GET / HTTP/1.1\r\nHost: held\r\n\r\n")?;
                read_answer(&mut stream)?;
            }
        }
        Ok(stream)
    }
}

/// Reads an answer that is a good one, to the end of its body.
fn read_answer(stream: &mut TcpStream) -> io::Result<()> {
    let bad = |what: &str| io::Error::new(io::ErrorKind::InvalidData, what.to_owned());
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        stream.read_exact(&mut byte)?;
        head.extend(byte);
    }
    let head = String::from_utf8(head).map_err(|_| bad("a head that is no text"))?;
    if !head.starts_with("HTTP/1.1 200 ") {
        return Err(bad(&head));
    }
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("content-length").then(|| value.trim())
    });
    let length = length.and_then(|length| length.parse().ok());
    stream.read_exact(&mut vec![0; length.ok_or_else(|| bad("no length"))?])
}

/// Ends the connection in order; the other side has to end it too.
fn finish(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("bytes that nobody sent")),
    }
}
