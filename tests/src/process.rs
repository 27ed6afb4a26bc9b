//! Programs started inside a namespace and a cgroup of a mesh.
//!
//! A program is entered by `nsenter --net`, never by `ip netns exec`, which would mount another `/sys` and hide
//! the cgroups. Output goes to files in the mesh's directory, so no program ever blocks on a full pipe.
//! Invariant: a [`Process`] that is dropped is dead and reaped, unless its mesh is kept.

use std::{
    env,
    ffi::OsStr,
    fmt,
    fs::{self, File},
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::{Child, ExitStatus, Stdio},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

use anyhow::{Context, Result, bail, ensure};
use nix::{
    sys::signal::{self, Signal},
    unistd::Pid,
};

/// Where programs are started, and where their output goes.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    pub(crate) netns: String,
    pub(crate) cgroup: PathBuf,
    pub(crate) output: PathBuf,
    /// Set when the mesh stays up after its owner: then programs are left running.
    pub(crate) keep: Arc<AtomicBool>,
}

/// A program to be started inside a pod or a node.
#[derive(Debug)]
pub struct Command {
    inner: std::process::Command,
    name: String,
    output: PathBuf,
    keep: Arc<AtomicBool>,
    deadline: Duration,
}

/// A running program.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
    keep: Arc<AtomicBool>,
}

/// What a program that ended said.
#[derive(Debug)]
pub struct Output {
    /// The program, for messages.
    pub name: String,
    /// How it ended.
    pub status: ExitStatus,
    /// Everything it wrote to standard output.
    pub stdout: String,
    /// Everything it wrote to standard error.
    pub stderr: String,
}

impl Command {
    pub(crate) fn new(place: &Place, program: impl AsRef<OsStr>) -> Self {
        let mut inner = std::process::Command::new("sh");
        inner
            .args([
                "-c",
                r#"echo $$ >"$0/cgroup.procs" && n=$1 && shift && exec nsenter --net="$n" "$@""#,
            ])
            .arg(&place.cgroup)
            .arg(Path::new("/run/netns").join(&place.netns))
            .arg(program.as_ref())
            .stdin(Stdio::null())
            .process_group(0);
        let name = Path::new(program.as_ref())
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        Self {
            inner,
            name,
            output: place.output.clone(),
            keep: Arc::clone(&place.keep),
            deadline: Duration::from_secs(30),
        }
    }

    /// Sets the name in messages and of the output files.
    #[must_use]
    pub(crate) fn named(mut self, name: &str) -> Self {
        self.name = name.to_owned();
        self
    }

    /// Adds one argument.
    #[must_use]
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.inner.arg(arg);
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.inner.args(args);
        self
    }

    /// Sets an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl AsRef<OsStr>) -> Self {
        self.inner.env(name, value);
        self
    }

    /// How long [`Command::run`] waits for the end; 30 seconds unless set.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = deadline;
        self
    }

    /// Starts the program in the background.
    pub fn spawn(mut self) -> Result<Process> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let stem = format!("{}-{}", COUNT.fetch_add(1, Ordering::Relaxed), self.name);
        let stdout = self.output.join(format!("{stem}.out"));
        let stderr = self.output.join(format!("{stem}.err"));
        let child = self
            .inner
            .stdout(File::create(&stdout).with_context(|| format!("creating {}", stdout.display()))?)
            .stderr(File::create(&stderr).with_context(|| format!("creating {}", stderr.display()))?)
            .spawn()
            .with_context(|| format!("starting {}", self.name))?;
        Ok(Process {
            name: self.name,
            child,
            stdout,
            stderr,
            keep: self.keep,
        })
    }

    /// Runs the program to its end; an error if it is not over by the deadline. Its exit status is for the caller
    /// to judge, or for [`Output::ok`].
    pub fn run(self) -> Result<Output> {
        let deadline = self.deadline;
        self.spawn()?.wait(deadline)
    }
}

impl Process {
    /// The process id in the initial namespace.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Whether it still runs.
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// What it has written to standard output so far.
    pub fn stdout(&self) -> String {
        read(&self.stdout)
    }

    /// What it has written to standard error so far.
    pub fn stderr(&self) -> String {
        read(&self.stderr)
    }

    /// Waits until a line of standard output satisfies the condition, and returns it.
    pub fn wait_line(&mut self, deadline: Duration, condition: impl Fn(&str) -> bool) -> Result<String> {
        let mut found = None;
        let mut ended = false;
        let waited = wait_until(deadline, "a line of output", || {
            ended = !self.is_running();
            found = self
                .stdout()
                .lines()
                .find(|line| condition(line))
                .map(str::to_owned);
            found.is_some() || ended
        });
        match found {
            Some(line) => Ok(line),
            None => {
                let why = if ended {
                    "it ended".to_owned()
                } else {
                    format!("{waited:?}")
                };
                bail!(
                    "{} did not say what was expected: {why}\n{}",
                    self.name,
                    self.said()
                )
            }
        }
    }

