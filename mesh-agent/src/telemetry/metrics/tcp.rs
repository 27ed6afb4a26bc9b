//! TCP connections: how many, and how much they carried.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::{
    encoding::{EncodeLabelSet, LabelSetEncoder},
    registry::Registry,
};

use super::{
    Metrics,
    labels::{Traffic, tell},
    series::{Labels, Series},
    view::Counters,
};

/// Series at most; each is four lines.
const LIMIT: usize = 4096;

/// How a connection ended, in the words of other meshes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Flags {
    /// Open, or ended by one of its ends.
    None,
    /// Not, or no more, permitted: a policy, or an identity that does not hold any more.
    Unauthorized,
}

/// A connection's own way to its series: resolved when it opens.
#[derive(Debug)]
pub struct TcpMeter {
    metrics: Arc<Metrics>,
    /// One for each side that this agent stands on.
    labels: Vec<Traffic>,
    cells: Vec<Arc<TcpCell>>,
}

/// The numbers of one series.
#[derive(Debug, Default)]
pub(super) struct TcpCell {
    opened: AtomicU64,
    closed: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// What names a series.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct TcpLabels {
    traffic: Traffic,
    flags: Flags,
}

pub(super) type TcpSeries = Series<TcpLabels, TcpCell>;

/// The series, told in `registry`.
pub(super) fn register(registry: &mut Registry) -> Arc<TcpSeries> {
    let series = Arc::new(TcpSeries::new(LIMIT));
    let mut counter = |name: &str, help: &str, counter: fn(&TcpCell) -> &AtomicU64| {
        registry.register(name, help, Counters::new(&series, counter));
    };
    counter(
        "istio_tcp_connections_opened",
        "Connections joined to their destination",
        |cell| &cell.opened,
    );
    counter(
        "istio_tcp_connections_closed",
        "Of these, connections that have ended",
        |cell| &cell.closed,
    );
    counter(
        "istio_tcp_sent_bytes",
        "Bytes from destinations to those who dialled them",
        |cell| &cell.sent,
    );
    counter(
        "istio_tcp_received_bytes",
        "Bytes from those who dialled to their destinations",
        |cell| &cell.received,
    );
    series
}

impl Metrics {
    /// The meter of connections with these labels: one of [`Traffic`] for each side that this agent stands on.
    pub fn tcp(self: &Arc<Self>, labels: Vec<Traffic>) -> TcpMeter {
        let cell = |traffic: &Traffic| {
            self.tcp.cell(&TcpLabels {
                traffic: traffic.clone(),
                flags: Flags::None,
            })
        };
        TcpMeter {
            metrics: Arc::clone(self),
            cells: labels.iter().map(cell).collect(),
            labels,
        }
    }
}

impl TcpMeter {
    pub(in crate::telemetry) fn opened(&self) {
        self.add(|cell| &cell.opened, 1);
    }

    pub(in crate::telemetry) fn closed(&self, flags: Flags) {
        if flags == Flags::None {
            return self.add(|cell| &cell.closed, 1);
        }
        for traffic in &self.labels {
            let labels = TcpLabels {
                traffic: traffic.clone(),
                flags,
            };
            self.metrics
                .tcp
                .cell(&labels)
                .closed
                .fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Bytes from the destination.
    pub(in crate::telemetry) fn sent(&self, bytes: u64) {
        self.add(|cell| &cell.sent, bytes);
    }

    /// Bytes to the destination.
    pub(in crate::telemetry) fn received(&self, bytes: u64) {
        self.add(|cell| &cell.received, bytes);
    }

    fn add(&self, counter: fn(&TcpCell) -> &AtomicU64, count: u64) {
        for cell in &self.cells {
            counter(cell).fetch_add(count, Ordering::Relaxed);
        }
    }
}

impl Flags {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::None => "-",
            Self::Unauthorized => "UAEX",
        }
    }
}

impl Labels for TcpLabels {
    fn overflow() -> Self {
        Self {
            traffic: Traffic::overflow(),
            flags: Flags::None,
        }
    }
}

impl EncodeLabelSet for TcpLabels {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        self.traffic.encode(encoder)?;
        tell(encoder, "response_flags", self.flags.word())
    }
}
