//! Short connections, as many at once as asked for, each checked.
//!
//! A connection is good when the server that answered is the one that was dialled, the server saw this socket's
//! own address and port, and getpeername() shows what was dialled. The client closes first.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    net::SocketAddr,
    path::PathBuf,
    str::FromStr,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use serde_json::{Value, json};
use socket2::{Domain, Socket, Type};

use crate::report::{canonical, distribution, error_name, print};

#[derive(Args)]
pub(crate) struct Churn {
    /// Whom to dial in turn, each with the name its server must give: ADDRESS:PORT=NAME.
    #[arg(long, required = true)]
    to: Vec<Target>,
    /// How many connections in all.
    #[arg(long, default_value_t = u64::MAX)]
    count: u64,
    /// End after this many seconds.
    #[arg(long, default_value_t = 600)]
    seconds: u64,
    /// Begin at most this many connections a second.
    #[arg(long)]
    rate: Option<u64>,
    /// How many at once.
    #[arg(long, default_value_t = 1)]
    parallel: usize,
    /// End when this file exists.
    #[arg(long)]
    until: Option<PathBuf>,
    /// How long one connection may take.
    #[arg(long, default_value_t = 10_000)]
    timeout_ms: u64,
    /// End at the first failure.
    #[arg(long)]
    stop_at_failure: bool,
    /// After each failure, wait this long before the next connection.
    #[arg(long, default_value_t = 0)]
    pause_ms: u64,
}

#[derive(Clone)]
struct Target {
    address: SocketAddr,
    name: String,
}

impl FromStr for Target {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let (address, name) = text
            .rsplit_once('=')
            .context("not of the form ADDRESS:PORT=NAME")?;
        Ok(Self {
            address: address.parse()?,
            name: name.to_owned(),
        })
    }
}

#[derive(Default)]
struct Tally {
    good: u64,
    errors: BTreeMap<String, u64>,
    /// What was wrong with connections that stood, a few of them.
    wrong: Vec<String>,
    wrong_count: u64,
    times: Vec<Duration>,
    /// Good connections and failures in each second.
    seconds: BTreeMap<u64, (u64, u64)>,
}

impl Churn {
    pub(crate) fn run(self) -> Result<()> {
        let begin = Instant::now();
        let next = AtomicU64::new(0);
        let stop = AtomicBool::new(false);
        let tallies: Vec<Tally> = thread::scope(|scope| {
            let workers: Vec<_> = (0..self.parallel)
                .map(|_| scope.spawn(|| self.work(begin, &next, &stop)))
                .collect();
            workers
                .into_iter()
                .filter_map(|worker| worker.join().ok())
                .collect()
        });
        anyhow::ensure!(tallies.len() == self.parallel, "a worker panicked");
        let mut all = Tally::default();
        for tally in tallies {
            all.merge(tally);
        }
        print(&all.report(begin.elapsed()));
        Ok(())
    }

    fn work(&self, begin: Instant, next: &AtomicU64, stop: &AtomicBool) -> Tally {
        let mut tally = Tally::default();
        let end = begin + Duration::from_secs(self.seconds);
        while !stop.load(Ordering::Relaxed) {
            let turn = next.fetch_add(1, Ordering::Relaxed);
            if turn >= self.count
                || Instant::now() >= end
                || self.until.as_ref().is_some_and(|file| file.exists())
            {
                break;
            }
            if let Some(rate) = self.rate {
                let due = begin + Duration::from_secs_f64(turn as f64 / rate as f64);
                if due >= end {
                    break;
                }
                thread::sleep(due.saturating_duration_since(Instant::now()));
            }
            let target = &self.to[(turn % self.to.len() as u64) as usize];
            let started = Instant::now();
            let outcome = self.connect(target);
            let good = outcome.is_ok();
            tally.add(begin.elapsed().as_secs(), started.elapsed(), outcome);
            if !good {
                stop.fetch_or(self.stop_at_failure, Ordering::Relaxed);
                thread::sleep(Duration::from_millis(self.pause_ms));
            }
        }
        tally
    }

