//! The integration tests on stock distribution kernels, each in a virtual machine: `cargo xtask vm-test`.
//!
//! [`kernel`] fetches kernels, [`image`] packs one file system for all of them, [`machine`] boots and watches. Nothing is
//! installed and no disk is written: a machine is a kernel, an initial file system in memory, and a console.
//!
//! Invariant: a machine that does not say how its tests ended has failed.

mod image;
mod kernel;
mod machine;
mod matrix;
mod report;
mod transcript;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use self::image::{Image, Pace};
use self::kernel::{Expects, Freshness, Kernel, SERIES, Series};
use self::machine::{Accelerator, Machine};
use self::matrix::Scope;
use self::report::Row;
use self::transcript::Task;
use crate::compile::Profile;
use crate::repo::Repo;
use crate::{compile, ebpf, setup};

/// How long one machine may take for the matrix, and for everything.
const MATRIX_TIMEOUT: Duration = Duration::from_secs(20 * 60);
const ALL_TIMEOUT: Duration = Duration::from_secs(4 * 60 * 60);

/// An emulated machine is 10 to 30 times slower than this one: deadlines are so many times longer, loads so many times
/// smaller.
const SLOWER: u32 = 10;

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which kernels: 5.10, 6.1, 6.12, 6.18, 7.x, or all of them
    #[arg(long, default_value = "6.1", value_name = "SERIES", value_delimiter = ',')]
    kernel: Vec<String>,
    /// How the machine is run: emulated, by the processor, or by the processor where that works
    #[arg(long, value_enum, default_value_t = Acceleration::Auto)]
    accel: Acceleration,
    /// Run all tests that can run in a machine, not only the matrix: hours, where it is emulated
    #[arg(long, conflicts_with = "filter")]
    all_tests: bool,
    /// Run nothing: list the tests of the matrix, and what each shows of a kernel
    #[arg(long)]
    print: bool,
    /// Fetch the newest kernel of the series even if there is one already
    #[arg(long)]
    refresh: bool,
    /// Test this agent; without it, a release build
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// How long one machine may take; without it, 20 minutes for the matrix, 4 hours for more
    #[arg(long, value_name = "SECONDS")]
    timeout: Option<u64>,
    /// Write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Write the report to this file, as JUnit's XML
    #[arg(long, value_name = "FILE")]
    junit: Option<PathBuf>,
    /// Only tests whose name contains this, of all and not of the matrix
    filter: Option<String>,
}

/// How machines are run.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Acceleration {
    /// In software
    Tcg,
    /// By the processor's virtualization
    Kvm,
    /// By the processor if a machine comes up that way, else in software
    Auto,
}

/// What is to be run.
struct Plan<'a> {
    kernels: Vec<&'static Series>,
    scope: Scope<'a>,
    acceleration: Acceleration,
    freshness: Freshness,
    timeout: Duration,
}

/// Runs `cargo xtask vm-test`.
pub(crate) fn command(repo: &Repo, options: &Options) -> Result<()> {
    if options.print {
        print!("{}", matrix::listing());
        return Ok(());
    }
    let scope = match &options.filter {
        Some(part) => Scope::Named(part),
        None if options.all_tests => Scope::All,
        None => Scope::Matrix,
    };
    let plan = Plan {
        kernels: series(&options.kernel)?,
        scope,
        acceleration: options.accel,
        freshness: match options.refresh {
            true => Freshness::Newest,
            false => Freshness::AsItIs,
        },
        timeout: match options.timeout {
            Some(seconds) => Duration::from_secs(seconds),
            None if scope == Scope::Matrix => MATRIX_TIMEOUT,
            None => ALL_TIMEOUT,
        },
    };
    setup::ensure(repo)?;
    ebpf::build(repo)?;
    let agent = match &options.agent {
        Some(agent) => std::path::absolute(agent)?,
        None => compile::agent(repo, Profile::Release)?,
    };
    let rows = plan.run(repo, &agent)?;
    if let Some(file) = &options.json {
        report::write_json(&rows, file)?;
    }
    if let Some(file) = &options.junit {
        report::write_junit(&rows, file)?;
    }
    verdict(repo, &rows)
}

