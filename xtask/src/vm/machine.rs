//! One test machine: boots, shows what its tests say, and tells how they ended.
//!
//! The machine's console is the only way out. Its first process says when it is up and, at the end, with which code its
//! task ended; both lines begin with [`MARK`]. Invariant: a machine without the last line has failed, whatever else it said.

use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::kernel::Kernel;

const MARK: &str = "nodemesh-vm: ";
const MEMORY: &str = "4096";
const CORES: &str = "2";

/// How long a machine under the processor's virtualization may take to come up before it is taken for one that never will.
const KVM_PATIENCE: Duration = Duration::from_secs(20);

/// What the agent must say of a kernel that is too old.
const TOO_OLD: &str = "5.18";

/// What a machine does.
#[derive(Clone, Copy)]
pub(crate) enum Task<'a> {
    /// Runs the integration tests, those with this in their name.
    Tests { filter: Option<&'a str> },
    /// Starts the agent, which must refuse.
    Refusal,
}

/// Who runs the machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Tcg,
    Kvm,
}

/// A machine to be run.
pub(crate) struct Machine<'a> {
    pub(crate) kernel: &'a Kernel,
    pub(crate) initrd: &'a Path,
    pub(crate) task: Task<'a>,
    /// Where everything it says is kept.
    pub(crate) log: PathBuf,
    pub(crate) timeout: Duration,
}

/// How a machine ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) accelerator: Accelerator,
    pub(crate) passed: usize,
    /// The names of tests that failed.
    pub(crate) failures: Vec<String>,
    pub(crate) end: End,
}

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

impl Accelerator {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }

    fn arguments(self) -> [&'static str; 4] {
        match self {
            Self::Tcg => ["-accel", "tcg,thread=multi", "-cpu", "max"],
            Self::Kvm => ["-accel", "kvm", "-cpu", "host"],
        }
    }
}

impl Outcome {
    pub(crate) fn is_good(&self) -> bool {
        matches!(self.end, End::Good | End::Refused)
    }

    pub(crate) fn word(&self) -> &'static str {
        match self.end {
            End::Good => "passed",
            End::Refused => "refused, good",
            End::Failed => "failed",
            End::Silent => "silent",
            End::TimedOut => "timed out",
        }
    }
}

impl Machine<'_> {
    /// Boots the machine and waits for its end.
    pub(crate) fn run(&self, accelerator: Accelerator) -> Result<Outcome> {
        let mut log =
            File::create(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut lines = Console::open(self.start(accelerator, Stdio::inherit())?)?;
        let deadline = Instant::now() + self.timeout;
        let mut transcript = Transcript::default();
        let end = loop {
            match lines.next(deadline) {
                Next::Line(line) => {
                    writeln!(log, "{line}")?;
                    if Transcript::is_shown(&line) {
                        println!("    {line}");
                    }
                    if let Some(code) = transcript.take(&line) {
                        break transcript.judge(code, self.task);
                    }
                }
                Next::End => break End::Silent,
                Next::Late => break End::TimedOut,
            }
        };
        Ok(Outcome {
            accelerator,
            passed: transcript.passed,
            failures: transcript.failures,
            end,
        })
    }

    fn start(&self, accelerator: Accelerator, complaints: Stdio) -> Result<Child> {
        let (task, filter) = match self.task {
            Task::Tests { filter } => ("tests", filter.unwrap_or_default()),
            Task::Refusal => ("refusal", ""),
        };
        let command_line =
            format!("console=ttyS0 quiet panic=-1 nodemesh.task={task} nodemesh.filter={filter}");
        Command::new("qemu-system-x86_64")
            .args(accelerator.arguments())
            .args(["-smp", CORES, "-m", MEMORY])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .args(["-serial", "stdio", "-kernel"])
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(self.initrd)
            .args(["-append", &command_line])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .context("cannot start qemu-system-x86_64: run `cargo xtask setup`")
    }
}

/// Whether such a machine comes up under the processor's virtualization. The device alone says little: there are
/// hosts that have it and where no stock kernel boots.
pub(crate) fn kvm_works(machine: &Machine<'_>) -> bool {
    if !Path::new("/dev/kvm").exists() {
        return false;
    }
    let Ok(mut lines) = machine
        // Where it does not work the machine says so at length.
        .start(Accelerator::Kvm, Stdio::null())
        .and_then(Console::open)
    else {
        return false;
    };
    let deadline = Instant::now() + KVM_PATIENCE;
    loop {
        match lines.next(deadline) {
            Next::Line(line) if line.contains(MARK) => return true,
            Next::Line(_) => {}
            Next::End | Next::Late => return false,
        }
    }
}

