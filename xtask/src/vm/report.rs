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
    took: Duration,
}

enum Run {
    Ran(Outcome),
    /// Why there was no kernel to boot.
    NoKernel(String),
}

impl Row {
    pub(crate) fn new(series: &'static str, release: &str, outcome: Outcome, took: Duration) -> Self {
        Self {
            series,
            release: release.to_owned(),
            run: Run::Ran(outcome),
            took,
        }
    }

    pub(crate) fn without_kernel(series: &'static str, error: &anyhow::Error) -> Self {
        Self {
            series,
            release: "none".to_owned(),
            run: Run::NoKernel(format!("{error:#}")),
            took: Duration::ZERO,
        }
    }

    pub(crate) fn is_good(&self) -> bool {
        matches!(&self.run, Run::Ran(outcome) if outcome.is_good())
    }

    pub(crate) fn tests(&self) -> &[Test] {
        match &self.run {
            Run::Ran(outcome) => &outcome.tests,
            Run::NoKernel(_) => &[],
        }
    }

    pub(crate) fn passed(&self) -> usize {
        let passed = |test: &&Test| test.result == TestResult::Passed;
        self.tests().iter().filter(passed).count()
    }

    /// What is wrong, a line each.
    pub(crate) fn complaints(&self) -> Vec<String> {
        match &self.run {
            Run::NoKernel(error) => vec![error.clone()],
            Run::Ran(outcome) => {
                let failures = outcome
                    .tests
                    .iter()
                    .filter(|test| test.result != TestResult::Passed)
                    .map(|test| format!("{} {}", test.result.word(), test.name));
                [outcome.word().to_owned()].into_iter().chain(failures).collect()
            }
        }
    }

    fn word(&self) -> &'static str {
        match &self.run {
            Run::Ran(outcome) => outcome.word(),
            Run::NoKernel(_) => "NO KERNEL",
        }
    }

    fn accelerator(&self) -> &'static str {
        match &self.run {
            Run::Ran(outcome) => outcome.accelerator.name(),
            Run::NoKernel(_) => "none",
        }
    }

    fn faults(&self) -> &[String] {
        match &self.run {
            Run::Ran(outcome) => &outcome.faults,
            Run::NoKernel(_) => &[],
        }
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
            row.tests().len() - row.passed(),
            row.took.as_secs_f64()
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
        let tests = row.tests().iter().map(|test| {
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
            "seconds": row.took.as_secs_f64().round(),
            "kernelFaults": row.faults(),
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
        let failures = row.tests().len() - row.passed() + usize::from(!row.is_good());
        text += &format!(
            "  <testsuite name=\"Linux {}\" tests=\"{}\" failures=\"{failures}\" time=\"{:.1}\">\n",
            escaped(&row.release),
            row.tests().len() + 1,
            row.took.as_secs_f64()
        );
        let whole = (!row.is_good()).then(|| row.complaints().join("\n"));
        text += &case(row.series, "the whole machine", row.took, whole.as_deref());
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
        let good = outcome(End::Good, vec![test("a", TestResult::Passed)]);
        let bad = outcome(
            End::Failed,
            vec![
                test("a", TestResult::Passed),
                test("b", TestResult::Failed),
                test("c", TestResult::NotRun),
            ],
        );
        vec![
            Row::new("6.1", "6.1.0-1", good, Duration::from_secs(9)),
            Row::new("6.12", "6.12.1", bad, Duration::from_secs(9)),
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
