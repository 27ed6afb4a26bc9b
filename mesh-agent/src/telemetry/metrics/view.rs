//! How cells of a [`Series`] are told: one metric for each number in them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use prometheus_client::{
    encoding::{EncodeLabelSet, EncodeMetric, MetricEncoder, NoLabelSet},
    metrics::MetricType,
};

use super::series::{Labels, Series};

/// One counter of each cell.
pub(super) struct Counters<L, M> {
    series: Arc<Series<L, M>>,
    counter: fn(&M) -> &AtomicU64,
}

impl<L, M> Counters<L, M> {
    pub(super) fn new(series: &Arc<Series<L, M>>, counter: fn(&M) -> &AtomicU64) -> Self {
        Self {
            series: Arc::clone(series),
            counter,
        }
    }
}

impl<L, M> EncodeMetric for Counters<L, M>
where
    L: Labels + EncodeLabelSet,
    M: Default,
{
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let count = |cell: &M| (self.counter)(cell).load(Ordering::Relaxed);
        for (labels, cell) in self.series.all(|overflow| count(overflow) > 0) {
            encoder
                .encode_family(&labels)?
                .encode_counter::<NoLabelSet, u64, f64>(&count(&cell), None)?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Counter
    }
}

impl<L, M> fmt::Debug for Counters<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Counters")
    }
}
