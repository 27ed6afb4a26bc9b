//! What the machines' runs come to: a table to read, JSON and JUnit's XML for programs.
//!
//! Invariant: a test that was asked for is in every report, also if no machine came to it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::machine::Outcome;
use super::transcript::{Test, TestResult};

/// What became of one kernel.
pub(crate) struct Row {
    pub(crate) series: &'static str,
    release: String,
    run: Run,
}

/// A machine that was run.
pub(crate) struct Ran {
    pub(crate) outcome: Outcome,
    pub(crate) took: Duration,
}

enum Run {
    /// The tests may have been shared out among several.
    Machines(Vec<Ran>),
    /// Why there was no kernel to boot.
    NoKernel(String),
}

impl Row {
    /// A kernel, and no machine of it yet.
    pub(crate) fn new(series: &'static str, release: &str) -> Self {
        Self {
            series,
            release: release.to_owned(),
            run: Run::Machines(Vec::new()),
        }
    }

    /// Adds one of its machines.
    pub(crate) fn add(&mut self, ran: Ran) {
        if let Run::Machines(machines) = &mut self.run {
            machines.push(ran);
        }
    }

    pub(crate) fn without_kernel(series: &'static str, error: &anyhow::Error) -> Self {
        Self {
            series,
            release: "none".to_owned(),
            run: Run::NoKernel(format!("{error:#}")),
        }
    }

    pub(crate) fn is_good(&self) -> bool {
        !self.machines().is_empty() && self.machines().iter().all(|ran| ran.outcome.is_good())
    }

    pub(crate) fn tests(&self) -> impl Iterator<Item = &Test> {
        self.machines().iter().flat_map(|ran| &ran.outcome.tests)
    }

    pub(crate) fn passed(&self) -> usize {
        self.tests()
            .filter(|test| test.result == TestResult::Passed)
            .count()
    }

    pub(crate) fn not_passed(&self) -> usize {
        self.tests().count() - self.passed()
    }

    fn machines(&self) -> &[Ran] {
        match &self.run {
            Run::Machines(machines) => machines,
            Run::NoKernel(_) => &[],
        }
    }

    /// How long the slowest of its machines took.
    fn took(&self) -> Duration {
        self.machines()
            .iter()
            .map(|ran| ran.took)
            .max()
            .unwrap_or_default()
    }

    /// What is wrong, a line each.
    pub(crate) fn complaints(&self) -> Vec<String> {
        match &self.run {
            Run::NoKernel(error) => vec![error.clone()],
            Run::Machines(_) => {
                let failures = self
                    .tests()
                    .filter(|test| test.result != TestResult::Passed)
                    .map(|test| format!("{} {}", test.result.word(), test.name));
                [self.word().to_owned()].into_iter().chain(failures).collect()
            }
        }
    }

    /// How it went; of several machines, how the first went that is not good.
    fn word(&self) -> &'static str {
        let mut machines = self.machines().iter().map(|ran| &ran.outcome);
        match &self.run {
            Run::NoKernel(_) => "NO KERNEL",
            Run::Machines(all) => machines
                .find(|outcome| !outcome.is_good())
                .or(all.first().map(|ran| &ran.outcome))
                .map_or("NOT RUN", Outcome::word),
        }
    }

    fn accelerator(&self) -> &'static str {
        let first = self.machines().first();
        first.map_or("none", |ran| ran.outcome.accelerator.name())
    }

    fn faults(&self) -> impl Iterator<Item = &String> {
        self.machines().iter().flat_map(|ran| &ran.outcome.faults)
    }
}

/// A line for each kernel, and what kernels said of their own faults.
pub(crate) fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<8}{:<34}{:<6}{:<16}{:>8}{:>12}{:>9}\n",
        "KERNEL", "RELEASE", "BY", "OUTCOME", "PASSED", "NOT PASSED", "SECONDS"
    );
    for row in rows {
        text += &format!(
            "{:<8}{:<34}{:<6}{:<16}{:>8}{:>12}{:>9.0}\n",
            row.series,
            row.release,
            row.accelerator(),
            row.word(),
            row.passed(),
            row.not_passed(),
            row.took().as_secs_f64()
        );
    }
    for row in rows {
        for fault in row.faults() {
            text += &format!("{}: the kernel says: {fault}\n", row.series);
        }
    }
    text
}

