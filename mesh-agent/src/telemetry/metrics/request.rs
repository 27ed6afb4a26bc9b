//! Requests: how many, how long, how large, by how they ended.
//!
//! Whoever serves requests asks [`Metrics::requests`] once for each connection and destination, and tells the
//! [`RequestMeter`] of each request when it is over. Invariant: telling costs no look-up by labels, but for the first
//! request that ends in some way.

use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    registry::Registry,
};

use super::{
    Metrics,
    histogram::Histogram,
    labels::{Traffic, tell},
    series::{Labels, OVERFLOW, Series},
    view::{Counters, Histograms},
};

/// Series at most; each is some forty lines.
const LIMIT: usize = 1024;
/// Ways to end that a meter remembers; others are looked up each time.
const REMEMBERED: usize = 16;
/// In milliseconds.
const DURATIONS: &[f64] = &[
    0.5, 1.0, 5.0, 10.0, 25.0, 50.0, 100.0, 250.0, 500.0, 1000.0, 2500.0, 5000.0, 10_000.0, 30_000.0,
    60_000.0,
];
/// In bytes.
const SIZES: &[f64] = &[100.0, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8];

/// How a request ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Outcome {
    /// The status of the response; 0 when there was none.
    pub code: u16,
    /// The status of a gRPC call, where it had one.
    pub grpc: Option<u8>,
    /// What was special, in the words of other meshes: `-` for nothing, `DC` when the client went away; those of what the
    /// mesh answers itself are where those answers are made. Not more than a few words in all.
    pub flags: &'static str,
}

/// What a request took.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Spent {
    /// From its first byte to the last of the response.
    pub duration: Duration,
    /// Bytes of its body.
    pub request_bytes: u64,
    /// Bytes of the response's body.
    pub response_bytes: u64,
}

/// The way of one connection's requests to one destination to their series.
#[derive(Debug)]
pub struct RequestMeter {
    metrics: Arc<Metrics>,
    labels: Vec<Traffic>,
    known: Mutex<Vec<(Outcome, Cells)>>,
}

/// One for each side that this agent stands on.
type Cells = Arc<[Arc<RequestCell>]>;

/// The numbers of one series.
#[derive(Debug)]
pub(super) struct RequestCell {
    count: AtomicU64,
    duration: Histogram,
    request_bytes: Histogram,
    response_bytes: Histogram,
}

/// What names a series; no outcome stands for the overflow.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RequestLabels {
    traffic: Traffic,
    outcome: Option<Outcome>,
}

pub(super) type RequestSeries = Series<RequestLabels, RequestCell>;

/// The series, told in `registry`.
pub(super) fn register(registry: &mut Registry) -> Arc<RequestSeries> {
    let series = Arc::new(RequestSeries::new(LIMIT));
    registry.register(
        "istio_requests",
        "Requests that are over",
        Counters::new(&series, |cell: &RequestCell| &cell.count),
    );
    let mut histogram = |name: &str, help: &str, histogram: fn(&RequestCell) -> &Histogram| {
        registry.register(name, help, Histograms::new(&series, histogram));
    };
    histogram(
        "istio_request_duration_milliseconds",
        "From the first byte of a request to the last of its response",
        |cell| &cell.duration,
    );
    histogram("istio_request_bytes", "Bytes of request bodies", |cell| {
        &cell.request_bytes
    });
    histogram("istio_response_bytes", "Bytes of response bodies", |cell| {
        &cell.response_bytes
    });
    series
}

impl Metrics {
    /// The meter of requests with these labels: one of [`Traffic`] for each side that this agent stands on.
    pub fn requests(self: &Arc<Self>, labels: Vec<Traffic>) -> RequestMeter {
        RequestMeter {
            metrics: Arc::clone(self),
            labels,
            known: Mutex::default(),
        }
    }
}

impl RequestMeter {
    /// Counts a request that is over.
    pub fn observe(&self, outcome: Outcome, spent: &Spent) {
        let milliseconds = spent.duration.as_secs_f64() * 1000.0;
        for cell in &*self.cells(outcome) {
            cell.count.fetch_add(1, Ordering::Relaxed);
            cell.duration.observe(milliseconds);
            cell.request_bytes.observe(spent.request_bytes as f64);
            cell.response_bytes.observe(spent.response_bytes as f64);
        }
    }

    fn cells(&self, outcome: Outcome) -> Cells {
        // One connection's requests are served by one thread: nobody waits here.
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, cells)) = known.iter().find(|(known, _)| *known == outcome) {
            return Arc::clone(cells);
        }
        let cell = |traffic: &Traffic| {
            self.metrics.requests.cell(&RequestLabels {
                traffic: traffic.clone(),
                outcome: Some(outcome),
            })
        };
        let cells: Cells = self.labels.iter().map(cell).collect();
        if known.len() < REMEMBERED {
            known.push((outcome, Arc::clone(&cells)));
        }
        cells
    }
}

impl Default for RequestCell {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            duration: Histogram::new(DURATIONS),
            request_bytes: Histogram::new(SIZES),
            response_bytes: Histogram::new(SIZES),
        }
    }
}

impl Labels for RequestLabels {
    fn overflow() -> Self {
        Self {
            traffic: Traffic::overflow(),
            outcome: None,
        }
    }
}

impl EncodeLabelSet for RequestLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.traffic.encode(encoder)?;
        let Some(Outcome { code, grpc, flags }) = self.outcome else {
            tell(encoder, "response_code", OVERFLOW)?;
            tell(encoder, "grpc_response_status", OVERFLOW)?;
            return tell(encoder, "response_flags", OVERFLOW);
        };
        tell(encoder, "response_code", u32::from(code))?;
        match grpc {
            Some(status) => tell(encoder, "grpc_response_status", u32::from(status))?,
            None => tell(encoder, "grpc_response_status", "")?,
        }
        tell(encoder, "response_flags", flags)
    }
}
