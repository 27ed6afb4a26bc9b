//! One test machine: boots, shows what its tests say, and tells how they ended.
//!
//! The machine has two consoles: on one its kernel speaks, which goes to a file; on the other its first process, to which
//! [`super::transcript`] listens. Invariant: a machine that does not say how its task ended has failed.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::kernel::Kernel;
use super::transcript::{End, LAST_WORDS, MARK, Task, Test, Transcript};

const MEMORY: &str = "4096";

/// The kernel's own console, and that it ends at a panic. `norandmaps`, because an emulator keeps the translation of code by
/// its address: with programs at the same addresses each time, tests take two thirds of the time.
const COMMAND_LINE: &str = "console=ttyS0 loglevel=5 panic=-1 norandmaps";

/// How long a machine under the processor's virtualization may take to come up before it is taken for one that never will.
const KVM_PATIENCE: Duration = Duration::from_secs(20);

/// Who runs the machine's instructions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Accelerator {
    Tcg,
    Kvm,
}

/// A machine to be run.
pub(crate) struct Machine<'a> {
    /// What its lines begin with.
    pub(crate) name: &'a str,
    pub(crate) kernel: &'a Kernel,
    pub(crate) initrd: PathBuf,
    pub(crate) task: &'a Task,
    /// Where everything that its first process says is kept.
    pub(crate) log: PathBuf,
    /// Where everything that its kernel says is kept.
    pub(crate) kernel_log: PathBuf,
    pub(crate) timeout: Duration,
}

/// How a machine ended.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) accelerator: Accelerator,
    pub(crate) tests: Vec<Test>,
    pub(crate) end: End,
    /// What its kernel said of faults of its own.
    pub(crate) faults: Vec<String>,
}

impl Accelerator {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Tcg => "tcg",
            Self::Kvm => "kvm",
        }
    }

    fn arguments(self, processor: &str) -> [&str; 6] {
        match self {
            // One core, because two are no faster: what runs in a test waits for each other.
            Self::Tcg => ["-accel", "tcg", "-cpu", processor, "-smp", "1"],
            Self::Kvm => ["-accel", "kvm", "-cpu", "host", "-smp", "2"],
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
            End::Failed => "FAILED",
            End::Silent => "SILENT",
            End::TimedOut => "TIMED OUT",
        }
    }
}

impl Machine<'_> {
    /// Boots the machine and waits for its end.
    pub(crate) fn run(&self, accelerator: Accelerator) -> Result<Outcome> {
        let mut log =
            File::create(&self.log).with_context(|| format!("cannot write {}", self.log.display()))?;
        let mut lines = Console::open(self.start(accelerator, &self.kernel_log, Stdio::inherit())?)?;
        let deadline = Instant::now() + self.timeout;
        let mut transcript = Transcript::new(self.name, self.task);
        let code = loop {
            match lines.next(deadline) {
                Next::Line(line) => {
                    writeln!(log, "{line}")?;
                    if let Some(code) = transcript.take(&line, Instant::now()) {
                        break Ok(code);
                    }
                }
                Next::End => break Err(End::Silent),
                Next::Late => break Err(End::TimedOut),
            }
        };
        let end = code.map_or_else(|end| end, |code| transcript.judge(code));
        // Only then is the log whole.
        drop(lines);
        let kernel_log = fs::read(&self.kernel_log).unwrap_or_default();
        let kernel_log = String::from_utf8_lossy(&kernel_log);
        if end == End::Silent {
            let all: Vec<_> = kernel_log.lines().collect();
            let mut said = format!("  {} fell silent; its kernel said last:\n", self.name);
            for line in &all[all.len().saturating_sub(LAST_WORDS)..] {
                said += &format!("      {line}\n");
            }
            print!("{said}");
        }
        Ok(Outcome {
            accelerator,
            tests: transcript.finish(Instant::now()),
            end,
            faults: faults(&kernel_log),
        })
    }

    fn start(&self, accelerator: Accelerator, kernel_log: &Path, complaints: Stdio) -> Result<Child> {
        Command::new("qemu-system-x86_64")
            .args(accelerator.arguments(self.kernel.processor))
            .args(["-m", MEMORY])
            .args(["-nodefaults", "-no-user-config", "-no-reboot", "-display", "none"])
            .arg("-serial")
            .arg(format!("file:{}", kernel_log.display()))
            .args(["-serial", "stdio", "-kernel"])
            .arg(self.kernel.image())
            .arg("-initrd")
            .arg(&self.initrd)
            .args(["-append", COMMAND_LINE])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(complaints)
            .spawn()
            .context("cannot start qemu-system-x86_64: run `cargo xtask setup`")
    }
}

/// What a kernel says when it finds a fault in itself. Not among them: that it did not get to run for long, which is the
/// fault of a busy host.
fn faults(kernel_log: &str) -> Vec<String> {
    const SIGNS: &[&str] = &[
        "WARNING: CPU",
        "BUG: ",
        "Oops",
        "general protection fault",
        "Kernel panic",
    ];
    kernel_log
        .lines()
        .filter(|line| SIGNS.iter().any(|sign| line.contains(sign)) && !line.contains("soft lockup"))
        .map(str::to_owned)
        .collect()
}

/// Who runs such machines fastest here. That there is a device for the processor's virtualization says little: there are
/// hosts that have it and where no stock kernel boots.
pub(crate) fn choose(machine: &Machine<'_>) -> Accelerator {
    if !Path::new("/dev/kvm").exists() {
        return Accelerator::Tcg;
    }
    let started = machine
        // Where it does not work QEMU says so at length.
        .start(Accelerator::Kvm, Path::new("/dev/null"), Stdio::null())
        .and_then(Console::open);
    let Ok(mut lines) = started else {
        return Accelerator::Tcg;
    };
    let deadline = Instant::now() + KVM_PATIENCE;
    loop {
        match lines.next(deadline) {
            Next::Line(line) if line.contains(MARK) => return Accelerator::Kvm,
            Next::Line(_) => {}
            Next::End | Next::Late => {
                println!("  /dev/kvm is there, and no machine comes up with it: it is emulated");
                return Accelerator::Tcg;
            }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faults_of_the_kernel_are_told_from_a_busy_host() {
        let log = "[ 1.0] WARNING: CPU: 0 PID: 9 at net/core/sock.c:1\n[ 2.0] watchdog: BUG: soft lockup - CPU#0 stuck\n";
        assert_eq!(faults(log).len(), 1);
    }
}
