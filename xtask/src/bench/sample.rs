//! What one round of a scenario gave, and what several of them say together.

use std::fmt;

use super::stage::Setup;

/// One figure's name and unit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    /// How much there was of what varies within the scenario.
    pub(super) at: Option<Step>,
    pub(super) unit: &'static str,
}

/// How much there is of something that varies within a round.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Connections(u32),
    /// Of the rate that every setup can answer, in percent.
    Load(u32),
    Routes(u32),
    Policies(u32),
}

/// What was measured in one round.
#[derive(Default)]
pub(super) struct Sample {
    figures: Vec<(Figure, f64)>,
    /// What the CPU time of what stands between is divided by: how much work, and its unit.
    work: Option<(f64, &'static str)>,
    /// Requests a second that a closed loop reached, where the next rounds are to know.
    reached: Option<f64>,
}

/// The rounds of one scenario at one setup.
#[derive(Default)]
pub(super) struct Series(Vec<Sample>);

/// What the rounds say of one figure.
pub(super) struct Summary {
    pub(super) median: f64,
    pub(super) least: f64,
    pub(super) most: f64,
}

/// A range wider than this share of its median says little.
pub(super) const NOISY: f64 = 0.3;

impl Step {
    /// How much.
    pub(super) fn count(self) -> u32 {
        match self {
            Self::Connections(count) | Self::Load(count) | Self::Routes(count) | Self::Policies(count) => {
                count
            }
        }
    }

    /// Of what.
    pub(super) fn what(self) -> &'static str {
        match self {
            Self::Connections(1) => "connection",
            Self::Connections(_) => "connections",
            Self::Load(_) => "% load",
            Self::Routes(1) => "route",
            Self::Routes(_) => "routes",
            Self::Policies(1) => "policy",
            Self::Policies(_) => "policies",
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.count(), self.what())
    }
}

impl Summary {
    /// Whether the rounds differ too much to be compared with others.
    pub(super) fn is_noisy(&self) -> bool {
        self.most - self.least > NOISY * self.median.abs()
    }
}

impl Figure {
    const fn new(name: &'static str, unit: &'static str) -> Self {
        Self { name, at: None, unit }
    }
}

/// Its name, without the unit.
impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name)?;
        match self.at {
            Some(step) => write!(f, ", {step}"),
            None => Ok(()),
        }
    }
}

impl Sample {
    /// Adds a figure.
    #[must_use]
    pub(super) fn with(self, name: &'static str, unit: &'static str, value: f64) -> Self {
        self.add(Figure::new(name, unit), value)
    }

    /// Adds a figure that was measured over so many connections.
    #[must_use]
    pub(super) fn with_over(
        self,
        connections: u16,
        name: &'static str,
        unit: &'static str,
        value: f64,
    ) -> Self {
        self.with_at(Step::Connections(connections.into()), name, unit, value)
    }

    /// Adds a figure that was measured at one of several steps.
    #[must_use]
    pub(super) fn with_at(self, step: Step, name: &'static str, unit: &'static str, value: f64) -> Self {
        let figure = Figure {
            at: Some(step),
            ..Figure::new(name, unit)
        };
        self.add(figure, value)
    }

    /// Says how many requests a second a closed loop reached; the warm-up's smallest is told to all rounds.
    #[must_use]
    pub(super) fn reaching(mut self, rate: f64) -> Self {
        self.reached = Some(rate);
        self
    }

    /// What [`Sample::reaching`] said.
    pub(super) fn reached(&self) -> Option<f64> {
        self.reached
    }

    fn add(mut self, figure: Figure, value: f64) -> Self {
        self.figures.push((figure, value));
        self
    }

    /// Says how much was done in this round, in `unit`, such as "CPU s per GiB".
    #[must_use]
    pub(super) fn work(mut self, amount: f64, unit: &'static str) -> Self {
        self.work = Some((amount, unit));
        self
    }

    /// Divides the CPU time that the round took by its work, where something stood between.
    pub(super) fn charge(&mut self, seconds: f64, setup: Setup) {
        if let (Some((amount, unit)), true) = (self.work, setup.stands_between()) {
            self.figures.push((Figure::new("CPU", unit), seconds / amount));
        }
    }
}

impl Series {
    pub(super) fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// The figures, in the order they were first given.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let mut figures: Vec<Figure> = Vec::new();
        for (figure, _) in self.0.iter().flat_map(|sample| &sample.figures) {
            if !figures.contains(figure) {
                figures.push(*figure);
            }
        }
        figures
    }

    /// The values of a figure, round by round.
    pub(super) fn values(&self, wanted: Figure) -> Vec<f64> {
        self.0
            .iter()
            .flat_map(|sample| &sample.figures)
            .filter(|(figure, _)| *figure == wanted)
            .map(|(_, value)| *value)
            .collect()
    }

    /// What the rounds say of a figure; none if it was never given.
    pub(super) fn summary(&self, figure: Figure) -> Option<Summary> {
        let mut values = self.values(figure);
        values.sort_by(f64::total_cmp);
        Some(Summary {
            median: median(&values)?,
            least: *values.first()?,
            most: *values.last()?,
        })
    }
}

/// Of sorted values.
fn median(sorted: &[f64]) -> Option<f64> {
    let upper = sorted.get(sorted.len() / 2)?;
    match sorted.len() % 2 {
        0 => Some(f64::midpoint(*sorted.get(sorted.len() / 2 - 1)?, *upper)),
        _ => Some(*upper),
    }
}

impl fmt::Display for Sample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (figure, value)) in self.figures.iter().enumerate() {
            let comma = if index > 0 { ", " } else { "" };
            write!(f, "{comma}{figure} {} {}", short(*value), figure.unit)?;
        }
        Ok(())
    }
}

/// A number with three or four digits that matter.
pub(super) fn short(value: f64) -> String {
    match value.abs() {
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        size if size >= 1.0 => format!("{value:.2}"),
        _ => format!("{value:.3}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_gives_the_median_and_the_range() {
        let mut series = Series::default();
        for value in [3.0, 1.0, 2.0, 10.0] {
            series.push(Sample::default().with("time", "s", value));
        }
        let figure = series.figures()[0];
        let summary = series.summary(figure).unwrap();
        assert_eq!((summary.median, summary.least, summary.most), (2.5, 1.0, 10.0));
        assert_eq!(series.values(figure), [3.0, 1.0, 2.0, 10.0]);
    }

    #[test]
    fn a_wide_range_is_noisy() {
        let noisy = |values: [f64; 3]| {
            let mut series = Series::default();
            for value in values {
                series.push(Sample::default().with_at(Step::Load(50), "time", "s", value));
            }
            let figure = series.figures()[0];
            assert_eq!(figure.to_string(), "time, 50 % load");
            series.summary(figure).unwrap().is_noisy()
        };
        assert!(!noisy([1.0, 1.1, 1.29]));
        assert!(noisy([1.0, 1.1, 1.5]));
        assert!(!noisy([0.0, 0.0, 0.0]));
    }

    #[test]
    fn cpu_is_charged_only_where_something_stands_between() {
        let mut direct = Sample::default().work(2.0, "s per GiB");
        direct.charge(1.0, Setup::Direct);
        assert_eq!(direct.to_string(), "");
        let mut mtls = Sample::default().work(2.0, "s per GiB");
        mtls.charge(1.0, Setup::Mtls);
        assert_eq!(mtls.to_string(), "CPU 0.500 s per GiB");
    }
}