/// Writes the report as JSON.
pub(crate) fn write_json(rows: &[Row], file: &Path) -> Result<()> {
    let text = serde_json::to_string_pretty(&json(rows))? + "\n";
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

/// Writes the report as the XML that CI systems read.
pub(crate) fn write_junit(rows: &[Row], file: &Path) -> Result<()> {
    fs::write(file, junit(rows)).with_context(|| format!("cannot write {}", file.display()))
}

fn json(rows: &[Row]) -> serde_json::Value {
    let kernels = rows.iter().map(|row| {
        let tests = row.tests().map(|test| {
            serde_json::json!({
                "name": test.name,
                "result": test.result.word(),
                "seconds": (test.took.as_secs_f64() * 10.0).round() / 10.0,
            })
        });
        serde_json::json!({
            "kernel": row.series,
            "release": row.release,
            "accelerator": row.accelerator(),
            "outcome": row.word(),
            "good": row.is_good(),
            "passed": row.passed(),
            "seconds": row.took().as_secs_f64().round(),
            "kernelFaults": row.faults().collect::<Vec<_>>(),
            "complaints": if row.is_good() { Vec::new() } else { row.complaints() },
            "tests": tests.collect::<Vec<_>>(),
        })
    });
    serde_json::json!({ "kernels": kernels.collect::<Vec<_>>() })
}

/// A suite for each kernel. How the machine itself fared is a test as well: one of its own, and all there is on a kernel
/// that the agent must refuse.
fn junit(rows: &[Row]) -> String {
    let mut text = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites>\n".to_owned();
    for row in rows {
        let failures = row.not_passed() + usize::from(!row.is_good());
        text += &format!(
            "  <testsuite name=\"Linux {}\" tests=\"{}\" failures=\"{failures}\" time=\"{:.1}\">\n",
            escaped(&row.release),
            row.tests().count() + 1,
            row.took().as_secs_f64()
        );
        let whole = (!row.is_good()).then(|| row.complaints().join("\n"));
        text += &case(row.series, "the whole machine", row.took(), whole.as_deref());
        for test in row.tests() {
            let failure = (test.result != TestResult::Passed).then(|| test.result.word());
            text += &case(row.series, &test.name, test.took, failure);
        }
        text += "  </testsuite>\n";
    }
    text + "</testsuites>\n"
}

fn case(series: &str, name: &str, took: Duration, failure: Option<&str>) -> String {
    let head = format!(
        "    <testcase classname=\"{series}\" name=\"{}\" time=\"{:.1}\"",
        escaped(name),
        took.as_secs_f64()
    );
    match failure {
        None => head + "/>\n",
        Some(failure) => format!("{head}><failure message=\"{}\"/></testcase>\n", escaped(failure)),
    }
}

fn escaped(text: &str) -> String {
    let text = text
        .replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;");
    text.replace('"', "&quot;").replace('\n', "&#10;")
}

#[cfg(test)]
mod tests {
    use super::super::machine::Accelerator;
    use super::super::transcript::End;
    use super::*;

    fn rows() -> Vec<Row> {
        let test = |name: &str, result| Test {
            name: name.to_owned(),
            result,
            took: Duration::from_secs(3),
        };
        let outcome = |end, tests| Outcome {
            accelerator: Accelerator::Tcg,
            tests,
            end,
            faults: Vec::new(),
        };
        let good = || outcome(End::Good, vec![test("a", TestResult::Passed)]);
        let bad = outcome(
            End::Failed,
            vec![test("b", TestResult::Failed), test("c", TestResult::NotRun)],
        );
        let row = |series, release, outcomes: Vec<Outcome>| {
            let mut row = Row::new(series, release);
            for outcome in outcomes {
                let took = Duration::from_secs(9);
                row.add(Ran { outcome, took });
            }
            row
        };
        vec![
            row("6.1", "6.1.0-1", vec![good()]),
            row("6.12", "6.12.1", vec![good(), bad]),
            Row::without_kernel("7.x", &anyhow::anyhow!("no way to <the mirror>")),
        ]
    }

    #[test]
    fn every_report_tells_good_from_bad() {
        let rows = rows();
        assert_eq!(rows.iter().filter(|row| row.is_good()).count(), 1);
        let table = table(&rows);
        assert!(table.contains("passed") && table.contains("FAILED") && table.contains("NO KERNEL"));
        let json = json(&rows);
        assert_eq!(json["kernels"][1]["tests"][2]["result"], "not run");
        assert_eq!(json["kernels"][0]["good"], true);
        assert_eq!(rows[1].complaints(), ["FAILED", "failed b", "not run c"]);
    }

    #[test]
    fn junit_counts_what_did_not_pass() {
        let xml = junit(&rows());
        assert_eq!(xml.matches("<failure").count(), 4);
        assert!(
            xml.contains("failures=\"3\"") && xml.contains("failures=\"0\""),
            "{xml}"
        );
        assert!(xml.contains("no way to &lt;the mirror&gt;"));
    }
}
