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
    /// What could not be measured, and why.
    pub(super) failures: Vec<(&'static Scenario, String)>,
}

/// What one scenario gave.
pub(super) struct Results {
    pub(super) scenario: &'static Scenario,
    pub(super) series: BTreeMap<Setup, Series>,
}

impl Report {
    pub(super) fn json(&self) -> Value {
        let scenarios: Vec<Value> = self.results.iter().map(Results::json).collect();
        let failures = self.failures.iter();
        let failures: Vec<Value> = failures
            .map(|(scenario, error)| json!({ "name": scenario.name, "error": error }))
            .collect();
        json!({
            "machine": self.machine.json(),
            "rounds": self.rounds,
            "seconds": self.seconds,
            "scenarios": scenarios,
            "failed": failures,
        })
    }
}

impl Results {
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
        json!({ "name": self.scenario.name, "about": self.scenario.about, "figures": figures })
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
        writeln!(f, "\n{}: {}", self.scenario.name, self.scenario.about)?;
        write!(f, "  {:<42}", "")?;
        for setup in self.series.keys() {
            write!(f, " {:>30}", setup.name())?;
        }
        writeln!(f)?;
        for figure in self.figures() {
            write!(f, "  {:<42}", format!("{figure}, {}", figure.unit))?;
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