/// What a machine says, until it is dropped; then the machine is switched off.
struct Console {
    machine: Child,
    lines: mpsc::Receiver<String>,
}

enum Next {
    Line(String),
    End,
    Late,
}

impl Console {
    fn open(mut machine: Child) -> Result<Self> {
        let output = machine.stdout.take().context("the machine has no console")?;
        let (sender, lines) = mpsc::channel();
        thread::spawn(move || {
            for line in BufReader::new(output).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end_matches('\r').to_owned();
                if sender.send(line).is_err() {
                    return;
                }
            }
        });
        Ok(Self { machine, lines })
    }

    fn next(&mut self, deadline: Instant) -> Next {
        let left = deadline.saturating_duration_since(Instant::now());
        match self.lines.recv_timeout(left) {
            Ok(line) => Next::Line(line),
            Err(RecvTimeoutError::Disconnected) => Next::End,
            Err(RecvTimeoutError::Timeout) => Next::Late,
        }
    }
}

impl Drop for Console {
    fn drop(&mut self) {
        // It may have gone by itself.
        let _ = self.machine.kill();
        let _ = self.machine.wait();
    }
}

/// What a machine said so far.
#[derive(Default)]
struct Transcript {
    passed: usize,
    failures: Vec<String>,
    says_too_old: bool,
}

impl Transcript {
    /// Whether a person wants to see the line: the tests' own, not the agents' logs.
    fn is_shown(line: &str) -> bool {
        line.starts_with(MARK)
            || line.starts_with("test ")
            || line.starts_with("error")
            || line.contains("Kernel panic")
    }

    /// Takes one line; the last one has the code with which the task ended.
    fn take(&mut self, line: &str) -> Option<i32> {
        if let Some(code) = line.strip_prefix(MARK).and_then(|said| said.strip_prefix("end ")) {
            return Some(code.trim().parse().unwrap_or(i32::MAX));
        }
        self.says_too_old |= line.contains("too old") && line.contains(TOO_OLD);
        if let Some((name, result)) = line
            .strip_prefix("test ")
            .and_then(|test| test.split_once(" ... "))
        {
            match result.trim() {
                "ok" => self.passed += 1,
                "FAILED" => self.failures.push(name.to_owned()),
                _ => {}
            }
        }
        None
    }

    fn judge(&self, code: i32, task: Task<'_>) -> End {
        match task {
            Task::Tests { .. } if code == 0 && self.passed > 0 && self.failures.is_empty() => End::Good,
            Task::Refusal if code == 1 && self.says_too_old => End::Refused,
            Task::Tests { .. } | Task::Refusal => End::Failed,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TESTS: Task<'_> = Task::Tests { filter: None };

    fn end(lines: &[&str], task: Task<'_>) -> Option<End> {
        let mut transcript = Transcript::default();
        let code = lines.iter().find_map(|line| transcript.take(line))?;
        Some(transcript.judge(code, task))
    }

    #[test]
    fn only_a_machine_that_says_so_has_passed() {
        let passed = "test captured::a ... ok";
        assert_eq!(end(&[passed, "nodemesh-vm: end 0"], TESTS), Some(End::Good));
        assert_eq!(end(&[passed], TESTS), None);
        assert_eq!(
            end(&["nodemesh-vm: end 0"], TESTS),
            Some(End::Failed),
            "no test ran"
        );
        assert_eq!(end(&[passed, "nodemesh-vm: end 101"], TESTS), Some(End::Failed));
        let failed = "test captured::b ... FAILED";
        assert_eq!(
            end(&[passed, failed, "nodemesh-vm: end 0"], TESTS),
            Some(End::Failed)
        );
    }

    #[test]
    fn a_refusal_must_name_the_reason() {
        let said = "  because: Linux 5.10 is too old: something came with 5.18";
        assert_eq!(
            end(&[said, "nodemesh-vm: end 1"], Task::Refusal),
            Some(End::Refused)
        );
        assert_eq!(
            end(&[said, "nodemesh-vm: end 0"], Task::Refusal),
            Some(End::Failed)
        );
        assert_eq!(
            end(&["error: no", "nodemesh-vm: end 1"], Task::Refusal),
            Some(End::Failed)
        );
    }
}
