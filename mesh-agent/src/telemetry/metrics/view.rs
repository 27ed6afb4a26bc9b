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

use super::{
    histogram::Histogram,
    series::{Labels, Series},
};

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

/// One histogram of each cell.
pub(super) struct Histograms<L, M> {
    series: Arc<Series<L, M>>,
    histogram: fn(&M) -> &Histogram,
}

impl<L, M> Histograms<L, M> {
    pub(super) fn new(series: &Arc<Series<L, M>>, histogram: fn(&M) -> &Histogram) -> Self {
        Self {
            series: Arc::clone(series),
            histogram,
        }
    }
}

impl<L, M> EncodeMetric for Histograms<L, M>
where
    L: Labels + EncodeLabelSet,
    M: Default,
{
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let told = |cell: &M| (self.histogram)(cell).buckets();
        let count = |buckets: &[(f64, u64)]| buckets.iter().map(|(_, count)| count).sum::<u64>();
        for (labels, cell) in self.series.all(|overflow| count(&told(overflow)) > 0) {
            let buckets = told(&cell);
            encoder.encode_family(&labels)?.encode_histogram::<NoLabelSet>(
                (self.histogram)(&cell).sum(),
                count(&buckets),
                &buckets,
                None,
            )?;
        }
        Ok(())
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Histogram
    }
}

impl<L, M> fmt::Debug for Histograms<L, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Histograms")
    }
}
