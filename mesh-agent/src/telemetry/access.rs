//! The access log: a line of JSON on standard output for each request that is over.
//!
//! Data workers hand lines over; a thread of its own writes them. Invariant: no worker ever waits for a reader of the log.
//! What it does not take in time is left out, and how much that was stands in the next line.

use std::{
    io::{self, Write},
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use serde::Serialize;
use tokio::{sync::oneshot, time::Instant};

use super::{Connection, Destination, Direction, RequestFlow, metrics::Protocol};

/// Lines that may wait to be written.
const WAITING: usize = 4096;
/// How often it is looked whether there is room for one more, when everything is to be written.
const ROOM: Duration = Duration::from_millis(1);

/// Where lines go.
#[derive(Debug)]
pub struct AccessLog {
    lines: SyncSender<Entry>,
    left_out: AtomicU64,
}

/// What the writing thread is given.
#[derive(Debug)]
enum Entry {
    Line(String),
    /// Answered when everything before it was written.
    Mark(oneshot::Sender<()>),
}

/// One line.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Line<'a> {
    time: String,
    /// At the source, at the destination, or, on one node, for both.
    direction: &'static str,
    connection: u64,
    client: String,
    client_workload: Option<String>,
    service: Option<String>,
    workload: Option<String>,
    upstream: Option<String>,
    peer: Option<&'a str>,
    protocol: &'static str,
    method: &'a str,
    host: &'a str,
    path: &'a str,
    status: u16,
    grpc_status: Option<u8>,
    flags: &'static str,
    cause: Option<&'a str>,
    policy: Option<String>,
    request_bytes: u64,
    response_bytes: u64,
    duration_us: u64,
    /// Lines that were left out before this one.
    #[serde(skip_serializing_if = "is_zero")]
    left_out: u64,
}

impl AccessLog {
    /// Begins to write to standard output.
    pub fn start() -> io::Result<Self> {
        Self::to(io::stdout())
    }

    fn to(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (lines, inbox) = sync_channel(WAITING);
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || write(&inbox, out))?;
        Ok(Self {
            lines,
            left_out: AtomicU64::new(0),
        })
    }

    /// Writes of a request on `connection`.
    pub fn tell(&self, connection: &Connection, protocol: Protocol, request: &RequestFlow) {
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        let line = Line::of(connection, protocol, request, left_out);
        let Ok(mut line) = serde_json::to_string(&line) else {
            return;
        };
        line.push('\n');
        if let Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) =
            self.lines.try_send(Entry::Line(line))
        {
            self.left_out.fetch_add(left_out + 1, Ordering::Relaxed);
        }
    }

    /// Waits until everything that was told so far is written, but no longer than `patience`: whoever reads may never go on.
    /// For the end of the agent.
    pub async fn flush(&self, patience: Duration) -> Flushed {
        let deadline = Instant::now() + patience;
        let (mark, written) = oneshot::channel();
        let mut entry = Entry::Mark(mark);
        loop {
            match self.lines.try_send(entry) {
                Ok(()) => break,
                Err(TrySendError::Disconnected(_)) => return Flushed::Partly,
                Err(TrySendError::Full(back)) if Instant::now() < deadline => {
                    entry = back;
                    tokio::time::sleep(ROOM).await;
                }
                Err(TrySendError::Full(_)) => return Flushed::Partly,
            }
        }
        match tokio::time::timeout_at(deadline, written).await {
            Ok(Ok(())) => Flushed::All,
            Ok(Err(_)) | Err(_) => Flushed::Partly,
        }
    }
}

/// How much of the log was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flushed {
    /// All of it.
    All,
    /// Its reader does not take the rest.
    Partly,
}

