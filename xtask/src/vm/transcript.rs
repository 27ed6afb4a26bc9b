//! What a test machine says, line by line, and the verdict on it.
//!
//! Machines run side by side: what is shown begins with the machine's name, and what belongs together is written at once.
//!
//! Its first process says when it is up, when each test begins and how it ended, and at the end with which code its task
//! ended; these lines begin with [`MARK`]. [`super::machine`] hands the lines over. Invariant: a task is good only if each
//! test that was asked for said itself that it passed.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// How the first process's own lines begin.
pub(crate) const MARK: &str = "nodemesh-vm: ";

/// What the agent must say of a kernel that is too old.
const TOO_OLD: &str = "5.18";

/// So many of the last lines of a test that failed, or of a kernel that fell silent, are shown.
pub(crate) const LAST_WORDS: usize = 60;

/// What a machine does.
#[derive(Clone, Debug)]
pub(crate) enum Task {
    /// Runs these integration tests.
    Tests(Vec<String>),
    /// Starts the agent, which must refuse.
    Refusal,
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// As it should.
    Good,
    /// The agent refused, as it should.
    Refused,
    /// Its task failed.
    Failed,
    /// It stopped without a word: the kernel panicked, or did not boot.
    Silent,
    /// It took too long.
    TimedOut,
}

/// One test and how it went.
#[derive(Clone, Debug)]
pub(crate) struct Test {
    pub(crate) name: String,
    pub(crate) result: TestResult,
    pub(crate) took: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TestResult {
    Passed,
    Failed,
    /// It was cut off, by its own time limit or by the machine's end.
    Unfinished,
    NotRun,
}

impl TestResult {
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Passed => "passed",
            Self::Failed => "failed",
            Self::Unfinished => "unfinished",
            Self::NotRun => "not run",
        }
    }
}

/// What a machine said so far, and what of it is shown.
pub(crate) struct Transcript<'a> {
    name: &'a str,
    task: &'a Task,
    tests: Vec<Test>,
    running: Option<Running>,
    says_too_old: bool,
}

/// The test that runs.
struct Running {
    name: String,
    since: Instant,
    last_words: VecDeque<String>,
}

impl Running {
    /// Its last words, below the line that says how it ended.
    fn said(&self) -> String {
        let lines = self.last_words.iter();
        lines.map(|line| format!("\n        {line}")).collect()
    }
}

impl<'a> Transcript<'a> {
    pub(crate) fn new(name: &'a str, task: &'a Task) -> Self {
        Self {
            name,
            task,
            tests: Vec::new(),
            running: None,
            says_too_old: false,
        }
    }

