//! How figures are shown: a table for people, JSON for everything else.

use std::collections::BTreeMap;
use std::fmt;

use serde_json::{Map, Value, json};

use super::machine::Machine;
use super::sample::{Figure, Series, short};
use super::scenarios::Scenario;
use super::stage::Setup;

/// A whole run.
pub(super) struct Report {
    pub(super) machine: Machine,
    pub(super) rounds: u8,
    pub(super) seconds: u64,
    pub(super) results: Vec<Results>,
}

/// What one scenario gave.
pub(super) struct Results {
    pub(super) scenario: &'static Scenario,
    pub(super) series: BTreeMap<Setup, Series>,
    /// Setups that could not be measured, and why.
    pub(super) failures: BTreeMap<Setup, String>,
}

impl Report {
    pub(super) fn json(&self) -> Value {
        let scenarios: Vec<Value> = self.results.iter().map(Results::json).collect();
        json!({
            "machine": self.machine.json(),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "scenarios": scenarios,
            "failed": self.failed(),
        })
    }
}

impl Report {
    /// What could not be measured: a scenario and its setup.
    pub(super) fn failed(&self) -> Vec<String> {
        let failed = self.results.iter().flat_map(|results| {
            let setups = results.failures.keys();
            setups.map(|setup| format!("{} with {setup}", results.scenario.name))
        });
        failed.collect()
    }
}

impl Results {
    /// Forgets what a setup gave, and says why.
    pub(super) fn fail(&mut self, setup: Setup, error: &anyhow::Error) {
        eprintln!("  {setup} FAILED: {error:#}");
        self.series.remove(&setup);
        self.failures.insert(setup, format!("{error:#}"));
    }

    /// Every figure that any setup has.
    pub(super) fn figures(&self) -> Vec<Figure> {
        let mut figures: Vec<Figure> = Vec::new();
        for figure in self.series.values().flat_map(Series::figures) {
            if !figures.contains(&figure) {
                figures.push(figure);
            }
        }
        figures
    }

    /// What the others are compared with: plain networking, where that was measured.
    fn base(&self, figure: Figure) -> Option<f64> {
        Some(self.series.get(&Setup::Direct)?.summary(figure)?.median)
    }

    fn json(&self) -> Value {
        let figures: Vec<Value> = self
            .figures()
            .into_iter()
            .map(|figure| self.figure(figure))
            .collect();
        let failures = self.failures.iter();
        let failures: Map<String, Value> = failures
            .map(|(setup, error)| (setup.name().to_owned(), error.as_str().into()))
            .collect();
        json!({
            "name": self.scenario.name,
            "about": self.scenario.about,
            "figures": figures,
            "failed": failures,
        })
    }

    fn figure(&self, figure: Figure) -> Value {
        let mut setups = Map::new();
        for (setup, series) in &self.series {
            if let Some(summary) = series.summary(figure) {
                let against = self.base(figure).map(|base| summary.median / base);
                let value = json!({
                    "median": summary.median,
                    "least": summary.least,
                    "most": summary.most,
                    "against_direct": against,
                    "noisy": summary.is_noisy(),
                    "rounds": series.values(figure),
                });
                setups.insert(setup.name().to_owned(), value);
            }
        }
        let at = figure
            .at
            .map(|step| json!({ "count": step.count(), "of": step.what() }));
        json!({ "name": figure.to_string(), "unit": figure.unit, "at": at, "setups": setups })
    }
}

/// A row for each figure, a column for each setup: median, range, and ratio to plain networking. A `~` stands behind
/// what varies too much.
impl fmt::Display for Results {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.series.is_empty() {
            return Ok(());
        }
        writeln!(f, "\n{}: {}", self.scenario.name, self.scenario.about)?;
        let label = |figure: &Figure| format!("{figure}, {}", figure.unit);
        let figures = self.figures();
        let width = figures.iter().map(|figure| label(figure).chars().count()).max();
        let width = width.unwrap_or(0).max(42);
        write!(f, "  {:<width$}", "")?;
        for setup in self.series.keys() {
            write!(f, " {:>30}", setup.name())?;
        }
        writeln!(f)?;
        for figure in figures {
            write!(f, "  {:<width$}", label(&figure))?;
            for (setup, series) in &self.series {
                let cell = series.summary(figure).map(|summary| {
                    let ratio = match (self.base(figure), setup) {
                        (Some(base), setup) if setup.stands_between() => {
                            format!(" {:.2}x", summary.median / base)
                        }
                        _ => String::new(),
                    };
                    let noisy = if summary.is_noisy() { " ~" } else { "" };
                    format!(
                        "{} ({}-{}){ratio}{noisy}",
                        short(summary.median),
                        short(summary.least),
                        short(summary.most)
                    )
                });
                write!(f, " {:>30}", cell.unwrap_or_else(|| "-".to_owned()))?;
            }
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bench::sample::Sample;
    use crate::bench::scenarios::SCENARIOS;

    #[test]
    fn a_setup_that_failed_has_no_figures_and_is_named() {
        let mut results = Results {
            scenario: &SCENARIOS[0],
            series: BTreeMap::new(),
            failures: BTreeMap::new(),
        };
        for setup in [Setup::Direct, Setup::Mtls] {
            let sample = Sample::default().with("throughput", "MiB/s", 1.0);
            results.series.entry(setup).or_default().push(sample);
        }
        results.fail(Setup::Mtls, &anyhow::anyhow!("bytes were lost"));
        let json = results.json();
        assert_eq!(json["failed"], json!({ "mtls": "bytes were lost" }));
        let setups = json["figures"][0]["setups"].as_object().unwrap();
        assert_eq!(setups.keys().collect::<Vec<_>>(), ["direct"]);
        assert!(!results.to_string().contains("mtls"));
        results.fail(Setup::Direct, &anyhow::anyhow!("no answer"));
        assert_eq!(results.to_string(), "");
    }
}
