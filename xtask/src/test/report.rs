//! What a test run shows: a heading for each step, and a table of all of them at the end.
//!
//! [`super`] runs its steps through [`Report::step`]. Invariant: a step that did not run is in the table too.

use std::time::{Duration, Instant};

use anyhow::Result;

/// The steps of one run and how they went.
pub(super) struct Report {
    steps: Vec<(&'static str, Outcome)>,
    counts: Counts,
    begun: Instant,
}

/// How many tests passed and failed.
#[derive(Clone, Copy, Default, PartialEq, Eq, Debug)]
pub(super) struct Counts {
    pub(super) passed: u64,
    pub(super) failed: u64,
}

enum Outcome {
    NotRun,
    Passed(Duration, Counts),
    Failed(Duration, Counts),
}

impl Report {
    /// A run of these steps.
    pub(super) fn new(names: Vec<&'static str>) -> Self {
        let steps = names.into_iter().map(|name| (name, Outcome::NotRun)).collect();
        Self {
            steps,
            counts: Counts::default(),
            begun: Instant::now(),
        }
    }

    /// Runs the next step under its heading.
    pub(super) fn step(&mut self, title: &str, run: impl FnOnce(&mut Counts) -> Result<()>) -> Result<()> {
        let all = self.steps.len();
        let Some(at) = self
            .steps
            .iter()
            .position(|(_, outcome)| matches!(outcome, Outcome::NotRun))
        else {
            return Ok(());
        };
        println!("\n== {}/{all} {}: {title}", at + 1, self.steps[at].0);
        let (begun, mut counts) = (Instant::now(), Counts::default());
        let result = run(&mut counts);
        self.counts.passed += counts.passed;
        self.counts.failed += counts.failed;
        let took = begun.elapsed();
        self.steps[at].1 = if result.is_ok() {
            Outcome::Passed(took, counts)
        } else {
            Outcome::Failed(took, counts)
        };
        result
    }

    /// The tests of all steps together.
    pub(super) fn counts(&self) -> Counts {
        self.counts
    }

    /// Prints the table, and the sum of all tests if there were any.
    pub(super) fn print(&self) {
        println!("\n{}", self.table());
        let Counts { passed, failed } = self.counts;
        if passed + failed > 0 {
            println!("\n{passed} passed, {failed} failed");
        }
    }

    fn table(&self) -> String {
        let mut lines = vec![format!(
            "{:<12} {:<8} {:>9}  {}",
            "step", "result", "seconds", "tests"
        )];
        for (name, outcome) in &self.steps {
            let (result, took, counts) = match outcome {
                Outcome::NotRun => ("not run", None, None),
                Outcome::Passed(took, counts) => ("passed", Some(took), Some(counts)),
                Outcome::Failed(took, counts) => ("FAILED", Some(took), Some(counts)),
            };
            let took = took.map_or(String::new(), |took| format!("{:.1}", took.as_secs_f64()));
            let tests = match counts {
                Some(Counts { passed, failed }) if passed + failed > 0 => {
                    format!("{passed} passed, {failed} failed")
                }
                _ => String::new(),
            };
            lines.push(
                format!("{name:<12} {result:<8} {took:>9}  {tests}")
                    .trim_end()
                    .to_owned(),
            );
        }
        lines.push(format!(
            "{:<12} {:<8} {:>9.1}",
            "all",
            "",
            self.begun.elapsed().as_secs_f64()
        ));
        lines.join("\n")
    }
}

impl Counts {
    /// Adds what one closing line of a test runner says; other lines say nothing.
    pub(super) fn add(&mut self, line: &str) {
        let Some(summary) = line.trim_start().strip_prefix("test result: ") else {
            return;
        };
        let number_before = |word: &str| {
            summary
                .split([' ', ';'])
                .collect::<Vec<_>>()
                .windows(2)
                .find_map(|pair| (pair[1] == word).then(|| pair[0].parse::<u64>().ok()).flatten())
        };
        self.passed += number_before("passed").unwrap_or(0);
        self.failed += number_before("failed").unwrap_or(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn closing_lines_are_added_up_and_others_ignored() {
        let mut counts = Counts::default();
        counts.add(
            "test result: ok. 12 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s",
        );
        counts.add("test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out");
        counts.add("running 4 tests");
        counts.add("7 passed");
        assert_eq!(
            counts,
            Counts {
                passed: 15,
                failed: 2
            }
        );
    }

    #[test]
    fn the_table_shows_what_ran_what_failed_and_what_did_not_run() {
        let mut report = Report::new(vec!["fmt", "unit", "integration"]);
        report.step("layout", |_| Ok(())).unwrap();
        let failure = report.step("tests", |counts| {
            counts.add("test result: FAILED. 3 passed; 2 failed");
            anyhow::bail!("tests failed")
        });
        assert!(failure.is_err());
        let table = report.table();
        let line = |name: &str| {
            table
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap()
                .to_owned()
        };
        assert!(line("fmt").contains("passed"));
        assert!(line("unit").contains("FAILED") && line("unit").contains("3 passed, 2 failed"));
        assert!(line("integration").ends_with("not run"));
        assert_eq!(report.counts(), Counts { passed: 3, failed: 2 });
    }
}