impl<'a> Line<'a> {
    fn of(connection: &Connection, protocol: Protocol, request: &'a RequestFlow, left_out: u64) -> Self {
        let (service, workload) = match &request.destination {
            Destination::Service { service, endpoint } => {
                (Some(service), endpoint.as_ref().map(|(workload, _)| workload))
            }
            Destination::Workload(workload) => (None, Some(workload)),
            Destination::Passthrough => (None, None),
        };
        let spent = &request.spent;
        Self {
            time: humantime::format_rfc3339_micros(SystemTime::now()).to_string(),
            direction: match request.direction {
                Direction::Outbound => "outbound",
                Direction::Inbound => "inbound",
                Direction::Local => "local",
            },
            connection: connection.id,
            client: connection.client.to_string(),
            client_workload: connection.client_workload.as_ref().map(ToString::to_string),
            service: service.map(ToString::to_string),
            workload: workload.map(ToString::to_string),
            upstream: request.upstream.map(|upstream| upstream.to_string()),
            peer: request.peer.as_ref().map(|peer| peer.as_str()),
            protocol: match protocol {
                Protocol::Grpc => "grpc",
                Protocol::Http | Protocol::Tcp => "http",
            },
            method: &request.method,
            host: &request.host,
            path: &request.path,
            status: request.outcome.code,
            grpc_status: request.outcome.grpc,
            flags: request.outcome.flags,
            cause: (!request.word.is_empty()).then_some(request.word),
            policy: request.policy.as_ref().map(ToString::to_string),
            request_bytes: spent.request_bytes,
            response_bytes: spent.response_bytes,
            duration_us: u64::try_from(spent.duration.as_micros()).unwrap_or(u64::MAX),
            left_out,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde asks so")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Writes what comes until nobody can send any more, and in as few pieces as come at once.
fn write(entries: &Receiver<Entry>, mut out: impl Write) {
    let mut batch = String::new();
    while let Ok(entry) = entries.recv() {
        let (mut next, mut mark) = (Some(entry), None);
        while let Some(entry) = next {
            match entry {
                Entry::Line(line) => batch.push_str(&line),
                Entry::Mark(one) => mark = Some(one),
            }
            let goes_on = mark.is_none() && batch.len() < 64 << 10;
            next = goes_on.then(|| entries.try_recv().ok()).flatten();
        }
        // Whoever reads may have gone; requests go on.
        let _ = out.write_all(batch.as_bytes()).and_then(|()| out.flush());
        batch.clear();
        if let Some(mark) = mark {
            // Who waited for it may have gone on.
            let _ = mark.send(());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex, mpsc::channel};

    use mesh_common::model::{ObjectKey, Workload};

    use super::*;
    use crate::{
        samples,
        telemetry::{
            Budgets, ConnectionState, Limits, Opening, Registry,
            metrics::{Outcome, Spent},
        },
    };

    fn opening() -> Opening {
        Opening {
            direction: Direction::Outbound,
            workload: Arc::new(Workload {
                service_account: "web".to_owned(),
                ..samples::workload("shop", "web-1")
            }),
            client: "10.0.0.7:50000".parse().unwrap(),
            client_workload: Some(ObjectKey::new("shop", "web-1")),
            original_destination: "10.96.0.10:80".parse().unwrap(),
            destination: Destination::Passthrough,
            process: None,
            peer: None,
            ruling: None,
            state: ConnectionState::Open,
        }
    }

    fn flow() -> RequestFlow {
        RequestFlow {
            direction: Direction::Outbound,
            destination: Destination::Service {
                service: ObjectKey::new("shop", "cart"),
                endpoint: Some((ObjectKey::new("shop", "cart-1"), "10.0.1.7:8080".parse().unwrap())),
            },
            upstream: Some("10.0.1.7:8080".parse().unwrap()),
            peer: None,
            method: "GET".to_owned(),
            path: "/a".to_owned(),
            host: "cart".to_owned(),
            word: "",
            policy: None,
            outcome: Outcome {
                code: 200,
                grpc: None,
                flags: "-",
            },
            spent: Spent {
                duration: Duration::from_micros(1500),
                request_bytes: 3,
                response_bytes: 5,
            },
        }
    }

    /// Keeps what is written; each writing waits for a word.
    struct Slow {
        written: Arc<Mutex<Vec<u8>>>,
        go_on: std::sync::mpsc::Receiver<()>,
    }

    impl Write for Slow {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            // Without anybody to give the word it goes on.
            let _ = self.go_on.recv();
            self.written.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[tokio::test]
    async fn everything_that_was_told_is_written_before_the_end() {
        let (word, go_on) = channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let log = AccessLog::to(Slow {
            written: Arc::clone(&written),
            go_on,
        })
        .unwrap();
        let entry = Registry::new(0, Budgets::new(crate::telemetry::Limits::default())).open(opening());
        for _ in 0..1000 {
            log.tell(entry.connection(), Protocol::Http, &flow());
        }
        assert_eq!(
            log.flush(Duration::from_millis(10)).await,
            Flushed::Partly,
            "nobody reads"
        );
        drop(word);
        assert_eq!(log.flush(Duration::from_secs(20)).await, Flushed::All);
        let lines = written
            .lock()
            .unwrap()
            .iter()
            .filter(|&&byte| byte == b'\n')
            .count();
        assert_eq!(lines, 1000);
    }

    #[test]
    fn a_reader_that_is_slow_misses_lines_and_is_told_so() {
        let (word, go_on) = channel();
        let written = Arc::<Mutex<Vec<u8>>>::default();
        let log = AccessLog::to(Slow {
            written: Arc::clone(&written),
            go_on,
        })
        .unwrap();
        let entry = Registry::new(0, Budgets::new(Limits::default())).open(opening());
        // One batch is being written, as many lines wait, and there is room for no more.
        let told = 2 * WAITING as u64 + 1000;
        for _ in 0..told {
            log.tell(entry.connection(), Protocol::Http, &flow());
        }
        drop(word);
        let lines = || -> Vec<serde_json::Value> {
            let written = written.lock().unwrap().clone();
            let text = String::from_utf8(written).unwrap();
            text.lines()
                .map(|line| serde_json::from_str(line).unwrap())
                .collect()
        };
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        // Until there is room again; this one says what is missing.
        loop {
            let before = log.left_out.load(Ordering::Relaxed);
            log.tell(entry.connection(), Protocol::Http, &flow());
            if before > 0 && log.left_out.load(Ordering::Relaxed) == 0 {
                break;
            }
            assert!(std::time::Instant::now() < deadline, "it never goes on");
        }
        let complete = || {
            let lines = lines();
            let missed = lines
                .iter()
                .filter_map(|line| line["leftOut"].as_u64())
                .sum::<u64>();
            (missed > 0 && missed + lines.len() as u64 > told).then_some(lines)
        };
        let lines = loop {
            if let Some(lines) = complete() {
                break lines;
            }
            assert!(std::time::Instant::now() < deadline, "lines are missing");
            thread::yield_now();
        };
        let first = &lines[0];
        assert_eq!(first["direction"], "outbound");
        assert_eq!(first["clientWorkload"], "shop/web-1");
        assert_eq!(first["service"], "shop/cart");
        assert_eq!(first["workload"], "shop/cart-1");
        assert_eq!(first["status"], 200);
        assert_eq!(first["durationUs"], 1500);
        assert_eq!(first["cause"], serde_json::Value::Null);
        assert!(first.get("leftOut").is_none(), "{first}");
    }
}