/// The matrix on one kernel, as a step of `cargo xtask test`. Hands over how many tests passed and how many did not.
pub(crate) fn step(repo: &Repo, kernel: &str, counts: impl FnOnce(usize, usize)) -> Result<()> {
    let agent = compile::agent(repo, Profile::Release)?;
    let plan = Plan {
        kernels: series(&[kernel.to_owned()])?,
        scope: Scope::Matrix,
        acceleration: Acceleration::Auto,
        freshness: Freshness::AsItIs,
        timeout: MATRIX_TIMEOUT,
    };
    let rows = plan.run(repo, &agent)?;
    let all: usize = rows.iter().map(|row| row.tests().len()).sum();
    let passed = rows.iter().map(Row::passed).sum();
    counts(passed, all - passed);
    verdict(repo, &rows)
}

impl Plan<'_> {
    /// Runs one machine after the other, shows how each went, and the table of all.
    fn run(&self, repo: &Repo, agent: &Path) -> Result<Vec<Row>> {
        let image = Image::pack(repo, agent)?;
        let tests = self.scope.select(image.tests())?;
        let pace = Pace {
            patience: SLOWER,
            divisor: SLOWER,
            // One that hangs leaves time for the others.
            limit: self.timeout / 4,
        };
        let mut accelerator = match self.acceleration {
            Acceleration::Tcg => Some(Accelerator::Tcg),
            Acceleration::Kvm => Some(Accelerator::Kvm),
            Acceleration::Auto => None,
        };
        let mut rows = Vec::new();
        for series in &self.kernels {
            println!("\nLinux {}", series.name);
            let task = match series.expects {
                Expects::Tests => Task::Tests(tests.clone()),
                Expects::Refusal => Task::Refusal,
            };
            let begun = Instant::now();
            let kernel = match Kernel::fetch(repo, series, self.freshness) {
                Ok(kernel) => kernel,
                // The others may be there.
                Err(error) => {
                    println!("  {error:#}");
                    rows.push(Row::without_kernel(series.name, &error));
                    continue;
                }
            };
            println!("  {}", kernel.release);
            let log = |what: &str| repo.vm_dir().join(format!("{what}-{}.log", series.name));
            let machine = Machine {
                kernel: &kernel,
                initrd: &image.for_machine(&kernel, &task, &pace)?,
                task: &task,
                log: log("console"),
                kernel_log: log("kernel"),
                timeout: self.timeout,
            };
            let accelerator = *accelerator.get_or_insert_with(|| machine::choose(&machine));
            let outcome = machine.run(accelerator)?;
            rows.push(Row::new(series.name, &kernel.release, outcome, begun.elapsed()));
        }
        print!("\n{}", report::table(&rows));
        Ok(rows)
    }
}

/// An error that names what failed, if anything did.
fn verdict(repo: &Repo, rows: &[Row]) -> Result<()> {
    let failed: Vec<_> = rows.iter().filter(|row| !row.is_good()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    for row in &failed {
        for line in row.complaints() {
            eprintln!("  {}: {line}", row.series);
        }
    }
    bail!(
        "{} of {} kernels failed; what their machines said is in {}/console-*.log and kernel-*.log",
        failed.len(),
        rows.len(),
        repo.vm_dir().display()
    )
}

/// The kernels that are asked for, oldest first.
fn series(asked: &[String]) -> Result<Vec<&'static Series>> {
    for name in asked {
        if name != "all" && SERIES.iter().all(|series| series.name != name) {
            let names: Vec<_> = SERIES.iter().map(|series| series.name).collect();
            bail!("no kernel `{name}`: choose of {}, or all", names.join(", "))
        }
    }
    let wanted = |series: &&Series| asked.iter().any(|name| name == "all" || name == series.name);
    Ok(SERIES.iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_chosen_by_its_series() {
        let names = |asked: &[&str]| {
            let asked: Vec<_> = asked.iter().map(|name| (*name).to_owned()).collect();
            series(&asked).map(|series| series.iter().map(|series| series.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["all"]).unwrap().len(), SERIES.len());
        assert_eq!(names(&["6.12"]).unwrap(), ["6.12"]);
        assert_eq!(names(&["6.12", "6.1"]).unwrap(), ["6.1", "6.12"]);
        assert!(names(&["2.6"]).unwrap_err().to_string().contains("6.18"));
    }
}
