//! The integration tests on stock distribution kernels, each in a virtual machine: `cargo xtask vm-test`.
//!
//! [`kernel`] fetches kernels, [`image`] packs one file system for all of them, [`fleet`] runs machines side by side,
//! [`machine`] boots one and watches it. Nothing is installed and no disk is written: a machine is a kernel, an initial
//! file system in memory, and a console.
//!
//! Invariant: a machine that does not say how its tests ended has failed.

mod fleet;
mod image;
mod kernel;
mod machine;
mod matrix;
mod report;
mod transcript;

use std::fs::{self, File, TryLockError};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use clap::ValueEnum;

use self::image::{Image, Pace};
use self::kernel::{Expects, Freshness, Kernel, SERIES, Series};
use self::machine::{Accelerator, Machine};
use self::matrix::Scope;
use self::report::{Ran, Row};
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
    /// Let the agent load this kernel half instead of its own, for instance one with a fault, which a test must notice
    #[arg(long, value_name = "FILE")]
    object: Option<PathBuf>,
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
    let object = options.object.as_deref().map(std::path::absolute).transpose()?;
    let rows = plan.run(repo, &agent, object.as_deref())?;
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
    let rows = plan.run(repo, &agent, None)?;
    let sum = |count: fn(&Row) -> usize| rows.iter().map(count).sum();
    counts(sum(Row::passed), sum(Row::not_passed));
    verdict(repo, &rows)
}

/// Has the directory of machines to itself until the file is dropped: what is packed there is of this run alone.
fn take_directory(repo: &Repo) -> Result<File> {
    fs::create_dir_all(repo.vm_dir())?;
    let lock = File::create(repo.vm_dir().join("lock"))?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            println!("  another run of machines goes on in this checkout; waiting for its end");
            lock.lock()?;
        }
        Err(TryLockError::Error(error)) => return Err(error.into()),
    }
    Ok(lock)
}

impl Plan<'_> {
    /// Runs the machines, shows how they went, and the table of all.
    fn run(&self, repo: &Repo, agent: &Path, object: Option<&Path>) -> Result<Vec<Row>> {
        let _directory = take_directory(repo)?;
        let fetch = |series: &&'static Series| {
            // The others may be there, if one is not.
            Kernel::fetch(repo, series, self.freshness).inspect_err(|error| println!("  {error:#}"))
        };
        let kernels: Vec<_> = self.kernels.iter().map(fetch).collect();
        if kernels.iter().all(Result::is_err) {
            return Ok(self.rows(&kernels, Vec::new()));
        }
        let image = Image::pack(repo, agent, object)?;
        let tests = self.scope.select(image.tests())?;
        let jobs = self.jobs(&kernels, &tests);
        let outcomes = self.machines(repo, &image, &jobs)?;
        let rows = self.rows(&kernels, outcomes);
        print!("\n{}", report::table(&rows));
        Ok(rows)
    }

    /// Runs all machines: what became of each, with its kernel's place among those asked for.
    fn machines(&self, repo: &Repo, image: &Image, jobs: &[Job<'_>]) -> Result<Vec<(usize, Ran)>> {
        let Some(first) = jobs.first() else {
            return Ok(Vec::new());
        };
        let accelerator = match self.acceleration {
            Acceleration::Tcg => Accelerator::Tcg,
            Acceleration::Kvm => Accelerator::Kvm,
            Acceleration::Auto => machine::choose(&self.machine(repo, image, first)?),
        };
        let prepared = jobs.iter().map(|job| Ok((job, self.machine(repo, image, job)?)));
        fleet::run(prepared, fleet::cores(), |(job, machine)| {
            let begun = Instant::now();
            let outcome = machine.run(accelerator)?;
            // As large as everything that is packed, and made anew each time.
            fs::remove_file(&machine.initrd)?;
            let took = begun.elapsed();
            Ok((job.row, Ran { outcome, took }))
        })
    }

    /// What each machine is to do.
    fn jobs<'k>(&self, kernels: &'k [Result<Kernel>], tests: &[String]) -> Vec<Job<'k>> {
        let tested = self.kernels.iter().zip(kernels);
        let tested = tested.filter(|(series, kernel)| series.expects == Expects::Tests && kernel.is_ok());
        let machines = fleet::machines_for_each(tested.count(), fleet::cores());
        let mut jobs = Vec::new();
        for (row, (series, kernel)) in self.kernels.iter().zip(kernels).enumerate() {
            let Ok(kernel) = kernel else { continue };
            let tasks = match series.expects {
                Expects::Tests => fleet::deal(tests, machines)
                    .into_iter()
                    .map(Task::Tests)
                    .collect(),
                Expects::Refusal => vec![Task::Refusal],
            };
            let alone = tasks.len() == 1;
            jobs.extend(tasks.into_iter().zip(1..).map(|(task, number)| Job {
                name: match alone {
                    true => series.name.to_owned(),
                    false => format!("{}-{number}", series.name),
                },
                row,
                kernel,
                task,
            }));
        }
        jobs
    }

    /// The machine of a job, with everything that it boots from.
    fn machine<'j>(&self, repo: &Repo, image: &Image, job: &'j Job<'_>) -> Result<Machine<'j>> {
        let pace = Pace {
            patience: SLOWER,
            divisor: SLOWER,
            // One that hangs leaves time for the others.
            limit: self.timeout / 4,
        };
        let log = |what: &str| repo.vm_dir().join(format!("{what}-{}.log", job.name));
        Ok(Machine {
            name: &job.name,
            kernel: job.kernel,
            initrd: image.for_machine(&job.name, job.kernel, &job.task, &pace)?,
            task: &job.task,
            log: log("console"),
            kernel_log: log("kernel"),
            timeout: self.timeout,
        })
    }

    /// A row for each kernel that was asked for.
    fn rows(&self, kernels: &[Result<Kernel>], outcomes: Vec<(usize, Ran)>) -> Vec<Row> {
        let mut rows: Vec<_> = self
            .kernels
            .iter()
            .zip(kernels)
            .map(|(series, kernel)| match kernel {
                Ok(kernel) => Row::new(series.name, &kernel.release),
                Err(error) => Row::without_kernel(series.name, error),
            })
            .collect();
        for (row, ran) in outcomes {
            rows[row].add(ran);
        }
        rows
    }
}

/// What one machine is to do.
struct Job<'k> {
    /// Of its lines, its files and its logs.
    name: String,
    /// The place of its kernel among those that were asked for.
    row: usize,
    kernel: &'k Kernel,
    task: Task,
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