    /// Sends a signal to the program.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        signal::kill(self.raw_pid(), signal).with_context(|| format!("sending {signal} to {}", self.name))
    }

    /// Waits for the end. At the deadline the program is killed and an error returned.
    pub fn wait(mut self, deadline: Duration) -> Result<Output> {
        let status = self.wait_status(deadline)?;
        Ok(Output {
            name: self.name.clone(),
            status,
            stdout: self.stdout(),
            stderr: self.stderr(),
        })
    }

    /// Ends the program with SIGTERM and waits; at the deadline it is killed and an error returned.
    pub fn terminate(self, deadline: Duration) -> Result<Output> {
        self.signal(Signal::SIGTERM)?;
        self.wait(deadline)
    }

    /// Kills the program and what it started, at once.
    pub fn kill(mut self) {
        self.kill_now();
    }

    /// Resident memory of the program in bytes.
    pub fn resident_bytes(&self) -> Result<u64> {
        resident_bytes(self.pid())
    }

    /// The most resident memory it ever had, in bytes.
    pub fn peak_bytes(&self) -> Result<u64> {
        status_bytes(self.pid(), "VmHWM:")
    }

    fn wait_status(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let deadline = patient(deadline);
        let end = Instant::now() + deadline;
        let mut pause = Duration::from_millis(1);
        loop {
            if let Some(status) = self
                .child
                .try_wait()
                .with_context(|| format!("waiting for {}", self.name))?
            {
                return Ok(status);
            }
            if Instant::now() >= end {
                self.kill_now();
                bail!("{} was not over after {deadline:?}\n{}", self.name, self.said());
            }
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }

    fn said(&self) -> String {
        format!(
            "stdout: {}\nstderr: {}",
            tail(&self.stdout(), 40),
            tail(&self.stderr(), 40)
        )
    }

    fn raw_pid(&self) -> Pid {
        Pid::from_raw(self.child.id().cast_signed())
    }

    fn kill_now(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // The program leads a process group of its own; until it is reaped the number cannot be another's.
            let _ = signal::killpg(self.raw_pid(), Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if !self.keep.load(Ordering::Relaxed) {
            self.kill_now();
        }
    }
}

impl Output {
    /// The output, if the program exited with 0; else an error that shows all it said.
    pub fn ok(self) -> Result<Self> {
        ensure!(self.status.success(), "{self}");
        Ok(self)
    }

    /// Standard output read as one JSON document.
    pub fn json(&self) -> Result<serde_json::Value> {
        serde_json::from_str(&self.stdout).with_context(|| format!("no JSON: {self}"))
    }

    /// The last line of standard output read as JSON: how traffic programs report.
    pub fn report(&self) -> Result<serde_json::Value> {
        let line = self
            .stdout
            .lines()
            .last()
            .with_context(|| format!("no output: {self}"))?;
        serde_json::from_str(line).with_context(|| format!("no JSON: {self}"))
    }
}

impl fmt::Display for Output {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            name,
            status,
            stdout,
            stderr,
        } = self;
        write!(
            f,
            "{name}: {status}\nstdout: {}\nstderr: {}",
            tail(stdout, 60),
            tail(stderr, 60)
        )
    }
}

/// Resident memory of a process in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

fn status_bytes(pid: u32, field: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix(field))
        .with_context(|| format!("no {field}"))?;
    let kib: u64 = line
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .with_context(|| field.to_owned())?;
    Ok(kib * 1024)
}

/// Waits until the condition holds; an error naming `what` if it does not by the deadline.
pub fn wait_until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    let deadline = patient(deadline);
    let end = Instant::now() + deadline;
    let mut pause = Duration::from_millis(1);
    loop {
        if condition() {
            return Ok(());
        }
        ensure!(Instant::now() < end, "waited {deadline:?} in vain for {what}");
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}

/// A deadline on this machine. An emulated one is many times slower; `NODEMESH_PATIENCE` says how many.
fn patient(deadline: Duration) -> Duration {
    static FACTOR: OnceLock<u32> = OnceLock::new();
    deadline * *FACTOR.get_or_init(|| factor("NODEMESH_PATIENCE"))
}

/// How many connections or requests make a load on this machine. `NODEMESH_LOAD_DIVISOR` says how many times fewer than
/// on an ordinary one; at least one is left.
pub fn amount(count: u64) -> u64 {
    static DIVISOR: OnceLock<u32> = OnceLock::new();
    let divisor = DIVISOR.get_or_init(|| factor("NODEMESH_LOAD_DIVISOR"));
    (count / u64::from(*divisor)).max(1)
}

/// A factor that a variable of the environment tells, from 1 to 100; 1 if it does not.
fn factor(variable: &str) -> u32 {
    let told = env::var(variable).ok().and_then(|factor| factor.parse().ok());
    told.unwrap_or(1).clamp(1, 100)
}

/// The last lines of a text.
pub(crate) fn tail(text: &str, lines: usize) -> &str {
    let start = text
        .trim_end()
        .rmatch_indices('\n')
        .nth(lines.saturating_sub(1))
        .map_or(0, |(at, _)| at + 1);
    &text[start..]
}

fn read(path: &Path) -> String {
    fs::read(path)
        .map(|bytes| String::from_utf8_lossy(&bytes).into_owned())
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tail_keeps_the_last_lines() {
        assert_eq!(tail("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(tail("a\nb", 5), "a\nb");
        assert_eq!(tail("", 1), "");
    }
}
