//! Every check of the project, in order: `cargo xtask test`.
//!
//! Owns the list of steps, the order, and the table at the end. Each step is cargo, or a check of this program's own.
//! The integration tests get the release agent's path in `NODEMESH_AGENT`, with the kernel half inside; a part of them
//! runs on another kernel as well, which [`crate::vm`] does.
//!
//! Invariant: the first failure ends the run with a non-zero exit code; nothing is skipped because a machine cannot
//! do it.

mod report;

use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use nix::unistd::Uid;

use self::report::{Counts, Report};
use crate::compile::Profile;
use crate::repo::Repo;
use crate::{compile, ebpf, layers, process, setup, vm};

/// Tells the integration tests which agent to run.
const AGENT: &str = "NODEMESH_AGENT";

/// The kernel of the matrix that every run is tested on: the oldest, because what newer ones can is what it may lack.
const OLDEST_KERNEL: &str = "6.1";

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Only the unit tests: no root, no kernel half, no installation
    #[arg(long, conflicts_with_all = ["integration", "only"])]
    unit: bool,
    /// Only the integration tests, in namespaces, with the real kernel
    #[arg(long, conflicts_with = "only")]
    integration: bool,
    /// Only this step
    #[arg(long, value_name = "STEP")]
    only: Option<Step>,
    /// Only tests whose name contains this; without a step, of the unit and integration tests
    filter: Option<String>,
}

/// One step, in the order in which they run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Step {
    /// Installs what is missing
    Setup,
    /// Builds the kernel half
    Ebpf,
    /// Layout of the code
    Fmt,
    /// Lints of everything that runs in user space
    Clippy,
    /// Lints of the kernel half
    ClippyEbpf,
    /// Documentation builds and its links lead somewhere
    Docs,
    /// Licences, banned crates, sources of crates
    Deny,
    /// The agent's modules keep to their floors
    Layers,
    /// Unit tests
    Unit,
    /// Integration tests
    Integration,
    /// Those of the kernel matrix, on the oldest kernel of it, in virtual machines
    Vm,
}

/// Runs `cargo xtask test`.
pub(crate) fn command(repo: &Repo, options: &Options) -> Result<()> {
    let steps = steps(options);
    if steps.contains(&Step::Integration) && !Uid::effective().is_root() {
        bail!(
            "the integration tests make network namespaces and cgroups and load programs into the kernel: they need \
             root. Run `sudo -E env PATH=\"$PATH\" cargo xtask test`, or `cargo xtask test --unit` for what needs none"
        );
    }
    let filter = options.filter.as_deref();
    let mut report = Report::new(steps.iter().map(|step| step.name()).collect());
    for step in steps {
        let outcome = report.step(step.title(), |counts| step.run(repo, filter, counts));
        if let Err(failure) = outcome {
            report.print();
            let again = filter.map_or(String::new(), |filter| format!(" {filter}"));
            let again = if step.takes_filter() { again } else { String::new() };
            return Err(failure.context(format!(
                "step `{}` failed; to run only it again: cargo xtask test --only {}{again}",
                step.name(),
                step.name()
            )));
        }
    }
    report.print();
    let counts = report.counts();
    if let Some(filter) = filter
        && counts.passed == 0
    {
        bail!("no test has `{filter}` in its name");
    }
    Ok(())
}

/// The steps that the options ask for, with those they rest on.
fn steps(options: &Options) -> Vec<Step> {
    match options {
        Options {
            only: Some(Step::Integration),
            ..
        }
        | Options {
            integration: true, ..
        } => {
            vec![Step::Setup, Step::Ebpf, Step::Integration]
        }
        Options {
            only: Some(Step::Vm), ..
        } => vec![Step::Setup, Step::Ebpf, Step::Vm],
        Options { only: Some(step), .. } => vec![*step],
        Options { unit: true, .. } => vec![Step::Unit],
        Options { filter: Some(_), .. } => vec![Step::Setup, Step::Ebpf, Step::Unit, Step::Integration],
        _ => Step::value_variants().to_vec(),
    }
}

