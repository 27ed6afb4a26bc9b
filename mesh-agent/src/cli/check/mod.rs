//! `mesh-agent check`: whether this machine can run the agent, and what to mend where it cannot.
//!
//! Kernel features are tested by loading the programs that need them, never by the kernel's version. Invariants: it
//! changes nothing, and every line that is not well says what to do.

mod kernel;
mod machine;
mod node;

use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use super::{
    agent::{BPFFS, RUN_DIR},
    failure::Failure,
    output::{OutputArgs, View},
    table::{Cell, Colour, Column, Detail, Table, Tone, plain},
};

/// What `check` takes.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// Also check this directory of YAML files
    #[arg(long, value_name = "DIR")]
    config: Option<PathBuf>,
    /// Cgroup v2 directory above all pods; found by itself by default
    #[arg(long, value_name = "PATH")]
    pods_cgroup: Option<PathBuf>,
    /// Directory for pinned maps and links
    #[arg(long, value_name = "DIR", default_value = BPFFS)]
    bpffs: PathBuf,
    /// Directory for the agent's socket and lock
    #[arg(long, value_name = "DIR", default_value = RUN_DIR)]
    run_dir: PathBuf,
    /// eBPF object to try in place of the embedded one
    #[arg(long, value_name = "PATH", env = "NODEMESH_EBPF_OBJECT")]
    ebpf_object: Option<PathBuf>,
    #[command(flatten)]
    output: OutputArgs,
}

impl CheckArgs {
    pub(super) fn run(self) -> Result<(), Failure> {
        let mut checks = Vec::new();
        checks.extend(machine::checks(self.pods_cgroup.as_deref(), &self.bpffs));
        checks.extend(kernel::checks(self.ebpf_object.as_deref(), &self.bpffs));
        checks.extend(node::checks(&self.run_dir, self.config.as_deref()));
        let report = Report::new(checks);
        self.output.show(&report)?;
        if report.ok { Ok(()) } else { Err(Failure::Told) }
    }
}

/// Everything that was checked.
#[derive(Debug, Serialize)]
struct Report {
    /// Whether nothing failed; warnings are no failures.
    ok: bool,
    checks: Vec<Check>,
}

/// One thing that was checked.
#[derive(Debug, Serialize)]
struct Check {
    name: String,
    outcome: Outcome,
    /// What was found.
    found: String,
    /// What to do about it, when it is not well.
    remedy: Option<String>,
}

/// How it turned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Outcome {
    Ok,
    Warning,
    Failed,
}

impl Report {
    fn new(checks: Vec<Check>) -> Self {
        Self {
            ok: checks.iter().all(|check| check.outcome != Outcome::Failed),
            checks,
        }
    }
}

impl Check {
    fn ok(name: impl Into<String>, found: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            outcome: Outcome::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn warning(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Warning,
            remedy: Some(remedy.into()),
            ..Self::ok(name, found)
        }
    }

    fn failed(name: impl Into<String>, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self {
            outcome: Outcome::Failed,
            remedy: Some(remedy.into()),
            ..Self::ok(name, found)
        }
    }
}

impl View for Report {
    fn text(&self, _: Detail, colour: Colour) -> String {
        let mut table = Table::new([
            Column::text("CHECK"),
            Column::text("OUTCOME"),
            Column::text("FOUND"),
        ]);
        for check in &self.checks {
            let (word, tone) = match check.outcome {
                Outcome::Ok => ("ok", Tone::Good),
                Outcome::Warning => ("warning", Tone::Doubtful),
                Outcome::Failed => ("FAILED", Tone::Bad),
            };
            table.row([
                Cell::from(&check.name),
                Cell::from(word).tone(tone),
                Cell::from(&check.found),
            ]);
        }
        let mut text = String::new();
        let remedies = std::iter::once(None).chain(self.checks.iter().map(|check| check.remedy.as_deref()));
        for (line, remedy) in table.render(colour).lines().zip(remedies) {
            text.push_str(line);
            text.push('\n');
            if let Some(remedy) = remedy {
                text.push_str(&format!("  hint: {}\n", plain(remedy)));
            }
        }
        text + &self.verdict()
    }
}

impl Report {
    fn verdict(&self) -> String {
        match self
            .checks
            .iter()
            .filter(|check| check.outcome == Outcome::Failed)
            .count()
        {
            0 => "\nEverything the agent needs is here.\n".to_owned(),
            1 => "\nOne check failed.\n".to_owned(),
            failed => format!("\n{failed} checks failed.\n"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::output::{Format, render};

    fn sample() -> Report {
        Report::new(vec![
            Check::ok("cgroup2", "/sys/fs/cgroup"),
            Check::warning("open files", "at most 1024", "raise LimitNOFILE"),
            Check::failed(
                "BTF",
                "/sys/kernel/btf/vmlinux is absent",
                "use a kernel built with CONFIG_DEBUG_INFO_BTF",
            ),
        ])
    }

    #[test]
    fn as_a_table() {
        insta::assert_snapshot!(render(&sample(), Format::Table, Colour::Off).unwrap());
    }

    #[test]
    fn as_json() {
        insta::assert_snapshot!(render(&sample(), Format::Json, Colour::Off).unwrap());
    }

    #[test]
    fn warnings_do_not_fail() {
        assert!(!sample().ok);
        assert!(Report::new(vec![Check::warning("a", "b", "c")]).ok);
    }
}
