//! The machine that was measured on, and the programs: figures mean nothing without them.

use std::fmt;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::process;
use crate::repo::Repo;

/// What a reader has to know to compare.
pub(super) struct Machine {
    cpu: String,
    cores: usize,
    kernel: String,
    memory_gib: f64,
    /// Runnable programs when the run began, over one minute.
    load: String,
    agent: String,
    /// When the run began, in UTC.
    date: String,
    /// The commit of the checkout, with `+` behind it when files differ from it; none outside of one.
    revision: Option<String>,
}

impl Machine {
    /// Looks at this machine, and at the agent that is to be measured.
    pub(super) fn look(repo: &Repo, agent: &Path) -> Result<Self> {
        let cpuinfo = fs::read_to_string("/proc/cpuinfo")?;
        let meminfo = fs::read_to_string("/proc/meminfo")?;
        let kib: f64 = value(&meminfo, "MemTotal")?.trim_end_matches(" kB").parse()?;
        let version = process::output_of(Command::new(agent).arg("--version"))?;
        let load = fs::read_to_string("/proc/loadavg")?;
        Ok(Self {
            cpu: value(&cpuinfo, "model name")?.to_owned(),
            cores: thread::available_parallelism()?.get(),
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease")?
                .trim()
                .to_owned(),
            memory_gib: kib / f64::from(1 << 20),
            load: load.split(' ').next().unwrap_or_default().to_owned(),
            agent: version.trim().to_owned(),
            date: process::output_of(Command::new("date").args(["-u", "+%Y-%m-%dT%H:%M:%SZ"]))?
                .trim()
                .to_owned(),
            revision: revision(repo),
        })
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "cpu": self.cpu,
            "cores": self.cores,
            "kernel": self.kernel,
            "memory_gib": (self.memory_gib * 10.0).round() / 10.0,
            "load_at_start": self.load,
            "agent": self.agent,
            "date": self.date,
            "revision": self.revision,
            "bench": env!("CARGO_PKG_VERSION"),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            cpu,
            cores,
            kernel,
            memory_gib,
            load,
            agent,
            date,
            revision,
        } = self;
        let revision = revision.as_deref().unwrap_or("no commit");
        write!(
            f,
            "{agent} ({revision}) on {cores} cores of {cpu}, {memory_gib:.0} GiB, Linux {kernel}, load {load}, {date}"
        )
    }
}

fn revision(repo: &Repo) -> Option<String> {
    let git =
        |args: &[&str]| process::output_of(Command::new("git").current_dir(repo.root()).args(args)).ok();
    let commit = git(&["rev-parse", "--short=12", "HEAD"])?;
    let changed = git(&["status", "--porcelain", "--untracked-files=no"])?;
    let mark = if changed.is_empty() { "" } else { "+" };
    Some(format!("{}{mark}", commit.trim()))
}

/// The first `name : value` of a file of /proc.
fn value<'a>(text: &'a str, name: &str) -> Result<&'a str> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .find(|(key, _)| key.trim() == name)
        .map(|(_, value)| value.trim())
        .with_context(|| format!("/proc does not say {name}"))
}