    fn wanted(&self) -> &'a [String] {
        match self.task {
            Task::Tests(names) => names,
            Task::Refusal => &[],
        }
    }

    /// Takes one line; the last one has the code with which the task ended.
    pub(crate) fn take(&mut self, line: &str, now: Instant) -> Option<i32> {
        let Some(said) = line.strip_prefix(MARK) else {
            self.says_too_old |= line.contains("too old") && line.contains(TOO_OLD);
            match &mut self.running {
                Some(running) => {
                    running.last_words.push_back(line.to_owned());
                    if running.last_words.len() > LAST_WORDS {
                        running.last_words.pop_front();
                    }
                }
                None if line.starts_with("error") || line.contains("too old") => self.show(line),
                None => {}
            }
            return None;
        };
        match said.split_once(' ').unwrap_or((said, "")) {
            ("begin", name) => {
                self.running = Some(Running {
                    name: name.to_owned(),
                    since: now,
                    last_words: VecDeque::new(),
                });
            }
            ("done", ended) => self.ended(ended, now),
            ("end", code) => return Some(code.trim().parse().unwrap_or(i32::MAX)),
            _ => self.show(said),
        }
        None
    }

    fn show(&self, text: &str) {
        println!("  {:<7} {text}", self.name);
    }

    fn ended(&mut self, ended: &str, now: Instant) {
        let Some((code, name)) = ended.split_once(' ') else {
            return;
        };
        let Some(running) = self.running.take_if(|running| running.name == name) else {
            return;
        };
        // The test runner says 0 too when it knows no test of that name.
        let ran = running
            .last_words
            .iter()
            .any(|line| line.starts_with("test result: ok. 1 passed"));
        let result = match code {
            "0" if ran => TestResult::Passed,
            // By `timeout`, which ends it in order first.
            "143" | "137" => TestResult::Unfinished,
            _ => TestResult::Failed,
        };
        let took = now.saturating_duration_since(running.since);
        let mut text = format!(
            "{:>3}/{} {:<10} {:>4.0} s  {name}",
            self.tests.len() + 1,
            self.wanted().len(),
            result.word(),
            took.as_secs_f64()
        );
        if result != TestResult::Passed {
            text += &running.said();
        }
        self.show(&text);
        self.tests.push(Test {
            name: name.to_owned(),
            result,
            took,
        });
    }

    /// How a machine whose task ended with this code has ended.
    pub(crate) fn judge(&self, code: i32) -> End {
        let passed = |name: &String| {
            self.tests
                .iter()
                .any(|test| test.name == *name && test.result == TestResult::Passed)
        };
        match self.task {
            Task::Tests(names) if code == 0 && !names.is_empty() && names.iter().all(passed) => End::Good,
            Task::Refusal if code == 1 && self.says_too_old => End::Refused,
            Task::Tests(_) | Task::Refusal => End::Failed,
        }
    }

    /// All tests that were asked for, with those that the machine did not come to.
    pub(crate) fn finish(mut self, now: Instant) -> Vec<Test> {
        if let Some(running) = self.running.take() {
            self.show(&format!("cut off: {}{}", running.name, running.said()));
            self.tests.push(Test {
                name: running.name,
                result: TestResult::Unfinished,
                took: now.saturating_duration_since(running.since),
            });
        }
        for name in self.wanted() {
            if self.tests.iter().all(|test| test.name != *name) {
                self.tests.push(Test {
                    name: name.clone(),
                    result: TestResult::NotRun,
                    took: Duration::ZERO,
                });
            }
        }
        self.tests
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two() -> Task {
        Task::Tests(vec!["captured::a".to_owned(), "captured::b".to_owned()])
    }

    fn end(lines: &[&str], task: &Task) -> Option<End> {
        let mut transcript = Transcript::new("6.1", task);
        let code = lines
            .iter()
            .find_map(|line| transcript.take(line, Instant::now()))?;
        Some(transcript.judge(code))
    }

    const A: [&str; 3] = [
        "nodemesh-vm: begin captured::a",
        "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 204 filtered out; finished in 3.05s",
        "nodemesh-vm: done 0 captured::a",
    ];
    const B: [&str; 3] = [
        "nodemesh-vm: begin captured::b",
        "test result: ok. 1 passed; 0 failed; 0 ignored; 0 measured; 204 filtered out; finished in 3.05s",
        "nodemesh-vm: done 0 captured::b",
    ];
    const END: &str = "nodemesh-vm: end 0";

    fn said(parts: &[&[&'static str]]) -> Vec<&'static str> {
        parts.concat()
    }

    #[test]
    fn only_a_machine_that_says_so_of_every_test_has_passed() {
        let task = two();
        assert_eq!(end(&said(&[&A, &B, &[END]]), &task), Some(End::Good));
        assert_eq!(end(&said(&[&A, &B]), &task), None, "no end");
        assert_eq!(
            end(&said(&[&A, &[END]]), &task),
            Some(End::Failed),
            "b is missing"
        );
        assert_eq!(end(&[END], &task), Some(End::Failed), "no test ran");
        assert_eq!(
            end(&said(&[&A, &B, &["nodemesh-vm: end 1"]]), &task),
            Some(End::Failed)
        );
        let failed = [B[0], "nodemesh-vm: done 101 captured::b"];
        assert_eq!(end(&said(&[&A, &failed, &[END]]), &task), Some(End::Failed));
        let unknown = [B[0], "test result: ok. 0 passed; 0 failed", B[2]];
        assert_eq!(
            end(&said(&[&A, &unknown, &[END]]), &task),
            Some(End::Failed),
            "the runner did not know the test"
        );
    }

    #[test]
    fn what_did_not_end_or_begin_is_in_the_report() {
        let task = two();
        let mut transcript = Transcript::new("6.1", &task);
        assert!(transcript.take(A[0], Instant::now()).is_none());
        let results: Vec<_> = transcript
            .finish(Instant::now())
            .into_iter()
            .map(|test| test.result)
            .collect();
        assert_eq!(results, [TestResult::Unfinished, TestResult::NotRun]);
    }

    #[test]
    fn a_refusal_must_name_the_reason() {
        let said = "  because: Linux 5.10 is too old: something came with 5.18";
        let refusal = &Task::Refusal;
        assert_eq!(end(&[said, "nodemesh-vm: end 1"], refusal), Some(End::Refused));
        assert_eq!(end(&[said, END], refusal), Some(End::Failed));
        assert_eq!(
            end(&["error: no", "nodemesh-vm: end 1"], refusal),
            Some(End::Failed)
        );
    }
}
