//! Many idle connections at once, used again at the end to see that each still works.

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
}

impl Hold {
    /// Prints `{"holding":N}` when all stand, and the report at the end.
    pub(crate) fn run(self) -> Result<()> {
        let mut errors: BTreeMap<String, u64> = BTreeMap::new();
        let mut streams = Vec::new();
        for to in self.to.iter().cycle().take(self.count) {
            match TcpStream::connect(to).and_then(exchange) {
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
            match exchange(stream).and_then(finish) {
                Ok(()) => good += 1,
                Err(error) => *errors.entry(error_name(&error)).or_default() += 1,
            }
        }
        print(&json!({ "held": held, "good": good, "errors": errors }));
        Ok(())
    }
}

/// Sends a byte and waits for its echo.
fn exchange(mut stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.write_all(b"!")?;
    stream.read_exact(&mut [0])?;
    Ok(stream)
}

/// Ends the connection in order; the other side has to end it too.
fn finish(mut stream: TcpStream) -> io::Result<()> {
    stream.shutdown(Shutdown::Write)?;
    match stream.read(&mut [0])? {
        0 => Ok(()),
        _ => Err(io::Error::other("bytes that nobody sent")),
    }
}
