//! The integration tests on stock distribution kernels, each in a virtual machine: `cargo xtask vm-test`.
//!
//! [`kernel`] fetches kernels, [`image`] packs one file system for all of them, [`machine`] boots and watches. Nothing is
//! installed and no disk is written: a machine is a kernel, an initial file system in memory, and a console.
//!
//! Invariant: a machine that does not say how its tests ended has failed.

mod image;
mod kernel;
mod machine;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use self::image::Image;
use self::kernel::{Kernel, SERIES, Series};
use self::machine::{Accelerator, Machine, Outcome};
use crate::compile::Profile;
use crate::repo::Repo;
use crate::{compile, ebpf, setup};

#[derive(clap::Args)]
pub(crate) struct Options {
    /// Which kernel: 5.10, 6.1, 6.12, 6.18, 7.x, or all of them
    #[arg(long, default_value = "6.1", value_name = "SERIES")]
    kernel: String,
    /// How the machine is run: emulated, by the processor, or by the processor where that works
    #[arg(long, value_enum, default_value_t = Acceleration::Auto)]
    accel: Acceleration,
    /// Fetch the newest kernel of the series even if there is one already
    #[arg(long)]
    refresh: bool,
    /// Test this agent; without it, a release build
    #[arg(long, value_name = "FILE")]
    agent: Option<PathBuf>,
    /// How long one machine may take
    #[arg(long, default_value_t = 900, value_name = "SECONDS")]
    timeout: u64,
    /// Write the report to this file, as JSON
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Only tests whose name contains this
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

/// What became of one kernel.
struct Row {
    series: &'static Series,
    release: String,
    outcome: Outcome,
    took: Duration,
}

/// Runs `cargo xtask vm-test`.
pub(crate) fn command(repo: &Repo, options: &Options) -> Result<()> {
    let wanted = series(&options.kernel)?;
    setup::ensure(repo)?;
    ebpf::build(repo)?;
    let agent = match &options.agent {
        Some(agent) => std::path::absolute(agent)?,
        None => compile::agent(repo, Profile::Release)?,
    };
    let image = Image::pack(repo, &agent)?;
    let mut rows = Vec::new();
    for series in wanted {
        println!("\nLinux {}", series.name);
        let kernel = Kernel::fetch(repo, series, options.refresh)?;
        println!("  {}", kernel.release);
        let initrd = image.with_modules(&kernel)?;
        let begun = Instant::now();
        let machine = Machine {
            kernel: &kernel,
            initrd: &initrd,
            task: series.task(options.filter.as_deref()),
            log: repo.vm_dir().join(format!("console-{}.log", series.name)),
            timeout: Duration::from_secs(options.timeout),
        };
        let outcome = match options.accel {
            Acceleration::Tcg => machine.run(Accelerator::Tcg)?,
            Acceleration::Kvm => machine.run(Accelerator::Kvm)?,
            Acceleration::Auto if machine::kvm_works(&machine) => machine.run(Accelerator::Kvm)?,
            Acceleration::Auto => machine.run(Accelerator::Tcg)?,
        };
        rows.push(Row {
            series,
            release: kernel.release.clone(),
            outcome,
            took: begun.elapsed(),
        });
    }
    print!("\n{}", table(&rows));
    if let Some(file) = &options.json {
        let text = serde_json::to_string_pretty(&report(&rows))?;
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
    }
    let failed: Vec<_> = rows.iter().filter(|row| !row.outcome.is_good()).collect();
    if failed.is_empty() {
        return Ok(());
    }
    for row in &failed {
        for name in &row.outcome.failures {
            eprintln!("  {}: {name}", row.series.name);
        }
    }
    bail!(
        "{} of {} kernels failed; their consoles are in {}",
        failed.len(),
        rows.len(),
        repo.vm_dir().display()
    )
}

fn series(asked: &str) -> Result<Vec<&'static Series>> {
    if asked == "all" {
        return Ok(SERIES.iter().collect());
    }
    match SERIES.iter().find(|series| series.name == asked) {
        Some(series) => Ok(vec![series]),
        None => {
            let names: Vec<_> = SERIES.iter().map(|series| series.name).collect();
            bail!("no kernel `{asked}`: choose one of {}, or all", names.join(", "))
        }
    }
}

fn table(rows: &[Row]) -> String {
    let mut text = format!(
        "{:<8}{:<34}{:<16}{:>7}{:>8}{:>9}\n",
        "KERNEL", "RELEASE", "OUTCOME", "PASSED", "FAILED", "SECONDS"
    );
    for row in rows {
        text += &format!(
            "{:<8}{:<34}{:<16}{:>7}{:>8}{:>9.0}\n",
            row.series.name,
            row.release,
            row.outcome.word(),
            row.outcome.passed,
            row.outcome.failures.len(),
            row.took.as_secs_f64()
        );
    }
    text
}

fn report(rows: &[Row]) -> serde_json::Value {
    let rows = rows.iter().map(|row| {
        serde_json::json!({
            "kernel": row.series.name,
            "release": row.release,
            "accelerator": row.outcome.accelerator.name(),
            "outcome": row.outcome.word(),
            "passed": row.outcome.passed,
            "failures": row.outcome.failures,
            "seconds": row.took.as_secs_f64(),
        })
    });
    serde_json::json!({ "kernels": rows.collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_is_chosen_by_its_series() {
        assert_eq!(series("all").unwrap().len(), SERIES.len());
        assert_eq!(series("6.12").unwrap()[0].name, "6.12");
        assert!(series("2.6").err().unwrap().to_string().contains("6.18"));
    }
}