    fn connect(&self, target: &Target) -> Result<(), Failure> {
        let timeout = Duration::from_millis(self.timeout_ms);
        // Opened without std's connect_timeout, which would turn the socket non-blocking and poll.
        let socket =
            Socket::new(Domain::for_address(target.address), Type::STREAM, None).map_err(at("socket"))?;
        socket.set_read_timeout(Some(timeout)).map_err(at("setsockopt"))?;
        socket
            .set_write_timeout(Some(timeout))
            .map_err(at("setsockopt"))?;
        socket.connect(&target.address.into()).map_err(at("connect"))?;
        let stream = std::net::TcpStream::from(socket);
        let own = stream.local_addr().map_err(at("getsockname"))?;
        let dialled = stream.peer_addr().map_err(at("getpeername"))?;
        let mut line = String::new();
        let length = BufReader::new(&stream).read_line(&mut line).map_err(at("read"))?;
        if length == 0 {
            return Err(Failure::Error("read: closed without an answer".to_owned()));
        }
        let said: Value =
            serde_json::from_str(&line).map_err(|_| Failure::Wrong(format!("answer {line:?}")))?;
        let mut wrong = Vec::new();
        if said["server"] != target.name {
            wrong.push(format!("dialled {}, reached {}", target.name, said["server"]));
        }
        if canonical(dialled) != canonical(target.address) {
            wrong.push(format!("dialled {}, getpeername says {dialled}", target.address));
        }
        for call in ["accept", "getpeername"] {
            if said[call] != canonical(own).to_string() {
                wrong.push(format!(
                    "this socket is {own}, the server's {call} says {}",
                    said[call]
                ));
            }
        }
        if wrong.is_empty() {
            Ok(())
        } else {
            Err(Failure::Wrong(wrong.join("; ")))
        }
    }
}

enum Failure {
    /// No connection, or no answer on it.
    Error(String),
    /// A connection, but not the right one.
    Wrong(String),
}

fn at(call: &'static str) -> impl Fn(std::io::Error) -> Failure {
    move |error| Failure::Error(format!("{call}: {}", error_name(&error)))
}

impl Tally {
    fn add(&mut self, second: u64, took: Duration, outcome: Result<(), Failure>) {
        let counts = self.seconds.entry(second).or_default();
        match outcome {
            Ok(()) => {
                counts.0 += 1;
                self.good += 1;
                self.times.push(took);
                return;
            }
            Err(Failure::Error(name)) => *self.errors.entry(name).or_default() += 1,
            Err(Failure::Wrong(what)) => {
                self.wrong_count += 1;
                if self.wrong.len() < 5 {
                    self.wrong.push(what);
                }
            }
        }
        counts.1 += 1;
    }

    fn merge(&mut self, other: Self) {
        self.good += other.good;
        self.wrong_count += other.wrong_count;
        self.wrong.extend(other.wrong);
        self.wrong.truncate(5);
        self.times.extend(other.times);
        for (name, count) in other.errors {
            *self.errors.entry(name).or_default() += count;
        }
        for (second, (good, failed)) in other.seconds {
            let counts = self.seconds.entry(second).or_default();
            counts.0 += good;
            counts.1 += failed;
        }
    }

    fn report(self, took: Duration) -> Value {
        let last = self.seconds.keys().last().map_or(0, |last| last + 1);
        let per_second: Vec<_> = (0..last)
            .map(|second| self.seconds.get(&second).copied().unwrap_or_default())
            .map(|(good, failed)| json!([good, failed]))
            .collect();
        json!({
            "good": self.good,
            "failed": self.errors.values().sum::<u64>() + self.wrong_count,
            "errors": self.errors,
            "wrong": self.wrong_count,
            "wrong_examples": self.wrong,
            "seconds": took.as_secs_f64(),
            "per_second": per_second,
            "times": distribution(self.times),
        })
    }
}