impl Step {
    /// As `--only` takes it.
    fn name(self) -> &'static str {
        match self {
            Self::Setup => "setup",
            Self::Ebpf => "ebpf",
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::ClippyEbpf => "clippy-ebpf",
            Self::Docs => "docs",
            Self::Deny => "deny",
            Self::Layers => "layers",
            Self::Unit => "unit",
            Self::Integration => "integration",
            Self::Vm => "vm",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Setup => "what the machine needs",
            Self::Ebpf => "the kernel half compiles",
            Self::Fmt => "layout of the code",
            Self::Clippy => "lints, user space",
            Self::ClippyEbpf => "lints, kernel half",
            Self::Docs => "documentation",
            Self::Deny => "licences, banned crates, sources",
            Self::Layers => "the agent's floors",
            Self::Unit => "unit tests",
            Self::Integration => "integration tests, on this kernel",
            Self::Vm => "the kernel matrix, on Linux 6.1 in virtual machines",
        }
    }

    fn takes_filter(self) -> bool {
        matches!(self, Self::Unit | Self::Integration)
    }

    fn run(self, repo: &Repo, filter: Option<&str>, counts: &mut Counts) -> Result<()> {
        let cargo = |arguments: &[&str]| {
            let mut cargo = repo.cargo();
            cargo.args(arguments);
            cargo
        };
        match self {
            Self::Setup => setup::ensure(repo),
            Self::Ebpf => ebpf::build(repo),
            Self::Fmt => {
                process::run(&mut cargo(&["fmt", "--all", "--check"]))?;
                process::run(&mut cargo(&[
                    "fmt",
                    "--manifest-path",
                    "mesh-ebpf/Cargo.toml",
                    "--check",
                ]))?;
                process::run(&mut cargo(&[
                    "fmt",
                    "--manifest-path",
                    "fuzz/Cargo.toml",
                    "--check",
                ]))
            }
            Self::Clippy => {
                const WARNINGS_FAIL: [&str; 3] = ["--", "-D", "warnings"];
                process::run(
                    cargo(&["clippy", "--locked", "--workspace", "--all-targets", "--quiet"])
                        .args(WARNINGS_FAIL),
                )?;
                // The fuzz targets take in sources of the agent; they must not fall behind.
                process::run(
                    cargo(&[
                        "clippy",
                        "--locked",
                        "--manifest-path",
                        "fuzz/Cargo.toml",
                        "--quiet",
                        "--target-dir",
                    ])
                    .arg(repo.fuzz_target())
                    .args(WARNINGS_FAIL),
                )
            }
            Self::ClippyEbpf => ebpf::lint(repo),
            // Private items too, and links to them from anywhere: who reads this works on it.
            Self::Docs => process::run(
                cargo(&[
                    "doc",
                    "--locked",
                    "--workspace",
                    "--no-deps",
                    "--document-private-items",
                    "--quiet",
                ])
                .env("RUSTDOCFLAGS", "-D warnings -A rustdoc::private-intra-doc-links"),
            ),
            Self::Deny => {
                const CHECKS: [&str; 4] = ["check", "bans", "licenses", "sources"];
                process::run(cargo(&["deny", "--locked"]).args(CHECKS))?;
                let kernel_half = ["--manifest-path", "mesh-ebpf/Cargo.toml", "--config", "deny.toml"];
                process::run(cargo(&["deny", "--locked"]).args(kernel_half).args(CHECKS))?;
                let fuzz = ["--manifest-path", "fuzz/Cargo.toml", "--config", "deny.toml"];
                process::run(cargo(&["deny", "--locked"]).args(fuzz).args(CHECKS))
            }
            Self::Layers => layers::check(repo),
            Self::Unit => {
                let mut cargo = cargo(&[
                    "test",
                    "--locked",
                    "--workspace",
                    "--exclude",
                    "mesh-tests",
                    "--no-fail-fast",
                    "--quiet",
                ]);
                tests(cargo.args(filter), counts)
            }
            Self::Integration => {
                let agent = compile::agent(repo, Profile::Release)?;
                let mut cargo = cargo(&["test", "--locked", "--package", "mesh-tests", "--no-fail-fast"]);
                cargo.env(AGENT, agent).args(filter);
                // One at a time: they measure, and they share the machine's cgroup and bpf file systems.
                tests(cargo.args(["--", "--test-threads=1"]), counts)
            }
            Self::Vm => vm::step(repo, OLDEST_KERNEL, |passed, failed| {
                counts.passed += passed as u64;
                counts.failed += failed as u64;
            }),
        }
    }
}

/// Runs a test runner and counts what it reports.
fn tests(command: &mut Command, counts: &mut Counts) -> Result<()> {
    process::run_watched(command, |line| counts.add(line)).context("tests failed")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn options() -> Options {
        Options {
            unit: false,
            integration: false,
            only: None,
            filter: None,
        }
    }

    #[test]
    fn without_options_every_step_runs_in_order() {
        let names: Vec<_> = steps(&options()).into_iter().map(Step::name).collect();
        assert_eq!(names.first(), Some(&"setup"));
        assert_eq!(names.last(), Some(&"vm"));
        assert_eq!(names.len(), Step::value_variants().len());
    }

    #[test]
    fn integration_brings_what_it_rests_on_and_unit_nothing() {
        let names = |options: &Options| steps(options).into_iter().map(Step::name).collect::<Vec<_>>();
        assert_eq!(
            names(&Options {
                integration: true,
                ..options()
            }),
            ["setup", "ebpf", "integration"]
        );
        let only = |step| Options {
            only: Some(step),
            ..options()
        };
        assert_eq!(names(&only(Step::Integration)), ["setup", "ebpf", "integration"]);
        assert_eq!(names(&only(Step::Vm)), ["setup", "ebpf", "vm"]);
        assert_eq!(
            names(&Options {
                unit: true,
                ..options()
            }),
            ["unit"]
        );
        assert_eq!(
            names(&Options {
                only: Some(Step::Fmt),
                ..options()
            }),
            ["fmt"]
        );
    }

    #[test]
    fn the_name_of_a_step_is_what_the_option_takes() {
        for step in Step::value_variants() {
            assert!(
                Step::from_str(step.name(), false).is_ok_and(|parsed| parsed == *step),
                "{}",
                step.name()
            );
        }
    }
}
